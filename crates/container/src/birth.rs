//! A container is born: the configuration becomes a plan, the plan a child that waits at its gate.

use crate::attributes::{self, Attributes};
use crate::mounts::{Api, MountSteps, Planner, ProcOf, Shared, device_steps};
use crate::process::{self, Begun, Gate, Placing, PlannedStdio, begin_first, finish, plan_stdio};
use crate::request::{CreateRequest, Join, PidMode, Ptrace, Rootfs, UserRequest};
use crate::sandbox::Sandbox;
use crate::seccomp::listener::{self, About, Listener};
use crate::state::{Container, Record, SavedUser, Settings};
use killick_sys::caps::{CapSet, CapSets, supported};
use killick_sys::facts::Facts;
use killick_sys::launch::{
    Ids, Launch, LaunchError, Overlay, PidNamespace, Plan, Progress, Propagation, Step, Tree, launch,
};
use killick_sys::ns::NamespaceKind;
use killick_sys::pidfd::PidFd;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

/// A container being made. Watch `channel` for reading and ask `progress`; at the gate, `start` lets it execve.
/// Dropping it before it runs kills it.
#[derive(Debug)]
pub struct Created {
    id: String,
    launch: Launch,
    settings: Settings,
    placing: Placing,
}

/// Starts the birth; nothing here waits for a disk.
pub fn create(facts: &Facts, request: CreateRequest<'_>) -> Result<Created, LaunchError> {
    create_with(facts, request, |_| {})
}

/// As `create`; `change` sees the plan before it is run. For tests that make step *n* fail.
#[doc(hidden)]
pub fn create_with(
    facts: &Facts,
    request: CreateRequest<'_>,
    change: impl FnOnce(&mut Plan),
) -> Result<Created, LaunchError> {
    let id = request.id.clone();
    let sandbox_pid = match (request.join.pid, request.join.sandbox) {
        (PidMode::Sandbox, Some(sandbox)) => Some(sandbox.pid_namespace()?),
        (PidMode::Sandbox, None) => request
            .join
            .paths
            .iter()
            .find(|(kind, _)| *kind == NamespaceKind::Pid)
            .map(|(_, fd)| process::clone_fd(fd))
            .transpose()?,
        (PidMode::Own | PidMode::Host, _) => None,
    };
    let born = match (request.join.pid, request.join.ptrace) {
        // Alone in its namespace, or among the host's processes: nobody gains by a watch.
        (PidMode::Own | PidMode::Host, _) | (PidMode::Sandbox, Ptrace::Impossible) => Born::Inside,
        (PidMode::Sandbox, Ptrace::Possible) => Born::Outside,
    };
    let pid_mode = request.join.pid;
    let Planned { mut plan, mut settings, begun: Begun { born_in, placing } } =
        plan(facts, request, born, sandbox_pid.as_ref())?;
    change(&mut plan);
    let pid = match (pid_mode, born, &sandbox_pid) {
        (PidMode::Own, _, _) => PidNamespace::New,
        (PidMode::Sandbox, Born::Inside, Some(namespace)) => PidNamespace::Inside(namespace.as_fd()),
        (PidMode::Sandbox | PidMode::Host, _, _) => PidNamespace::Inherit,
    };
    let launch = launch(plan, pid, born_in)?;
    if pid_mode == PidMode::Own {
        // Its first process was alone at birth; those that follow are not.
        settings.born_outside = may_ptrace(&settings.capabilities);
    }
    Ok(Created { id, launch, settings, placing })
}

/// Where a child is while it still has the caller's rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Born {
    /// In its PID namespace from its first instruction.
    Inside,
    /// Outside until nothing is left to do but execve.
    Outside,
}

/// Whether a process with these sets, or a program that it runs, may trace others.
pub fn may_ptrace(sets: &CapSets) -> bool {
    sets.bounding.union(sets.permitted).union(sets.inheritable).has("CAP_SYS_PTRACE")
}

impl Created {
    /// The process that waits at its first gate until systemd has it (`Cgroup::start_unit`), if its cgroup is a scope.
    pub fn unplaced(&self) -> Option<i32> {
        self.launch.child().filter(|_| self.placing.awaits()).map(PidFd::pid)
    }

    /// systemd has it: it goes on.
    pub fn placed(&mut self) -> Result<(), LaunchError> {
        self.placing.let_in()
    }

    /// Readable when `progress` has something new.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.launch.channel()
    }

    /// Pending, then AtGate, after `start` Running; or Failed. Never blocks.
    pub fn progress(&mut self) -> Progress {
        listener::progress(&mut self.launch, self.settings.listener.as_ref(), About::First)
    }

    /// The first process; None while one outside its PID namespace prepares it (until AtGate).
    pub fn process(&self) -> Option<&PidFd> {
        self.launch.process()
    }

    /// What to keep before the gate is opened, so that a crash of ours finds the container again: from AtGate on.
    pub fn record(&self) -> Option<Record> {
        self.launch.process().map(|process| Record::new(&self.id, process, &self.settings_found()))
    }

    /// Who the process is, from AtGate on.
    pub fn user(&self) -> Option<&Ids> {
        self.launch.user()
    }

    /// Execs get the ids found now, whatever the container writes into its /etc/passwd later.
    fn settings_found(&self) -> Settings {
        let found = self.launch.user().cloned().map(SavedUser::Ids);
        let user = found.unwrap_or_else(|| self.settings.user.clone());
        Settings { user, home: self.launch.home().map(str::to_owned), ..self.settings.clone() }
    }

    pub fn start(&mut self) -> Result<(), LaunchError> {
        self.launch.open_gate()
    }

    /// Blocks until the gate, execve or a failure: for tools and tests.
    pub fn wait(&mut self, deadline: Instant) -> Progress {
        let listener = self.settings.listener.as_ref();
        self.launch.wait_with(deadline, |launch| listener::attend(launch, listener, About::First))
    }

    /// What could not be done and was not fatal.
    pub fn warnings(&self) -> &[String] {
        self.launch.warnings()
    }

    /// The pty's master, once, from AtGate on.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.launch.take_terminal()
    }

    /// The container, from AtGate on: with it goes the duty to wait for its end. A failed birth gives the error.
    pub fn into_container(self) -> Result<Container, LaunchError> {
        let settings = self.settings_found();
        let Created { id, launch, settings: _, placing: _ } = self;
        match launch.into_process() {
            Some(process) => Ok(Container { id, process, settings }),
            None => Err(LaunchError::NotRunning),
        }
    }
}

struct Planned {
    plan: Plan,
    settings: Settings,
    begun: Begun,
}

fn plan(
    facts: &Facts,
    request: CreateRequest<'_>,
    born: Born,
    sandbox_pid: Option<&OwnedFd>,
) -> Result<Planned, LaunchError> {
    let CreateRequest { id, spec, rootfs, join, cgroup, seccomp, stdio, user, sources } = request;
    let process =
        spec.process().as_ref().ok_or_else(|| LaunchError::Unsupported("process property must not be empty".into()))?;
    let mut settings = settings(process, user, seccomp, born, join.pid)?;
    settings.attributes = attributes::of(spec)?;
    let bundle = directory(&rootfs);
    let state = crate::hooks::state(crate::features::SPEC_VERSION, &id, bundle, spec);
    settings.listener = Listener::of(spec, settings.seccomp.as_ref(), bundle, &state)?;
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(LaunchError::Unsupported("args must not be empty".into()));
    }
    let api = if facts.detached_mounts { Api::Detached } else { Api::Classic };

    let mut plan = Plan::new();
    let begun = begin_first(&mut plan, cgroup, settings.oom_score_adj)?;
    settings.labels.prepare(&mut plan);
    let stdio = plan_stdio(&mut plan, stdio);
    if api == Api::Classic
        && born == Born::Outside
        && join.sandbox.is_none_or(|sandbox| sandbox.proc_directory().is_none())
    {
        let text =
            "a process beside others with CAP_SYS_PTRACE needs a procfs that its sandbox has not: make the pod anew";
        return Err(LaunchError::Unsupported(text.into()));
    }
    let cgroup_namespace = facts.cgroup_namespace && has_namespace(spec, LinuxNamespaceType::Cgroup);
    let shared = shared(&join, api, born);
    let cgroups = cgroup.map(|cgroup| cgroup.dirs()).unwrap_or_default();
    let mut planner = Planner {
        plan: &mut plan,
        api,
        shared,
        cgroups,
        cgroup_namespace,
        sources,
        steps: MountSteps::default(),
        next_tree: 0,
        user: None,
    };
    planner.mount_all(spec)?;
    planner.node_spares(spec);
    let steps = planner.steps;
    plan.extend([Step::Umask(0), Step::NewSession]);
    let mut unshare = vec![NamespaceKind::Mount];
    if cgroup_namespace {
        unshare.push(NamespaceKind::Cgroup);
    }
    match api {
        Api::Detached => {
            let root = Tree(0);
            plan.extend(root_tree(&rootfs, root));
            plan.extend(steps.outside);
            plan_join(&mut plan, facts, &join, api)?;
            if let Some(namespace) = sandbox_pid.filter(|_| born == Born::Outside) {
                let fd = plan.fd("sandbox pid", process::clone_fd(namespace)?);
                plan.push(Step::PidForChildren(fd));
            }
            plan.push(Step::Unshare(unshare));
            plan.push(Step::PropagateRoot(Propagation::Private));
            plan.extend(steps.in_sight);
            plan.push(Step::AttachRoot(root));
        }
        Api::Classic => {
            plan_join(&mut plan, facts, &join, api)?;
            if let Some(namespace) = sandbox_pid.filter(|_| born == Born::Outside) {
                let fd = plan.fd("sandbox pid", process::clone_fd(namespace)?);
                plan.push(Step::PidForChildren(fd));
            }
            plan.push(Step::Unshare(unshare));
            plan.extend(root_classic(&rootfs));
        }
    }
    plan.extend(steps.mounts);
    plan.extend(device_steps(spec)?);
    if let PlannedStdio::Terminal { rows, columns } = stdio {
        plan.push(Step::Terminal { console: true, rows, columns });
    }
    if let Some(linux) = spec.linux() {
        plan.extend(linux.readonly_paths().iter().flatten().map(|path| Step::ReadonlyPath(path.into())));
        plan.extend(linux.masked_paths().iter().flatten().map(|path| Step::MaskPath(path.into())));
    }
    plan.extend(steps.finish);
    // Before the root may become read-only.
    plan.push(Step::MakeDirectory(settings.cwd.clone()));
    plan.push(Step::PivotRoot);
    if is_readonly(&rootfs) {
        plan.push(Step::ReadonlyRoot);
    }
    plan.extend(settings.attributes.steps());
    plan.extend(crate::scheduling::steps(process)?);
    finish(&mut plan, &settings, &stdio, Gate::Wait { hooks: None }, args);
    Ok(Planned { plan, settings, begun })
}

pub(crate) fn cgroup_error(error: crate::cgroup::CgroupError) -> LaunchError {
    LaunchError::Unsupported(error.to_string())
}

pub(crate) fn has_namespace(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|namespaces| namespaces.iter().any(|namespace| namespace.typ() == kind))
}

/// The directory of the container's own.
fn directory(rootfs: &Rootfs) -> &std::path::Path {
    let (Rootfs::Layers { mount: root, .. } | Rootfs::Directory { path: root, .. }) = rootfs;
    root.parent().unwrap_or(root)
}

fn is_readonly(rootfs: &Rootfs) -> bool {
    match rootfs {
        Rootfs::Layers { readonly, .. } | Rootfs::Directory { readonly, .. } => *readonly,
    }
}

fn shared(join: &Join<'_>, api: Api, born: Born) -> Shared {
    let shm = join.sandbox.filter(|sandbox| sandbox.has_own_ipc()).and_then(|sandbox| match api {
        Api::Detached => Some(PathBuf::from("/dev/shm")),
        Api::Classic => sandbox.shm_directory(),
    });
    // A procfs shows the PID namespace of whoever mounts it, and that child is outside.
    let proc = match (born, api) {
        (Born::Inside, _) => None,
        (Born::Outside, Api::Detached) => Some(ProcOf::Sandbox(PathBuf::from("/proc"))),
        (Born::Outside, Api::Classic) => join.sandbox.and_then(Sandbox::proc_directory).map(ProcOf::Sandbox),
    };
    Shared { shm, proc }
}

fn overlay(lowers: &[PathBuf], upper: &std::path::Path, work: &std::path::Path, mount: &std::path::Path) -> Overlay {
    Overlay {
        lowers: lowers.iter().rev().cloned().collect(),
        upper: Some((upper.to_owned(), work.to_owned())),
        at: mount.to_owned(),
    }
}

fn root_tree(rootfs: &Rootfs, tree: Tree) -> Vec<Step> {
    match rootfs {
        Rootfs::Layers { lowers, upper, work, mount, readonly: _ } => vec![
            Step::MakeDirectories(vec![upper.clone(), work.clone(), mount.clone()]),
            Step::OverlayTree { overlay: overlay(lowers, upper, work, mount), tree },
        ],
        Rootfs::Directory { path, readonly: _ } => vec![Step::CloneTree {
            tree,
            path: path.clone(),
            fd: None,
            recursive: true,
            set: 0,
            clear: 0,
            propagation: Propagation::Private,
            recursive_set: 0,
            recursive_clear: 0,
        }],
    }
}

pub(crate) fn root_classic(rootfs: &Rootfs) -> Vec<Step> {
    match rootfs {
        Rootfs::Layers { lowers, upper, work, mount, readonly: _ } => vec![
            Step::MakeDirectories(vec![upper.clone(), work.clone(), mount.clone()]),
            Step::PrivateMountOf(mount.clone()),
            Step::OverlayAt(overlay(lowers, upper, work, mount)),
            Step::PrivateMountOf(mount.clone()),
            Step::OpenRoot(mount.clone()),
        ],
        Rootfs::Directory { path, readonly: _ } => vec![
            Step::PrivateMountOf(path.clone()),
            Step::BindRoot { path: path.clone() },
            Step::PrivateMountOf(path.clone()),
            Step::OpenRoot(path.clone()),
        ],
    }
}

/// Joins what the container does not make for itself. Detached, also the sandbox's minimal mount namespace, which
/// costs nothing to copy; classic mounts need the host's.
fn plan_join(plan: &mut Plan, facts: &Facts, join: &Join<'_>, api: Api) -> Result<(), LaunchError> {
    let mut each = Vec::new();
    for (kind, fd) in &join.paths {
        if *kind != NamespaceKind::Pid {
            each.push((*kind, plan.fd(format!("{} namespace", kind.proc_name()), process::clone_fd(fd)?)));
        }
    }
    if !each.is_empty() {
        plan.push(Step::Join { target: None, kinds: Vec::new(), each });
    }
    let Some(sandbox) = join.sandbox else { return Ok(()) };
    let mut kinds = vec![NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Network];
    if api == Api::Detached {
        kinds.push(NamespaceKind::Mount);
    }
    plan_join_process(plan, facts, "sandbox", sandbox.process(), &kinds)
}

/// By pidfd at once, or each by its file where the kernel cannot.
pub(crate) fn plan_join_process(
    plan: &mut Plan,
    facts: &Facts,
    name: &str,
    process: &PidFd,
    kinds: &[NamespaceKind],
) -> Result<(), LaunchError> {
    let pidfd = process.as_fd().filter(|_| facts.setns_by_pidfd);
    if let Some(pidfd) = pidfd {
        let pidfd = pidfd
            .try_clone_to_owned()
            .map_err(|error| killick_sys::error::Error::from_io("fcntl(F_DUPFD_CLOEXEC)", &error))?;
        let target = plan.fd(name, pidfd);
        plan.push(Step::Join { target: Some(target), kinds: kinds.to_vec(), each: Vec::new() });
        return Ok(());
    }
    let mut each = Vec::new();
    for kind in kinds {
        match killick_sys::ns::open_of(process.pid(), *kind) {
            Ok(fd) => each.push((*kind, plan.fd(format!("{name} {}", kind.proc_name()), fd))),
            // A kind that this kernel does not have: the process would have to be gone for the others too.
            Err(_) if *kind == NamespaceKind::Cgroup && process.is_running() => {}
            Err(error) if error.errno() == nix::errno::Errno::ESRCH => return Err(LaunchError::NotRunning),
            Err(error) => return Err(error.into()),
        }
    }
    // The number was opened a moment ago: it was the right one only if the process is still there.
    if !process.is_running() {
        return Err(LaunchError::NotRunning);
    }
    plan.push(Step::Join { target: None, kinds: Vec::new(), each });
    Ok(())
}

pub(crate) fn settings(
    process: &Process,
    user: UserRequest,
    seccomp: Option<killick_sys::seccomp::Filter>,
    born: Born,
    pid: PidMode,
) -> Result<Settings, LaunchError> {
    if !process.cwd().is_absolute() {
        return Err(LaunchError::Unsupported("Cwd must be an absolute path".into()));
    }
    let capabilities = match process.capabilities() {
        Some(listed) => crate::caps::from_oci(listed).0.limited_to(supported()),
        None => CapSets::container(CapSet::EMPTY),
    };
    let user_of_spec = process.user();
    let user = match user {
        UserRequest::Ids => SavedUser::Ids(Ids {
            uid: user_of_spec.uid(),
            gid: user_of_spec.gid(),
            groups: user_of_spec.additional_gids().clone().unwrap_or_default(),
        }),
        UserRequest::Lookup(query) => SavedUser::from_query(query),
    };
    Ok(Settings {
        env: process::deduplicate(process.env().iter().flatten().cloned())?,
        home: None,
        cwd: process.cwd().clone(),
        user,
        umask: user_of_spec.umask().unwrap_or(0o022),
        capabilities,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        seccomp,
        rlimits: process::rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        oom_score_adj: process.oom_score_adj(),
        born_outside: born == Born::Outside,
        pid_namespace: pid != PidMode::Host,
        user_namespace: None,
        time_namespace: false,
        chroot: false,
        attributes: Attributes::default(),
        rdt: None,
        labels: crate::labels::of(process),
        listener: None,
    })
}
