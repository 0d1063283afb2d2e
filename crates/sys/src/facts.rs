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
    /// `execveat` (3.19): a program run by its descriptor where no /proc is in sight.
    pub execveat: bool,
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
            cgroup_namespace: has_cgroup_namespaces(),
            execveat: crate::execute::has_execveat(),
        }
    }

    /// For kernels before 5.2, and for tests of the classic way.
    pub fn classic() -> Self {
        Self { pidfd: false, setns_by_pidfd: false, detached_mounts: false, cgroup_namespace: false, execveat: false }
    }
}

/// Joining one's own changes nothing; a user namespace may lack the right to do even that.
fn has_cgroup_namespaces() -> bool {
    ns::open_own(NamespaceKind::Cgroup)
        .and_then(|own| ns::join(own.as_fd(), NamespaceKind::Cgroup))
        .map_or_else(|error| error.errno() == Errno::EPERM, |()| true)
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
