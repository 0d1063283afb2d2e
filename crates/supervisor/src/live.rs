//! What runs: the pod's sandbox and its containers, shared between the loop and the tasks that watch them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use killick_container::cgroup::Cgroup;
use killick_container::{Container, Sandbox};
use killick_network::PodNetwork;
use killick_pod::event::Attempt;
use killick_prober::Execs;

use crate::state::SandboxState;

#[derive(Debug)]
pub struct LiveSandbox {
    pub attempt: u32,
    pub sandbox: Sandbox,
    /// The pod's network namespace, for probes; None with `hostNetwork`.
    pub netns: Option<OwnedFd>,
    pub network: Option<PodNetwork>,
    /// Texts of the pod's `/etc/hosts` and `/etc/resolv.conf`, for probes that name a host.
    pub hosts: String,
    pub resolv_conf: String,
}

impl LiveSandbox {
    pub fn state(&self) -> SandboxState {
        SandboxState { attempt: self.attempt, record: self.sandbox.record(), network: self.network.clone() }
    }
}

pub fn netns_of(sandbox: &Sandbox) -> Result<Option<OwnedFd>, String> {
    match sandbox.is_host_network() {
        true => Ok(None),
        false => sandbox.network_namespace().map(Some).map_err(|error| error.to_string()),
    }
}

/// The pod's address: its own, or the node's with `hostNetwork`.
pub fn pod_ip(sandbox: &LiveSandbox, node: Option<IpAddr>) -> Option<IpAddr> {
    match &sandbox.network {
        Some(network) => Some(network.ip),
        None if sandbox.sandbox.is_host_network() => node,
        None => None,
    }
}

/// One run of one container.
#[derive(Debug)]
pub struct Live {
    pub attempt: Attempt,
    pub container: Container,
    pub cgroup: Cgroup,
    /// Where probes' commands and other execs run.
    pub execs: Execs,
    pub stop_signal: i32,
}
