//! Removing a tree that a hostile container may have filled.
//!
//! No symbolic link is followed and no mount is entered: what is below a mount belongs to somebody else. Depth costs no
//! descriptors: what lies too deep is moved up first. Immutable names are made mutable.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Directories held open at once; deeper ones are moved up.
const DEPTH_MAX: usize = 64;
/// Errors that are kept; a million files that cannot be removed need no million lines.
pub const ERRORS_MAX: usize = 100;
/// Passes over one directory while each still removes something.
const PASSES_MAX: usize = 1_000_000;

const IMMUTABLE_OR_APPEND: libc::c_long = 0x10 | 0x20;

/// `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`.
mod ioctl {
    nix::ioctl_read!(get_flags, b'f', 1, libc::c_long);
    nix::ioctl_write_ptr!(set_flags, b'f', 2, libc::c_long);
}

/// Removes `path` and all below it; absent is fine. The directories above `path` must be trusted. Goes on after an error
/// and returns them all, up to `ERRORS_MAX`.
pub fn remove(path: &Path) -> Vec<String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return vec![format!("remove {}: not a name in a directory", path.display())];
    };
    match nix::fcntl::open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(fd) => remove_at(fd.as_fd(), name, parent),
        Err(Errno::ENOENT) => Vec::new(),
        Err(errno) => vec![format!("open {}: {errno}", parent.display())],
    }
}

/// Removes `name` in the open directory `parent`; `shown` is the parent's path for messages.
pub fn remove_at(parent: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Vec<String> {
    let Ok(name) = CString::new(name.as_bytes()) else {
        return vec![format!("remove in {}: NUL in name", shown.display())];
    };
    let mut removal = Removal { errors: Vec::new(), moved: 0 };
    removal.entry(parent, &name, shown, None, 0);
    removal.errors
}

struct Removal {
    errors: Vec<String>,
    moved: u64,
}

impl Removal {
    /// Removes one name of whatever type. `top` is where deep directories are moved.
    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        shown: &Path,
        top: Option<BorrowedFd<'_>>,
        depth: usize,
    ) -> bool {
        match mutable(dir, name, || unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)) {
            Ok(()) | Err(Errno::ENOENT) => true,
            Err(Errno::EISDIR) => self.directory(dir, name, shown, top, depth),
            Err(errno) => self.failed(shown, name, errno),
        }
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        shown: &Path,
        top: Option<BorrowedFd<'_>>,
        depth: usize,
    ) -> bool {
        if depth >= DEPTH_MAX
            && let Some(top) = top
        {
            return self.move_up(dir, name, shown, top);
        }
        let child = match open_same_mount(dir, name) {
            Ok(child) => child,
            Err(Errno::ENOENT) => return true,
            Err(errno) => return self.failed(shown, name, errno),
        };
        let below = shown.join(OsStr::from_bytes(name.to_bytes()));
        // What is moved up into `child` while it is the top is found by the next pass.
        for _ in 0..PASSES_MAX {
            let progress = self.contents(&child, &below, top.unwrap_or(child.as_fd()), depth);
            match mutable(dir, name, || unlinkat(dir, name, UnlinkatFlags::RemoveDir)) {
                Ok(()) | Err(Errno::ENOENT) => return true,
                Err(Errno::ENOTEMPTY | Errno::EEXIST) if progress => {}
                // Its contents have said why already.
                Err(Errno::ENOTEMPTY | Errno::EEXIST) if !self.errors.is_empty() => return false,
                Err(errno) => return self.failed(shown, name, errno),
            }
        }
        self.failed(shown, name, Errno::ENOTEMPTY)
    }

    /// One pass over a directory; whether anything went.
    fn contents(&mut self, dir: &OwnedFd, shown: &Path, top: BorrowedFd<'_>, depth: usize) -> bool {
        let listing = openat(dir, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        let mut entries = match listing.and_then(Dir::from_fd) {
            Ok(entries) => entries,
            Err(errno) => return self.failed(shown, c".", errno),
        };
        let mut progress = false;
        for entry in entries.iter() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => progress |= self.entry(dir.as_fd(), entry.file_name(), shown, Some(top), depth + 1),
                Err(errno) => return self.failed(shown, c".", errno),
            }
        }
        progress
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr, shown: &Path, top: BorrowedFd<'_>) -> bool {
        for _ in 0..1000 {
            self.moved += 1;
            let new_name = format!(".killick-removed-{}", self.moved);
            match mutable(dir, name, || rename_to_free(dir, name, top, &new_name)) {
                Ok(()) => return true,
                Err(Errno::EEXIST) => {}
                Err(errno) => return self.failed(shown, name, errno),
            }
        }
        self.failed(shown, name, Errno::EEXIST)
    }

    fn failed(&mut self, shown: &Path, name: &CStr, errno: Errno) -> bool {
        let path = shown.join(OsStr::from_bytes(name.to_bytes()));
        let why = match errno {
            Errno::EXDEV | Errno::EBUSY => format!("remove {}: {errno}; something is mounted there", path.display()),
            errno => format!("remove {}: {errno}", path.display()),
        };
        if self.errors.len() < ERRORS_MAX && !self.errors.contains(&why) {
            self.errors.push(why);
        }
        false
    }
}

/// Renames a directory to a name that is not taken (EEXIST).
fn rename_to_free(dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, new_name: &str) -> Result<(), Errno> {
    match renameat2(dir, name, top, new_name, RenameFlags::RENAME_NOREPLACE) {
        // Before 3.15, and some file systems: an empty directory of our own is what rename(2) may replace.
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EPERM) => {
            nix::sys::stat::mkdirat(top, new_name, Mode::S_IRWXU)?;
            renameat(dir, name, top, new_name).inspect_err(|_| {
                let _ = unlinkat(top, new_name, UnlinkatFlags::RemoveDir);
            })
        }
        result => result,
    }
}

/// Tries, and on EPERM tries again with the immutable and append-only flags of the name and its directory cleared.
fn mutable(dir: BorrowedFd<'_>, name: &CStr, attempt: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    match attempt() {
        Err(Errno::EPERM) => {
            clear_flags(dir, c".");
            clear_flags(dir, name);
            attempt()
        }
        result => result,
    }
}

fn clear_flags(dir: BorrowedFd<'_>, name: &CStr) {
    // Only these two types have flags, and opening another one (a FIFO, a device) may do something.
    let plain = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        [SFlag::S_IFREG.bits(), SFlag::S_IFDIR.bits()].contains(&(stat.st_mode & SFlag::S_IFMT.bits()))
    });
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Some(file) = plain.then(|| openat(dir, name, flags, Mode::empty()).ok()).flatten() else { return };
    let mut current: libc::c_long = 0;
    // SAFETY: FS_IOC_GETFLAGS writes one integer no larger than a long, to a variable of ours.
    let known = unsafe { ioctl::get_flags(file.as_raw_fd(), &raw mut current) };
    if known.is_ok() && current & IMMUTABLE_OR_APPEND != 0 {
        let cleared = current & !IMMUTABLE_OR_APPEND;
        // SAFETY: FS_IOC_SETFLAGS reads one integer no larger than a long.
        let _ = unsafe { ioctl::set_flags(file.as_raw_fd(), &raw const cleared) };
    }
}

/// Opens a subdirectory, but neither through a symbolic link nor across a mount (`EXDEV`).
pub fn open_same_mount(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_BENEATH);
    match openat2(dir, name, how) {
        // Older than 5.6, or a filter that does not know it.
        Err(Errno::ENOSYS | Errno::EPERM) => open_same_mount_by_id(dir, name, flags),
        result => result,
    }
}

fn open_same_mount_by_id(dir: BorrowedFd<'_>, name: &CStr, flags: OFlag) -> Result<OwnedFd, Errno> {
    let child = openat(dir, name, flags, Mode::empty())?;
    match mount_id(child.as_fd())? == mount_id(dir)? {
        true => Ok(child),
        false => Err(Errno::EXDEV),
    }
}

/// The mount that is open here: tells two mounts of one file system apart, which a device number does not. `mnt_id` of
/// `/proc/self/fdinfo/N` (3.15), else what name_to_handle_at tells of file systems that can be exported.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    match mount_id_by_fdinfo(fd) {
        Err(Errno::EIO) => mount_id_by_handle(fd),
        result => result,
    }
}

fn mount_id_by_handle(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    // `struct file_handle` with room for no handle: the answer is EOVERFLOW and the mount.
    let mut handle = [0u32; 2];
    let mut id: libc::c_int = -1;
    let empty = c"".as_ptr();
    // SAFETY: the kernel reads and writes the two numbers of the handle, and one more; all outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            empty,
            handle.as_mut_ptr(),
            &raw mut id,
            libc::AT_EMPTY_PATH,
        )
    };
    match Errno::result(done) {
        Ok(_) | Err(Errno::EOVERFLOW) => u64::try_from(id).map_err(|_| Errno::EIO),
        Err(errno) => Err(errno),
    }
}

fn mount_id_by_fdinfo(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
    let text = fs::read_to_string(path).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok()).ok_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    fn open_dir(path: &Path) -> OwnedFd {
        nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn a_bind_mount_of_the_same_file_system_is_not_entered_with_or_without_openat2() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "x").unwrap();
        fs::create_dir_all(dir.path().join("top/plain")).unwrap();
        fs::create_dir(dir.path().join("top/mounted")).unwrap();
        symlink(outside.path(), dir.path().join("top/link")).unwrap();
        let target = dir.path().join("top/mounted");
        mount(Some(outside.path()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let top = open_dir(&dir.path().join("top"));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let by_id = |name: &CStr| open_same_mount_by_id(top.as_fd(), name, flags).map(drop);
        let by_openat2 = |name: &CStr| open_same_mount(top.as_fd(), name).map(drop);
        let results = [by_id(c"mounted"), by_openat2(c"mounted"), by_id(c"plain"), by_openat2(c"plain")];
        let links = [by_id(c"link"), by_openat2(c"link")];
        let errors = remove(&dir.path().join("top"));
        let kept = outside.path().join("precious").exists();
        umount2(&target, MntFlags::MNT_DETACH).unwrap();
        assert_eq!(results, [Err(Errno::EXDEV), Err(Errno::EXDEV), Ok(()), Ok(())]);
        assert!(links.iter().all(Result::is_err));
        assert!(kept, "removal went into a mount");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].ends_with("something is mounted there"), "{errors:?}");
        assert!(!dir.path().join("top/plain").exists(), "the rest goes nevertheless");
    }

    #[test]
    fn a_mount_has_the_same_number_in_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), Path::new("/"), Path::new("/dev")] {
            let opened = open_dir(path);
            assert_eq!(mount_id_by_handle(opened.as_fd()), mount_id_by_fdinfo(opened.as_fd()), "{}", path.display());
        }
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(remove(&dir.path().join("a/b")), Vec::<String>::new());
        assert_eq!(remove(&dir.path().join("a")), Vec::<String>::new());
        assert_eq!(remove(Path::new("/")).len(), 1);
    }
}
