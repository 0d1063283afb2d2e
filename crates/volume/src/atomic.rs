//! Files that change all at once, as kubelet's atomic writer lays them out (kubelet.md §7.4):
//!
//! ```text
//! ..2024_01_02_15_04_05.123456789/    the files
//! ..data -> ..2024_…                  renamed over: the one step that readers see
//! key -> ..data/key                   one link for each first path element
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use killick_sys::tree;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
const PATH_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

/// Makes the directory show exactly `files`; nothing is touched if it does already.
pub(crate) fn write(
    dir: &Path,
    files: &BTreeMap<String, File>,
    fs_group: Option<u32>,
    now: SystemTime,
) -> Result<(), String> {
    for path in files.keys() {
        check_path(path)?;
    }
    let failed = |call: &str, errno: Errno| format!("{call} in {}: {errno}", dir.display());
    let root = open(dir, DIR_FLAGS, Mode::empty()).map_err(|errno| failed("open", errno))?;
    let files: BTreeMap<&str, (&[u8], u32)> = files
        .iter()
        .map(|(path, file)| (path.as_str(), (file.bytes.as_slice(), with_group(file.mode, fs_group))))
        .collect();
    let old = readlinkat(&root, DATA).ok().filter(|target| is_version(target));
    let shown: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    let vanished: Vec<Vec<u8>> = names(&root)
        .map_err(|errno| failed("list", errno))?
        .into_iter()
        .filter(|name| !name.starts_with(b".."))
        .filter(|name| !shown.iter().any(|s| s.as_bytes() == name))
        .collect();
    if let Some(old) = &old
        && vanished.is_empty()
        && same(root.as_fd(), old, &files)
    {
        return Ok(());
    }
    let version = new_version(root.as_fd(), fs_group, now).map_err(|errno| failed("mkdir", errno))?;
    let written = write_files(root.as_fd(), &version, &files, fs_group)
        .and_then(|()| link_names(root.as_fd(), &shown))
        .and_then(|()| publish(root.as_fd(), &version));
    if let Err(errno) = written {
        tree::remove_at(root.as_fd(), OsStr::new(&version), dir);
        return Err(failed("write files", errno));
    }
    for name in vanished {
        // A link to a key that is gone; whatever else lies there is not ours.
        let _ = unlinkat(&root, name.as_slice(), UnlinkatFlags::NoRemoveDir);
    }
    match old {
        Some(old) => tree::remove_at(root.as_fd(), &old, dir).into_iter().next().map_or(Ok(()), Err),
        None => Ok(()),
    }
}

const DIR_FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

fn check_path(path: &str) -> Result<(), String> {
    if path.is_empty() || path.starts_with('/') {
        return Err(format!("invalid path: must be relative path: {path}"));
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("invalid path: must be less than or equal to {PATH_BYTES_MAX} characters"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("invalid path: must not contain '..': {path}"));
    }
    if path.split('/').any(|part| part.len() > NAME_BYTES_MAX) {
        return Err(format!("invalid path: filenames must be less than or equal to {NAME_BYTES_MAX} characters"));
    }
    if path.starts_with("..") {
        return Err(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

/// With fsGroup, the group may read what the volume, mounted read-only, holds.
fn with_group(mode: u32, fs_group: Option<u32>) -> u32 {
    match fs_group {
        Some(_) => mode | 0o440,
        None => mode,
    }
}

fn is_version(target: &OsStr) -> bool {
    target.as_bytes().starts_with(b"..2") && !target.as_bytes().contains(&b'/')
}

fn names(root: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut listing = Dir::from_fd(openat(root, c".", DIR_FLAGS, Mode::empty())?)?;
    listing
        .iter()
        .map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()))
        .filter(|name| !matches!(name.as_deref(), Ok(b"." | b"..")))
        .collect()
}

/// Every file there, with the bytes and the mode wanted, and no other.
fn same(root: BorrowedFd<'_>, version: &OsStr, files: &BTreeMap<&str, (&[u8], u32)>) -> bool {
    let Ok(dir) = openat(root, version, DIR_FLAGS, Mode::empty()) else { return false };
    let mut found = BTreeSet::new();
    let complete = all_files(&dir, "", &mut found).is_ok();
    complete
        && found.iter().map(String::as_str).eq(files.keys().copied())
        && files.iter().all(|(path, (bytes, mode))| {
            read_file(dir.as_fd(), path, bytes.len())
                .is_ok_and(|(content, file_mode)| content == *bytes && file_mode == *mode)
        })
}

fn all_files(dir: &OwnedFd, prefix: &str, found: &mut BTreeSet<String>) -> Result<(), Errno> {
    for name in names(dir)? {
        let path = format!("{prefix}{}", String::from_utf8_lossy(&name));
        match openat(dir, name.as_slice(), DIR_FLAGS, Mode::empty()) {
            // A path has at most PATH_BYTES_MAX / 2 elements.
            Ok(below) if path.len() < PATH_BYTES_MAX => all_files(&below, &format!("{path}/"), found)?,
            Ok(_) => return Err(Errno::ENAMETOOLONG),
            Err(_) => drop(found.insert(path)),
        }
    }
    Ok(())
}

fn read_file(dir: BorrowedFd<'_>, path: &str, length: usize) -> Result<(Vec<u8>, u32), Errno> {
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut dir = dir.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    for part in above.split('/').filter(|part| !part.is_empty()) {
        dir = openat(&dir, part, DIR_FLAGS, Mode::empty())?;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd = openat(&dir, name, flags, Mode::empty())?;
    let mode = fstat(&fd)?.st_mode & 0o7777;
    let mut content = Vec::new();
    let read = std::fs::File::from(fd).take(length as u64 + 1).read_to_end(&mut content);
    read.map_err(|_| Errno::EIO)?;
    Ok((content, mode))
}

fn new_version(root: BorrowedFd<'_>, fs_group: Option<u32>, now: SystemTime) -> Result<String, Errno> {
    let (seconds, nanos) = now.duration_since(UNIX_EPOCH).map_or((0, 0), |d| (d.as_secs(), d.subsec_nanos()));
    for attempt in 0..1000u32 {
        let name = format!("..{}.{}", calendar(seconds), u64::from(nanos) + u64::from(attempt));
        match mkdirat(root, name.as_str(), Mode::S_IRWXU) {
            Ok(()) => return set_dir_mode(root, &name, fs_group).map(|()| name),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EEXIST)
}

fn set_dir_mode(dir: BorrowedFd<'_>, name: &str, fs_group: Option<u32>) -> Result<(), Errno> {
    let mode = match fs_group {
        None => 0o755,
        Some(gid) => {
            fchownat(dir, name, None, Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            0o2755
        }
    };
    fchmodat(dir, name, Mode::from_bits_truncate(mode), FchmodatFlags::NoFollowSymlink)
}

fn write_files(
    root: BorrowedFd<'_>,
    version: &str,
    files: &BTreeMap<&str, (&[u8], u32)>,
    fs_group: Option<u32>,
) -> Result<(), Errno> {
    let top = openat(root, version, DIR_FLAGS, Mode::empty())?;
    for (path, (bytes, mode)) in files {
        let mut dir = top.try_clone().map_err(|_| Errno::EMFILE)?;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in above.split('/').filter(|part| !part.is_empty()) {
            match mkdirat(&dir, part, Mode::S_IRWXU) {
                Ok(()) => set_dir_mode(dir.as_fd(), part, fs_group)?,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            dir = openat(&dir, part, DIR_FLAGS, Mode::empty())?;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(bytes).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))?;
        if let Some(gid) = fs_group {
            nix::unistd::fchown(&file, None, Some(Gid::from_raw(gid)))?;
        }
        nix::sys::stat::fchmod(&file, Mode::from_bits_truncate(*mode))?;
    }
    Ok(())
}

fn link_names(root: BorrowedFd<'_>, shown: &BTreeSet<&str>) -> Result<(), Errno> {
    for name in shown {
        match symlinkat(format!("{DATA}/{name}").as_str(), root, *name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn publish(root: BorrowedFd<'_>, version: &str) -> Result<(), Errno> {
    match unlinkat(root, DATA_NEW, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    symlinkat(version, root, DATA_NEW)?;
    renameat(root, DATA_NEW, root, DATA)
}

/// `2024_01_02_15_04_05`, UTC (Howard Hinnant's `civil_from_days`).
fn calendar(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400 + 719_468, seconds % 86400);
    let era_day = days % 146_097;
    let year_of_era = (era_day - era_day / 1460 + era_day / 36524 - era_day / 146_096) / 365;
    let day_of_year = era_day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + days / 146_097 * 400 + u64::from(month <= 2);
    format!("{year:04}_{month:02}_{day:02}_{:02}_{:02}_{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_of_a_version_is_utc() {
        assert_eq!(calendar(0), "1970_01_01_00_00_00");
        assert_eq!(calendar(1_704_207_845), "2024_01_02_15_04_05");
        assert_eq!(calendar(951_782_400), "2000_02_29_00_00_00");
        assert_eq!(calendar(4_102_444_799), "2099_12_31_23_59_59");
    }

    #[test]
    fn paths_that_would_leave_the_volume_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "..data", "..2024/x"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
        for good in ["a", "a/b/c", ".hidden", "a..b"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
    }
}
