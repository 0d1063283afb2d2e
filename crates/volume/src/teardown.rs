//! Taking a pod's volumes away, whatever its containers left in them. Errors are collected; everything else goes on.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use killick_sys::tree;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;

use crate::prepare::Dirs;

/// Mounts upon mounts hide each other: each pass takes the upper ones.
const PASSES_MAX: usize = 64;

/// Unmounts and removes all below `volumes/`; to be called when no container of the pod runs. Nothing is followed out.
pub fn teardown(dirs: &Dirs) -> Vec<String> {
    // The kernel lists mounts by their real paths. The pod's directory is ours; what is below it is walked by descriptor.
    let volumes = match fs::canonicalize(&dirs.pod) {
        Ok(pod) => Dirs { pod }.volumes(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![format!("resolve {}: {error}", dirs.pod.display())],
    };
    let mut errors = unmount_below(&volumes);
    errors.extend(tree::remove(&volumes));
    errors
}

fn unmount_below(top: &Path) -> Vec<String> {
    let mut errors = Vec::new();
    for _ in 0..PASSES_MAX {
        let mounts = match mounts_below(top) {
            Ok(mounts) => mounts,
            Err(error) => return vec![format!("read /proc/self/mountinfo: {error}")],
        };
        errors.clear();
        let mut progress = false;
        // Later ones lie on or below earlier ones.
        for path in mounts.iter().rev() {
            match unmount(top, path) {
                Ok(()) => progress = true,
                Err(errno) => errors.push(format!("unmount {}: {errno}", path.display())),
            }
        }
        if !progress {
            break;
        }
    }
    errors
}

fn unmount(top: &Path, path: &Path) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut here: OwnedFd = open(top, flags, Mode::empty())?;
    for part in path.strip_prefix(top).map_err(|_| Errno::EINVAL)?.components() {
        here = openat(&here, part.as_os_str(), flags, Mode::empty())?;
    }
    // Detached, as our descriptor keeps it busy.
    umount2(Path::new(&format!("/proc/self/fd/{}", here.as_raw_fd())), MntFlags::MNT_DETACH)
}

fn mounts_below(top: &Path) -> std::io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/self/mountinfo")?;
    let points =
        text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped);
    Ok(points.filter(|point| point.starts_with(top)).collect())
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            digits
                .iter()
                .try_fold(0u16, |value, digit| Some(value * 8 + u16::from(digit.checked_sub(b'0').filter(|d| *d < 8)?)))
        });
        match octal.and_then(|value| u8::try_from(value).ok()) {
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
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_escapes_them() {
        assert_eq!(unescaped(br"/a\040b\011\134x").as_os_str().as_bytes(), b"/a b\t\\x");
        assert_eq!(unescaped(br"/a\9\04").as_os_str().as_bytes(), br"/a\9\04");
    }
}
