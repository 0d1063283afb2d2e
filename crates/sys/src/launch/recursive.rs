//! Attributes of a whole tree of mounts where mount_setattr(2) (5.12) is not: each mount by itself, found in mountinfo
//! and known again by its number.

use super::error::LaunchError;
use super::rootfs::change_flags;
use crate::error::{Context, Error, Result};
use crate::fd::describe;
use crate::mount::{self, MountAttr};
use crate::path::open_in_root;
use crate::tree::mount_id;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of /proc/self/mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    id: u64,
    parent: u64,
    point: PathBuf,
}

/// `MOUNT_ATTR_*` set and cleared on the mount that `mounted` is open on and on all below it. The mount namespace must
/// be this process's own, and the tree private, so that nothing is mounted into it meanwhile.
pub(super) fn set_attributes(mounted: BorrowedFd<'_>, set: u64, clear: u64) -> Result<(), LaunchError> {
    match mount::set_attributes(mounted, true, MountAttr { set, clear, ..MountAttr::default() }) {
        Err(error) if error.is_refused() => one_by_one(mounted, mount::flags(set), mount::flags(clear)),
        other => Ok(other?),
    }
}

fn one_by_one(mounted: BorrowedFd<'_>, set: u64, clear: u64) -> Result<(), LaunchError> {
    let id = |fd: BorrowedFd<'_>| mount_id(fd).call(|| format!("mount of {}", describe(fd)));
    let text = std::fs::read_to_string("/proc/self/mountinfo").call(|| "read(/proc/self/mountinfo)".into())?;
    let rows = rows(&text);
    let top = id(mounted)?;
    let missing = || Error::new(format!("mount {top} in /proc/self/mountinfo"), Errno::ENOENT);
    let top = rows.iter().find(|row| row.id == top).ok_or_else(missing)?;
    for row in below(&rows, top) {
        if row.id == top.id {
            // Its path below itself is empty, which openat2 does not take.
            change_flags(mounted, set, clear)?;
            continue;
        }
        let relative = row.point.strip_prefix(&top.point).unwrap_or(Path::new(""));
        let opened = open_in_root(mounted, relative, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        if id(opened.as_fd())? != row.id {
            // What is covered cannot be reached, and would come to light with the flags it has.
            return Err(LaunchError::Unsupported(format!(
                "recursive mount attributes: another mount covers the one at {}; that needs Linux 5.12",
                row.point.display()
            )));
        }
        change_flags(opened.as_fd(), set, clear)?;
    }
    Ok(())
}

/// The mount and its descendants, parents first.
fn below<'a>(rows: &'a [Row], top: &'a Row) -> Vec<&'a Row> {
    let mut found = vec![top];
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|row| row.id) {
        found.extend(rows.iter().filter(|row| row.parent == parent && row.id != parent));
        next += 1;
    }
    found
}

fn rows(mountinfo: &str) -> Vec<Row> {
    let row = |line: &str| {
        let mut fields = line.split(' ');
        let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Row { id, parent, point: unescaped(fields.nth(2)?) })
    };
    mountinfo.lines().filter_map(row).collect()
}

/// Space, tab, line feed and backslash stand there as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_the_mount_and_what_is_below_it_in_whatever_order_the_lines_come() {
        let text = "30 1 0:26 / / rw - ext4 /dev/vda rw\n\
                    44 41 0:31 / /a\\040b/c/d rw shared:3 - tmpfs t rw\n\
                    41 40 0:28 / /a\\040b/c rw - tmpfs t rw\n\
                    40 30 0:27 / /a\\040b rw - tmpfs t rw\n\
                    42 30 0:29 / /other rw - tmpfs t rw\n";
        let rows = rows(text);
        assert_eq!(rows[1], Row { id: 44, parent: 41, point: "/a b/c/d".into() });
        let ids: Vec<_> = below(&rows, &rows[3]).iter().map(|row| row.id).collect();
        assert_eq!(ids, [40, 41, 44]);
    }

    /// Whatever of openat2 and mount_setattr the kernel has: 5.6 to 5.11 have one without the other.
    #[test]
    fn mounts_are_changed_one_by_one_beginning_with_the_first() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let worker = crate::spawn::worker(std::time::Duration::from_secs(20), || {
            let text = |error: &dyn std::fmt::Display| error.to_string();
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(|errno| text(&errno))?;
            mount::change(Path::new("/"), libc::MS_REC | libc::MS_PRIVATE).map_err(|error| text(&error))?;
            let dir = tempfile::tempdir().map_err(|error| text(&error))?;
            let below = dir.path().join("below");
            mount::mount("tmpfs", dir.path(), "tmpfs", 0, "").map_err(|error| text(&error))?;
            std::fs::create_dir(&below).map_err(|error| text(&error))?;
            mount::mount("tmpfs", &below, "tmpfs", 0, "").map_err(|error| text(&error))?;
            let top = super::super::rootfs::open_path(dir.path()).map_err(|error| text(&error))?;
            one_by_one(top.as_fd(), libc::MS_RDONLY, 0).map_err(|error| text(&error))?;
            let written = [dir.path(), &below].map(|dir| std::fs::write(dir.join("x"), "x").is_ok());
            nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).map_err(|errno| text(&errno))?;
            Ok(written)
        });
        assert_eq!(worker.unwrap().wait(), Ok([false, false]));
    }
}
