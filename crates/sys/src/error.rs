//! One failed system call, told as strace would: `setns(7</proc/812/ns/net>, CLONE_NEWNET): EPERM`.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// The call with its arguments, and what the kernel answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{call}: {}", errno_name(*errno))]
pub struct Error {
    call: String,
    errno: i32,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), errno: errno as i32 }
    }

    /// The errno of the call just made on this thread.
    pub fn last(call: impl Into<String>) -> Self {
        Self::new(call, Errno::last())
    }

    pub fn from_io(call: impl Into<String>, error: &std::io::Error) -> Self {
        Self { call: call.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }

    pub(crate) fn with_raw(call: String, errno: i32) -> Self {
        Self { call, errno }
    }

    pub fn errno(&self) -> Errno {
        Errno::from_raw(self.errno)
    }

    pub fn call(&self) -> &str {
        &self.call
    }

    /// The kernel, or a sandbox around us, does not know the call. A seccomp sandbox may say EPERM for ENOSYS,
    /// so ask this only of calls that cannot be refused for another reason (oci.md §9).
    pub fn is_refused(&self) -> bool {
        matches!(self.errno(), Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP)
    }
}

/// `no such file or directory`: the words that podman and docker look for, without Rust's "(os error 2)".
pub fn plain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(raw) => Errno::from_raw(raw).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Adds the call to a bare errno, lazily.
pub trait Context<T> {
    fn call(self, call: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn call(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::new(call(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn call(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::from_io(call(), &error))
    }
}

/// A system call's return value: -1 is errno.
pub(crate) fn check(returned: libc::c_long, call: impl FnOnce() -> String) -> Result<libc::c_long> {
    if returned == -1 {
        let errno = Errno::last();
        Err(Error::new(call(), errno))
    } else {
        Ok(returned)
    }
}

fn errno_name(errno: i32) -> String {
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_like_strace() {
        let error = Error::new("setns(7</proc/812/ns/net>, CLONE_NEWNET)", Errno::EPERM);
        assert_eq!(error.to_string(), "setns(7</proc/812/ns/net>, CLONE_NEWNET): EPERM");
    }
}
