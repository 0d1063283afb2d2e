//! Files of /proc written where they are in truth: a mount over `/proc/self/attr` or `/proc/sys` in somebody's mount
//! namespace must not turn one write into another (CVE-2019-16884, CVE-2025-52881).

use crate::error::{Context, Error, Result};
use crate::mount::{NewFilesystem, fs_magic};
use crate::ns::{self, NamespaceKind};
use crate::spawn::worker_with_fds;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The root directory of every procfs.
const ROOT_INODE: u64 = 1;

/// This process's /proc, if that is a procfs and the whole of it.
fn open() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open("/proc", flags, Mode::empty()).call(|| "open(/proc, O_PATH|O_NOFOLLOW)".into())?;
    let inode = fstat(&root).call(|| "fstat(/proc)".into())?.st_ino;
    if fs_magic(&root)? != libc::PROC_SUPER_MAGIC || inode != ROOT_INODE {
        return Err(Error::new("/proc is not a procfs", Errno::EXDEV));
    }
    Ok(root)
}

/// Writes `value`, whole, to a file below /proc: `sys/net/ipv4/ip_forward`, `thread-self/attr/exec`. EXDEV: something
/// is mounted on the way.
pub fn write(path: &str, value: &str) -> Result<()> {
    let call = || format!("write(/proc/{path}, {value:?})");
    let opened = open_for_write(Path::new(path)).map_err(|error| Error::new(call(), error.errno()))?;
    File::from(opened).write_all(value.as_bytes()).call(call)
}

/// The same file, to be written later.
pub(crate) fn open_for_write(path: &Path) -> Result<OwnedFd> {
    let call = || format!("open(/proc/{}, O_WRONLY)", path.display());
    let opened = crate::path::open_beneath(open()?.as_fd(), path, OFlag::O_WRONLY)
        .map_err(|error| Error::new(call(), error.errno()))?;
    if fs_magic(&opened)? == libc::PROC_SUPER_MAGIC { Ok(opened) } else { Err(Error::new(call(), Errno::EXDEV)) }
}

/// A new procfs of a PID namespace that this process is not in (6.17): detached.
pub fn new_of(namespace: BorrowedFd<'_>, data: &str) -> Result<OwnedFd> {
    let new = NewFilesystem::open("proc")?;
    new.set("source", "proc")?;
    new.set_fd("pidns", namespace)?;
    new.set_data(data)?;
    new.mount(0)
}

/// A detached copy of the procfs that `pid`, a process of that PID namespace, sees as its own /proc: without what is
/// mounted over parts of it. Verified: a container may have put anything there. In a child of ours, which is not seen
/// from the namespace.
pub fn copy_of(pid: i32, namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mounts = ns::open_of(pid, NamespaceKind::Mount)?;
    let mut worker = worker_with_fds(COPY_DEADLINE, || {
        let copy = || -> Result<OwnedFd> {
            // setns wants file system attributes that are this thread's alone.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).call(|| "unshare(CLONE_FS)".into())?;
            ns::join(mounts.as_fd(), NamespaceKind::Mount)?;
            let root = open()?;
            let first =
                crate::path::open_in_root(root.as_fd(), Path::new("1/ns"), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            let its = nix::fcntl::openat(&first, "pid", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .call(|| format!("open(/proc of {pid}/1/ns/pid)"))?;
            if ns::identity(its.as_fd())? != ns::identity(namespace)? {
                return Err(Error::new(format!("/proc of {pid} is another PID namespace's"), Errno::EXDEV));
            }
            crate::mount::clone_tree(Some(root.as_fd()), Path::new(""), false)
        };
        copy().map(|tree| ((), vec![tree])).map_err(|error| error.to_string())
    })?;
    let failed = |why: String| Error::new(format!("copy /proc of {pid}: {why}"), Errno::ENOENT);
    let () = worker.wait_mut().map_err(failed)?;
    worker.take_fds().into_iter().next().ok_or_else(|| failed("no descriptor came".into()))
}

const COPY_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn isolated(test: impl FnOnce()) {
        let worker = crate::spawn::worker(std::time::Duration::from_secs(20), || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            crate::mount::change(Path::new("/"), libc::MS_REC | libc::MS_PRIVATE).unwrap();
            test();
            Ok(())
        });
        worker.unwrap().wait().unwrap();
    }

    /// Without the check the write reaches whatever was mounted there: here a file of a tmpfs.
    #[test]
    fn a_write_to_proc_never_reaches_what_is_mounted_over_it() {
        isolated(|| {
            write("self/oom_score_adj", "500").unwrap();
            assert_eq!(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(), "500\n");
            crate::mount::mount("tmpfs", Path::new("/proc/sys"), "tmpfs", 0, "").unwrap();
            std::fs::write("/proc/sys/marker", "untouched").unwrap();
            assert_eq!(write("sys/marker", "x").unwrap_err().errno(), Errno::EXDEV);
            assert_eq!(std::fs::read_to_string("/proc/sys/marker").unwrap(), "untouched");
            assert_eq!(write("../etc/hostname", "x").unwrap_err().errno(), Errno::EXDEV);
            // Another file of the same procfs, bound over the one that is meant.
            let (other, meant) = (Path::new("/proc/self/comm"), Path::new("/proc/self/timerslack_ns"));
            crate::mount::bind(other, meant, false).unwrap();
            assert_eq!(write("self/timerslack_ns", "50000").unwrap_err().errno(), Errno::EXDEV);
            crate::mount::mount("tmpfs", Path::new("/proc"), "tmpfs", 0, "").unwrap();
            assert_eq!(write("self/oom_score_adj", "0").unwrap_err().errno(), Errno::EXDEV);
        });
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test starts a program")]
    fn the_procfs_of_another_pid_namespace_is_made_or_copied_from_outside() {
        if !crate::facts::Facts::detect().detached_mounts {
            println!("not here: this kernel has no mount that could be handed over (5.2)");
            return;
        }
        struct Ended(std::process::Child, i32);
        impl Drop for Ended {
            fn drop(&mut self) {
                // busybox's unshare knows no --kill-child.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.1), nix::sys::signal::Signal::SIGKILL);
                let _ = self.0.wait();
            }
        }
        let null = std::process::Stdio::null;
        let child = std::process::Command::new("unshare")
            .args(["-p", "-f", "--mount-proc", "sleep", "60"])
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .spawn();
        let mut child = child.unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let pid = loop {
            assert!(std::time::Instant::now() < until, "{:?}", child.try_wait());
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let pid = std::fs::read_to_string(children).unwrap().trim().parse::<i32>();
            if let Ok(pid) = pid
                && std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() == "sleep\n"
            {
                break pid;
            }
        };
        let _ended = Ended(child, pid);
        let namespace = ns::open_of(pid, NamespaceKind::Pid).unwrap();
        let first = |tree: &OwnedFd| {
            let opened = crate::path::open_in_root(tree.as_fd(), Path::new("1/comm"), OFlag::O_RDONLY).unwrap();
            std::io::read_to_string(File::from(opened)).unwrap()
        };
        assert_eq!(first(&copy_of(pid, namespace.as_fd()).unwrap()), "sleep\n");
        match new_of(namespace.as_fd(), "") {
            Ok(tree) => assert_eq!(first(&tree), "sleep\n"),
            Err(error) => assert!(matches!(error.errno(), Errno::EINVAL | Errno::ENOSYS), "before 6.17: {error}"),
        }
        // What is found there is not what was meant: our own procfs.
        assert!(copy_of(std::process::id() as i32, namespace.as_fd()).is_err());
    }
}
