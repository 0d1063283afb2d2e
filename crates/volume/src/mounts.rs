//! Which volumes a container sees, where and how.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use killick_pod::spec::{Container, MountPropagation};

use crate::prepare::Prepared;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecursiveReadOnly {
    Disabled,
    IfPossible,
    Enabled,
}

/// One bind mount. `source` is an `O_PATH` descriptor of exactly what was checked: bind it from `/proc/self/fd/N`.
#[derive(Debug)]
pub struct BindMount {
    pub volume: String,
    pub source: OwnedFd,
    /// A directory, else a file: what a missing mount point must be.
    pub is_dir: bool,
    pub destination: PathBuf,
    pub read_only: bool,
    pub recursive_read_only: RecursiveReadOnly,
    pub propagation: MountPropagation,
}

/// The container's mounts in the order to make them, parents before what lies below. `env` is the container's resolved
/// environment, for `subPathExpr`. The error is the text of a `CreateContainerConfigError`.
pub fn mounts(
    container: &Container,
    prepared: &[Prepared],
    env: &[(String, String)],
) -> Result<Vec<BindMount>, String> {
    let _ = (prepared, env);
    match container.volume_mounts.first() {
        None => Ok(Vec::new()),
        Some(mount) => {
            Err(format!("cannot find volume \"{}\" to mount into container \"{}\"", mount.name, container.name))
        }
    }
}
