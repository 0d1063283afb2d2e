//! Programs that are run by descriptor, not by path: execveat(2) (3.19), else by the descriptor's name in /proc.

use crate::error::{Context, Error, check};
use crate::fd::describe;
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

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
        // ENOENT: TOMOYO (`has_execveat`).
        Err(error) if error.is_refused() || error.errno() == Errno::ENOENT => error,
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

/// Whether execveat runs programs wherever we are: the kernel has it (a bad descriptor is seen only by one that does),
/// and no TOMOYO is asked. That one looks for the file by the name `/dev/fd/<number>` and says ENOENT where there is
/// none, as in a root that holds nothing (found on Debian's 5.10, which runs it by default).
#[allow(unsafe_code)]
pub(crate) fn has_execveat() -> bool {
    let none = Words::new(Vec::new());
    let execute = |dir: i32, path: &CStr, flags: libc::c_int| {
        // SAFETY: there is no descriptor -1, and the other caller's file is of no executable format; the arguments
        // outlive the call.
        let done =
            unsafe { libc::syscall(libc::SYS_execveat, dir, path.as_ptr(), none.as_ptr(), none.as_ptr(), flags) };
        if done == -1 { Errno::last() } else { Errno::UnknownErrno }
    };
    if execute(-1, c"", libc::AT_EMPTY_PATH) != Errno::EBADF {
        return false;
    }
    let Ok((dir, file)) = a_text_to_execute() else { return true };
    // The longest name that there can be: with `/dev/fd/<number>/` before it, it is too long to be looked for again.
    let number = file.as_raw_fd().to_string();
    let padding = "./".repeat((libc::PATH_MAX as usize - 2 - number.len()) / 2);
    let Ok(path) = CString::new(padding + &number) else { return true };
    // Without TOMOYO this is ENOEXEC (or what else forbids to execute such a file).
    execute(dir.as_raw_fd(), &path, 0) != Errno::ENOENT
}

/// A file of printable characters (for others the kernel would look for a module), and the directory that names it.
fn a_text_to_execute() -> crate::error::Result<(OwnedFd, OwnedFd)> {
    let call = || "memfd_create(probe)".to_owned();
    let file = nix::sys::memfd::memfd_create(c"probe", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).call(call)?;
    nix::unistd::write(&file, b"none").call(call)?;
    let directory = std::fs::File::open("/proc/self/fd").call(|| "open(/proc/self/fd)".into())?;
    Ok((directory.into(), file))
}

#[cfg(test)]
mod tests {
    /// An empty root, as pause's: what `has_execveat` promises must hold there.
    #[test]
    fn a_program_runs_by_its_descriptor_in_an_empty_root_where_the_facts_say_so() {
        use super::*;
        use std::io::Read;
        use std::os::fd::AsFd;
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (read, write) = crate::fd::pipe().unwrap();
        let worker = crate::spawn::worker(std::time::Duration::from_secs(20), || {
            let program = std::fs::File::open("/bin/busybox").map_err(|error| error.to_string())?;
            let root = tempfile::tempdir().map_err(|error| error.to_string())?;
            nix::unistd::chroot(root.path()).map_err(|error| error.to_string())?;
            nix::unistd::dup2_stdout(&write).map_err(|error| error.to_string())?;
            let words = Words::new(vec![c"busybox".into(), c"echo".into(), c"ran".into()]);
            Err::<(), _>(by_descriptor(program.as_fd(), &words, &Words::new(Vec::new())).to_string())
        });
        drop(write);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(has_execveat(), text == "ran\n", "{:?}", worker.unwrap().wait());
    }
}
