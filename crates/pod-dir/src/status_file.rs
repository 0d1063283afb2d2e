//! `status.json`: what the shim says of its pod, written whole after each change and read by everybody.

use killick_pod::spec::Pod;
use killick_pod::status::PodStatus;
use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusFile {
    pub version: u32,
    /// Set when the pod is being deleted: the time by which it is to be gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_grace_period_seconds: Option<i64>,
    pub status: PodStatus,
}

impl StatusFile {
    pub fn new(status: PodStatus) -> StatusFile {
        StatusFile { version: VERSION, deletion_timestamp: None, deletion_grace_period_seconds: None, status }
    }

    /// Puts the deletion into the pod's metadata, where the API has it.
    pub fn apply_to(&self, pod: &mut Pod) {
        if self.deletion_timestamp.is_some() {
            pod.metadata.deletion_timestamp.clone_from(&self.deletion_timestamp);
            pod.metadata.deletion_grace_period_seconds = self.deletion_grace_period_seconds;
        }
    }
}
