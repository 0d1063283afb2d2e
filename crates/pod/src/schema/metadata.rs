//! `metadata`, and the objects that are little more than it: ConfigMap, Secret, List.

use super::Kind::{Any, Bool, Int64, List, Map, Object, Text};
use super::{Table, field, ignored, refused};

pub static CONFIG_MAP: Table = Table {
    fields: &[
        field("apiVersion", Text),
        field("kind", Text),
        field("metadata", Object(&METADATA)),
        field("data", Map(&Text)),
        field("binaryData", Map(&Text)),
        field("immutable", Bool),
    ],
};

pub static SECRET: Table = Table {
    fields: &[
        field("apiVersion", Text),
        field("kind", Text),
        field("metadata", Object(&METADATA)),
        field("data", Map(&Text)),
        field("stringData", Map(&Text)),
        field("type", Text),
        field("immutable", Bool),
    ],
};

pub static LIST: Table = Table {
    fields: &[field("apiVersion", Text), field("kind", Text), ignored("metadata", Any), field("items", List(&Any))],
};

/// What the API server sets itself (uid, timestamps, …) is accepted and dropped: it is in every exported manifest.
pub(super) static METADATA: Table = Table {
    fields: &[
        field("name", Text),
        field("namespace", Text),
        field("labels", Map(&Text)),
        field("annotations", Map(&Text)),
        refused("generateName", "a generated name"),
        ignored("selfLink", Text),
        ignored("uid", Text),
        ignored("resourceVersion", Text),
        ignored("generation", Int64),
        ignored("creationTimestamp", Text),
        ignored("deletionTimestamp", Text),
        ignored("deletionGracePeriodSeconds", Int64),
        ignored("ownerReferences", List(&Object(&OWNER_REFERENCE))),
        ignored("finalizers", List(&Text)),
        ignored("managedFields", List(&Any)),
    ],
};

static OWNER_REFERENCE: Table = Table {
    fields: &[
        ignored("apiVersion", Text),
        ignored("kind", Text),
        ignored("name", Text),
        ignored("uid", Text),
        ignored("controller", Bool),
        ignored("blockOwnerDeletion", Bool),
    ],
};
