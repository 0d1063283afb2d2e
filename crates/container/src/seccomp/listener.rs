//! Who answers for `SCMP_ACT_NOTIFY`: the process behind `listenerPath` gets the filter's listener and is told which
//! process of which container it is (runtime-spec, "The Container Process State").

use killick_sys::launch::{Launch, LaunchError, Progress, stream_connect};
use killick_sys::seccomp::Filter;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Where the listener of each process of a container goes, and with which words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listener {
    path: PathBuf,
    metadata: Option<String>,
    /// The container's state without status and pid.
    state: Map<String, Value>,
}

/// Which process it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// The container's first, while it is made.
    First,
    /// One more, beside the first.
    Exec { first: i32 },
}

impl Listener {
    /// None for a filter that asks nobody: then `listenerPath` is ignored. A relative path is below the bundle.
    pub(crate) fn of(
        spec: &Spec,
        filter: Option<&Filter>,
        bundle: &Path,
        state: &Map<String, Value>,
    ) -> Result<Option<Self>, LaunchError> {
        if !filter.is_some_and(Filter::listens) {
            return Ok(None);
        }
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let path = profile.and_then(|profile| profile.listener_path().clone());
        let path = path.filter(|path| !path.as_os_str().is_empty());
        let path = path.ok_or_else(|| LaunchError::Unsupported("linux.seccomp.listenerPath: is not set".into()))?;
        let metadata = profile.and_then(|profile| profile.listener_metadata().clone());
        Ok(Some(Self { path: bundle.join(path), metadata, state: state.clone() }))
    }

    fn words(&self, pid: i32, about: About) -> Value {
        let mut state = self.state.clone();
        let (status, first) = match about {
            About::First => ("creating", pid),
            About::Exec { first } => ("running", first),
        };
        state.insert("status".into(), status.into());
        state.insert("pid".into(), first.into());
        let version = state.get("ociVersion").cloned().unwrap_or_default();
        let mut words = json!({"ociVersion": version, "fds": ["seccompFd"], "pid": pid, "state": state});
        if let Some(metadata) = &self.metadata {
            words["metadata"] = metadata.as_str().into();
        }
        words
    }

    fn hand_over(&self, listener: OwnedFd, pid: i32, about: About) -> Result<(), String> {
        let failed =
            |error: killick_sys::error::Error| format!("linux.seccomp.listenerPath {}: {error}", self.path.display());
        let socket = stream_connect(&self.path).map_err(failed)?;
        let words = self.words(pid, about).to_string();
        let sent = killick_sys::fd::send_message(socket.as_fd(), words.as_bytes(), &[listener.as_fd()]);
        match sent.map_err(failed)? {
            all if all == words.len() => Ok(()),
            some => Err(format!("linux.seccomp.listenerPath {}: took {some} bytes only", self.path.display())),
        }
    }
}

/// To be called after each look at a birth: what its child has loaded goes to whoever answers, and the child goes on.
/// A failure gives the birth up.
pub(crate) fn attend(launch: &mut Launch, listener: Option<&Listener>, about: About) {
    let Some(fd) = launch.take_listener() else { return };
    let pid = launch.process().map_or(0, |process| process.pid());
    let handed = match listener {
        Some(listener) => listener.hand_over(fd, pid, about).map_err(LaunchError::Unsupported),
        None => Err(LaunchError::Unsupported("linux.seccomp.listenerPath: is not set".into())),
    };
    if let Err(error) = handed.and_then(|()| launch.listener_is_known()) {
        launch.give_up(error);
    }
}

/// `Launch::progress` with that.
pub(crate) fn progress(launch: &mut Launch, listener: Option<&Listener>, about: About) -> Progress {
    launch.progress();
    attend(launch, listener, about);
    launch.progress()
}
