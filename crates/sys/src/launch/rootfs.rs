//! The root of a container, put together by the child. Every path inside it goes through `path`; every mount is
//! made on a descriptor. Where the kernel has the descriptor calls (5.2; attributes 5.12) they are used; where they
//! are refused, mount(2) on /proc/self/fd/N.

use super::error::LaunchError;
use super::nodes::{copy_program, make_device, mask_path, readonly_path, symlink};
use super::overlay::{overlay_at, overlay_tree};
use super::plan::{Mount, MountPoint, MountSource, Propagation, Step, Tree};
use super::run::Child;
use super::shared::must_be_shared;
use crate::error::{Context, Error, Result};
use crate::fd::describe;
use crate::mount::{self, MS_NOSYMFOLLOW, MountAttr, NewFilesystem};
use crate::path::{create_file_in_root, kind_of, mkdirs_in_root, open_child, open_in_root, parent_in_root};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The root that steps work in: the one being put together, or after that simply `/`.
#[derive(Debug, Default)]
pub(super) struct Root(std::cell::OnceCell<OwnedFd>);

impl Root {
    pub(super) fn at(fd: OwnedFd) -> Self {
        Self(std::cell::OnceCell::from(fd))
    }

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

pub(super) fn open_path(path: &Path) -> Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| format!("open({}, O_PATH)", path.display()))
}

/// What a classic bind mount takes. A descriptor from before our mount namespace was copied is on a mount of the old
/// one, which mount(2) refuses (EINVAL): the same file is opened again by its name, on our copy of that mount.
fn open_bind_source(path: &Path) -> Result<OwnedFd> {
    let source = open_path(path)?;
    if !path.starts_with("/proc/self/fd") {
        return Ok(source);
    }
    let link = format!("/proc/self/fd/{}", source.as_raw_fd());
    let name = std::fs::read_link(&link).call(|| format!("readlink({link})"))?;
    let Ok(again) = open_path(&name) else { return Ok(source) };
    same_file(source.as_fd(), again.as_fd())?;
    Ok(again)
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
        Step::ProcAt(at) => {
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            Ok(mount::mount("proc", at, "proc", flags, "")?)
        }
        Step::CloneTree { .. } => clone_tree(child, step),
        Step::AdoptTree { tree, fd, set, clear } => {
            let made = child.fd(*fd).try_clone_to_owned().call(|| "fcntl(F_DUPFD_CLOEXEC)".into())?;
            let attr =
                MountAttr { set: mount::attributes(*set), clear: mount::attributes(*clear), ..MountAttr::default() };
            if attr != MountAttr::default() {
                mount::set_attributes(made.as_fd(), false, attr)?;
            }
            child.trees.insert(*tree, made);
            Ok(())
        }
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
        Step::CopyProgram { program, path } => Ok(copy_program(child.root.fd()?, child.fd(*program), path)?),
        Step::ReadonlyPath(path) => {
            readonly_path(child.root.fd()?, path).map_err(|e| at(path, "make read-only", e.into()))
        }
        Step::MaskPath(path) => mask_path(child.root.fd()?, path).map_err(|error| at(path, "mask", error)),
        Step::RemountReadonly(path) => {
            let target = open_in_root(child.root.fd()?, path, OFlag::O_PATH)?;
            Ok(change_flags(target.as_fd(), libc::MS_RDONLY, 0)?)
        }
        Step::PivotRoot => Ok(pivot_root(child.root.fd()?)?),
        Step::MoveRoot { attached } => Ok(move_root(child.root.fd()?, *attached)?),
        Step::Chroot(path) => {
            nix::unistd::chroot(path).call(|| format!("chroot({})", path.display()))?;
            Ok(nix::unistd::chdir("/").call(|| "chdir(/)".into())?)
        }
        Step::ReadonlyRoot => {
            let path = Path::new("/");
            let root = open_path(path)?;
            // By its name: this root may have no /proc.
            Ok(change_flags_at(root.as_fd(), path, libc::MS_RDONLY, 0)?)
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
pub(super) fn private_mount_of(path: &Path) -> Result<()> {
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

fn clone_tree(child: &mut Child<'_>, step: &Step) -> Result<(), LaunchError> {
    let Step::CloneTree { tree, path, fd, recursive, set, clear, propagation, recursive_set, recursive_clear } = step
    else {
        return Ok(());
    };
    if *propagation == Propagation::Shared {
        match fd {
            Some(fd) => must_be_shared(child.fd(*fd), path)?,
            None => must_be_shared(open_path(path)?.as_fd(), path)?,
        }
    }
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
    guard_procfs(point.as_fd(), &mount.destination)?;
    match &mount.source {
        MountSource::Filesystem { fstype, source, data } => {
            // A tmpfs over a directory of the image takes its mode, as runc has it.
            let data = if fstype == "tmpfs" && !data.contains("mode=") {
                let mode = fstat(&point).call(|| format!("fstat({})", describe(&point)))?.st_mode & 0o7777;
                format!("mode={mode:o}{}{data}", if data.is_empty() { "" } else { "," })
            } else {
                data.clone()
            };
            let spare = child.spares.take(&mount.destination);
            let root = child.root.fd()?;
            let mounted = || open_in_root(root, &mount.destination, OFlag::O_PATH);
            match mount_inside(point.as_fd(), mounted, mount.set, fstype, source, &data) {
                // Not ours to make in this user namespace: the host's own is shown.
                Err(error) if matches!(error.errno(), Errno::EPERM | Errno::EBUSY) && spare.is_some() => {
                    if let Some(tree) = spare {
                        mount::move_mount(tree.as_fd(), point.as_fd())?;
                    }
                }
                other => other?,
            }
            if let Some(propagation) = mount.propagation {
                let mounted = open_in_root(child.root.fd()?, &mount.destination, OFlag::O_PATH)?;
                set_propagation(mounted.as_fd(), propagation)?;
            }
            Ok(())
        }
        MountSource::Remount { data, bind } => {
            let bind = if *bind { libc::MS_BIND } else { 0 };
            Ok(mount::remount(point.as_fd(), mount.set | bind, data)?)
        }
        MountSource::Tree(tree) => {
            let tree = take(child, *tree)?;
            Ok(mount::move_mount(tree.as_fd(), point.as_fd())?)
        }
        MountSource::Bind { path, verify, recursive } => {
            let source = match verify {
                Some(verify) => here_again(child.fd(*verify))?,
                None => open_bind_source(path)?,
            };
            if mount.propagation == Some(Propagation::Shared) {
                must_be_shared(source.as_fd(), path)?;
            }
            mount::bind(&mount::at(source.as_fd()), &mount::at(point.as_fd()), *recursive)?;
            // `point` is what lies below the new mount: the mount itself is found by its path again.
            let mounted = open_in_root(child.root.fd()?, &mount.destination, OFlag::O_PATH)?;
            same_file(source.as_fd(), mounted.as_fd())?;
            // First, so that nothing is mounted into it meanwhile.
            set_propagation(mounted.as_fd(), mount.propagation.unwrap_or(Propagation::Private))?;
            if mount.set | mount.clear != 0 {
                change_flags(mounted.as_fd(), mount.set, mount.clear)?;
            }
            if mount.recursive_set | mount.recursive_clear != 0 {
                super::recursive::set_attributes(mounted.as_fd(), mount.recursive_set, mount.recursive_clear)?;
            }
            Ok(())
        }
    }
}

/// What is open here, as this mount namespace has it: a mount of another one cannot be bound. By its name, which leads
/// to the same file or to an error.
fn here_again(opened: BorrowedFd<'_>) -> Result<OwnedFd> {
    let name = std::fs::read_link(mount::at(opened)).call(|| format!("readlink({})", describe(opened)))?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = nix::fcntl::open(&name, flags, Mode::empty()).call(|| format!("open({}, O_PATH)", name.display()))?;
    same_file(found.as_fd(), opened)?;
    Ok(found)
}

/// Where the destination is in truth, after all links of the image: a plan's words are not enough.
pub(super) fn guard_procfs(point: BorrowedFd<'_>, destination: &Path) -> Result<(), LaunchError> {
    let is_allowed =
        destination == Path::new("/proc") || mount::PROC_MOUNTABLE.iter().any(|path| destination == Path::new(path));
    if is_allowed || mount::fs_magic(point)? != libc::PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(LaunchError::Unsupported(format!("{destination:?} cannot be mounted because it is inside /proc")))
}

pub(super) fn same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<()> {
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
        MountPoint::Mounted => open_in_root(root, &mount.destination, OFlag::O_PATH),
        MountPoint::NotFollowed { directory } => {
            let (parent, name) = parent_in_root(root, &mount.destination)?;
            if kind_of(parent.as_fd(), name)?.is_some() {
                open_child(parent.as_fd(), name, OFlag::O_PATH)
            } else if directory {
                mkdirs_in_root(root, &mount.destination, 0o755)
            } else {
                create_file_in_root(root, &mount.destination, 0o644)
            }
        }
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

/// `mounted` finds what was mounted on `point`, which then lies below it.
pub(super) fn mount_filesystem(
    point: BorrowedFd<'_>,
    mounted: impl Fn() -> Result<OwnedFd>,
    flags: u64,
    fstype: &str,
    source: &str,
    given: &str,
) -> Result<()> {
    let data = &if fstype == "tmpfs" { without_copy_up(given) } else { given.to_owned() };
    let copy_up = data.len() != given.len();
    let detached = || {
        let new = NewFilesystem::open(fstype)?;
        new.set("source", source)?;
        new.set_data(data)?;
        new.set_superblock(flags)?;
        let made = new.mount(flags)?;
        if copy_up {
            super::copyup::copy_up(point, made.as_fd())?;
        }
        mount::move_mount(made.as_fd(), point)
    };
    or_classic(detached(), || {
        // What a tmpfs copies must be written to it first.
        let late = if copy_up { libc::MS_RDONLY } else { 0 };
        mount::mount(source, &mount::at(point), fstype, flags & !late, data)?;
        if copy_up {
            let made = mounted()?;
            if mount::fs_magic(&made)? != libc::TMPFS_MAGIC {
                return Err(Error::new(format!("{} is not the new tmpfs", describe(&made)), Errno::ESTALE));
            }
            super::copyup::copy_up(point, made.as_fd())?;
            if flags & late != 0 {
                change_flags(mounted()?.as_fd(), late, 0)?;
            }
        }
        if flags & MS_NOSYMFOLLOW != 0 { has_nosymfollow(mounted()?.as_fd(), flags) } else { Ok(()) }
    })
}

/// Where any of the descriptor calls is refused, the classic one; its answer counts.
pub(super) fn or_classic(detached: Result<()>, classic: impl FnOnce() -> Result<()>) -> Result<()> {
    match detached {
        Err(error) if error.is_refused() => classic(),
        other => other,
    }
}

/// As `mount_filesystem`; a devpts whose group is not mapped in this user namespace keeps root's (crun does the same).
fn mount_inside(
    point: BorrowedFd<'_>,
    mounted: impl Fn() -> Result<OwnedFd>,
    flags: u64,
    fstype: &str,
    source: &str,
    data: &str,
) -> Result<()> {
    let made = mount_filesystem(point, &mounted, flags, fstype, source, data);
    let without_group = || {
        let kept: Vec<&str> = data.split(',').filter(|option| !option.starts_with("gid=")).collect();
        kept.join(",")
    };
    match made {
        Err(error) if fstype == "devpts" && error.errno() == Errno::EINVAL && without_group() != data => {
            mount_filesystem(point, mounted, flags, fstype, source, &without_group())
        }
        other => other,
    }
}

/// Flags of an existing mount: set and cleared, the others kept.
pub(super) fn change_flags(mounted: BorrowedFd<'_>, set: u64, clear: u64) -> Result<()> {
    change_flags_at(mounted, &mount::at(mounted), set, clear)
}

/// `path` leads to the same mount.
fn change_flags_at(mounted: BorrowedFd<'_>, path: &Path, set: u64, clear: u64) -> Result<()> {
    let attr =
        MountAttr { set: mount::attributes(set), clear: mount::attributes(clear & !set), ..MountAttr::default() };
    match mount::set_attributes(mounted, false, attr) {
        Err(error) if error.errno() == Errno::ENOSYS || error.errno() == Errno::EPERM => {
            let now = mount::flags_of(mounted)?;
            let flags = (now & !clear) | set;
            mount::change(path, libc::MS_BIND | libc::MS_REMOUNT | flags).map_err(|error| {
                // What a more privileged user namespace has set (oci.md §1.3.4).
                match (error.errno(), now & clear & !set) {
                    (Errno::EPERM, locked) if locked != 0 => Error::new(
                        format!("cannot clear locked flags {}: {error}", mount::flag_list(locked)),
                        Errno::EPERM,
                    ),
                    _ => error,
                }
            })?;
            has_nosymfollow(mounted, set)
        }
        other => other,
    }
}

/// A flag of 5.10 that older kernels ignore without a word.
fn has_nosymfollow(mounted: BorrowedFd<'_>, set: u64) -> Result<()> {
    if set & MS_NOSYMFOLLOW != 0 && mount::flags_of(mounted)? & MS_NOSYMFOLLOW == 0 {
        return Err(Error::new(
            format!("mount({}, nosymfollow), which is of Linux 5.10", describe(mounted)),
            Errno::EINVAL,
        ));
    }
    Ok(())
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

fn move_root(root: BorrowedFd<'_>, attached: bool) -> Result<()> {
    hide_host_filesystems(root)?;
    nix::unistd::fchdir(root).call(|| format!("fchdir({})", describe(root)))?;
    if !attached {
        mount::mount(".", Path::new("/"), "", libc::MS_MOVE, "")?;
    }
    nix::unistd::chroot(".").call(|| "chroot(.)".into())?;
    nix::unistd::chdir("/").call(|| "chdir(/)".into())
}

/// What is below the moved root stays within reach of one who gets out of a chroot: at least no procfs and sysfs of the
/// host's is among it.
fn hide_host_filesystems(root: BorrowedFd<'_>) -> Result<()> {
    let read = std::fs::read_to_string("/proc/self/mountinfo").call(|| "read(/proc/self/mountinfo)".into())?;
    let own = std::fs::read_link(mount::at(root)).unwrap_or_default();
    let is_inside = |point: &Path| own != Path::new("/") && point.starts_with(&own);
    let hidden = read.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (whole, point) = (fields.next()? == "/", Path::new(fields.next()?));
        let fstype = after.split(' ').next()?;
        (whole && matches!(fstype, "proc" | "sysfs") && !is_inside(point)).then(|| point.to_owned())
    });
    let hidden: Vec<PathBuf> = hidden.collect();
    for point in hidden.iter().rev() {
        // Its unmounting must not reach the host. One that cannot go (locked together) is covered.
        let _ = mount::change(point, libc::MS_REC | libc::MS_PRIVATE);
        match mount::unmount_detach(point) {
            Err(error) if matches!(error.errno(), Errno::EINVAL | Errno::EPERM) => {
                mount::mount("tmpfs", point, "tmpfs", libc::MS_RDONLY, "")?;
            }
            other => other?,
        }
    }
    Ok(())
}
