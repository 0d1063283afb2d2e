//! An OCI bundle as it is: a container with namespaces of its own or joined by path, without a sandbox, made by one
//! command and started by another. The same steps as `birth`'s, in the order of oci.md §3.

use crate::birth::{Born, has_namespace, root_classic, settings};
use crate::cgroup::Cgroup;
use crate::hooks::{self, Kind};
use crate::meeting::{Meeting, Meetings};
use crate::mounts::{Api, MountSteps, Planner, ProcOf, Shared, device_steps};
use crate::namespaces::{self, MountNamespace, Namespaces, Pid};
use crate::pid_namespace::{Birthplace, of_joined};
use crate::process::{Begun, Gate, Placing, PlannedStdio, begin_first, finish, join_rdt, plan_stdio};
use crate::rdt::{self, Held, Rdt};
use crate::request::{PidMode, Rootfs, Stdio, UserRequest};
use crate::seccomp::listener::{self, About, Listener};
use crate::state::{Container, Record, Settings};
use killick_sys::error::Error;
use killick_sys::facts::Facts;
use killick_sys::launch::{Fd, Launch, LaunchError, Plan, Progress, Propagation, Step, Tree, launch};
use killick_sys::ns::NamespaceKind;
use killick_sys::pidfd::PidFd;
use killick_sys::seccomp::Filter;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde_json::{Map, Value};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a bundle becomes a container with. `spec` has passed `support::check`.
#[derive(Debug)]
pub struct BundleRequest<'a> {
    pub id: String,
    /// Absolute; relative sources of bind mounts are below it.
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    pub cgroup: &'a Cgroup,
    pub seccomp: Option<Filter>,
    pub stdio: Stdio,
    /// Descriptors that are passed on at their places.
    pub inherited: Vec<i32>,
    /// More variables (LISTEN_FDS).
    pub env: Vec<String>,
    /// Name of its own session keyring.
    pub keyring: Option<String>,
    /// The root is moved over the host's, where that is one which pivot_root refuses.
    pub no_pivot: bool,
    /// From `killick_sys::launch::gate_listen`: where another process will start it. None: `BundleBirth::start` does.
    pub gate: Option<OwnedFd>,
    /// `hooks::state`.
    pub state: &'a Map<String, Value>,
}

/// A container on its way to the gate. Dropping it before `at_gate` was Ok kills it.
#[derive(Debug)]
pub struct BundleBirth {
    id: String,
    launch: Launch,
    settings: Settings,
    placing: Placing,
    meetings: Meetings,
    /// After `launch`: nobody is in it then.
    rdt: Held,
    has_socket: bool,
}

/// A moment of a birth at which the child waits for the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// prestart and createRuntime are to be run, then `go` is to be called.
    Hooks,
    /// What was to do is done.
    Done,
}

/// A birth that has made no step for so long is given up.
const CREATE_DEADLINE: Duration = Duration::from_secs(600);

/// Starts the birth.
pub fn create(facts: &Facts, request: BundleRequest<'_>) -> Result<BundleBirth, LaunchError> {
    create_with(facts, request, |_| {})
}

/// As `create`; `change` sees the plan before it is run. For tests that make step *n* fail.
#[doc(hidden)]
pub fn create_with(
    facts: &Facts,
    request: BundleRequest<'_>,
    change: impl FnOnce(&mut Plan),
) -> Result<BundleBirth, LaunchError> {
    let id = request.id.clone();
    let has_socket = request.gate.is_some();
    let rdt = Held(rdt::create(request.spec, &id).map_err(LaunchError::Unsupported)?);
    let Planned { mut plan, mut settings, born_in, placing, namespaces, meetings } =
        plan(facts, request, rdt.0.as_ref())?;
    settings.rdt = rdt.0.clone();
    change(&mut plan);
    let launch = launch(plan, namespaces.born_in(), born_in)?;
    // Those that follow the first process are seen by it, and by whoever joins its namespace later.
    settings.born_outside = !matches!(namespaces.pid, Pid::Host);
    Ok(BundleBirth { id, launch, settings, placing, meetings, rdt, has_socket })
}

impl BundleBirth {
    /// As `Created::unplaced`.
    pub fn unplaced(&self) -> Option<i32> {
        self.launch.child().filter(|_| self.placing.awaits()).map(PidFd::pid)
    }

    /// As `Created::placed`.
    pub fn placed(&mut self) -> Result<(), LaunchError> {
        self.placing.let_in()
    }

    /// The first process, from the gate on.
    pub fn process(&self) -> Option<&PidFd> {
        self.launch.process()
    }

    /// What finds the container again: from its birth on, and once more at the gate, when another process may have
    /// come into the first one's place.
    pub fn record(&self) -> Option<Record> {
        self.launch.child().map(|process| Record::new(&self.id, process, &self.settings))
    }

    /// Readable when `progress` has something new.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.launch.channel()
    }

    /// Pending, then AtGate, after `start` Running; or Failed. Never blocks.
    pub fn progress(&mut self) -> Progress {
        listener::progress(&mut self.launch, self.settings.listener.as_ref(), About::First)
    }

    /// The process that prepares the container, which in a PID namespace of others is not its first one.
    pub fn child(&self) -> Option<&PidFd> {
        self.launch.child()
    }

    /// Readable when the child waits for the runtime: then `meet`. None when there is nothing more to come.
    pub fn rendezvous(&self) -> Option<BorrowedFd<'_>> {
        self.meetings.socket()
    }

    /// Does what the child waits for; None when it does not wait (it has died: the channel says of what).
    pub fn meet(&mut self) -> Result<Option<Met>, LaunchError> {
        match self.meetings.next() {
            Some(Meeting::NetDevices(devices)) => {
                let pid = self.launch.child().map_or(0, PidFd::pid);
                crate::net_devices::move_all(&devices, pid).map_err(LaunchError::Unsupported)?;
                self.meetings.done()?;
                Ok(Some(Met::Done))
            }
            Some(Meeting::Hooks) => Ok(Some(Met::Hooks)),
            None => Ok(None),
        }
    }

    /// The hooks have run: the child goes on.
    pub fn go(&self) -> Result<(), LaunchError> {
        self.meetings.done()
    }

    /// Opens a gate that has no socket: the program runs once `progress` is Running.
    pub fn start(&mut self) -> Result<(), LaunchError> {
        self.launch.open_gate()
    }

    /// Blocks until the container waits at its gate. `hooks` runs the runtime's own hooks at their moment, with the
    /// first process's pid; its failure ends the birth.
    pub fn at_gate(&mut self, hooks: impl FnOnce(i32) -> Result<(), String>) -> Result<(), LaunchError> {
        let mut hooks = Some(hooks);
        let mut deadline = Instant::now() + CREATE_DEADLINE;
        loop {
            match self.progress() {
                Progress::AtGate | Progress::Running => return Ok(()),
                Progress::Failed(error) => return Err(error),
                Progress::Pending => {}
            }
            if Instant::now() >= deadline {
                return Err(LaunchError::Late);
            }
            if !self.is_here(deadline)? {
                continue;
            }
            if self.meet()? == Some(Met::Hooks) {
                let pid = self.launch.child().map_or(0, PidFd::pid);
                hooks.take().map_or(Ok(()), |hooks| hooks(pid)).map_err(LaunchError::Unsupported)?;
                self.go()?;
            }
            deadline = Instant::now() + CREATE_DEADLINE;
        }
    }

    /// Waits for the channel or the rendezvous; whether the child is at the rendezvous.
    fn is_here(&self, deadline: Instant) -> Result<bool, LaunchError> {
        let left = self.launch.next_look(deadline).saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let fds = [Some(self.launch.channel()), self.meetings.socket()];
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::new("poll(a birth)", errno).into()),
        }
        let events = |index: usize| polled.get(index).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        // A child that has died closes both: the channel says of what.
        Ok(events(0).is_empty() && events(1).contains(PollFlags::POLLIN))
    }

    pub fn warnings(&self) -> &[String] {
        self.launch.warnings()
    }

    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.launch.take_terminal()
    }

    /// The container, at a gate with a socket: from here on it lives on when this process ends, so its record must be
    /// safe. Without a socket: the container that runs.
    pub fn into_container(mut self) -> Result<Container, LaunchError> {
        if self.has_socket {
            self.launch.open_gate()?;
        }
        let BundleBirth { id, launch, settings, placing: _, meetings: _, mut rdt, has_socket: _ } = self;
        let process = launch.into_process().ok_or(LaunchError::NotRunning)?;
        rdt.0 = None;
        Ok(Container { id, process, settings })
    }
}

/// The plan as text, and nothing done: for tests of hostile configurations.
#[doc(hidden)]
pub fn plan_text(facts: &Facts, request: BundleRequest<'_>) -> Result<String, LaunchError> {
    plan(facts, request, None).map(|planned| planned.plan.to_string())
}

struct Planned {
    plan: Plan,
    settings: Settings,
    born_in: Option<Fd>,
    placing: Placing,
    namespaces: Namespaces,
    meetings: Meetings,
}

fn plan(facts: &Facts, request: BundleRequest<'_>, rdt: Option<&Rdt>) -> Result<Planned, LaunchError> {
    let BundleRequest { id: _, bundle, spec, cgroup, seccomp, stdio, inherited, env, keyring, no_pivot, gate, state } =
        request;
    let missing = |what: &str| LaunchError::Unsupported(what.to_owned());
    // The specification wants a process only of start.
    let nothing = Process::default();
    let process = spec.process().as_ref().unwrap_or(&nothing);
    let args = process.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(missing("args must not be empty"));
    }
    let root = spec.root().as_ref().ok_or_else(|| missing("root must be specified"))?;
    let (root_path, readonly) = (bundle.join(root.path()), root.readonly().unwrap_or(false));
    let mut namespaces = namespaces::of(spec)?;
    let pid_mode = if matches!(namespaces.pid, Pid::Host) { PidMode::Host } else { PidMode::Own };
    let birthplace = match &namespaces.pid {
        Pid::Joined(namespace, path) => of_joined(facts, namespace.as_fd(), path, spec)?,
        Pid::Host | Pid::New => Birthplace::Inside,
    };
    let born = if matches!(birthplace, Birthplace::Outside { .. }) { Born::Outside } else { Born::Inside };
    namespaces.born_outside = born == Born::Outside;
    let mut settings = settings(process, UserRequest::Ids, seccomp, born, pid_mode)?;
    settings.env = crate::process::deduplicate(settings.env.into_iter().chain(env))?;
    settings.attributes = crate::attributes::of(spec)?;
    settings.listener = Listener::of(spec, settings.seccomp.as_ref(), bundle, state)?;
    settings.user_namespace = namespaces.user.as_ref().map(|user| user.maps.clone());
    settings.time_namespace = namespaces.time;
    if let Some(uid) = namespaces.cgroup_owner(spec) {
        cgroup.delegate(uid).map_err(crate::birth::cgroup_error)?;
    }
    settings.chroot = namespaces.mount != MountNamespace::New;

    let api = if facts.detached_mounts { Api::Detached } else { Api::Classic };
    let mut plan = Plan::new();
    plan.keep_inherited(inherited);
    let Begun { born_in, placing } = begin_first(&mut plan, Some(cgroup), settings.oom_score_adj)?;
    join_rdt(&mut plan, rdt)?;
    settings.labels.prepare(&mut plan);
    let stdio = plan_stdio(&mut plan, stdio);
    let gate = gate.map(|gate| plan.fd("gate", gate));
    if !facts.cgroup_namespace {
        namespaces.leave_out(NamespaceKind::Cgroup);
    }
    let mounted = absolute_sources(spec, bundle);
    let mut shared = Shared::default();
    if let Birthplace::Outside { procs } = birthplace {
        shared.proc = Some(ProcOf::Made(procs.into_iter().map(|proc| plan.fd("its proc", proc)).collect()));
    }
    let mut planner = Planner {
        plan: &mut plan,
        api,
        shared,
        cgroups: cgroup.dirs(),
        cgroup_namespace: facts.cgroup_namespace && has_namespace(spec, LinuxNamespaceType::Cgroup),
        sources: Vec::new(),
        steps: MountSteps::default(),
        next_tree: 0,
        user: namespaces.user.as_ref().map(|user| crate::process::clone_fd(&user.fd)).transpose()?,
    };
    planner.mount_all(&mounted)?;
    planner.spares(&mounted, &namespaces);
    let steps = planner.steps;

    if let Some(maps) = &settings.user_namespace {
        let fds = match &stdio {
            PlannedStdio::Streams(fds) => Some(*fds),
            PlannedStdio::Terminal { .. } => None,
        };
        namespaces::plan_before_user(&mut plan, maps, &settings, fds);
    }
    plan.extend([Step::Umask(0), Step::NewSession]);
    let linux = spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.rootfs_propagation().as_deref());
    if no_pivot && matches!(wanted, Some("private" | "rprivate")) {
        return Err(missing("rootfsPropagation of [r]private is not safe without pivot_root"));
    }
    let propagation = root_propagation(wanted)?;
    if api == Api::Detached {
        if namespaces.mount == MountNamespace::New {
            plan.push(root_tree(&root_path, &propagation));
        }
        plan.extend(steps.outside);
    }
    namespaces.plan_leave(&mut plan)?;
    if namespaces.is_new(NamespaceKind::Network) {
        plan.push(Step::LoopbackUp);
    }
    let mut meetings = Meetings::default();
    let devices = crate::net_devices::of(spec);
    if !devices.is_empty() {
        // Before the sysctls, which may be about them.
        meetings.plan(&mut plan, Meeting::NetDevices(devices))?;
    }
    let non_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    plan.extend(non_empty(spec.hostname()).map(Step::Hostname));
    plan.extend(non_empty(spec.domainname()).map(Step::Domainname));
    let mut sysctls: Vec<_> = linux.and_then(|linux| linux.sysctl().clone()).unwrap_or_default().into_iter().collect();
    sysctls.sort();
    plan.extend(sysctls.into_iter().map(|(name, value)| Step::Sysctl { name, value }));
    namespaces.plan_go_on(&mut plan);
    match (namespaces.mount, api) {
        (MountNamespace::New, Api::Detached) => {
            // Nothing of ours reaches the host from here.
            plan.push(Step::PropagateRoot(Propagation::Private));
            plan.push(Step::AttachRoot(Tree(0)));
        }
        (MountNamespace::New, Api::Classic) => {
            plan.push(Step::PropagateRoot(Propagation::Slave));
            plan.extend(root_classic(&Rootfs::Directory { path: root_path.clone(), readonly }));
        }
        (MountNamespace::Joined, _) => plan.push(Step::JoinedRoot(root_path.clone())),
        (MountNamespace::Inherited, _) => plan.push(Step::OpenRoot(root_path.clone())),
    }
    plan.extend(steps.mounts);
    plan.extend(device_steps(spec)?);
    if let PlannedStdio::Terminal { rows, columns } = stdio {
        plan.push(Step::Terminal { console: true, rows, columns });
    }
    if let Some(linux) = linux {
        plan.extend(linux.readonly_paths().iter().flatten().map(|path| Step::ReadonlyPath(path.into())));
        plan.extend(linux.masked_paths().iter().flatten().map(|path| Step::MaskPath(path.into())));
    }
    plan.extend(steps.finish);
    let hooks = |kind, env: &[String], cwd| hooks::of(kind, spec, state, env, cwd);
    if [Kind::Prestart, Kind::CreateRuntime].into_iter().any(|kind| hooks(kind, &[], None).is_some()) {
        meetings.plan(&mut plan, Meeting::Hooks)?;
    }
    plan.extend(hooks(Kind::CreateContainer, &[], Some(bundle.to_owned())).map(Step::Hooks));
    // Before the root may become read-only.
    plan.push(Step::MakeDirectory(settings.cwd.clone()));
    plan.push(match namespaces.mount {
        MountNamespace::New if no_pivot => Step::MoveRoot { attached: api == Api::Detached },
        MountNamespace::New => Step::PivotRoot,
        MountNamespace::Joined | MountNamespace::Inherited => Step::ChrootRoot,
    });
    if readonly {
        plan.push(Step::ReadonlyRoot);
    }
    plan.extend(propagation.after.map(Step::PropagateFlags));
    plan.extend(settings.labels.keyring(keyring));
    plan.extend(settings.attributes.steps());
    plan.extend(crate::scheduling::steps(process)?);
    let hooks = hooks(Kind::StartContainer, &settings.env, None);
    let gate = match gate {
        Some(listener) => Gate::Socket { listener, hooks },
        None => Gate::Wait { hooks },
    };
    finish(&mut plan, &settings, &stdio, gate, args);
    if spec.process().is_none() {
        plan.without_program();
    }
    Ok(Planned { plan, settings, born_in, placing, namespaces, meetings })
}

struct RootPropagation {
    tree: Propagation,
    after: Option<u64>,
}

fn root_propagation(wanted: Option<&str>) -> Result<RootPropagation, LaunchError> {
    let (tree, after) = match wanted.unwrap_or_default() {
        "" | "private" | "rprivate" => (Propagation::Private, None),
        "slave" | "rslave" => (Propagation::Slave, None),
        "unbindable" => (Propagation::Private, Some(libc::MS_UNBINDABLE)),
        "runbindable" => (Propagation::Private, Some(libc::MS_UNBINDABLE | libc::MS_REC)),
        "shared" => (Propagation::Private, Some(libc::MS_SHARED)),
        "rshared" => (Propagation::Private, Some(libc::MS_SHARED | libc::MS_REC)),
        other => return Err(LaunchError::Unsupported(format!("rootfsPropagation={other} is not supported"))),
    };
    Ok(RootPropagation { tree, after })
}

fn root_tree(path: &Path, propagation: &RootPropagation) -> Step {
    Step::CloneTree {
        tree: Tree(0),
        path: path.to_owned(),
        fd: None,
        recursive: true,
        set: 0,
        clear: 0,
        propagation: propagation.tree,
        recursive_set: 0,
        recursive_clear: 0,
    }
}

/// The configuration with its bind sources made absolute.
fn absolute_sources(spec: &Spec, bundle: &Path) -> Spec {
    let mut spec = spec.clone();
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let is_bind = mount.typ().as_deref() == Some("bind")
            || mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        let source = mount.source().clone().filter(|source| is_bind && source.is_relative());
        if let Some(source) = source {
            let absolute: PathBuf = bundle.join(source);
            mount.set_source(Some(absolute));
        }
    }
    spec
}

/// Lets a container go that another process made and left at the gate behind `socket`; Ok once it has become its
/// program. A refused connection: it does not wait there any more.
pub fn start(container: &Container, socket: &Path, deadline: Instant) -> Result<(), LaunchError> {
    let channel = killick_sys::launch::gate_connect(socket)?;
    let mut launch = Launch::at_gate(container.process().try_clone()?, channel)?;
    launch.open_gate()?;
    match launch.wait(deadline) {
        Progress::Running => {
            // Somebody else waits for its end.
            drop(launch.into_process());
            Ok(())
        }
        Progress::Failed(error) => Err(error),
        Progress::Pending | Progress::AtGate => Err(LaunchError::Late),
    }
}

/// The namespace of an opened descriptor is this process's own.
pub fn is_own_namespace(fd: BorrowedFd<'_>, kind: NamespaceKind) -> Result<bool, Error> {
    let own = killick_sys::ns::open_own(kind)?;
    Ok(killick_sys::ns::identity(fd)? == killick_sys::ns::identity(own.as_fd())?)
}
