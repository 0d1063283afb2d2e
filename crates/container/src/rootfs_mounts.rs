//! The root file system that a caller hands over as a list of mounts (containerd's `Create`, fstab's options): made on
//! the bundle's `rootfs`, in order, and taken away again.

use crate::options::{self, Options};
use killick_sys::launch::Propagation;
use killick_sys::mount::{self, NewFilesystem};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsMount {
    pub kind: String,
    pub source: String,
    /// Relative to the root.
    pub target: String,
    pub options: Vec<String>,
}

/// Makes them all, or none. It waits for disks: to be called in a worker.
pub fn mount_all(mounts: &[RootfsMount], rootfs: &Path) -> Result<(), String> {
    let made = mounts.iter().try_for_each(|wanted| mount_one(wanted, rootfs));
    if made.is_err() {
        let _ = unmount_all(rootfs);
    }
    made
}

fn mount_one(wanted: &RootfsMount, rootfs: &Path) -> Result<(), String> {
    let RootfsMount { kind, source, target, options } = wanted;
    let at = inside(rootfs, target)?;
    let failed = |error: &dyn std::fmt::Display| {
        format!("failed to mount rootfs component: mount source: {source:?}, target: {:?}, fstype: {kind}: {error}", at)
    };
    if let Some(unknown) = options.iter().find(|option| option.starts_with("X-containerd.")) {
        return Err(failed(&format!("option {unknown} is not supported")));
    }
    let parsed = options::parse(options);
    let bind = parsed.bind || kind == "bind";
    let done = match kind.as_str() {
        _ if bind => bind_at(source, &at, &parsed),
        "overlay" => overlay_at(source, &at, &parsed),
        _ => mount::mount(source, &at, kind, parsed.set, &parsed.data).map_err(|error| error.to_string()),
    };
    done.map_err(|error| failed(&error))?;
    if let Some(propagation) = parsed.propagation {
        let flag = match propagation {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => return Err(failed(&"an unbindable root file system is not supported")),
        };
        mount::change(&at, flag).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Nothing is mounted beside the root: the caller is trusted, its snapshots' names are not.
fn inside(rootfs: &Path, target: &str) -> Result<PathBuf, String> {
    let target = Path::new(target);
    if target.components().any(|part| part == Component::ParentDir) {
        return Err(format!("mount target {} leads out of the root file system", target.display()));
    }
    let below = target.strip_prefix("/").unwrap_or(target);
    Ok(if below.as_os_str().is_empty() { rootfs.to_owned() } else { rootfs.join(below) })
}

fn bind_at(source: &str, at: &Path, options: &Options) -> Result<(), String> {
    mount::bind(Path::new(source), at, options.recursive).map_err(|error| error.to_string())?;
    if options.set != 0 {
        mount::change(at, libc::MS_BIND | libc::MS_REMOUNT | options.set).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Many layers make options longer than a page: then each is set by a call of its own.
fn overlay_at(source: &str, at: &Path, options: &Options) -> Result<(), String> {
    if options.data.len() < mount::MOUNT_DATA_BYTES_MAX {
        return mount::mount(source, at, "overlay", options.set, &options.data).map_err(|error| error.to_string());
    }
    let new = NewFilesystem::open("overlay").map_err(|error| error.to_string())?;
    let set = |key: &str, value: &str| new.set(key, value).map_err(|error| error.to_string());
    set("source", source)?;
    for option in options.data.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("lowerdir", layers)) => layers.split(':').try_for_each(|layer| set("lowerdir+", layer))?,
            Some((key, value)) => set(key, value)?,
            None => new.set_flag(option).map_err(|error| error.to_string())?,
        }
    }
    let tree = new.mount(options.set).map_err(|error| error.to_string())?;
    mount::move_mount_to(tree.as_fd(), at).map_err(|error| error.to_string())
}

/// Mounts stacked on one place that are taken away; a mount loop would have more.
const STACKED_MAX: usize = 128;

/// Takes everything away that is mounted on this root, whoever did it. Nothing there is no error.
pub fn unmount_all(rootfs: &Path) -> Result<(), String> {
    use nix::errno::Errno;
    for _ in 0..STACKED_MAX {
        // Detached: what is mounted below goes too, and nobody waits for a busy file.
        match mount::unmount_detach(rootfs) {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("{}: more than {STACKED_MAX} mounts on it", rootfs.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_stays_inside() {
        let rootfs = Path::new("/run/b/rootfs");
        for (target, expected) in [
            ("", Some("/run/b/rootfs")),
            ("/", Some("/run/b/rootfs")),
            ("/usr", Some("/run/b/rootfs/usr")),
            ("usr/lib", Some("/run/b/rootfs/usr/lib")),
            ("../x", None),
            ("/a/../../x", None),
        ] {
            assert_eq!(inside(rootfs, target).ok().as_deref(), expected.map(Path::new), "{target}");
        }
    }
}
