//! The pod machine: events in, actions out. The one place where a pod's state changes.
//!
//! It must not know how anything is done: no pids, no files, no clock. Each step takes an event, lets the timers run
//! that are due, and then does what kubelet's sync does: compares what is with what should be (`sync.rs`).

mod containers;
mod init;
mod probing;
mod report;
mod sandbox;
mod slot;
mod sync;
mod termination;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{Action, Attempt, ContainerId, Event, Record};
use crate::probe::Worker;
use crate::restart::PullBackoff;
use crate::spec::{Container, Pod};
use crate::status::PodStatus;
use crate::time::{Monotonic, Now, Wall};
use sandbox::{Sandbox, Volumes};
use slot::Slot;

/// Time between a failed sync and the next: kubelet waits 10 s, jittered up to 15 s.
const FAILED_SYNC: Duration = Duration::from_secs(12);
/// kubelet sees a change of a container at its next look at the runtime.
const RELIST: Duration = Duration::from_secs(1);
const SNAPSHOT_VERSION: u32 = 1;

/// What the machine needs to know about the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub name: String,
    pub ip: Option<IpAddr>,
    pub memory_bytes: u64,
}

/// Everything a machine holds besides its pod and its node, for `state.json`. Opaque; read with suspicion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    now: Now,
    /// When `Begin` came; nothing happens before.
    admitted: Option<Now>,
    sandbox: Sandbox,
    volumes: Volumes,
    /// Init containers first, then regular ones, as in the pod.
    slots: Vec<Slot>,
    workers: Vec<Worker>,
    pulls: BTreeMap<String, PullBackoff>,
    /// How many init containers have done their part in this sandbox.
    initialised: usize,
    teardown: Option<Teardown>,
    deletion: Option<Requested>,
    outstanding: Vec<Action>,
    status: PodStatus,
    finished: bool,
}

/// Why the whole pod is being stopped; a later one outranks an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Teardown {
    /// The sandbox is gone: stop everything, then begin anew.
    Rebuild,
    /// Nothing is left to run, or an init container failed for good.
    Finish,
    /// `activeDeadlineSeconds` are over.
    Deadline,
    /// Somebody asked for it.
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Requested {
    at: Wall,
    grace: Duration,
}

/// `metadata.deletionTimestamp` and `deletionGracePeriodSeconds`, once deletion was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    pub timestamp: String,
    pub grace_period_seconds: i64,
}

#[derive(Debug, Clone)]
pub struct PodMachine {
    pod: Pod,
    node: NodeInfo,
    state: Snapshot,
    /// The actions of the step in progress; empty between steps.
    actions: Vec<Action>,
}

impl PodMachine {
    /// A pod that has never run. Its first event is `Begin`.
    pub fn new(pod: Pod, node: NodeInfo) -> PodMachine {
        let count = pod.spec.init_containers.len() + pod.spec.containers.len();
        let state = Snapshot {
            version: SNAPSHOT_VERSION,
            now: Now::default(),
            admitted: None,
            sandbox: Sandbox::Absent,
            volumes: Volumes::Absent,
            slots: vec![Slot::default(); count],
            workers: Vec::new(),
            pulls: BTreeMap::new(),
            initialised: 0,
            teardown: None,
            deletion: None,
            outstanding: Vec::new(),
            status: PodStatus::default(),
            finished: false,
        };
        let mut machine = PodMachine { pod, node, state, actions: Vec::new() };
        machine.state.status = machine.report();
        machine
    }

    /// The machine of a restarted shim; `Err` says why the snapshot cannot belong to this pod on this boot. No container
    /// restarts for it, and probes go on at the next tick. What became due meanwhile is due at once.
    pub fn restore(pod: Pod, node: NodeInfo, snapshot: Snapshot, now: Now) -> Result<PodMachine, String> {
        let count = pod.spec.init_containers.len() + pod.spec.containers.len();
        if snapshot.version != SNAPSHOT_VERSION {
            return Err(format!("state of version {}, this is version {SNAPSHOT_VERSION}", snapshot.version));
        }
        if snapshot.slots.len() != count || snapshot.initialised > pod.spec.init_containers.len() {
            return Err(format!("state of {} containers for a pod of {count}", snapshot.slots.len()));
        }
        if snapshot.now.monotonic > now.monotonic {
            return Err("state of a later time: the host was started anew".to_owned());
        }
        let mut machine = PodMachine { pod, node, state: snapshot, actions: Vec::new() };
        if machine.state.workers.iter().any(|worker| machine.probe_of(worker.container, worker.kind).is_none()) {
            return Err("state of a probe that the pod does not have".to_owned());
        }
        for worker in &mut machine.state.workers {
            worker.forget_flight();
        }
        Ok(machine)
    }

    /// Numbers of earlier runs of the containers, found in their log directories: restart counts go on after a reboot.
    /// To be called before `Begin`.
    pub fn resume_counts(&mut self, next_numbers: &[(ContainerId, u32)]) {
        for (container, number) in next_numbers {
            if let Some(slot) = self.index(*container).and_then(|index| self.state.slots.get_mut(index)) {
                slot.next_number = *number;
            }
        }
    }

    /// Takes one event at `now` and says what is to be done, in this order.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        self.state.now = now.not_before(self.state.now);
        self.pass_ticks();
        self.apply(event);
        self.sync();
        self.refresh_status();
        self.run_probes();
        std::mem::take(&mut self.actions)
    }

    /// "Wake me then, with `Event::Deadline`." Never in the past: what is due and still waits, waits for an event.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let now = self.state.now.monotonic;
        let mut earliest: Option<Monotonic> = None;
        let mut offer = |time: Option<Monotonic>| {
            if let Some(time) = time.filter(|time| *time > now) {
                earliest = Some(earliest.map_or(time, |known| known.min(time)));
            }
        };
        if self.state.admitted.is_none() || self.state.finished {
            return None;
        }
        offer(self.sandbox_deadline());
        offer(self.volumes_deadline());
        offer(self.active_deadline());
        for index in 0..self.state.slots.len() {
            offer(self.stop_deadline(index));
            offer(self.start_deadline(index));
        }
        for worker in &self.state.workers {
            offer(self.probe_deadline(worker));
        }
        earliest
    }

    pub fn status(&self) -> &PodStatus {
        &self.state.status
    }

    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    pub fn node(&self) -> &NodeInfo {
        &self.node
    }

    pub fn deletion(&self) -> Option<Deletion> {
        let requested = self.state.deletion?;
        let seconds = i64::try_from(requested.grace.as_secs()).unwrap_or(i64::MAX);
        let timestamp = Wall(requested.at.0.saturating_add(seconds)).rfc3339();
        Some(Deletion { timestamp, grace_period_seconds: seconds })
    }

    /// `Removed` has come: nothing is left and nothing more happens.
    pub fn is_finished(&self) -> bool {
        self.state.finished
    }

    /// Actions that were given out and not yet answered. After a take-over the supervisor answers each from what it
    /// finds (a container that runs: `Started`; one that has run: `Started` and `Exited`) or carries it out again. Probes
    /// are not among them: a restored machine just goes on with the next tick.
    pub fn outstanding(&self) -> Vec<Action> {
        let kills = (0..self.state.slots.len()).filter_map(|index| self.unanswered_kill(index));
        self.state.outstanding.iter().cloned().chain(kills).collect()
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.state
    }

    fn apply(&mut self, event: Event) {
        if self.state.finished || (self.state.admitted.is_none() && !matches!(event, Event::Begin)) {
            return;
        }
        match event {
            Event::Begin => self.begin(),
            Event::SandboxReady { attempt, ip } => self.sandbox_ready(attempt, ip),
            Event::SandboxFailed { attempt, message } => self.sandbox_failed(attempt, &message),
            Event::SandboxLost { attempt } => self.sandbox_lost(attempt),
            Event::SandboxStopped { attempt } => self.sandbox_stopped(attempt),
            Event::VolumesReady => self.volumes_ready(),
            Event::VolumesFailed { volume, message } => self.volumes_failed(&volume, &message),
            Event::Started { attempt, runtime_id, image_id } => self.started(attempt, runtime_id, image_id),
            Event::StartFailed { attempt, failure } => self.start_failed(attempt, failure),
            Event::Exited { attempt, exit } => self.exited(attempt, exit),
            Event::Probed { attempt, kind, outcome } => self.probed(attempt, kind, &outcome),
            Event::HookDone { attempt, hook, result } => self.hook_done(attempt, hook, result),
            Event::Updated { pod } => self.updated(*pod),
            Event::StopRequested { grace, force } => self.stop_requested(grace, force),
            Event::Removed => self.removed(),
            Event::Deadline => {}
        }
    }

    fn begin(&mut self) {
        if self.state.admitted.is_some() {
            return;
        }
        self.state.admitted = Some(self.state.now);
        self.state.workers = self.make_workers();
        let (meta, node) = (&self.pod.metadata, &self.node.name);
        let message = format!("Successfully assigned {}/{} to {node}", meta.namespace, meta.name);
        let component = "default-scheduler".to_owned();
        self.record(Record { component, ..self.pod_record("Scheduled", message) });
    }

    fn removed(&mut self) {
        if self.take_outstanding(|action| matches!(action, Action::Remove)) {
            self.state.finished = true;
            // Nobody waits for late answers any more.
            self.state.outstanding.clear();
            self.state.workers.clear();
        }
    }

    // Giving out actions, and taking their answers.

    fn emit(&mut self, action: Action) {
        match action {
            Action::Record(_) | Action::Signal { .. } | Action::Kill { .. } | Action::Probe { .. } => {}
            Action::CreateSandbox { .. }
            | Action::StopSandbox { .. }
            | Action::MountVolumes
            | Action::Start { .. }
            | Action::RunHook { .. }
            | Action::Remove => self.state.outstanding.push(action.clone()),
        }
        self.actions.push(action);
    }

    /// Takes the action that an event answers; false: nobody asked, the event is dropped.
    fn take_outstanding(&mut self, is_meant: impl Fn(&Action) -> bool) -> bool {
        let found = self.state.outstanding.iter().position(is_meant);
        found.map(|index| self.state.outstanding.remove(index)).is_some()
    }

    fn record(&mut self, record: Record) {
        self.emit(Action::Record(record));
    }

    /// A Normal record about the whole pod.
    fn pod_record(&self, reason: &str, message: impl Into<String>) -> Record {
        Record {
            warning: false,
            reason: reason.to_owned(),
            message: message.into(),
            field_path: String::new(),
            component: "kubelet".to_owned(),
        }
    }

    fn say(&mut self, index: usize, reason: &str, message: impl Into<String>) {
        let field_path = self.field_path(index);
        self.record(Record { field_path, ..self.pod_record(reason, message) });
    }

    fn warn(&mut self, index: usize, reason: &str, message: impl Into<String>) {
        let field_path = self.field_path(index);
        self.record(Record { warning: true, field_path, ..self.pod_record(reason, message) });
    }

    // Names of things.

    fn field_path(&self, index: usize) -> String {
        let list = if index < self.inits() { "initContainers" } else { "containers" };
        format!("spec.{list}{{{}}}", self.spec(index).name)
    }

    fn inits(&self) -> usize {
        self.pod.spec.init_containers.len()
    }

    fn index(&self, container: ContainerId) -> Option<usize> {
        match container {
            ContainerId::Init(index) => (index < self.inits()).then_some(index),
            ContainerId::Regular(index) => (index < self.pod.spec.containers.len()).then_some(self.inits() + index),
        }
    }

    fn id(&self, index: usize) -> ContainerId {
        match index.checked_sub(self.inits()) {
            None => ContainerId::Init(index),
            Some(regular) => ContainerId::Regular(regular),
        }
    }

    fn attempt(&self, index: usize, number: u32) -> Attempt {
        Attempt { container: self.id(index), number }
    }

    fn spec(&self, index: usize) -> &Container {
        match index.checked_sub(self.inits()) {
            None => &self.pod.spec.init_containers[index],
            Some(regular) => &self.pod.spec.containers[regular],
        }
    }

    fn is_sidecar(&self, index: usize) -> bool {
        index < self.inits() && self.spec(index).is_sidecar()
    }

    fn regulars(&self) -> std::ops::Range<usize> {
        self.inits()..self.state.slots.len()
    }

    /// The pod is going for good: nothing starts again, liveness and startup probes are over.
    fn is_terminating(&self) -> bool {
        self.state.teardown >= Some(Teardown::Deadline)
    }

    /// `NAME_NAMESPACE(UID)`, kubelet's way to name a pod in a message.
    fn pod_in_messages(&self) -> String {
        let meta = &self.pod.metadata;
        format!("{}_{}({})", meta.name, meta.namespace, meta.uid)
    }
}
