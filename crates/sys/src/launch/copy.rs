//! Layers put on top of each other by copying, where the kernel or the file system refuses an overlay.

use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use std::ffi::{CString, OsStr};
use std::fs::{self, DirEntry, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Directories nested deeper than this are refused: the copy recurses.
const DEPTH_MAX: usize = 512;

/// `lowers` topmost first, as overlay has them; `target` is an existing empty directory.
pub(super) fn copy_layers(lowers: &[impl AsRef<Path>], target: &Path) -> Result<()> {
    lowers.iter().rev().try_for_each(|layer| copy_directory(layer.as_ref(), target, 0))
}

fn copy_directory(source: &Path, target: &Path, depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::new(format!("copy({})", source.display()), Errno::ENAMETOOLONG));
    }
    for entry in fs::read_dir(source).call(|| format!("open({})", source.display()))? {
        let entry = entry.call(|| format!("readdir({})", source.display()))?;
        copy_entry(&entry, &target.join(entry.file_name()), depth)?;
    }
    let metadata = fs::symlink_metadata(source).call(|| format!("lstat({})", source.display()))?;
    copy_attributes(source, target, &metadata)
}

fn copy_entry(entry: &DirEntry, target: &Path, depth: usize) -> Result<()> {
    let source = entry.path();
    let metadata = entry.metadata().call(|| format!("lstat({})", source.display()))?;
    let kind = metadata.file_type();
    let existing = fs::symlink_metadata(target).ok();
    // Overlay's whiteout: a character device 0:0 says that the name is gone.
    if kind.is_char_device() && metadata.rdev() == 0 {
        return remove(target, existing.as_ref());
    }
    if kind.is_dir() {
        let is_kept = existing.as_ref().is_some_and(Metadata::is_dir) && !is_opaque(&source);
        if !is_kept {
            remove(target, existing.as_ref())?;
            fs::create_dir(target).call(|| format!("mkdir({})", target.display()))?;
        }
        return copy_directory(&source, target, depth + 1);
    }
    remove(target, existing.as_ref())?;
    if kind.is_symlink() {
        let link = fs::read_link(&source).call(|| format!("readlink({})", source.display()))?;
        std::os::unix::fs::symlink(link, target).call(|| format!("symlink({})", target.display()))?;
    } else if kind.is_file() {
        fs::copy(&source, target).call(|| format!("copy({}, {})", source.display(), target.display()))?;
    } else if !kind.is_socket() {
        use nix::sys::stat::{Mode, SFlag, mknod};
        let node = SFlag::from_bits_truncate(metadata.mode() & SFlag::S_IFMT.bits());
        mknod(target, node, Mode::from_bits_truncate(metadata.mode()), metadata.rdev())
            .call(|| format!("mknod({})", target.display()))?;
    } else {
        return Ok(());
    }
    copy_attributes(&source, target, &metadata)
}

fn remove(target: &Path, existing: Option<&Metadata>) -> Result<()> {
    match existing {
        None => Ok(()),
        Some(metadata) if metadata.is_dir() => fs::remove_dir_all(target).call(|| format!("rm({})", target.display())),
        Some(_) => fs::remove_file(target).call(|| format!("unlink({})", target.display())),
    }
}

/// Owner, mode and file capabilities; the mode after the owner, because chown takes set-id bits away.
fn copy_attributes(source: &Path, target: &Path, metadata: &Metadata) -> Result<()> {
    std::os::unix::fs::lchown(target, Some(metadata.uid()), Some(metadata.gid()))
        .call(|| format!("lchown({})", target.display()))?;
    if metadata.file_type().is_symlink() {
        return Ok(());
    }
    fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))
        .call(|| format!("chmod({})", target.display()))?;
    if let Some(capability) = xattr(source, "security.capability") {
        set_xattr(target, "security.capability", &capability)?;
    }
    Ok(())
}

fn is_opaque(directory: &Path) -> bool {
    xattr(directory, "trusted.overlay.opaque").is_some_and(|value| value == b"y")
}

#[allow(unsafe_code)]
fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let (path, name) = (c(path.as_os_str())?, c(OsStr::new(name))?);
    let mut value = vec![0u8; 256];
    // SAFETY: pointer and length are the buffer's; the strings outlive the call.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).ok()?);
    Some(value)
}

#[allow(unsafe_code)]
fn set_xattr(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    let call = || format!("lsetxattr({}, {name})", path.display());
    let einval = || Error::new(call(), Errno::EINVAL);
    let (path_c, name_c) = (c(path.as_os_str()).ok_or_else(einval)?, c(OsStr::new(name)).ok_or_else(einval)?);
    // SAFETY: pointer and length are the value's; the strings outlive the call.
    let done = unsafe { libc::lsetxattr(path_c.as_ptr(), name_c.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    crate::error::check(done.into(), call).map(drop)
}

fn c(text: &OsStr) -> Option<CString> {
    CString::new(text.as_bytes()).ok()
}
