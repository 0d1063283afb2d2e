//! What a caller asks for: a container to create, a process to add to one.

use crate::cgroup::Cgroup;
use crate::sandbox::Sandbox;
use killick_sys::caps::CapSets;
use killick_sys::cgroup::Attach;
use killick_sys::launch::UserQuery;
use killick_sys::ns::NamespaceKind;
use killick_sys::seccomp::Filter;
use oci_spec::runtime::Spec;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Read-only layers under a writable one that is this container's alone. `lowers` bottom first, as images list
    /// them. `upper`, `work` and `mount` (where a classic mount or a copy goes) are made if missing.
    Layers { lowers: Vec<PathBuf>, upper: PathBuf, work: PathBuf, mount: PathBuf, readonly: bool },
    /// A directory as it is (an OCI bundle's `root.path`).
    Directory { path: PathBuf, readonly: bool },
}

impl Rootfs {
    /// The usual places below a directory of the container's own: `upper`, `work`, `rootfs`.
    pub fn layers(lowers: Vec<PathBuf>, dir: &std::path::Path, readonly: bool) -> Self {
        let below = |name: &str| dir.join(name);
        Rootfs::Layers { lowers, upper: below("upper"), work: below("work"), mount: below("rootfs"), readonly }
    }
}

/// The container's PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidMode {
    /// The sandbox's.
    Sandbox,
    /// One of its own.
    Own,
    /// The caller's.
    Host,
}

/// Whether some process that sees the new one may hold CAP_SYS_PTRACE (in its bounding set, without a user namespace
/// of its own): then nothing with more rights than the container may be born where it can be seen (design §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ptrace {
    Impossible,
    Possible,
}

/// The namespaces that a container does not make for itself. The network, IPC and UTS namespaces are the sandbox's
/// (whose own may be the host's); the mount namespace is always new.
#[derive(Debug)]
pub struct Join<'a> {
    pub sandbox: Option<&'a Sandbox>,
    pub pid: PidMode,
    pub ptrace: Ptrace,
    /// Namespaces by descriptor, where there is no sandbox of ours.
    pub paths: Vec<(NamespaceKind, OwnedFd)>,
}

impl<'a> Join<'a> {
    pub fn sandbox(sandbox: &'a Sandbox, pid: PidMode, ptrace: Ptrace) -> Self {
        Self { sandbox: Some(sandbox), pid, ptrace, paths: Vec::new() }
    }
}

/// A process's three streams. Only descriptors that we made ourselves (pipes, /dev/null) may go here: a container
/// would reopen a host's file, or walk up from a directory.
#[derive(Debug)]
pub enum Stdio {
    Streams {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A pty of the container's own; its master is `take_terminal()`. Zero rows: the kernel's default size.
    Terminal {
        rows: u16,
        columns: u16,
    },
}

impl Stdio {
    /// All three on /dev/null.
    pub fn null() -> std::io::Result<Self> {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
        Ok(Stdio::Streams { stdin: null.try_clone()?.into(), stdout: null.try_clone()?.into(), stderr: null.into() })
    }
}

/// Who the process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum UserRequest {
    /// The ids of the configuration.
    #[default]
    Ids,
    /// Looked up in the container's own /etc/passwd and /etc/group.
    Lookup(UserQuery),
}

#[derive(Debug)]
pub struct CreateRequest<'a> {
    pub id: String,
    pub spec: &'a Spec,
    pub rootfs: Rootfs,
    pub join: Join<'a>,
    /// Made by the caller, with its limits; None only in tests and tools.
    pub cgroup: Option<&'a Cgroup>,
    pub seccomp: Option<Filter>,
    pub stdio: Stdio,
    pub user: UserRequest,
    /// Bind sources that were resolved already (subPath), by destination; they win over the path in the spec.
    pub sources: Vec<(PathBuf, OwnedFd)>,
}

/// A process for a container that runs. What is None is as for the container's first process.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    pub args: Vec<String>,
    pub stdio: Stdio,
    /// A leaf of the container's cgroup.
    pub attach: Option<&'a Attach>,
    /// Added to the container's; the last of a name wins.
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<UserQuery>,
    pub capabilities: Option<CapSets>,
    pub no_new_privileges: Option<bool>,
}

impl<'a> ExecRequest<'a> {
    pub fn new(args: Vec<String>, stdio: Stdio, attach: Option<&'a Attach>) -> Self {
        Self {
            args,
            stdio,
            attach,
            env: Vec::new(),
            cwd: None,
            user: None,
            capabilities: None,
            no_new_privileges: None,
        }
    }
}
