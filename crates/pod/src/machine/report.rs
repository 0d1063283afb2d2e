//! What is reported: container statuses, phase and conditions, computed anew after each step (kubelet.md §2.6–2.10).

use super::sandbox::Sandbox;
use super::slot::{Ended, Run, Slot};
use super::sync::DEADLINE_MESSAGE;
use super::{PodMachine, Teardown};
use crate::resources::qos_class;
use crate::spec::RestartPolicy;
use crate::status::{
    Condition, ContainerState, ContainerStatus, Phase, PodIp, PodStatus, Running, Terminated, Waiting,
};

const RUNTIME: &str = "killick";

impl PodMachine {
    pub(super) fn refresh_status(&mut self) {
        if self.state.admitted.is_none() {
            return;
        }
        let status = self.report();
        if status != self.state.status {
            self.state.status = status;
            self.trigger_readiness();
        }
    }

    pub(super) fn report(&self) -> PodStatus {
        let old = &self.state.status;
        let inits: Vec<ContainerStatus> = (0..self.inits()).map(|index| self.container_status(index)).collect();
        let mut regulars: Vec<ContainerStatus> = self.regulars().map(|index| self.container_status(index)).collect();
        let (phase, reason) = match old.phase {
            Phase::Succeeded | Phase::Failed => (old.phase, old.reason.clone()),
            Phase::Pending | Phase::Running if self.has_missed_its_deadline() => {
                (Phase::Failed, Some("DeadlineExceeded".to_owned()))
            }
            Phase::Pending | Phase::Running => (self.phase(&inits, &regulars), None),
        };
        let conditions = self.conditions(phase, &inits, &regulars);
        regulars.sort_by(|a, b| a.name.cmp(&b.name));
        let ip = match (&self.state.sandbox, self.pod.spec.host_network) {
            (Sandbox::Absent | Sandbox::Creating { .. } | Sandbox::Retry { .. }, _) => None,
            (_, true) => self.node.ip.map(|ip| ip.to_string()),
            (Sandbox::Ready { ip, .. }, false) => ip.map(|ip| ip.to_string()),
            (Sandbox::Lost { .. } | Sandbox::Stopping { .. } | Sandbox::Stopped { .. }, false) => old.pod_ip.clone(),
        };
        let host_ip = self.state.admitted.and(self.node.ip).map(|ip| ip.to_string());
        PodStatus {
            phase,
            message: reason.as_ref().map(|_| DEADLINE_MESSAGE.to_owned()),
            reason,
            conditions,
            host_ips: host_ip.iter().map(|ip| PodIp { ip: ip.clone() }).collect(),
            host_ip,
            pod_ips: ip.iter().map(|ip| PodIp { ip: ip.clone() }).collect(),
            pod_ip: ip,
            start_time: self.state.admitted.map(|admitted| admitted.wall.rfc3339()),
            init_container_statuses: inits,
            container_statuses: regulars,
            qos_class: qos_class(&self.pod.spec).as_str().to_owned(),
        }
    }

    // Containers.

    fn container_status(&self, index: usize) -> ContainerStatus {
        let (slot, spec) = (&self.state.slots[index], self.spec(index));
        let mut status = ContainerStatus { name: spec.name.clone(), image: spec.image.clone(), ..Default::default() };
        if let Some(live) = slot.shown() {
            status.state.running = Some(Running { started_at: live.since.wall.rfc3339() });
            status.last_state = terminated(slot.ended.as_ref());
            status.restart_count = live.number;
            status.container_id = Some(runtime_id(&live.runtime_id));
            status.image_id.clone_from(&live.image_id);
        } else {
            let (state, last_state) = self.state_of_idle(index);
            (status.state, status.last_state) = (state, last_state);
            if let Some(ended) = &slot.ended {
                status.restart_count = ended.number;
                status.container_id = ended.runtime_id.as_deref().map(runtime_id);
                status.image_id.clone_from(&ended.image_id);
            } else {
                status.restart_count = slot.live().map_or(slot.next_number, |live| live.number);
            }
        }
        let done = slot.run == Run::Idle && slot.ended.as_ref().is_some_and(|ended| ended.code == 0);
        let plain_init = index < self.inits() && !self.is_sidecar(index);
        status.started = Some(self.is_started(index));
        status.ready = if plain_init { done } else { self.is_ready(index) };
        status
    }

    /// A container that must run again and was refused is Waiting, and how it ended moves to `lastState`.
    fn state_of_idle(&self, index: usize) -> (ContainerState, ContainerState) {
        let slot = &self.state.slots[index];
        let failure = slot.failure.as_ref();
        match (&slot.ended, failure) {
            (Some(ended), Some(failure)) if self.must_run(index) && !self.is_terminating() => {
                (waiting(&failure.reason, Some(&failure.message)), terminated(Some(ended)))
            }
            (Some(ended), _) => (terminated(Some(ended)), terminated(slot.previous.as_ref())),
            (None, Some(failure)) => (waiting(&failure.reason, Some(&failure.message)), ContainerState::default()),
            (None, None) if self.inits() > 0 => (waiting("PodInitializing", None), ContainerState::default()),
            (None, None) => (waiting("ContainerCreating", None), ContainerState::default()),
        }
    }

    // The pod.

    fn has_missed_its_deadline(&self) -> bool {
        self.state.teardown == Some(Teardown::Deadline) && !self.state.slots.iter().any(Slot::is_active)
    }

    fn phase(&self, inits: &[ContainerStatus], regulars: &[ContainerStatus]) -> Phase {
        let (mut pending, mut failed, mut waiting, mut running) = (0, 0, 0, 0);
        for (index, status) in inits.iter().enumerate() {
            let (state, last) = (&status.state, status.last_state.terminated.as_ref());
            match (self.is_sidecar(index), &state.terminated, &state.running) {
                (true, Some(_), _) => {}
                (true, None, Some(_)) => {
                    running += 1;
                    pending += i32::from(status.started != Some(true));
                }
                (true, None, None) if last.is_some() => {}
                (true, None, None) => {
                    pending += 1;
                    waiting += 1;
                }
                (false, Some(ended), _) => failed += i32::from(ended.exit_code != 0),
                (false, None, None) if last.is_some_and(|ended| ended.exit_code != 0) => failed += 1,
                (false, None, None) if last.is_some() => {}
                (false, None, _) => pending += 1,
            }
        }
        let (mut stopped, mut succeeded) = (0, 0);
        for status in regulars {
            let last = &status.last_state.terminated;
            match (&status.state.terminated, &status.state.running) {
                (Some(ended), _) => {
                    stopped += 1;
                    succeeded += i32::from(ended.exit_code == 0);
                }
                (None, Some(_)) => running += 1,
                (None, None) if last.is_some() => stopped += 1,
                (None, None) => waiting += 1,
            }
        }
        let policy = self.pod.spec.restart_policy;
        if failed > 0 && policy == RestartPolicy::Never {
            return Phase::Failed;
        }
        let any_regular_started = regulars.iter().any(has_run);
        if (pending > 0 && !any_regular_started) || waiting > 0 {
            return Phase::Pending;
        }
        let all_succeeded = stopped == succeeded;
        match policy {
            _ if running > 0 => Phase::Running,
            _ if stopped == 0 => Phase::Pending,
            _ if self.is_terminating() && all_succeeded => Phase::Succeeded,
            _ if self.is_terminating() => Phase::Failed,
            RestartPolicy::Always => Phase::Running,
            RestartPolicy::OnFailure | RestartPolicy::Never if all_succeeded => Phase::Succeeded,
            RestartPolicy::Never => Phase::Failed,
            RestartPolicy::OnFailure => Phase::Running,
        }
    }

    fn conditions(&self, phase: Phase, inits: &[ContainerStatus], regulars: &[ContainerStatus]) -> Vec<Condition> {
        if self.state.admitted.is_none() {
            return Vec::new();
        }
        let sandbox = matches!(self.state.sandbox, Sandbox::Ready { .. });
        let ready = self.ready_condition(phase, inits, regulars);
        let all = [
            ("PodReadyToStartContainers", verdict(sandbox)),
            ("Initialized", self.initialized_condition(phase, inits, regulars)),
            ("Ready", ready.clone()),
            ("ContainersReady", ready),
            ("PodScheduled", verdict(true)),
        ];
        all.into_iter().map(|(kind, verdict)| self.condition(kind, verdict)).collect()
    }

    /// `lastTransitionTime` moves only when `status` does.
    fn condition(&self, kind: &str, (status, reason, message): Verdict) -> Condition {
        let status = if status { "True" } else { "False" }.to_owned();
        let same = self.state.status.conditions.iter().find(|old| old.kind == kind && old.status == status);
        let last_transition_time =
            same.map_or_else(|| self.state.now.wall.rfc3339(), |old| old.last_transition_time.clone());
        Condition { kind: kind.to_owned(), status, reason, message, last_transition_time }
    }

    fn initialized_condition(&self, phase: Phase, inits: &[ContainerStatus], regulars: &[ContainerStatus]) -> Verdict {
        if phase == Phase::Succeeded {
            return (true, Some("PodCompleted".to_owned()), None);
        }
        let is_done = |index: usize, status: &ContainerStatus| {
            if self.is_sidecar(index) { status.started == Some(true) } else { status.ready }
        };
        let incomplete: Vec<&str> = inits
            .iter()
            .enumerate()
            .filter(|(index, status)| !is_done(*index, status))
            .map(|(_, status)| status.name.as_str())
            .collect();
        if incomplete.is_empty() || regulars.iter().any(has_run) {
            return verdict(true);
        }
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        (false, Some("ContainersNotInitialized".to_owned()), Some(message))
    }

    fn ready_condition(&self, phase: Phase, inits: &[ContainerStatus], regulars: &[ContainerStatus]) -> Verdict {
        match phase {
            Phase::Succeeded => return (false, Some("PodCompleted".to_owned()), None),
            Phase::Failed => return (false, Some("PodFailed".to_owned()), None),
            Phase::Pending | Phase::Running => {}
        }
        let sidecars = inits.iter().enumerate().filter(|(index, _)| self.is_sidecar(*index)).map(|(_, status)| status);
        let unready: Vec<&str> =
            sidecars.chain(regulars).filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
        if unready.is_empty() {
            return verdict(true);
        }
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        (false, Some("ContainersNotReady".to_owned()), Some(message))
    }
}

type Verdict = (bool, Option<String>, Option<String>);

fn verdict(is_true: bool) -> Verdict {
    (is_true, None, None)
}

fn has_run(status: &ContainerStatus) -> bool {
    status.state.running.is_some() || status.state.terminated.is_some() || status.last_state.terminated.is_some()
}

fn runtime_id(id: &str) -> String {
    format!("{RUNTIME}://{id}")
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let waiting = Waiting { reason: Some(reason.to_owned()), message: message.map(str::to_owned) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(ended: Option<&Ended>) -> ContainerState {
    let terminated = ended.map(|ended| Terminated {
        exit_code: ended.code,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        started_at: ended.since.wall.rfc3339(),
        finished_at: ended.finished.wall.rfc3339(),
        container_id: ended.runtime_id.as_deref().map(runtime_id),
    });
    ContainerState { terminated, ..ContainerState::default() }
}
