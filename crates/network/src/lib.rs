//! A pod's network: the built-in bridge.
//!
//! Everything here is synchronous and runs in a worker child of the shim (`killick_sys::spawn::worker`) or in a
//! command; the one lock is a file, so several pods may be set up at once.
#![forbid(unsafe_code)]

pub mod files;
mod settings;

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

pub use settings::{BRIDGE, SUBNET, Settings, Subnet};

/// The pod's link, as the pod calls it.
pub const POD_LINK: &str = "eth0";

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodNetwork {
    pub ip: IpAddr,
    pub prefix: u8,
    pub gateway: IpAddr,
    pub mac: String,
    /// The host's end of the pair.
    pub host_link: String,
    /// What works less than it should on this host, for an event.
    pub warnings: Vec<String>,
}

/// Gives the pod whose network namespace is `netns` an address on the bridge, and makes what the first pod needs.
/// What an earlier try for the same pod left is taken down first; a failure undoes all that was done.
/// Not for `hostNetwork`.
pub fn setup(uid: &str, netns: BorrowedFd<'_>, settings: &Settings) -> Result<PodNetwork, String> {
    let _ = (uid, netns, settings);
    Err("not yet".into())
}

/// Takes down what `setup` made; with the last pod also the bridge, the rules and forwarding. What is gone already is
/// no error; an error does not stop the rest.
pub fn teardown(uid: &str, settings: &Settings) -> Vec<String> {
    let _ = (uid, settings);
    Vec::new()
}

/// Takes down what belongs to pods that are gone, after a crash. `alive` is asked while the lock is held.
pub fn garbage(settings: &Settings, alive: impl Fn(&str) -> bool) -> Vec<String> {
    let _ = (settings, alive);
    Vec::new()
}

/// The node's address: that of the default route's link.
pub fn node_ip() -> Result<Option<IpAddr>, String> {
    Ok(None)
}
