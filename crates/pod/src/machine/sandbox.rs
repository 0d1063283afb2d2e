//! The sandbox and the volumes: made before the first container, made again when pause dies.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FAILED_SYNC, PodMachine, Teardown};
use crate::event::{Action, Record};
use crate::restart::restarts;
use crate::spec::RestartPolicy;
use crate::time::Monotonic;

/// kubelet tries a volume again after half a second, doubling to two minutes.
const MOUNT_RETRY: Duration = Duration::from_millis(500);
const MOUNT_RETRY_MAX: Duration = Duration::from_secs(122);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sandbox {
    Absent,
    Creating { attempt: u32 },
    Retry { attempt: u32, at: Monotonic },
    Ready { attempt: u32, ip: Option<IpAddr> },
    Lost { attempt: u32 },
    Stopping { attempt: u32 },
    Stopped { attempt: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Volumes {
    Absent,
    Mounting { failures: u32 },
    Retry { failures: u32, at: Monotonic },
    Ready,
}

impl PodMachine {
    pub(super) fn sandbox_ready(&mut self, attempt: u32, ip: Option<IpAddr>) {
        if self.answers_create(attempt) {
            self.state.sandbox = Sandbox::Ready { attempt, ip };
        }
    }

    pub(super) fn sandbox_failed(&mut self, attempt: u32, message: &str) {
        if self.answers_create(attempt) {
            self.state.sandbox = Sandbox::Retry { attempt, at: self.state.now.monotonic + FAILED_SYNC };
            let message = format!("Failed to create pod sandbox: {message}");
            self.record(Record { warning: true, ..self.pod_record("FailedCreatePodSandBox", message) });
        }
    }

    fn answers_create(&mut self, attempt: u32) -> bool {
        self.take_outstanding(|action| *action == Action::CreateSandbox { attempt })
    }

    /// Pause is gone. kubelet stops what is left and makes a new sandbox, unless nothing would run in it.
    pub(super) fn sandbox_lost(&mut self, attempt: u32) {
        if !matches!(self.state.sandbox, Sandbox::Ready { attempt: current, .. } if current == attempt) {
            return;
        }
        self.state.sandbox = Sandbox::Lost { attempt };
        if self.state.teardown.is_some() {
            return;
        }
        if self.would_run_again() {
            self.record(self.pod_record("SandboxChanged", "Pod sandbox changed, it will be killed and re-created."));
            self.state.teardown = Some(Teardown::Rebuild);
        } else {
            self.state.teardown = Some(Teardown::Finish);
        }
    }

    fn would_run_again(&self) -> bool {
        let slots = &self.state.slots;
        match self.pod.spec.restart_policy {
            RestartPolicy::Always => true,
            RestartPolicy::Never => slots.iter().all(|slot| slot.live().is_none() && slot.ended.is_none()),
            RestartPolicy::OnFailure => {
                self.state.initialised < self.inits()
                    || self.regulars().any(|index| {
                        let slot = &slots[index];
                        slot.is_active()
                            || slot.ended.as_ref().is_none_or(|end| restarts(RestartPolicy::OnFailure, end.code))
                    })
            }
        }
    }

    pub(super) fn sandbox_stopped(&mut self, attempt: u32) {
        if self.take_outstanding(|action| *action == Action::StopSandbox { attempt }) {
            self.state.sandbox = Sandbox::Stopped { attempt };
        }
    }

    pub(super) fn volumes_ready(&mut self) {
        if self.take_outstanding(|action| *action == Action::MountVolumes) {
            self.state.volumes = Volumes::Ready;
        }
    }

    pub(super) fn volumes_failed(&mut self, volume: &str, message: &str) {
        let Volumes::Mounting { failures } = self.state.volumes else { return };
        if self.take_outstanding(|action| *action == Action::MountVolumes) {
            let wait = MOUNT_RETRY.saturating_mul(1 << failures.min(16)).min(MOUNT_RETRY_MAX);
            let at = self.state.now.monotonic + wait;
            self.state.volumes = Volumes::Retry { failures: failures.saturating_add(1), at };
            let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {message}");
            self.record(Record { warning: true, ..self.pod_record("FailedMount", message) });
        }
    }

    /// Asks for what is missing; true once containers may run.
    pub(super) fn prepare(&mut self) -> bool {
        let now = self.state.now.monotonic;
        let wanted = match self.state.sandbox {
            Sandbox::Absent => Some(0),
            Sandbox::Stopped { attempt } => Some(attempt.saturating_add(1)),
            Sandbox::Retry { attempt, at } if at <= now => Some(attempt),
            Sandbox::Retry { .. }
            | Sandbox::Creating { .. }
            | Sandbox::Ready { .. }
            | Sandbox::Lost { .. }
            | Sandbox::Stopping { .. } => None,
        };
        if let Some(attempt) = wanted {
            self.state.sandbox = Sandbox::Creating { attempt };
            self.emit(Action::CreateSandbox { attempt });
        }
        let failures = match self.state.volumes {
            Volumes::Absent => Some(0),
            Volumes::Retry { failures, at } if at <= now => Some(failures),
            Volumes::Retry { .. } | Volumes::Mounting { .. } | Volumes::Ready => None,
        };
        if let Some(failures) = failures {
            self.state.volumes = Volumes::Mounting { failures };
            self.emit(Action::MountVolumes);
        }
        matches!(self.state.sandbox, Sandbox::Ready { .. }) && self.state.volumes == Volumes::Ready
    }

    pub(super) fn sandbox_deadline(&self) -> Option<Monotonic> {
        match self.state.sandbox {
            Sandbox::Retry { at, .. } => Some(at),
            Sandbox::Absent
            | Sandbox::Creating { .. }
            | Sandbox::Ready { .. }
            | Sandbox::Lost { .. }
            | Sandbox::Stopping { .. }
            | Sandbox::Stopped { .. } => None,
        }
    }

    pub(super) fn volumes_deadline(&self) -> Option<Monotonic> {
        match self.state.volumes {
            Volumes::Retry { at, .. } => Some(at),
            Volumes::Absent | Volumes::Mounting { .. } | Volumes::Ready => None,
        }
    }
}
