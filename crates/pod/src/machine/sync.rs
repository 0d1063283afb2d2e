//! The sync: compares what is with what should be, and asks for the difference (kubelet.md §2.1, §2.2).

use super::slot::Run;
use super::{PodMachine, Teardown};
use crate::probe::Verdict;
use crate::spec::{ProbeKind, RestartPolicy};
use crate::time::Monotonic;
use std::time::Duration;

pub(super) const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

impl PodMachine {
    pub(super) fn sync(&mut self) {
        if self.state.admitted.is_none() || self.state.finished {
            return;
        }
        self.check_active_deadline();
        self.advance_stops();
        if self.state.teardown.is_some() && !self.tear_down() {
            return;
        }
        if !self.prepare() {
            return;
        }
        self.kill_unhealthy();
        if self.run_inits() {
            for index in self.regulars() {
                self.try_start(index);
            }
            if self.has_nothing_to_run() {
                self.state.teardown = Some(Teardown::Finish);
            }
        }
        if self.state.teardown.is_some() {
            self.tear_down();
        }
    }

    /// All regular containers have ended for good: nothing is kept and nothing is to start.
    fn has_nothing_to_run(&self) -> bool {
        self.regulars().all(|index| !self.state.slots[index].is_active() && !self.wants_start(index))
    }

    fn kill_unhealthy(&mut self) {
        for index in 0..self.state.slots.len() {
            let slot = &self.state.slots[index];
            let Run::Running(live) = &slot.run else { continue };
            let (number, changed) = (live.number, slot.changed);
            let plain_init = index < self.inits() && !self.is_sidecar(index);
            let failed = [ProbeKind::Liveness, ProbeKind::Startup]
                .into_iter()
                .find(|kind| self.verdict(index, *kind, number) == Some(Verdict::Failure));
            match failed {
                _ if changed && !plain_init => {
                    let forced = Some(self.forced(index));
                    self.stop(index, &self.kill_message(index, "definition changed", true), self.spec_grace(), forced);
                    self.state.slots[index].changed = false;
                }
                Some(kind) => {
                    let restart = self.policy(index) != RestartPolicy::Never;
                    let what = match kind {
                        ProbeKind::Startup => "failed startup probe",
                        ProbeKind::Liveness | ProbeKind::Readiness => "failed liveness probe",
                    };
                    let grace = self
                        .spec(index)
                        .probe(kind)
                        .and_then(|probe| probe.termination_grace_period_seconds)
                        .map_or(self.spec_grace(), seconds);
                    let forced = restart.then(|| self.forced(index));
                    self.stop(index, &self.kill_message(index, what, restart), grace, forced);
                }
                None => {}
            }
        }
    }

    fn kill_message(&self, index: usize, what: &str, restart: bool) -> String {
        let name = &self.spec(index).name;
        match (index < self.inits(), restart) {
            (true, _) => format!("Init container {name} {what}"),
            (false, true) => format!("Container {name} {what}, will be restarted"),
            (false, false) => format!("Container {name} {what}"),
        }
    }

    fn check_active_deadline(&mut self) {
        let over = self.active_deadline_at().is_some_and(|at| at <= self.state.now.monotonic);
        if over && self.state.teardown < Some(Teardown::Deadline) && !self.is_over() {
            self.record(self.pod_record("DeadlineExceeded", DEADLINE_MESSAGE));
            self.begin_ending(Teardown::Deadline, self.spec_grace());
        }
    }

    pub(super) fn active_deadline(&self) -> Option<Monotonic> {
        self.active_deadline_at().filter(|_| self.state.teardown < Some(Teardown::Finish))
    }

    fn active_deadline_at(&self) -> Option<Monotonic> {
        let limit = seconds(self.pod.spec.active_deadline_seconds?);
        Some(self.state.admitted?.monotonic + limit)
    }

    /// The pod has come to its own end already.
    fn is_over(&self) -> bool {
        self.state.teardown == Some(Teardown::Finish) && self.state.slots.iter().all(|slot| !slot.is_active())
    }
}

/// A field of whole seconds; negative counts as 1, as the API server stores it.
pub(super) fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(1))
}
