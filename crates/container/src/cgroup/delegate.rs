//! A v2 cgroup given to the root of a container's user namespace (runtime-spec, "Cgroup ownership"): it may make groups
//! of its own below, and move its processes about in them; the limits stay ours.

use super::{Cgroup, CgroupError, CgroupFileError};
use std::os::unix::fs::chown;

/// What the kernel says that may be given.
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";
/// Before 4.15 it does not say.
const ALWAYS: &str = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n";

impl Cgroup {
    /// Gives the directory and the files that may be given; `uid` is the host's. v1 has nothing that is safe to give.
    pub fn delegate(&self, uid: u32) -> Result<(), CgroupError> {
        let Some(dir) = self.unified_dir().filter(|_| self.layout().is_v2()) else { return Ok(()) };
        let listed = std::fs::read_to_string(DELEGATE).unwrap_or_else(|_| ALWAYS.into());
        let own = |path: std::path::PathBuf| {
            chown(&path, Some(uid), None).map_err(|source| CgroupFileError {
                call: "chown",
                path,
                value: Some(uid.to_string()),
                source,
            })
        };
        own(dir.clone())?;
        for name in listed.lines().filter(|name| !name.is_empty() && !name.contains('/')) {
            match own(dir.join(name)) {
                // Of a controller that is not enabled here.
                Err(error) if error.errno() == nix::errno::Errno::ENOENT => {}
                other => other?,
            }
        }
        Ok(())
    }
}
