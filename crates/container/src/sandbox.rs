//! The sandbox: pause, whose namespaces the pod's containers join. A sandbox is a pidfd.

use crate::cgroup::Cgroup;
use crate::process::{Begun, Placing, PlannedStdio, begin_first, plan_stdio};
use crate::request::Stdio;
use killick_sys::caps::{CapSet, CapSets};
use killick_sys::error::Error;
use killick_sys::facts::Facts;
use killick_sys::launch::{
    Ids, Launch, LaunchError, Mount, MountPoint, MountSource, PidNamespace, Plan, Progress, Propagation, Step, Tree,
    Who, launch,
};
use killick_sys::ns::{self, NamespaceKind};
use killick_sys::pidfd::PidFd;
use killick_sys::sealed::sealed;
use killick_sys::seccomp::Filter;
use serde::{Deserialize, Serialize};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// pause's user and group: nobody else's on any host.
pub const PAUSE_UID: u32 = 65_535;
/// kubelet's score for a sandbox: the last thing of a pod that the OOM killer takes.
pub const PAUSE_OOM_SCORE_ADJ: i32 = -998;
/// All that pause sees.
const EMPTY: &str = "/empty";
/// Before 3.19 it sees its own program too.
const PROGRAM: &str = "pause";
/// Docker's and containerd's /dev/shm.
pub const SHM_BYTES: u64 = 64 << 20;

#[derive(Debug)]
pub struct SandboxRequest<'a> {
    /// A static program that sleeps; run from a sealed memfd.
    pub pause: &'a [u8],
    /// What pause is run with: its name, and what tells it its role.
    pub args: Vec<String>,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    pub host_pid: bool,
    /// Namespaces that somebody else has made and that pause only holds: with a network among them none is made.
    pub joined: Vec<(NamespaceKind, OwnedFd)>,
    pub oom_score_adj: i32,
    pub sysctls: Vec<(String, String)>,
    pub shm_bytes: u64,
    pub cgroup: Option<&'a Cgroup>,
    /// The calls that pause makes, and no others.
    pub seccomp: Option<Filter>,
    /// An existing directory of the pod's own: where the kernel has no detached mounts, the pod's /dev/shm and a procfs
    /// of its PID namespace are mounted on `shm` and `proc` below it, in the host's mount namespace.
    pub dir: PathBuf,
}

/// A sandbox being made: as `Created`, without a gate.
#[derive(Debug)]
pub struct SandboxBirth {
    launch: Launch,
    settings: Settings,
    placing: Placing,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Settings {
    host_network: bool,
    host_ipc: bool,
    host_pid: bool,
    /// Classic only.
    shm: Option<PathBuf>,
    /// Classic only: a procfs of the pod's PID namespace.
    #[serde(default)]
    proc: Option<PathBuf>,
}

/// A pod's pause and what is shared through it.
#[derive(Debug)]
pub struct Sandbox {
    process: PidFd,
    settings: Settings,
}

/// What a restarted shim reads to find its sandbox again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    pub pid: i32,
    pub start_time: u64,
    settings: Settings,
}

pub fn create(facts: &Facts, request: SandboxRequest<'_>) -> Result<SandboxBirth, LaunchError> {
    create_with(facts, request, |_| {})
}

/// As `create`; `change` sees the plan before it is run. For tests that make step *n* fail.
#[doc(hidden)]
pub fn create_with(
    facts: &Facts,
    request: SandboxRequest<'_>,
    change: impl FnOnce(&mut Plan),
) -> Result<SandboxBirth, LaunchError> {
    let pid = if request.host_pid { PidNamespace::Inherit } else { PidNamespace::New };
    let (mut plan, settings, Begun { born_in, placing }) = plan(facts, request)?;
    change(&mut plan);
    Ok(SandboxBirth { launch: launch(plan, pid, born_in)?, settings, placing })
}

impl SandboxBirth {
    /// As `Created::unplaced`.
    pub fn unplaced(&self) -> Option<i32> {
        self.launch.child().filter(|_| self.placing.awaits()).map(PidFd::pid)
    }

    /// As `Created::placed`.
    pub fn placed(&mut self) -> Result<(), LaunchError> {
        self.placing.let_in()
    }

    /// Readable when `progress` has something new.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.launch.channel()
    }

    /// Pending, then Running or Failed. Never blocks.
    pub fn progress(&mut self) -> Progress {
        self.launch.progress()
    }

    /// Blocks until Running or Failed: for tools and tests.
    pub fn wait(&mut self, deadline: Instant) -> Progress {
        self.launch.wait(deadline)
    }

    pub fn warnings(&self) -> &[String] {
        self.launch.warnings()
    }

    /// After a failure: as `Sandbox::unmount`.
    pub fn unmount(&self) -> Result<(), Error> {
        unmount(&self.settings)
    }

    /// The sandbox, once it runs.
    pub fn into_sandbox(self) -> Result<Sandbox, LaunchError> {
        let SandboxBirth { launch, settings, placing: _ } = self;
        let process = launch.into_process().ok_or(LaunchError::NotRunning)?;
        Ok(Sandbox { process, settings })
    }
}

impl Sandbox {
    /// Signals and the exit go by this. Only SIGKILL from outside ends pause.
    pub fn process(&self) -> &PidFd {
        &self.process
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub fn network_namespace(&self) -> Result<OwnedFd, LaunchError> {
        self.namespace(NamespaceKind::Network)
    }

    pub fn pid_namespace(&self) -> Result<OwnedFd, LaunchError> {
        self.namespace(NamespaceKind::Pid)
    }

    pub fn namespace(&self, kind: NamespaceKind) -> Result<OwnedFd, LaunchError> {
        let gone = |error: Error| match error.errno() {
            nix::errno::Errno::ESRCH => LaunchError::NotRunning,
            _ => LaunchError::Call(error),
        };
        let opened = ns::open_of(self.process.pid(), kind).map_err(gone)?;
        // Opened by number: it was ours only if pause is still there now.
        if self.process.is_running() { Ok(opened) } else { Err(LaunchError::NotRunning) }
    }

    pub fn is_host_network(&self) -> bool {
        self.settings.host_network
    }

    pub(crate) fn has_own_ipc(&self) -> bool {
        !self.settings.host_ipc
    }

    pub(crate) fn shm_directory(&self) -> Option<PathBuf> {
        self.settings.shm.clone()
    }

    pub(crate) fn proc_directory(&self) -> Option<PathBuf> {
        self.settings.proc.clone()
    }

    pub fn record(&self) -> SandboxRecord {
        SandboxRecord {
            pid: self.process.pid(),
            start_time: self.process.start_time(),
            settings: self.settings.clone(),
        }
    }

    /// Takes back what the host's mount namespace holds of the sandbox (nothing, but on old kernels).
    pub fn unmount(&self) -> Result<(), Error> {
        unmount(&self.settings)
    }
}

impl SandboxRecord {
    /// As `Sandbox::unmount`, when pause is gone.
    pub fn unmount(&self) -> Result<(), Error> {
        unmount(&self.settings)
    }
}

/// As `Sandbox::unmount`, for whoever has nothing but the directory that the sandbox was made with.
pub fn unmount_in(dir: &Path) -> Result<(), Error> {
    unmount_points(CLASSIC_POINTS.iter().map(|name| dir.join(name)))
}

/// Below the sandbox's directory, on kernels without detached mounts: its /dev/shm, and a procfs.
const CLASSIC_POINTS: [&str; 2] = ["shm", "proc"];

fn unmount(settings: &Settings) -> Result<(), Error> {
    unmount_points(settings.shm.iter().chain(&settings.proc).cloned())
}

fn unmount_points(points: impl Iterator<Item = PathBuf>) -> Result<(), Error> {
    let mut done = Ok(());
    for point in points {
        match killick_sys::mount::unmount_detach(&point) {
            Err(error) if matches!(error.errno(), nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            other => done = done.and(other),
        }
    }
    done
}

/// Finds a recorded sandbox; None when its pause is gone.
pub fn reopen(record: SandboxRecord) -> Result<Option<Sandbox>, Error> {
    match PidFd::open_verified(record.pid, record.start_time) {
        Ok(process) if process.is_running() => Ok(Some(Sandbox { process, settings: record.settings })),
        Ok(_) => Ok(None),
        Err(error) if error.errno() == nix::errno::Errno::ESRCH => Ok(None),
        Err(error) => Err(error),
    }
}

type Planned = (Plan, Settings, Begun);

fn plan(facts: &Facts, request: SandboxRequest<'_>) -> Result<Planned, LaunchError> {
    let SandboxRequest {
        pause,
        args,
        hostname,
        host_network,
        host_ipc,
        host_pid,
        joined,
        oom_score_adj,
        sysctls,
        shm_bytes,
        cgroup,
        seccomp,
        dir,
    } = request;
    let own_shm = !host_ipc;
    let shm = (own_shm && !facts.detached_mounts).then(|| dir.join(CLASSIC_POINTS[0]));
    let proc = (!host_pid && !facts.detached_mounts).then(|| dir.join(CLASSIC_POINTS[1]));
    let settings = Settings { host_network, host_ipc, host_pid, shm: shm.clone(), proc: proc.clone() };

    let mut plan = Plan::new();
    let begun = begin_first(&mut plan, cgroup, Some(oom_score_adj))?;
    let program = plan.fd("pause", sealed("pause", pause)?);
    let null = Stdio::null().map_err(|error| Error::from_io("open(/dev/null)", &error))?;
    let stdio = plan_stdio(&mut plan, null);

    let mut kinds = Vec::new();
    if !host_ipc {
        kinds.push(NamespaceKind::Ipc);
    }
    // The host's name goes with the host's network (kubelet.md §9.1).
    if !host_network {
        kinds.extend([NamespaceKind::Uts, NamespaceKind::Network]);
    }
    kinds.retain(|kind| joined.iter().all(|(joined, _)| joined != kind));
    let own_network = kinds.contains(&NamespaceKind::Network);
    plan.extend([Step::NewSession, Step::Umask(0)]);
    if !joined.is_empty() {
        let each = joined.into_iter().map(|(kind, fd)| (kind, plan.fd(format!("{} namespace", kind.proc_name()), fd)));
        let each = each.collect();
        plan.push(Step::Join { target: None, kinds: Vec::new(), each });
    }
    if !kinds.is_empty() {
        plan.push(Step::Unshare(kinds));
    }
    if own_network {
        plan.push(Step::LoopbackUp);
    }
    if !host_network {
        plan.push(Step::Hostname(hostname));
    }
    plan.extend(sysctls.into_iter().map(|(name, value)| Step::Sysctl { name, value }));
    let shm_data = format!("mode=1777,size={shm_bytes}");
    if let Some(shm) = shm {
        plan.push(Step::MakeDirectories(vec![shm.clone()]));
        plan.push(Step::TmpfsRoot { data: shm_data.clone(), at: shm });
    }
    if let Some(proc) = proc {
        // By the first process of the PID namespace, before anybody else is in it: for containers whose own child must
        // stay outside (design: nothing with more rights where somebody may trace).
        plan.push(Step::MakeDirectories(vec![proc.clone()]));
        plan.push(Step::ProcAt(proc));
    }
    plan.push(Step::Unshare(vec![NamespaceKind::Mount]));
    // Where a program cannot be run by its descriptor, it lies in the root that pause has anyway.
    let bytes = if facts.execveat { 0 } else { pause.len().next_multiple_of(4096) };
    let root_data = format!("mode=755,size={}k", 64 + bytes / 1024);
    if facts.detached_mounts {
        let root = Tree(0);
        plan.extend([
            Step::TmpfsTree { tree: root, data: root_data },
            Step::PropagateRoot(Propagation::Private),
            Step::AttachRoot(root),
        ]);
    } else {
        plan.extend([
            // Nothing of the host's is seen again from here, and nothing given back.
            Step::PropagateRoot(Propagation::Slave),
            Step::TmpfsRoot { data: root_data, at: dir.clone() },
            Step::PrivateMountOf(dir.clone()),
            Step::OpenRoot(dir),
        ]);
    }
    if !host_pid {
        plan.push(filesystem("/proc", "proc", ""));
    }
    if own_shm && facts.detached_mounts {
        plan.push(filesystem("/dev/shm", "tmpfs", &shm_data));
    }
    // Those who join the namespace see proc and shm; pause sees an empty directory.
    plan.push(Step::MakeDirectory(EMPTY.into()));
    if !facts.execveat {
        plan.push(Step::CopyProgram { program, path: Path::new(EMPTY).join(PROGRAM) });
    }
    plan.extend([Step::PivotRoot, Step::ReadonlyRoot, Step::Chroot(EMPTY.into())]);
    if let PlannedStdio::Streams(fds) = stdio {
        plan.push(Step::Stdio(fds));
    }
    plan.extend([
        Step::CloseDone,
        Step::FindUser(Who::Ids(Ids { uid: PAUSE_UID, gid: PAUSE_UID, groups: Vec::new() })),
        Step::Umask(0o022),
        Step::DropBounding(CapSet::EMPTY),
        Step::SwitchUser,
        Step::Capabilities(CapSets::default()),
        Step::NoNewPrivileges,
        Step::Announce,
    ]);
    plan.extend(seccomp.map(Step::Seccomp));
    plan.push(match facts.execveat {
        true => Step::ExecFd { program, args },
        false => Step::ExecPath { path: Path::new("/").join(PROGRAM), args },
    });
    Ok((plan, settings, begun))
}

fn filesystem(destination: &str, fstype: &str, data: &str) -> Step {
    Step::Mount(Mount {
        destination: Path::new(destination).to_owned(),
        source: MountSource::Filesystem { fstype: fstype.into(), source: fstype.into(), data: data.into() },
        point: MountPoint::Directory,
        set: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        clear: 0,
        propagation: None,
        recursive_set: 0,
        recursive_clear: 0,
    })
}
