//! What this kernel can do, found out once by trying; never by its version, which lies on enterprise kernels and says
//! nothing of a sandbox around us.

use crate::error::Result;
use crate::mount::{self, MountAttr, NewFilesystem};
use crate::ns::{self, NamespaceKind};
use crate::pidfd::PidFd;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::path::Path;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `pidfd_open` (5.3).
    pub pidfd: bool,
    /// Several namespaces by one `setns(pidfd)` (5.8).
    pub setns_by_pidfd: bool,
    /// `fsopen`, `open_tree`, `move_mount` (5.2) and `mount_setattr` (5.12): mounts made detached, moved by descriptor.
    pub detached_mounts: bool,
    /// Cgroup namespaces (4.6).
    pub cgroup_namespace: bool,
}

impl Facts {
    /// A dozen harmless calls; needs root for the true answer about mounts.
    pub fn detect() -> Self {
        let own = PidFd::open(nix::unistd::getpid().as_raw());
        let pidfd = own.as_ref().ok().and_then(PidFd::as_fd);
        Self {
            pidfd: pidfd.is_some(),
            // Joining one's own namespace changes nothing.
            setns_by_pidfd: pidfd.is_some_and(|pidfd| ns::join_by_pidfd(pidfd, &[NamespaceKind::Uts]).is_ok()),
            detached_mounts: has_detached_mounts().is_ok(),
            cgroup_namespace: ns::open_own(NamespaceKind::Cgroup).is_ok(),
        }
    }

    /// For kernels before 5.2, and for tests of the classic way.
    pub fn classic() -> Self {
        Self { pidfd: false, setns_by_pidfd: false, detached_mounts: false, cgroup_namespace: false }
    }
}

fn has_detached_mounts() -> Result<()> {
    let tree = NewFilesystem::open("tmpfs")?.mount(0)?;
    mount::set_attributes(tree.as_fd(), true, MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() })?;
    mount::clone_tree(None, Path::new("/"), false)?;
    // Refused calls are what is asked for; a bad argument says that the call is there.
    match mount::move_mount_to(tree.as_fd(), Path::new("/nonexistent/of/killick")) {
        Err(error) if error.errno() == Errno::ENOENT => Ok(()),
        other => other,
    }
}
