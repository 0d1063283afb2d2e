//! `MountVolume.SetUp`: what a pod declares becomes a directory, a tmpfs or a checked path of the host.

use std::path::PathBuf;
use std::time::SystemTime;

use killick_pod::spec::{DataKind, DataObject, Pod, Volume};
use serde::{Deserialize, Serialize};

/// The pod's directory, `/var/lib/killick/pods/<uid>`: volumes live in `volumes/` below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirs {
    pub pod: PathBuf,
}

/// What a volume needs to know besides its declaration.
#[expect(missing_debug_implementations, reason = "holds a function")]
pub struct Surroundings<'a> {
    pub dirs: &'a Dirs,
    /// Looks a ConfigMap or Secret up: kind, namespace, name.
    pub objects: &'a dyn Fn(DataKind, &str, &str) -> Option<DataObject>,
    pub node_memory_bytes: u64,
    pub now: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    EmptyDir,
    /// emptyDir with `medium: Memory`.
    Tmpfs,
    HostPath,
    ConfigMap,
    Secret,
}

/// A volume that is ready; kept in state.json, so that a restarted shim computes the same mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub volume: String,
    pub kind: Kind,
    /// The volume's root on the host.
    pub path: PathBuf,
}

/// The error is the text after `MountVolume.SetUp failed for volume "v" : `. Doing it again is harmless.
pub fn prepare(pod: &Pod, volume: &Volume, around: &Surroundings<'_>) -> Result<Prepared, String> {
    let _ = (pod, around);
    Err(format!("volume \"{}\" has no known kind", volume.name))
}
