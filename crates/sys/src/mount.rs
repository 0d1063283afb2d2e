//! Mounts: the calls of mount(2) and of the descriptor interface (5.2 and later), each by its own name.

use crate::error::{Context, Error, Result, check};
use crate::fd::{describe, own};
use nix::errno::Errno;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub const MS_NOSYMFOLLOW: u64 = 256;
pub const MS_LAZYTIME: u64 = 1 << 25;

pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = 0x8_0000;
const AT_RECURSIVE: u32 = 0x8000;
const AT_EMPTY_PATH: u32 = 0x1000;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_SET_FD: u32 = 5;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// Below /proc nothing may be mounted but what lxcfs gives (oci.md §1.3.3): whoever mounts over a file of procfs
/// decides what a write to it does (CVE-2019-16884, CVE-2025-52881).
pub const PROC_MOUNTABLE: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// The longest value that fsconfig takes, without its end.
pub const FSCONFIG_VALUE_BYTES_MAX: usize = 255;
/// mount(2) copies one page of data.
pub const MOUNT_DATA_BYTES_MAX: usize = 4095;

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new(format!("{:?}", String::from_utf8_lossy(bytes)), Errno::EINVAL))
}

fn c_path(path: &Path) -> Result<CString> {
    c_string(path.as_os_str().as_bytes())
}

/// mount(2). Where `target` matters, give `/proc/self/fd/N` of a verified descriptor: `at`.
pub fn mount(source: &str, target: &Path, fstype: &str, flags: u64, data: &str) -> Result<()> {
    let source_c = c_string(source.as_bytes())?;
    mount_c(Some(&source_c), target, fstype, flags, data)
}

pub fn bind(source: &Path, target: &Path, recursive: bool) -> Result<()> {
    let flags = libc::MS_BIND | if recursive { libc::MS_REC } else { 0 };
    mount_c(Some(&c_path(source)?), target, "", flags, "")
}

/// Flags of an existing mount, or its propagation: no source, no type.
pub fn change(target: &Path, flags: u64) -> Result<()> {
    mount_c(None, target, "", flags, "")
}

#[allow(unsafe_code)]
fn mount_c(source: Option<&CStr>, target: &Path, fstype: &str, flags: u64, data: &str) -> Result<()> {
    let target_c = c_path(target)?;
    let fstype_c = c_string(fstype.as_bytes())?;
    let data_c = c_string(data.as_bytes())?;
    let or_null = |string: &CStr| if string.is_empty() { std::ptr::null() } else { string.as_ptr() };
    // SAFETY: every pointer is null or a string that outlives the call.
    let done = unsafe {
        libc::mount(
            source.map_or(std::ptr::null(), CStr::as_ptr),
            target_c.as_ptr(),
            or_null(&fstype_c),
            flags,
            or_null(&data_c).cast(),
        )
    };
    check(done.into(), || {
        let source = source.map_or("NULL".into(), |source| source.to_string_lossy());
        format!("mount({source}, {}, {fstype:?}, {}, {data:?})", show(target), flag_list(flags))
    })
    .map(drop)
}

/// `/proc/self/fd/7` is shown with what it is.
fn show(target: &Path) -> String {
    match target.strip_prefix("/proc/self/fd").ok().and_then(|n| n.to_str()).and_then(|n| n.parse::<RawFd>().ok()) {
        Some(fd) => crate::fd::describe_raw(fd),
        None => target.display().to_string(),
    }
}

/// The path by which a path-taking call reaches a descriptor.
pub fn at(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Lazily: what still uses it keeps it until done. EINVAL: nothing is mounted there.
pub fn unmount_detach(target: &Path) -> Result<()> {
    use nix::mount::{MntFlags, umount2};
    umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .call(|| format!("umount2({}, MNT_DETACH|UMOUNT_NOFOLLOW)", target.display()))
}

/// The kernel's name list, for messages.
pub fn flag_list(flags: u64) -> String {
    const NAMES: [(u64, &str); 18] = [
        (libc::MS_RDONLY, "MS_RDONLY"),
        (libc::MS_NOSUID, "MS_NOSUID"),
        (libc::MS_NODEV, "MS_NODEV"),
        (libc::MS_NOEXEC, "MS_NOEXEC"),
        (libc::MS_SYNCHRONOUS, "MS_SYNCHRONOUS"),
        (libc::MS_REMOUNT, "MS_REMOUNT"),
        (libc::MS_DIRSYNC, "MS_DIRSYNC"),
        (MS_NOSYMFOLLOW, "MS_NOSYMFOLLOW"),
        (libc::MS_NOATIME, "MS_NOATIME"),
        (libc::MS_NODIRATIME, "MS_NODIRATIME"),
        (libc::MS_BIND, "MS_BIND"),
        (libc::MS_REC, "MS_REC"),
        (libc::MS_PRIVATE, "MS_PRIVATE"),
        (libc::MS_SLAVE, "MS_SLAVE"),
        (libc::MS_SHARED, "MS_SHARED"),
        (libc::MS_UNBINDABLE, "MS_UNBINDABLE"),
        (libc::MS_RELATIME, "MS_RELATIME"),
        (libc::MS_STRICTATIME, "MS_STRICTATIME"),
    ];
    let names: Vec<&str> = NAMES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "0".into() } else { names.join("|") }
}

const ATTRIBUTES: [(u64, u64); 8] = [
    (libc::MS_RDONLY, MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    (libc::MS_NOATIME, MOUNT_ATTR_NOATIME),
    (libc::MS_STRICTATIME, MOUNT_ATTR_STRICTATIME),
    (libc::MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
];

/// An existing mount's file system, or with `MS_BIND` in `flags` the mount itself, as `mount -o remount` changes it.
pub fn remount(mounted: BorrowedFd<'_>, flags: u64, data: &str) -> Result<()> {
    mount_c(None, &at(mounted), "", libc::MS_REMOUNT | flags, data)
}

/// `MOUNT_ATTR_*` to `MS_*`.
pub fn flags_of_attributes(attributes: u64) -> u64 {
    ATTRIBUTES.iter().filter(|(_, a)| attributes & a != 0).fold(0, |flags, (flag, _)| flags | flag)
}

/// `MS_*` to `MOUNT_ATTR_*`, for what is a property of the mount (not of the file system).
pub fn attributes(flags: u64) -> u64 {
    ATTRIBUTES.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |attributes, (_, attribute)| attributes | attribute)
}

/// `MOUNT_ATTR_*` to `MS_*`.
pub fn flags(attributes: u64) -> u64 {
    let table = [
        (libc::MS_RDONLY, MOUNT_ATTR_RDONLY),
        (libc::MS_NOSUID, MOUNT_ATTR_NOSUID),
        (libc::MS_NODEV, MOUNT_ATTR_NODEV),
        (libc::MS_NOEXEC, MOUNT_ATTR_NOEXEC),
        (libc::MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
        (MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
    ];
    table.iter().filter(|(_, attribute)| attributes & attribute != 0).fold(0, |flags, (flag, _)| flags | flag)
}

/// A detached copy of the mount at `path` (relative to `dir`, or `dir` itself when empty).
#[allow(unsafe_code)]
pub fn clone_tree(dir: Option<BorrowedFd<'_>>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let path_c = c_path(path)?;
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    if path_c.is_empty() {
        flags |= AT_EMPTY_PATH;
    }
    let dir_raw = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    // SAFETY: the path outlives the call.
    let opened = unsafe { libc::syscall(libc::SYS_open_tree, dir_raw, path_c.as_ptr(), flags) };
    check(opened, || {
        let recursive = if recursive { "|AT_RECURSIVE" } else { "" };
        format!("open_tree({}, {path:?}, OPEN_TREE_CLONE{recursive})", crate::fd::describe_raw(dir_raw))
    })
    .map(|fd| own(fd as RawFd))
}

/// Attaches a detached tree where `target` is open.
pub fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    move_mount_raw(tree, target.as_raw_fd(), c"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
}

/// Attaches a detached tree on a path of this mount namespace.
pub fn move_mount_to(tree: BorrowedFd<'_>, target: &Path) -> Result<()> {
    move_mount_raw(tree, libc::AT_FDCWD, &c_path(target)?, MOVE_MOUNT_F_EMPTY_PATH)
}

#[allow(unsafe_code)]
fn move_mount_raw(tree: BorrowedFd<'_>, dir: RawFd, path: &CStr, flags: u32) -> Result<()> {
    let empty = c"";
    // SAFETY: both strings outlive the call.
    let moved =
        unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty.as_ptr(), dir, path.as_ptr(), flags) };
    check(moved, || format!("move_mount({}, {}, {path:?})", describe(tree), crate::fd::describe_raw(dir))).map(drop)
}

/// `struct mount_attr`
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0.
    pub propagation: u64,
    pub userns_fd: u64,
}

/// mount_setattr(2) (5.12) on the mount that `fd` is open on.
#[allow(unsafe_code)]
pub fn set_attributes(fd: BorrowedFd<'_>, recursive: bool, mut attr: MountAttr) -> Result<()> {
    if (attr.set | attr.clear) & MOUNT_ATTR_ATIME != 0 {
        // The access time modes are one field: the kernel wants all of it cleared before one is set.
        attr.clear |= MOUNT_ATTR_ATIME;
    }
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let empty = c"";
    // SAFETY: the structure and the string outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(done, || {
        let recursive = if recursive { "AT_RECURSIVE, " } else { "" };
        let MountAttr { set, clear, propagation, .. } = attr;
        format!(
            "mount_setattr({}, {recursive}set={set:#x}, clear={clear:#x}, propagation={})",
            describe(fd),
            flag_list(propagation)
        )
    })
    .map(drop)
}

/// The mount shows its files' owners by the maps of that user namespace (5.12). It must be detached and not id-mapped
/// yet. EINVAL: the file system cannot.
pub fn set_idmap(fd: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> Result<()> {
    let userns_fd = userns.as_raw_fd() as u64;
    set_attributes(fd, recursive, MountAttr { set: MOUNT_ATTR_IDMAP, userns_fd, ..MountAttr::default() })
}

/// A file system being configured (fsopen, fsconfig, fsmount).
#[derive(Debug)]
pub struct NewFilesystem {
    context: OwnedFd,
    fstype: String,
}

impl NewFilesystem {
    #[allow(unsafe_code)]
    pub fn open(fstype: &str) -> Result<Self> {
        let fstype_c = c_string(fstype.as_bytes())?;
        // SAFETY: the string outlives the call.
        let opened = unsafe { libc::syscall(libc::SYS_fsopen, fstype_c.as_ptr(), FSOPEN_CLOEXEC) };
        let context = check(opened, || format!("fsopen({fstype:?})")).map(|fd| own(fd as RawFd))?;
        Ok(Self { context, fstype: fstype.to_owned() })
    }

    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        self.config(FSCONFIG_SET_STRING, key, Some(value))
    }

    pub fn set_flag(&self, key: &str) -> Result<()> {
        self.config(FSCONFIG_SET_FLAG, key, None)
    }

    /// An option that is a descriptor: procfs's `pidns` (6.17).
    #[allow(unsafe_code)]
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        let (key_c, none) = (c_string(key.as_bytes())?, std::ptr::null::<libc::c_char>());
        let (context, command, value_raw) = (self.context.as_raw_fd(), FSCONFIG_SET_FD, value.as_raw_fd());
        // SAFETY: the string outlives the call.
        let done = unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key_c.as_ptr(), none, value_raw) };
        check(done, || format!("fsconfig({}, {key:?}, {})", self.fstype, describe(value))).map(drop)
    }

    /// Options as mount(2) takes them: `mode=755,size=64k`, `newinstance`.
    pub fn set_data(&self, data: &str) -> Result<()> {
        for option in split_options(data) {
            match option.split_once('=') {
                // mount(2) takes the quotes off (a security context has commas).
                Some((key, value)) => self.set(key, value.trim_matches('"'))?,
                None => self.set_flag(option)?,
            }
        }
        Ok(())
    }

    /// `MS_*` that are the file system's, not the mount's.
    pub fn set_superblock(&self, flags: u64) -> Result<()> {
        const NAMES: [(u64, &str); 4] = [
            (libc::MS_SYNCHRONOUS, "sync"),
            (libc::MS_DIRSYNC, "dirsync"),
            (libc::MS_MANDLOCK, "mand"),
            (MS_LAZYTIME, "lazytime"),
        ];
        NAMES.iter().filter(|(flag, _)| flags & flag != 0).try_for_each(|(_, name)| self.set_flag(name))
    }

    #[allow(unsafe_code)]
    fn config(&self, command: u32, key: &str, value: Option<&str>) -> Result<()> {
        let key_c = c_string(key.as_bytes())?;
        let value_c = value.map(|value| c_string(value.as_bytes())).transpose()?;
        let value_pointer = value_c.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
        // SAFETY: both strings outlive the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.context.as_raw_fd(),
                command,
                if command == FSCONFIG_CMD_CREATE { std::ptr::null() } else { key_c.as_ptr() },
                value_pointer,
                0,
            )
        };
        check(done, || match value {
            Some(value) => format!("fsconfig({}, {key:?}, {value:?})", self.fstype),
            None => format!("fsconfig({}, {key:?})", self.fstype),
        })
        .map(drop)
    }

    /// Creates the file system and gives a detached mount of it; `flags` are `MS_*` of the mount.
    #[allow(unsafe_code)]
    pub fn mount(self, flags: u64) -> Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, "FSCONFIG_CMD_CREATE", None)?;
        // SAFETY: no memory is passed.
        let mounted =
            unsafe { libc::syscall(libc::SYS_fsmount, self.context.as_raw_fd(), FSMOUNT_CLOEXEC, attributes(flags)) };
        check(mounted, || format!("fsmount({}, {})", self.fstype, flag_list(flags))).map(|fd| own(fd as RawFd))
    }
}

/// At commas that are not between quotes.
fn split_options(data: &str) -> Vec<&str> {
    let mut quoted = false;
    let at_comma = |letter: char| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    };
    data.split(at_comma).filter(|option| !option.is_empty()).collect()
}

/// pivot_root(".", "."): the new root goes over the old one, which stays reachable as "." below it.
#[allow(unsafe_code)]
pub fn pivot_root_here() -> Result<()> {
    let here = c".";
    // SAFETY: the string is static.
    let done = unsafe { libc::syscall(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()) };
    check(done, || "pivot_root(\".\", \".\")".into()).map(drop)
}

/// The mount's own flags as `MS_*`, from statfs.
pub fn flags_of(fd: BorrowedFd<'_>) -> Result<u64> {
    let stat = nix::sys::statfs::fstatfs(fd).call(|| format!("fstatfs({})", describe(fd)))?;
    let flags = stat.flags().bits() as u64;
    // ST_* equal MS_* but for these two.
    let mut mount_flags = flags
        & (libc::MS_RDONLY
            | libc::MS_NOSUID
            | libc::MS_NODEV
            | libc::MS_NOEXEC
            | libc::MS_NOATIME
            | libc::MS_NODIRATIME);
    if flags & 4096 != 0 {
        mount_flags |= libc::MS_RELATIME;
    }
    if flags & 0x2000 != 0 {
        mount_flags |= MS_NOSYMFOLLOW;
    }
    Ok(mount_flags)
}

/// File system type number of what is open (`0x9fa0` is proc).
pub fn fs_magic(fd: impl AsFd) -> Result<i64> {
    let stat = nix::sys::statfs::fstatfs(&fd).call(|| format!("fstatfs({})", describe(&fd)))?;
    Ok(stat.filesystem_type().0 as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_comma_does_not_end_an_option() {
        assert_eq!(
            split_options("mode=755,,context=\"u:r:t:s0:c1,c2\",ro"),
            ["mode=755", "context=\"u:r:t:s0:c1,c2\"", "ro"]
        );
    }
}
