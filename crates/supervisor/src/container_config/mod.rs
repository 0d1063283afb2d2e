//! A pod's container becomes an OCI configuration, with the safe defaults of containerd's CRI. Pure.
//!
//! Knows what a container may do and see; which image layers, which sandbox process and which descriptors it gets is
//! said beside the configuration, when the container is created.

use std::path::{Path, PathBuf};

use killick_container::UserRequest;
use killick_image::ImageConfig;
use killick_pod::resources::oom_score_adj;
use killick_pod::spec::{Container, MountPropagation, Pod, SecurityContext};
use killick_pod::users::check_non_root;
use killick_sys::caps::CapSet;
use killick_sys::launch::UserQuery;
use killick_sys::ns::NamespaceKind;
use oci_spec::runtime::{
    LinuxBuilder, LinuxDevice, LinuxNamespaceBuilder, LinuxNamespaceType, PosixRlimit, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

mod mounts;
mod node;
mod resources;
mod security;
#[cfg(test)]
mod tests;

pub use resources::pod_resources;

/// The host, as far as a container's configuration depends on it.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// For the OOM score of Burstable pods.
    pub memory_bytes: u64,
    /// What "all capabilities" means: what this process can give.
    pub capabilities: CapSet,
    /// Controllers are on cgroup v2 (`Layout::is_v2`).
    pub cgroup_v2: bool,
    /// Sizes of huge pages as the cgroup files name them (`2MB`): each is limited, to 0 where none is asked for. Empty
    /// where huge pages are not to be limited.
    pub huge_page_sizes: Vec<String>,
    /// Every device of the host, for privileged containers.
    pub devices: Vec<LinuxDevice>,
    /// Masked besides the usual paths: `/sys/devices/system/cpu/cpu*/thermal_throttle` of this host.
    pub masked_paths: Vec<String>,
    /// `killick_sys::seccomp::ptrace_is_filtered`.
    pub ptrace_is_filtered: bool,
}

/// The sandbox, as far as a container's configuration depends on it.
#[derive(Debug, Clone)]
pub struct SandboxView<'a> {
    pub hostname: &'a str,
    /// The pod's cgroup: `killick/pod<uid>`.
    pub cgroup: &'a Path,
}

/// One bind mount: a volume, or one of the files that a pod's containers share (`/etc/hosts`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// A path, or `/proc/self/fd/N` of the process that creates the container.
    pub source: PathBuf,
    pub destination: PathBuf,
    pub read_only: bool,
    /// `rro`: what is mounted below is read-only as well.
    pub recursive_read_only: bool,
    pub propagation: MountPropagation,
}

/// Everything that `config` decides from.
#[derive(Debug)]
pub struct Request<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a ImageConfig,
    pub sandbox: SandboxView<'a>,
    pub node: &'a NodeView,
    /// `killick_pod::expand::command_line`.
    pub args: Vec<String>,
    /// The pod's own variables, resolved and in order; the image's are added here.
    pub env: Vec<(String, String)>,
    pub binds: Vec<Bind>,
}

/// What a container is created from.
#[derive(Debug, Clone)]
pub struct ContainerConfig {
    /// `linux.namespaces` lists the new ones only; those of the sandbox are `join`.
    pub spec: Spec,
    /// Who the container runs as; a name is resolved inside the container's root by the launch.
    pub user: UserRequest,
    /// Namespaces of the sandbox's pause process to be joined.
    pub join: Vec<NamespaceKind>,
}

/// The configuration of one container, or the text of its `CreateContainerConfigError`.
pub fn config(request: &Request<'_>) -> Result<ContainerConfig, String> {
    let Request { pod, container, image, node, .. } = *request;
    let security = &container.security_context;
    check_non_root(pod, container, &image.user)?;
    if request.args.is_empty() {
        return Err("no command specified".to_owned());
    }
    let privileged = is_privileged(security);
    let capabilities = security::capabilities(security, node.capabilities)?;
    let user = security::user(&pod.spec.security_context, security, &image.user);
    let shares_pid = pod.spec.shares_pid() || pod.spec.host_pid;

    let mut linux = LinuxBuilder::default()
        .namespaces(
            new_namespaces(shares_pid, node.cgroup_v2 && !privileged)
                .into_iter()
                .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().map_err(|e| e.to_string()))
                .collect::<Result<Vec<_>, _>>()?,
        )
        .cgroups_path(Path::new("/").join(request.sandbox.cgroup).join(&container.name))
        .resources(resources::container_resources(container, node)?)
        .devices(if privileged { node.devices.clone() } else { Vec::new() })
        .masked_paths(security::masked_paths(security, &node.masked_paths)?)
        .readonly_paths(security::readonly_paths(security));
    if let Some(profile) = security::seccomp(pod, security, capabilities, node.ptrace_is_filtered)? {
        linux = linux.seccomp(profile);
    }
    let mut linux = linux.build().map_err(|e| e.to_string())?;
    // Sysctls are the sandbox's: the namespaces that they belong to are.
    linux.set_sysctl(None).set_uid_mappings(None).set_gid_mappings(None);
    if linux.seccomp().is_none() {
        linux.set_seccomp(None);
    }

    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(security.read_only_root_filesystem == Some(true))
        .build()
        .map_err(|e| e.to_string())?;
    let mut spec = SpecBuilder::default()
        .version("1.1.0")
        .root(root)
        .process(process(request, capabilities, &user)?)
        .mounts(mounts::mounts(&pod.spec, privileged, &request.binds)?)
        .linux(linux)
        .build()
        .map_err(|e| e.to_string())?;
    // The UTS namespace is pause's, and so is its name.
    spec.set_hostname(None);
    Ok(ContainerConfig { spec, user: UserRequest::Lookup(user), join: joined(shares_pid) })
}

fn is_privileged(security: &SecurityContext) -> bool {
    security.privileged == Some(true)
}

/// With hostPID (or hostNetwork, hostIPC) pause itself is in the host's, so joining pause is right there too.
fn joined(shares_pid: bool) -> Vec<NamespaceKind> {
    let mut join = vec![NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Network];
    if shares_pid {
        join.push(NamespaceKind::Pid);
    }
    join
}

fn new_namespaces(shares_pid: bool, cgroup: bool) -> Vec<LinuxNamespaceType> {
    let mut new = Vec::new();
    if !shares_pid {
        new.push(LinuxNamespaceType::Pid);
    }
    new.push(LinuxNamespaceType::Mount);
    // As containerd: a cgroup namespace on v2, the host's view on v1.
    if cgroup {
        new.push(LinuxNamespaceType::Cgroup);
    }
    new
}

const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn process(request: &Request<'_>, capabilities: CapSet, user: &UserQuery) -> Result<Process, String> {
    let Request { container, image, .. } = *request;
    let security = &container.security_context;
    // Numbers are final; a name is 0 here until the launch has looked it up.
    let (uid, gid) = security::numeric_ids(user);
    let ids = UserBuilder::default().uid(uid).gid(gid).additional_gids(user.extra_groups.clone()).build();
    let cwd = [container.working_dir.as_deref().unwrap_or_default(), &image.working_dir, "/"];
    let cwd = cwd.into_iter().find(|dir| !dir.is_empty()).unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(format!("container {:?}: working directory {cwd:?} is not an absolute path", container.name));
    }
    let mut process = ProcessBuilder::default()
        .terminal(container.tty)
        .user(ids.map_err(|e| e.to_string())?)
        .args(request.args.clone())
        .env(env(request))
        .cwd(cwd)
        .capabilities(security::oci_capabilities(capabilities)?)
        .no_new_privileges(security.allow_privilege_escalation == Some(false) && !is_privileged(security))
        .oom_score_adj(oom_score_adj(&request.pod.spec, container, request.node.memory_bytes))
        .build()
        .map_err(|e| e.to_string())?;
    // The builder's own default is a limit of 1,024 files; containerd's CRI sets none.
    process.set_rlimits(None::<Vec<PosixRlimit>>);
    Ok(process)
}

/// PATH and HOSTNAME, then the image's, then the pod's; a later value takes the earlier one's place.
fn env(request: &Request<'_>) -> Vec<String> {
    let mut env: Vec<(String, String)> = vec![
        ("PATH".to_owned(), PATH_DEFAULT.to_owned()),
        ("HOSTNAME".to_owned(), request.sandbox.hostname.to_owned()),
    ];
    if request.container.tty {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let image = request.image.env.iter().filter_map(|entry| entry.split_once('='));
    let image = image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in image.chain(request.env.iter().cloned()) {
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}
