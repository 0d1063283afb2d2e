//! One more process in a container that runs: it joins everything, mounts nothing.

use crate::birth::{Born, plan_join_process, settings};
use crate::process::{Gate, PlannedStdio, begin, deduplicate, finish, join_rdt, plan_stdio};
use crate::request::{ExecRequest, PidMode, Stdio, UserRequest};
use crate::seccomp::listener::{self, About, Listener};
use crate::state::{Container, SavedUser, Settings};
use killick_sys::cgroup::Attach;
use killick_sys::error::Context;
use killick_sys::facts::Facts;
use killick_sys::launch::{Launch, LaunchError, PidNamespace, Plan, Progress, Step, launch};
use killick_sys::ns::{self, NamespaceKind};
use killick_sys::pidfd::PidFd;
use nix::errno::Errno;
use oci_spec::runtime::Process;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

/// A process being added. Watch `channel` and ask `progress` until it is Running or Failed; then `into_process`.
/// Dropping it before that kills it.
#[derive(Debug)]
pub struct Exec {
    launch: Launch,
    listener: Option<Listener>,
    about: About,
}

/// Starts the process; its deadline and the end of whatever it starts (kill its leaf) are the caller's.
pub fn exec(facts: &Facts, container: &Container, request: ExecRequest<'_>) -> Result<Exec, LaunchError> {
    exec_with(facts, container, request, |_| {})
}

/// As `exec`; `change` sees the plan before it is run. For tests that make step *n* fail.
#[doc(hidden)]
pub fn exec_with(
    facts: &Facts,
    container: &Container,
    request: ExecRequest<'_>,
    change: impl FnOnce(&mut Plan),
) -> Result<Exec, LaunchError> {
    let ExecRequest { args, stdio, attach, env, cwd, user, capabilities, no_new_privileges } = request;
    if args.is_empty() {
        return Err(LaunchError::Unsupported("args must not be empty".into()));
    }
    let first = &container.settings;
    // The first process's home is another user's not.
    let home = first.home.iter().filter(|_| user.is_none()).map(|home| format!("HOME={home}"));
    let settings = Settings {
        env: deduplicate(home.chain(first.env.iter().cloned()).chain(env))?,
        cwd: cwd.unwrap_or_else(|| first.cwd.clone()),
        user: user.map_or_else(|| first.user.clone(), SavedUser::from_query),
        capabilities: capabilities.unwrap_or(first.capabilities),
        no_new_privileges: no_new_privileges.unwrap_or(first.no_new_privileges),
        ..first.clone()
    };
    let how = How { inherited: Vec::new(), more: Vec::new() };
    start(facts, container, settings, args, stdio, attach, how, change)
}

/// A whole `process` object (`exec --process`): nothing is taken over from the first process but its seccomp filter.
#[derive(Debug)]
pub struct ProcessRequest<'a> {
    pub process: &'a Process,
    pub stdio: Stdio,
    pub attach: Option<&'a Attach>,
    /// Descriptors that are passed on at their places.
    pub inherited: Vec<i32>,
    /// More variables (LISTEN_FDS).
    pub env: Vec<String>,
    /// Name of the container's session keyring.
    pub keyring: Option<String>,
}

/// As `exec`, for a process that is described whole.
pub fn exec_process(facts: &Facts, container: &Container, request: ProcessRequest<'_>) -> Result<Exec, LaunchError> {
    let ProcessRequest { process, stdio, attach, inherited, env, keyring } = request;
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(LaunchError::Unsupported("args must not be empty".into()));
    }
    let first = &container.settings;
    // Where it is born and lives is the container's business.
    let described = settings(process, UserRequest::Ids, first.seccomp.clone(), Born::Inside, PidMode::Own)?;
    let settings = Settings {
        env: deduplicate(described.env.iter().cloned().chain(env))?,
        born_outside: first.born_outside,
        pid_namespace: first.pid_namespace,
        user_namespace: first.user_namespace.clone(),
        time_namespace: first.time_namespace,
        chroot: first.chroot,
        attributes: first.attributes.clone(),
        rdt: first.rdt.clone(),
        listener: first.listener.clone(),
        ..described
    };
    let mut more = settings.labels.keyring(keyring);
    more.extend(crate::scheduling::affinity(process)?);
    more.extend(crate::scheduling::steps(process)?);
    start(facts, container, settings, args, stdio, attach, How { inherited, more }, |_| {})
}

/// What only a whole process has.
struct How {
    inherited: Vec<i32>,
    more: Vec<Step>,
}

#[allow(clippy::too_many_arguments, reason = "one caller for each kind of request")]
fn start(
    facts: &Facts,
    container: &Container,
    settings: Settings,
    args: Vec<String>,
    stdio: Stdio,
    attach: Option<&Attach>,
    how: How,
    change: impl FnOnce(&mut Plan),
) -> Result<Exec, LaunchError> {
    let mut plan = Plan::new();
    plan.keep_inherited(how.inherited);
    let born_in = begin(&mut plan, attach, settings.oom_score_adj)?;
    join_rdt(&mut plan, settings.rdt.as_ref())?;
    settings.labels.prepare(&mut plan);
    let stdio = plan_stdio(&mut plan, stdio);
    if let Some(maps) = &settings.user_namespace {
        let fds = match &stdio {
            PlannedStdio::Streams(fds) => Some(*fds),
            PlannedStdio::Terminal { .. } => None,
        };
        crate::namespaces::plan_before_user(&mut plan, maps, &settings, fds);
        plan.push(Step::LeaveGroups);
    }
    plan.push(Step::NewSession);
    let process = container.process();
    let has = |kind: &NamespaceKind| match kind {
        NamespaceKind::User => settings.user_namespace.is_some(),
        NamespaceKind::Time => settings.time_namespace,
        NamespaceKind::Cgroup => facts.cgroup_namespace,
        NamespaceKind::Pid => false,
        NamespaceKind::Ipc | NamespaceKind::Uts | NamespaceKind::Network | NamespaceKind::Mount => true,
    };
    let kinds: Vec<NamespaceKind> = NamespaceKind::ALL.into_iter().filter(has).collect();
    let root = settings.chroot.then(|| root_of(process)).transpose()?;
    // With the host's rights, which end in a user namespace.
    let joins_late = settings.user_namespace.is_none();
    if joins_late {
        plan_join_process(&mut plan, facts, "container", process, &kinds)?;
    }
    let opened;
    let pid = match (settings.pid_namespace, process.as_fd().filter(|_| facts.setns_by_pidfd)) {
        (false, _) => PidNamespace::Inherit,
        (true, _) if settings.born_outside => {
            let fd = plan.fd("container pid", pid_namespace(process)?);
            plan.push(Step::PidForChildren(fd));
            PidNamespace::Inherit
        }
        (true, Some(pidfd)) => PidNamespace::Inside(pidfd),
        (true, None) => {
            opened = pid_namespace(process)?;
            PidNamespace::Inside(opened.as_fd())
        }
    };
    if !joins_late {
        plan_join_process(&mut plan, facts, "container", process, &kinds)?;
        plan.push(Step::BecomeRoot);
    }
    if let Some(root) = root {
        let root = plan.fd("container root", root);
        plan.push(Step::ChrootTo(root));
    }
    if let PlannedStdio::Terminal { rows, columns } = stdio {
        plan.push(Step::Terminal { console: false, rows, columns });
    }
    plan.extend(settings.attributes.steps());
    plan.extend(how.more);
    finish(&mut plan, &settings, &stdio, Gate::None, args);
    change(&mut plan);
    let about = About::Exec { first: process.pid() };
    Ok(Exec { launch: launch(plan, pid, born_in)?, listener: settings.listener, about })
}

/// What the first process sees as `/`: its mount namespace is not its own.
fn root_of(process: &PidFd) -> Result<OwnedFd, LaunchError> {
    let path = format!("/proc/{}/root", process.pid());
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(&path);
    let opened = opened.map(OwnedFd::from).call(|| format!("open({path}, O_PATH)"))?;
    // Opened by number: it was the right one only if the process is still there.
    if process.is_running() { Ok(opened) } else { Err(LaunchError::NotRunning) }
}

fn pid_namespace(process: &PidFd) -> Result<OwnedFd, LaunchError> {
    let opened = ns::open_of(process.pid(), NamespaceKind::Pid).map_err(|error| match error.errno() {
        Errno::ESRCH | Errno::ENOENT => LaunchError::NotRunning,
        _ => LaunchError::Call(error),
    })?;
    if process.is_running() { Ok(opened) } else { Err(LaunchError::NotRunning) }
}

impl Exec {
    /// Readable when `progress` has something new.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.launch.channel()
    }

    /// Pending, then Running or Failed. Never blocks.
    pub fn progress(&mut self) -> Progress {
        listener::progress(&mut self.launch, self.listener.as_ref(), self.about)
    }

    /// None while one outside the PID namespace prepares it.
    pub fn process(&self) -> Option<&PidFd> {
        self.launch.process()
    }

    /// Blocks until Running or Failed: for tools and tests.
    pub fn wait(&mut self, deadline: Instant) -> Progress {
        let (listener, about) = (self.listener.as_ref(), self.about);
        self.launch.wait_with(deadline, |launch| listener::attend(launch, listener, about))
    }

    pub fn warnings(&self) -> &[String] {
        self.launch.warnings()
    }

    /// The pty's master, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.launch.take_terminal()
    }

    /// The process, once it runs: with it goes the duty to wait for its end.
    pub fn into_process(self) -> Result<PidFd, LaunchError> {
        self.launch.into_process().ok_or(LaunchError::NotRunning)
    }
}
