//! Whether a mount tells others what is mounted below it: a volume with Bidirectional propagation must.

use super::error::LaunchError;
use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

/// Whether what is mounted below it is told to others.
pub(super) fn is_shared(there: BorrowedFd<'_>) -> Result<bool> {
    let info = format!("/proc/self/fdinfo/{}", there.as_raw_fd());
    let text = std::fs::read_to_string(&info).call(|| format!("read({info})"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").call(|| "read(/proc/self/mountinfo)".into())?;
    // A mount that this process cannot see is believed to be.
    Ok(find(&mounts, id).is_none_or(|(_, shared)| shared))
}

/// An error in containerd's words unless `source` (open on `path`) lies on a shared mount.
pub(super) fn must_be_shared(source: BorrowedFd<'_>, path: &Path) -> Result<(), LaunchError> {
    let id = crate::tree::mount_id(source).call(|| format!("mount of {}", crate::fd::describe(source)))?.to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").call(|| "read(/proc/self/mountinfo)".into())?;
    match find(&mounts, &id) {
        Some((_, true)) => Ok(()),
        Some((point, false)) => {
            Err(LaunchError::Unsupported(format!("path {path:?} is mounted on {point:?} but it is not a shared mount")))
        }
        None => Err(Error::new(format!("mount {id:?} in /proc/self/mountinfo"), Errno::ENOENT).into()),
    }
}

/// Mount point and whether the mount is shared.
fn find<'a>(mountinfo: &'a str, id: &str) -> Option<(&'a str, bool)> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id))?;
    let mut fields = line.split(' ').skip(4);
    let point = fields.next()?;
    // Mount options, then any number of optional fields up to a dash.
    let is_shared = fields.skip(1).take_while(|field| *field != "-").any(|field| field.starts_with("shared:"));
    Some((point, is_shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_shared_when_its_optional_fields_say_so() {
        let text = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                    28 27 0:5 / /a rw shared:7 master:2 - tmpfs shared: rw\n\
                    29 27 0:6 / /b rw master:7 - tmpfs shared:1 rw\n";
        assert_eq!(find(text, "27"), Some(("/", false)));
        assert_eq!(find(text, "28"), Some(("/a", true)));
        assert_eq!(find(text, "29"), Some(("/b", false)));
        assert_eq!(find(text, "2"), None);
    }
}
