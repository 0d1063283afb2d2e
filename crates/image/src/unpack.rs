//! One layer's tar becomes a directory for overlayfs. The tar may be hostile: no path of it is ever given to the kernel
//! as more than one component below a descriptor, and no symbolic link is followed except by reading it here, inside the
//! layer's own root.
//!
//! Whiteouts become overlay's: a character device 0:0, and `trusted.overlay.opaque` on a directory.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use killick_sys::{tree, xattr};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

use crate::error::Error;
use crate::tar::{Entry, Kind, Reader};

/// Symbolic links followed inside the layer for one path, as the kernel's own limit.
const LINKS_MAX: usize = 40;
const COPY_BYTES: usize = 128 << 10;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// aufs kept its own records under this prefix.
const AUFS: &[u8] = b".wh..wh.";
const OVERLAY_OPAQUE: &std::ffi::CStr = c"trusted.overlay.opaque";

/// What one image may still use; shared by its layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) entries: u64,
    pub(crate) entries_limit: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    /// Everything in it came from its own tar: no directory had to be made that only a layer below describes.
    pub(crate) self_contained: bool,
}

/// Unpacks into the empty directory `into`. `lowers` are the unpacked layers below, bottom first.
pub(crate) fn unpack<R: Read>(
    source: R,
    into: &Path,
    lowers: &[&Path],
    budget: &mut Budget,
) -> Result<(R, Unpacked), Failure> {
    let mut layer = Layer {
        root: open_dir_path(into)?,
        lowers: lowers.iter().map(|lower| open_dir_path(lower)).collect::<Result<_, _>>()?,
        times: Vec::new(),
        parent: None,
        replaced: false,
        self_contained: true,
        bytes: 0,
    };
    layer.set_mode_of_root()?;
    let mut reader = Reader::new(source);
    while let Some(entry) = reader.next().map_err(Failure::Read)? {
        budget.entries = match budget.entries.checked_sub(1) {
            Some(left) => left,
            None => {
                return Err(Failure::TooLarge {
                    what: "number of files in the image",
                    name: "entries",
                    limit: budget.entries_limit,
                });
            }
        };
        if entry.kind == Kind::File {
            budget.bytes = match budget.bytes.checked_sub(entry.size) {
                Some(left) => left,
                None => {
                    return Err(Failure::TooLarge {
                        what: "unpacked image",
                        name: "unpacked_bytes",
                        limit: budget.bytes_limit,
                    });
                }
            };
            layer.bytes += entry.size;
        }
        layer.apply(&entry, &mut reader)?;
    }
    layer.set_times()?;
    Ok((reader.into_inner(), Unpacked { bytes: layer.bytes, self_contained: layer.self_contained }))
}

/// Why a layer could not be unpacked; the caller knows the layer's name.
#[derive(Debug)]
pub(crate) enum Failure {
    /// From the stream: damaged, cut off, or not a tar.
    Read(io::Error),
    /// The entry asks for what must not be.
    Refused {
        entry: String,
        why: String,
    },
    TooLarge {
        what: &'static str,
        name: &'static str,
        limit: u64,
    },
    /// The store's file system.
    Disk {
        what: String,
        source: io::Error,
    },
}

impl Failure {
    pub(crate) fn into_error(self, layer: &str, disk: impl Fn(io::Error, &str) -> Error) -> Error {
        match self {
            Failure::Read(source) => read_error(source, layer),
            Failure::Refused { entry, why } => Error::archive(format!("layer {layer}: entry \"{entry}\": {why}")),
            Failure::TooLarge { what, name, limit } => Error::TooLarge { what: what.to_owned(), name, limit },
            Failure::Disk { what, source } => disk(source, &format!("layer {layer}: {what}")),
        }
    }
}

/// Bad bytes are the archive's fault, anything else the reader's.
pub(crate) fn read_error(source: io::Error, what: &str) -> Error {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::archive(format!("{what}: the archive ends early")),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => match source
            .get_ref()
            .and_then(|e| e.downcast_ref::<Error>())
        {
            Some(Error::TooLarge { what, name, limit }) => Error::TooLarge { what: what.clone(), name, limit: *limit },
            Some(_) | None => Error::archive(format!("{what}: {source}")),
        },
        _ => Error::Io { what: format!("read {what}"), source },
    }
}

struct Layer {
    root: OwnedFd,
    lowers: Vec<OwnedFd>,
    /// Directories, whose times change while they are filled.
    times: Vec<(Vec<u8>, (i64, u32))>,
    /// The last entry's directory: most entries come directory by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// This entry took something away: what `parent` was reached by may be gone.
    replaced: bool,
    self_contained: bool,
    bytes: u64,
}

/// What was at a name before.
enum Before {
    Nothing,
    Directory,
    Whiteout,
}

impl Layer {
    fn apply<R: Read>(&mut self, entry: &Entry, reader: &mut Reader<R>) -> Result<(), Failure> {
        let components = components(&entry.path).map_err(|why| refused(entry, why))?;
        let Some((name, above)) = components.split_last() else {
            return match entry.kind {
                Kind::Directory => self.root_entry(entry),
                _ => Err(refused(entry, "the root of a layer must be a directory")),
            };
        };
        let parent = self.parent_of(entry, above)?;
        self.replaced = false;
        let result = if name.starts_with(WHITEOUT) {
            self.whiteout(entry, parent.as_fd(), name)
        } else {
            self.plain(entry, parent.as_fd(), OsStr::from_bytes(name), reader)
        };
        if !self.replaced {
            self.parent = Some((above.join(&b'/'), parent));
        }
        result
    }

    fn plain<R: Read>(
        &mut self,
        entry: &Entry,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        reader: &mut Reader<R>,
    ) -> Result<(), Failure> {
        let before = self.make_room(entry, dir, name)?;
        let disk = |call: &str| {
            let what = format!("{call} {}", shown(&entry.path));
            move |errno: Errno| disk(what, errno)
        };
        match entry.kind {
            Kind::File => write_file(entry, dir, name, reader)?,
            Kind::HardLink => {
                // The link has its target's owner, mode and times already.
                return self.hard_link(entry, dir, name);
            }
            Kind::Symlink => symlinkat(OsStr::from_bytes(&entry.link), dir, name).map_err(disk("symlink"))?,
            Kind::Char => mknodat(dir, name, SFlag::S_IFCHR, Mode::empty(), device(entry)).map_err(disk("mknod"))?,
            Kind::Block => mknodat(dir, name, SFlag::S_IFBLK, Mode::empty(), device(entry)).map_err(disk("mknod"))?,
            Kind::Fifo => mknodat(dir, name, SFlag::S_IFIFO, Mode::empty(), 0).map_err(disk("mkfifo"))?,
            Kind::Directory => {
                match before {
                    Before::Directory => {}
                    Before::Nothing => mkdirat(dir, name, Mode::S_IRWXU).map_err(disk("mkdir"))?,
                    Before::Whiteout => {
                        mkdirat(dir, name, Mode::S_IRWXU).map_err(disk("mkdir"))?;
                        set_opaque(dir, name).map_err(disk("setxattr trusted.overlay.opaque"))?;
                    }
                }
                self.times.push((entry.path.clone(), entry.mtime));
            }
        }
        set_attributes(entry, dir, name)
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<(), Failure> {
        let root = self.root.try_clone().map_err(|source| Failure::Disk { what: "dup".to_owned(), source })?;
        self.times.push((Vec::new(), entry.mtime));
        set_attributes(entry, root.as_fd(), OsStr::new("."))
    }

    /// Takes away what an earlier entry left at the name; two directories become one.
    fn make_room(&mut self, entry: &Entry, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Before, Failure> {
        let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(Before::Nothing),
            Err(errno) => return Err(disk(format!("stat {}", shown(&entry.path)), errno)),
        };
        let is_dir = kind_of(&stat) == SFlag::S_IFDIR;
        if is_dir && entry.kind == Kind::Directory {
            return Ok(Before::Directory);
        }
        self.replaced = true;
        if is_dir {
            let errors = tree::remove_at(dir, name, Path::new(""));
            return match errors.into_iter().next() {
                None => Ok(Before::Nothing),
                Some(error) => Err(Failure::Disk { what: error, source: Errno::EIO.into() }),
            };
        }
        unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)
            .map_err(|errno| disk(format!("unlink {}", shown(&entry.path)), errno))?;
        Ok(if is_whiteout(&stat) { Before::Whiteout } else { Before::Nothing })
    }

    fn whiteout(&mut self, entry: &Entry, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Failure> {
        if name == OPAQUE {
            return set_opaque(dir, OsStr::new(".")).map_err(|errno| disk("setxattr trusted.overlay.opaque", errno));
        }
        if name.starts_with(AUFS) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if matches!(hidden.as_bytes(), b"" | b"." | b"..") {
            return Err(refused(entry, "a whiteout of no name"));
        }
        // A whiteout hides what is below; what this layer itself has at the name stays.
        match fstatat(dir, hidden, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => mknodat(dir, hidden, SFlag::S_IFCHR, Mode::empty(), 0)
                .map_err(|errno| disk(format!("mknod whiteout {}", shown(&entry.path)), errno)),
            Ok(stat) if kind_of(&stat) == SFlag::S_IFDIR => {
                set_opaque(dir, hidden).map_err(|errno| disk("setxattr trusted.overlay.opaque", errno))
            }
            Ok(_) => Ok(()),
            Err(errno) => Err(disk(format!("stat {}", shown(&entry.path)), errno)),
        }
    }

    fn hard_link(&mut self, entry: &Entry, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Failure> {
        let target = components(&entry.link).map_err(|why| refused(entry, format!("hard link: {why}")))?;
        let Some((target_name, above)) = target.split_last() else {
            return Err(refused(entry, "hard link to the root of the layer"));
        };
        let missing =
            || refused(entry, format!("hard link to \"{}\", which this layer does not have", shown(&entry.link)));
        let target_dir = self.find(entry, above, Missing::Fail)?.ok_or_else(missing)?;
        match linkat(&target_dir, OsStr::from_bytes(target_name), dir, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT) => Err(missing()),
            Err(Errno::EPERM) => Err(refused(entry, format!("hard link to \"{}\", a directory", shown(&entry.link)))),
            Err(errno) => Err(disk(format!("link {}", shown(&entry.path)), errno)),
        }
    }

    fn parent_of(&mut self, entry: &Entry, above: &[&[u8]]) -> Result<OwnedFd, Failure> {
        if let Some((path, fd)) = self.parent.take()
            && path == above.join(&b'/')
        {
            return Ok(fd);
        }
        self.find(entry, above, Missing::Make)?.ok_or_else(|| refused(entry, "its directory vanished"))
    }

    /// Walks to a directory of the layer. Symbolic links are read here and stay inside the root, `..` at the root is the root.
    fn find(&mut self, entry: &Entry, path: &[&[u8]], missing: Missing) -> Result<Option<OwnedFd>, Failure> {
        let failed = |call: &str, errno| disk(format!("{call} {}", shown(&entry.path)), errno);
        let mut pending: VecDeque<Vec<u8>> = path.iter().map(|component| component.to_vec()).collect();
        let mut trail: Vec<(Vec<u8>, OwnedFd)> = Vec::new();
        let mut links = 0;
        while let Some(component) = pending.pop_front() {
            if component == b".." {
                trail.pop();
                continue;
            }
            let here = trail.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let name = OsStr::from_bytes(&component);
            let opened = match open_dir(here, name) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => match missing {
                    Missing::Fail => return Ok(None),
                    Missing::Make => {
                        make_implied(here, name).map_err(|errno| failed("mkdir", errno))?;
                        let place: Vec<&[u8]> =
                            trail.iter().map(|(name, _)| name.as_slice()).chain([component.as_slice()]).collect();
                        copy_from_below(&self.lowers, &place, here, name)
                            .map_err(|errno| failed("set attributes above", errno))?;
                        self.self_contained = false;
                        open_dir(here, name).map_err(|errno| failed("open", errno))?
                    }
                },
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    let stat =
                        fstatat(here, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|errno| failed("stat", errno))?;
                    if kind_of(&stat) == SFlag::S_IFLNK {
                        links += 1;
                        if links > LINKS_MAX {
                            return Err(refused(entry, "too many symbolic links above it"));
                        }
                        let target = readlinkat(here, name).map_err(|errno| failed("readlink", errno))?;
                        if target.as_bytes().starts_with(b"/") {
                            trail.clear();
                        }
                        let parts: Vec<Vec<u8>> = raw_components(target.as_bytes()).map(<[u8]>::to_vec).collect();
                        for part in parts.into_iter().rev() {
                            pending.push_front(part);
                        }
                        continue;
                    }
                    if !is_whiteout(&stat) || matches!(missing, Missing::Fail) {
                        return Err(refused(entry, format!("\"{}\" above it is not a directory", shown(&component))));
                    }
                    // Hidden, then made anew: nothing below may show through.
                    unlinkat(here, name, UnlinkatFlags::NoRemoveDir)
                        .map_err(|errno| failed("unlink whiteout above", errno))?;
                    make_implied(here, name).map_err(|errno| failed("mkdir", errno))?;
                    set_opaque(here, name).map_err(|errno| failed("setxattr trusted.overlay.opaque above", errno))?;
                    open_dir(here, name).map_err(|errno| failed("open", errno))?
                }
                Err(errno) => return Err(failed("open the directory of", errno)),
            };
            trail.push((component, opened));
        }
        match trail.pop() {
            Some((_, fd)) => Ok(Some(fd)),
            None => self.root.try_clone().map(Some).map_err(|source| Failure::Disk { what: "dup".to_owned(), source }),
        }
    }

    /// Overlay shows the topmost layer's root: a layer without an entry for it keeps what the layer below says.
    fn set_mode_of_root(&mut self) -> Result<(), Failure> {
        let root = self.root.as_fd();
        chmod(root, OsStr::new("."), 0o755).map_err(|errno| disk("chmod the layer's root", errno))?;
        copy_from_below(&self.lowers, &[], root, OsStr::new("."))
            .map_err(|errno| disk("copy the root's attributes", errno))
    }

    /// Last and deepest first, as making a child changes its directory.
    fn set_times(&mut self) -> Result<(), Failure> {
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            let Ok(components) = components(&path) else { continue };
            let mut here = self.root.try_clone().map_err(|source| Failure::Disk { what: "dup".to_owned(), source })?;
            let mut gone = false;
            for component in &components {
                match open_dir(here.as_fd(), OsStr::from_bytes(component)) {
                    Ok(fd) => here = fd,
                    // Replaced by a later entry, or reached by a link: then another entry has its times.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {
                        gone = true;
                        break;
                    }
                    Err(errno) => return Err(disk(format!("open {}", shown(&path)), errno)),
                }
            }
            if !gone {
                set_mtime(here.as_fd(), OsStr::new("."), mtime)
                    .map_err(|errno| disk(format!("utimensat {}", shown(&path)), errno))?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Missing {
    /// As tar does it; attributes come from the layer below that has the directory.
    Make,
    Fail,
}

fn write_file<R: Read>(
    entry: &Entry,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    reader: &mut Reader<R>,
) -> Result<(), Failure> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let fd = openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|errno| disk(format!("create {}", shown(&entry.path)), errno))?;
    let file = File::from(fd);
    let failed = |source| Failure::Disk { what: format!("write {}", shown(&entry.path)), source };
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(entry.size).unwrap_or(COPY_BYTES)).max(1)];
    let mut data = reader.data();
    for (offset, length) in &entry.segments {
        let mut at = *offset;
        let end = offset + length;
        while at < end {
            let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            data.read_exact(&mut buffer[..wanted]).map_err(Failure::Read)?;
            file.write_all_at(&buffer[..wanted], at).map_err(failed)?;
            at += wanted as u64;
        }
    }
    // A hole may be last, also behind an empty segment that marks the end.
    if entry.segments != [(0, entry.size)] {
        file.set_len(entry.size).map_err(failed)?;
    }
    Ok(())
}

/// Owner first (it clears setuid and capabilities), then mode, then attributes, then time.
fn set_attributes(entry: &Entry, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Failure> {
    let failed = |call: &str, errno| disk(format!("{call} {}", shown(&entry.path)), errno);
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|errno| failed("chown", errno))?;
    if entry.kind != Kind::Symlink {
        chmod(dir, name, entry.mode).map_err(|errno| failed("chmod", errno))?;
    }
    for (attribute, value) in &entry.xattrs {
        let Some(attribute) = kept_xattr(attribute) else { continue };
        match xattr::set(dir, name, &attribute, value) {
            Ok(()) => {}
            // Symbolic links and devices take no user attributes, and some file systems none at all.
            Err(Errno::EOPNOTSUPP | Errno::EPERM) if attribute.as_bytes().starts_with(b"user.") => {}
            Err(errno) => return Err(failed(&format!("setxattr {}", attribute.to_string_lossy()), errno)),
        }
    }
    set_mtime(dir, name, entry.mtime).map_err(|errno| failed("utimensat", errno))
}

/// Everything else (`trusted.overlay.*` above all, and other hosts' labels) would mean something here that the image's
/// maker did not mean.
fn kept_xattr(name: &[u8]) -> Option<std::ffi::CString> {
    let kept = name.starts_with(b"user.")
        || matches!(name, b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default");
    std::ffi::CString::new(name).ok().filter(|_| kept)
}

/// Mode, owner, time and capability of the same directory in the topmost layer below that has it.
fn copy_from_below(lowers: &[OwnedFd], path: &[&[u8]], dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let Some(below) = lowers.iter().rev().find_map(|lower| look_up(lower.as_fd(), path)).flatten() else {
        return Ok(());
    };
    let stat = fstatat(&below, c".", AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    chmod(dir, name, stat.st_mode)?;
    for attribute in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        if let Some(value) = xattr::get(below.as_fd(), OsStr::new("."), attribute)? {
            xattr::set(dir, name, attribute, &value)?;
        }
    }
    Ok(())
}

/// `None`: this layer says nothing of the path. `Some(None)`: it hides it, or has something else there.
fn look_up(lower: BorrowedFd<'_>, path: &[&[u8]]) -> Option<Option<OwnedFd>> {
    let mut here = lower.try_clone_to_owned().ok()?;
    for component in path {
        match open_dir(here.as_fd(), OsStr::from_bytes(component)) {
            Ok(fd) => here = fd,
            Err(Errno::ENOENT) => {
                let opaque = xattr::get(here.as_fd(), OsStr::new("."), OVERLAY_OPAQUE).ok().flatten();
                return opaque.is_some_and(|value| value == b"y").then_some(None);
            }
            Err(_) => return Some(None),
        }
    }
    Some(Some(here))
}

/// A directory that no entry describes; the umask must not either.
fn make_implied(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    mkdirat(dir, name, Mode::S_IRWXU)?;
    chmod(dir, name, 0o755)
}

fn set_opaque(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    xattr::set(dir, name, OVERLAY_OPAQUE, b"y")
}

fn chmod(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<(), Errno> {
    fchmodat(dir, name, Mode::from_bits_truncate(mode & 0o7777), FchmodatFlags::NoFollowSymlink)
}

fn set_mtime(dir: BorrowedFd<'_>, name: &OsStr, (seconds, nanos): (i64, u32)) -> Result<(), Errno> {
    let time = TimeSpec::new(seconds, i64::from(nanos));
    utimensat(dir, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}

fn open_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

fn open_dir_path(path: &Path) -> Result<OwnedFd, Failure> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| disk(format!("open {}", path.display()), errno))
}

fn device(entry: &Entry) -> u64 {
    makedev(entry.device.0, entry.device.1)
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

fn raw_components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty() && *component != b".")
}

/// A leading slash is the layer's root, as every unpacker has it; `..` has no honest use.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    match raw_components(path).any(|component| component == b"..") {
        true => Err("a name with \"..\" leaves the layer"),
        false => Ok(raw_components(path).collect()),
    }
}

fn refused(entry: &Entry, why: impl Into<String>) -> Failure {
    Failure::Refused { entry: shown(&entry.path), why: why.into() }
}

fn disk(what: impl Into<String>, errno: Errno) -> Failure {
    Failure::Disk { what: what.into(), source: errno.into() }
}

/// For messages: no control characters of the archive's on a terminal.
pub(crate) fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}
