//! What the tasks say to the one loop. The loop alone changes the pod's state.

use std::rc::Rc;

use killick_pod::event::{Attempt, Event, ExitStatus, Record, StartFailure};
use killick_pod_dir::control::Response;
use killick_volume::Prepared;
use tokio::sync::oneshot;

use crate::live::{Live, LiveSandbox};

/// Messages that may wait; a task that has more to say waits too.
pub const INBOX_MAX: usize = 256;

#[derive(Debug)]
pub enum Message {
    /// An answer that needs nothing else to be done.
    Event(Event),
    /// An event for people that the machine cannot know of.
    Note(Record),
    SandboxMade {
        sandbox: Rc<LiveSandbox>,
    },
    SandboxEnded {
        attempt: u32,
    },
    SandboxStopped {
        attempt: u32,
    },
    VolumesReady {
        prepared: Vec<Prepared>,
    },
    Started {
        live: Rc<Live>,
        image_id: String,
    },
    StartFailed {
        attempt: Attempt,
        failure: StartFailure,
    },
    Exited {
        attempt: Attempt,
        exit: ExitStatus,
    },
    Removed,
    Delete {
        grace_seconds: Option<i64>,
        force: bool,
        answer: oneshot::Sender<Response>,
    },
    Update {
        staged: String,
        answer: oneshot::Sender<Response>,
    },
    /// The running container of this name, for an exec.
    Find {
        container: String,
        answer: oneshot::Sender<Result<Rc<Live>, Response>>,
    },
}
