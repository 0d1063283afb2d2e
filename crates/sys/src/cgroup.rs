//! Cgroup file systems of this host: where they are mounted, and the few file operations they need.
//!
//! Knows v1 hierarchies and the v2 tree as directories with files. What a container's limits are, and in which order
//! they are written, is the business of crate `container`.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// A failed call on a cgroup file; reads like strace.
#[derive(Debug, thiserror::Error)]
#[error("{call} {}{}: {}", .path.display(), .value.as_ref().map(|v| format!(" {v:?}")).unwrap_or_default(), errno_text(.source))]
pub struct CgroupFileError {
    pub call: &'static str,
    pub path: PathBuf,
    pub value: Option<String>,
    pub source: io::Error,
}

impl CgroupFileError {
    pub fn errno(&self) -> Errno {
        Errno::from_raw(self.source.raw_os_error().unwrap_or(0))
    }
}

fn errno_text(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => format!("{:?}", Errno::from_raw(raw)),
        None => error.to_string(),
    }
}

fn failed<T>(
    call: &'static str,
    path: &Path,
    value: Option<&str>,
) -> impl FnOnce(io::Error) -> Result<T, CgroupFileError> {
    let (path, value) = (path.to_path_buf(), value.map(str::to_owned));
    move |source| Err(CgroupFileError { call, path, value, source })
}

/// A control file to which several values are written one after the other: each of them is one write(2), whatever the
/// place in the file.
#[derive(Debug)]
pub struct ControlFile {
    path: PathBuf,
    file: fs::File,
}

impl ControlFile {
    pub fn open(path: PathBuf) -> Result<Self, CgroupFileError> {
        let opened = fs::OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW).open(&path);
        let file = opened.or_else(failed("open", &path, None))?;
        Ok(Self { path, file })
    }

    pub fn write(&self, value: &str) -> Result<(), CgroupFileError> {
        (&self.file).write_all(value.as_bytes()).or_else(failed("write", &self.path, Some(value)))
    }
}

/// Writes `value` in one write(2): the kernel takes each write to a cgroup file as one command.
pub fn write(path: &Path, value: &str) -> Result<(), CgroupFileError> {
    fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .or_else(failed("write", path, Some(value)))
}

/// Largest cgroup file that is read: `memory.numa_stat` of a big host stays well below.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

pub fn read(path: &Path) -> Result<String, CgroupFileError> {
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .or_else(failed("read", path, None))?;
    Ok(text)
}

/// What the file holds, or `None` when it (or the whole cgroup) does not exist.
pub fn read_if_present(path: &Path) -> Result<Option<String>, CgroupFileError> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes one directory; `true` when it did not exist before.
pub fn mkdir(path: &Path) -> Result<bool, CgroupFileError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => failed("mkdir", path, None)(error),
    }
}

/// Removes one cgroup; `Ok(false)` when it is still busy. A cgroup that is not there is removed.
pub fn rmdir(path: &Path) -> Result<bool, CgroupFileError> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => Ok(true),
            // ENOTEMPTY is what cgroupfs answers for a cgroup with children on some kernels.
            Some(Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
            Some(_) | None => failed("rmdir", path, None)(error),
        },
    }
}

/// The cgroups directly below `path`, in no order.
pub fn children(path: &Path) -> Result<Vec<PathBuf>, CgroupFileError> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    // A cgroup's directory counts its children: itself, its name above, and one link from each.
    if fs::metadata(path).is_ok_and(|dir| dir.nlink() == 2) {
        return Ok(found);
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return failed("readdir", path, None)(error),
    };
    for entry in entries {
        // A child that goes while we read is one less.
        let Ok(entry) = entry else { continue };
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The processes of one cgroup, its children's not included. A cgroup that is not there has none.
/// Processes of PID namespaces that we cannot see read as 0 and are left out.
pub fn processes(path: &Path) -> Result<Vec<libc::pid_t>, CgroupFileError> {
    let text = read_if_present(&path.join("cgroup.procs"))?.unwrap_or_default();
    Ok(text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid > 0).collect())
}

/// Opens a cgroup file for writing by a child.
pub fn open_write(path: &Path) -> Result<OwnedFd, CgroupFileError> {
    match fs::OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(path) {
        Ok(file) => Ok(file.into()),
        Err(error) => failed("open", path, None)(error),
    }
}

/// Opens a cgroup's directory for `CLONE_INTO_CGROUP`.
pub fn open_dir(path: &Path) -> Result<OwnedFd, CgroupFileError> {
    let flags = libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_PATH;
    match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(file.into()),
        Err(error) => failed("open", path, None)(error),
    }
}

/// Opens a cgroup's directory for bpf(2), which takes no O_PATH descriptor.
pub fn open_dir_readable(path: &Path) -> Result<OwnedFd, CgroupFileError> {
    match fs::OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_DIRECTORY).open(path) {
        Ok(file) => Ok(file.into()),
        Err(error) => failed("open", path, None)(error),
    }
}

/// What a child needs to enter its cgroups by itself. The parent never writes a pid: that waits for an RCU grace
/// period after idle (10 ms), and so does anybody's write to a v1 `cgroup.procs`.
#[derive(Debug, Default)]
pub struct Attach {
    /// v1: one `tasks` file for each hierarchy, open for writing. The child writes `0` to each, first of all its steps.
    /// Shared: a container's are the same for all its execs.
    pub tasks: Vec<Arc<OwnedFd>>,
    /// v2: the cgroup's directory, for clone3's `CLONE_INTO_CGROUP`.
    pub dir: Option<OwnedFd>,
    /// v2: `cgroup.procs`, for a kernel without `CLONE_INTO_CGROUP` (before 5.7): the child writes `0` to it.
    /// Present exactly when `dir` is.
    pub procs: Option<OwnedFd>,
}

impl Attach {
    /// Borrowed `tasks` files, in the order in which they are to be written.
    pub fn tasks(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.tasks.iter().map(|fd| fd.as_fd())
    }
}

/// One v1 hierarchy: a mount with one or more controllers, or a named one without (`name=systemd`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// `["cpu", "cpuacct"]`, or `["name=systemd"]`.
    pub controllers: Vec<String>,
    pub mount_point: PathBuf,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The v2 tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unified {
    pub mount_point: PathBuf,
    /// Controllers that are on v2: `cgroup.controllers` of the mount's root.
    pub controllers: Vec<String>,
}

/// How this host has its cgroups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Layout {
    /// v1 hierarchies, in the order in which they are joined (`V1_ORDER`).
    pub v1: Vec<Hierarchy>,
    pub unified: Option<Unified>,
}

/// The order in which v1 hierarchies are set up and joined.
pub const V1_ORDER: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "perf_event",
    "freezer",
    "net_prio",
    "net_cls",
    "rdma",
    "misc",
    "name=systemd",
];

impl Layout {
    /// Reads this process's mounts. `name=systemd` is used only where systemd runs the host: it would be one mkdir
    /// and one write for nobody.
    pub fn detect() -> Result<Layout, CgroupFileError> {
        let mountinfo = read(Path::new("/proc/self/mountinfo"))?;
        let systemd = Path::new("/run/systemd/system").is_dir();
        let mut layout = Layout::parse(&mountinfo, systemd);
        if let Some(unified) = &mut layout.unified {
            let text = read(&unified.mount_point.join("cgroup.controllers"))?;
            unified.controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(layout)
    }

    /// `v1` and `unified` of a mountinfo text; the controllers of `unified` are not known from it.
    pub fn parse(mountinfo: &str, systemd: bool) -> Layout {
        let mut layout = Layout::default();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let mut before = before.split(' ');
            let (Some(root), Some(mount_point)) = (before.nth(3), before.next()) else { continue };
            let mut after = after.split(' ');
            let (Some(kind), Some(options)) = (after.next(), after.nth(1)) else { continue };
            let mount_point = PathBuf::from(OsStr::from_bytes(&unescape(mount_point)));
            match kind {
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| V1_ORDER.contains(o) && (*o != "name=systemd" || systemd))
                        .map(str::to_owned)
                        .collect();
                    let known = layout.v1.iter_mut().find(|h| h.controllers == controllers);
                    match known {
                        _ if controllers.is_empty() => {}
                        // The whole hierarchy is better than a part of it that somebody bound elsewhere.
                        Some(known) if root == "/" && !known.mount_point.starts_with("/sys/fs/cgroup") => {
                            known.mount_point = mount_point;
                        }
                        Some(_) => {}
                        None => layout.v1.push(Hierarchy { controllers, mount_point }),
                    }
                }
                "cgroup2" if layout.unified.is_none() => {
                    layout.unified = Some(Unified { mount_point, controllers: Vec::new() });
                }
                _ => {}
            }
        }
        let rank = |h: &Hierarchy| {
            V1_ORDER
                .iter()
                .position(|c| h.controllers.first().is_some_and(|first| first == c))
                .unwrap_or(V1_ORDER.len())
        };
        for hierarchy in &mut layout.v1 {
            hierarchy.controllers.sort_by_key(|c| V1_ORDER.iter().position(|known| known == c));
        }
        layout.v1.sort_by_key(rank);
        layout
    }

    /// No v1 controller is mounted: limits, devices and freezing are v2's.
    pub fn is_v2(&self) -> bool {
        self.v1.is_empty() && self.unified.is_some()
    }

    /// The v1 hierarchy that carries `controller`.
    pub fn v1_hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|h| h.has(controller))
    }

    /// Whether `controller` is on v2 here.
    pub fn unified_has(&self, controller: &str) -> bool {
        self.unified.as_ref().is_some_and(|u| u.controllers.iter().any(|c| c == controller))
    }
}

/// mountinfo writes space, tab, newline and backslash as `\040` and so on.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = octal.and_then(|o| std::str::from_utf8(o).ok()).and_then(|o| u8::from_str_radix(o, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// Sends `signal` to `pid` if it is still a member of the cgroup `path` of `hierarchy` (a controller's name for v1,
/// `""` for v2), which is read after the process is held by a pidfd: a recycled pid is never hit.
/// `Ok(false)`: it has gone, or has left.
pub fn signal_member(pid: libc::pid_t, hierarchy: &str, path: &str, signal: libc::c_int) -> io::Result<bool> {
    let pidfd = match pidfd_open(pid) {
        Ok(fd) => Some(fd),
        Err(Errno::ESRCH) => return Ok(false),
        // Before 5.3, or refused by an old container host's filter: the check below is all there is.
        Err(_) => None,
    };
    let membership = match fs::read_to_string(format!("/proc/{pid}/cgroup")) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => return Ok(false),
        Err(error) => return Err(error),
    };
    if !is_member(&membership, hierarchy, path) {
        return Ok(false);
    }
    let sent = match &pidfd {
        Some(fd) => pidfd_send_signal(fd.as_fd(), signal),
        // SAFETY: kill(2) with a pid that was just seen in our cgroup; touches no memory.
        None => Errno::result(unsafe { libc::kill(pid, signal) }).map(drop),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a `/proc/<pid>/cgroup` text names `path`, or a cgroup below it, in `hierarchy`.
fn is_member(membership: &str, hierarchy: &str, path: &str) -> bool {
    membership.lines().any(|line| {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(at)) = (fields.next(), fields.next(), fields.next()) else {
            return false;
        };
        let ours =
            if hierarchy.is_empty() { controllers.is_empty() } else { controllers.split(',').any(|c| c == hierarchy) };
        // Our own view of the hierarchy may start below its root (a cgroup namespace): compare the tail.
        ours && (at.ends_with(path) || at.contains(&format!("{path}/")))
    })
}

fn pidfd_open(pid: libc::pid_t) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: libc::c_int) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo makes the kernel fill it as kill(2) does; the fd is borrowed for the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpuacct,cpu
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:27 /x /mnt/a\\040b rw - cgroup cgroup rw,pids
36 30 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,noprefix
";

    #[test]
    fn hybrid_mounts_become_hierarchies_in_join_order() {
        let layout = Layout::parse(HYBRID, false);
        let names: Vec<String> = layout.v1.iter().map(|h| h.controllers.join(",")).collect();
        assert_eq!(names, ["cpuset", "cpu,cpuacct", "pids"]);
        assert_eq!(layout.v1[2].mount_point, Path::new("/sys/fs/cgroup/pids"));
        assert!(!layout.is_v2());
        assert_eq!(layout.unified.expect("is mounted").mount_point, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn the_named_hierarchy_counts_only_under_systemd() {
        let layout = Layout::parse(HYBRID, true);
        assert!(layout.v1_hierarchy("name=systemd").is_some());
    }

    #[test]
    fn a_pure_v2_host_has_no_v1_hierarchy() {
        let layout = Layout::parse("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", true);
        assert!(layout.is_v2());
    }

    #[test]
    fn membership_is_by_path_and_controller() {
        let text = "4:memory:/x/killick/pod1/web\n2:cpu,cpuacct:/killick/pod1/web/leaf\n0::/\n";
        assert!(is_member(text, "memory", "/killick/pod1/web"));
        assert!(is_member(text, "cpuacct", "/killick/pod1/web"));
        assert!(!is_member(text, "pids", "/killick/pod1/web"));
        assert!(!is_member(text, "memory", "/killick/pod1/we"));
        assert!(!is_member(text, "", "/killick/pod1/web"));
    }
}
