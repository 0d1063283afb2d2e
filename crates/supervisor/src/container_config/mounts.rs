//! What is mounted in a container: the kernel's file systems as containerd's CRI mounts them, then the binds.

use std::path::{Path, PathBuf};

use killick_pod::spec::{MountPropagation, PodSpec};
use oci_spec::runtime::{Mount, MountBuilder};

use super::Bind;

pub(super) fn mounts(spec: &PodSpec, privileged: bool, binds: &[Bind]) -> Result<Vec<Mount>, String> {
    let access = if privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access])?,
    ];
    mounts.push(if spec.host_ipc {
        mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate", "nosuid", "noexec", "nodev"])?
    } else {
        // The pod's own, made with the sandbox, takes its place where the IPC namespace is joined.
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])?
    });
    let mut binds: Vec<&Bind> = binds.iter().collect();
    // A volume on a default's place replaces it, and parents come before what lies below them.
    mounts.retain(|mount| binds.iter().all(|bind| clean(&bind.destination) != *mount.destination()));
    binds.sort_by_key(|bind| clean(&bind.destination));
    for bind in binds {
        mounts.push(bind_mount(bind)?);
    }
    Ok(mounts)
}

fn bind_mount(bind: &Bind) -> Result<Mount, String> {
    let propagation = match bind.propagation {
        MountPropagation::None => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    };
    let access = match (bind.read_only, bind.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let source = bind.source.to_str().ok_or_else(|| format!("mount source {:?} is not UTF-8", bind.source))?;
    let mut mount = mount("/", "bind", source, &["rbind", propagation, access])?;
    mount.set_destination(clean(&bind.destination));
    Ok(mount)
}

/// Without `.`, double and trailing slashes, absolute. `..` stays: the launch resolves inside the root.
fn clean(path: &Path) -> PathBuf {
    Path::new("/").join(path.components().collect::<PathBuf>())
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount, String> {
    let options: Vec<String> = options.iter().map(|&o| o.to_owned()).collect();
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options)
        .build()
        .map_err(|e| e.to_string())
}
