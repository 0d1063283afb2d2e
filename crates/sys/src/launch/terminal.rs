//! A pty in the container's own devpts: opened by descriptor, verified, never by a path that the container could
//! have replaced (CVE-2025-52565).

use super::error::LaunchError;
use super::exec::dup_onto;
use super::run::Child;
use crate::error::{Context, Error, Result, check};
use crate::fd::own;
use crate::path::{kind_of, open_child, open_in_root, parent_in_root};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

const DEVPTS_MAGIC: i64 = 0x1cd1;
const TIOCSPTLCK: u64 = 0x4004_5431;
const TIOCGPTN: u64 = 0x8004_5430;
const TIOCGPTPEER: u64 = 0x5441;

/// Makes a new pty this process's stdio and controlling terminal; the master is for the parent.
pub(super) fn open(child: &Child<'_>, console: bool, rows: u16, columns: u16) -> Result<OwnedFd, LaunchError> {
    let root = child.root.fd()?;
    let pts = open_in_root(root, Path::new("/dev/pts"), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    if crate::mount::fs_magic(&pts)? != DEVPTS_MAGIC {
        return Err(LaunchError::Unsupported("/dev/pts is not a devpts, so it has no terminal".into()));
    }
    let master = open_child(pts.as_fd(), OsStr::new("ptmx"), OFlag::O_RDWR | OFlag::O_NOCTTY)?;
    unlock(master.as_fd())?;
    let slave = open_slave(master.as_fd(), pts.as_fd())?;
    if rows != 0 && columns != 0 {
        set_size(master.as_fd(), rows, columns)?;
    }
    if console {
        let point = console_point(root)?;
        super::rootfs::bind_fd(slave.as_fd(), point.as_fd())?;
    }
    for number in 0..=2 {
        dup_onto(slave.as_fd(), number)?;
    }
    // A controlling terminal goes with the session, and that is the last process's.
    if !child.is_helper() {
        take_control()?;
    }
    Ok(master)
}

/// /dev/console itself, never what a link of the image points to (CVE-2026-88264).
fn console_point(root: BorrowedFd<'_>) -> Result<OwnedFd, LaunchError> {
    let path = Path::new("/dev/console");
    let (parent, name) = parent_in_root(root, path)?;
    match kind_of(parent.as_fd(), name)? {
        None | Some(SFlag::S_IFREG | SFlag::S_IFCHR) => {}
        Some(_) => {
            let text = "/dev/console of the image is neither a file nor a device: no terminal can be bound there";
            return Err(LaunchError::Unsupported(text.into()));
        }
    }
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
    match nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o600)) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(Error::new("openat(root/dev/console, O_CREAT|O_EXCL)", errno).into()),
    }
    let point = open_child(parent.as_fd(), name, OFlag::O_PATH)?;
    let kind = fstat(&point).call(|| "fstat(root/dev/console)".into())?.st_mode & SFlag::S_IFMT.bits();
    if kind == SFlag::S_IFLNK.bits() {
        return Err(Error::new("openat(root/dev/console, O_PATH|O_NOFOLLOW)", Errno::ELOOP).into());
    }
    Ok(point)
}

#[allow(unsafe_code)]
fn unlock(master: BorrowedFd<'_>) -> Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the integer outlives the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), TIOCSPTLCK as libc::Ioctl, &unlocked) };
    check(done.into(), || "ioctl(ptmx, TIOCSPTLCK, 0)".into()).map(drop)
}

/// TIOCGPTPEER (4.13), else by number in the same devpts.
#[allow(unsafe_code)]
fn open_slave(master: BorrowedFd<'_>, pts: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    // SAFETY: the argument is an integer.
    let opened = unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER as libc::Ioctl, flags.bits()) };
    match check(opened.into(), || "ioctl(ptmx, TIOCGPTPEER)".into()) {
        Ok(fd) => return Ok(own(fd as RawFd)),
        Err(error) if matches!(error.errno(), Errno::ENOTTY | Errno::EINVAL | Errno::EIO) => {}
        Err(error) => return Err(error),
    }
    let mut number: libc::c_uint = 0;
    // SAFETY: the kernel writes one integer, which outlives the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTN as libc::Ioctl, &mut number) };
    check(done.into(), || "ioctl(ptmx, TIOCGPTN)".into())?;
    let looked = open_child(pts, OsStr::new(&number.to_string()), OFlag::O_PATH)?;
    if crate::mount::fs_magic(&looked)? != DEVPTS_MAGIC {
        return Err(Error::new(format!("open(/dev/pts/{number})"), Errno::ENXIO));
    }
    // Not by /proc, which may not be ours here: by name again, and it must be what was looked at.
    let slave = open_child(pts, OsStr::new(&number.to_string()), OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK)?;
    super::rootfs::same_file(looked.as_fd(), slave.as_fd())?;
    crate::fd::set_nonblocking(slave.as_fd(), false)?;
    Ok(slave)
}

#[allow(unsafe_code)]
fn set_size(master: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure outlives the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    check(done.into(), || format!("ioctl(ptmx, TIOCSWINSZ, {rows}x{columns})")).map(drop)
}

#[allow(unsafe_code)]
pub(super) fn take_control() -> Result<()> {
    // SAFETY: the argument is an integer: do not take it from another session.
    let done = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    check(done.into(), || "ioctl(0, TIOCSCTTY, 0)".into()).map(drop)
}
