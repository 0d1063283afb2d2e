//! Files of /proc written where they are in truth: a mount over `/proc/self/attr` or `/proc/sys` in somebody's mount
//! namespace must not turn one write into another (CVE-2019-16884, CVE-2025-52881).

use crate::error::{Context, Error, Result};
use crate::mount::fs_magic;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
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
    let opened = crate::path::open_beneath(open()?.as_fd(), Path::new(path), OFlag::O_WRONLY)
        .map_err(|error| Error::new(call(), error.errno()))?;
    if fs_magic(&opened)? != libc::PROC_SUPER_MAGIC {
        return Err(Error::new(call(), Errno::EXDEV));
    }
    File::from(opened).write_all(value.as_bytes()).call(call)
}

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
}
