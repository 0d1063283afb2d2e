//! What a killed shim leaves, and `delete` finds: a file in the bundle, written before there is anything to find.

use std::path::{Path, PathBuf};

use killick_container::cgroup::Cgroup;
use serde::{Deserialize, Serialize};

const FILE: &str = "killick.json";
const VERSION: u32 = 1;
/// Read with suspicion: no such file of ours is longer.
const BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Left {
    version: u32,
    /// Zero: not born yet, or nobody knows.
    pub pid: i32,
    pub start_time: u64,
    pub cgroup: Cgroup,
    /// The shim's socket.
    pub socket: PathBuf,
}

impl Left {
    pub fn new(cgroup: &Cgroup, socket: &Path) -> Left {
        Left { version: VERSION, pid: 0, start_time: 0, cgroup: cgroup.clone(), socket: socket.to_owned() }
    }

    pub fn write(&self, bundle: &Path) -> Result<(), String> {
        let text = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        let (new, path) = (bundle.join(format!(".{FILE}.new")), bundle.join(FILE));
        std::fs::write(&new, text).map_err(|error| format!("write {}: {error}", new.display()))?;
        std::fs::rename(&new, &path).map_err(|error| format!("rename to {}: {error}", path.display()))
    }

    /// None: there is none, or none that can be believed.
    pub fn read(bundle: &Path) -> Option<Left> {
        let path = bundle.join(FILE);
        let is_short = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= BYTES_MAX);
        let text = is_short.then(|| std::fs::read(&path).ok()).flatten()?;
        serde_json::from_slice::<Left>(&text).ok().filter(|left| left.version == VERSION)
    }
}

/// What a container of CRI's is, by the annotations of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kubernetes {
    pub is_sandbox: bool,
    pub sandbox_id: Option<String>,
    /// Containers of one group share a shim.
    pub group: Option<String>,
}

impl Kubernetes {
    /// Reads no more of the bundle's config.json than it needs. Without one (the Sandbox API) nothing is known.
    pub fn read(bundle: &Path) -> Result<Kubernetes, String> {
        #[derive(Deserialize)]
        struct Annotated {
            annotations: Option<std::collections::BTreeMap<String, String>>,
        }
        let path = bundle.join("config.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Kubernetes::default()),
            Err(error) => return Err(format!("read {}: {error}", path.display())),
        };
        let found: Annotated = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let annotations = found.annotations.unwrap_or_default();
        Ok(Kubernetes::of(|name| annotations.get(name).cloned()))
    }

    pub fn of(annotation: impl Fn(&str) -> Option<String>) -> Kubernetes {
        let sandbox_id = annotation("io.kubernetes.cri.sandbox-id");
        let group = annotation("io.containerd.runc.v2.group").or_else(|| sandbox_id.clone());
        let is_sandbox = annotation("io.kubernetes.cri.container-type").as_deref() == Some("sandbox");
        Kubernetes { is_sandbox, sandbox_id, group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_a_pod_share_a_shim() {
        let of = |pairs: &[(&str, &str)]| {
            Kubernetes::of(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[]), Kubernetes::default());
        let pod = ("io.kubernetes.cri.sandbox-id", "s1");
        let app = of(&[pod, ("io.kubernetes.cri.container-type", "container")]);
        assert_eq!((app.group.as_deref(), app.is_sandbox), (Some("s1"), false));
        let sandbox = of(&[pod, ("io.kubernetes.cri.container-type", "sandbox")]);
        assert_eq!((sandbox.sandbox_id.as_deref(), sandbox.is_sandbox), (Some("s1"), true));
        let named = of(&[pod, ("io.containerd.runc.v2.group", "g")]);
        assert_eq!(named.group.as_deref(), Some("g"));
    }
}
