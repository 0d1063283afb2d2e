//! What this kernel can do, found out once by trying; never by its version, which lies on enterprise kernels and says
//! nothing of a sandbox around us.

use crate::error::Result;
use crate::mount::{self, MountAttr, NewFilesystem};
use crate::ns::{self, NamespaceKind};
use crate::pidfd::PidFd;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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

/// Every call or flag that has another way here on older kernels, and whether this kernel (or the sandbox around us) has
/// it: found by trying, each with arguments that change nothing. For people; what is done is decided where it is done.
pub fn survey() -> BTreeMap<&'static str, bool> {
    let facts = Facts::detect();
    let mut survey = BTreeMap::from([
        ("ambient_capabilities", crate::caps::has_ambient()),
        ("cgroup_namespace", facts.cgroup_namespace),
        ("close_range", crate::fd::has_close_range()),
        ("detached_mounts", facts.detached_mounts),
        ("device_programs", crate::bpf::is_available()),
        ("execveat", facts.execveat),
        ("pidfd", facts.pidfd),
        ("seccomp_flags", crate::seccomp::flag_is_supported(crate::seccomp::FLAG_LOG)),
        ("seccomp_notify", crate::seccomp::flag_is_supported(crate::seccomp::FLAG_NEW_LISTENER)),
        ("sealed_memfd", crate::sealed::sealed_memfd("killick-facts", &[]).is_ok()),
        ("setns_by_pidfd", facts.setns_by_pidfd),
    ]);
    survey.extend(CALLS.iter().map(|(name, number)| (*name, has_call(*number))));
    survey
}

/// Calls whose first argument is a descriptor, a directory or a structure that all-ones is not.
const CALLS: [(&str, i64); 7] = [
    ("clone3", libc::SYS_clone3),
    ("move_mount", libc::SYS_move_mount),
    ("openat2", libc::SYS_openat2),
    ("renameat2", libc::SYS_renameat2),
    ("sched_setattr", libc::SYS_sched_setattr),
    ("statx", libc::SYS_statx),
    ("getrandom", libc::SYS_getrandom),
];

#[allow(unsafe_code)]
fn has_call(number: i64) -> bool {
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: a negative descriptor and null pointers: every call of the list fails with them before it does anything,
    // getrandom is asked for no bytes.
    let done = unsafe { libc::syscall(number, nothing, 0, nothing, 0, nothing) };
    done != -1 || !matches!(Errno::last(), Errno::ENOSYS | Errno::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_agrees_with_what_is_chosen() {
        let (facts, survey) = (Facts::detect(), survey());
        assert_eq!(survey["pidfd"], facts.pidfd);
        // Whoever has the newest of a family has the older ones.
        assert!(!survey["detached_mounts"] || survey["move_mount"]);
        assert!(!survey["openat2"] || survey["renameat2"]);
    }
}
