//! What all pods share: the bridge with the gateway's address, masquerade, forwarding. Made with the first pod, looked
//! after with each, given back with the last.

use crate::ipam::{Ipam, State};
use crate::settings::Settings;
use killick_sys::netlink::nft::NftSocket;
use killick_sys::netlink::route::{Link, Mac, Route, RouteSocket};
use nix::errno::Errno;
use std::net::Ipv4Addr;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// Links narrower than this narrow the pods' too.
const ETHERNET_MTU: u32 = 1500;

/// The bridge as pods' links need it.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    /// None: the kernel's default.
    pub(crate) mtu: Option<u32>,
}

/// Makes sure that everything shared is there. On failure the caller gives back what was made (`remove`), if no other
/// pod uses it.
pub(crate) fn ensure(
    ipam: &Ipam,
    state: &mut State,
    settings: &Settings,
    links: &mut RouteSocket,
) -> Result<Bridge, String> {
    if state.bridge != settings.bridge || state.subnet != settings.subnet {
        return Err(format!(
            "pods are running on bridge {} with {}, the settings say {} with {}; delete those pods first",
            state.bridge, state.subnet, settings.bridge, settings.subnet
        ));
    }
    state.warnings.clear();
    let bridge = ensure_bridge(ipam, state, settings, links)?;
    if let Err(error) = ensure_masquerade(settings) {
        state.warnings.push(format!("pods reach this host and each other only: no masquerade: {error}"));
    }
    match ensure_forwarding(ipam, state) {
        Ok(()) => {}
        Err(error) => state.warnings.push(format!("pods reach this host and each other only: {error}")),
    }
    if let Err(error) = open_dropping_chains(settings) {
        state.warnings.push(format!("the host's packet filter drops what pods send beyond this host: {error}"));
    }
    ipam.write_state(state)?;
    Ok(bridge)
}

fn ensure_bridge(ipam: &Ipam, state: &State, settings: &Settings, links: &mut RouteSocket) -> Result<Bridge, String> {
    let name = &settings.bridge;
    let mine = alias(settings);
    let existing = links.link(name).map_err(|error| error.to_string())?;
    let known = ipam.state().is_some();
    if let Some(link) = &existing {
        // Between its birth and its alias only the state file knows the bridge.
        let ours = link.kind.as_deref() == Some("bridge") && (link.alias.as_deref() == Some(&mine) || known);
        if !ours {
            return Err(format!(
                "a link {name} exists and is not ours ({}); remove it (`ip link del {name}`) or set another \"bridge\"",
                link.alias.as_deref().or(link.kind.as_deref()).unwrap_or("no bridge")
            ));
        }
    }
    let mtu = uplink_mtu(links).filter(|mtu| *mtu < ETHERNET_MTU);
    let link = match existing {
        Some(link) => link,
        None => {
            refuse_overlap(settings, links)?;
            // Written first: after a crash the next one knows whose bridge this is.
            ipam.write_state(state)?;
            let mac = mac_of(settings.subnet.gateway());
            links.add_bridge(name, mac, mtu).map_err(without_driver)?;
            found(links.link(name), name)?
        }
    };
    let gateway = settings.subnet.gateway();
    let addresses = links.addresses().map_err(|error| error.to_string())?;
    if !addresses.iter().any(|address| address.link == link.index && address.ip == gateway) {
        links.add_address(link.index, gateway, settings.subnet.prefix()).map_err(|error| error.to_string())?;
    }
    if link.alias.as_deref() != Some(&mine) {
        links.set_alias(link.index, &mine).map_err(|error| error.to_string())?;
    }
    if !link.up {
        links.set_up(link.index).map_err(|error| error.to_string())?;
    }
    Ok(Bridge { index: link.index, mtu })
}

/// A kind of link that the kernel does not know needs a module, which it could not load by itself.
pub(crate) fn without_driver(error: killick_sys::error::Error) -> String {
    match error.errno() {
        Errno::EOPNOTSUPP => format!("{error}; this kernel lacks it: load the modules \"bridge\" and \"veth\""),
        _ => error.to_string(),
    }
}

fn found(link: killick_sys::error::Result<Option<Link>>, name: &str) -> Result<Link, String> {
    link.map_err(|error| error.to_string())?.ok_or_else(|| format!("link {name} vanished"))
}

/// Marks the bridge as this installation's.
fn alias(settings: &Settings) -> String {
    // The kernel keeps 255 bytes.
    let text: String = format!("killick {}", settings.ipam.display());
    text.chars().take(200).collect()
}

fn refuse_overlap(settings: &Settings, links: &mut RouteSocket) -> Result<(), String> {
    let all = links.links().map_err(|error| error.to_string())?;
    for route in links.routes().map_err(|error| error.to_string())? {
        if route.prefix > 0 && settings.subnet.overlaps(route.destination, route.prefix) {
            return Err(format!(
                "the pods' subnet {} overlaps the route {}; set another \"subnet\"",
                settings.subnet,
                show(&route, &all)
            ));
        }
    }
    Ok(())
}

/// As `ip route` shows it.
fn show(route: &Route, links: &[Link]) -> String {
    let mut text = format!("{}/{}", route.destination, route.prefix);
    if let Some(gateway) = route.gateway {
        text.push_str(&format!(" via {gateway}"));
    }
    if let Some(link) = links.iter().find(|link| Some(link.index) == route.link) {
        text.push_str(&format!(" dev {}", link.name));
    }
    text
}

pub(crate) fn default_route(links: &mut RouteSocket) -> Result<Option<Route>, String> {
    let routes = links.routes().map_err(|error| error.to_string())?;
    Ok(routes.into_iter().filter(|route| route.prefix == 0 && route.link.is_some()).min_by_key(|route| route.metric))
}

fn uplink_mtu(links: &mut RouteSocket) -> Option<u32> {
    let uplink = default_route(links).ok()??.link?;
    links.links().ok()?.into_iter().find(|link| link.index == uplink).map(|link| link.mtu)
}

/// Locally administered and made from the address, so that a neighbour's cache stays right when an address comes back.
pub(crate) fn mac_of(ip: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ip.octets();
    Mac([0x0a, 0x58, a, b, c, d])
}

/// `killick` for the usual bridge; another bridge in the same network namespace has its own table.
fn table(settings: &Settings) -> &str {
    if settings.bridge == crate::BRIDGE { "killick" } else { &settings.bridge }
}

fn ensure_masquerade(settings: &Settings) -> Result<(), String> {
    let mut nft = NftSocket::open().map_err(|error| error.to_string())?;
    // A firewall's restart flushes everybody's tables.
    if nft.has_table(table(settings)).map_err(|error| error.to_string())? {
        return Ok(());
    }
    let subnet = settings.subnet;
    nft.put_masquerade(table(settings), subnet.network(), subnet.mask()).map_err(|error| error.to_string())
}

fn mark(settings: &Settings) -> String {
    format!("killick {}", settings.bridge)
}

/// An accept in a table of ours would not help: a drop in any chain is final.
fn open_dropping_chains(settings: &Settings) -> Result<(), String> {
    // Without nf_tables there is no such chain; masquerade has said so already.
    let Ok(mut nft) = NftSocket::open() else { return Ok(()) };
    for chain in nft.dropping_chains().unwrap_or_default() {
        let opened = nft.is_opened(&chain, &mark(settings)).map_err(|error| error.to_string())?;
        if !opened {
            nft.open_chain(&chain, &settings.bridge, &mark(settings)).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn ensure_forwarding(ipam: &Ipam, state: &mut State) -> Result<(), String> {
    let now = std::fs::read_to_string(IP_FORWARD).map_err(|error| format!("{IP_FORWARD}: {error}"))?;
    if now.trim() != "0" {
        return Ok(());
    }
    // Remembered first: after a crash it is still given back.
    state.forwarding_was_off = true;
    ipam.write_state(state)?;
    std::fs::write(IP_FORWARD, "1\n").map_err(|error| format!("cannot turn on {IP_FORWARD}: {error}"))
}

/// Gives everything shared back. Errors do not stop it.
pub(crate) fn remove(ipam: &Ipam, settings: &Settings, links: &mut RouteSocket) -> Vec<String> {
    let mut errors = Vec::new();
    let Some(state) = ipam.state() else {
        errors.extend(ipam.remove_state().err());
        return errors;
    };
    let made = Settings { bridge: state.bridge.clone(), subnet: state.subnet, ipam: settings.ipam.clone() };
    // A kernel without nf_tables has no rules of ours.
    if let Ok(mut nft) = NftSocket::open() {
        if nft.has_table(table(&made)).unwrap_or(false)
            && let Err(error) = nft.delete_table(table(&made))
        {
            errors.push(error.to_string());
        }
        for chain in nft.dropping_chains().unwrap_or_default() {
            if let Err(error) = nft.close_chain(&chain, &mark(&made)) {
                errors.push(error.to_string());
            }
        }
    }
    if state.forwarding_was_off
        && let Err(error) = std::fs::write(IP_FORWARD, "0\n")
    {
        errors.push(format!("cannot turn off {IP_FORWARD} again: {error}"));
    }
    match links.link(&made.bridge) {
        Ok(Some(link)) if link.kind.as_deref() == Some("bridge") => {
            if let Err(error) = links.delete_link(&made.bridge) {
                errors.push(error.to_string());
            }
        }
        Ok(_) => {}
        Err(error) => errors.push(error.to_string()),
    }
    if errors.is_empty() {
        errors.extend(ipam.remove_state().err());
    }
    errors
}
