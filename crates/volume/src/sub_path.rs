//! `subPath`: a path below a volume's root, resolved while a container may be changing the volume (kubelet.md §7.5).
//!
//! Each step opens one name below a descriptor and never follows: a symbolic link is read from its own descriptor and its
//! target walked the same way, and `..` goes back to a descriptor held here. Nothing a racing rename does leads outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, mkdirat};

const LINKS_MAX: usize = 40;
/// A component that comes and goes under our hands.
const TRIES_MAX: usize = 128;

/// Which half failed decides the text that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Create(Errno),
    Open(Errno),
}

/// Opens `path` below `root` (`O_PATH`), and says whether it is a directory. Missing directories are made with the root's
/// mode. Links may be relative, or absolute into `root_path`, where the root lies on the host; others are refused.
pub(crate) fn open(root: BorrowedFd<'_>, root_path: &Path, path: &Path) -> Result<(OwnedFd, bool), Failure> {
    let mode = fstat(root).map_err(Failure::Open)?.st_mode & 0o7777;
    let mut walk = Walk { root, root_path, trail: Vec::new(), pending: VecDeque::new(), links: 0, mode };
    walk.push_front(path, Origin::Manifest);
    while let Some((name, origin)) = walk.pending.pop_front() {
        match walk.step(&name, origin)? {
            Step::Directory => {}
            Step::Link => {}
            Step::Other(fd) if walk.pending.is_empty() => return Ok((fd, false)),
            Step::Other(_) => return Err(Failure::Open(Errno::ENOTDIR)),
        }
    }
    match walk.trail.pop() {
        Some(fd) => Ok((fd, true)),
        None => Ok((root.try_clone_to_owned().map_err(|_| Failure::Open(Errno::EMFILE))?, true)),
    }
}

/// The umask must not decide the mode of a directory just made. It may have been exchanged for something else already:
/// only a directory gets the mode, by its own descriptor.
fn set_mode(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Ok(made) => fchmodat(&made, c".", Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// What is missing is made.
    Manifest,
    /// What is missing stays so: a link's target is the container's choice.
    Link,
}

enum Step {
    Directory,
    Link,
    Other(OwnedFd),
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    root_path: &'a Path,
    trail: Vec<OwnedFd>,
    pending: VecDeque<(OsString, Origin)>,
    links: usize,
    mode: u32,
}

impl Walk<'_> {
    fn push_front(&mut self, path: &Path, origin: Origin) {
        let parts: Vec<&[u8]> = path
            .as_os_str()
            .as_bytes()
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .collect();
        for part in parts.into_iter().rev() {
            self.pending.push_front((OsStr::from_bytes(part).to_owned(), origin));
        }
    }

    fn step(&mut self, name: &OsStr, origin: Origin) -> Result<Step, Failure> {
        if name == ".." {
            // Above the root is outside.
            return self.trail.pop().map(|_| Step::Directory).ok_or(Failure::Open(Errno::EXDEV));
        }
        let fd = self.open_or_make(name, origin)?;
        let kind = SFlag::from_bits_truncate(fstat(&fd).map_err(Failure::Open)?.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFDIR {
            self.trail.push(fd);
            return Ok(Step::Directory);
        }
        if kind != SFlag::S_IFLNK {
            return Ok(Step::Other(fd));
        }
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Failure::Open(Errno::ELOOP));
        }
        let target = readlinkat(&fd, c"").map_err(Failure::Open)?;
        let target = Path::new(&target);
        match (target.is_absolute(), target.strip_prefix(self.root_path)) {
            (false, _) => self.push_front(target, Origin::Link),
            (true, Ok(inside)) => {
                self.trail.clear();
                self.push_front(inside, Origin::Link);
            }
            (true, Err(_)) => return Err(Failure::Open(Errno::EXDEV)),
        }
        Ok(Step::Link)
    }

    fn open_or_make(&self, name: &OsStr, origin: Origin) -> Result<OwnedFd, Failure> {
        let here = self.trail.last().map_or(self.root, |fd| fd.as_fd());
        for _ in 0..TRIES_MAX {
            match openat(here, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
                Err(Errno::ENOENT) if origin == Origin::Manifest => {}
                result => return result.map_err(Failure::Open),
            }
            match mkdirat(here, name, Mode::S_IRWXU) {
                Ok(()) => set_mode(here, name, self.mode).map_err(Failure::Create)?,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Failure::Create(errno)),
            }
        }
        Err(Failure::Create(Errno::EAGAIN))
    }
}
