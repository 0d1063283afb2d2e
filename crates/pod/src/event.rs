//! The words between the machine and the world: `Event` in, `Action` out, and the records that people read.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{Pod, ProbeKind};

/// Index into the pod's containers: init containers first (`Init(i)`), then regular ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContainerId {
    Init(usize),
    Regular(usize),
}

/// One run of one container; also its restart count and the number of its log file (`<attempt>.log`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    pub container: ContainerId,
    pub number: u32,
}

/// What happened. Every action ends in exactly one event; one for an old attempt is dropped by the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The pod was admitted: the machine's first event.
    Begin,
    /// Answers `CreateSandbox`.
    SandboxReady {
        attempt: u32,
        ip: Option<IpAddr>,
    },
    SandboxFailed {
        attempt: u32,
        message: String,
    },
    /// Pause died without having been asked to. When exits of containers wait at the same moment, this comes first:
    /// otherwise the machine starts containers in a sandbox that is gone.
    SandboxLost {
        attempt: u32,
    },
    /// Answers `StopSandbox`: pause is gone, network and mounts are taken down.
    SandboxStopped {
        attempt: u32,
    },
    /// Answers `MountVolumes`.
    VolumesReady,
    VolumesFailed {
        volume: String,
        message: String,
    },
    /// Answers `Start`: execve has happened.
    Started {
        attempt: Attempt,
        runtime_id: String,
        image_id: String,
    },
    StartFailed {
        attempt: Attempt,
        failure: StartFailure,
    },
    /// The first process ended *and* the rest of the container's cgroup is gone. Comes for every started attempt.
    Exited {
        attempt: Attempt,
        exit: ExitStatus,
    },
    /// Answers `Probe`.
    Probed {
        attempt: Attempt,
        kind: ProbeKind,
        outcome: Outcome,
    },
    /// Answers `RunHook`.
    /// `Err` holds the whole text that a status shows (`Exec lifecycle hook ([…]) for Container "web" in Pod …`).
    HookDone {
        attempt: Attempt,
        hook: Hook,
        result: Result<(), String>,
    },
    /// `killick apply` of a changed manifest that `apply::compare` allowed. A container with a new image is restarted.
    Updated {
        pod: Box<Pod>,
    },
    /// `killick delete`. A later one can only shorten the grace.
    StopRequested {
        grace: Duration,
        force: bool,
    },
    /// Answers `Remove`: the machine is finished, the supervisor ends.
    Removed,
    /// The time of `next_deadline()` has come.
    Deadline,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StartFailure {
    /// Policy Never and the image is not here.
    ImageNeverPull,
    /// The image is not here and could not be pulled (in standalone mode: there is nothing to pull from).
    ImagePull {
        message: String,
    },
    /// `couldn't parse image name "X": invalid reference format`
    InvalidImageName {
        message: String,
    },
    /// env, secret, configmap, runAsNonRoot, subPath …
    CreateContainerConfig {
        message: String,
    },
    CreateContainer {
        message: String,
    },
    /// The runtime could not start it: terminated with `exit_code` (128, 127, 126) and reason `StartError`.
    Run {
        message: String,
        exit_code: i32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0–255; a death by signal is 128 + signal.
    pub code: i32,
    pub oom_killed: bool,
    /// The code is not known (crash of shim and keep): `ContainerStatusUnknown`, 137.
    pub lost: bool,
    /// Termination message, already read and cut by policy.
    pub message: Option<String>,
}

/// What one probe found. `Unknown` changes nothing and is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Success,
    /// Success with something to say (a redirect that was not followed): event `ProbeWarning`.
    Warning(String),
    Failure(String),
    Unknown(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hook {
    PostStart,
    PreStop,
}

/// What the supervisor is to do. Each ends in exactly one event, also when it panics or runs out of time, except
/// those marked *no answer*.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Action {
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        attempt: u32,
    },
    MountVolumes,
    /// Find the image, make the container, start it. Answer: `Started` or `StartFailed`.
    Start {
        attempt: Attempt,
    },
    Probe {
        attempt: Attempt,
        kind: ProbeKind,
    },
    RunHook {
        attempt: Attempt,
        hook: Hook,
        timeout: Option<Duration>,
    },
    /// Send the stop signal to the container's first process. *No answer*; `Exited` comes when it ends.
    Signal {
        attempt: Attempt,
    },
    /// SIGKILL everything in the container's cgroup. *No answer*; `Exited` comes when it ends.
    Kill {
        attempt: Attempt,
    },
    /// Write an event for people. *No answer*.
    Record(Record),
    /// Take everything of the pod down and remove its directories. Answer: `Removed`.
    Remove,
}

/// An event as people see it (`describe`, `get events`); see kubelet.md §4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub warning: bool,
    pub reason: String,
    pub message: String,
    /// `spec.containers{web}`, `spec.initContainers{x}`; empty when the whole pod is meant.
    pub field_path: String,
    /// `kubelet`, or `default-scheduler` for `Scheduled`.
    pub component: String,
}
