//! What a scheduler would read. One node has nothing to choose, but a misspelt field is still an error.

use super::Kind::{Enum, Int32, Int64, List, Map, Object, Text};
use super::{Table, ignored};

pub(super) static AFFINITY: Table = Table {
    fields: &[
        ignored("nodeAffinity", Object(&NODE_AFFINITY)),
        ignored("podAffinity", Object(&POD_AFFINITY)),
        ignored("podAntiAffinity", Object(&POD_AFFINITY)),
    ],
};

static NODE_AFFINITY: Table = Table {
    fields: &[
        ignored("requiredDuringSchedulingIgnoredDuringExecution", Object(&NODE_SELECTOR)),
        ignored("preferredDuringSchedulingIgnoredDuringExecution", List(&Object(&PREFERRED_NODE))),
    ],
};

static NODE_SELECTOR: Table = Table { fields: &[ignored("nodeSelectorTerms", List(&Object(&NODE_TERM)))] };

static PREFERRED_NODE: Table = Table { fields: &[ignored("weight", Int32), ignored("preference", Object(&NODE_TERM))] };

static NODE_TERM: Table = Table {
    fields: &[
        ignored("matchExpressions", List(&Object(&REQUIREMENT))),
        ignored("matchFields", List(&Object(&REQUIREMENT))),
    ],
};

static REQUIREMENT: Table = Table {
    fields: &[
        ignored("key", Text),
        ignored("operator", Enum(&["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"])),
        ignored("values", List(&Text)),
    ],
};

static POD_AFFINITY: Table = Table {
    fields: &[
        ignored("requiredDuringSchedulingIgnoredDuringExecution", List(&Object(&POD_TERM))),
        ignored("preferredDuringSchedulingIgnoredDuringExecution", List(&Object(&PREFERRED_POD))),
    ],
};

static PREFERRED_POD: Table =
    Table { fields: &[ignored("weight", Int32), ignored("podAffinityTerm", Object(&POD_TERM))] };

static POD_TERM: Table = Table {
    fields: &[
        ignored("labelSelector", Object(&LABEL_SELECTOR)),
        ignored("namespaceSelector", Object(&LABEL_SELECTOR)),
        ignored("namespaces", List(&Text)),
        ignored("topologyKey", Text),
        ignored("matchLabelKeys", List(&Text)),
        ignored("mismatchLabelKeys", List(&Text)),
    ],
};

static LABEL_SELECTOR: Table =
    Table { fields: &[ignored("matchLabels", Map(&Text)), ignored("matchExpressions", List(&Object(&REQUIREMENT)))] };

pub(super) static TOLERATION: Table = Table {
    fields: &[
        ignored("key", Text),
        ignored("operator", Enum(&["Equal", "Exists", "Gt", "Lt"])),
        ignored("value", Text),
        ignored("effect", Enum(&["NoExecute", "NoSchedule", "PreferNoSchedule"])),
        ignored("tolerationSeconds", Int64),
    ],
};

pub(super) static TOPOLOGY_SPREAD: Table = Table {
    fields: &[
        ignored("maxSkew", Int32),
        ignored("minDomains", Int32),
        ignored("topologyKey", Text),
        ignored("whenUnsatisfiable", Enum(&["DoNotSchedule", "ScheduleAnyway"])),
        ignored("labelSelector", Object(&LABEL_SELECTOR)),
        ignored("matchLabelKeys", List(&Text)),
        ignored("nodeAffinityPolicy", Enum(&["Honor", "Ignore"])),
        ignored("nodeTaintsPolicy", Enum(&["Honor", "Ignore"])),
    ],
};
