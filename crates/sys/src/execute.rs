//! Programs that are run by descriptor, not by path: execveat(2) (3.19), else by the descriptor's name in /proc.

use crate::error::{Error, check};
use crate::fd::describe;
use nix::errno::Errno;
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Arguments and environment as execve takes them: made before anything is given up, used at the end.
#[derive(Debug)]
pub(crate) struct Words {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Words {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { strings, pointers }
    }

    pub(crate) fn as_ptr(&self) -> *const *const libc::c_char {
        debug_assert_eq!(self.pointers.len(), self.strings.len() + 1);
        self.pointers.as_ptr()
    }
}

/// Returns only when it fails. The second way needs the host's /proc in sight.
#[allow(unsafe_code)]
pub(crate) fn by_descriptor(program: BorrowedFd<'_>, args: &Words, env: &Words) -> Error {
    let (fd, argv, envp) = (program.as_raw_fd(), args.as_ptr(), env.as_ptr());
    // SAFETY: both arrays end with null and outlive the call, as do the strings behind them.
    let done = unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH) };
    let refused = match check(done, || format!("execveat({}, \"\", AT_EMPTY_PATH)", describe(program))) {
        Err(error) if error.is_refused() => error,
        Err(error) => return error,
        Ok(_) => return Error::new("execveat", Errno::ENOTRECOVERABLE),
    };
    let Ok(path) = CString::new(format!("/proc/self/fd/{fd}")) else { return refused };
    // SAFETY: as above.
    unsafe { libc::execve(path.as_ptr(), argv, envp) };
    match Errno::last() {
        // No /proc here: what the first call said is what matters.
        Errno::ENOENT => refused,
        errno => Error::new(format!("execve({}<{}>)", path.to_string_lossy(), describe(program)), errno),
    }
}

/// Whether the kernel has execveat: a bad descriptor is seen only by one that does.
#[allow(unsafe_code)]
pub(crate) fn has_execveat() -> bool {
    let none = Words::new(Vec::new());
    // SAFETY: descriptor -1 is none, so nothing is executed; the other arguments outlive the call.
    let done = unsafe {
        libc::syscall(libc::SYS_execveat, -1, c"".as_ptr(), none.as_ptr(), none.as_ptr(), libc::AT_EMPTY_PATH)
    };
    done == -1 && Errno::last() == Errno::EBADF
}
