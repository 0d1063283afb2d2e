//! Our own binary as something that nobody in a container can write to (CVE-2019-5736).
//!
//! A process that enters a container's namespaces shows its executable as `/proc/PID/exe`. A read-only bind mount does
//! not protect the file behind it: whoever has CAP_SYS_ADMIN in any mount namespace makes it writable again. An overlay
//! without an upper layer has nothing to write to; a sealed memfd refuses, and so does a read-only tmpfs without a mount.

use crate::error::{Context, Error, Result};
use crate::execute::{Words, by_descriptor};
use crate::mount::NewFilesystem;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    crate::sealed::is_sealed(file.as_fd())
}

/// Returns when this process is protected; else runs itself again from such a place with the same arguments and
/// environment. `empty` is an existing empty directory (the overlay's second layer).
pub fn ensure_protected(empty: &Path) -> Result<()> {
    if is_protected()? {
        return Ok(());
    }
    let run = |program: OwnedFd| {
        let args: Vec<OsString> = std::env::args_os().collect();
        let env = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        execute(program.as_fd(), args.iter().map(|arg| arg.as_bytes().to_vec()), env)
    };
    if let Ok(program) = open_overlay(empty).or_else(|_| open_classic_overlay(empty)) {
        let Err(error) = run(program);
        return Err(error);
    }
    match run(open_copy()?) {
        // Some enterprise kernels seal a memfd and then do not run it.
        Err(error) if error.errno() == Errno::ETXTBSY => run(open_tmpfs_copy()?).map(|never| match never {}),
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

/// The same for kernels without fsopen: mounted by a child in a mount namespace that ends with it.
pub fn open_classic_overlay(empty: &Path) -> Result<OwnedFd> {
    let own = std::fs::read_link(OWN).call(|| format!("readlink({OWN})"))?;
    let einval = || Error::new(format!("readlink({OWN}) = {}", own.display()), Errno::EINVAL);
    let (directory, name) = own.parent().zip(own.file_name()).ok_or_else(einval)?;
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    let data = format!("lowerdir={}:{}", directory.display(), empty.display());
    let opened = crate::sealed::open_in_unseen_mount("overlay", flags, &data, |point| {
        let path = point.join(name);
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        nix::fcntl::open(&path, flags, Mode::empty()).call(|| format!("open({})", path.display()))
    })?;
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

/// A copy in memory, where an overlay cannot be made detached.
pub fn open_copy() -> Result<OwnedFd> {
    crate::sealed::sealed("killick", &content()?)
}

/// As `open_copy`, by the way of kernels without memfds.
pub fn open_tmpfs_copy() -> Result<OwnedFd> {
    crate::sealed::sealed_tmpfs("killick", &content()?)
}

fn content() -> Result<Vec<u8>> {
    use std::io::Read;
    let mut content = Vec::new();
    let file = std::fs::File::open(OWN).call(|| format!("open({OWN})"))?;
    file.take(BINARY_BYTES_MAX).read_to_end(&mut content).call(|| format!("read({OWN})"))?;
    Ok(content)
}

/// Runs what a descriptor is open on; returns only when it fails.
pub fn execute(
    program: BorrowedFd<'_>,
    args: impl IntoIterator<Item = Vec<u8>>,
    env: impl IntoIterator<Item = Vec<u8>>,
) -> Result<Infallible> {
    let words = |list: &mut dyn Iterator<Item = Vec<u8>>| -> Result<Words> {
        let strings = list.map(|bytes| {
            CString::new(bytes)
                .map_err(|_| Error::new(format!("execve({})", crate::fd::describe(program)), Errno::EINVAL))
        });
        Ok(Words::new(strings.collect::<Result<_>>()?))
    };
    let (args, env) = (words(&mut args.into_iter())?, words(&mut env.into_iter())?);
    Err(by_descriptor(program, &args, &env))
}
