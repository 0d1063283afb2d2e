//! `MountVolume.SetUp`: what a pod declares becomes a directory, a tmpfs or a checked path of the host (kubelet.md §7).

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use killick_pod::quantity::Quantity;
use killick_pod::resources::pod_limits;
use killick_pod::spec::{
    ConfigMapVolume, DataKind, DataObject, EmptyDir, KeyToPath, Pod, SecretVolume, Volume, VolumeSource,
};
use killick_sys::tree;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Gid, fchownat};
use serde::{Deserialize, Serialize};

use crate::atomic::{self, File};
use crate::host_path;

/// The pod's directory, `/var/lib/killick/pods/<uid>`: volumes live in `volumes/` below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirs {
    pub pod: PathBuf,
}

impl Dirs {
    pub(crate) fn volumes(&self) -> PathBuf {
        self.pod.join("volumes")
    }

    fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.volumes().join(format!("kubernetes.io~{plugin}")).join(name)
    }
}

/// What a volume needs to know besides its declaration.
#[expect(missing_debug_implementations, reason = "holds a function")]
pub struct Surroundings<'a> {
    pub dirs: &'a Dirs,
    /// Looks a ConfigMap or Secret up: kind, namespace, name.
    pub objects: &'a dyn Fn(DataKind, &str, &str) -> Option<DataObject>,
    pub node_memory_bytes: u64,
    pub now: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    EmptyDir,
    /// emptyDir with `medium: Memory`.
    Tmpfs,
    HostPath,
    ConfigMap,
    Secret,
}

impl Kind {
    /// What the API's objects are in is always mounted read-only.
    pub(crate) fn is_always_read_only(self) -> bool {
        match self {
            Kind::ConfigMap | Kind::Secret => true,
            Kind::EmptyDir | Kind::Tmpfs | Kind::HostPath => false,
        }
    }
}

/// A volume that is ready; kept in state.json, so that a restarted shim computes the same mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub volume: String,
    pub kind: Kind,
    /// The volume's root on the host.
    pub path: PathBuf,
}

/// The error is the text after `MountVolume.SetUp failed for volume "v" : `. Doing it again is harmless: what an emptyDir
/// holds stays, a ConfigMap or Secret is brought up to date.
pub fn prepare(pod: &Pod, volume: &Volume, around: &Surroundings<'_>) -> Result<Prepared, String> {
    let name = &volume.name;
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(format!("{name:?} is not a volume's name"));
    }
    let done = |kind, path| Ok(Prepared { volume: name.clone(), kind, path });
    match &volume.source {
        VolumeSource::EmptyDir(source) => {
            let path = around.dirs.volume("empty-dir", name);
            done(empty_dir(pod, source, &path, around.node_memory_bytes)?, path)
        }
        VolumeSource::HostPath(source) => {
            host_path::check(source)?;
            done(Kind::HostPath, PathBuf::from(&source.path))
        }
        VolumeSource::ConfigMap(source) => {
            let path = around.dirs.volume("configmap", name);
            let files = Wanted::config_map(source).files(pod, around)?;
            make_dir(&path, pod.spec.security_context.fs_group)?;
            atomic::write(&path, &files, pod.spec.security_context.fs_group, around.now)?;
            done(Kind::ConfigMap, path)
        }
        VolumeSource::Secret(source) => {
            let path = around.dirs.volume("secret", name);
            let files = Wanted::secret(source).files(pod, around)?;
            make_dir(&path, pod.spec.security_context.fs_group)?;
            mount_tmpfs(&path, memory_bytes(pod, None, around.node_memory_bytes), pod.spec.security_context.fs_group)?;
            atomic::write(&path, &files, pod.spec.security_context.fs_group, around.now)?;
            done(Kind::Secret, path)
        }
    }
}

fn empty_dir(pod: &Pod, source: &EmptyDir, path: &Path, node_memory_bytes: u64) -> Result<Kind, String> {
    let fs_group = pod.spec.security_context.fs_group;
    let limit = match source.size_limit.as_deref().map(Quantity::parse) {
        None => None,
        Some(Ok(limit)) if !limit.is_negative() => u64::try_from(limit.value()).ok().filter(|bytes| *bytes > 0),
        Some(_) => return Err("SizeLimit field must be a valid resource quantity".to_owned()),
    };
    match source.medium.as_str() {
        "" => make_dir(path, fs_group).map(|()| Kind::EmptyDir),
        "Memory" => {
            make_dir(path, fs_group)?;
            mount_tmpfs(path, memory_bytes(pod, limit, node_memory_bytes), fs_group)?;
            Ok(Kind::Tmpfs)
        }
        other => Err(format!("unknown storage medium \"{other}\"")),
    }
}

/// The smallest of what the volume may have, what the pod may have and what the node has.
fn memory_bytes(pod: &Pod, size_limit: Option<u64>, node_memory_bytes: u64) -> u64 {
    let pod_limit = pod_limits(&pod.spec).memory.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    [size_limit, pod_limit].into_iter().flatten().fold(node_memory_bytes, u64::min)
}

/// Made whole beside its place and renamed: a directory that is there is ready, and what a container changed on it stays.
fn make_dir(path: &Path, fs_group: Option<u32>) -> Result<(), String> {
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{} is not below a directory", path.display()));
    };
    let failed = |call: &str, error: std::io::Error| format!("{call} {}: {error}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o750).create(parent).map_err(|error| failed("mkdir above", error))?;
    let new = parent.join(format!(".{}.new", name.to_string_lossy()));
    if let Some(error) = tree::remove(&new).into_iter().next() {
        return Err(error);
    }
    fs::DirBuilder::new().mode(0o700).create(&new).map_err(|error| failed("mkdir", error))?;
    open_to_all(&open_dir(&new)?, fs_group).map_err(|errno| failed("set the mode of", errno.into()))?;
    fs::rename(&new, path).map_err(|error| failed("rename to", error))
}

/// 0777, as the umask must not decide what a container may do; with fsGroup its group, which new files inherit.
fn open_to_all(dir: &OwnedFd, fs_group: Option<u32>) -> Result<(), Errno> {
    let mode = match fs_group {
        None => 0o777,
        Some(gid) => {
            fchownat(dir, c".", None, Some(Gid::from_raw(gid)), nix::fcntl::AtFlags::empty())?;
            0o2777
        }
    };
    fchmodat(dir, c".", Mode::from_bits_truncate(mode), FchmodatFlags::FollowSymlink)
}

fn mount_tmpfs(path: &Path, bytes: u64, fs_group: Option<u32>) -> Result<(), String> {
    let failed = |call: &str, errno: Errno| format!("{call} {}: {errno}", path.display());
    let dir = open_dir(path)?;
    let parent = open_dir(path.parent().unwrap_or(path))?;
    let id = |fd: &OwnedFd| tree::mount_id(fd.as_fd()).map_err(|errno| failed("read the mount of", errno));
    if id(&dir)? != id(&parent)? {
        return Ok(());
    }
    let target = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let options = format!("size={bytes},mode=0777");
    mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|errno| failed(&format!("mount tmpfs ({options}) on"), errno))?;
    // `dir` is below the mount now.
    open_to_all(&open_dir(path)?, fs_group).map_err(|errno| failed("set the mode of", errno))
}

fn open_dir(path: &Path) -> Result<OwnedFd, String> {
    open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| format!("open {}: {errno}", path.display()))
}

/// Which keys of which object become files.
struct Wanted<'a> {
    kind: DataKind,
    name: &'a str,
    items: &'a [KeyToPath],
    default_mode: u32,
    optional: bool,
}

impl<'a> Wanted<'a> {
    fn config_map(source: &'a ConfigMapVolume) -> Wanted<'a> {
        Wanted {
            kind: DataKind::ConfigMap,
            name: &source.name,
            items: &source.items,
            default_mode: source.default_mode,
            optional: source.optional == Some(true),
        }
    }

    fn secret(source: &'a SecretVolume) -> Wanted<'a> {
        Wanted {
            kind: DataKind::Secret,
            name: &source.secret_name,
            items: &source.items,
            default_mode: source.default_mode,
            optional: source.optional == Some(true),
        }
    }

    fn files(&self, pod: &Pod, around: &Surroundings<'_>) -> Result<BTreeMap<String, File>, String> {
        let Some(object) = (around.objects)(self.kind, &pod.metadata.namespace, self.name) else {
            return match (self.optional, self.kind) {
                (true, _) => Ok(BTreeMap::new()),
                (false, DataKind::ConfigMap) => Err(format!("configmap \"{}\" not found", self.name)),
                (false, DataKind::Secret) => Err(format!("secret \"{}\" not found", self.name)),
            };
        };
        let file = |bytes: &Vec<u8>, mode| File { bytes: bytes.clone(), mode };
        if self.items.is_empty() {
            let all = object.data.iter().chain(&object.binary_data);
            return Ok(all.map(|(key, bytes)| (key.clone(), file(bytes, self.default_mode))).collect());
        }
        let mut files = BTreeMap::new();
        for item in self.items {
            match object.data.get(&item.key).or_else(|| object.binary_data.get(&item.key)) {
                Some(bytes) => {
                    let path = item
                        .path
                        .split('/')
                        .filter(|part| !part.is_empty() && *part != ".")
                        .collect::<Vec<_>>()
                        .join("/");
                    files.insert(path, file(bytes, item.mode.unwrap_or(self.default_mode)));
                }
                None if self.optional => {}
                None => {
                    return Err(match self.kind {
                        DataKind::ConfigMap => format!("configmap references non-existent config key: {}", item.key),
                        DataKind::Secret => format!("references non-existent secret key: {}", item.key),
                    });
                }
            }
        }
        Ok(files)
    }
}
