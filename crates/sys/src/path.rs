//! Paths that somebody else controls, resolved inside a root: symlinks and `..` end at the root, magic links of
//! /proc are refused. `openat2(RESOLVE_IN_ROOT)` where the kernel has it (5.6), else a walk of one component at a time
//! on O_PATH descriptors. The CVEs that this exists for: 2019-18837, 2021-30465, 2024-45310, 2026-41579, 2026-47766.

use crate::error::{Context, Error, Result, check};
use crate::fd::{describe, own};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Symlinks followed in one resolution, as the kernel's own limit.
pub const SYMLINKS_MAX: usize = 40;
/// A rename beside us makes openat2 say EAGAIN: tries before the error is believed.
const RACED_TRIES_MAX: usize = 128;

/// Opens `path` as a process whose root is `root` would see it. O_CLOEXEC is added.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    match openat2(root, path, flags, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS) {
        Err(error) if matches!(error.errno(), Errno::ENOSYS | Errno::EPERM) => walk(root, path, flags),
        other => other,
    }
}

#[allow(unsafe_code)]
fn openat2(root: BorrowedFd<'_>, path: &Path, flags: OFlag, resolve: u64) -> Result<OwnedFd> {
    // An absolute path would be EXDEV without IN_ROOT, and is relative to the root with it.
    let path_c = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::new("openat2", Errno::EINVAL))?;
    // SAFETY: open_how is plain data for which all-zero is a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | OFlag::O_CLOEXEC).bits() as u64;
    how.resolve = resolve;
    for _ in 0..RACED_TRIES_MAX {
        // SAFETY: path and structure outlive the call.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path_c.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match check(opened, || format!("openat2({}, {path:?}, {flags:?}, RESOLVE_IN_ROOT)", describe(root))) {
            Err(error) if matches!(error.errno(), Errno::EAGAIN | Errno::EINTR) => continue,
            other => return other.map(|fd| own(fd as RawFd)),
        }
    }
    Err(Error::new(format!("openat2({}, {path:?}, {flags:?}, RESOLVE_IN_ROOT)", describe(root)), Errno::EAGAIN))
}

/// A file below `root` that no mount, no `..` and no magic link on the way leads to. EXDEV: one would have.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_MAGICLINKS;
    match openat2(root, path, flags, resolve) {
        Err(error) if matches!(error.errno(), Errno::ENOSYS | Errno::EPERM) => walk_beneath(root, path, flags),
        other => other,
    }
}

/// Without openat2 another file system is seen by its device, and one file of the same bound over another by the mount's
/// number, where the kernel tells it.
fn walk_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let call = || format!("walk({}, {path:?}, no mounts)", describe(root));
    let leaves = || Error::new(call(), Errno::EXDEV);
    let device = fstat(root).call(call)?.st_dev;
    let mount = crate::tree::mount_id(root).ok();
    let mut left = names(path);
    let mut here = root.try_clone_to_owned().call(call)?;
    let mut parent = None;
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            return Err(leaves());
        }
        let next = open_child(here.as_fd(), &name, OFlag::O_PATH)?;
        let stat = fstat(&next).call(call)?;
        if stat.st_dev != device || (mount.is_some() && crate::tree::mount_id(next.as_fd()).ok() != mount) {
            return Err(leaves());
        }
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFLNK.bits() {
            parent = Some((std::mem::replace(&mut here, next), name));
            continue;
        }
        links += 1;
        if links > SYMLINKS_MAX || is_magic(here.as_fd(), &name) {
            return Err(Error::new(call(), Errno::ELOOP));
        }
        let target = PathBuf::from(readlinkat(&next, "").call(call)?);
        if target.is_absolute() {
            return Err(leaves());
        }
        for name in names(&target).into_iter().rev() {
            left.push_front(name);
        }
    }
    let (parent, name) = parent.unzip();
    finish(here, parent.as_ref().map(AsFd::as_fd), name.as_deref().unwrap_or_default(), flags, call)
}

/// The same for kernels without openat2. `..` goes back on a stack of descriptors, never through the kernel, so a
/// directory moved meanwhile cannot lead outside.
fn walk(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd> {
    let call = || format!("walk({}, {path:?})", describe(root));
    let dup = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().call(call);
    let mut stack = vec![dup(root)?];
    let mut left: VecDeque<OsString> = names(path);
    let mut links = 0;
    let mut last_name = OsString::new();
    while let Some(name) = left.pop_front() {
        if name == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let here = stack.last().ok_or_else(|| Error::new(call(), Errno::ENOENT))?;
        let next = openat(here, name.as_os_str(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
            .call(call)?;
        let kind = fstat(&next).call(call)?.st_mode & SFlag::S_IFMT.bits();
        let keeps_link = left.is_empty() && flags.contains(OFlag::O_NOFOLLOW);
        if kind != SFlag::S_IFLNK.bits() || keeps_link {
            stack.push(next);
            last_name = name;
            continue;
        }
        links += 1;
        if links > SYMLINKS_MAX {
            return Err(Error::new(call(), Errno::ELOOP));
        }
        // A magic link of procfs has no text that could be followed safely.
        if crate::mount::fs_magic(&next)? == libc::PROC_SUPER_MAGIC && is_magic(here.as_fd(), &name) {
            return Err(Error::new(call(), Errno::ELOOP));
        }
        let target = PathBuf::from(readlinkat(&next, "").call(call)?);
        if target.is_absolute() {
            stack.truncate(1);
        }
        for name in names(&target).into_iter().rev() {
            left.push_front(name);
        }
    }
    let last = stack.pop().ok_or_else(|| Error::new(call(), Errno::ENOENT))?;
    finish(last, stack.last().map(AsFd::as_fd), &last_name, flags, call)
}

/// `self` and `thread-self` are plain symlinks; the rest of procfs's links are magic.
fn is_magic(_dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    !(name == "self" || name == "thread-self" || name == "mounts" || name == "net")
}

/// `last` with the access that `flags` ask for. Not by /proc: a process between two namespaces has none of its own, and
/// in a container's mount namespace it may be anything.
fn finish(
    last: OwnedFd,
    parent: Option<BorrowedFd<'_>>,
    name: &OsStr,
    flags: OFlag,
    call: impl Fn() -> String,
) -> Result<OwnedFd> {
    let looked = fstat(&last).call(&call)?;
    let is_dir = looked.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
    if flags.contains(OFlag::O_DIRECTORY) && !is_dir {
        return Err(Error::new(call(), Errno::ENOTDIR));
    }
    if flags.contains(OFlag::O_PATH) {
        return Ok(last);
    }
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match parent {
        Some(parent) if !is_dir => {
            let opened = openat(parent, name, flags, Mode::empty()).call(&call)?;
            let found = fstat(&opened).call(&call)?;
            let is_same = (found.st_dev, found.st_ino) == (looked.st_dev, looked.st_ino);
            if is_same { Ok(opened) } else { Err(Error::new(call(), Errno::EAGAIN)) }
        }
        _ => openat(&last, ".", flags, Mode::empty()).call(&call),
    }
}

/// Another descriptor of the same file, with access; through this process's /proc.
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd> {
    let path = crate::mount::at(fd);
    nix::fcntl::open(&path, (flags - OFlag::O_NOFOLLOW) | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| format!("open({}, {flags:?})", path.display()))
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// `/a/./b/../c` to `/a/c`, without looking at any file; never above the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for name in names(path) {
        if name == ".." {
            cleaned.pop();
        } else {
            cleaned.push(name);
        }
    }
    cleaned
}

/// `mkdir -p` inside the root; the directory, O_PATH. Existing directories keep their mode.
pub fn mkdirs_in_root(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<OwnedFd> {
    mkdirs(root, &clean(path), mode, 0)
}

fn mkdirs(root: BorrowedFd<'_>, path: &Path, mode: u32, depth: usize) -> Result<OwnedFd> {
    let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
    match open_in_root(root, path, directory) {
        Err(error) if error.errno() == Errno::ENOENT => {}
        other => return other,
    }
    let call = || format!("mkdir(root{}, {mode:04o})", path.display());
    if depth > SYMLINKS_MAX {
        return Err(Error::new(call(), Errno::ELOOP));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(call(), Errno::ENOENT));
    };
    let parent_fd = mkdirs(root, parent, mode, depth)?;
    match mkdirat(&parent_fd, name, Mode::from_bits_truncate(mode)) {
        Ok(()) => open_child(parent_fd.as_fd(), name, directory),
        Err(Errno::EEXIST) => match readlinkat(&parent_fd, name) {
            // A dangling link: what it points to is made, inside the root as everything.
            Ok(target) => mkdirs(root, &clean(&parent.join(target)), mode, depth + 1),
            Err(_) => open_child(parent_fd.as_fd(), name, directory),
        },
        Err(errno) => Err(Error::new(call(), errno)),
    }
}

/// One name below an open directory, never through a symlink.
pub fn open_child(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlag) -> Result<OwnedFd> {
    openat(dir, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .call(|| format!("openat({}, {name:?}, {flags:?}|O_NOFOLLOW)", describe(dir)))
}

/// Directory and last name of a path; the directory is made if missing.
pub fn parent_in_root<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
    let name = path.file_name().ok_or_else(|| Error::new(format!("parent of {path:?}"), Errno::EINVAL))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok((mkdirs_in_root(root, parent, 0o755)?, name))
}

/// An empty file inside the root as a mount point, made if missing; O_PATH.
pub fn create_file_in_root(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<OwnedFd> {
    match open_in_root(root, path, OFlag::O_PATH) {
        Err(error) if error.errno() == Errno::ENOENT => {}
        other => return other,
    }
    let cleaned = clean(path);
    let (parent, name) = parent_in_root(root, &cleaned)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
    match openat(&parent, name, flags, Mode::from_bits_truncate(mode)) {
        Ok(_) => open_child(parent.as_fd(), name, OFlag::O_PATH),
        Err(Errno::EEXIST) => match readlinkat(&parent, name) {
            Ok(target) => {
                let target = clean(&cleaned.parent().unwrap_or(Path::new("/")).join(target));
                if target == cleaned {
                    return Err(Error::new(format!("open(root{})", cleaned.display()), Errno::ELOOP));
                }
                create_target(root, &target, mode)
            }
            Err(_) => open_child(parent.as_fd(), name, OFlag::O_PATH),
        },
        Err(errno) => Err(Error::new(format!("openat({}, {name:?}, O_CREAT|O_EXCL)", describe(&parent)), errno)),
    }
}

/// Where a dangling link pointed: made unless it is a link again.
fn create_target(root: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<OwnedFd> {
    let (parent, name) = parent_in_root(root, path)?;
    let flags = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_WRONLY | OFlag::O_NONBLOCK;
    openat(&parent, name, flags, Mode::from_bits_truncate(mode))
        .call(|| format!("openat({}, {name:?}, O_CREAT|O_NOFOLLOW)", describe(&parent)))?;
    open_child(parent.as_fd(), name, OFlag::O_PATH)
}

/// A regular file of at most `bytes_max` bytes inside the root, whole. ENOENT: there is none. EFBIG: too long.
pub fn read_in_root(root: BorrowedFd<'_>, path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let call = || format!("read(root{})", path.display());
    // Looked at before it is opened: opening a device or a pipe has effects.
    let looked = open_in_root(root, path, OFlag::O_PATH)?;
    let before = fstat(&looked).call(call)?;
    if before.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(Error::new(call(), Errno::EINVAL));
    }
    let file = open_in_root(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
    let after = fstat(&file).call(call)?;
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino) {
        return Err(Error::new(call(), Errno::EAGAIN));
    }
    let mut bytes = Vec::with_capacity((after.st_size as u64).min(bytes_max) as usize + 1);
    std::fs::File::from(file).take(bytes_max + 1).read_to_end(&mut bytes).call(call)?;
    if bytes.len() as u64 > bytes_max { Err(Error::new(call(), Errno::EFBIG)) } else { Ok(bytes) }
}

/// Kind of what `name` is below `dir`, links not followed; None when it is missing.
pub fn kind_of(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<SFlag>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Error::new(format!("fstatat({}, {name:?})", describe(dir)), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        (dir, fd)
    }

    type Open = fn(BorrowedFd<'_>, &Path, OFlag) -> Result<OwnedFd>;

    /// Both ways answer alike: the table of hostile paths is run against each.
    fn check(open: Open) {
        let (dir, root) = root();
        let inside = dir.path();
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        std::fs::write(inside.join("a/b/file"), "x").unwrap();
        std::fs::write(inside.join("etc"), "root's").unwrap();
        for (link, target) in [
            ("abs", "/a/b"),
            ("up", "../../../../../../../etc"),
            ("chain", "abs/file"),
            ("loop", "loop"),
            ("a/rel", "../a/b/file"),
        ] {
            std::os::unix::fs::symlink(target, inside.join(link)).unwrap();
        }
        let ino = |path: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::symlink_metadata(inside.join(path)).unwrap().ino()
        };
        for (path, expected) in [
            ("/a/b/file", "a/b/file"),
            ("a/b/../b/file", "a/b/file"),
            ("/../../a/b", "a/b"),
            ("/abs/file", "a/b/file"),
            ("/abs/../rel", "a/b/file"),
            ("/up", "etc"),
            ("/chain", "a/b/file"),
            ("/", ""),
        ] {
            let opened = open(root.as_fd(), Path::new(path), OFlag::O_PATH).unwrap();
            assert_eq!(fstat(&opened).unwrap().st_ino, ino(expected), "{path}");
        }
        for (path, errno) in [("/loop", Errno::ELOOP), ("/nosuch", Errno::ENOENT), ("/etc/x", Errno::ENOTDIR)] {
            assert_eq!(open(root.as_fd(), Path::new(path), OFlag::O_PATH).unwrap_err().errno(), errno, "{path}");
        }
    }

    #[test]
    fn openat2_stays_inside_the_root() {
        check(open_in_root);
    }

    #[test]
    fn the_walk_stays_inside_the_root() {
        check(walk);
    }

    #[test]
    fn magic_links_lead_nowhere() {
        let proc = OwnedFd::from(std::fs::File::open("/proc").unwrap());
        for open in [open_in_root as Open, walk] {
            let error = open(proc.as_fd(), Path::new("/self/cwd"), OFlag::O_PATH).unwrap_err();
            assert_eq!(error.errno(), Errno::ELOOP);
        }
    }

    #[test]
    fn directories_are_made_inside_also_through_dangling_links() {
        let (dir, root) = root();
        std::os::unix::fs::symlink("/run/there", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("../../../../out", dir.path().join("out-link")).unwrap();
        mkdirs_in_root(root.as_fd(), Path::new("/link/x"), 0o755).unwrap();
        assert!(dir.path().join("run/there/x").is_dir());
        mkdirs_in_root(root.as_fd(), Path::new("/out-link"), 0o755).unwrap();
        assert!(dir.path().join("out").is_dir());
        create_file_in_root(root.as_fd(), Path::new("/p/q/file"), 0o644).unwrap();
        assert!(dir.path().join("p/q/file").is_file());
    }

    #[test]
    fn a_file_is_read_only_if_it_is_one_and_short() {
        let (dir, root) = root();
        std::fs::write(dir.path().join("f"), "12345").unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
        assert_eq!(read_in_root(root.as_fd(), Path::new("/f"), 5).unwrap(), b"12345");
        assert_eq!(read_in_root(root.as_fd(), Path::new("/f"), 4).unwrap_err().errno(), Errno::EFBIG);
        assert_eq!(read_in_root(root.as_fd(), Path::new("/pipe"), 4).unwrap_err().errno(), Errno::EINVAL);
    }
}
