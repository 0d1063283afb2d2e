//! Wires the probes' workers to the containers they look at.

use super::PodMachine;
use crate::event::{Action, Attempt, ContainerId, Outcome};
use crate::probe::{Reaction, Subject, Verdict, Worker};
use crate::spec::{Probe, ProbeKind};
use crate::time::Monotonic;

impl PodMachine {
    /// One worker for each probe of the regular containers and sidecars; per container startup, readiness, liveness.
    pub(super) fn make_workers(&self) -> Vec<Worker> {
        let mut workers = Vec::new();
        for index in (0..self.state.slots.len()).filter(|i| *i >= self.inits() || self.is_sidecar(*i)) {
            for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
                if let Some(probe) = self.spec(index).probe(kind) {
                    workers.push(Worker::new(self.id(index), kind, probe, self.state.now.monotonic));
                }
            }
        }
        workers
    }

    pub(super) fn probe_of(&self, container: ContainerId, kind: ProbeKind) -> Option<&Probe> {
        self.spec(self.index(container)?).probe(kind)
    }

    fn subject(&self, container: ContainerId) -> Option<Subject> {
        let index = self.index(container)?;
        let live = self.state.slots[index].shown()?;
        Some(Subject {
            number: live.number,
            running_since: live.since,
            started: self.is_started(index),
            terminating: self.is_terminating(),
        })
    }

    pub(super) fn pass_ticks(&mut self) {
        let now = self.state.now.monotonic;
        self.each_worker(|worker, probe, subject| worker.pass_ticks(now, probe, subject));
    }

    /// Starts the probes that are due.
    pub(super) fn run_probes(&mut self) {
        let now = self.state.now;
        let mut due = Vec::new();
        self.each_worker(|worker, probe, subject| {
            if worker.take_due(now, probe, subject) {
                due.extend(subject.map(|subject| (worker.container, subject.number, worker.kind)));
            }
        });
        for (container, number, kind) in due {
            self.emit(Action::Probe { attempt: Attempt { container, number }, kind });
        }
    }

    fn each_worker(&mut self, mut act: impl FnMut(&mut Worker, &Probe, Option<&Subject>)) {
        // Subjects first: whether a container is started is asked of the workers themselves.
        let subjects: Vec<_> = self.state.workers.iter().map(|worker| self.subject(worker.container)).collect();
        let mut workers = std::mem::take(&mut self.state.workers);
        for (worker, subject) in workers.iter_mut().zip(&subjects) {
            if let Some(probe) = self.probe_of(worker.container, worker.kind) {
                act(worker, probe, subject.as_ref());
            }
        }
        self.state.workers = workers;
    }

    pub(super) fn probed(&mut self, attempt: Attempt, kind: ProbeKind, outcome: &Outcome) {
        let Some(index) = self.index(attempt.container) else { return };
        let subject = self.subject(attempt.container);
        let Some(probe) = self.spec(index).probe(kind).cloned() else { return };
        let found = self.state.workers.iter_mut().find(|w| w.container == attempt.container && w.kind == kind);
        let Some(worker) = found else { return };
        let name = match kind {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        };
        match (worker.answer(attempt.number, outcome, &probe, subject.as_ref()), outcome) {
            (Reaction::Again, _) => self.emit(Action::Probe { attempt, kind }),
            (Reaction::Dropped, _) | (_, Outcome::Success) => {}
            (_, Outcome::Warning(output)) => {
                self.warn(index, "ProbeWarning", format!("{name} probe warning: {output}"));
            }
            (_, Outcome::Failure(output)) => {
                self.warn(index, "Unhealthy", format!("{name} probe failed: {output}"));
            }
            (_, Outcome::Unknown(error)) => {
                let text = format!("{name} probe errored and resulted in unknown state: {error}");
                self.warn(index, "Unhealthy", text);
            }
        }
    }

    /// A new instance runs.
    pub(super) fn observe(&mut self, index: usize) {
        let (id, Some(live)) = (self.id(index), self.state.slots[index].live()) else { return };
        let number = live.number;
        self.state.workers.iter_mut().filter(|worker| worker.container == id).for_each(|w| w.observe(number));
    }

    pub(super) fn verdict(&self, index: usize, kind: ProbeKind, number: u32) -> Option<Verdict> {
        self.worker(index, kind)?.result(number)
    }

    fn worker(&self, index: usize, kind: ProbeKind) -> Option<&Worker> {
        let id = self.id(index);
        self.state.workers.iter().find(|worker| worker.container == id && worker.kind == kind)
    }

    /// `started`: it runs, and its startup probe, if it has one, has succeeded. Startup probes end with the pod.
    pub(super) fn is_started(&self, index: usize) -> bool {
        let Some(live) = self.state.slots[index].shown() else { return false };
        match self.worker(index, ProbeKind::Startup) {
            Some(worker) => self.is_terminating() || worker.result(live.number) == Some(Verdict::Success),
            None => true,
        }
    }

    pub(super) fn is_ready(&self, index: usize) -> bool {
        let Some(live) = self.state.slots[index].shown().filter(|_| self.is_started(index)) else { return false };
        self.worker(index, ProbeKind::Readiness)
            .is_none_or(|worker| worker.result(live.number) == Some(Verdict::Success))
    }

    /// The status was made anew: started containers that are not ready are probed at once.
    pub(super) fn trigger_readiness(&mut self) {
        let waiting: Vec<ContainerId> = (0..self.state.slots.len())
            .filter(|index| self.is_started(*index) && !self.is_ready(*index))
            .map(|index| self.id(index))
            .collect();
        for worker in &mut self.state.workers {
            if worker.kind == ProbeKind::Readiness && waiting.contains(&worker.container) {
                worker.trigger();
            }
        }
    }

    pub(super) fn probe_deadline(&self, worker: &Worker) -> Option<Monotonic> {
        let probe = self.probe_of(worker.container, worker.kind)?;
        worker.next_wake(self.state.now, probe, self.subject(worker.container).as_ref())
    }
}
