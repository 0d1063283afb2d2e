//! The pod machine: events in, actions out. The one place where a pod's state changes.
//!
//! It must not know how anything is done: no pids, no files, no clock.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::event::{Action, Event};
use crate::spec::Pod;
use crate::status::PodStatus;
use crate::time::{Monotonic, Now};

/// What the machine needs to know about the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub name: String,
    pub ip: Option<IpAddr>,
    pub memory_bytes: u64,
}

/// Everything a machine holds besides its pod and its node, for `state.json`. Opaque; read with suspicion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    status: PodStatus,
}

/// `metadata.deletionTimestamp` and `deletionGracePeriodSeconds`, once deletion was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    pub timestamp: String,
    pub grace_period_seconds: i64,
}

#[derive(Debug, Clone)]
pub struct PodMachine {
    pod: Pod,
    node: NodeInfo,
    state: Snapshot,
}

impl PodMachine {
    /// A pod that has never run. Its first event is `Begin`.
    pub fn new(pod: Pod, node: NodeInfo) -> PodMachine {
        PodMachine { pod, node, state: Snapshot { version: 1, status: PodStatus::default() } }
    }

    /// Takes one event at `now` and says what is to be done, in this order.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        let _ = (now, event);
        Vec::new()
    }

    /// "Wake me then, with `Event::Deadline`."
    pub fn next_deadline(&self) -> Option<Monotonic> {
        None
    }

    pub fn status(&self) -> &PodStatus {
        &self.state.status
    }

    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    pub fn node(&self) -> &NodeInfo {
        &self.node
    }

    pub fn deletion(&self) -> Option<Deletion> {
        None
    }

    /// `Removed` has come: nothing is left and nothing more happens.
    pub fn is_finished(&self) -> bool {
        false
    }

    /// Actions that were given out and not yet answered. After a take-over the supervisor answers each from what it
    /// finds (a container that runs: `Started`) or carries it out again. Probes are not among them: a restored machine
    /// just goes on with the next tick.
    pub fn outstanding(&self) -> Vec<Action> {
        Vec::new()
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.state
    }

    /// The machine of a restarted shim; `Err` says why the snapshot cannot belong to this pod.
    pub fn restore(pod: Pod, node: NodeInfo, snapshot: Snapshot, now: Now) -> Result<PodMachine, String> {
        let _ = now;
        Ok(PodMachine { pod, node, state: snapshot })
    }
}
