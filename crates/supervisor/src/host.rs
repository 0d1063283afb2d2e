//! What the supervisor knows of the host and of its place on it: read once when the shim starts.

use std::path::{Path, PathBuf};

use killick_container::cgroup::Layout;
use killick_pod::event::ContainerId;
use killick_pod::machine::NodeInfo;
use killick_pod::spec::{Container, Pod};
use killick_pod_dir::{PodDir, Roots};

/// The node's settings, if there are any.
pub const CONFIG: &str = "/etc/killick/config.json";

#[derive(Debug)]
pub struct Host {
    pub roots: Roots,
    pub dir: PodDir,
    pub layout: Layout,
    pub facts: killick_sys::facts::Facts,
    /// What the kernel's seccomp can do.
    pub seccomp: killick_container::seccomp::Kernel,
    pub network: killick_network::Settings,
    pub node: NodeInfo,
    pub cpus: u32,
}

impl Host {
    pub fn detect(roots: Roots, dir: PodDir) -> Result<Host, String> {
        let layout = Layout::detect().map_err(|error| error.to_string())?;
        let network = killick_network::Settings::load(Path::new(CONFIG), roots.ipam())?;
        let node = NodeInfo {
            name: nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
            ip: killick_network::node_ip().unwrap_or_default(),
            memory_bytes: memory_bytes(),
        };
        make_cache_directory(&roots.seccomp_cache())?;
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let facts = killick_sys::facts::Facts::detect();
        let seccomp = killick_container::seccomp::Kernel::detect();
        Ok(Host { roots, dir, layout, facts, seccomp, network, node, cpus })
    }

    /// The pod's cgroup, relative to the roots of the hierarchies.
    pub fn pod_cgroup(&self) -> PathBuf {
        Path::new(&self.roots.cgroup_root()).join(format!("pod{}", self.dir.uid()))
    }
}

fn make_cache_directory(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| format!("{}: {error}", path.display()))
}

/// `MemTotal` of /proc/meminfo.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The container that an id names. `None` only for an id of another pod, which a damaged state file may hold.
pub fn container_of(pod: &Pod, id: ContainerId) -> Option<&Container> {
    match id {
        ContainerId::Init(index) => pod.spec.init_containers.get(index),
        ContainerId::Regular(index) => pod.spec.containers.get(index),
    }
}

/// What an event about one container is about.
pub fn field_path(id: ContainerId, name: &str) -> String {
    match id {
        ContainerId::Init(_) => format!("spec.initContainers{{{name}}}"),
        ContainerId::Regular(_) => format!("spec.containers{{{name}}}"),
    }
}

pub fn id_of(pod: &Pod, name: &str) -> Option<ContainerId> {
    let at = |list: &[Container]| list.iter().position(|container| container.name == name);
    at(&pod.spec.containers).map(ContainerId::Regular).or_else(|| at(&pod.spec.init_containers).map(ContainerId::Init))
}
