//! Kernel namespaces: names, descriptors, and visits that always end where they began.

use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamespaceKind {
    // In the order in which they are joined one by one: mount last, as paths change with it.
    User,
    Ipc,
    Uts,
    Network,
    Cgroup,
    Time,
    Pid,
    Mount,
}

impl NamespaceKind {
    pub const ALL: [NamespaceKind; 8] = [
        NamespaceKind::User,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Network,
        NamespaceKind::Cgroup,
        NamespaceKind::Time,
        NamespaceKind::Pid,
        NamespaceKind::Mount,
    ];

    pub fn flag(self) -> CloneFlags {
        match self {
            NamespaceKind::User => CloneFlags::CLONE_NEWUSER,
            NamespaceKind::Ipc => CloneFlags::CLONE_NEWIPC,
            NamespaceKind::Uts => CloneFlags::CLONE_NEWUTS,
            NamespaceKind::Network => CloneFlags::CLONE_NEWNET,
            NamespaceKind::Cgroup => CloneFlags::CLONE_NEWCGROUP,
            // CLONE_NEWTIME shares its bit with a signal number in clone(2); setns and unshare take it.
            NamespaceKind::Time => CloneFlags::from_bits_retain(0x80),
            NamespaceKind::Pid => CloneFlags::CLONE_NEWPID,
            NamespaceKind::Mount => CloneFlags::CLONE_NEWNS,
        }
    }

    /// The file below /proc/PID/ns.
    pub fn proc_name(self) -> &'static str {
        match self {
            NamespaceKind::User => "user",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Network => "net",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Time => "time",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Mount => "mnt",
        }
    }

    pub fn flag_name(self) -> &'static str {
        match self {
            NamespaceKind::User => "CLONE_NEWUSER",
            NamespaceKind::Ipc => "CLONE_NEWIPC",
            NamespaceKind::Uts => "CLONE_NEWUTS",
            NamespaceKind::Network => "CLONE_NEWNET",
            NamespaceKind::Cgroup => "CLONE_NEWCGROUP",
            NamespaceKind::Time => "CLONE_NEWTIME",
            NamespaceKind::Pid => "CLONE_NEWPID",
            NamespaceKind::Mount => "CLONE_NEWNS",
        }
    }
}

/// `CLONE_NEWNET|CLONE_NEWIPC`
pub fn flag_names(kinds: &[NamespaceKind]) -> String {
    kinds.iter().map(|kind| kind.flag_name()).collect::<Vec<_>>().join("|")
}

pub(crate) fn flags(kinds: &[NamespaceKind]) -> CloneFlags {
    kinds.iter().fold(CloneFlags::empty(), |flags, kind| flags | kind.flag())
}

/// A namespace of another process. ESRCH when it has gone.
pub fn open_of(pid: i32, kind: NamespaceKind) -> Result<OwnedFd> {
    open(&format!("/proc/{pid}/ns/{}", kind.proc_name())).map_err(|error| match error.errno() {
        Errno::ENOENT => Error::new(error.call().to_owned(), Errno::ESRCH),
        _ => error,
    })
}

/// A namespace of this thread.
pub fn open_own(kind: NamespaceKind) -> Result<OwnedFd> {
    open(&format!("/proc/thread-self/ns/{}", kind.proc_name()))
        .or_else(|_| open(&format!("/proc/self/ns/{}", kind.proc_name())))
}

fn open(path: &str) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).call(|| format!("open({path}, O_RDONLY|O_CLOEXEC)"))
}

/// Device and inode: equal for the same namespace.
pub fn identity(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(fd).call(|| format!("fstat({})", crate::fd::describe(fd)))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// This thread joins the namespace for good (children only, for PID and time).
pub fn join(fd: BorrowedFd<'_>, kind: NamespaceKind) -> Result<()> {
    setns(fd, kind.flag()).call(|| format!("setns({}, {})", crate::fd::describe(fd), kind.flag_name()))
}

/// Several at once by the pidfd of a process inside (5.8); EINVAL or ENOSYS on older kernels.
pub(crate) fn join_by_pidfd(pidfd: BorrowedFd<'_>, kinds: &[NamespaceKind]) -> Result<()> {
    setns(pidfd, flags(kinds)).call(|| format!("setns({}, {})", crate::fd::describe(pidfd), flag_names(kinds)))
}

/// A visit of this thread to another namespace. Dropping it goes back; if that fails the process ends, because
/// everything it would do from then on would happen in the wrong place.
#[derive(Debug)]
pub struct Visit {
    home: OwnedFd,
    kind: NamespaceKind,
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Err(error) = join(self.home.as_fd(), self.kind) {
            eprintln!("cannot come back from a namespace: {error}");
            std::process::abort();
        }
    }
}

/// Enters until the visit is dropped. For `Pid`: children born meanwhile are born inside; the descriptor may be a pidfd
/// of a process in there (5.8). Never hold it across an await point.
pub fn enter(fd: BorrowedFd<'_>, kind: NamespaceKind) -> Result<Visit> {
    // For PID the way back is our own, not that of children: nobody visits from within a visit.
    let by_pidfd = (kind == NamespaceKind::Pid).then(home_by_pidfd).flatten();
    let home = by_pidfd.map_or_else(|| open_own(kind), Ok)?;
    join(fd, kind)?;
    Ok(Visit { home, kind })
}

/// A pidfd of ours, if this kernel takes it for a PID namespace: cheaper than to open one in /proc. That it does is
/// tried by going where we are.
fn home_by_pidfd() -> Option<OwnedFd> {
    let own = crate::pidfd::pidfd_open(nix::unistd::getpid().as_raw()).ok()?;
    join(own.as_fd(), NamespaceKind::Pid).ok()?;
    Some(own)
}

/// Unshares a namespace for the children born until the visit is dropped (PID only makes sense here).
pub(crate) fn new_pid_for_children() -> Result<Visit> {
    let home = open_own(NamespaceKind::Pid)?;
    nix::sched::unshare(CloneFlags::CLONE_NEWPID).call(|| "unshare(CLONE_NEWPID)".into())?;
    Ok(Visit { home, kind: NamespaceKind::Pid })
}

/// Runs `f` inside a network namespace: sockets made there stay there.
pub fn with_netns<T>(fd: BorrowedFd<'_>, f: impl FnOnce() -> T) -> Result<T> {
    let visit = enter(fd, NamespaceKind::Network)?;
    let value = f();
    drop(visit);
    Ok(value)
}

/// The user namespace that owns this one (4.9), as its inode.
#[allow(unsafe_code)]
pub fn owner(fd: BorrowedFd<'_>) -> Result<u64> {
    use std::os::fd::AsRawFd;
    /// `_IO(0xb7, 0x1)`
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: the request takes no argument and returns a descriptor.
    let opened = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS) };
    let call = || format!("ioctl({}, NS_GET_USERNS)", crate::fd::describe(fd));
    let owner = crate::error::check(opened.into(), call).map(|fd| crate::fd::own(fd as i32))?;
    identity(owner.as_fd()).map(|(_, inode)| inode)
}
