//! The root of a container, put together by the child. Every path inside it goes through `path`; every mount is
//! made on a descriptor. Where the kernel has the descriptor calls (5.2; attributes 5.12) they are used; where they
//! are refused, mount(2) on /proc/self/fd/N.

use super::copy::copy_layers;
use super::error::LaunchError;
use super::plan::{Device, DeviceKind, Mount, MountPoint, MountSource, Overlay, Propagation, Step, Tree};
use super::run::Child;
use crate::error::{Context, Error, Result};
use crate::fd::describe;
use crate::mount::{self, MountAttr, NewFilesystem};
use crate::path::{create_file_in_root, kind_of, mkdirs_in_root, open_child, open_in_root, parent_in_root};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mkdirat, mknodat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The root that steps work in: the one being put together, or after that simply `/`.
#[derive(Debug, Default)]
pub(super) struct Root(std::cell::OnceCell<OwnedFd>);

impl Root {
    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>> {
        if self.0.get().is_none() {
            let opened = open_path(Path::new("/"))?;
            let _ = self.0.set(opened);
        }
        self.0.get().map(AsFd::as_fd).ok_or_else(|| Error::new("open(/)", Errno::ENOENT))
    }

    fn set(&mut self, fd: OwnedFd) {
        self.0 = std::cell::OnceCell::from(fd);
    }

    /// It is `/` from here on, to be opened when somebody asks.
    pub(super) fn forget(&mut self) {
        self.0.take();
    }
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| format!("open({}, O_PATH)", path.display()))
}

pub(super) fn step(child: &mut Child<'_>, step: &Step) -> Result<(), LaunchError> {
    match step {
        Step::MakeDirectories(paths) => Ok(make_directories(paths)?),
        Step::PrivateMountOf(path) => Ok(private_mount_of(path)?),
        Step::PropagateRoot(kind) => Ok(mount::change(Path::new("/"), libc::MS_REC | kind.flag())?),
        Step::OverlayAt(overlay) => overlay_at(child, overlay),
        Step::OverlayTree { overlay, tree } => overlay_tree(child, overlay, *tree),
        Step::BindRoot { path } => Ok(mount::bind(path, path, true)?),
        Step::TmpfsRoot { data, at } => Ok(mount::mount("tmpfs", at, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, data)?),
        Step::CloneTree { .. } => clone_tree(child, step),
        Step::TmpfsTree { tree, data } => {
            let new = NewFilesystem::open("tmpfs")?;
            new.set_data(data)?;
            child.trees.insert(*tree, new.mount(libc::MS_NOSUID | libc::MS_NODEV)?);
            Ok(())
        }
        Step::OpenRoot(path) => {
            child.root.set(open_path(path)?);
            Ok(())
        }
        Step::AttachRoot(tree) => {
            let tree = take(child, *tree)?;
            mount::move_mount_to(tree.as_fd(), Path::new("/"))?;
            child.root.set(tree);
            Ok(())
        }
        Step::Mount(mount) => do_mount(child, mount).map_err(|error| at(&mount.destination, "mount", error)),
        Step::Device(device) => make_device(child, device).map_err(|error| at(&device.path, "make device", error)),
        Step::Symlink { path, target, replace } => Ok(symlink(child.root.fd()?, path, target, *replace)?),
        Step::MakeDirectory(path) => {
            let _ = mkdirs_in_root(child.root.fd()?, path, 0o755);
            Ok(())
        }
        Step::ReadonlyPath(path) => {
            readonly_path(child.root.fd()?, path).map_err(|e| at(path, "make read-only", e.into()))
        }
        Step::MaskPath(path) => mask_path(child.root.fd()?, path).map_err(|error| at(path, "mask", error)),
        Step::RemountReadonly(path) => {
            let target = open_in_root(child.root.fd()?, path, OFlag::O_PATH)?;
            Ok(change_flags(target.as_fd(), libc::MS_RDONLY, 0)?)
        }
        Step::PivotRoot => Ok(pivot_root(child.root.fd()?)?),
        Step::Chroot(path) => {
            nix::unistd::chroot(path).call(|| format!("chroot({})", path.display()))?;
            Ok(nix::unistd::chdir("/").call(|| "chdir(/)".into())?)
        }
        Step::ReadonlyRoot => {
            let root = open_path(Path::new("/"))?;
            Ok(change_flags(root.as_fd(), libc::MS_RDONLY, 0)?)
        }
        other => Err(LaunchError::Unsupported(format!("{other:?} is no step of a root"))),
    }
}

fn at(path: &Path, doing: &str, error: LaunchError) -> LaunchError {
    match error {
        LaunchError::Call(error) => LaunchError::Step { doing: format!("{doing} {}", path.display()), error },
        other => other,
    }
}

fn take(child: &mut Child<'_>, tree: Tree) -> Result<OwnedFd> {
    child.trees.remove(&tree).ok_or_else(|| Error::new(format!("{tree}: no such tree"), Errno::ENOENT))
}

/// Only what is missing is made; parents are passable, the directories themselves closed to others by their parent.
fn make_directories(paths: &[PathBuf]) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    for path in paths {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .call(|| format!("mkdir({})", path.display()))?;
    }
    Ok(())
}

/// Climbs from the path until something is a mount point: mount(2) says EINVAL of anything else.
fn private_mount_of(path: &Path) -> Result<()> {
    let mut here = path;
    loop {
        match mount::change(here, libc::MS_PRIVATE) {
            Err(error) if error.errno() == Errno::EINVAL => match here.parent() {
                Some(parent) => here = parent,
                None => return Err(error),
            },
            other => return other,
        }
    }
}

/// `volatile` (5.10) spares the upper layer's sync at unmount, 3 ms of it (performance.md §1.3); an attempt's upper
/// layer is never used twice.
const VOLATILE: &str = "volatile";

/// What a kernel or file system says that cannot have an overlay here.
fn is_overlay_refused(error: &Error) -> bool {
    matches!(
        error.errno(),
        Errno::EINVAL | Errno::ENODEV | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EREMOTE
    )
}

fn overlay_at(child: &mut Child<'_>, overlay: &Overlay) -> Result<(), LaunchError> {
    match overlay_classic(overlay) {
        Ok(()) => Ok(()),
        Err(error) if is_overlay_refused(&error) && overlay.lowers.iter().all(|lower| lower.is_dir()) => {
            child.warn(format!("{error}; the root file system is copied"));
            copy_layers(&overlay.lowers, &overlay.at)?;
            Ok(mount::bind(&overlay.at, &overlay.at, true)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn overlay_classic(overlay: &Overlay) -> Result<()> {
    let mut data = overlay.data();
    let mut layers = Vec::new();
    if data.len() + VOLATILE.len() >= mount::MOUNT_DATA_BYTES_MAX {
        // One page holds 250 layers by descriptor, and 40 by the paths of an image store.
        for lower in &overlay.lowers {
            layers.push(open_path(lower)?);
        }
        let short = layers.iter().map(|layer| mount::at(layer.as_fd())).collect();
        data = Overlay { lowers: short, ..overlay.clone() }.data();
    }
    if data.len() + VOLATILE.len() >= mount::MOUNT_DATA_BYTES_MAX {
        let call = format!("mount(overlay of {} layers, {} bytes of names)", overlay.lowers.len(), data.len());
        return Err(Error::new(call, Errno::E2BIG));
    }
    let volatile = format!("{data},{VOLATILE}");
    if overlay.upper.is_some() && mount::mount("overlay", &overlay.at, "overlay", 0, &volatile).is_ok() {
        return Ok(());
    }
    mount::mount("overlay", &overlay.at, "overlay", 0, &data)
}

fn overlay_tree(child: &mut Child<'_>, overlay: &Overlay, tree: Tree) -> Result<(), LaunchError> {
    let made = match overlay_detached(overlay) {
        Ok(made) => made,
        // Too many layers for the new call on this kernel, or no overlay at all: a private mount namespace, where a
        // classic mount is seen by nobody, and a clone of it.
        Err(_) => {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).call(|| "unshare(CLONE_NEWNS)".into())?;
            private_mount_of(&overlay.at)?;
            overlay_at(child, overlay)?;
            mount::clone_tree(None, &overlay.at, false)?
        }
    };
    child.trees.insert(tree, made);
    Ok(())
}

fn overlay_detached(overlay: &Overlay) -> Result<OwnedFd> {
    let new = NewFilesystem::open("overlay")?;
    new.set("source", "overlay")?;
    let joined = overlay.lowers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    if joined.len() <= mount::FSCONFIG_VALUE_BYTES_MAX {
        new.set("lowerdir", &joined)?;
    } else {
        for lower in &overlay.lowers {
            new.set("lowerdir+", &lower.display().to_string())?;
        }
    }
    if let Some((upper, work)) = &overlay.upper {
        new.set("upperdir", &upper.display().to_string())?;
        new.set("workdir", &work.display().to_string())?;
        let _ = new.set_flag(VOLATILE);
    }
    new.mount(0)
}

fn clone_tree(child: &mut Child<'_>, step: &Step) -> Result<(), LaunchError> {
    let Step::CloneTree { tree, path, fd, recursive, set, clear, propagation, recursive_set, recursive_clear } = step
    else {
        return Ok(());
    };
    let clone = || -> Result<OwnedFd> {
        let cloned = match fd {
            Some(fd) => mount::clone_tree(Some(child.fd(*fd)), Path::new(""), *recursive)?,
            None => mount::clone_tree(None, path, *recursive)?,
        };
        // Propagation for the whole tree first: a clone of a shared mount stays in the host's peer group otherwise.
        let attr = MountAttr { propagation: propagation.flag(), ..MountAttr::default() };
        let shared_source = *propagation == Propagation::Shared;
        if !shared_source {
            mount::set_attributes(cloned.as_fd(), true, attr)?;
        }
        let attr = MountAttr { set: mount::attributes(*set), clear: mount::attributes(*clear), ..MountAttr::default() };
        if attr != MountAttr::default() {
            mount::set_attributes(cloned.as_fd(), false, attr)?;
        }
        if recursive_set | recursive_clear != 0 {
            let attr = MountAttr { set: *recursive_set, clear: *recursive_clear, ..MountAttr::default() };
            mount::set_attributes(cloned.as_fd(), true, attr)?;
        }
        Ok(cloned)
    };
    let cloned = clone().map_err(|error| at(path, "prepare", error.into()))?;
    child.trees.insert(*tree, cloned);
    Ok(())
}

fn do_mount(child: &mut Child<'_>, mount: &Mount) -> Result<(), LaunchError> {
    let point = mount_point(child.root.fd()?, mount)?;
    match &mount.source {
        MountSource::Filesystem { fstype, source, data } => {
            // A tmpfs over a directory of the image takes its mode, as runc has it.
            let data = if fstype == "tmpfs" && !data.contains("mode=") {
                let mode = fstat(&point).call(|| format!("fstat({})", describe(&point)))?.st_mode & 0o7777;
                format!("mode={mode:o}{}{data}", if data.is_empty() { "" } else { "," })
            } else {
                data.clone()
            };
            mount_filesystem(point.as_fd(), mount.set, fstype, source, &data)?;
            if let Some(propagation) = mount.propagation {
                let mounted = open_in_root(child.root.fd()?, &mount.destination, OFlag::O_PATH)?;
                set_propagation(mounted.as_fd(), propagation)?;
            }
            Ok(())
        }
        MountSource::Tree(tree) => {
            let tree = take(child, *tree)?;
            Ok(mount::move_mount(tree.as_fd(), point.as_fd())?)
        }
        MountSource::Bind { path, verify, recursive } => {
            let source = open_path(path)?;
            if let Some(verify) = verify {
                same_file(source.as_fd(), child.fd(*verify))?;
            }
            mount::bind(&mount::at(source.as_fd()), &mount::at(point.as_fd()), *recursive)?;
            // `point` is what lies below the new mount: the mount itself is found by its path again.
            let mounted = open_in_root(child.root.fd()?, &mount.destination, OFlag::O_PATH)?;
            same_file(source.as_fd(), mounted.as_fd())?;
            if mount.set | mount.clear != 0 {
                change_flags(mounted.as_fd(), mount.set, mount.clear)?;
            }
            if mount.recursive_set | mount.recursive_clear != 0 {
                let attr = MountAttr { set: mount.recursive_set, clear: mount.recursive_clear, ..MountAttr::default() };
                mount::set_attributes(mounted.as_fd(), true, attr)?;
            }
            set_propagation(mounted.as_fd(), mount.propagation.unwrap_or(Propagation::Private))?;
            Ok(())
        }
    }
}

fn same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<()> {
    let (a, b) = (fstat(one), fstat(other));
    let (a, b) = (a.call(|| format!("fstat({})", describe(one)))?, b.call(|| format!("fstat({})", describe(other)))?);
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        Ok(())
    } else {
        Err(Error::new(format!("{} is no longer {}", describe(one), describe(other)), Errno::ESTALE))
    }
}

fn mount_point(root: BorrowedFd<'_>, mount: &Mount) -> Result<OwnedFd> {
    match mount.point {
        MountPoint::Directory => mkdirs_in_root(root, &mount.destination, 0o755),
        MountPoint::File => create_file_in_root(root, &mount.destination, 0o644),
        MountPoint::OrdinaryDirectory => {
            let (parent, name) = parent_in_root(root, &mount.destination)?;
            if kind_of(parent.as_fd(), name)?.is_none() {
                mkdirat(&parent, name, Mode::from_bits_truncate(0o755))
                    .call(|| format!("mkdir(root{})", mount.destination.display()))?;
            }
            let opened = open_child(parent.as_fd(), name, OFlag::O_PATH)?;
            let kind = fstat(&opened).call(|| format!("fstat({})", describe(&opened)))?.st_mode & SFlag::S_IFMT.bits();
            if kind == SFlag::S_IFDIR.bits() {
                Ok(opened)
            } else {
                let path = mount.destination.display();
                Err(Error::new(format!("filesystem must be mounted on ordinary directory {path}"), Errno::ENOTDIR))
            }
        }
    }
}

/// An option of the runtimes', not of the file system.
fn without_copy_up(data: &str) -> String {
    data.split(',').filter(|option| *option != "tmpcopyup").collect::<Vec<_>>().join(",")
}

fn mount_filesystem(point: BorrowedFd<'_>, flags: u64, fstype: &str, source: &str, given: &str) -> Result<()> {
    let data = given;
    let data = &if fstype == "tmpfs" { without_copy_up(data) } else { data.to_owned() };
    let copy_up = fstype == "tmpfs" && data.len() != given.len();
    let detached = || {
        let new = NewFilesystem::open(fstype)?;
        new.set("source", source)?;
        new.set_data(data)?;
        let made = new.mount(flags)?;
        if copy_up {
            super::copyup::copy_up(point, made.as_fd())?;
        }
        mount::move_mount(made.as_fd(), point)
    };
    if copy_up {
        // The classic call has nothing to copy to before it hides what is to be copied.
        return detached();
    }
    or_classic(detached(), || mount::mount(source, &mount::at(point), fstype, flags, data))
}

/// Where any of the descriptor calls is refused, the classic one; its answer counts.
fn or_classic(detached: Result<()>, classic: impl FnOnce() -> Result<()>) -> Result<()> {
    match detached {
        Err(error) if error.is_refused() => classic(),
        other => other,
    }
}

/// Flags of an existing mount: set and cleared, the others kept.
fn change_flags(mounted: BorrowedFd<'_>, set: u64, clear: u64) -> Result<()> {
    let attr =
        MountAttr { set: mount::attributes(set), clear: mount::attributes(clear & !set), ..MountAttr::default() };
    match mount::set_attributes(mounted, false, attr) {
        Err(error) if error.errno() == Errno::ENOSYS || error.errno() == Errno::EPERM => {
            let now = mount::flags_of(mounted)?;
            let flags = (now & !clear) | set;
            mount::change(&mount::at(mounted), libc::MS_BIND | libc::MS_REMOUNT | flags)
        }
        other => other,
    }
}

fn set_propagation(mounted: BorrowedFd<'_>, propagation: Propagation) -> Result<()> {
    if propagation == Propagation::Shared {
        // A bind of a shared mount is its peer already; making it shared anew would be a group of its own.
        return Ok(());
    }
    let attr = MountAttr { propagation: propagation.flag(), ..MountAttr::default() };
    match mount::set_attributes(mounted, true, attr) {
        Err(error) if error.errno() == Errno::ENOSYS || error.errno() == Errno::EPERM => {
            mount::change(&mount::at(mounted), libc::MS_REC | propagation.flag())
        }
        other => other,
    }
}

/// One file over another, both by descriptor.
pub(super) fn bind_fd(source: BorrowedFd<'_>, point: BorrowedFd<'_>) -> Result<()> {
    let detached = || mount::move_mount(mount::clone_tree(Some(source), Path::new(""), false)?.as_fd(), point);
    or_classic(detached(), || mount::bind(&mount::at(source), &mount::at(point), false))
}

fn make_device(child: &mut Child<'_>, device: &Device) -> Result<(), LaunchError> {
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
            // Without the right to make it (a user namespace): the host's node is bound.
            let host = open_path(&Path::new("/dev").join(name))?;
            is_device(host.as_fd(), kind, number, call)?;
            let point = create_file_in_root(root, &device.path, 0)?;
            return Ok(bind_fd(host.as_fd(), point.as_fd())?);
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

fn symlink(root: BorrowedFd<'_>, path: &Path, target: &Path, replace: bool) -> Result<()> {
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

/// None: there is nothing to protect.
fn open_to_protect(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match open_in_root(root, path, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

fn readonly_path(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
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

fn mask_path(root: BorrowedFd<'_>, path: &Path) -> Result<(), LaunchError> {
    let Some(target) = open_to_protect(root, path)? else { return Ok(()) };
    let kind = fstat(&target).call(|| format!("fstat({})", describe(&target)))?.st_mode & SFlag::S_IFMT.bits();
    if kind != SFlag::S_IFDIR.bits() {
        let null = open_null(root)?;
        return Ok(bind_fd(null.as_fd(), target.as_fd())?);
    }
    let mask = |inodes: u32| {
        let data = format!("nr_blocks=1,nr_inodes={inodes}");
        mount_filesystem(target.as_fd(), libc::MS_RDONLY, "tmpfs", "tmpfs", &data)
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

fn pivot_root(root: BorrowedFd<'_>) -> Result<()> {
    let old = nix::fcntl::open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| "open(/, O_PATH)".into())?;
    let enter = |fd: BorrowedFd<'_>| nix::unistd::fchdir(fd).call(|| format!("fchdir({})", describe(fd)));
    enter(root)?;
    mount::pivot_root_here()?;
    // The old root now lies over the new one. Its unmounting must not reach the host: a slave gives nothing back.
    enter(old.as_fd())?;
    mount::change(Path::new("."), libc::MS_REC | libc::MS_SLAVE)?;
    {
        use nix::mount::{MntFlags, umount2};
        umount2(".", MntFlags::MNT_DETACH).call(|| "umount2(., MNT_DETACH)".into())?;
    }
    nix::unistd::chdir("/").call(|| "chdir(/)".into())
}
