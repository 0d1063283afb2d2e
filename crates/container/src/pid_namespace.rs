//! A container that joins a PID namespace by its path: where its first process is while it still has our rights.
//!
//! Nothing that has more rights than a container is ever in a PID namespace where some process may hold CAP_SYS_PTRACE
//! (design §4). So all steps are done outside, and the last act is a birth into the namespace. What that wants is a
//! procfs of a namespace that we are not in; where the kernel cannot give one, it is looked at who is inside.

use crate::options;
use killick_sys::caps::supported;
use killick_sys::facts::Facts;
use killick_sys::launch::LaunchError;
use killick_sys::ns::{self, NamespaceKind};
use killick_sys::procfs;
use oci_spec::runtime::Spec;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Where the child is born.
#[derive(Debug)]
pub(crate) enum Birthplace {
    /// In the namespace: nobody there may trace it.
    Inside,
    /// A procfs for each mount of that type, in their order.
    Outside { procs: Vec<OwnedFd> },
}

/// `path` is where the namespace was opened.
pub(crate) fn of_joined(
    facts: &Facts,
    namespace: BorrowedFd<'_>,
    path: &Path,
    spec: &Spec,
) -> Result<Birthplace, LaunchError> {
    if facts.detached_mounts {
        let wanted = spec.mounts().iter().flatten().filter(|mount| mount.typ().as_deref() == Some("proc"));
        let made: Result<Vec<OwnedFd>, _> = wanted
            .map(|mount| {
                let options = options::parse(mount.options().as_deref().unwrap_or_default());
                proc_of(namespace, path, &options.data)
            })
            .collect();
        if let Ok(procs) = made {
            return Ok(Birthplace::Outside { procs });
        }
    }
    match tracer(namespace) {
        None => Ok(Birthplace::Inside),
        Some(pid) => Err(LaunchError::Unsupported(format!(
            "the PID namespace {} cannot be joined safely: process {pid} there may trace others (CAP_SYS_PTRACE), and \
             this kernel gives no /proc of it from outside (Linux 6.17, or a process there with a /proc of its own and \
             Linux 5.12)",
            path.display()
        ))),
    }
}

fn proc_of(namespace: BorrowedFd<'_>, path: &Path, data: &str) -> Result<OwnedFd, killick_sys::error::Error> {
    let new = procfs::new_of(namespace, data);
    // A copy has the options of the one that it is a copy of.
    if new.is_ok() || !data.is_empty() {
        return new;
    }
    let named = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()).and_then(|pid| pid.to_str());
    let named = named.and_then(|pid| pid.parse().ok());
    let mut last = new;
    for pid in named.into_iter().chain(inside(namespace)).take(CANDIDATES_MAX) {
        last = procfs::copy_of(pid, namespace);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Processes of the namespace that are asked for their /proc.
const CANDIDATES_MAX: usize = 8;

/// All processes of this PID namespace that we can see.
fn inside(namespace: BorrowedFd<'_>) -> impl Iterator<Item = i32> {
    let wanted = ns::identity(namespace).ok();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(move |pid| {
        let its = ns::open_of(*pid, NamespaceKind::Pid).and_then(|fd| ns::identity(fd.as_fd()));
        wanted.is_some() && its.ok() == wanted
    })
}

/// A process of the namespace that may trace us, now or after an execve: by its bounding set, in our user namespace.
fn tracer(namespace: BorrowedFd<'_>) -> Option<i32> {
    let user = |pid: i32| ns::open_of(pid, NamespaceKind::User).and_then(|fd| ns::identity(fd.as_fd())).ok();
    let own = ns::open_own(NamespaceKind::User).and_then(|fd| ns::identity(fd.as_fd())).ok();
    inside(namespace).find(|pid| user(*pid) == own && may_trace(*pid))
}

fn may_trace(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let sets = ["CapBnd:", "CapPrm:", "CapInh:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").trim();
        killick_sys::caps::CapSet(u64::from_str_radix(line, 16).unwrap_or(u64::MAX))
    });
    sets.into_iter().any(|set| set.intersection(supported()).has("CAP_SYS_PTRACE"))
}
