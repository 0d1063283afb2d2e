//! A pod's network: the built-in bridge.
//!
//! Everything here is synchronous and runs in a worker child of the shim (`killick_sys::spawn::worker`) or in a
//! command; the one lock is a file, so several pods may be set up at once.
#![forbid(unsafe_code)]

pub mod files;
mod host;
mod ipam;
mod settings;

use ipam::{Ipam, State};
use killick_sys::netlink::route::{RouteSocket, VethPair};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
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

/// A Linux bridge has 1,024 port numbers, the first of which is no port (BR_MAX_PORTS).
pub const PODS_MAX: usize = 1023;

/// One thing done, to be undone when a later one fails.
#[derive(Debug)]
enum Done {
    Shared,
    Address(Ipv4Addr),
    Link(String),
}

/// Gives the pod whose network namespace is `netns` an address on the bridge, and makes what the first pod needs.
/// What an earlier try for the same pod left is taken down first; a failure undoes all that was done.
/// Not for `hostNetwork`.
pub fn setup(uid: &str, netns: BorrowedFd<'_>, settings: &Settings) -> Result<PodNetwork, String> {
    let ipam = Ipam::lock(settings)?;
    let mut links = RouteSocket::open().map_err(|error| error.to_string())?;
    let mut errors = release(uid, &ipam, &mut links)?;
    let mut done = Vec::new();
    match build(uid, netns, settings, &ipam, &mut links, &mut done) {
        Ok(network) => Ok(network),
        Err(error) => {
            while let Some(step) = done.pop() {
                errors.extend(undo(step, settings, &ipam, &mut links));
            }
            errors.insert(0, error);
            Err(errors.join("; then, taking it back: "))
        }
    }
}

fn build(
    uid: &str,
    netns: BorrowedFd<'_>,
    settings: &Settings,
    ipam: &Ipam,
    links: &mut RouteSocket,
    done: &mut Vec<Done>,
) -> Result<PodNetwork, String> {
    let text = |error: killick_sys::error::Error| error.to_string();
    let pods = ipam.given()?.len();
    if pods >= PODS_MAX {
        return Err(format!(
            "bridge {} has {PODS_MAX} pods, as many as a Linux bridge takes; delete one first",
            settings.bridge
        ));
    }
    let mut state = ipam.state().unwrap_or_else(|| State::new(settings));
    done.push(Done::Shared);
    let bridge = host::ensure(ipam, &mut state, settings, links)?;
    let ip = ipam.give(uid, &mut state)?;
    done.push(Done::Address(ip));
    ipam.write_state(&state)?;
    let mut pod = RouteSocket::open_in(netns).map_err(text)?;
    let (host_link, mac) = (link_name(uid), host::mac_of(ip));
    links
        .add_veth(&VethPair {
            name: &host_link,
            master: bridge.index,
            mtu: bridge.mtu,
            peer_name: POD_LINK,
            peer_mac: mac,
            peer_netns: netns,
        })
        .map_err(host::without_driver)?;
    done.push(Done::Link(host_link.clone()));
    for name in ["lo", POD_LINK] {
        let link = pod.link(name).map_err(text)?.ok_or_else(|| format!("the pod has no link {name}"))?;
        if name == POD_LINK {
            pod.add_address(link.index, ip, settings.subnet.prefix()).map_err(text)?;
        }
        pod.set_up(link.index).map_err(text)?;
    }
    let gateway = settings.subnet.gateway();
    pod.add_default_route(gateway).map_err(text)?;
    Ok(PodNetwork {
        ip: IpAddr::V4(ip),
        prefix: settings.subnet.prefix(),
        gateway: IpAddr::V4(gateway),
        mac: mac.to_string(),
        host_link,
        warnings: state.warnings,
    })
}

fn undo(step: Done, settings: &Settings, ipam: &Ipam, links: &mut RouteSocket) -> Vec<String> {
    match step {
        Done::Link(name) => links.delete_link(&name).err().map(|error| error.to_string()).into_iter().collect(),
        Done::Address(ip) => ipam.take_back(ip).err().into_iter().collect(),
        Done::Shared => remove_shared_if_last(settings, ipam, links),
    }
}

/// Brings up `lo` in a network namespace that gets nothing else.
pub fn loopback_only(netns: BorrowedFd<'_>) -> Result<(), String> {
    let text = |error: killick_sys::error::Error| error.to_string();
    let mut pod = RouteSocket::open_in(netns).map_err(text)?;
    let lo = pod.link("lo").map_err(text)?.ok_or("the namespace has no link lo")?;
    pod.set_up(lo.index).map_err(text)
}

/// Takes down what `setup` made; with the last pod also the bridge, the rules and forwarding. What is gone already is
/// no error; an error does not stop the rest.
pub fn teardown(uid: &str, settings: &Settings) -> Vec<String> {
    tear_down(settings, |owner| owner == uid)
}

/// Takes down what belongs to pods that are gone, after a crash. `alive` is asked while the lock is held.
pub fn garbage(settings: &Settings, alive: impl Fn(&str) -> bool) -> Vec<String> {
    tear_down(settings, |owner| !alive(owner))
}

fn tear_down(settings: &Settings, gone: impl Fn(&str) -> bool) -> Vec<String> {
    if !settings.ipam.exists() {
        return Vec::new();
    }
    let (ipam, mut links) = match (Ipam::lock(settings), RouteSocket::open()) {
        (Ok(ipam), Ok(links)) => (ipam, links),
        (Err(error), _) => return vec![error],
        (_, Err(error)) => return vec![error.to_string()],
    };
    let given = match ipam.given() {
        Ok(given) => given,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for (ip, owner) in given.into_iter().filter(|(_, owner)| gone(owner)) {
        errors.extend(release_one(ip, &owner, &ipam, &mut links));
    }
    errors.extend(remove_shared_if_last(settings, &ipam, &mut links));
    errors
}

/// What an earlier try for this pod left.
fn release(uid: &str, ipam: &Ipam, links: &mut RouteSocket) -> Result<Vec<String>, String> {
    let mine = ipam.given()?.into_iter().filter(|(_, owner)| owner == uid || owner.is_empty());
    Ok(mine.flat_map(|(ip, owner)| release_one(ip, &owner, ipam, links)).collect())
}

/// The address is free only when the link is gone.
fn release_one(ip: Ipv4Addr, owner: &str, ipam: &Ipam, links: &mut RouteSocket) -> Option<String> {
    if owner.is_empty() {
        return ipam.take_back(ip).err();
    }
    match links.delete_link(&link_name(owner)) {
        Ok(_) => ipam.take_back(ip).err(),
        Err(error) => Some(error.to_string()),
    }
}

fn remove_shared_if_last(settings: &Settings, ipam: &Ipam, links: &mut RouteSocket) -> Vec<String> {
    match ipam.given() {
        Ok(given) if given.is_empty() => host::remove(ipam, settings, links),
        Ok(_) => Vec::new(),
        Err(error) => vec![error],
    }
}

/// The host's end: `vk` and 48 bits of the uid's FNV-1a, which any later command finds again.
fn link_name(uid: &str) -> String {
    let hash = uid
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("vk{:012x}", hash >> 16)
}

/// The node's address: that of the default route's link.
pub fn node_ip() -> Result<Option<IpAddr>, String> {
    let mut links = RouteSocket::open().map_err(|error| error.to_string())?;
    let Some(route) = host::default_route(&mut links)? else { return Ok(None) };
    if let Some(source) = route.source {
        return Ok(Some(IpAddr::V4(source)));
    }
    let addresses = links.addresses().map_err(|error| error.to_string())?;
    let on_link = addresses.into_iter().filter(|address| Some(address.link) == route.link);
    Ok(on_link.min_by_key(|address| address.scope).map(|address| IpAddr::V4(address.ip)))
}
