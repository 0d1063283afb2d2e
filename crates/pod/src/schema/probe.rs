//! Probes, lifecycle hooks, and their handlers.

use super::Kind::{Enum, Int32, Int64, IntOrText, List, Object, Text};
use super::pod::NAME_VALUE;
use super::{Preset, Table, field, refused};

pub(super) static PROBE: Table = Table {
    fields: &[
        field("exec", Object(&EXEC)),
        field("httpGet", Object(&HTTP_GET)),
        field("tcpSocket", Object(&TCP_SOCKET)),
        refused("grpc", "probes by gRPC"),
        field("initialDelaySeconds", Int32),
        field("timeoutSeconds", Int32).or(Preset::Positive(1)),
        field("periodSeconds", Int32).or(Preset::Positive(10)),
        field("successThreshold", Int32).or(Preset::Positive(1)),
        field("failureThreshold", Int32).or(Preset::Positive(3)),
        field("terminationGracePeriodSeconds", Int64),
    ],
};

pub(super) static LIFECYCLE: Table = Table {
    fields: &[
        field("postStart", Object(&HOOK)),
        field("preStop", Object(&HOOK)),
        refused("stopSignal", "a stop signal other than the image's"),
    ],
};

static HOOK: Table = Table {
    fields: &[
        field("exec", Object(&EXEC)),
        field("httpGet", Object(&HTTP_GET)),
        field("tcpSocket", Object(&TCP_SOCKET)),
        field("sleep", Object(&SLEEP)),
    ],
};

static EXEC: Table = Table { fields: &[field("command", List(&Text))] };

static HTTP_GET: Table = Table {
    fields: &[
        field("path", Text).or_text("/"),
        field("port", IntOrText),
        field("host", Text),
        field("scheme", Enum(&["HTTP", "HTTPS"])).or_text("HTTP"),
        field("httpHeaders", List(&Object(&NAME_VALUE))),
    ],
};

static TCP_SOCKET: Table = Table { fields: &[field("port", IntOrText), field("host", Text)] };

static SLEEP: Table = Table { fields: &[field("seconds", Int64)] };
