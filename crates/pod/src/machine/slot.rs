//! What the machine holds about one container: its running instance, its two newest dead ones, its back-off.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::restart::Backoff;
use crate::time::{Monotonic, Now};

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) run: Run,
    /// The newest dead instance, and the one before it.
    pub(super) ended: Option<Ended>,
    pub(super) previous: Option<Ended>,
    pub(super) next_number: u32,
    pub(super) backoff: Backoff,
    /// Why the last try to start it came to nothing; shown until a start succeeds.
    pub(super) failure: Option<Failure>,
    /// No start before then: the pause after a failed try.
    pub(super) hold_until: Option<Monotonic>,
    /// When the back-off is next said aloud (event `BackOff`, reason `CrashLoopBackOff`).
    pub(super) refuse_at: Option<Monotonic>,
    /// Killed to be restarted: the next start does not ask for the exit code.
    pub(super) forced: Option<Forced>,
    /// Its image was changed by `apply` while it ran.
    pub(super) changed: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) enum Run {
    #[default]
    Idle,
    Starting {
        number: u32,
    },
    Running(Live),
    Stopping(Live, Stopping),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Live {
    pub(super) number: u32,
    pub(super) since: Now,
    pub(super) runtime_id: String,
    pub(super) image_id: String,
    pub(super) post_start: PostStart,
}

/// Until the hook has returned the container counts as not yet started, and no other container is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PostStart {
    Pending,
    Failed,
    Done,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) number: u32,
    pub(super) since: Now,
    pub(super) finished: Now,
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) message: Option<String>,
    pub(super) runtime_id: Option<String>,
    pub(super) image_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) message: String,
}

/// End of the newest instance that was dead *before* the kill: the back-off of the restart is checked against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Forced {
    pub(super) finished_at: Option<Monotonic>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Stopping {
    pub(super) stage: Stage,
    /// When the stage began, and how much grace was left then.
    pub(super) since: Monotonic,
    pub(super) grace: Duration,
    /// Part of a whole pod's end: a sidecar waits for its turn.
    pub(super) ordered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    PreStop,
    /// A sidecar waits until the regular containers and the later sidecars have ended.
    Turn,
    Signalled,
    Killed,
}

impl Slot {
    /// The instance that exists now and has not been seen to end.
    pub(super) fn live(&self) -> Option<&Live> {
        match &self.run {
            Run::Running(live) | Run::Stopping(live, _) => Some(live),
            Run::Idle | Run::Starting { .. } => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.run {
            Run::Running(live) | Run::Stopping(live, _) => Some(live),
            Run::Idle | Run::Starting { .. } => None,
        }
    }

    /// As `live`, once its postStart hook is through: what a status shows as running.
    pub(super) fn shown(&self) -> Option<&Live> {
        self.live().filter(|live| live.post_start == PostStart::Done)
    }

    pub(super) fn is_active(&self) -> bool {
        self.run != Run::Idle
    }

    /// A start is under way: kubelet starts one container after the other.
    pub(super) fn is_starting(&self) -> bool {
        match &self.run {
            Run::Starting { .. } => true,
            Run::Running(live) => live.post_start == PostStart::Pending,
            Run::Idle | Run::Stopping(..) => false,
        }
    }

    pub(super) fn finished_at(&self) -> Option<Monotonic> {
        self.ended.as_ref().map(|ended| ended.finished.monotonic)
    }

    /// Moves the newest dead instance back and puts `ended` in its place.
    pub(super) fn bury(&mut self, ended: Ended) {
        self.previous = self.ended.replace(ended);
        self.run = Run::Idle;
        self.refuse_at = None;
    }
}

impl Stopping {
    pub(super) fn ends_at(&self) -> Monotonic {
        self.since + self.grace
    }
}
