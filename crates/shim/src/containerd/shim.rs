//! The task service: each method of containerd.task.v2 and v3 (the same on the wire), with the codes and the answers of
//! each state (containerd-shim.md §1.10).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use killick_container::cgroup::Layout;
use killick_container::hooks::{self, Kind as Hook};
use killick_container::{LaunchError, ProcessRequest as ExecRequest, Progress, exec_process};
use killick_pod_dir::Roots;
use killick_supervisor::births::Birth;
use killick_supervisor::reap;
use killick_sys::facts::Facts;
use killick_sys::spawn::set_undumpable;
use oci_spec::runtime::Process as OciProcess;
use prost::Message;
use serde_json::Value;
use tokio::sync::Notify;

use super::command_line::{CommandLine, check_id};
use super::create;
use super::events::Events;
use super::exits;
use super::io::{Io, Names};
use super::log::Log;
use super::metrics;
use super::proto::{
    Any, CloseIoRequest, ConnectResponse, CreateTaskRequest, DeleteResponse, Empty, ExecProcessRequest, IdRequest,
    KillRequest, PidResponse, PidsResponse, ProcessDetails, ProcessInfo, ProcessRequest, ResizePtyRequest,
    ShutdownRequest, StateResponse, StatsResponse, TaskDelete, TaskExecAdded, TaskExecStarted, TaskOf, TaskStart,
    UpdateTaskRequest, WaitResponse,
};
use super::task::{Busy, Exit, Frozen, Kind, Phase, Process, Task};
use super::ttrpc::{Code, Service, Status};

pub const OCI_VERSION: &str = killick_container::features::SPEC_VERSION;
pub const TASK_V2: &str = "containerd.task.v2.Task";
pub const TASK_V3: &str = "containerd.task.v3.Task";

/// CRI's own handler of an exit gives up after 10 s (containerd#13377).
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
const FREEZE_LOOK: Duration = Duration::from_millis(2);
/// The code of an exec that could not be started.
const NEVER_RAN: u32 = 255;
/// Execs of one container that containerd has not deleted.
const EXECS_MAX: usize = 4096;
/// How long a shim without containers stays after a Shutdown that came too early.
const LINGER: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Shim {
    pub command_line: CommandLine,
    pub socket: PathBuf,
    pub roots: Roots,
    pub facts: Facts,
    pub layout: Layout,
    pub pause: &'static [u8],
    pub log: Rc<Log>,
    pub events: Rc<Events>,
    pub tasks: RefCell<BTreeMap<String, Rc<Task>>>,
    creating: RefCell<BTreeSet<String>>,
    shutdown_asked: Cell<bool>,
    /// The server ends.
    pub stop: Notify,
}

pub fn unknown(why: impl std::fmt::Display) -> Status {
    Status::new(Code::Unknown, why.to_string())
}

fn precondition(why: impl Into<String>) -> Status {
    Status::new(Code::FailedPrecondition, why)
}

/// An id that is being created; two Creates of one id are one too many.
#[derive(Debug)]
pub struct Reserved {
    shim: Rc<Shim>,
    id: String,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shim.creating.borrow_mut().remove(&self.id);
    }
}

impl Shim {
    pub fn new(command_line: CommandLine, log: Rc<Log>, socket: PathBuf, pause: &'static [u8]) -> Result<Shim, String> {
        let events = Events::new(&command_line.namespace, Rc::clone(&log));
        Ok(Shim {
            command_line,
            socket,
            roots: Roots::from_env(),
            facts: Facts::detect(),
            layout: Layout::detect().map_err(|error| error.to_string())?,
            pause,
            log,
            events,
            tasks: RefCell::default(),
            creating: RefCell::default(),
            shutdown_asked: Cell::new(false),
            stop: Notify::new(),
        })
    }

    pub fn reserve(self: &Rc<Self>, id: &str) -> Result<Reserved, Status> {
        let is_taken = self.tasks.borrow().contains_key(id);
        if is_taken || !self.creating.borrow_mut().insert(id.to_owned()) {
            return Err(Status::new(Code::AlreadyExists, format!("task {id}: already exists")));
        }
        Ok(Reserved { shim: Rc::clone(self), id: id.to_owned() })
    }

    fn task(&self, id: &str) -> Result<Rc<Task>, Status> {
        let found = self.tasks.borrow().get(id).cloned();
        found.ok_or_else(|| Status::new(Code::NotFound, format!("container {id:?} not found")))
    }

    fn process(&self, id: &str, exec_id: &str) -> Result<(Rc<Task>, Rc<Process>), Status> {
        let task = self.task(id)?;
        if exec_id.is_empty() {
            let first = Rc::clone(&task.first);
            return Ok((task, first));
        }
        let found = task.execs.borrow().get(exec_id).cloned();
        match found {
            Some(exec) => Ok((task, exec)),
            None => Err(Status::new(Code::NotFound, format!("process {exec_id:?} does not exist"))),
        }
    }

    // Start -------------------------------------------------------------------------------------------------------

    async fn start(self: &Rc<Self>, request: ProcessRequest) -> Result<u32, Status> {
        let (task, process) = self.process(&request.id, &request.exec_id)?;
        match (process.phase.get(), process.exec_id.is_empty()) {
            (Phase::Created, true) => self.start_first(&task).await,
            (Phase::Created, false) => self.start_exec(&task, &process).await,
            (Phase::Starting | Phase::Running, true) => Err(precondition("cannot start a running container")),
            (Phase::Stopped, true) => Err(precondition("cannot start a stopped container: it has ended")),
            (Phase::Starting | Phase::Running, false) => Err(precondition("cannot start a running process")),
            (Phase::Stopped, false) => Err(precondition("cannot start a stopped process")),
        }
    }

    async fn start_first(self: &Rc<Self>, task: &Rc<Task>) -> Result<u32, Status> {
        let pid = task.first.pid.get();
        if task.frozen.get() != Frozen::No {
            return Err(precondition("cannot start a paused container"));
        }
        let result = match task.kind {
            // pause runs since it was made.
            Kind::Sandbox => Ok(()),
            Kind::Container => {
                task.first.phase.set(Phase::Starting);
                self.open_gate(task).await
            }
        };
        match result {
            Ok(()) => {
                // Its end may have been seen meanwhile: it is told after this.
                if task.first.phase.get() != Phase::Stopped {
                    task.first.phase.set(Phase::Running);
                }
                self.events.publish("/tasks/start", "TaskStart", &TaskStart { container_id: task.id.clone(), pid });
                task.first.told.send_replace(true);
                Ok(pid)
            }
            Err(error) => {
                task.first.told.send_replace(true);
                Err(unknown(format!("OCI runtime start failed: {error}")))
            }
        }
    }

    /// The program runs, or the error is told and the process ends.
    async fn open_gate(&self, task: &Rc<Task>) -> Result<(), String> {
        let Some(mut birth) = task.birth.borrow_mut().take() else {
            return Err("cannot start a container that has stopped".into());
        };
        let started = async {
            birth.start()?;
            Birth::watch(birth.channel())?.reaches(Progress::Running, || birth.progress()).await
        };
        let started: Result<(), LaunchError> = started.await;
        started.map_err(|error| format!("unable to start container process: {error}"))?;
        let container = birth.into_container().map_err(|error| error.to_string())?;
        *task.container.borrow_mut() = Some(Rc::new(container));
        if let Some(spec) = &task.spec {
            let pid = i32::try_from(task.first.pid.get()).ok();
            let state = hooks::state(OCI_VERSION, &task.id, &task.bundle, spec);
            let done = create::run_hooks(self, spec, &state, &task.bundle, Hook::Poststart, pid).await;
            if let Err(error) = done {
                // runtime-spec 1.3: the container is stopped.
                self.kill_first(task);
                return Err(error);
            }
        }
        Ok(())
    }

    fn kill_first(&self, task: &Task) {
        if let Some(process) = task.first.pidfd.borrow().as_ref() {
            let _ = process.send_raw_signal(libc::SIGKILL);
        }
    }

    async fn start_exec(self: &Rc<Self>, task: &Rc<Task>, exec: &Rc<Process>) -> Result<u32, Status> {
        task.may_exec().map_err(precondition)?;
        let busy = Busy::new(task);
        exec.phase.set(Phase::Starting);
        exec.exit.send_replace(None);
        match self.birth_of_exec(task, exec).await {
            Ok(pid) => {
                exec.phase.set(Phase::Running);
                let event = TaskExecStarted { container_id: task.id.clone(), exec_id: exec.exec_id.clone(), pid };
                self.events.publish("/tasks/exec-started", "TaskExecStarted", &event);
                exec.told.send_replace(true);
                let process = exec.pidfd.borrow().clone();
                if let Some(process) = process {
                    exits::watch_exec(self, task, exec, process, busy);
                }
                Ok(pid)
            }
            Err(status) => {
                exec.phase.set(Phase::Created);
                // Whoever waits for it waits for nothing.
                exec.exit.send_replace(Some(Exit { status: NEVER_RAN, at: super::clock::now() }));
                if let Some(io) = exec.io.borrow_mut().take() {
                    io.close();
                }
                if let Some(leaf) = exec.leaf.borrow_mut().take().and_then(Rc::into_inner) {
                    let _ = task.leafs.borrow_mut().release(leaf);
                }
                Err(status)
            }
        }
    }

    async fn birth_of_exec(&self, task: &Rc<Task>, exec: &Rc<Process>) -> Result<u32, Status> {
        let failed = |error: LaunchError| {
            unknown(format!("OCI runtime exec failed: exec failed: unable to start container process: {error}"))
        };
        let spec = exec.spec.borrow().clone().ok_or_else(|| precondition("the process was started already"))?;
        let container = task.container.borrow().clone().ok_or_else(|| precondition("container not running"))?;
        let (io, stdio) = Io::open(&exec.names).map_err(|why| Status::new(Code::InvalidArgument, why))?;
        if exec.stdin_closed.get() {
            io.close_stdin();
        }
        if let Some((columns, rows)) = exec.size.get() {
            io.resize(columns, rows).map_err(unknown)?;
        }
        *exec.io.borrow_mut() = Some(Rc::clone(&io));
        let leaf = Rc::new(task.leafs.borrow_mut().acquire().map_err(unknown)?);
        *exec.leaf.borrow_mut() = Some(Rc::clone(&leaf));
        set_undumpable().map_err(unknown)?;
        let request = ExecRequest {
            process: &spec,
            stdio,
            attach: Some(leaf.attach()),
            inherited: Vec::new(),
            env: Vec::new(),
            keyring: task.keyring.clone(),
        };
        let mut born = exec_process(&self.facts, &container, request).map_err(failed)?;
        drop(leaf);
        let watch = Birth::watch(born.channel()).map_err(failed)?;
        watch.reaches(Progress::Running, || born.progress()).await.map_err(failed)?;
        if let Some(master) = born.take_terminal() {
            io.set_terminal(master).map_err(unknown)?;
        }
        let process = born.into_process().map_err(failed)?;
        let pid = u32::try_from(process.pid()).unwrap_or(0);
        exec.pid.set(pid);
        *exec.pidfd.borrow_mut() = Some(Rc::new(process));
        exec.spec.borrow_mut().take();
        Ok(pid)
    }

    // Exec ---------------------------------------------------------------------------------------------------------

    fn exec(&self, request: ExecProcessRequest) -> Result<(), Status> {
        let ExecProcessRequest { id, exec_id, terminal, stdin, stdout, stderr, spec } = request;
        let task = self.task(&id)?;
        check_id(&exec_id).map_err(|why| Status::new(Code::InvalidArgument, why))?;
        if task.execs.borrow().contains_key(&exec_id) {
            return Err(Status::new(Code::AlreadyExists, format!("id {exec_id}: already exists")));
        }
        if task.execs.borrow().len() >= EXECS_MAX {
            return Err(Status::new(Code::ResourceExhausted, format!("{EXECS_MAX} execs of {id} are not deleted yet")));
        }
        task.may_exec().map_err(precondition)?;
        let spec = process_of(spec, terminal)?;
        let names = Names { stdin, stdout, stderr, terminal };
        names.scheme().map_err(|why| Status::new(Code::InvalidArgument, why))?;
        let exec = Process::new(&exec_id, names);
        *exec.spec.borrow_mut() = Some(spec);
        task.execs.borrow_mut().insert(exec_id.clone(), Rc::new(exec));
        self.events.publish("/tasks/exec-added", "TaskExecAdded", &TaskExecAdded { container_id: id, exec_id });
        Ok(())
    }

    // State, Pids, Stats -------------------------------------------------------------------------------------------

    fn state(&self, request: &ProcessRequest) -> Result<StateResponse, Status> {
        let (task, process) = self.process(&request.id, &request.exec_id)?;
        let exit = process.exited();
        let Names { stdin, stdout, stderr, terminal } = process.names.clone();
        // Stopped only when the exit is known: a caller reads both.
        let status = match (task.status_of(&process), exit) {
            (super::proto::TaskStatus::Stopped, None) => super::proto::TaskStatus::Running,
            (status, _) => status,
        };
        Ok(StateResponse {
            id: task.id.clone(),
            bundle: task.bundle.display().to_string(),
            pid: process.pid.get(),
            status: status as i32,
            stdin,
            stdout,
            stderr,
            terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| exit.at),
            exec_id: process.exec_id.clone(),
        })
    }

    fn pids(&self, id: &str) -> Result<PidsResponse, Status> {
        let task = self.task(id)?;
        let pids = task.cgroup.processes().map_err(unknown)?;
        let execs: BTreeMap<u32, String> =
            task.execs.borrow().values().map(|exec| (exec.pid.get(), exec.exec_id.clone())).collect();
        let info = |pid: u32| {
            let details = ProcessDetails { exec_id: execs.get(&pid)?.clone() };
            Some(Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value: details.encode_to_vec() })
        };
        let pids = pids.into_iter().filter_map(|pid| u32::try_from(pid).ok());
        Ok(PidsResponse { processes: pids.map(|pid| ProcessInfo { pid, info: info(pid) }).collect() })
    }

    fn stats(&self, id: &str) -> Result<StatsResponse, Status> {
        let task = self.task(id)?;
        let metrics = task.seen.borrow_mut().stats(&task.cgroup).map_err(unknown)?;
        Ok(StatsResponse { stats: Some(metrics::any(&metrics)) })
    }

    // Kill, Pause, Resume ------------------------------------------------------------------------------------------

    async fn kill(&self, request: KillRequest) -> Result<(), Status> {
        let (task, process) = self.process(&request.id, &request.exec_id)?;
        let signal = i32::try_from(request.signal).ok().filter(|signal| (0..=64).contains(signal));
        let signal =
            signal.ok_or_else(|| Status::new(Code::InvalidArgument, format!("signal {} is none", request.signal)))?;
        let finished = || Status::new(Code::NotFound, "process already finished");
        match process.phase.get() {
            Phase::Created | Phase::Starting if !process.exec_id.is_empty() => {
                return Err(precondition("process not created"));
            }
            Phase::Stopped => return Err(finished()),
            Phase::Created | Phase::Starting | Phase::Running => {}
        }
        let kills = signal == libc::SIGKILL;
        if !process.exec_id.is_empty() {
            let leaf = process.leaf.borrow().clone();
            if let Some(leaf) = leaf.filter(|_| kills) {
                // Whatever it has started goes with it, and the pipe closes.
                let mut kill = leaf.kill();
                let step = || kill.step().map_err(|error| error.to_string());
                return reap::until_zero("kill the processes of an exec", step).await.map_err(unknown);
            }
            return send(&process, signal);
        }
        if task.kind == Kind::Sandbox {
            // Only SIGKILL ends pause; what asks it to end is heard as that.
            let ends = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGKILL].contains(&signal);
            return send(&process, if ends { libc::SIGKILL } else { 0 });
        }
        if request.all && !kills {
            return match task.cgroup.signal_all(signal).map_err(unknown)? {
                0 => Err(finished()),
                _ => Ok(()),
            };
        }
        if kills && (request.all || !task.private_pid) {
            reap::empty_cgroup(&task.cgroup).await.map_err(unknown)?;
        } else {
            send(&process, signal)?;
        }
        // What a v1 freezer holds dies when it thaws.
        if kills && task.frozen.get() != Frozen::No {
            task.cgroup.thaw().map_err(unknown)?;
        }
        Ok(())
    }

    async fn pause(&self, id: &str) -> Result<(), Status> {
        let task = self.task(id)?;
        if task.first.phase.get() != Phase::Running || task.frozen.get() != Frozen::No {
            return Err(precondition(format!("cannot pause a container that is not running: {id}")));
        }
        task.frozen.set(Frozen::Pausing);
        let deadline = tokio::time::Instant::now() + FREEZE_DEADLINE;
        let frozen = loop {
            match task.cgroup.freeze_step() {
                Ok(true) => break Ok(()),
                Ok(false) if tokio::time::Instant::now() >= deadline => break Err("it does not freeze".to_owned()),
                Ok(false) => tokio::time::sleep(FREEZE_LOOK).await,
                Err(error) => break Err(error.to_string()),
            }
        };
        match frozen {
            Ok(()) if task.first.phase.get() == Phase::Running => {
                task.frozen.set(Frozen::Paused);
                self.events.publish("/tasks/paused", "TaskPaused", &TaskOf { container_id: id.to_owned() });
                Ok(())
            }
            Ok(()) => Err(precondition("the container has ended")),
            Err(error) => {
                task.frozen.set(Frozen::No);
                let _ = task.cgroup.thaw();
                Err(unknown(error))
            }
        }
    }

    fn resume(&self, id: &str) -> Result<(), Status> {
        let task = self.task(id)?;
        if task.frozen.get() != Frozen::Paused {
            return Err(precondition(format!("cannot resume a container that is not paused: {id}")));
        }
        task.cgroup.thaw().map_err(unknown)?;
        task.frozen.set(Frozen::No);
        self.events.publish("/tasks/resumed", "TaskResumed", &TaskOf { container_id: id.to_owned() });
        Ok(())
    }

    fn update(&self, request: UpdateTaskRequest) -> Result<(), Status> {
        let task = self.task(&request.id)?;
        if task.first.phase.get() == Phase::Stopped {
            return Err(precondition("cannot update a stopped container"));
        }
        let Some(any) = request.resources else { return Ok(()) };
        let invalid = |why: String| Status::new(Code::InvalidArgument, why);
        let change: Value =
            serde_json::from_slice(&any.value).map_err(|error| invalid(format!("resources: {error}")))?;
        let mut config = task.config.borrow_mut();
        let notes = killick_container::update::update(&task.cgroup, &mut config, change).map_err(unknown)?;
        notes.iter().for_each(|note| self.log.warn(&format!("{}: {note}", request.id)));
        Ok(())
    }

    // Delete, Shutdown ---------------------------------------------------------------------------------------------

    async fn delete(self: &Rc<Self>, request: ProcessRequest) -> Result<DeleteResponse, Status> {
        let (task, process) = self.process(&request.id, &request.exec_id)?;
        let response = |process: &Process, exit: Option<Exit>| DeleteResponse {
            pid: process.pid.get(),
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| exit.at),
        };
        if !process.exec_id.is_empty() {
            match process.phase.get() {
                Phase::Starting | Phase::Running => return Err(precondition("cannot delete a running process")),
                Phase::Created | Phase::Stopped => {}
            }
            let exit = if process.phase.get() == Phase::Stopped { Some(process.wait().await) } else { None };
            let io = process.io.borrow_mut().take();
            if let Some(io) = io {
                io.drain(DRAIN_DEADLINE).await;
            }
            task.execs.borrow_mut().remove(&process.exec_id);
            // A Wait for one that never ran ends.
            if exit.is_none() {
                process.exit.send_if_modified(|exit| {
                    exit.get_or_insert(Exit { status: 0, at: super::clock::now() });
                    true
                });
            }
            return Ok(response(&process, exit));
        }
        match process.phase.get() {
            Phase::Starting | Phase::Running => {
                return Err(precondition(match task.frozen.get() {
                    Frozen::No => "cannot delete a running process",
                    Frozen::Pausing | Frozen::Paused => "cannot delete a paused process",
                }));
            }
            Phase::Created => self.kill_first(&task),
            Phase::Stopped => {}
        }
        if task.deleting.replace(true) {
            return Err(precondition(format!("container {} is being deleted", task.id)));
        }
        let exit = process.wait().await;
        let removed = self.remove(&task).await;
        if let Err(error) = removed {
            task.deleting.set(false);
            return Err(unknown(error));
        }
        self.tasks.borrow_mut().remove(&task.id);
        let event = TaskDelete {
            container_id: task.id.clone(),
            pid: process.pid.get(),
            exit_status: exit.status,
            exited_at: Some(exit.at),
            id: String::new(),
        };
        self.events.publish("/tasks/delete", "TaskDelete", &event);
        self.end_if_asked();
        Ok(response(&process, Some(exit)))
    }

    async fn remove(&self, task: &Task) -> Result<(), String> {
        let execs: Vec<_> = std::mem::take(&mut *task.execs.borrow_mut()).into_values().collect();
        for process in execs.iter().chain([&task.first]) {
            let io = process.io.borrow_mut().take();
            if let Some(io) = io {
                io.drain(DRAIN_DEADLINE).await;
            }
        }
        reap::empty_cgroup(&task.cgroup).await?;
        if let Err(error) = task.leafs.borrow_mut().clear() {
            self.log.debug(&error.to_string());
        }
        reap::remove_cgroup(&task.cgroup).await?;
        if let Err(error) = killick_container::sandbox::unmount_in(&task.bundle.join("rootfs")) {
            self.log.warn(&error.to_string());
        }
        if task.has_mounts {
            create::unmount(&self.log, task.bundle.join("rootfs")).await;
        }
        if let Some(spec) = &task.spec {
            let state = hooks::state(OCI_VERSION, &task.id, &task.bundle, spec);
            // Logged, and no more.
            let _ = create::run_hooks(self, spec, &state, &task.bundle, Hook::Poststop, None).await;
        }
        Ok(())
    }

    fn shutdown(self: &Rc<Self>) {
        self.shutdown_asked.set(true);
        if self.is_empty() {
            self.end(Duration::ZERO);
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.borrow().is_empty() && self.creating.borrow().is_empty()
    }

    /// containerd 2.0 to 2.3 asks once, and not again when the last container has gone.
    fn end_if_asked(self: &Rc<Self>) {
        if self.shutdown_asked.get() && self.is_empty() {
            self.end(LINGER);
        }
    }

    fn end(self: &Rc<Self>, after: Duration) {
        let shim = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            if shim.is_empty() {
                shim.stop.notify_one();
            }
        });
    }
}

fn send(process: &Process, signal: i32) -> Result<(), Status> {
    let pidfd = process.pidfd.borrow().clone();
    let sent = pidfd.map(|pidfd| pidfd.send_raw_signal(signal)).transpose().map_err(unknown)?;
    match sent {
        Some(true) => Ok(()),
        Some(false) | None => Err(Status::new(Code::NotFound, "process already finished")),
    }
}

/// An exec's process object, which containerd sends as JSON.
fn process_of(spec: Option<Any>, terminal: bool) -> Result<OciProcess, Status> {
    let invalid = |why: String| Status::new(Code::InvalidArgument, why);
    let any = spec.ok_or_else(|| invalid("spec: an exec needs a process".into()))?;
    let mut value: Value = serde_json::from_slice(&any.value).map_err(|error| invalid(format!("spec: {error}")))?;
    killick_container::support::check_process(&mut value).map_err(|why| invalid(format!("spec: {why}")))?;
    let mut process: OciProcess = serde_json::from_value(value).map_err(|error| invalid(format!("spec: {error}")))?;
    process.set_terminal(Some(terminal));
    Ok(process)
}

fn decode<M: Message + Default>(payload: &[u8]) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::new(Code::InvalidArgument, format!("unreadable message: {error}")))
}

fn nothing(done: ()) -> Vec<u8> {
    let () = done;
    Empty {}.encode_to_vec()
}

impl Service for Shim {
    async fn call(self: Rc<Self>, service: String, method: String, payload: Vec<u8>) -> Result<Vec<u8>, Status> {
        if service != TASK_V2 && service != TASK_V3 {
            return Err(Status::new(Code::Unimplemented, format!("service {service}")));
        }
        if method == "Wait" {
            // Nothing is half done when its connection goes.
            let request: ProcessRequest = decode(&payload)?;
            let (_, process) = self.process(&request.id, &request.exec_id)?;
            let exit = process.wait().await;
            return Ok(WaitResponse { exit_status: exit.status, exited_at: Some(exit.at) }.encode_to_vec());
        }
        let name = format!("{service}/{method}");
        // What changes something runs to its end, whoever hangs up.
        let running = tokio::task::spawn_local(async move { self.answer(&method, &payload).await });
        match running.await {
            Ok(answer) => answer,
            Err(error) => Err(Status::new(Code::Internal, format!("{name}: {error}"))),
        }
    }
}

impl Shim {
    async fn answer(self: Rc<Self>, method: &str, payload: &[u8]) -> Result<Vec<u8>, Status> {
        match method {
            "Create" => {
                let pid = create::create(&self, decode::<CreateTaskRequest>(payload)?).await?;
                Ok(PidResponse { pid }.encode_to_vec())
            }
            "Start" => Ok(PidResponse { pid: self.start(decode(payload)?).await? }.encode_to_vec()),
            "State" => Ok(self.state(&decode(payload)?)?.encode_to_vec()),
            "Delete" => Ok(self.delete(decode(payload)?).await?.encode_to_vec()),
            "Pids" => Ok(self.pids(&decode::<IdRequest>(payload)?.id)?.encode_to_vec()),
            "Pause" => self.pause(&decode::<IdRequest>(payload)?.id).await.map(nothing),
            "Resume" => self.resume(&decode::<IdRequest>(payload)?.id).map(nothing),
            "Checkpoint" => Err(Status::new(Code::Unimplemented, "checkpoint is not supported")),
            "Kill" => self.kill(decode(payload)?).await.map(nothing),
            "Exec" => self.exec(decode(payload)?).map(nothing),
            "ResizePty" => {
                let request: ResizePtyRequest = decode(payload)?;
                let (_, process) = self.process(&request.id, &request.exec_id)?;
                process.size.set(Some((request.width, request.height)));
                let io = process.io.borrow().clone();
                let done = io.map_or(Ok(()), |io| io.resize(request.width, request.height));
                done.map(nothing).map_err(unknown)
            }
            "CloseIO" => {
                let request: CloseIoRequest = decode(payload)?;
                let (_, process) = self.process(&request.id, &request.exec_id)?;
                if request.stdin {
                    process.stdin_closed.set(true);
                    let io = process.io.borrow().clone();
                    io.iter().for_each(|io| io.close_stdin());
                }
                Ok(nothing(()))
            }
            "Update" => self.update(decode(payload)?).map(nothing),
            "Stats" => Ok(self.stats(&decode::<IdRequest>(payload)?.id)?.encode_to_vec()),
            "Connect" => {
                let id = decode::<IdRequest>(payload)?.id;
                let task_pid = self.tasks.borrow().get(&id).map_or(0, |task| task.first.pid.get());
                let version = env!("CARGO_PKG_VERSION").to_owned();
                Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version }.encode_to_vec())
            }
            "Shutdown" => {
                let _: ShutdownRequest = decode(payload)?;
                self.shutdown();
                Ok(nothing(()))
            }
            other => Err(Status::new(Code::Unimplemented, format!("method {other}"))),
        }
    }
}
