//! Create: a bundle becomes a container at its gate, or pause; everything is undone when a part of it fails.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use killick_container::bundle::{self, BundleBirth, BundleRequest, Met};
use killick_container::cgroup::{Cgroup, UnitStart};
use killick_container::config::{Bundle, has_own_pid_namespace};
use killick_container::hooks::{self, Kind as Hook};
use killick_container::rootfs_mounts::{RootfsMount, mount_all, unmount_all};
use killick_container::sandbox::{self, SandboxRequest};
use killick_container::seccomp::cache::filter_of;
use killick_container::systemd::{self, Driver};
use killick_container::{LaunchError, Progress};
use killick_supervisor::births::{BIRTH_DEADLINE, Birth};
use killick_supervisor::reap;
use killick_supervisor::wait::{Readable, ended, finish};
use killick_sys::ns::NamespaceKind;
use killick_sys::pidfd::PidFd;
use killick_sys::spawn::{set_undumpable, worker};
use nix::sys::signal::Signal;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::command_line::check_id;
use super::io::{Io, Names};
use super::left::{Kubernetes, Left};
use super::proto::{CreateTaskRequest, Mount, RuncOptions, TaskCreate, TaskIo};
use super::shim::{OCI_VERSION, Shim, unknown};
use super::task::{Frozen, Kind, Process, Task};
use super::ttrpc::{Code, Status};

const MOUNT_DEADLINE: Duration = Duration::from_secs(60);
/// systemd's own is 5 s for a job; then it is asked for the result of another.
const UNIT_DEADLINE: Duration = Duration::from_secs(20);
const HOOKS_DEADLINE: Duration = Duration::from_secs(600);
/// Its name, and what tells it its role (crates/pause).
const PAUSE_ARGS: [&str; 2] = ["pause", "pause"];

/// Answers Create with the first process's pid.
pub async fn create(shim: &Rc<Shim>, request: CreateTaskRequest) -> Result<u32, Status> {
    let id = request.id.clone();
    check_id(&id).map_err(|why| Status::new(Code::InvalidArgument, why))?;
    if !request.checkpoint.is_empty() {
        return Err(Status::new(Code::Unimplemented, "checkpoint and restore are not supported"));
    }
    let _reserved = shim.reserve(&id)?;
    let bundle = PathBuf::from(&request.bundle);
    if !bundle.is_absolute() {
        let why = format!("bundle {:?} must be an absolute path", request.bundle);
        return Err(Status::new(Code::InvalidArgument, why));
    }
    if !bundle.is_dir() {
        return Err(Status::new(Code::NotFound, format!("bundle {}: no such directory", bundle.display())));
    }
    let mounts: Vec<RootfsMount> = request.rootfs.iter().map(rootfs_mount).collect();
    let rootfs = bundle.join("rootfs");
    let spec = read(shim, &id, &bundle)?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let is_sandbox = Kubernetes::of(|name| annotations.get(name).cloned()).is_sandbox;
    // pause has no files: whatever image was named stays where it is.
    let has_mounts = !mounts.is_empty() && !is_sandbox;
    if has_mounts {
        mount(mounts, rootfs.clone()).await.map_err(unknown)?;
    }
    let made = match is_sandbox {
        true => make_sandbox(shim, &request, &bundle, spec).await,
        false => make_container(shim, &request, &bundle, spec, has_mounts).await,
    };
    let task = match made {
        Ok(task) => task,
        Err(status) => {
            if has_mounts {
                unmount(&shim.log, rootfs).await;
            }
            return Err(status);
        }
    };
    let pid = task.first.pid.get();
    shim.tasks.borrow_mut().insert(id.clone(), Rc::clone(&task));
    let names = &task.first.names;
    let event = TaskCreate {
        container_id: id,
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: Some(TaskIo {
            stdin: names.stdin.clone(),
            stdout: names.stdout.clone(),
            stderr: names.stderr.clone(),
            terminal: names.terminal,
        }),
        checkpoint: String::new(),
        pid,
    };
    shim.events.publish("/tasks/create", "TaskCreate", &event);
    super::exits::watch_oom(shim, &task);
    super::exits::watch_first(shim, &task);
    Ok(pid)
}

fn rootfs_mount(mount: &Mount) -> RootfsMount {
    let Mount { r#type, source, target, options } = mount.clone();
    RootfsMount { kind: r#type, source, target, options }
}

async fn mount(mounts: Vec<RootfsMount>, rootfs: PathBuf) -> Result<(), String> {
    let mut mounting =
        worker(MOUNT_DEADLINE, move || mount_all(&mounts, &rootfs)).map_err(|error| error.to_string())?;
    finish(&mut mounting).await
}

/// Whoever removes the bundle tries it again.
pub async fn unmount(log: &super::log::Log, rootfs: PathBuf) {
    let done = match worker(MOUNT_DEADLINE, move || unmount_all(&rootfs)) {
        Ok(mut unmounting) => finish(&mut unmounting).await,
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = done {
        log.warn(&format!("unmount the root file system: {error}"));
    }
}

/// A cgroup that goes again unless its container lives.
struct Undo<'a> {
    shim: &'a Rc<Shim>,
    cgroup: Option<Cgroup>,
}

impl Undo<'_> {
    async fn undo(mut self) {
        let Some(cgroup) = self.cgroup.take() else { return };
        for done in [reap::empty_cgroup(&cgroup).await, reap::remove_cgroup(&cgroup).await] {
            if let Err(error) = done {
                self.shim.log.warn(&error);
            }
        }
    }

    fn keep(mut self) {
        self.cgroup = None;
    }
}

fn names(request: &CreateTaskRequest) -> Names {
    Names {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

fn read(shim: &Shim, id: &str, bundle: &Path) -> Result<Spec, Status> {
    let given = bundle.to_str().ok_or_else(|| Status::new(Code::InvalidArgument, "the bundle's path is not UTF-8"))?;
    let Bundle { path: _, rootfs: _, config: _, spec, warnings } =
        Bundle::read(given, None).map_err(|why| Status::new(Code::InvalidArgument, why))?;
    warnings.iter().for_each(|warning| shim.log.warn(&format!("{id}: {warning}")));
    Ok(spec)
}

/// In runc's grammar, which callers look into.
fn failed(error: LaunchError) -> Status {
    unknown(format!("OCI runtime create failed: unable to start container process: {error}"))
}

/// Where the container's processes are counted and limited. By its form `cgroupsPath` says whether systemd makes it
/// (containerd-shim.md §0.4); a scope is made with the process that is to be in it (`place`).
async fn cgroup_of(shim: &Shim, spec: &Spec, id: &str) -> Result<Cgroup, Status> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().clone()).filter(|path| !path.as_os_str().is_empty());
    let resources = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let text = path.as_ref().map(|path| path.to_string_lossy().into_owned());
    let unit = systemd::choose(Driver::Auto, text.as_deref(), id)
        .map_err(|error| Status::new(Code::InvalidArgument, format!("linux.cgroupsPath: {error}")))?;
    let Some(unit) = unit else {
        let path = path.unwrap_or_else(|| Path::new("/").join(&shim.command_line.namespace).join(id));
        return Cgroup::create(&shim.layout, path, &resources).map_err(unknown);
    };
    let annotations = spec.annotations().clone().unwrap_or_default();
    let (layout, description) = (shim.layout.clone(), description(id));
    let mut making = worker(UNIT_DEADLINE, move || {
        let start = UnitStart { pid: None, description, resources: &resources, annotations: &annotations };
        let made = match unit.is_slice() {
            true => Cgroup::create_slice(&layout, &unit, &start),
            false => Cgroup::prepare_unit(&layout, &unit, &start).map(|cgroup| (cgroup, Vec::new())),
        };
        made.map_err(|error| error.to_string())
    })
    .map_err(unknown)?;
    let (cgroup, warnings) = finish(&mut making).await.map_err(unknown)?;
    warnings.iter().for_each(|warning: &String| shim.log.warn(warning));
    Ok(cgroup)
}

fn description(id: &str) -> String {
    format!("killick container {id}")
}

/// Has systemd take the process at its first gate into its scope.
async fn place(shim: &Shim, spec: &Spec, id: &str, pid: i32, cgroup: &Cgroup) -> Result<Cgroup, LaunchError> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let annotations = spec.annotations().clone().unwrap_or_default();
    let (mut cgroup, description) = (cgroup.clone(), description(id));
    let mut placing = worker(UNIT_DEADLINE, move || {
        let start = UnitStart { pid: Some(pid), description, resources: &resources, annotations: &annotations };
        let warnings = cgroup.start_unit(&start, std::time::Instant::now() + systemd::DEADLINE);
        warnings
            .map(|warnings| (cgroup, warnings))
            .map_err(|error| format!("unable to apply cgroup configuration: {error}"))
    })
    .map_err(LaunchError::Call)?;
    let (placed, warnings) = finish(&mut placing).await.map_err(LaunchError::Unsupported)?;
    warnings.iter().for_each(|warning: &String| shim.log.warn(warning));
    Ok(placed)
}

fn new_task(
    request: &CreateTaskRequest,
    bundle: &Path,
    kind: Kind,
    cgroup: Cgroup,
    spec: Spec,
    io: Option<Rc<Io>>,
) -> Task {
    let first = Process::new("", names(request));
    *first.io.borrow_mut() = io;
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| serde_json::to_value(linux.resources()).ok()).unwrap_or(Value::Null);
    let private_pid = has_own_pid_namespace(&spec);
    let keeps_hooks = spec.hooks().is_some();
    let leafs = cgroup.leaf_pool();
    Task {
        id: request.id.clone(),
        bundle: bundle.to_owned(),
        kind,
        cgroup,
        private_pid,
        first: Rc::new(first),
        execs: RefCell::default(),
        frozen: Cell::new(Frozen::No),
        busy: watch::Sender::new(0),
        leafs: RefCell::new(leafs),
        birth: RefCell::default(),
        container: RefCell::default(),
        config: RefCell::new(json!({"linux": {"resources": if resources.is_null() { json!({}) } else { resources }}})),
        spec: keeps_hooks.then(|| Box::new(spec)),
        keyring: None,
        has_mounts: false,
        deleting: Cell::new(false),
        oom: RefCell::default(),
        seen: RefCell::default(),
    }
}

async fn make_container(
    shim: &Rc<Shim>,
    request: &CreateTaskRequest,
    bundle: &Path,
    mut spec: Spec,
    has_mounts: bool,
) -> Result<Rc<Task>, Status> {
    let options = RuncOptions::of(request.options.as_ref())
        .map_err(|error| Status::new(Code::InvalidArgument, format!("options: {error}")))?;
    // Create's own word counts (containerd sets both).
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(request.terminal));
    }
    let seccomp = filter_of(&shim.roots.seccomp_cache(), &spec)
        .map_err(|error| Status::new(Code::InvalidArgument, format!("linux.seccomp: {error}")))?;
    let (io, stdio) = Io::open(&names(request)).map_err(|why| Status::new(Code::InvalidArgument, why))?;
    let closing = Closing(Some(Rc::clone(&io)));
    let mut cgroup = cgroup_of(shim, &spec, &request.id).await?;
    let mut undo = Undo { shim, cgroup: Some(cgroup.clone()) };
    let keyring = (!options.no_new_keyring).then(|| format!("_ses.{}", request.id));
    let state = hooks::state(OCI_VERSION, &request.id, bundle, &spec);
    let mut left = Left::new(&cgroup, &shim.socket);
    let born = async {
        left.write(bundle).map_err(unknown)?;
        set_undumpable().map_err(unknown)?;
        let asked = BundleRequest {
            id: request.id.clone(),
            bundle,
            spec: &spec,
            cgroup: &cgroup,
            seccomp,
            stdio,
            inherited: Vec::new(),
            env: Vec::new(),
            keyring: keyring.clone(),
            no_pivot: options.no_pivot_root,
            gate: None,
            state: &state,
        };
        let mut birth = bundle::create(&shim.facts, asked).map_err(failed)?;
        if let Some(pid) = birth.unplaced() {
            cgroup = place(shim, &spec, &request.id, pid, &cgroup).await.map_err(failed)?;
            undo.cgroup = Some(cgroup.clone());
            left.cgroup = cgroup.clone();
            birth.placed().map_err(failed)?;
        }
        to_gate(&mut birth, &spec, &state, bundle).await.map_err(failed)?;
        birth.warnings().iter().for_each(|warning| shim.log.warn(&format!("{}: {warning}", request.id)));
        let process = birth.process().map(PidFd::try_clone).transpose().map_err(unknown)?;
        let process = process.ok_or_else(|| unknown("the container has no process"))?;
        (left.pid, left.start_time) = (process.pid(), process.start_time());
        left.write(bundle).map_err(unknown)?;
        if let Some(master) = birth.take_terminal() {
            io.set_terminal(master).map_err(unknown)?;
        }
        Ok((birth, process))
    }
    .await;
    let (birth, process) = match born {
        Ok(born) => born,
        Err(status) => {
            undo.undo().await;
            run_hooks(shim, &spec, &state, bundle, Hook::Poststop, None).await.unwrap_or_default();
            return Err(status);
        }
    };
    undo.keep();
    closing.keep();
    let mut task = new_task(request, bundle, Kind::Container, cgroup, spec, Some(io));
    task.keyring = keyring;
    task.has_mounts = has_mounts;
    task.first.pid.set(u32::try_from(process.pid()).unwrap_or(0));
    *task.first.pidfd.borrow_mut() = Some(Rc::new(process));
    *task.birth.borrow_mut() = Some(birth);
    Ok(Rc::new(task))
}

/// Streams that are closed again unless their container lives.
struct Closing(Option<Rc<Io>>);

impl Closing {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(io) = &self.0 {
            io.close();
        }
    }
}

/// Follows the birth; the runtime's own hooks run at their moment.
async fn to_gate(
    birth: &mut BundleBirth,
    spec: &Spec,
    state: &serde_json::Map<String, Value>,
    bundle: &Path,
) -> Result<(), LaunchError> {
    let watch = |fd| Readable::new(fd).map_err(|error| LaunchError::Unsupported(error.to_string()));
    let channel = watch(birth.channel())?;
    let rendezvous = birth.rendezvous().map(watch).transpose()?;
    let mut deadline = Instant::now() + BIRTH_DEADLINE;
    loop {
        match birth.progress() {
            Progress::AtGate | Progress::Running => return Ok(()),
            Progress::Failed(error) => return Err(error),
            Progress::Pending => {}
        }
        let arrival = async {
            match &rendezvous {
                Some(rendezvous) => rendezvous.news().await,
                None => std::future::pending().await,
            }
        };
        let arrived = tokio::select! {
            news = timeout_at(deadline, channel.news()) => {
                news.map_err(|_| LaunchError::Late)?.map_err(|error| LaunchError::Unsupported(error.to_string()))?;
                false
            }
            _ = arrival => true,
        };
        if arrived && birth.meet()? == Some(Met::Hooks) {
            let pid = birth.child().map_or(0, PidFd::pid);
            for kind in [Hook::Prestart, Hook::CreateRuntime] {
                worker_hooks(spec, state, bundle, kind, Some(pid)).await.map_err(LaunchError::Unsupported)?;
            }
            birth.go()?;
            deadline = Instant::now() + BIRTH_DEADLINE;
        }
    }
}

async fn worker_hooks(
    spec: &Spec,
    state: &serde_json::Map<String, Value>,
    bundle: &Path,
    kind: Hook,
    pid: Option<i32>,
) -> Result<(), String> {
    let cwd = Some(bundle.to_owned()).filter(|bundle| bundle.is_dir());
    // Never containerd's own environment.
    let Some(hooks) = hooks::of(kind, spec, state, &[], cwd) else { return Ok(()) };
    let mut running = worker(HOOKS_DEADLINE, move || hooks.run(pid)).map_err(|error| error.to_string())?;
    finish(&mut running).await
}

/// Runs the hooks of one kind; an error is the caller's to weigh.
pub async fn run_hooks(
    shim: &Shim,
    spec: &Spec,
    state: &serde_json::Map<String, Value>,
    bundle: &Path,
    kind: Hook,
    pid: Option<i32>,
) -> Result<(), String> {
    let done = worker_hooks(spec, state, bundle, kind, pid).await;
    if let Err(error) = &done {
        shim.log.warn(&format!("{} hooks: {error}", kind.name()));
    }
    done
}

async fn make_sandbox(
    shim: &Rc<Shim>,
    request: &CreateTaskRequest,
    bundle: &Path,
    spec: Spec,
) -> Result<Rc<Task>, Status> {
    let mut cgroup = cgroup_of(shim, &spec, &request.id).await?;
    let mut undo = Undo { shim, cgroup: Some(cgroup.clone()) };
    let mut left = Left::new(&cgroup, &shim.socket);
    let state = hooks::state(OCI_VERSION, &request.id, bundle, &spec);
    let born = async {
        left.write(bundle).map_err(unknown)?;
        set_undumpable().map_err(unknown)?;
        let asked = sandbox_request(shim, &spec, bundle, &cgroup)?;
        let mut birth = sandbox::create(&shim.facts, asked).map_err(failed)?;
        if let Some(pid) = birth.unplaced() {
            cgroup = place(shim, &spec, &request.id, pid, &cgroup).await.map_err(failed)?;
            undo.cgroup = Some(cgroup.clone());
            left.cgroup = cgroup.clone();
            birth.placed().map_err(failed)?;
        }
        let watch = Birth::watch(birth.channel()).map_err(failed)?;
        watch.reaches(Progress::Running, || birth.progress()).await.map_err(failed)?;
        let sandbox = birth.into_sandbox().map_err(failed)?;
        let process = sandbox.process().try_clone().map_err(unknown)?;
        (left.pid, left.start_time) = (process.pid(), process.start_time());
        let ready = match left.write(bundle) {
            Ok(()) => {
                let pid = Some(process.pid());
                match run_hooks(shim, &spec, &state, bundle, Hook::Prestart, pid).await {
                    Ok(()) => run_hooks(shim, &spec, &state, bundle, Hook::CreateRuntime, pid).await,
                    failed => failed,
                }
            }
            failed => failed,
        };
        if let Err(error) = ready {
            let _ = process.send_signal(Signal::SIGKILL);
            ended(&process).await;
            let _ = process.wait();
            return Err(unknown(error));
        }
        Ok(process)
    }
    .await;
    let process = match born {
        Ok(process) => process,
        Err(status) => {
            undo.undo().await;
            return Err(status);
        }
    };
    undo.keep();
    let task = new_task(request, bundle, Kind::Sandbox, cgroup, spec, None);
    task.first.pid.set(u32::try_from(process.pid()).unwrap_or(0));
    *task.first.pidfd.borrow_mut() = Some(Rc::new(process));
    Ok(Rc::new(task))
}

/// pause instead of whatever the image has: of the configuration count the namespaces, the names, the sysctls and the
/// limits (containerd-shim.md §2.5).
fn sandbox_request<'a>(
    shim: &Shim,
    spec: &Spec,
    bundle: &Path,
    cgroup: &'a Cgroup,
) -> Result<SandboxRequest<'a>, Status> {
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
    let has = |kind: LinuxNamespaceType| listed.iter().any(|namespace| namespace.typ() == kind);
    let mut joined = Vec::new();
    for namespace in &listed {
        let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else { continue };
        let kind = match namespace.typ() {
            LinuxNamespaceType::Network => NamespaceKind::Network,
            LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
            LinuxNamespaceType::Uts => NamespaceKind::Uts,
            other => {
                let why =
                    format!("linux.namespaces: a sandbox that joins a namespace of type {other} is not supported");
                return Err(Status::new(Code::InvalidArgument, why));
            }
        };
        let opened = std::fs::File::open(path)
            .map_err(|error| Status::new(Code::InvalidArgument, format!("open {}: {error}", path.display())))?;
        joined.push((kind, opened.into()));
    }
    if has(LinuxNamespaceType::User) {
        return Err(Status::new(Code::Unimplemented, "linux.namespaces: a sandbox with a user namespace of its own"));
    }
    let mut sysctls: Vec<(String, String)> =
        linux.and_then(|linux| linux.sysctl().clone()).unwrap_or_default().into_iter().collect();
    sysctls.sort();
    let process = spec.process().as_ref();
    let dir = bundle.join("rootfs");
    Ok(SandboxRequest {
        pause: shim.pause,
        args: PAUSE_ARGS.map(str::to_owned).to_vec(),
        hostname: spec.hostname().clone().unwrap_or_default(),
        host_network: !has(LinuxNamespaceType::Network),
        host_ipc: !has(LinuxNamespaceType::Ipc),
        host_pid: !has(LinuxNamespaceType::Pid),
        joined,
        oom_score_adj: process.and_then(|process| process.oom_score_adj()).unwrap_or(sandbox::PAUSE_OOM_SCORE_ADJ),
        sysctls,
        shm_bytes: sandbox::SHM_BYTES,
        cgroup: Some(cgroup),
        seccomp: None,
        dir,
    })
}
