//! Containers start, fail to start, and end; when each may start again.

use super::slot::{Ended, Failure, Forced, Live, PostStart, Run, Slot};
use super::{FAILED_SYNC, PodMachine, RELIST};
use crate::event::{Action, Attempt, ExitStatus, Hook, StartFailure};
use crate::restart::{Backoff, PullBackoff, restarts};
use crate::spec::{Pod, RestartPolicy};
use crate::time::{Monotonic, go_duration};

/// Between two `BackOff` events of one wait.
const REFUSAL: std::time::Duration = FAILED_SYNC;

impl PodMachine {
    // What happened.

    pub(super) fn started(&mut self, attempt: Attempt, runtime_id: String, image_id: String) {
        let Some(index) = self.take_start(attempt) else { return };
        self.say_pulled(index);
        self.say(index, "Created", "Container created");
        self.say(index, "Started", "Container started");
        let hook = self.spec(index).lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
        let post_start = if hook { PostStart::Pending } else { PostStart::Done };
        let since = self.state.now;
        let slot = &mut self.state.slots[index];
        slot.failure = None;
        slot.next_number = attempt.number.saturating_add(1);
        slot.run = Run::Running(Live { number: attempt.number, since, runtime_id, image_id, post_start });
        if hook {
            self.emit(Action::RunHook { attempt, hook: Hook::PostStart, timeout: None });
        } else {
            self.observe(index);
        }
    }

    pub(super) fn start_failed(&mut self, attempt: Attempt, failure: StartFailure) {
        let Some(index) = self.take_start(attempt) else { return };
        self.state.slots[index].run = Run::Idle;
        let image = self.spec(index).image.clone();
        match failure {
            StartFailure::ImageNeverPull => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                self.warn(index, "ErrImageNeverPull", message.clone());
                self.warn(index, "Failed", "Error: ErrImageNeverPull");
                self.no_container(index, "ErrImageNeverPull", message);
            }
            StartFailure::InvalidImageName { message } => {
                let message = format!("Failed to apply default image tag \"{image}\": {message}");
                self.warn(index, "InspectFailed", message.clone());
                self.warn(index, "Failed", "Error: InvalidImageName");
                self.no_container(index, "InvalidImageName", message);
            }
            StartFailure::ImagePull { message } => self.pull_failed(index, image, message),
            StartFailure::CreateContainerConfig { message } => {
                self.say_pulled(index);
                self.warn(index, "Failed", format!("Error: {message}"));
                self.no_container(index, "CreateContainerConfigError", message);
            }
            StartFailure::CreateContainer { message } => {
                self.say_pulled(index);
                self.warn(index, "Failed", format!("Error: {message}"));
                self.no_container(index, "CreateContainerError", message);
            }
            StartFailure::Run { message, exit_code } => {
                self.say_pulled(index);
                self.say(index, "Created", "Container created");
                self.warn(index, "Failed", format!("Error: {message}"));
                let now = self.state.now;
                let slot = &mut self.state.slots[index];
                slot.bury(Ended {
                    number: attempt.number,
                    since: now,
                    finished: now,
                    code: exit_code,
                    reason: "StartError".to_owned(),
                    message: Some(message.clone()),
                    runtime_id: None,
                    image_id: String::new(),
                });
                slot.failure = Some(Failure { reason: "RunContainerError".to_owned(), message });
                slot.next_number = attempt.number.saturating_add(1);
                slot.hold_until = Some(now.monotonic + RELIST);
                slot.refuse_at = slot.hold_until;
            }
        }
    }

    fn pull_failed(&mut self, index: usize, image: String, message: String) {
        self.say(index, "Pulling", format!("Pulling image \"{image}\""));
        self.warn(index, "Failed", format!("Failed to pull image \"{image}\": {message}"));
        self.warn(index, "Failed", "Error: ErrImagePull");
        let now = self.state.now.monotonic;
        let backoff = PullBackoff::after_failure(self.state.pulls.get(&image).copied(), now);
        self.state.pulls.insert(image, backoff);
        let slot = &mut self.state.slots[index];
        slot.hold_until = Some(backoff.until());
        slot.refuse_at = Some(now + RELIST);
        slot.failure = Some(Failure { reason: "ErrImagePull".to_owned(), message });
    }

    /// The try ended before a container existed: it will be made again with the same number.
    fn no_container(&mut self, index: usize, reason: &str, message: String) {
        let slot = &mut self.state.slots[index];
        slot.failure = Some(Failure { reason: reason.to_owned(), message });
        slot.hold_until = Some(self.state.now.monotonic + FAILED_SYNC);
    }

    fn say_pulled(&mut self, index: usize) {
        let message = format!("Container image \"{}\" already present on machine", self.spec(index).image);
        self.say(index, "Pulled", message);
    }

    fn take_start(&mut self, attempt: Attempt) -> Option<usize> {
        let index = self.index(attempt.container)?;
        let asked = self.take_outstanding(|action| *action == Action::Start { attempt });
        (asked && self.state.slots[index].run == Run::Starting { number: attempt.number }).then_some(index)
    }

    pub(super) fn exited(&mut self, attempt: Attempt, exit: ExitStatus) {
        let Some(index) = self.index(attempt.container) else { return };
        let now = self.state.now;
        let slot = &mut self.state.slots[index];
        let Some(live) = slot.live().filter(|live| live.number == attempt.number) else { return };
        let (code, reason, message) = match exit {
            ExitStatus { lost: true, .. } => {
                let text = "The container could not be located when the pod was terminated";
                (137, "ContainerStatusUnknown", Some(text.to_owned()))
            }
            ExitStatus { oom_killed: true, code, message, .. } => (code, "OOMKilled", message),
            ExitStatus { code: 0, message, .. } => (0, "Completed", message),
            ExitStatus { code, message, .. } => (code, "Error", message),
        };
        let ended = Ended {
            number: live.number,
            since: live.since,
            finished: now,
            code,
            reason: reason.to_owned(),
            message,
            runtime_id: Some(live.runtime_id.clone()),
            image_id: live.image_id.clone(),
        };
        let hold_until = (live.post_start == PostStart::Failed).then_some(now.monotonic + RELIST);
        slot.bury(ended);
        (slot.hold_until, slot.refuse_at) = (hold_until, hold_until);
    }

    pub(super) fn hook_done(&mut self, attempt: Attempt, hook: Hook, result: Result<(), String>) {
        let asked = self.take_outstanding(
            |action| matches!(action, Action::RunHook { attempt: a, hook: h, .. } if *a == attempt && *h == hook),
        );
        let Some(index) = self.index(attempt.container).filter(|_| asked) else { return };
        let Some(live) = self.state.slots[index].live_mut().filter(|live| live.number == attempt.number) else {
            return;
        };
        match (hook, result) {
            (Hook::PreStop, result) => {
                if result.is_err() {
                    self.warn(index, "FailedPreStopHook", "PreStopHook failed");
                }
                self.pre_stop_over(index);
            }
            (Hook::PostStart, Ok(())) => {
                live.post_start = PostStart::Done;
                self.observe(index);
            }
            (Hook::PostStart, Err(message)) => {
                live.post_start = PostStart::Failed;
                let reason = "PostStartHookError".to_owned();
                self.state.slots[index].failure = Some(Failure { reason, message });
                self.warn(index, "FailedPostStartHook", "PostStartHook failed");
                self.stop(index, "FailedPostStartHook", self.spec_grace(), None);
            }
        }
    }

    /// A changed manifest was accepted. Only a new image means something to a container.
    pub(super) fn updated(&mut self, pod: Pod) {
        let same = |old: &[crate::spec::Container], new: &[crate::spec::Container]| {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.name == new.name)
        };
        if !same(&self.pod.spec.init_containers, &pod.spec.init_containers)
            || !same(&self.pod.spec.containers, &pod.spec.containers)
        {
            return;
        }
        let old = std::mem::replace(&mut self.pod, pod);
        let images = old.spec.init_containers.iter().chain(&old.spec.containers).map(|container| &container.image);
        for (index, image) in images.enumerate() {
            if self.spec(index).image != *image {
                let slot = &mut self.state.slots[index];
                // The image is part of the back-off's key.
                slot.backoff = Backoff::default();
                (slot.hold_until, slot.refuse_at) = (None, None);
                slot.changed = slot.is_active();
            }
        }
    }

    // What should happen.

    /// Policy of one container: a sidecar always restarts, a plain init container until it succeeds.
    pub(super) fn policy(&self, index: usize) -> RestartPolicy {
        match (self.is_sidecar(index), index < self.inits(), self.pod.spec.restart_policy) {
            (true, _, _) => RestartPolicy::Always,
            (false, true, RestartPolicy::Always) => RestartPolicy::OnFailure,
            (false, _, policy) => policy,
        }
    }

    /// Would it be started if nothing held it back?
    pub(super) fn wants_start(&self, index: usize) -> bool {
        let slot = &self.state.slots[index];
        !slot.is_active() && (slot.forced.is_some() || self.must_run(index))
    }

    /// By its newest dead instance alone: is another one due?
    pub(super) fn must_run(&self, index: usize) -> bool {
        let ended = self.state.slots[index].ended.as_ref();
        ended.is_none_or(|ended| restarts(self.policy(index), ended.code))
    }

    /// Starts the container unless something holds it back: another start, a pause, its back-off.
    pub(super) fn try_start(&mut self, index: usize) {
        let now = self.state.now.monotonic;
        if !self.wants_start(index) || self.state.slots.iter().any(Slot::is_starting) {
            return;
        }
        let slot = &self.state.slots[index];
        if slot.hold_until.is_some_and(|until| until > now) {
            self.refuse_pull(index);
            return;
        }
        let finished_at = slot.forced.map_or(slot.finished_at(), |forced| forced.finished_at);
        match slot.backoff.check(finished_at, now) {
            Ok(()) => self.start(index, finished_at),
            // The next look asks by the exit code, and measures from the end of the instance just killed.
            Err(_) if slot.forced.is_some() => {
                self.state.slots[index].forced = None;
                self.try_start(index);
            }
            Err(refused) => self.refuse(index, &go_duration(refused.delay)),
        }
    }

    fn start(&mut self, index: usize, finished_at: Option<Monotonic>) {
        let now = self.state.now.monotonic;
        let slot = &mut self.state.slots[index];
        slot.backoff.note_start(finished_at, now);
        let number = slot.next_number;
        slot.run = Run::Starting { number };
        (slot.forced, slot.hold_until, slot.refuse_at, slot.changed) = (None, None, None, false);
        let attempt = self.attempt(index, number);
        self.emit(Action::Start { attempt });
    }

    /// Says that the back-off is not over: a moment after the end (until then the status shows how it ended), and
    /// again at each of kubelet's syncs.
    fn refuse(&mut self, index: usize, delay: &str) {
        let now = self.state.now.monotonic;
        let due = *self.state.slots[index].refuse_at.get_or_insert(now + RELIST);
        if due > now {
            return;
        }
        let (name, pod) = (self.spec(index).name.clone(), self.pod_in_messages());
        self.warn(index, "BackOff", format!("Back-off restarting failed container {name} in pod {pod}"));
        let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
        let slot = &mut self.state.slots[index];
        slot.failure = Some(Failure { reason: "CrashLoopBackOff".to_owned(), message });
        slot.refuse_at = Some(now + REFUSAL);
    }

    fn refuse_pull(&mut self, index: usize) {
        let now = self.state.now.monotonic;
        let slot = &self.state.slots[index];
        let Some(failure) = slot.failure.clone().filter(|_| slot.refuse_at.is_some_and(|due| due <= now)) else {
            return;
        };
        let text = format!("Back-off pulling image \"{}\"", self.spec(index).image);
        self.say(index, "BackOff", text.clone());
        self.warn(index, "Failed", "Error: ImagePullBackOff");
        let message = match failure.reason.as_str() {
            "ErrImagePull" => format!("{text}: ErrImagePull: {}", failure.message),
            _ => failure.message,
        };
        let slot = &mut self.state.slots[index];
        slot.failure = Some(Failure { reason: "ImagePullBackOff".to_owned(), message });
        slot.refuse_at = Some(now + REFUSAL);
    }

    pub(super) fn start_deadline(&self, index: usize) -> Option<Monotonic> {
        if !self.wants_start(index) || self.state.teardown.is_some() {
            return None;
        }
        let slot = &self.state.slots[index];
        let now = self.state.now.monotonic;
        let back_off = slot.backoff.check(slot.finished_at(), now).err().map(|refused| refused.until);
        [slot.hold_until, slot.refuse_at, back_off].into_iter().flatten().filter(|time| *time > now).min()
    }

    /// A restart that was decided before the kill: asks for the instance that was dead then.
    pub(super) fn forced(&self, index: usize) -> Forced {
        Forced { finished_at: self.state.slots[index].finished_at() }
    }
}
