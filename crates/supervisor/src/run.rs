//! The one loop: it owns the machine, carries out its actions, and tells it what happened.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use killick_pod::apply::{Change, compare};
use killick_pod::event::{Action, Attempt, ContainerId, Event, ExitStatus, Hook, Outcome, Record, StartFailure};
use killick_pod::machine::PodMachine;
use killick_pod::spec::{Pod, ProbeKind};
use killick_pod_dir::StatusFile;
use killick_pod_dir::control::{Listener, Refusal, Response};
use killick_pod_dir::events::EventLog;
use killick_sys::pidfd::PidFd;
use killick_volume::Prepared;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::container_config::NodeView;
use crate::context::{Context, complain};
use crate::host::{Host, container_of, field_path, id_of};
use crate::keep::Keep;
use crate::live::{Live, LiveSandbox, pod_ip};
use crate::message::{INBOX_MAX, Message};
use crate::probing::{self, Target};
use crate::start::{self, Start};
use crate::state::{SandboxState, State, read_containers, remove_container};
use crate::takeover::{self, Found};
use crate::wait::Readable;
use crate::{clock, control, reap, removal, sandbox, volumes, watch};

/// Between two tries to write what a full disk refused.
const REWRITE: Duration = Duration::from_secs(1);

/// What a shim starts with.
#[derive(Debug)]
pub struct Setup {
    pub host: Host,
    pub pause: &'static [u8],
    pub keep: Keep,
    /// The pod's lock, held as long as the shim lives: a shim that has lost its keep must not get a rival.
    pub lock: OwnedFd,
    /// Who waits for the first shim of a pod.
    pub ready: Option<OwnedFd>,
}

/// Runs the pod to its end: `Ok` when nothing of it is left. An error before the pod was taken in hand goes to whoever
/// waits, too.
pub fn run(setup: Setup) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, begin(setup))
}

async fn begin(setup: Setup) -> Result<(), String> {
    let Setup { host, pause, keep, lock, ready } = setup;
    if host.dir.is_gone() {
        removal::finish(&host.dir);
        return Ok(());
    }
    let _lock = lock;
    let mut ready = ready.map(std::fs::File::from);
    let (inbox, messages) = mpsc::channel(INBOX_MAX);
    let begun = take_in_hand(host, pause, keep, inbox).await;
    let answer = match &begun {
        Ok(_) => "ok\n",
        Err(error) => error.as_str(),
    };
    if let Some(ready) = &mut ready {
        // Whoever waited has gone: then nobody needs the answer.
        let _ = ready.write_all(answer.as_bytes());
    }
    drop(ready);
    begun?.live(messages).await
}

async fn take_in_hand(
    host: Host,
    pause: &'static [u8],
    keep: Keep,
    inbox: mpsc::Sender<Message>,
) -> Result<Supervisor, String> {
    let pod = host.dir.read_pod().map_err(|error| error.to_string())?;
    let state = host.dir.read_state::<State>().unwrap_or_else(|error| {
        complain(&format!("{error}; the pod is begun anew"));
        None
    });
    let listener = Listener::bind(&host.dir.control_socket())
        .map_err(|error| format!("listen on {}: {error}", host.dir.control_socket().display()))?;
    // Every device of the host is a long list, wanted by privileged containers only.
    let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let is_privileged = containers.any(|container| container.security_context.privileged == Some(true));
    let devices = if is_privileged { killick_container::devices::of_host() } else { Vec::new() };
    let node_view = NodeView::detect(&host.layout, devices);
    let events = host.dir.event_log(&pod.metadata.name, &host.node.name);
    let context = Rc::new(Context { host, node_view, pause, keep, inbox });
    let now = clock::now();
    let node = context.host.node.clone();
    let restored = state.and_then(|state| {
        PodMachine::restore(pod.clone(), node.clone(), state.machine.clone(), now)
            .map(|machine| (machine, state))
            .map_err(|error| complain(&format!("{error}; the pod is begun anew")))
            .ok()
    });
    context.keep.hello()?;
    tokio::task::spawn_local(control::serve(Rc::clone(&context), listener));
    let mut supervisor = Supervisor {
        pod: Rc::new(pod.clone()),
        machine: PodMachine::new(pod, node),
        context,
        sandbox: None,
        sandbox_state: None,
        stopping_sandbox: false,
        volumes: Vec::new(),
        containers: BTreeMap::new(),
        events,
        spoiled: BTreeMap::new(),
        last_good: BTreeMap::new(),
        written: None,
        unwritten: false,
        late: Duration::ZERO,
    };
    match restored {
        Some((machine, state)) => supervisor.take_over(machine, state).await?,
        None => supervisor.begin_anew().await,
    }
    Ok(supervisor)
}

struct Supervisor {
    context: Rc<Context>,
    pod: Rc<Pod>,
    machine: PodMachine,
    sandbox: Option<Rc<LiveSandbox>>,
    /// The sandbox as it was made, until all of it is taken down.
    sandbox_state: Option<SandboxState>,
    stopping_sandbox: bool,
    volumes: Vec<Prepared>,
    containers: BTreeMap<ContainerId, Rc<Live>>,
    events: EventLog,
    /// Attempts in a row of each probe that our own lateness spoiled.
    spoiled: BTreeMap<(ContainerId, ProbeKind), Rc<Cell<u32>>>,
    /// Whether the last answer of each probe was a good one.
    last_good: BTreeMap<(ContainerId, ProbeKind), bool>,
    written: Option<StatusFile>,
    /// A write has failed (a full disk): it is tried again until it succeeds.
    unwritten: bool,
    /// How late the tick in hand was.
    late: Duration,
}

impl Supervisor {
    async fn begin_anew(&mut self) {
        let dir = self.context.host.dir.clone();
        // What an unreadable state has left behind cannot be continued.
        if let Ok(cgroup) =
            killick_container::cgroup::Cgroup::open(&self.context.host.layout, self.context.host.pod_cgroup())
            && let Err(error) = reap::empty_cgroup(&cgroup).await
        {
            self.context.complain(&error);
        }
        takeover::drop_rest(&self.context, takeover::held(&self.context));
        self.machine.resume_counts(&takeover::numbers_from_logs(&dir, &self.pod));
        self.step(Event::Begin);
        if dir.is_marked_deleting() {
            self.step(Event::StopRequested { grace: Duration::ZERO, force: true });
        }
    }

    async fn take_over(&mut self, machine: PodMachine, state: State) -> Result<(), String> {
        self.machine = machine;
        self.volumes = state.volumes;
        let mut held = takeover::held(&self.context);
        let mut lost = None;
        if let Some(state) = state.sandbox {
            match takeover::find_sandbox(&self.context, &state)? {
                Some(live) => self.adopt_sandbox(Rc::new(live)),
                None => lost = Some(state.attempt),
            }
            self.sandbox_state = Some(state);
        }
        let mut ran = Vec::new();
        let mut gone = Vec::new();
        let pods_pod = Rc::clone(&self.pod);
        for container in read_containers(&self.context.host.dir, &pods_pod) {
            let container = match container {
                Ok(container) => container,
                Err(error) => {
                    self.context.complain(&error);
                    continue;
                }
            };
            let started = state.started.contains(&container.attempt);
            let state = container;
            let (attempt, image_id, runtime_id) = (state.attempt, state.image_id.clone(), state.record.id.clone());
            match takeover::find_container(&self.context, &pods_pod, state, started, &mut held).await {
                Ok(Found::Runs(farewell, live)) => {
                    if farewell.pump.is_none() {
                        self.say_output_is_lost(&farewell.container.name, attempt.container);
                    }
                    self.containers.insert(attempt.container, Rc::clone(&live));
                    ran.push((attempt, image_id, runtime_id));
                    tokio::task::spawn_local(watch::watch(Rc::clone(&self.context), farewell, live));
                }
                Ok(Found::Gone(farewell, end)) => {
                    ran.push((attempt, image_id, runtime_id));
                    gone.push((farewell, end));
                }
                Ok(Found::NeverRan) => {}
                Err(error) => self.context.complain(&format!("{}: {error}", takeover::describe(attempt))),
            }
        }
        takeover::drop_rest(&self.context, held);
        let outstanding = self.machine.outstanding();
        // First the sandbox's loss, then the ends: otherwise the machine starts containers in a sandbox that is gone.
        if let Some(attempt) = lost
            && !outstanding.iter().any(|action| matches!(action, Action::StopSandbox { .. } | Action::Remove))
        {
            self.step(Event::SandboxLost { attempt });
        }
        for action in outstanding {
            match action {
                Action::Start { attempt } => match ran.iter().find(|(other, ..)| *other == attempt) {
                    Some((_, image_id, runtime_id)) => self.step(Event::Started {
                        attempt,
                        runtime_id: runtime_id.clone(),
                        image_id: image_id.clone(),
                    }),
                    None => self.act(Action::Start { attempt }),
                },
                other => self.act(other),
            }
        }
        for (farewell, end) in gone {
            tokio::task::spawn_local(watch::see_off(Rc::clone(&self.context), farewell, end));
        }
        if self.context.host.dir.is_marked_deleting() && self.machine.deletion().is_none() {
            self.step(Event::StopRequested { grace: self.own_grace(), force: false });
        }
        self.step(Event::Deadline);
        Ok(())
    }

    fn say_output_is_lost(&mut self, container: &str, id: ContainerId) {
        let message = format!(
            "Output of container {container} is lost from now on: the process that kept its pipes was killed together \
             with the supervisor"
        );
        self.record(Record {
            warning: true,
            reason: "LogsLost".to_owned(),
            message,
            field_path: field_path(id, container),
            component: "kubelet".to_owned(),
        });
    }

    async fn live(mut self, mut messages: mpsc::Receiver<Message>) -> Result<(), String> {
        let mut keep = Readable::new(self.context.keep.as_fd()).ok();
        while !self.machine.is_finished() {
            let wake = self.machine.next_deadline();
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.handle(message),
                    None => return Err("every task has ended, but not the pod".to_owned()),
                },
                () = sleep_until(wake) => {
                    let due = wake.unwrap_or_default();
                    self.late = clock::monotonic().since(due);
                    self.step(Event::Deadline);
                    self.late = Duration::ZERO;
                }
                () = rewrite(self.unwritten) => {
                    self.save();
                    self.publish();
                }
                () = silence(&keep) => if self.context.keep.has_ended() {
                    keep = None;
                    self.say_keep_has_ended();
                },
            }
        }
        Ok(())
    }

    fn say_keep_has_ended(&mut self) {
        self.record(Record {
            warning: true,
            reason: "KeepLost".to_owned(),
            message: "The process that restarts this pod's supervisor has ended; if the supervisor ends too, the next \
                      killick command starts both again, without the output of the containers that run"
                .to_owned(),
            field_path: String::new(),
            component: "kubelet".to_owned(),
        });
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.step(event),
            Message::Note(record) => self.record(record),
            Message::SandboxMade { sandbox } => {
                self.sandbox_state = Some(sandbox.state());
                let event =
                    Event::SandboxReady { attempt: sandbox.attempt, ip: pod_ip(&sandbox, self.context.host.node.ip) };
                self.adopt_sandbox(sandbox);
                self.step(event);
            }
            Message::SandboxEnded { attempt } => self.sandbox_ended(attempt),
            Message::SandboxStopped { attempt } => {
                self.sandbox_state = None;
                self.stopping_sandbox = false;
                self.step(Event::SandboxStopped { attempt });
            }
            Message::VolumesReady { prepared } => {
                self.volumes = prepared;
                self.step(Event::VolumesReady);
            }
            Message::Started { live, image_id } => {
                let attempt = live.attempt;
                let runtime_id = live.container.id().to_owned();
                self.containers.insert(attempt.container, live);
                self.step(Event::Started { attempt, runtime_id, image_id });
            }
            Message::StartFailed { attempt, failure } => {
                self.step(Event::StartFailed { attempt, failure });
            }
            Message::Exited { attempt, exit } => self.exited(attempt, exit),
            Message::Removed => self.step(Event::Removed),
            Message::Delete { grace_seconds, force, answer } => {
                let response = self.delete(grace_seconds, force);
                let _ = answer.send(response);
            }
            Message::Update { staged, answer } => {
                let response = self.update(&staged);
                let _ = answer.send(response);
            }
            Message::Find { container, answer } => {
                let found = self.find(&container);
                let _ = answer.send(found);
            }
        }
    }

    fn adopt_sandbox(&mut self, sandbox: Rc<LiveSandbox>) {
        tokio::task::spawn_local(sandbox::watch(Rc::clone(&self.context), Rc::clone(&sandbox)));
        self.sandbox = Some(sandbox);
    }

    fn sandbox_ended(&mut self, attempt: u32) {
        let lost = self.sandbox.take_if(|sandbox| sandbox.attempt == attempt);
        if lost.is_some() && !self.stopping_sandbox {
            self.step(Event::SandboxLost { attempt });
        }
    }

    fn exited(&mut self, attempt: Attempt, exit: ExitStatus) {
        // With pause die its containers: the machine must hear of pause first.
        if let Some(sandbox) = &self.sandbox
            && reap::is_dying(sandbox.sandbox.process())
        {
            self.sandbox_ended(sandbox.attempt);
        }
        if self.containers.get(&attempt.container).is_some_and(|live| live.attempt == attempt) {
            self.containers.remove(&attempt.container);
        }
        self.step(Event::Exited { attempt, exit });
        // Now the state says that it has ended.
        remove_container(&self.context.host.dir, attempt.container);
    }

    fn own_grace(&self) -> Duration {
        Duration::from_secs(self.pod.spec.termination_grace_period_seconds.max(0) as u64)
    }

    fn delete(&mut self, grace_seconds: Option<i64>, force: bool) -> Response {
        if let Err(error) = self.context.host.dir.mark_deleting()
            && self.context.host.dir.data_dir().exists()
        {
            return Response::Refused { reason: Refusal::Internal, message: error.to_string() };
        }
        let grace = match grace_seconds {
            Some(seconds) => Duration::from_secs(seconds.max(0) as u64),
            None => self.own_grace(),
        };
        self.step(Event::StopRequested { grace, force });
        Response::Accepted
    }

    fn update(&mut self, staged: &str) -> Response {
        let dir = &self.context.host.dir;
        let bad = |message: String| Response::Refused { reason: Refusal::BadRequest, message };
        if self.machine.deletion().is_some() {
            let _ = dir.drop_staged(staged);
            return Response::Refused { reason: Refusal::Busy, message: "the pod is being deleted".to_owned() };
        }
        let pod = match dir.read_staged(staged) {
            Ok(pod) => pod,
            Err(error) => return bad(error.to_string()),
        };
        match compare(&self.pod, &pod) {
            Change::Forbidden(message) => {
                let _ = dir.drop_staged(staged);
                bad(message)
            }
            Change::Unchanged | Change::Metadata | Change::ImageOf(_) => {
                // The machine first: a shim that is killed in between restarts a container in vain, which is better
                // than a new manifest of which the machine never hears.
                let before = std::mem::replace(&mut self.pod, Rc::new(pod.clone()));
                self.step(Event::Updated { pod: Box::new(pod) });
                if let Err(error) = self.context.host.dir.accept_staged(staged) {
                    self.pod = Rc::clone(&before);
                    self.step(Event::Updated { pod: Box::new((*before).clone()) });
                    return Response::Refused { reason: Refusal::Internal, message: error.to_string() };
                }
                Response::Accepted
            }
        }
    }

    fn find(&self, name: &str) -> Result<Rc<Live>, Response> {
        let live = id_of(&self.pod, name).and_then(|id| self.containers.get(&id));
        live.cloned().ok_or_else(|| Response::Refused {
            reason: Refusal::NotRunning,
            message: format!("container {name:?} does not run"),
        })
    }

    fn target(&self, attempt: Attempt) -> Option<Target> {
        let live = self.containers.get(&attempt.container).filter(|live| live.attempt == attempt)?;
        let container = container_of(&self.pod, attempt.container)?;
        Some(Target { sandbox: Rc::clone(self.sandbox.as_ref()?), live: Rc::clone(live), container: container.clone() })
    }

    /// The machine takes one event; what it holds then is written before its actions begin.
    fn step(&mut self, event: Event) {
        let news = self.is_news(&event);
        let actions = self.machine.step(clock::now(), event);
        // A tick that only asks for a probe is asked again by the next shim's machine.
        if news || !actions.iter().all(|action| matches!(action, Action::Probe { .. })) {
            self.save();
        }
        for action in actions {
            self.act(action);
        }
        self.publish();
    }

    /// Whether what the event changes must outlive the shim. One success after another changes nothing.
    fn is_news(&mut self, event: &Event) -> bool {
        match event {
            Event::Deadline => false,
            Event::Probed { attempt, kind, outcome } => {
                let counted = container_of(&self.pod, attempt.container)
                    .and_then(|container| container.probe(*kind))
                    .is_some_and(|probe| probe.success_threshold > 1);
                let good = matches!(outcome, Outcome::Success | Outcome::Warning(_));
                let before = self.last_good.insert((attempt.container, *kind), good);
                counted || !good || before != Some(true)
            }
            _ => true,
        }
    }

    fn act(&mut self, action: Action) {
        let context = Rc::clone(&self.context);
        let pod = Rc::clone(&self.pod);
        match action {
            Action::CreateSandbox { attempt } => {
                tokio::task::spawn_local(sandbox::create(context, (*pod).clone(), attempt));
            }
            Action::StopSandbox { attempt } => {
                self.stopping_sandbox = true;
                let (live, state) = (self.sandbox.take(), self.sandbox_state.clone());
                tokio::task::spawn_local(sandbox::stop(context, live, state, attempt));
            }
            Action::MountVolumes => {
                tokio::task::spawn_local(volumes::mount(context, pod));
            }
            Action::Start { attempt } => self.start(attempt),
            Action::Probe { attempt, kind } => self.probe(attempt, kind),
            Action::RunHook { attempt, hook, timeout } => self.hook(attempt, hook, timeout),
            Action::Signal { attempt } => {
                if let Some(live) = self.containers.get(&attempt.container).filter(|live| live.attempt == attempt)
                    && let Err(error) = live.container.process().send_raw_signal(live.stop_signal)
                {
                    context.complain(&error.to_string());
                }
            }
            Action::Kill { attempt } => {
                if let Some(live) = self.containers.get(&attempt.container).filter(|live| live.attempt == attempt) {
                    kill(&context, live);
                }
            }
            Action::Record(record) => self.record(record),
            Action::Remove => {
                tokio::task::spawn_local(removal::remove(context, pod, self.sandbox_state.clone()));
            }
        }
    }

    fn start(&mut self, attempt: Attempt) {
        let context = Rc::clone(&self.context);
        let container = container_of(&self.pod, attempt.container).cloned();
        match (self.sandbox.clone(), container) {
            (Some(sandbox), Some(container)) => {
                let request =
                    Start { attempt, pod: Rc::clone(&self.pod), container, sandbox, volumes: self.volumes.clone() };
                tokio::task::spawn_local(start::start(context, request));
            }
            _ => {
                let failure = StartFailure::CreateContainer { message: "the pod's sandbox is gone".to_owned() };
                self.tell_later(Message::StartFailed { attempt, failure });
            }
        }
    }

    fn probe(&mut self, attempt: Attempt, kind: ProbeKind) {
        match self.target(attempt) {
            Some(target) => {
                let spoiled = Rc::clone(self.spoiled.entry((attempt.container, kind)).or_default());
                let context = Rc::clone(&self.context);
                tokio::task::spawn_local(probing::probe(context, target, kind, self.late, spoiled));
            }
            None => {
                let outcome = Outcome::Unknown("the container does not run".to_owned());
                self.tell_later(Message::Event(Event::Probed { attempt, kind, outcome }));
            }
        }
    }

    fn hook(&mut self, attempt: Attempt, hook: Hook, timeout: Option<Duration>) {
        match self.target(attempt) {
            Some(target) => {
                let (context, pod) = (Rc::clone(&self.context), Rc::clone(&self.pod));
                tokio::task::spawn_local(probing::hook(context, pod, target, hook, timeout));
            }
            None => {
                let result = Err("the container does not run".to_owned());
                self.tell_later(Message::Event(Event::HookDone { attempt, hook, result }));
            }
        }
    }

    /// An answer that must not come in the middle of the step that asked.
    fn tell_later(&self, message: Message) {
        let context = Rc::clone(&self.context);
        tokio::task::spawn_local(async move { context.tell(message).await });
    }

    fn record(&mut self, record: Record) {
        if let Err(error) = self.events.record(&record, clock::now().wall) {
            self.context.complain(&format!("write the events: {error}"));
        }
    }

    /// `state.json`, for the next shim.
    fn save(&mut self) {
        let state = State {
            machine: self.machine.snapshot().clone(),
            sandbox: self.sandbox_state.clone(),
            volumes: self.volumes.clone(),
            started: self.containers.values().map(|live| live.attempt).collect(),
        };
        if self.machine.is_finished() {
            return;
        }
        self.unwritten = false;
        if let Err(error) = self.context.host.dir.write_state(&state) {
            self.unwritten = true;
            self.context.complain(&error.to_string());
            self.end_if_abandoned();
        }
    }

    /// Somebody has removed the pod's directory under us: nobody can ask for the pod's end any more, so it ends.
    fn end_if_abandoned(&self) {
        if !self.context.host.dir.run_dir().exists() && self.machine.deletion().is_none() {
            let (answer, _) = tokio::sync::oneshot::channel();
            self.tell_later(Message::Delete { grace_seconds: Some(0), force: true, answer });
        }
    }

    /// `status.json`, for everybody, when it says something new.
    fn publish(&mut self) {
        if self.machine.is_finished() {
            return;
        }
        let mut status = StatusFile::new(self.machine.status().clone());
        if let Some(deletion) = self.machine.deletion() {
            status.deletion_timestamp = Some(deletion.timestamp);
            status.deletion_grace_period_seconds = Some(deletion.grace_period_seconds);
        }
        if self.written.as_ref() == Some(&status) {
            return;
        }
        match self.context.host.dir.write_status(&status) {
            Ok(()) => self.written = Some(status),
            Err(error) => {
                self.unwritten = true;
                self.context.complain(&error.to_string());
            }
        }
    }
}

/// SIGKILL for everything that the container has; its watcher sees to the rest.
fn kill(context: &Context, live: &Live) {
    let process: &PidFd = live.container.process();
    if let Err(error) = process.send_signal(Signal::SIGKILL) {
        context.complain(&error.to_string());
    }
    if let Err(error) = live.cgroup.kill().step() {
        context.complain(&error.to_string());
    }
}

async fn sleep_until(deadline: Option<killick_pod::time::Monotonic>) {
    match deadline {
        Some(deadline) => {
            let left = deadline.since(clock::monotonic());
            tokio::time::sleep_until(Instant::now() + left).await;
        }
        None => std::future::pending().await,
    }
}

async fn rewrite(unwritten: bool) {
    match unwritten {
        true => tokio::time::sleep(REWRITE).await,
        false => std::future::pending().await,
    }
}

async fn silence(keep: &Option<Readable>) {
    match keep {
        Some(keep) => {
            if keep.news().await.is_err() {
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}
