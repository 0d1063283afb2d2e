//! Random histories: whatever the world answers, and in whatever order, these things hold.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::pods::*;
use crate::event::{Action, Attempt, ContainerId, Event, ExitStatus, Hook, Outcome, StartFailure};
use crate::machine::{PodMachine, Snapshot};
use crate::spec::{Pod, ProbeKind};
use crate::time::{Monotonic, Now, Wall};

/// One thing that the world does; numbers choose among what is possible then.
#[derive(Debug, Clone)]
enum Op {
    Wait { millis: u64 },
    WaitForDeadline,
    Answer { which: usize, how: usize },
    Exit { which: usize, code: i32 },
    LoseSandbox,
    Stop { grace: u64 },
    Stray { container: usize, number: u32, kind: usize },
    TakeOver,
    NewImage { container: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..40_000_u64).prop_map(|millis| Op::Wait { millis }),
        6 => Just(Op::WaitForDeadline),
        12 => (any::<usize>(), any::<usize>()).prop_map(|(which, how)| Op::Answer { which, how }),
        3 => (any::<usize>(), prop_oneof![Just(0), Just(1), Just(137)]).prop_map(|(which, code)| Op::Exit { which, code }),
        1 => Just(Op::LoseSandbox),
        1 => (0..60_u64).prop_map(|grace| Op::Stop { grace }),
        2 => (0..4_usize, 0..4_u32, 0..8_usize)
            .prop_map(|(container, number, kind)| Op::Stray { container, number, kind }),
        1 => Just(Op::TakeOver),
        1 => (0..4_usize).prop_map(|container| Op::NewImage { container }),
    ]
}

fn pods() -> impl Strategy<Value = Pod> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    (policy, 0..4_usize, any::<[bool; 6]>(), proptest::option::of(1..200_i64)).prop_map(
        |(policy, inits, [liveness, readiness, startup, hooks, second, sidecar_probe], deadline)| {
            let mut fields = json!({});
            let any_probe = || probe(json!({"periodSeconds": 3, "failureThreshold": 2, "initialDelaySeconds": 2}));
            if liveness {
                fields["livenessProbe"] = any_probe();
                fields["livenessProbe"]["terminationGracePeriodSeconds"] = json!(5);
            }
            if readiness {
                fields["readinessProbe"] = any_probe();
            }
            if startup {
                fields["startupProbe"] = any_probe();
            }
            if hooks {
                let handler = json!({"exec": {"command": ["true"]}});
                fields["lifecycle"] = json!({"postStart": handler, "preStop": handler});
            }
            let mut containers = vec![container("web", fields)];
            if second {
                containers.push(container("log", json!({})));
            }
            let mut sidecar = json!({"restartPolicy": "Always"});
            if sidecar_probe {
                sidecar["startupProbe"] = any_probe();
                sidecar["livenessProbe"] = any_probe();
            }
            let kinds = [container("init", json!({})), container("side", sidecar), container("last", json!({}))];
            pod(json!({
                "restartPolicy": policy, "containers": containers, "initContainers": kinds[..inits.min(3)],
                "activeDeadlineSeconds": deadline,
            }))
        },
    )
}

struct World {
    machine: PodMachine,
    now: Duration,
    /// Actions that wait for their one answer.
    pending: Vec<Action>,
    live: BTreeSet<Attempt>,
    /// Containers that were told to end by force.
    doomed: BTreeSet<Attempt>,
    sandbox: Option<u32>,
    stop_requested: bool,
}

impl World {
    fn new(pod: Pod) -> World {
        let mut world = World {
            machine: PodMachine::new(pod, node()),
            now: Duration::ZERO,
            pending: Vec::new(),
            live: BTreeSet::new(),
            doomed: BTreeSet::new(),
            sandbox: None,
            stop_requested: false,
        };
        world.step(Event::Begin);
        world
    }

    fn clock(&self) -> Now {
        Now { monotonic: Monotonic(self.now), wall: Wall(ZERO.0 + self.now.as_secs() as i64) }
    }

    fn step(&mut self, event: Event) {
        let unknown = matches!(&event, Event::Probed { outcome: Outcome::Unknown(_), .. });
        if unknown {
            // What is due anyway is not the probe's doing.
            self.step(Event::Deadline);
        }
        let before = self.machine.status().clone();
        self.stop_requested |= matches!(event, Event::StopRequested { .. });
        for action in self.machine.step(self.clock(), event) {
            self.see(action);
        }
        if self.machine.is_finished() {
            self.pending.clear();
        }
        if unknown {
            assert_eq!(*self.machine.status(), before, "Unknown changed the status");
        }
        if let Some(deadline) = self.machine.next_deadline() {
            assert!(deadline > Monotonic(self.now), "deadline {deadline:?} is not after {:?}", self.now);
        }
        let mut mine: Vec<String> = self.pending.iter().filter(|a| !is_probe(a)).map(|a| format!("{a:?}")).collect();
        let mut theirs: Vec<String> =
            self.machine.outstanding().iter().filter(|a| !is_kill(a)).map(|a| format!("{a:?}")).collect();
        mine.sort();
        theirs.sort();
        assert_eq!(mine, theirs, "an action was not answered once");
    }

    fn see(&mut self, action: Action) {
        match &action {
            Action::Start { attempt } => {
                assert!(!self.stop_requested, "started after deletion was asked for");
                assert!(self.sandbox.is_some(), "started without a sandbox");
                let container = attempt.container;
                assert!(!self.live.iter().any(|live| live.container == container), "two instances of {container:?}");
                let starts = self.pending.iter().filter(|a| matches!(a, Action::Start { .. })).count();
                assert_eq!(starts, 0, "two starts at once");
            }
            Action::Probe { attempt, kind } => {
                assert!(self.live.contains(attempt), "probe of a container that does not run");
                let twice = self.pending.iter().any(
                    |a| matches!(a, Action::Probe { attempt: b, kind: k } if b.container == attempt.container && k == kind),
                );
                assert!(!twice, "two {kind:?} probes in flight");
            }
            Action::StopSandbox { .. } => {
                assert!(self.live.is_empty(), "sandbox stopped under running containers");
            }
            Action::Kill { attempt } => {
                self.doomed.insert(*attempt);
                return;
            }
            Action::Signal { attempt } => {
                assert!(self.live.contains(attempt), "signal to a container that does not run");
                return;
            }
            Action::Record(_) => return,
            Action::CreateSandbox { .. } | Action::MountVolumes | Action::RunHook { .. } | Action::Remove => {}
        }
        self.pending.push(action);
    }

    fn answer(&mut self, which: usize, how: usize) {
        if self.pending.is_empty() {
            return;
        }
        let action = self.pending.remove(which % self.pending.len());
        let text = "text".to_owned();
        let event = match action {
            Action::CreateSandbox { attempt } if how.is_multiple_of(4) => {
                Event::SandboxFailed { attempt, message: text }
            }
            Action::CreateSandbox { attempt } => {
                self.sandbox = Some(attempt);
                Event::SandboxReady { attempt, ip: Some("10.88.0.2".parse().unwrap()) }
            }
            Action::StopSandbox { attempt } => {
                self.sandbox = None;
                Event::SandboxStopped { attempt }
            }
            Action::MountVolumes if how.is_multiple_of(4) => {
                Event::VolumesFailed { volume: "v".to_owned(), message: text }
            }
            Action::MountVolumes => Event::VolumesReady,
            Action::Start { attempt } => match how % 12 {
                0 => Event::StartFailed { attempt, failure: StartFailure::ImageNeverPull },
                1 => Event::StartFailed { attempt, failure: StartFailure::ImagePull { message: text } },
                2 => Event::StartFailed { attempt, failure: StartFailure::CreateContainerConfig { message: text } },
                3 => Event::StartFailed { attempt, failure: StartFailure::Run { message: text, exit_code: 128 } },
                _ => {
                    self.live.insert(attempt);
                    Event::Started { attempt, runtime_id: "id".to_owned(), image_id: "sha".to_owned() }
                }
            },
            Action::Probe { attempt, kind } => {
                let outcome = match how % 4 {
                    0 => Outcome::Success,
                    1 | 2 => Outcome::Failure(text),
                    _ => Outcome::Unknown(text),
                };
                Event::Probed { attempt, kind, outcome }
            }
            Action::RunHook { attempt, hook, .. } => {
                Event::HookDone { attempt, hook, result: if how.is_multiple_of(3) { Err(text) } else { Ok(()) } }
            }
            Action::Remove => Event::Removed,
            Action::Signal { .. } | Action::Kill { .. } | Action::Record(_) => unreachable!("no answer"),
        };
        self.step(event);
    }

    fn exit(&mut self, which: usize, code: i32) {
        let Some(attempt) = self.live.iter().nth(which % self.live.len().max(1)).copied() else { return };
        self.live.remove(&attempt);
        self.doomed.remove(&attempt);
        let exit = ExitStatus { code, oom_killed: false, lost: code == 137, message: None };
        self.step(Event::Exited { attempt, exit });
    }

    fn act(&mut self, op: Op) {
        match op {
            Op::Wait { millis } => {
                // The loop may come late; it wakes up at deadlines or with events.
                self.now += Duration::from_millis(millis);
                self.step(Event::Deadline);
            }
            Op::WaitForDeadline => {
                if let Some(Monotonic(deadline)) = self.machine.next_deadline() {
                    self.now = deadline;
                    self.step(Event::Deadline);
                }
            }
            Op::Answer { which, how } => self.answer(which, how),
            Op::Exit { which, code } => self.exit(which, code),
            Op::LoseSandbox => {
                if let Some(attempt) = self.sandbox {
                    self.step(Event::SandboxLost { attempt });
                }
            }
            Op::Stop { grace } => {
                self.step(Event::StopRequested { grace: Duration::from_secs(grace), force: grace == 0 });
            }
            Op::Stray { container, number, kind } => self.stray(container, number, kind),
            Op::TakeOver => self.take_over(),
            Op::NewImage { container } => {
                let mut pod = self.machine.pod().clone();
                let containers = &mut pod.spec.containers;
                let index = container % containers.len();
                containers[index].image.push('x');
                self.step(Event::Updated { pod: Box::new(pod) });
            }
        }
    }

    /// An event that answers nothing, or belongs to an instance of long ago.
    fn stray(&mut self, container: usize, number: u32, kind: usize) {
        let container = if container < 2 { ContainerId::Init(container) } else { ContainerId::Regular(container - 2) };
        let attempt = Attempt { container, number };
        if self.live.contains(&attempt) || self.pending.iter().any(|action| format!("{action:?}").contains("attempt")) {
            return;
        }
        let exit = ExitStatus { code: 0, oom_killed: false, lost: false, message: None };
        let before = self.machine.status().clone();
        self.step(Event::Deadline);
        let due = *self.machine.status() != before;
        let before = self.machine.status().clone();
        self.step(match kind {
            0 => Event::Exited { attempt, exit },
            1 => Event::Started { attempt, runtime_id: String::new(), image_id: String::new() },
            2 => Event::StartFailed { attempt, failure: StartFailure::ImageNeverPull },
            3 => Event::HookDone { attempt, hook: Hook::PreStop, result: Ok(()) },
            4 => Event::Probed { attempt, kind: ProbeKind::Liveness, outcome: fails() },
            5 => Event::SandboxReady { attempt: number + 100, ip: None },
            6 => Event::Begin,
            _ => Event::SandboxLost { attempt: number + 100 },
        });
        assert!(due || *self.machine.status() == before, "a stray event changed the status");
    }

    /// The shim dies and a new one goes on: probes in flight are lost, nothing else.
    fn take_over(&mut self) {
        let text = serde_json::to_string(self.machine.snapshot()).unwrap();
        let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(&snapshot, self.machine.snapshot());
        let pod = self.machine.pod().clone();
        let restored = PodMachine::restore(pod, node(), snapshot, self.clock()).unwrap();
        assert_eq!(restored.status(), self.machine.status());
        assert_eq!(restored.outstanding(), self.machine.outstanding());
        let flying = self.pending.iter().any(is_probe);
        assert!(flying || restored.next_deadline() == self.machine.next_deadline());
        assert!(flying || restored.snapshot() == self.machine.snapshot());
        self.machine = restored;
        self.pending.retain(|action| !is_probe(action));
    }

    /// However it went: once deletion is asked for and the world answers, the pod ends.
    fn finish(&mut self) {
        self.step(Event::StopRequested { grace: Duration::from_secs(5), force: false });
        for _ in 0..1_000 {
            if self.machine.is_finished() {
                return;
            }
            if !self.pending.is_empty() {
                self.answer(0, 7);
            } else if let Some(attempt) = self.doomed.pop_first() {
                let which = self.live.iter().position(|live| *live == attempt);
                which.into_iter().for_each(|which| self.exit(which, 137));
            } else {
                self.act(Op::WaitForDeadline);
            }
        }
        panic!("the pod does not end: {:?}", self.machine);
    }
}

/// The `nth` number or string of a JSON tree becomes something else.
fn damage(value: &mut serde_json::Value, nth: &mut usize, number: u64) {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| damage(item, nth, number)),
        Value::Object(fields) => fields.values_mut().for_each(|field| damage(field, nth, number)),
        Value::Number(_) | Value::String(_) if *nth == 0 => {
            *value = if number.is_multiple_of(5) { Value::Null } else { json!(number) };
            *nth = usize::MAX;
        }
        Value::Number(_) | Value::String(_) => *nth -= 1,
        Value::Null | Value::Bool(_) => {}
    }
}

fn is_probe(action: &Action) -> bool {
    matches!(action, Action::Probe { .. })
}

fn is_kill(action: &Action) -> bool {
    matches!(action, Action::Kill { .. })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_invariants_and_ends(pod in pods(), ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new(pod);
        for op in ops {
            world.act(op);
        }
        world.finish();
        assert_eq!(world.machine.next_deadline(), None);
        assert!(world.live.is_empty());
    }

    /// State files are read with suspicion: a damaged one is refused or lived with.
    #[test]
    fn a_damaged_snapshot_never_panics(
        pod in pods(), ops in proptest::collection::vec(op(), 1..60), nth in 0..200_usize,
        number in prop_oneof![0..5_u64, 0..10_000_u64, Just(1_000_000_000), Just(u64::from(u32::MAX)), Just(u64::MAX)],
    ) {
        let mut world = World::new(pod.clone());
        ops.into_iter().for_each(|op| world.act(op));
        let mut snapshot = serde_json::to_value(world.machine.snapshot()).unwrap();
        damage(&mut snapshot, &mut nth.clone(), number);
        let Ok(snapshot) = serde_json::from_value::<Snapshot>(snapshot) else { return Ok(()) };
        let now = Now { monotonic: Monotonic(Duration::from_secs(1 << 40)), wall: ZERO };
        let Ok(mut machine) = PodMachine::restore(pod, node(), snapshot, now) else { return Ok(()) };
        let stop = Event::StopRequested { grace: Duration::from_secs(5), force: false };
        for event in [Event::Deadline, exit_event(WEB, 0, 1), Event::Deadline, stop, Event::Deadline] {
            machine.step(now, event);
            machine.next_deadline();
        }
    }
}
