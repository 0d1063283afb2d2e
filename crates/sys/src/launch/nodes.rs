//! Single files of a root: device nodes and links made, paths of /proc and /sys hidden or made read-only.

use super::error::LaunchError;
use super::plan::{Device, DeviceKind};
use super::rootfs::{bind_fd, change_flags, mount_filesystem, open_path, or_classic};
use super::run::Child;
use crate::error::{Context, Error, Result};
use crate::fd::describe;
use crate::mount::{self, MountAttr};
use crate::path::{create_file_in_root, open_child, open_in_root, parent_in_root};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub(super) fn make_device(child: &mut Child<'_>, device: &Device) -> Result<(), LaunchError> {
    let spare = child.spares.take(&device.path);
    let root = child.root.fd()?;
    let (parent, name) = parent_in_root(root, &device.path)?;
    let (kind, number) = match device.kind {
        DeviceKind::Char => (SFlag::S_IFCHR, makedev(device.major.into(), device.minor.into())),
        DeviceKind::Block => (SFlag::S_IFBLK, makedev(device.major.into(), device.minor.into())),
        DeviceKind::Fifo => (SFlag::S_IFIFO, 0),
    };
    let call = || format!("mknodat({}, {name:?}, {}:{})", describe(&parent), device.major, device.minor);
    match mknodat(&parent, name, kind, Mode::from_bits_truncate(device.mode), number) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(Errno::EPERM) => {
            // Without the right to make it (a user namespace): the host's node of the same name is bound.
            let refused = || Error::new(format!("{}; and the host has no such node to bind", call()), Errno::EPERM);
            let host = match &spare {
                Some(tree) => tree.try_clone().call(|| "fcntl(F_DUPFD_CLOEXEC)".into())?,
                None => open_path(&Path::new("/dev").join(name)).map_err(|error| match error.errno() {
                    Errno::ENOENT => refused(),
                    _ => error,
                })?,
            };
            is_device(host.as_fd(), kind, number, call)?;
            let point = create_file_in_root(root, &device.path, 0)?;
            match spare {
                Some(tree) => mount::move_mount(tree.as_fd(), point.as_fd())?,
                None => bind_fd(host.as_fd(), point.as_fd())?,
            }
            return Ok(());
        }
        Err(errno) => return Err(Error::new(call(), errno).into()),
    }
    let made = open_child(parent.as_fd(), name, OFlag::O_PATH)?;
    is_device(made.as_fd(), kind, number, call)?;
    if (device.uid, device.gid) != (0, 0) {
        use nix::fcntl::AtFlags;
        let (uid, gid) = (nix::unistd::Uid::from_raw(device.uid), nix::unistd::Gid::from_raw(device.gid));
        nix::unistd::fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .call(|| format!("fchownat({}, {name:?}, {uid}, {gid})", describe(&parent)))?;
    }
    Ok(())
}

fn is_device(fd: BorrowedFd<'_>, kind: SFlag, number: u64, call: impl Fn() -> String) -> Result<()> {
    let stat = fstat(fd).call(&call)?;
    let is_same =
        stat.st_mode & SFlag::S_IFMT.bits() == kind.bits() && (kind == SFlag::S_IFIFO || stat.st_rdev == number);
    if is_same { Ok(()) } else { Err(Error::new(call(), Errno::EEXIST)) }
}

pub(super) fn symlink(root: BorrowedFd<'_>, path: &Path, target: &Path, replace: bool) -> Result<()> {
    let (parent, name) = parent_in_root(root, path)?;
    let call = || format!("symlinkat({}, root{})", target.display(), path.display());
    match nix::unistd::symlinkat(target, &parent, name) {
        Err(Errno::EEXIST) if replace => {
            use nix::unistd::{UnlinkatFlags, unlinkat};
            unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir).call(call)?;
            nix::unistd::symlinkat(target, &parent, name).call(call)
        }
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(Error::new(call(), errno)),
    }
}

/// Readable and executable by whoever the process will be.
pub(super) fn copy_program(root: BorrowedFd<'_>, program: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let call = || format!("copy({}, root{})", describe(program), path.display());
    let (parent, name) = parent_in_root(root, path)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = nix::fcntl::openat(&parent, name, flags, Mode::from_bits_truncate(0o555)).call(call)?;
    let mut from = std::fs::File::from(crate::path::reopen(program, OFlag::O_RDONLY)?);
    std::io::copy(&mut from, &mut std::fs::File::from(made)).call(call).map(drop)
}

/// None: there is nothing to protect.
fn open_to_protect(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match open_in_root(root, path, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn readonly_path(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let Some(target) = open_to_protect(root, path)? else { return Ok(()) };
    let detached = || {
        let tree = mount::clone_tree(Some(target.as_fd()), Path::new(""), true)?;
        let attr = MountAttr { set: mount::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        mount::set_attributes(tree.as_fd(), false, attr)?;
        mount::move_mount(tree.as_fd(), target.as_fd())
    };
    or_classic(detached(), || {
        let here = mount::at(target.as_fd());
        mount::bind(&here, &here, true)?;
        let mounted = open_in_root(root, path, OFlag::O_PATH)?;
        change_flags(mounted.as_fd(), libc::MS_RDONLY, 0)
    })
}

pub(super) fn mask_path(root: BorrowedFd<'_>, path: &Path) -> Result<(), LaunchError> {
    let Some(target) = open_to_protect(root, path)? else { return Ok(()) };
    let kind = fstat(&target).call(|| format!("fstat({})", describe(&target)))?.st_mode & SFlag::S_IFMT.bits();
    if kind != SFlag::S_IFDIR.bits() {
        let null = open_null(root)?;
        return Ok(bind_fd(null.as_fd(), target.as_fd())?);
    }
    let mask = |inodes: u32| {
        let data = format!("nr_blocks=1,nr_inodes={inodes}");
        let mounted = || open_in_root(root, path, OFlag::O_PATH);
        mount_filesystem(target.as_fd(), mounted, libc::MS_RDONLY, "tmpfs", "tmpfs", &data)
    };
    // Some 5.4 kernels want two inodes.
    match mask(1) {
        Err(error) if error.errno() == Errno::EINVAL => Ok(mask(2)?),
        other => Ok(other?),
    }
}

/// The container's own null device, verified: a mask made of anything else would open what it should hide
/// (CVE-2025-31133).
fn open_null(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let dev = open_in_root(root, Path::new("/dev"), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    let null = open_child(dev.as_fd(), "null".as_ref(), OFlag::O_PATH)?;
    is_device(null.as_fd(), SFlag::S_IFCHR, makedev(1, 3), || "root/dev/null is not the null device 1:3".into())?;
    Ok(null)
}
