//! Our own binary as something that nobody in a container can write to (CVE-2019-5736).
//!
//! A process that enters a container's namespaces shows its executable as `/proc/PID/exe`. A read-only bind mount does
//! not protect the file behind it: whoever has CAP_SYS_ADMIN in any mount namespace makes it writable again. An overlay
//! without an upper layer has nothing to write to; a sealed memfd refuses.

use crate::error::{Context, Error, Result, check};
use crate::fd::sealed_memfd;
use crate::mount::NewFilesystem;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, openat};
use nix::sys::stat::Mode;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OWN: &str = "/proc/self/exe";
const OVERLAY_MAGIC: i64 = 0x794c_7630;
/// A binary of ours is two orders smaller.
const BINARY_BYTES_MAX: u64 = 64 << 20;

/// Whether this process already runs from such a place.
pub fn is_protected() -> Result<bool> {
    let file = std::fs::File::open(OWN).call(|| format!("open({OWN})"))?;
    if crate::mount::fs_magic(&file)? == OVERLAY_MAGIC {
        return Ok(crate::mount::flags_of(file.as_fd())? & libc::MS_RDONLY != 0);
    }
    // Only memfds answer this; other files say EINVAL.
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    Ok(seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)))
}

/// Returns when this process is protected; else runs itself again from such a place with the same arguments and
/// environment. `empty` is an existing empty directory (the overlay's second layer).
pub fn ensure_protected(empty: &Path) -> Result<()> {
    if is_protected()? {
        return Ok(());
    }
    let program = open_overlay(empty).or_else(|_| open_memfd())?;
    let args: Vec<OsString> = std::env::args_os().collect();
    let env = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    match execute(program.as_fd(), args.iter().map(|arg| arg.as_bytes().to_vec()), env) {
        Err(error) => Err(error),
    }
}

/// The executable through a detached overlay of its directory and an empty one: no copy, shared by all that run it.
pub fn open_overlay(empty: &Path) -> Result<OwnedFd> {
    let own = std::fs::read_link(OWN).call(|| format!("readlink({OWN})"))?;
    let einval = || Error::new(format!("readlink({OWN}) = {}", own.display()), Errno::EINVAL);
    let (directory, name) = own.parent().zip(own.file_name()).ok_or_else(einval)?;
    let new = NewFilesystem::open("overlay")?;
    new.set("source", "killick")?;
    new.set("lowerdir", &format!("{}:{}", directory.display(), empty.display()))?;
    let tree = new.mount(libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV)?;
    let opened = openat(&tree, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
        .call(|| format!("openat(overlay of {}, {name:?})", directory.display()))?;
    same_content(opened.as_fd())?;
    Ok(opened)
}

/// A file replaced on disk since we were started is another program.
fn same_content(opened: BorrowedFd<'_>) -> Result<()> {
    let call = || "fstat(own executable)".to_owned();
    let running = nix::sys::stat::stat(OWN).call(call)?;
    let found = nix::sys::stat::fstat(opened).call(call)?;
    let is_same = running.st_ino == found.st_ino && running.st_size == found.st_size;
    if is_same { Ok(()) } else { Err(Error::new("the executable was replaced on disk", Errno::ESTALE)) }
}

pub fn open_memfd() -> Result<OwnedFd> {
    use std::io::Read;
    let mut content = Vec::new();
    let file = std::fs::File::open(OWN).call(|| format!("open({OWN})"))?;
    file.take(BINARY_BYTES_MAX).read_to_end(&mut content).call(|| format!("read({OWN})"))?;
    sealed_memfd("killick", &content)
}

/// execveat(program, "", AT_EMPTY_PATH); returns only when it fails.
#[allow(unsafe_code)]
pub fn execute(
    program: BorrowedFd<'_>,
    args: impl IntoIterator<Item = Vec<u8>>,
    env: impl IntoIterator<Item = Vec<u8>>,
) -> Result<Infallible> {
    let call = || format!("execveat({}, \"\", AT_EMPTY_PATH)", crate::fd::describe(program));
    let strings = |list: &mut dyn Iterator<Item = Vec<u8>>| -> Result<Vec<CString>> {
        list.map(|bytes| CString::new(bytes).map_err(|_| Error::new(call(), Errno::EINVAL))).collect()
    };
    let (args, env) = (strings(&mut args.into_iter())?, strings(&mut env.into_iter())?);
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    let empty = c"";
    // SAFETY: both arrays end with null and, like their strings, outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            empty.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    match check(done, call) {
        Err(error) => Err(error),
        Ok(_) => Err(Error::new(call(), Errno::ENOTRECOVERABLE)),
    }
}
