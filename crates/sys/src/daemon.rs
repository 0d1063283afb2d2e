//! A process that outlives its starter, and the descriptors that a process finds when it begins.

use crate::error::{Context, Error, Result, check};
use crate::execute::{Words, by_descriptor};
use crate::fd::{self, own};
use crate::signal::{reset_dispositions, unblock_all};
use crate::spawn::{self, Birth, Born};
use nix::errno::Errno;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Executes `executable` in a session of its own, with `fds` at the numbers given and nothing else open. The caller
/// is about to end: the daemon becomes a child of the next reaper.
pub fn daemon(executable: BorrowedFd<'_>, args: &[OsString], fds: &[(BorrowedFd<'_>, RawFd)]) -> Result<i32> {
    let args: Vec<CString> = args.iter().map(|text| c_string(text.as_bytes())).collect::<Result<_>>()?;
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| c_string(&[name.into_vec(), vec![b'='], value.into_vec()].concat()))
        .collect::<Result<_>>()?;
    match spawn::birth(Birth::default())? {
        Born::Parent { child, .. } => Ok(child.pid()),
        Born::Child { .. } => {
            let error = become_daemon(executable, &args, &env, fds).err();
            if let Some(error) = error {
                // fd 2 may be the daemon's log already: the best place that there is.
                let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("start a daemon: {error}\n"));
            }
            spawn::exit_now(127)
        }
    }
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new("execve: an argument holds a NUL", Errno::EINVAL))
}

fn become_daemon(
    executable: BorrowedFd<'_>,
    args: &[CString],
    env: &[CString],
    fds: &[(BorrowedFd<'_>, RawFd)],
) -> Result<()> {
    reset_dispositions();
    unblock_all()?;
    nix::unistd::setsid().call(|| "setsid()".into())?;
    nix::unistd::chdir("/").call(|| "chdir(/)".into())?;
    // First out of the way of the numbers that are given out, then to those numbers.
    let above = fds.iter().map(|(_, number)| *number).max().unwrap_or(2) + 1;
    let executable = duplicate_above(executable, above)?;
    let moved: Vec<OwnedFd> = fds.iter().map(|(fd, _)| duplicate_above(*fd, above)).collect::<Result<_>>()?;
    for (fd, (_, number)) in moved.iter().zip(fds) {
        place(fd.as_fd(), *number)?;
    }
    let kept: Vec<RawFd> = fds.iter().map(|(_, number)| *number).chain([executable.as_raw_fd()]).collect();
    std::mem::forget(moved);
    fd::close_all_except(&kept)?;
    Err(by_descriptor(executable.as_fd(), &Words::new(args.to_vec()), &Words::new(env.to_vec())))
}

fn duplicate_above(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(least))
        .call(|| format!("fcntl({}, F_DUPFD_CLOEXEC, {least})", fd::describe(fd)))?;
    Ok(own(raw))
}

#[allow(unsafe_code)]
fn place(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: in this child nobody uses `number` any more; what was there is closed.
    let placed = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    check(libc::c_long::from(placed), || format!("dup2({}, {number})", fd::describe(fd))).map(drop)
}

/// Takes a descriptor that this process was started with; None when there is none. To be called once for a number,
/// before anything else is opened.
#[allow(unsafe_code)]
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only asks.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the caller's contract: the number is nobody else's, and the descriptor is open.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fd::set_cloexec(fd.as_fd(), true).ok()?;
    Some(fd)
}
