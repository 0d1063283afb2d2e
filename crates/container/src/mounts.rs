//! The mounts of an OCI configuration as steps, for kernels with detached mounts and for those without.

use crate::devices::DEFAULT_NODES;
use crate::namespaces::Namespaces;
use crate::options::{self, Options};
use killick_sys::launch::{
    Device, DeviceKind, Fd, LaunchError, Mount, MountPoint, MountSource, Plan, Propagation, Step, Tree,
};
use killick_sys::mount::flags_of_attributes;
use killick_sys::ns::NamespaceKind;
use killick_sys::path::clean;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount as OciMount, Spec};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How mounts reach the container's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    /// Pieces made detached before the child leaves the host's mount namespace, attached by descriptor.
    Detached,
    /// mount(2) in a copy of the host's mount namespace.
    Classic,
}

/// Where the pod's shared pieces are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared {
    /// Classic: a tmpfs of the host's mount namespace. Detached: `/dev/shm` of the sandbox's.
    pub(crate) shm: Option<PathBuf>,
    /// For children that stay outside their PID namespace: a procfs shows that of whoever mounts it.
    pub(crate) proc: Option<ProcOf>,
}

/// Where the procfs of a PID namespace comes from that the child is not in.
#[derive(Debug, Clone)]
pub(crate) enum ProcOf {
    /// The sandbox's, at this path of its mount namespace.
    Sandbox(PathBuf),
    /// Made by the parent, one for each mount of the type, in their order.
    Made(VecDeque<Fd>),
}

/// Steps by when they happen.
#[derive(Debug, Default)]
pub(crate) struct MountSteps {
    /// In the host's mount namespace, before it is left.
    pub(crate) outside: Vec<Step>,
    /// In the new namespace, while the sandbox's mounts are still in sight.
    pub(crate) in_sight: Vec<Step>,
    /// On the root, in order.
    pub(crate) mounts: Vec<Step>,
    /// What had to be written to first.
    pub(crate) finish: Vec<Step>,
    /// SELinux's context of the files of new file systems.
    label: Option<String>,
}

pub(crate) struct Planner<'a> {
    pub(crate) plan: &'a mut Plan,
    pub(crate) api: Api,
    pub(crate) shared: Shared,
    /// Name below /sys/fs/cgroup and directory of the container's own cgroup; on v2 one without a name.
    pub(crate) cgroups: Vec<(String, PathBuf)>,
    pub(crate) cgroup_namespace: bool,
    pub(crate) sources: Vec<(PathBuf, OwnedFd)>,
    pub(crate) steps: MountSteps,
    pub(crate) next_tree: u16,
    /// The container's user namespace.
    pub(crate) user: Option<OwnedFd>,
}

impl Planner<'_> {
    pub(crate) fn mount_all(&mut self, spec: &Spec) -> Result<(), LaunchError> {
        self.steps.label = crate::labels::of_mounts(spec);
        for mount in spec.mounts().iter().flatten() {
            self.mount(mount)?;
        }
        Ok(())
    }

    fn mount(&mut self, mount: &OciMount) -> Result<(), LaunchError> {
        let destination = clean(mount.destination());
        let options = options::parse(mount.options().as_deref().unwrap_or_default());
        let fstype = mount.typ().as_deref().unwrap_or("bind");
        let source = mount.source().clone();
        if options.remount {
            return self.remount(destination, &options);
        }
        if options.bind || fstype == "bind" || fstype == "none" {
            let path = source.ok_or_else(|| unsupported(&destination, "a bind mount without a source"))?;
            if destination != Path::new("/proc") || !is_procfs(&path) {
                guard_proc(&destination)?;
            }
            let idmap = self.idmap(mount, &options)?;
            return self.bind(destination, path, &options, idmap);
        }
        // The words are for people: where a link of the image leads is looked at when it is mounted.
        if fstype != "proc" || destination != Path::new("/proc") {
            guard_proc(&destination)?;
        }
        match fstype {
            "cgroup" | "cgroup2" => self.cgroup(destination, &options),
            "proc" => match &mut self.shared.proc {
                Some(ProcOf::Sandbox(path)) => {
                    let path = path.clone();
                    match self.api {
                        Api::Detached => self.in_sight(destination, path, &options, MountPoint::OrdinaryDirectory),
                        Api::Classic => {
                            self.bind_known(destination, path, None, &options, MountPoint::OrdinaryDirectory, None);
                            Ok(())
                        }
                    }
                }
                Some(ProcOf::Made(made)) => {
                    let made =
                        made.pop_front().ok_or_else(|| unsupported(&destination, "no procfs was made for it"))?;
                    let tree = self.tree();
                    let (set, clear) = (options.set, options.clear);
                    self.steps.outside.push(Step::AdoptTree { tree, fd: made, set, clear });
                    self.attach(destination, tree, MountPoint::OrdinaryDirectory);
                    Ok(())
                }
                None => self.filesystem(destination, fstype, "proc", &options, MountPoint::OrdinaryDirectory),
            },
            "sysfs" => self.filesystem(destination, fstype, "sysfs", &options, MountPoint::OrdinaryDirectory),
            "tmpfs" if destination == Path::new("/dev/shm") && self.shared.shm.is_some() => {
                let path = self.shared.shm.clone().unwrap_or_default();
                match self.api {
                    Api::Detached => self.in_sight(destination, path, &options, MountPoint::Directory),
                    Api::Classic => self.bind(destination, path, &options, None),
                }
            }
            _ => {
                let source = source.map_or(fstype.to_owned(), |source| source.display().to_string());
                self.filesystem(destination, fstype, &source, &options, MountPoint::Directory)
            }
        }
    }

    fn remount(&mut self, destination: PathBuf, options: &Options) -> Result<(), LaunchError> {
        if destination.starts_with("/proc") && destination != Path::new("/proc") {
            guard_proc(&destination)?;
        }
        // What is still written to comes last.
        if destination == Path::new("/dev") && options.set & libc::MS_RDONLY != 0 {
            self.steps.finish.push(Step::RemountReadonly(destination));
            return Ok(());
        }
        self.steps.mounts.push(Step::Mount(Mount {
            destination,
            source: MountSource::Remount { data: options.data.clone(), bind: options.bind },
            point: MountPoint::Mounted,
            set: options.set,
            clear: options.clear,
            propagation: None,
            recursive_set: 0,
            recursive_clear: 0,
        }));
        Ok(())
    }

    fn filesystem(
        &mut self,
        destination: PathBuf,
        fstype: &str,
        source: &str,
        options: &Options,
        point: MountPoint,
    ) -> Result<(), LaunchError> {
        // There is nothing below a new one: recursive options are about it alone, and come after the others.
        let cleared = flags_of_attributes(options.recursive_clear);
        let mut set = options.set & !cleared | flags_of_attributes(options.recursive_set);
        // Files are still made in it: read-only comes at the end.
        if set & libc::MS_RDONLY != 0 && (fstype == "tmpfs" || destination == Path::new("/dev")) {
            set &= !libc::MS_RDONLY;
            self.steps.finish.push(Step::RemountReadonly(destination.clone()));
        }
        self.steps.mounts.push(Step::Mount(Mount {
            destination,
            source: MountSource::Filesystem {
                fstype: fstype.into(),
                source: source.into(),
                data: crate::labels::with_context(fstype, &options.data, self.steps.label.as_deref()),
            },
            point,
            set,
            clear: 0,
            propagation: options.propagation,
            recursive_set: 0,
            recursive_clear: 0,
        }));
        Ok(())
    }

    /// A piece of the sandbox's mount namespace.
    fn in_sight(
        &mut self,
        destination: PathBuf,
        path: PathBuf,
        options: &Options,
        point: MountPoint,
    ) -> Result<(), LaunchError> {
        let tree = self.tree();
        self.steps.in_sight.push(Step::CloneTree {
            tree,
            path,
            fd: None,
            recursive: false,
            set: options.set,
            clear: options.clear,
            propagation: Propagation::Private,
            recursive_set: 0,
            recursive_clear: 0,
        });
        self.attach(destination, tree, point);
        Ok(())
    }

    fn tree(&mut self) -> Tree {
        self.next_tree += 1;
        Tree(self.next_tree)
    }

    fn attach(&mut self, destination: PathBuf, tree: Tree, point: MountPoint) {
        self.steps.mounts.push(Step::Mount(Mount {
            destination,
            source: MountSource::Tree(tree),
            point,
            set: 0,
            clear: 0,
            propagation: None,
            recursive_set: 0,
            recursive_clear: 0,
        }));
    }

    /// The user namespace whose maps a bind mount shows its owners by (oci.md §1.3.5).
    fn idmap(&mut self, mount: &OciMount, options: &Options) -> Result<Option<Idmap>, LaunchError> {
        let maps = crate::id_maps::maps(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
        if options.idmap.is_none() && maps.uid.is_empty() {
            return Ok(None);
        }
        if self.api == Api::Classic {
            return Err(unsupported(mount.destination(), "id-mapped mounts need Linux 5.12"));
        }
        let namespace = match &self.user {
            Some(user) if maps.uid.is_empty() => crate::process::clone_fd(user)?,
            None if maps.uid.is_empty() => {
                return Err(unsupported(mount.destination(), "idmap without mappings, and no user namespace"));
            }
            _ => killick_sys::userns::create(&maps).map_err(|error| LaunchError::Step {
                doing: format!("map the ids of mount {}", mount.destination().display()),
                error,
            })?,
        };
        let userns = self.plan.fd(format!("ids of {}", mount.destination().display()), namespace);
        Ok(Some(Idmap { userns, recursive: options.idmap.unwrap_or(false) }))
    }

    /// What is shown instead where a user namespace refuses to make it: the host's nodes, and the host's own instance
    /// of what belongs to a namespace that the container shares with it.
    pub(crate) fn spares(&mut self, spec: &Spec, namespaces: &Namespaces) {
        self.node_spares(spec);
        if self.user.is_none() {
            return;
        }
        let shares = |kind| !namespaces.is_new(kind) && !namespaces.is_joined(kind);
        for mount in spec.mounts().iter().flatten() {
            let path = match mount.typ().as_deref() {
                Some("sysfs") if !namespaces.is_new(NamespaceKind::Network) => Path::new("/sys"),
                Some("proc") if shares(NamespaceKind::Pid) => Path::new("/proc"),
                Some("mqueue") if shares(NamespaceKind::Ipc) => Path::new("/dev/mqueue"),
                _ => continue,
            };
            let flags = options::parse(mount.options().as_deref().unwrap_or_default()).set;
            self.spare(clean(mount.destination()), path.to_owned(), flags);
        }
    }

    /// The host's device nodes, where nobody may make any.
    pub(crate) fn node_spares(&mut self, spec: &Spec) {
        if self.user.is_none() && may_make_nodes() {
            return;
        }
        for step in device_steps(spec).unwrap_or_default() {
            if let Step::Device(device) = step
                && device.kind != DeviceKind::Fifo
            {
                self.spare(device.path.clone(), device.path, libc::MS_NOSUID | libc::MS_NOEXEC);
            }
        }
    }

    fn spare(&mut self, at: PathBuf, path: PathBuf, flags: u64) {
        if self.api == Api::Detached {
            self.steps.outside.push(Step::Spare { at, path, flags });
        }
    }

    fn bind(
        &mut self,
        destination: PathBuf,
        path: PathBuf,
        options: &Options,
        idmap: Option<Idmap>,
    ) -> Result<(), LaunchError> {
        let prepared = self.sources.iter().position(|(at, _)| clean(at) == destination);
        let (fd, is_dir) = match prepared {
            Some(index) => {
                let (_, fd) = self.sources.swap_remove(index);
                let is_dir = is_directory(&fd);
                (Some(self.plan.fd(format!("source of {}", destination.display()), fd)), is_dir)
            }
            None => {
                let failed = |call: &str, error: &std::io::Error| {
                    let error = killick_sys::error::Error::from_io(format!("{call}({})", path.display()), error);
                    LaunchError::Step { doing: format!("mount {}", destination.display()), error }
                };
                let not_followed = options.copy_symlink || options.source_not_followed;
                let metadata = if not_followed { std::fs::symlink_metadata(&path) } else { std::fs::metadata(&path) };
                let metadata = metadata.map_err(|error| failed("stat", &error))?;
                if metadata.is_symlink() && options.copy_symlink {
                    let target = std::fs::read_link(&path).map_err(|error| failed("readlink", &error))?;
                    self.steps.mounts.push(Step::Symlink { path: destination, target, replace: false });
                    return Ok(());
                }
                let fd = metadata.is_symlink().then(|| open_link(&path).map_err(|error| failed("open", &error)));
                let fd = fd.transpose()?;
                (fd.map(|fd| self.plan.fd(format!("source of {}", destination.display()), fd)), metadata.is_dir())
            }
        };
        let point = match (options.destination_not_followed, is_dir) {
            (true, directory) => MountPoint::NotFollowed { directory },
            (false, true) => MountPoint::Directory,
            (false, false) => MountPoint::File,
        };
        self.bind_known(destination, path, fd, options, point, idmap);
        Ok(())
    }

    fn bind_known(
        &mut self,
        destination: PathBuf,
        path: PathBuf,
        fd: Option<Fd>,
        options: &Options,
        point: MountPoint,
        idmap: Option<Idmap>,
    ) {
        let propagation = options.propagation.unwrap_or(Propagation::Private);
        match self.api {
            Api::Detached => {
                let tree = self.tree();
                self.steps.outside.push(Step::CloneTree {
                    tree,
                    path,
                    fd,
                    recursive: options.recursive,
                    set: options.set,
                    clear: options.clear,
                    propagation,
                    recursive_set: options.recursive_set,
                    recursive_clear: options.recursive_clear,
                });
                if let Some(Idmap { userns, recursive }) = idmap {
                    self.steps.outside.push(Step::IdmapTree { tree, userns, recursive });
                }
                self.attach(destination, tree, point);
            }
            Api::Classic => self.steps.mounts.push(Step::Mount(Mount {
                destination,
                source: MountSource::Bind { path, verify: fd, recursive: options.recursive },
                point,
                set: options.set,
                clear: options.clear,
                propagation: Some(propagation),
                recursive_set: options.recursive_set,
                recursive_clear: options.recursive_clear,
            })),
        }
    }

    /// The container's own cgroup: a tmpfs with one bind for each v1 hierarchy, or the one v2 directory.
    fn cgroup(&mut self, destination: PathBuf, options: &Options) -> Result<(), LaunchError> {
        let bind = Options { bind: true, data: String::new(), ..options.clone() };
        let is_v2 = self.cgroups.iter().any(|(name, _)| name.is_empty());
        if is_v2 {
            if self.cgroup_namespace {
                let own = Options { data: String::new(), ..options.clone() };
                if self.user.is_some() {
                    let (_, dir) = self.cgroups[0].clone();
                    self.spare(destination.clone(), dir, options.set);
                }
                return self.filesystem(destination, "cgroup2", "cgroup", &own, MountPoint::Directory);
            }
            let (_, dir) = self.cgroups[0].clone();
            self.bind_known(destination, dir, None, &bind, MountPoint::Directory, None);
            return Ok(());
        }
        let top = Options { data: "mode=755".into(), ..options.clone() };
        self.filesystem(destination.clone(), "tmpfs", "cgroup", &top, MountPoint::Directory)?;
        for (name, dir) in self.cgroups.clone() {
            self.bind_known(destination.join(&name), dir, None, &bind, MountPoint::Directory, None);
            for part in name.split(',').filter(|part| *part != name) {
                let (path, target) = (destination.join(part), PathBuf::from(&name));
                self.steps.mounts.push(Step::Symlink { path, target, replace: false });
            }
        }
        Ok(())
    }
}

/// How a bind mount shows its owners.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idmap {
    userns: Fd,
    recursive: bool,
}

/// Without CAP_MKNOD, or in a user namespace ourselves, mknod is refused.
fn may_make_nodes() -> bool {
    killick_sys::caps::current().is_ok_and(|sets| sets.effective.has("CAP_MKNOD"))
        && std::fs::read_to_string("/proc/self/uid_map")
            .map_or(true, |map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

/// The link itself.
fn open_link(path: &Path) -> std::io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    Ok(std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

fn is_directory(fd: &OwnedFd) -> bool {
    nix::sys::stat::fstat(fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

fn unsupported(destination: &Path, what: &str) -> LaunchError {
    LaunchError::Unsupported(format!("mount {}: {what}", destination.display()))
}

/// podman binds the host's procfs over /proc where the PID namespace is the host's.
fn is_procfs(path: &Path) -> bool {
    std::fs::File::open(path)
        .is_ok_and(|file| killick_sys::mount::fs_magic(&file).is_ok_and(|magic| magic == libc::PROC_SUPER_MAGIC))
}

fn guard_proc(destination: &Path) -> Result<(), LaunchError> {
    let mountable = killick_sys::mount::PROC_MOUNTABLE;
    if !destination.starts_with("/proc") || mountable.iter().any(|path| destination == Path::new(path)) {
        return Ok(());
    }
    Err(LaunchError::Unsupported(if destination == Path::new("/proc") {
        "\"/proc\" cannot be mounted because it is not of type proc".into()
    } else {
        format!("{destination:?} cannot be mounted because it is inside /proc")
    }))
}

/// Nodes and links of /dev, unless the configuration binds a /dev of its own.
pub(crate) fn device_steps(spec: &Spec) -> Result<Vec<Step>, LaunchError> {
    let is_bound = spec.mounts().iter().flatten().any(|mount| {
        clean(mount.destination()) == Path::new("/dev")
            && (mount.typ().as_deref() == Some("bind")
                || options::parse(mount.options().as_deref().unwrap_or_default()).bind)
    });
    if is_bound {
        return Ok(Vec::new());
    }
    let none = Vec::new();
    let listed = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).unwrap_or(&none);
    let mut steps = Vec::new();
    for node in DEFAULT_NODES {
        if !listed.iter().any(|device| clean(device.path()) == Path::new(node.path)) {
            let (path, kind) = (node.path.into(), DeviceKind::Char);
            let (major, minor) = (node.major, node.minor);
            steps.push(Step::Device(Device { path, kind, major, minor, mode: 0o666, uid: 0, gid: 0 }));
        }
    }
    for device in listed {
        steps.push(Step::Device(device_node(device)?));
    }
    let links = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/core", "/proc/kcore"),
    ];
    for (path, target) in links {
        steps.push(Step::Symlink { path: path.into(), target: target.into(), replace: false });
    }
    steps.push(Step::Symlink { path: "/dev/ptmx".into(), target: "pts/ptmx".into(), replace: true });
    Ok(steps)
}

fn device_node(device: &LinuxDevice) -> Result<Device, LaunchError> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => {
            return Err(LaunchError::Unsupported(format!("device {}: type a is no node", device.path().display())));
        }
    };
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| {
            LaunchError::Unsupported(format!("device {}: number {value} out of range", device.path().display()))
        })
    };
    Ok(Device {
        path: clean(device.path()),
        kind,
        major: if kind == DeviceKind::Fifo { 0 } else { number(device.major())? },
        minor: if kind == DeviceKind::Fifo { 0 } else { number(device.minor())? },
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_mounted_below_proc_but_what_lxcfs_gives() {
        for (path, allowed) in [
            ("/proc", false),
            ("/proc/meminfo", true),
            ("/proc/sys", false),
            ("/proc/self/attr", false),
            ("/procedure", true),
        ] {
            assert_eq!(guard_proc(Path::new(path)).is_ok(), allowed, "{path}");
        }
    }
}
