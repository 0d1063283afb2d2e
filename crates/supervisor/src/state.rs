//! `state.json`: what a new shim must know to take a running pod over. Written whole after each step, before the
//! step's actions begin; read with suspicion, and a cache where the kernel knows better.

use killick_container::cgroup::Cgroup;
use killick_container::sandbox::SandboxRecord;
use killick_network::PodNetwork;
use killick_pod::event::{Attempt, ContainerId};
use killick_pod::machine::Snapshot;
use killick_volume::Prepared;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub machine: Snapshot,
    pub sandbox: Option<SandboxState>,
    pub volumes: Vec<Prepared>,
    pub containers: Vec<ContainerState>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxState {
    pub attempt: u32,
    pub record: SandboxRecord,
    pub network: Option<PodNetwork>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    pub attempt: Attempt,
    pub record: killick_container::Record,
    pub cgroup: Cgroup,
    pub image_id: String,
    pub stop_signal: i32,
    /// Its output is a terminal's, not two pipes'.
    pub terminal: bool,
    /// The machine has been told.
    pub started: bool,
}

/// The number under which keep holds a stream of a container's attempt.
pub fn keep_key(attempt: Attempt, stderr: bool) -> u64 {
    let (kind, index) = match attempt.container {
        ContainerId::Init(index) => (0, index),
        ContainerId::Regular(index) => (1, index),
    };
    kind << 63 | (index as u64 & 0x3fff_ffff) << 33 | u64::from(attempt.number) << 1 | u64::from(stderr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_of_each_attempt_has_its_own_key() {
        let ids = [ContainerId::Init(0), ContainerId::Init(1), ContainerId::Regular(0), ContainerId::Regular(1)];
        let mut keys: Vec<u64> = Vec::new();
        for container in ids {
            for number in [0, 1, u32::MAX] {
                for stderr in [false, true] {
                    keys.push(keep_key(Attempt { container, number }, stderr));
                }
            }
        }
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
