//! A file in memory that nobody can change any more: a sealed memfd (3.17), else a file of a tmpfs that is mounted
//! nowhere and read-only as a whole.

use crate::error::{Context, Error, Result};
use crate::mount;
use crate::spawn::worker_with_fds;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fstat};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// Copying a few megabytes takes milliseconds.
const COPY_DEADLINE: Duration = Duration::from_secs(10);
/// A directory that every Linux host has, and that the child does not need.
const POINT: &str = "/dev";
/// By this mode (sticky, and executable by its owner) such a file is known again: no installed program has it.
const MARK: u32 = 0o1500;

/// To be run without a path, or to be read by somebody.
pub fn sealed(name: &str, content: &[u8]) -> Result<OwnedFd> {
    sealed_memfd(name, content).or_else(|error| match error.errno() {
        // EINVAL: memfds without seals, as the first that enterprise kernels had.
        Errno::ENOSYS | Errno::EPERM | Errno::EINVAL => sealed_tmpfs(name, content),
        _ => Err(error),
    })
}

pub fn sealed_memfd(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // MFD_EXEC (6.3): without it some systems make memfds that cannot be run.
    let executable = flags | MFdFlags::from_bits_retain(0x10);
    let fd = memfd_create(name, executable)
        .or_else(|_| memfd_create(name, flags))
        .call(|| format!("memfd_create({name:?}, MFD_CLOEXEC|MFD_ALLOW_SEALING)"))?;
    let mut file = File::from(fd);
    file.write_all(content).call(|| format!("write(memfd {name:?}, {} bytes)", content.len()))?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).call(|| format!("fcntl(memfd {name:?}, F_ADD_SEALS)"))?;
    // While somebody has it open for writing, execve says ETXTBSY: read-only by another open, and the first closed.
    crate::path::reopen(file.as_fd(), OFlag::O_RDONLY)
}

pub fn sealed_tmpfs(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    open_in_unseen_mount("tmpfs", flags, "mode=0700,nr_inodes=2", |point| {
        let path = point.join(name);
        let call = || format!("write({}, {} bytes)", path.display(), content.len());
        let mut options = File::options();
        let mut file =
            options.write(true).create_new(true).mode(0o600).custom_flags(libc::O_CLOEXEC).open(&path).call(call)?;
        file.write_all(content).call(call)?;
        file.set_permissions(std::fs::Permissions::from_mode(MARK)).call(call)?;
        drop(file);
        let opened = nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).call(call)?;
        // The file system itself, not only this mount of it.
        mount::change(point, libc::MS_REMOUNT | libc::MS_RDONLY | flags)?;
        Ok(opened)
    })
}

/// A file without a name, to be written and read: a memfd, else one in `directory` (or where files are allowed) whose
/// name is taken away at once.
pub fn scratch(directory: &Path) -> Result<File> {
    let refused = match memfd_create("killick", MFdFlags::MFD_CLOEXEC).call(|| "memfd_create(MFD_CLOEXEC)".into()) {
        Ok(fd) => return Ok(fd.into()),
        Err(error) if error.is_refused() => error,
        Err(error) => return Err(error),
    };
    let places = [directory, Path::new("/run"), Path::new("/tmp"), Path::new("/dev/shm")];
    places.iter().find_map(|place| unlinked(place)).ok_or(refused)
}

fn unlinked(directory: &Path) -> Option<File> {
    for number in 0..UNLINKED_TRIES {
        let path = directory.join(format!(".killick-scratch-{}-{number}", std::process::id()));
        let mut options = File::options();
        match options.read(true).write(true).create_new(true).mode(0o600).custom_flags(libc::O_CLOEXEC).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path).ok()?;
                return Some(file);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
    }
    None
}

const UNLINKED_TRIES: u32 = 100;

/// What `open` gives of a new mount that a child makes in a mount namespace of its own. The namespace ends with the
/// child, so nobody can name the mount, and nobody can remount it: the kernel changes only mounts of the caller's own
/// namespace.
pub(crate) fn open_in_unseen_mount(
    fstype: &str,
    flags: u64,
    data: &str,
    open: impl FnOnce(&Path) -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let failed = |text: String| Error::new(format!("mount {fstype} unseen: {text}"), Errno::EIO);
    let work = || {
        unshare(CloneFlags::CLONE_NEWNS).call(|| "unshare(CLONE_NEWNS)".into())?;
        mount::change(Path::new("/"), libc::MS_REC | libc::MS_PRIVATE)?;
        let point = Path::new(POINT);
        mount::mount("killick", point, fstype, flags, data)?;
        open(point)
    };
    let mut worker =
        worker_with_fds(COPY_DEADLINE, || work().map(|fd| ((), vec![fd])).map_err(|error: Error| error.to_string()))?;
    worker.wait_mut().map_err(failed)?;
    worker.take_fds().pop().ok_or_else(|| failed("no descriptor came".into()))
}

/// Whether nobody can change what is open here, by either way.
pub fn is_sealed(file: BorrowedFd<'_>) -> Result<bool> {
    // Only memfds and files of a tmpfs answer this; others say EINVAL.
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    if seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)) {
        return Ok(true);
    }
    let mode = fstat(file).call(|| format!("fstat({})", crate::fd::describe(file)))?.st_mode & 0o7777;
    Ok(mode == MARK && mount::fs_magic(file)? == libc::TMPFS_MAGIC && mount::flags_of(file)? & libc::MS_RDONLY != 0)
}
