//! One probe, once, in a given place, before a deadline: exec, tcp, http(s).
//!
//! It knows how a diagnosis is made and how kubelet words its result (kubelet.md §1.4–1.10); it knows nothing of
//! thresholds, periods and restarts. Everything runs on the caller's one thread.
#![forbid(unsafe_code)]

mod dial;
pub mod exec;
mod hook;
mod http;
mod in_container;
mod late;
mod names;
mod port;
mod tcp;
mod url;

use exec::Launcher;
use killick_pod::event::Outcome;
use killick_pod::spec::{Container, Handler};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use hook::hook;
pub use in_container::{Execs, InContainer};
pub use late::{Lateness, STARVED_RUN_MAX};

/// Kubernetes' version as our user agent tells it.
pub const KUBERNETES_VERSION: &str = "1.35";

/// Where a probe is made: everything of the pod that it may touch.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The pod's network namespace; none with `hostNetwork`.
    pub netns: Option<BorrowedFd<'a>>,
    /// Dialled unless the handler names a host. None: the pod's loopback.
    pub pod_ip: Option<IpAddr>,
    /// The container probed: its named ports and literal variables.
    pub container: &'a Container,
    /// Text of the pod's `/etc/hosts` and `/etc/resolv.conf`, for a handler that names a host by name.
    pub hosts: &'a str,
    pub resolv_conf: &'a str,
    /// Starts a command in the container.
    pub launcher: &'a dyn Launcher,
}

impl std::fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("netns", &self.netns).field("pod_ip", &self.pod_ip).finish_non_exhaustive()
    }
}

/// What one run of a handler found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    pub outcome: Outcome,
    /// For `Lateness`: how long the probe's own command waited for a processor. Only known of one that timed out.
    pub waited_runnable: Duration,
}

impl From<Outcome> for Probed {
    fn from(outcome: Outcome) -> Probed {
        Probed { outcome, waited_runnable: Duration::ZERO }
    }
}

/// Runs the handler once. Dropping the future ends whatever was started.
pub async fn probe(handler: &Handler, place: Place<'_>, timeout: Duration) -> Outcome {
    probe_measured(handler, place, timeout).await.outcome
}

/// As `probe`, with what `Lateness` wants to know.
pub async fn probe_measured(handler: &Handler, place: Place<'_>, timeout: Duration) -> Probed {
    match handler {
        Handler::Exec(action) => {
            let args = killick_pod::expand::probe_command(place.container, action);
            exec::probe(args, place.launcher, timeout).await
        }
        Handler::HttpGet(action) => http::probe(action, &place, timeout).await.into(),
        Handler::TcpSocket(action) => tcp::probe(action, &place, timeout).await.into(),
        Handler::Sleep(_) => {
            Outcome::Unknown(format!("missing probe handler for container {}", place.container.name)).into()
        }
    }
}
