//! One probe of one container: outcomes in, verdicts out (kubelet's worker, kubelet.md §1.3).
//!
//! It knows ticks, thresholds and holds; it does not know what a verdict leads to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{ContainerId, Outcome};
use crate::spec::{Probe, ProbeKind};
use crate::time::{Monotonic, Now};

/// Attempts back to back while the handler itself fails (`Unknown`), before that is reported and dropped.
pub const MAX_TRIES: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Success,
    Failure,
}

/// The running instance that a worker looks at. No subject: nothing runs, nothing is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    pub number: u32,
    pub running_since: Now,
    /// The startup probe, if there is one, has succeeded.
    pub started: bool,
    /// The pod is being ended: liveness and startup are over, readiness goes on.
    pub terminating: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub container: ContainerId,
    pub kind: ProbeKind,
    /// Fixed rate: from the pod's admission, or from the last manual trigger.
    next_tick: Monotonic,
    /// A tick (or more) that came while a probe was in flight, or that is due now: ticks coalesce to one.
    ticked: bool,
    triggered: bool,
    known: Option<u32>,
    result: Option<Verdict>,
    last: Option<Verdict>,
    run: i64,
    on_hold: bool,
    in_flight: Option<Flight>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Flight {
    number: u32,
    tries: u32,
}

/// What the machine is to do with an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// A late answer for an instance that is gone.
    Dropped,
    /// The handler failed: try at once again.
    Again,
    /// The handler failed too often: say so, change nothing.
    Errored,
    Counted,
}

impl Worker {
    pub fn new(container: ContainerId, kind: ProbeKind, probe: &Probe, admitted: Monotonic) -> Worker {
        Worker {
            container,
            kind,
            next_tick: admitted + period(probe),
            ticked: false,
            triggered: false,
            known: None,
            result: None,
            last: None,
            run: 0,
            on_hold: false,
            in_flight: None,
        }
    }

    /// The decided result for instance `number`. Nothing decided: readiness Failure, liveness Success, startup `None`.
    pub fn result(&self, number: u32) -> Option<Verdict> {
        match (self.known == Some(number), self.result, self.kind) {
            (true, Some(verdict), _) => Some(verdict),
            (_, _, ProbeKind::Readiness) => Some(Verdict::Failure),
            (_, _, ProbeKind::Liveness) => Some(Verdict::Success),
            (_, _, ProbeKind::Startup) => None,
        }
    }

    /// Lets ticks pass up to `now`; those that nobody waits for are lost. Call it before the state changes.
    pub fn pass_ticks(&mut self, now: Monotonic, probe: &Probe, subject: Option<&Subject>) {
        if now < self.next_tick {
            return;
        }
        let period = period(probe);
        let missed = now.since(self.next_tick).as_nanos() / period.as_nanos();
        let steps = u32::try_from(missed + 1).unwrap_or(u32::MAX);
        self.next_tick = self.next_tick + period.saturating_mul(steps);
        self.ticked |= self.is_armed(subject);
    }

    /// Asks for a probe outside the rate; kubelet does so for a started container that is not ready.
    pub fn trigger(&mut self) {
        self.triggered = true;
    }

    /// Is a probe to be started now? Uses up the tick or the trigger.
    pub fn take_due(&mut self, now: Now, probe: &Probe, subject: Option<&Subject>) -> bool {
        if self.in_flight.is_some() || !(self.ticked || self.triggered) {
            return false;
        }
        if self.triggered {
            self.next_tick = now.monotonic + period(probe);
        }
        (self.ticked, self.triggered) = (false, false);
        let Some(subject) = subject.filter(|subject| self.is_armed(Some(subject))) else { return false };
        if seconds_running(subject, now) < probe.initial_delay_seconds {
            return false;
        }
        self.in_flight = Some(Flight { number: subject.number, tries: 1 });
        true
    }

    /// Takes the answer of the probe in flight.
    pub fn answer(&mut self, number: u32, outcome: &Outcome, probe: &Probe, subject: Option<&Subject>) -> Reaction {
        let Some(flight) = self.in_flight.filter(|flight| flight.number == number) else { return Reaction::Dropped };
        self.in_flight = None;
        let Some(subject) = subject.filter(|subject| subject.number == number) else { return Reaction::Dropped };
        if subject.terminating && self.kind != ProbeKind::Readiness {
            return Reaction::Dropped;
        }
        let verdict = match outcome {
            Outcome::Success | Outcome::Warning(_) => Verdict::Success,
            Outcome::Failure(_) => Verdict::Failure,
            Outcome::Unknown(_) if flight.tries < MAX_TRIES => {
                self.in_flight = Some(Flight { number, tries: flight.tries + 1 });
                return Reaction::Again;
            }
            Outcome::Unknown(_) => return Reaction::Errored,
        };
        self.count(verdict, probe);
        Reaction::Counted
    }

    fn count(&mut self, verdict: Verdict, probe: &Probe) {
        if self.last == Some(verdict) {
            self.run = self.run.saturating_add(1);
        } else {
            (self.last, self.run) = (Some(verdict), 1);
        }
        let threshold = match verdict {
            Verdict::Failure => probe.failure_threshold,
            Verdict::Success => probe.success_threshold,
        };
        if self.run < threshold {
            return;
        }
        self.result = Some(verdict);
        if self.kind == ProbeKind::Startup || (self.kind == ProbeKind::Liveness && verdict == Verdict::Failure) {
            self.on_hold = true;
            self.run = 0;
        }
    }

    /// A new instance runs: nothing is decided about it. The run of equal results is kept, as kubelet keeps it.
    pub fn observe(&mut self, number: u32) {
        if self.known != Some(number) {
            (self.known, self.result, self.on_hold) = (Some(number), None, false);
        }
    }

    /// When a probe may next be due: a tick that somebody waits for. In flight: the answer comes first.
    pub fn next_wake(&self, now: Now, probe: &Probe, subject: Option<&Subject>) -> Option<Monotonic> {
        let subject = subject?;
        if self.in_flight.is_some() || !self.is_armed(Some(subject)) {
            return None;
        }
        let (period, ran) = (period(probe), now.monotonic.since(subject.running_since.monotonic));
        // Whole seconds are counted on the wall clock, so the delay may be over up to a second early.
        let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.saturating_sub(1)).unwrap_or(0));
        let wait = delay.saturating_sub(ran);
        let earliest = now.monotonic + wait;
        let short = earliest.since(self.next_tick);
        let steps = u32::try_from(short.as_nanos().div_ceil(period.as_nanos())).unwrap_or(u32::MAX);
        Some(self.next_tick + period.saturating_mul(steps))
    }

    /// A shim that died took its probe with it; the next tick makes a new one.
    pub fn forget_flight(&mut self) {
        self.in_flight = None;
    }

    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    fn is_armed(&self, subject: Option<&Subject>) -> bool {
        let Some(subject) = subject else { return false };
        let held = self.on_hold && self.known == Some(subject.number);
        match self.kind {
            ProbeKind::Startup => !held && !subject.started && !subject.terminating,
            ProbeKind::Liveness => !held && subject.started && !subject.terminating,
            ProbeKind::Readiness => !held && subject.started,
        }
    }
}

/// Whole seconds since `startedAt` as kubelet counts them: the API's `startedAt` has no fraction, so this may be one
/// more than the seconds that passed. A wall clock that was set in between does not count.
fn seconds_running(subject: &Subject, now: Now) -> i64 {
    let passed = now.monotonic.since(subject.running_since.monotonic).as_secs();
    let passed = i64::try_from(passed).unwrap_or(i64::MAX);
    let shown = now.wall.0.saturating_sub(subject.running_since.wall.0);
    if shown == passed.saturating_add(1) { shown } else { passed }
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.period_seconds).unwrap_or(0).max(1))
}
