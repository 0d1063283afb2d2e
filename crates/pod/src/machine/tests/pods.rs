//! Pods written in a few words, a world of closures, and ways to read what happened.

use std::time::Duration;

use crate::event::{Action, Attempt, ContainerId, Event, ExitStatus, Hook, Outcome, StartFailure};
use crate::machine::{NodeInfo, PodMachine};
use crate::simulate::{Simulation, What, World};
use crate::spec::{Pod, ProbeKind};
use crate::status::{ContainerStatus, PodStatus};
use crate::time::Wall;
use serde_json::{Value, json};

pub(super) const WEB: ContainerId = ContainerId::Regular(0);
pub(super) const ZERO: Wall = Wall(1_700_000_000);

pub(super) fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

pub(super) fn node() -> NodeInfo {
    NodeInfo { name: "node1".to_owned(), ip: Some("192.168.7.5".parse().unwrap()), memory_bytes: 1 << 30 }
}

/// A container in the API's JSON with what a test leaves out filled in.
pub(super) fn container(name: &str, fields: Value) -> Value {
    let mut container = json!({
        "name": name,
        "image": "busybox",
        "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    });
    merge(&mut container, fields);
    container
}

pub(super) fn probe(fields: Value) -> Value {
    let mut probe = json!({
        "exec": {"command": ["true"]},
        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
    });
    merge(&mut probe, fields);
    probe
}

pub(super) fn pod(spec: Value) -> Pod {
    let mut full = json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
        "containers": [container("web", json!({}))],
    });
    merge(&mut full, spec);
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": "u1", "creationTimestamp": ""},
        "spec": full,
    }))
    .unwrap()
}

/// One container `web` with these fields.
pub(super) fn web(fields: Value) -> Pod {
    pod(json!({"containers": [container("web", fields)]}))
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

pub(super) type Answer<A, R> = Box<dyn FnMut(A) -> R>;

/// `Err`: volume and message.
pub(super) type Mounted = Result<(), (String, String)>;

/// Seconds that the hook takes, and its result.
pub(super) type Hooked = (f64, Result<(), String>);

/// Closures where a test cares, defaults elsewhere.
#[derive(Default)]
pub(super) struct Script {
    pub(super) sandbox: Option<Answer<u32, Result<(), String>>>,
    pub(super) volumes: Option<Answer<(), Mounted>>,
    pub(super) start: Option<Answer<Attempt, Result<(), StartFailure>>>,
    pub(super) start_after: Option<Duration>,
    pub(super) run: Option<Answer<Attempt, Option<(f64, i32)>>>,
    pub(super) signal: Option<Answer<Attempt, Option<(f64, i32)>>>,
    pub(super) probe: Option<Answer<(Attempt, ProbeKind, f64), Outcome>>,
    pub(super) probe_after: Option<Duration>,
    pub(super) hook: Option<Answer<(Attempt, Hook), Hooked>>,
}

impl World for Script {
    fn sandbox(&mut self, attempt: u32) -> (Duration, Result<Option<std::net::IpAddr>, String>) {
        let result = self.sandbox.as_mut().map_or(Ok(()), |answer| answer(attempt));
        (Duration::ZERO, result.map(|()| Some("10.88.0.2".parse().unwrap())))
    }

    fn volumes(&mut self) -> (Duration, Result<(), (String, String)>) {
        (Duration::ZERO, self.volumes.as_mut().map_or(Ok(()), |answer| answer(())))
    }

    fn start(&mut self, attempt: Attempt) -> (Duration, Result<(), StartFailure>) {
        let after = self.start_after.unwrap_or(Duration::from_millis(100));
        (after, self.start.as_mut().map_or(Ok(()), |answer| answer(attempt)))
    }

    fn run(&mut self, attempt: Attempt) -> Option<(Duration, i32)> {
        self.run.as_mut().and_then(|answer| answer(attempt)).map(|(after, code)| (seconds(after), code))
    }

    fn signal(&mut self, attempt: Attempt) -> Option<(Duration, i32)> {
        match &mut self.signal {
            Some(answer) => answer(attempt).map(|(after, code)| (seconds(after), code)),
            None => Some((Duration::from_millis(10), 143)),
        }
    }

    fn probe(&mut self, attempt: Attempt, kind: ProbeKind, running: Duration) -> (Duration, Outcome) {
        let outcome =
            self.probe.as_mut().map_or(Outcome::Success, |answer| answer((attempt, kind, running.as_secs_f64())));
        (self.probe_after.unwrap_or(Duration::from_millis(5)), outcome)
    }

    fn hook(&mut self, attempt: Attempt, hook: Hook) -> (Duration, Result<(), String>) {
        let (after, result) = self.hook.as_mut().map_or((0.01, Ok(())), |answer| answer((attempt, hook)));
        (seconds(after), result)
    }
}

pub(super) type Run = Simulation<Script>;

pub(super) fn simulate(pod: Pod, script: Script) -> Run {
    Simulation::new(PodMachine::new(pod, node()), script, ZERO)
}

/// Runs for so many seconds from admission.
pub(super) fn run(pod: Pod, script: Script, until: f64) -> Run {
    let mut run = simulate(pod, script);
    run.run_until(seconds(until));
    run
}

pub(super) fn fails() -> Outcome {
    Outcome::Failure("no".to_owned())
}

pub(super) fn fail_all() -> Option<Answer<(Attempt, ProbeKind, f64), Outcome>> {
    Some(Box::new(|_| fails()))
}

pub(super) fn exits(after: f64, code: i32) -> Option<Answer<Attempt, Option<(f64, i32)>>> {
    Some(Box::new(move |_| Some((after, code))))
}

/// `Reason: message` of each record, with the second it came in, for reasons in `which` (all if empty).
pub(super) fn told(run: &Run, which: &[&str]) -> Vec<String> {
    run.records()
        .filter(|(_, record)| which.is_empty() || which.contains(&record.reason.as_str()))
        .map(|(at, record)| format!("{} {}: {}", at.as_secs(), record.reason, record.message))
        .collect()
}

/// Whole seconds at which probes of this kind began.
pub(super) fn probes(run: &Run, kind: ProbeKind) -> Vec<u64> {
    times(run, |action| matches!(action, Action::Probe { kind: k, .. } if *k == kind))
}

pub(super) fn starts(run: &Run, container: ContainerId) -> Vec<u64> {
    times(run, |action| matches!(action, Action::Start { attempt } if attempt.container == container))
}

pub(super) fn times(run: &Run, is_meant: impl Fn(&Action) -> bool) -> Vec<u64> {
    let actions = run.log.iter().filter_map(|entry| match &entry.what {
        What::Action(action) => Some((entry.at, action)),
        What::Event(_) | What::Status(_) => None,
    });
    actions.filter(|(_, action)| is_meant(action)).map(|(at, _)| at.as_secs()).collect()
}

pub(super) fn status(run: &Run) -> &PodStatus {
    run.machine.status()
}

pub(super) fn web_status(run: &Run) -> &ContainerStatus {
    &run.machine.status().container_statuses[0]
}

/// One word for a container: `Running`, a waiting reason, or a terminated reason with its code.
pub(super) fn word(status: &ContainerStatus) -> String {
    let state = &status.state;
    match (&state.waiting, &state.running, &state.terminated) {
        (Some(waiting), None, None) => waiting.reason.clone().unwrap_or_default(),
        (None, Some(_), None) => "Running".to_owned(),
        (None, None, Some(ended)) => format!("{} {}", ended.reason.as_deref().unwrap_or(""), ended.exit_code),
        other => panic!("not exactly one state: {other:?}"),
    }
}

pub(super) fn delete(run: &mut Run, at: f64, grace: u64) {
    run.at(seconds(at), Event::StopRequested { grace: Duration::from_secs(grace), force: false });
}

pub(super) fn exit_event(container: ContainerId, number: u32, code: i32) -> Event {
    let exit = ExitStatus { code, oom_killed: false, lost: false, message: None };
    Event::Exited { attempt: Attempt { container, number }, exit }
}
