//! Which volumes a container sees, where and how.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use killick_pod::expand::expand_strict;
use killick_pod::spec::{Container, MountPropagation, VolumeMount};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::host_path;
use crate::prepare::{Kind, Prepared};
use crate::sub_path::{self, Failure};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecursiveReadOnly {
    Disabled,
    IfPossible,
    Enabled,
}

/// One bind mount. `source` is an `O_PATH` descriptor of exactly what was checked: bind it from `/proc/self/fd/N`.
#[derive(Debug)]
pub struct BindMount {
    pub volume: String,
    pub source: OwnedFd,
    /// Where `source` was found; for messages, never to be opened again.
    pub source_path: PathBuf,
    /// A directory, else a file: what a missing mount point must be.
    pub is_dir: bool,
    pub destination: PathBuf,
    pub read_only: bool,
    pub recursive_read_only: RecursiveReadOnly,
    pub propagation: MountPropagation,
}

/// The container's mounts in the order to make them, parents before what lies below. `env` is the container's resolved
/// environment, for `subPathExpr`. The error is the text of a `CreateContainerConfigError`.
pub fn mounts(
    container: &Container,
    prepared: &[Prepared],
    env: &[(String, String)],
) -> Result<Vec<BindMount>, String> {
    let mut mounts = Vec::new();
    for wanted in &container.volume_mounts {
        let volume = prepared.iter().find(|volume| volume.volume == wanted.name).ok_or_else(|| {
            format!("cannot find volume \"{}\" to mount into container \"{}\"", wanted.name, container.name)
        })?;
        mounts.push(bind(container, wanted, volume, env)?);
    }
    // Stable: what is declared later at the same depth is mounted later.
    mounts.sort_by_key(|mount| mount.destination.components().count());
    Ok(mounts)
}

fn bind(
    container: &Container,
    wanted: &VolumeMount,
    volume: &Prepared,
    env: &[(String, String)],
) -> Result<BindMount, String> {
    let root = open_root(volume)?;
    let sub_path = sub_path(wanted, env)?;
    let (source, is_dir, source_path) = match &sub_path {
        None => {
            let is_dir = is_dir(&root).map_err(|errno| format!("stat {}: {errno}", volume.path.display()))?;
            (root, is_dir, volume.path.clone())
        }
        Some(path) => {
            let (fd, is_dir) = sub_path::open(root.as_fd(), &volume.path, path).map_err(|failure| match failure {
                Failure::Create(_) => format!(
                    "failed to create subPath directory for volumeMount \"{}\" of container \"{}\"",
                    wanted.name, container.name
                ),
                Failure::Open(_) => {
                    format!(
                        "failed to prepare subPath for volumeMount \"{}\" of container \"{}\"",
                        wanted.name, container.name
                    )
                }
            })?;
            (fd, is_dir, volume.path.join(path))
        }
    };
    let read_only = wanted.read_only || volume.kind.is_always_read_only();
    Ok(BindMount {
        volume: wanted.name.clone(),
        source,
        source_path,
        is_dir,
        destination: Path::new("/").join(&wanted.mount_path),
        read_only,
        recursive_read_only: match wanted.recursive_read_only.as_deref() {
            Some("Enabled") => RecursiveReadOnly::Enabled,
            Some("IfPossible") => RecursiveReadOnly::IfPossible,
            Some(_) | None => RecursiveReadOnly::Disabled,
        },
        propagation: wanted.mount_propagation.unwrap_or(MountPropagation::None),
    })
}

fn sub_path(wanted: &VolumeMount, env: &[(String, String)]) -> Result<Option<PathBuf>, String> {
    let written = wanted.sub_path.as_deref().filter(|path| !path.is_empty());
    let path = match wanted.sub_path_expr.as_deref().filter(|path| !path.is_empty()) {
        // An empty value names nothing, as a missing one does.
        Some(expression) => expand_strict(expression, |name| {
            env.iter().rev().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
        })?,
        None => match written {
            Some(path) => path.to_owned(),
            None => return Ok(None),
        },
    };
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(Some(PathBuf::from(path)))
}

/// A host's path may be a link; the root of any other volume is ours and is none.
fn open_root(volume: &Prepared) -> Result<OwnedFd, String> {
    let failed = |errno: Errno| format!("open volume \"{}\" at {}: {errno}", volume.volume, volume.path.display());
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    match volume.kind {
        Kind::HostPath => match open(&volume.path, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                // As container runtimes do for a path without a `type`.
                host_path::make_dirs(&volume.path)
                    .map_err(|error| format!("create {}: {error}", volume.path.display()))?;
                open(&volume.path, flags, Mode::empty()).map_err(failed)
            }
            result => result.map_err(failed),
        },
        Kind::EmptyDir | Kind::Tmpfs | Kind::ConfigMap | Kind::Secret => {
            open(&volume.path, flags | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY, Mode::empty()).map_err(failed)
        }
    }
}

fn is_dir(fd: &OwnedFd) -> Result<bool, Errno> {
    Ok(fstat(fd)?.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}
