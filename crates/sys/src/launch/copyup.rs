//! `tmpcopyup`: a new tmpfs begins with what the directory below it holds. By descriptors only: whoever may write to
//! that directory cannot lead the copy out of it by a symlink.

use crate::error::{Context, Error, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Directories nested deeper than this are refused: the copy recurses.
const DEPTH_MAX: usize = 256;

/// All of `source`, a directory, into `target`, an empty one; modes and owners too.
pub(super) fn copy_up(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    copy_directory(source, target, 0)
}

fn open(at: BorrowedFd<'_>, name: &CStr, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at, name, flags, Mode::from_bits_truncate(mode)).call(|| format!("openat({name:?}, {flags:?})"))
}

fn copy_directory(source: BorrowedFd<'_>, target: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::new("tmpcopyup", Errno::ENAMETOOLONG));
    }
    let readable = open(source, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
    let target = open(target, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
    let stat = fstat(&readable).call(|| "fstat(a directory)".into())?;
    let mut entries = Dir::from_fd(readable.try_clone().call(|| "dup".into())?).call(|| "fdopendir".into())?;
    for entry in entries.iter() {
        let entry = entry.call(|| "getdents64".into())?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(readable.as_fd(), target.as_fd(), name, depth)?;
        }
    }
    give(target.as_fd(), &stat)
}

/// Owner and mode, in this order: a change of owner takes set-id bits away.
fn give(file: BorrowedFd<'_>, like: &FileStat) -> Result<()> {
    fchown(file, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid))).call(|| "fchown".into())?;
    fchmod(file, Mode::from_bits_truncate(like.st_mode)).call(|| "fchmod".into())
}

fn copy_entry(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<()> {
    let call = |what: &str| format!("{what}({name:?})");
    let stat = fstatat(source, name, AtFlags::AT_SYMLINK_NOFOLLOW).call(|| call("fstatat"))?;
    let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    if kind == SFlag::S_IFDIR {
        let below = open(source, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        mkdirat(target, name, Mode::S_IRWXU).call(|| call("mkdirat"))?;
        let made = open(target, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        return copy_directory(below.as_fd(), made.as_fd(), depth + 1);
    }
    if kind == SFlag::S_IFREG {
        let from = open(source, name, OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0)?;
        // What was looked at may have been exchanged.
        let stat = fstat(&from).call(|| call("fstat"))?;
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(Error::new(call("openat"), Errno::ESTALE));
        }
        let to = open(target, name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, 0o600)?;
        let mut to = File::from(to);
        std::io::copy(&mut File::from(from), &mut to).call(|| call("copy"))?;
        return give(to.as_fd(), &stat);
    }
    if kind == SFlag::S_IFLNK {
        let link = readlinkat(source, name).call(|| call("readlinkat"))?;
        symlinkat(link.as_os_str(), target, name).call(|| call("symlinkat"))?;
    } else if kind != SFlag::S_IFSOCK {
        mknodat(target, name, kind, Mode::from_bits_truncate(stat.st_mode), stat.st_rdev).call(|| call("mknodat"))?;
    } else {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(target, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).call(|| call("fchownat"))
}
