//! One container: what runs, with which environment, resources and rights.

use super::Kind::{Bool, Enum, Int32, Int64, List, Map, Object, Quantity, Text};
use super::probe::{LIFECYCLE, PROBE};
use super::volume::VOLUME_MOUNT;
use super::{Table, field, ignored, refused};

pub(super) static CONTAINER: Table = Table {
    fields: &[
        field("name", Text),
        field("image", Text),
        field("imagePullPolicy", Enum(&["Always", "IfNotPresent", "Never"])),
        field("command", List(&Text)),
        field("args", List(&Text)),
        field("workingDir", Text),
        field("env", List(&Object(&ENV))),
        field("envFrom", List(&Object(&ENV_FROM))),
        field("ports", List(&Object(&PORT))),
        field("resources", Object(&RESOURCES)),
        field("volumeMounts", List(&Object(&VOLUME_MOUNT))),
        field("livenessProbe", Object(&PROBE)),
        field("readinessProbe", Object(&PROBE)),
        field("startupProbe", Object(&PROBE)),
        field("lifecycle", Object(&LIFECYCLE)),
        field("restartPolicy", Enum(&["Always", "Never", "OnFailure"])),
        field("securityContext", Object(&SECURITY_CONTEXT)),
        field("stdin", Bool),
        field("stdinOnce", Bool),
        field("tty", Bool),
        field("terminationMessagePath", Text).or_text("/dev/termination-log"),
        field("terminationMessagePolicy", Enum(&["FallbackToLogsOnError", "File"])).or_text("File"),
        refused("volumeDevices", "block volumes"),
        refused("resizePolicy", "resizing in place"),
        refused("restartPolicyRules", "restart rules"),
    ],
};

static PORT: Table = Table {
    fields: &[
        field("name", Text),
        field("containerPort", Int32),
        field("hostPort", Int32),
        field("hostIP", Text),
        field("protocol", Enum(&["SCTP", "TCP", "UDP"])).or_text("TCP"),
    ],
};

static ENV: Table =
    Table { fields: &[field("name", Text), field("value", Text), field("valueFrom", Object(&ENV_SOURCE))] };

static ENV_SOURCE: Table = Table {
    fields: &[
        field("fieldRef", Object(&FIELD_REF)),
        field("resourceFieldRef", Object(&RESOURCE_FIELD_REF)),
        field("configMapKeyRef", Object(&KEY_REF)),
        field("secretKeyRef", Object(&KEY_REF)),
        refused("fileKeyRef", "variables from files"),
    ],
};

static FIELD_REF: Table = Table { fields: &[field("apiVersion", Text).or_text("v1"), field("fieldPath", Text)] };

static RESOURCE_FIELD_REF: Table =
    Table { fields: &[field("containerName", Text), field("resource", Text), field("divisor", Quantity).or_text("0")] };

static KEY_REF: Table = Table { fields: &[field("name", Text), field("key", Text), field("optional", Bool)] };

static ENV_FROM: Table = Table {
    fields: &[
        field("prefix", Text),
        field("configMapRef", Object(&OBJECT_REF)),
        field("secretRef", Object(&OBJECT_REF)),
    ],
};

static OBJECT_REF: Table = Table { fields: &[field("name", Text), field("optional", Bool)] };

static RESOURCES: Table = Table {
    fields: &[field("limits", Map(&Quantity)), field("requests", Map(&Quantity)), refused("claims", "resource claims")],
};

static SECURITY_CONTEXT: Table = Table {
    fields: &[
        field("runAsUser", Int64),
        field("runAsGroup", Int64),
        field("runAsNonRoot", Bool),
        field("privileged", Bool),
        field("allowPrivilegeEscalation", Bool),
        field("readOnlyRootFilesystem", Bool),
        field("capabilities", Object(&CAPABILITIES)),
        field("seccompProfile", Object(&PROFILE)),
        field("procMount", Enum(&["Default", "Unmasked"])),
        ignored("appArmorProfile", Object(&PROFILE)),
        refused("seLinuxOptions", "SELinux labels"),
        refused("windowsOptions", "Windows options"),
    ],
};

static CAPABILITIES: Table = Table { fields: &[field("add", List(&Text)), field("drop", List(&Text))] };

/// A seccomp or AppArmor profile.
pub(super) static PROFILE: Table = Table {
    fields: &[field("type", Enum(&["Localhost", "RuntimeDefault", "Unconfined"])), field("localhostProfile", Text)],
};
