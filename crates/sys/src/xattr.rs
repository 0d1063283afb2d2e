//! Extended attributes of a name in an open directory; the name itself, never what a symbolic link points to.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// XATTR_SIZE_MAX of `linux/limits.h`.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// `lsetxattr(2)` on `name` in `dir`. `.` is the directory itself.
pub fn set(dir: BorrowedFd<'_>, name: &OsStr, attribute: &CStr, value: &[u8]) -> Result<(), Errno> {
    let path = path(dir, name)?;
    // SAFETY: both strings end with NUL and `value` is readable for its length; the kernel keeps none of them.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), attribute.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// `lgetxattr(2)` on `name` in `dir`; `None` if there is no such attribute, or the file system has none.
pub fn get(dir: BorrowedFd<'_>, name: &OsStr, attribute: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let path = path(dir, name)?;
    let mut value = vec![0u8; VALUE_BYTES_MAX];
    // SAFETY: both strings end with NUL and `value` is writable for its length.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), attribute.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match Errno::result(length) {
        Ok(length) => {
            value.truncate(length as usize);
            Ok(Some(value))
        }
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The directory by its descriptor, so that only the last component is a name: `l*xattr` does not follow that one.
fn path(dir: BorrowedFd<'_>, name: &OsStr) -> Result<CString, Errno> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    if name.as_bytes().contains(&b'/') {
        return Err(Errno::EINVAL);
    }
    path.extend_from_slice(name.as_bytes());
    CString::new(path).map_err(|_| Errno::EINVAL)
}
