//! An overlay whose lower layers show their owners by a user namespace's maps (5.19): one set of layers on disk serves
//! containers with different maps, without a chown of every file.

use crate::error::{Context, Error, Result};
use crate::mount::{self, NewFilesystem};
use nix::errno::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A detached overlay: `lowers` topmost first, `upper` with its work directory, which must belong to the host's id of
/// the container's root already. The caller is in a mount namespace of its own, without propagation: what the kernel
/// cannot take detached is attached below `scratch` (an existing directory) for a moment.
/// EINVAL: a layer's file system cannot be id-mapped on this kernel, or overlay cannot use what is (before 5.19).
pub fn overlay(
    lowers: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    userns: BorrowedFd<'_>,
    scratch: &Path,
) -> Result<OwnedFd> {
    let mapped = || -> Result<Vec<OwnedFd>> {
        lowers
            .iter()
            .map(|lower| {
                let tree = mount::clone_tree(None, lower, false)?;
                mount::set_idmap(tree.as_fd(), userns, false)?;
                Ok(tree)
            })
            .collect()
    };
    let trees = mapped()?;
    let detached: Vec<PathBuf> = trees.iter().map(|tree| mount::at(tree.as_fd())).collect();
    // Detached layers since 6.15.
    if let Ok(made) = by_descriptor(&detached, upper) {
        return Ok(made);
    }
    mount::mount("tmpfs", scratch, "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=700")?;
    let made = attached(&trees, upper, scratch);
    // The overlay has copies of its own of the layers' mounts.
    let unmounted = mount::unmount_detach(scratch);
    made.and_then(|made| unmounted.map(|()| made))
}

fn attached(trees: &[OwnedFd], upper: Option<(&Path, &Path)>, scratch: &Path) -> Result<OwnedFd> {
    let make = |path: &Path| std::fs::create_dir(path).call(|| format!("mkdir({})", path.display()));
    let mut layers = Vec::new();
    for (index, tree) in trees.iter().enumerate() {
        let at = scratch.join(index.to_string());
        make(&at)?;
        mount::move_mount_to(tree.as_fd(), &at)?;
        layers.push(at);
    }
    match by_descriptor(&layers, upper) {
        Ok(made) => Ok(made),
        // One value of fsconfig is short, and lowerdir+ is new (6.5): the classic call takes a page.
        Err(_) => {
            let at = scratch.join("overlay");
            make(&at)?;
            mount::mount("overlay", &at, "overlay", 0, &data(&layers, upper)?)?;
            mount::clone_tree(None, &at, false)
        }
    }
}

fn data(layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Result<String> {
    let joined = layers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let mut data = format!("lowerdir={joined}");
    if let Some((upper, work)) = upper {
        data.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
    }
    if data.len() > mount::MOUNT_DATA_BYTES_MAX {
        return Err(Error::new(format!("mount(overlay of {} layers)", layers.len()), Errno::E2BIG));
    }
    Ok(data)
}

fn by_descriptor(layers: &[PathBuf], upper: Option<(&Path, &Path)>) -> Result<OwnedFd> {
    let new = NewFilesystem::open("overlay")?;
    new.set("source", "overlay")?;
    for layer in layers {
        new.set("lowerdir+", &layer.display().to_string())?;
    }
    if let Some((upper, work)) = upper {
        new.set("upperdir", &upper.display().to_string())?;
        new.set("workdir", &work.display().to_string())?;
    }
    new.mount(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userns::{IdMap, Maps, create};
    use std::os::unix::fs::{MetadataExt, chown};

    type Way = fn(&[PathBuf], Option<(&Path, &Path)>, BorrowedFd<'_>, &Path) -> Result<OwnedFd>;

    fn by_scratch(
        lowers: &[PathBuf],
        upper: Option<(&Path, &Path)>,
        userns: BorrowedFd<'_>,
        scratch: &Path,
    ) -> Result<OwnedFd> {
        let mut trees = Vec::new();
        for lower in lowers {
            let tree = mount::clone_tree(None, lower, false)?;
            mount::set_idmap(tree.as_fd(), userns, false)?;
            trees.push(tree);
        }
        mount::mount("tmpfs", scratch, "tmpfs", 0, "mode=700")?;
        let made = attached(&trees, upper, scratch);
        mount::unmount_detach(scratch)?;
        made
    }

    /// In a mount namespace of its own. Both ways give the same.
    #[test]
    fn layers_of_root_are_the_mapped_roots() {
        if !crate::facts::Facts::detect().detached_mounts {
            println!("not here: this kernel has no id-mapped mounts (5.12)");
            return;
        }
        for way in [overlay as Way, by_scratch as Way] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_owned();
            let worker = crate::spawn::worker(std::time::Duration::from_secs(20), move || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
                mount::change(Path::new("/"), libc::MS_REC | libc::MS_PRIVATE).unwrap();
                let below = |name: &str| path.join(name);
                for name in ["low", "high", "upper", "work", "scratch", "root"] {
                    std::fs::create_dir(below(name)).unwrap();
                }
                std::fs::write(below("low/roots"), "low").unwrap();
                std::fs::write(below("low/both"), "low").unwrap();
                std::fs::write(below("high/both"), "high").unwrap();
                std::fs::write(below("high/users"), "high").unwrap();
                chown(below("high/users"), Some(7), Some(8)).unwrap();
                chown(below("upper"), Some(100_000), Some(200_000)).unwrap();
                let map = |outside| vec![IdMap { inside: 0, outside, count: 1000 }];
                let namespace = create(&Maps { uid: map(100_000), gid: map(200_000) }).unwrap();
                let lowers = [below("high"), below("low")];
                let (upper, work) = (below("upper"), below("work"));
                const TMPFS_MAGIC: i64 = 0x0102_1994;
                let made = match way(&lowers, Some((&upper, &work)), namespace.as_fd(), &below("scratch")) {
                    Err(error)
                        if error.errno() == nix::errno::Errno::EINVAL
                            && nix::sys::statfs::statfs(&path).unwrap().filesystem_type().0 == TMPFS_MAGIC =>
                    {
                        println!("not here: this kernel does not id-map tmpfs (6.3)");
                        return Ok(());
                    }
                    made => made.unwrap(),
                };
                mount::move_mount_to(made.as_fd(), &below("root")).unwrap();
                let owner = |name: &str| {
                    let found = std::fs::metadata(below("root").join(name)).unwrap();
                    (found.uid(), found.gid())
                };
                assert_eq!(owner("roots"), (100_000, 200_000));
                assert_eq!(owner("users"), (100_007, 200_008));
                assert_eq!(std::fs::read_to_string(below("root/both")).unwrap(), "high");
                assert_eq!(std::fs::metadata(below("low/roots")).unwrap().uid(), 0, "on disk nothing changes");
                // Copied up with its owner as it is shown.
                std::fs::write(below("root/users"), "new").unwrap();
                assert_eq!(std::fs::metadata(below("upper/users")).unwrap().uid(), 100_007);
                let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
                let scratch = format!(" {} ", below("scratch").display());
                assert!(!mounts.contains(&scratch), "{mounts}");
                Ok(())
            });
            worker.unwrap().wait().unwrap();
        }
    }
}
