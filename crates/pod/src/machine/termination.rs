//! Ending containers: grace, preStop, the sidecars' turn, signal, kill; and the end of the whole pod (kubelet.md §3).

use std::time::Duration;

use super::sandbox::{Sandbox, Volumes};
use super::slot::{Forced, Run, Slot, Stage, Stopping};
use super::sync::seconds;
use super::{PodMachine, Requested, Teardown};
use crate::event::{Action, Hook};
use crate::time::Monotonic;

/// Between signal and kill, whatever the grace says and preStop has used up.
const MINIMUM_GRACE: Duration = Duration::from_secs(2);
/// A kill that has not ended a container is repeated.
const KILL_AGAIN: Duration = Duration::from_secs(10);

impl PodMachine {
    pub(super) fn stop_requested(&mut self, grace: Duration, force: bool) {
        let grace = if force { Duration::ZERO } else { grace };
        if let Some(earlier) = self.state.deletion {
            // A later request can only shorten.
            if grace < earlier.grace {
                self.state.deletion = Some(Requested { at: self.state.now.wall, grace });
                self.shorten(self.deletion_grace());
            }
            return;
        }
        self.state.deletion = Some(Requested { at: self.state.now.wall, grace });
        self.begin_ending(Teardown::Delete, self.deletion_grace());
    }

    /// What is stopping already is told so again, and never gets longer than `grace` from now on.
    pub(super) fn begin_ending(&mut self, why: Teardown, grace: Duration) {
        self.state.teardown = Some(why);
        for index in 0..self.state.slots.len() {
            if matches!(self.state.slots[index].run, Run::Stopping(..)) {
                self.say(index, "Killing", format!("Stopping container {}", self.spec(index).name));
            }
        }
        self.shorten(grace);
    }

    fn shorten(&mut self, grace: Duration) {
        let now = self.state.now.monotonic;
        for slot in &mut self.state.slots {
            let Run::Stopping(_, stopping) = &mut slot.run else { continue };
            let grace = match stopping.stage {
                Stage::PreStop | Stage::Turn => grace,
                Stage::Signalled => grace.max(MINIMUM_GRACE),
                Stage::Killed => continue,
            };
            if now + grace < stopping.ends_at() {
                stopping.grace = (now + grace).since(stopping.since);
            }
        }
    }

    /// At least a second, so that preStop runs.
    fn deletion_grace(&self) -> Duration {
        let requested = self.state.deletion.map_or(self.spec_grace(), |requested| requested.grace);
        requested.max(Duration::from_secs(1))
    }

    pub(super) fn spec_grace(&self) -> Duration {
        seconds(self.pod.spec.termination_grace_period_seconds)
    }

    /// Ends one running container; `forced`: to be started again whatever its exit code.
    pub(super) fn stop(&mut self, index: usize, message: &str, grace: Duration, forced: Option<Forced>) {
        self.begin_stop(index, message, grace, false);
        self.state.slots[index].forced = forced;
    }

    fn begin_stop(&mut self, index: usize, message: &str, grace: Duration, ordered: bool) {
        let Run::Running(live) = self.state.slots[index].run.clone() else { return };
        self.say(index, "Killing", message);
        let attempt = self.attempt(index, live.number);
        let since = self.state.now.monotonic;
        let hook = self.spec(index).lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.pre_stop.is_some());
        let stopping = Stopping { stage: Stage::PreStop, since, grace, ordered };
        self.state.slots[index].run = Run::Stopping(live, stopping);
        if hook && !grace.is_zero() {
            self.emit(Action::RunHook { attempt, hook: Hook::PreStop, timeout: Some(grace) });
        } else {
            self.await_turn(index);
        }
    }

    pub(super) fn pre_stop_over(&mut self, index: usize) {
        if matches!(&self.state.slots[index].run, Run::Stopping(_, stopping) if stopping.stage == Stage::PreStop) {
            self.await_turn(index);
        }
    }

    fn await_turn(&mut self, index: usize) {
        let waits = self.is_sidecar(index) && !self.is_its_turn(index);
        let now = self.state.now.monotonic;
        let Run::Stopping(_, stopping) = &mut self.state.slots[index].run else { return };
        stopping.spend(now);
        if stopping.ordered && waits && !stopping.grace.is_zero() {
            stopping.stage = Stage::Turn;
        } else {
            self.signal(index);
        }
    }

    fn signal(&mut self, index: usize) {
        let now = self.state.now.monotonic;
        let Run::Stopping(live, stopping) = &mut self.state.slots[index].run else { return };
        stopping.spend(now);
        stopping.stage = Stage::Signalled;
        stopping.grace = stopping.grace.max(MINIMUM_GRACE);
        let number = live.number;
        let attempt = self.attempt(index, number);
        self.emit(Action::Signal { attempt });
    }

    fn kill(&mut self, index: usize) {
        let now = self.state.now.monotonic;
        let Run::Stopping(live, stopping) = &mut self.state.slots[index].run else { return };
        *stopping = Stopping { stage: Stage::Killed, since: now, grace: KILL_AGAIN, ordered: stopping.ordered };
        let number = live.number;
        let attempt = self.attempt(index, number);
        self.emit(Action::Kill { attempt });
    }

    /// A sidecar's turn comes when all regular containers and all later sidecars have ended.
    fn is_its_turn(&self, index: usize) -> bool {
        let later = (index + 1..self.state.slots.len()).filter(|i| *i >= self.inits() || self.is_sidecar(*i));
        later.into_iter().all(|i| !self.state.slots[i].is_active())
    }

    /// Timers and turns of what is being stopped.
    pub(super) fn advance_stops(&mut self) {
        for index in (0..self.state.slots.len()).rev() {
            let Run::Stopping(_, stopping) = &self.state.slots[index].run else { continue };
            let (stage, over) = (stopping.stage, stopping.ends_at() <= self.state.now.monotonic);
            match stage {
                Stage::PreStop if over => self.await_turn(index),
                Stage::Turn if over || self.is_its_turn(index) => self.signal(index),
                Stage::Signalled | Stage::Killed if over => self.kill(index),
                Stage::PreStop | Stage::Turn | Stage::Signalled | Stage::Killed => {}
            }
        }
    }

    pub(super) fn stop_deadline(&self, index: usize) -> Option<Monotonic> {
        match &self.state.slots[index].run {
            Run::Stopping(_, stopping) => Some(stopping.ends_at()),
            Run::Idle | Run::Starting { .. } | Run::Running(_) => None,
        }
    }

    /// After a take-over: what was to be killed and may not have been.
    pub(super) fn unanswered_kill(&self, index: usize) -> Option<Action> {
        match &self.state.slots[index].run {
            Run::Stopping(live, stopping) if stopping.stage == Stage::Killed => {
                Some(Action::Kill { attempt: self.attempt(index, live.number) })
            }
            Run::Stopping(..) | Run::Idle | Run::Starting { .. } | Run::Running(_) => None,
        }
    }

    /// One stride of the pod's end; true when it is over and the pod begins anew.
    pub(super) fn tear_down(&mut self) -> bool {
        let Some(why) = self.state.teardown else { return true };
        let grace = if why == Teardown::Delete { self.deletion_grace() } else { self.spec_grace() };
        for index in (0..self.state.slots.len()).rev() {
            let forced = (why == Teardown::Rebuild).then(|| self.forced(index));
            if matches!(self.state.slots[index].run, Run::Running(_)) {
                let message = format!("Stopping container {}", self.spec(index).name);
                self.begin_stop(index, &message, grace, true);
                self.state.slots[index].forced = forced;
            }
        }
        if self.state.slots.iter().any(Slot::is_active) {
            return false;
        }
        match (&self.state.sandbox, why) {
            (Sandbox::Ready { attempt, .. } | Sandbox::Lost { attempt }, _) => {
                let attempt = *attempt;
                self.state.sandbox = Sandbox::Stopping { attempt };
                self.emit(Action::StopSandbox { attempt });
                false
            }
            (Sandbox::Creating { .. } | Sandbox::Stopping { .. }, _) => false,
            (Sandbox::Absent | Sandbox::Retry { .. } | Sandbox::Stopped { .. }, Teardown::Rebuild) => {
                self.rebuild();
                true
            }
            (_, Teardown::Finish | Teardown::Deadline) => false,
            (_, Teardown::Delete) => {
                self.remove();
                false
            }
        }
    }

    /// Init containers run again, with their restart counts; regular ones keep what is known of them.
    fn rebuild(&mut self) {
        self.state.teardown = None;
        self.state.initialised = 0;
        for slot in &mut self.state.slots[..self.pod.spec.init_containers.len()] {
            *slot = Slot { next_number: slot.next_number, backoff: slot.backoff, ..Slot::default() };
        }
    }

    fn remove(&mut self) {
        let mounting = matches!(self.state.volumes, Volumes::Mounting { .. });
        let asked = self.state.outstanding.iter().any(|action| matches!(action, Action::Remove));
        if !mounting && !asked {
            self.emit(Action::Remove);
        }
    }
}

impl Stopping {
    /// Takes the whole seconds that have passed off the grace, and begins a new stage now.
    fn spend(&mut self, now: Monotonic) {
        let used = Duration::from_secs(now.since(self.since).as_secs());
        self.grace = self.grace.saturating_sub(used);
        self.since = now;
    }
}
