//! A world that a person writes down in a few words, and the protocol of the pod's life in it.
//!
//! `--exit web=30s:1` · `--probe-trace web.liveness=ok,fail@30s` · `--on-term web=ignore`: times count from the start
//! of each instance of the container.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Entry, Simulation, What, World};
use crate::event::{Action, Attempt, ContainerId, Event, Hook, Outcome, Record};
use crate::machine::{NodeInfo, PodMachine};
use crate::spec::{Pod, ProbeKind};
use crate::status::PodStatus;
use crate::time::{Wall, go_duration};

/// What an ordinary host needs; measured, rounded.
const SANDBOX_TAKES: Duration = Duration::from_millis(20);
const START_TAKES: Duration = Duration::from_millis(30);
const PROBE_TAKES: Duration = Duration::from_millis(2);
const DIES_WITHIN: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    exits: BTreeMap<String, Vec<(Duration, i32)>>,
    traces: BTreeMap<(String, ProbeKind), Vec<(Duration, Found)>>,
    terms: BTreeMap<String, OnTerm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Ok,
    Fail,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnTerm {
    Ignore,
    Exit { after: Duration, code: i32 },
}

impl Script {
    /// `CONTAINER=AFTER:CODE[,AFTER:CODE…]`: how the first, second, … instance ends; the last holds for all later ones.
    pub fn add_exit(&mut self, text: &str) -> Result<(), String> {
        let (container, list) = split(text, '=', "CONTAINER=AFTER:CODE")?;
        let ends = list.split(',').map(|end| {
            let (after, code) = split(end, ':', "AFTER:CODE")?;
            Ok((duration(after)?, exit_code(code)?))
        });
        self.exits.insert(container.to_owned(), ends.collect::<Result<_, String>>()?);
        Ok(())
    }

    /// `CONTAINER.KIND=FOUND[@TIME][,FOUND@TIME…]`: what the probe finds from that time on; FOUND is ok, fail or unknown.
    pub fn add_probe_trace(&mut self, text: &str) -> Result<(), String> {
        let form = "CONTAINER.KIND=FOUND@TIME";
        let (probe, list) = split(text, '=', form)?;
        let (container, kind) = probe.rsplit_once('.').ok_or_else(|| format!("\"{text}\": expected {form}"))?;
        let kind = match kind {
            "liveness" => ProbeKind::Liveness,
            "readiness" => ProbeKind::Readiness,
            "startup" => ProbeKind::Startup,
            other => return Err(format!("\"{other}\": a probe is liveness, readiness or startup")),
        };
        let steps = list.split(',').map(|step| {
            let (found, from) = step.split_once('@').unwrap_or((step, "0s"));
            let found = match found {
                "ok" => Found::Ok,
                "fail" => Found::Fail,
                "unknown" => Found::Unknown,
                other => return Err(format!("\"{other}\": a probe finds ok, fail or unknown")),
            };
            Ok((duration(from)?, found))
        });
        let steps = steps.collect::<Result<Vec<_>, String>>()?;
        if !steps.is_sorted_by_key(|(from, _)| *from) {
            return Err(format!("\"{list}\": the times must rise"));
        }
        self.traces.insert((container.to_owned(), kind), steps);
        Ok(())
    }

    /// `CONTAINER=ignore` or `CONTAINER=AFTER:CODE`: what the stop signal does.
    pub fn add_on_term(&mut self, text: &str) -> Result<(), String> {
        let (container, what) = split(text, '=', "CONTAINER=ignore or CONTAINER=AFTER:CODE")?;
        let what = match what {
            "ignore" => OnTerm::Ignore,
            end => {
                let (after, code) = split(end, ':', "AFTER:CODE")?;
                OnTerm::Exit { after: duration(after)?, code: exit_code(code)? }
            }
        };
        self.terms.insert(container.to_owned(), what);
        Ok(())
    }

    /// Every container and probe that is named must be there.
    pub fn check(&self, pod: &Pod) -> Result<(), String> {
        let containers = || pod.spec.init_containers.iter().chain(&pod.spec.containers);
        let known = |name: &str| containers().find(|container| container.name == *name);
        let names = self.exits.keys().chain(self.terms.keys()).chain(self.traces.keys().map(|(name, _)| name));
        if let Some(unknown) = names.into_iter().find(|name| known(name).is_none()) {
            let there: Vec<&str> = containers().map(|container| container.name.as_str()).collect();
            return Err(format!("no container \"{unknown}\" in this pod; it has: {}", there.join(", ")));
        }
        let mut traced = self.traces.keys();
        match traced.find(|(name, kind)| known(name).is_none_or(|container| container.probe(*kind).is_none())) {
            Some((name, kind)) => Err(format!("container \"{name}\" has no {} probe", word(*kind))),
            None => Ok(()),
        }
    }
}

struct Scripted<'a> {
    script: &'a Script,
    pod: &'a Pod,
}

impl Scripted<'_> {
    fn name(&self, container: ContainerId) -> &str {
        match container {
            ContainerId::Init(index) => &self.pod.spec.init_containers[index].name,
            ContainerId::Regular(index) => &self.pod.spec.containers[index].name,
        }
    }

    fn is_plain_init(&self, container: ContainerId) -> bool {
        matches!(container, ContainerId::Init(index) if !self.pod.spec.init_containers[index].is_sidecar())
    }
}

impl World for Scripted<'_> {
    fn sandbox(&mut self, _attempt: u32) -> (Duration, Result<Option<std::net::IpAddr>, String>) {
        (SANDBOX_TAKES, Ok(None))
    }

    fn start(&mut self, _attempt: Attempt) -> (Duration, Result<(), crate::event::StartFailure>) {
        (START_TAKES, Ok(()))
    }

    /// A plain init container that nothing is said about succeeds at once: otherwise nothing would ever happen.
    fn run(&mut self, attempt: Attempt) -> Option<(Duration, i32)> {
        match self.script.exits.get(self.name(attempt.container)) {
            Some(ends) => ends.get(attempt.number as usize).or(ends.last()).copied(),
            None => self.is_plain_init(attempt.container).then_some((Duration::ZERO, 0)),
        }
    }

    /// Without a word about it: a first process dies of TERM unless it is PID 1 of its own PID namespace.
    fn signal(&mut self, attempt: Attempt) -> Option<(Duration, i32)> {
        match self.script.terms.get(self.name(attempt.container)) {
            Some(OnTerm::Ignore) => None,
            Some(OnTerm::Exit { after, code }) => Some((*after, *code)),
            None => (self.pod.spec.shares_pid() || self.pod.spec.host_pid).then_some((DIES_WITHIN, 143)),
        }
    }

    fn probe(&mut self, attempt: Attempt, kind: ProbeKind, running: Duration) -> (Duration, Outcome) {
        let trace = self.script.traces.get(&(self.name(attempt.container).to_owned(), kind));
        let found = trace.and_then(|steps| steps.iter().rev().find(|(from, _)| *from <= running));
        let outcome = match found.map_or(Found::Ok, |(_, found)| *found) {
            Found::Ok => Outcome::Success,
            Found::Fail => Outcome::Failure("simulated".to_owned()),
            Found::Unknown => Outcome::Unknown("simulated".to_owned()),
        };
        (PROBE_TAKES, outcome)
    }

    fn hook(&mut self, _attempt: Attempt, _hook: Hook) -> (Duration, Result<(), String>) {
        (DIES_WITHIN, Ok(()))
    }
}

/// One thing that happened, in the order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Since the pod's admission.
    pub at: Duration,
    pub text: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>8.1}s  {}", self.at.as_secs_f64(), self.text)
    }
}

/// Lives the pod's life until `end` and says what happened when.
pub fn simulate(pod: &Pod, script: &Script, end: Duration) -> Result<Vec<Line>, String> {
    script.check(pod)?;
    let node = NodeInfo { name: "simulated".to_owned(), ip: None, memory_bytes: 0 };
    let world = Scripted { script, pod };
    let mut simulation = Simulation::new(PodMachine::new(pod.clone(), node), world, Wall(0));
    simulation.run_until(end);
    let mut told = Told { pod, ready: false, status: None, lines: Vec::new() };
    simulation.log.iter().for_each(|entry| told.tell(entry));
    Ok(told.lines)
}

struct Told<'a> {
    pod: &'a Pod,
    ready: bool,
    status: Option<&'a PodStatus>,
    lines: Vec<Line>,
}

impl<'a> Told<'a> {
    fn tell(&mut self, entry: &'a Entry) {
        match &entry.what {
            What::Event(Event::Started { attempt, .. }) => {
                let name = self.name(attempt.container);
                let text = match attempt.number {
                    0 => format!("{name} started"),
                    number => format!("{name} started again, restart {number}"),
                };
                self.say(entry.at, text);
            }
            What::Event(Event::Exited { attempt, exit }) => {
                let name = self.name(attempt.container);
                self.say(entry.at, format!("{name} ended with exit code {}", exit.code));
            }
            What::Action(Action::Record(record)) => self.tell_record(entry.at, record),
            What::Status(status) => self.tell_status(entry.at, status),
            What::Event(_) | What::Action(_) => {}
        }
    }

    fn tell_record(&mut self, at: Duration, record: &Record) {
        // Said better by the events themselves, or the same in every pod.
        if !["Scheduled", "Pulled", "Created", "Started"].contains(&record.reason.as_str()) {
            self.say(at, format!("{}: {}", record.reason, record.message));
        }
    }

    fn tell_status(&mut self, at: Duration, status: &'a PodStatus) {
        let ready = status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
        if ready != std::mem::replace(&mut self.ready, ready) {
            self.say(at, if ready { "pod is ready" } else { "pod is not ready" });
        }
        let before = self.status.replace(status);
        if before.is_some_and(|before| before.phase != status.phase) {
            self.say(at, format!("pod is {:?}", status.phase));
        }
        let old = before.into_iter().flat_map(|b| b.init_container_statuses.iter().chain(&b.container_statuses));
        let old: BTreeMap<&str, _> = old.map(|container| (container.name.as_str(), &container.state.waiting)).collect();
        for container in status.init_container_statuses.iter().chain(&status.container_statuses) {
            let Some(waiting) = &container.state.waiting else { continue };
            let news = old.get(container.name.as_str()).is_some_and(|before| before.as_ref() != Some(waiting));
            if let Some(message) = waiting.message.as_ref().filter(|_| news) {
                let reason = waiting.reason.as_deref().unwrap_or_default();
                self.say(at, format!("{} is waiting: {reason}: {message}", container.name));
            }
        }
    }

    fn name(&self, container: ContainerId) -> &'a str {
        match container {
            ContainerId::Init(index) => &self.pod.spec.init_containers[index].name,
            ContainerId::Regular(index) => &self.pod.spec.containers[index].name,
        }
    }

    fn say(&mut self, at: Duration, text: impl Into<String>) {
        self.lines.push(Line { at, text: text.into() });
    }
}

fn word(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Liveness => "liveness",
        ProbeKind::Readiness => "readiness",
        ProbeKind::Startup => "startup",
    }
}

fn split<'a>(text: &'a str, at: char, form: &str) -> Result<(&'a str, &'a str), String> {
    text.split_once(at).ok_or_else(|| format!("\"{text}\": expected {form}"))
}

fn exit_code(text: &str) -> Result<i32, String> {
    let code: Option<u8> = text.parse().ok();
    code.map(i32::from).ok_or_else(|| format!("\"{text}\": an exit code is a number from 0 to 255"))
}

/// Whole or decimal numbers with ms, s, m or h; without a unit, seconds.
fn duration(text: &str) -> Result<Duration, String> {
    const LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * factor);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let limit = go_duration(LIMIT);
    duration
        .filter(|duration| *duration <= LIMIT)
        .ok_or_else(|| format!("\"{text}\": a time is a number with ms, s, m or h, at most {limit}"))
}

#[cfg(test)]
mod tests;
