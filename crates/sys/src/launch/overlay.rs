//! Layers as one root: an overlay made detached, mounted classically, or where neither is allowed, a copy.

use super::copy::copy_layers;
use super::error::LaunchError;
use super::plan::{Overlay, Tree};
use super::rootfs::{open_path, private_mount_of};
use super::run::Child;
use crate::error::{Context, Error, Result};
use crate::mount::{self, NewFilesystem};
use nix::errno::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// `volatile` (5.10) spares the upper layer's sync at unmount, 3 ms of it (performance.md §1.3); an attempt's upper
/// layer is never used twice.
const VOLATILE: &str = "volatile";

/// What a kernel or file system says that cannot have an overlay here.
fn is_overlay_refused(error: &Error) -> bool {
    matches!(
        error.errno(),
        Errno::EINVAL | Errno::ENODEV | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EREMOTE
    )
}

pub(super) fn overlay_at(child: &mut Child<'_>, overlay: &Overlay) -> Result<(), LaunchError> {
    match overlay_classic(overlay) {
        Ok(()) => Ok(()),
        Err(error) if is_overlay_refused(&error) && overlay.lowers.iter().all(|lower| lower.is_dir()) => {
            child.warn(format!("{error}; the root file system is copied"));
            copy_layers(&overlay.lowers, &overlay.at)?;
            Ok(mount::bind(&overlay.at, &overlay.at, true)?)
        }
        Err(error) => Err(error.into()),
    }
}

fn overlay_classic(overlay: &Overlay) -> Result<()> {
    let mut data = overlay.data();
    let mut layers = Vec::new();
    if data.len() + VOLATILE.len() >= mount::MOUNT_DATA_BYTES_MAX {
        // One page holds 250 layers by descriptor, and 40 by the paths of an image store.
        for lower in &overlay.lowers {
            layers.push(open_path(lower)?);
        }
        let short = layers.iter().map(|layer| mount::at(layer.as_fd())).collect();
        data = Overlay { lowers: short, ..overlay.clone() }.data();
    }
    if data.len() + VOLATILE.len() >= mount::MOUNT_DATA_BYTES_MAX {
        let call = format!("mount(overlay of {} layers, {} bytes of names)", overlay.lowers.len(), data.len());
        return Err(Error::new(call, Errno::E2BIG));
    }
    let volatile = format!("{data},{VOLATILE}");
    if overlay.upper.is_some() && mount::mount("overlay", &overlay.at, "overlay", 0, &volatile).is_ok() {
        return Ok(());
    }
    mount::mount("overlay", &overlay.at, "overlay", 0, &data)
}

pub(super) fn overlay_tree(child: &mut Child<'_>, overlay: &Overlay, tree: Tree) -> Result<(), LaunchError> {
    let made = match overlay_detached(overlay) {
        Ok(made) => made,
        // Too many layers for the new call on this kernel, or no overlay at all: a private mount namespace, where a
        // classic mount is seen by nobody, and a clone of it.
        Err(_) => {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).call(|| "unshare(CLONE_NEWNS)".into())?;
            private_mount_of(&overlay.at)?;
            overlay_at(child, overlay)?;
            mount::clone_tree(None, &overlay.at, false)?
        }
    };
    child.trees.insert(tree, made);
    Ok(())
}

fn overlay_detached(overlay: &Overlay) -> Result<OwnedFd> {
    let new = NewFilesystem::open("overlay")?;
    new.set("source", "overlay")?;
    let joined = overlay.lowers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    if joined.len() <= mount::FSCONFIG_VALUE_BYTES_MAX {
        new.set("lowerdir", &joined)?;
    } else {
        for lower in &overlay.lowers {
            new.set("lowerdir+", &lower.display().to_string())?;
        }
    }
    if let Some((upper, work)) = &overlay.upper {
        new.set("upperdir", &upper.display().to_string())?;
        new.set("workdir", &work.display().to_string())?;
        let _ = new.set_flag(VOLATILE);
    }
    new.mount(0)
}
