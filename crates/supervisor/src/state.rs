//! What a new shim must know to take a running pod over; read with suspicion, and a cache where the kernel knows
//! better. `state.json` is written whole after each step, before the step's actions begin; what never changes in a
//! container's life, and is large, stands in a file of its own, `container-<kind>-<index>.json`.

use std::path::PathBuf;

use killick_container::cgroup::Cgroup;
use killick_container::sandbox::SandboxRecord;
use killick_network::PodNetwork;
use killick_pod::event::{Attempt, ContainerId};
use killick_pod::machine::Snapshot;
use killick_pod::spec::Pod;
use killick_pod_dir::PodDir;
use killick_pod_dir::file::{Durability, read_json, write_json};
use killick_volume::Prepared;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub machine: Snapshot,
    pub sandbox: Option<SandboxState>,
    pub volumes: Vec<Prepared>,
    /// Containers whose start the machine has been told.
    pub started: Vec<Attempt>,
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
}

/// The file of a container's present attempt.
pub fn container_path(dir: &PodDir, container: ContainerId) -> PathBuf {
    let name = match container {
        ContainerId::Init(index) => format!("container-init-{index}.json"),
        ContainerId::Regular(index) => format!("container-{index}.json"),
    };
    dir.run_dir().join(name)
}

pub fn write_container(dir: &PodDir, state: &ContainerState) -> Result<(), String> {
    let path = container_path(dir, state.attempt.container);
    write_json(&path, state, 0o600, Durability::Volatile).map_err(|error| error.to_string())
}

pub fn remove_container(dir: &PodDir, container: ContainerId) {
    // Not there: it never came to its gate, or its pod is being removed.
    let _ = std::fs::remove_file(container_path(dir, container));
}

/// The containers that were made and not seen off. A file that cannot be read is its container's loss only.
pub fn read_containers(dir: &PodDir, pod: &Pod) -> Vec<Result<ContainerState, String>> {
    let inits = (0..pod.spec.init_containers.len()).map(ContainerId::Init);
    let regulars = (0..pod.spec.containers.len()).map(ContainerId::Regular);
    let mut states = Vec::new();
    for id in inits.chain(regulars) {
        match read_json::<ContainerState>(&container_path(dir, id)) {
            Ok(state) if state.attempt.container == id => states.push(Ok(state)),
            Ok(state) => states.push(Err(format!("the file of {id:?} holds {:?}", state.attempt.container))),
            Err(error) if error.is_not_found() => {}
            Err(error) => states.push(Err(error.to_string())),
        }
    }
    states
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
