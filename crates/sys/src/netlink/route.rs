//! Links, addresses and routes (rtnetlink).

use super::message::{Attributes, Nest, Request, u32_at};
use super::{NLM_F_CREATE, NLM_F_EXCL, Socket};
use crate::error::Result;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
pub(super) const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;

const AF_INET: u8 = libc::AF_INET as u8;
pub(super) const IFF_UP: u32 = 1;
const LINK_HEADER_BYTES: usize = 16;
const ADDRESS_HEADER_BYTES: usize = 8;
const ROUTE_HEADER_BYTES: usize = 12;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, …; none for a plain device.
    pub kind: Option<String>,
    pub alias: Option<String>,
    pub mtu: u32,
    pub master: Option<u32>,
    pub up: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: Ipv4Addr,
    pub prefix: u8,
    /// 0 is global.
    pub scope: u8,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
    pub link: Option<u32>,
    pub source: Option<Ipv4Addr>,
    pub metric: u32,
}

/// Two ends: ours is a port of `master`, the other is born in `peer_netns`.
#[derive(Debug)]
pub struct VethPair<'a> {
    pub name: &'a str,
    pub master: u32,
    pub mtu: Option<u32>,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_netns: BorrowedFd<'a>,
}

/// A conversation about the links of one network namespace.
#[derive(Debug)]
pub struct RouteSocket(pub(super) Socket);

impl RouteSocket {
    /// Of this thread's network namespace.
    pub fn open() -> Result<RouteSocket> {
        Socket::open(SockProtocol::NetlinkRoute).map(RouteSocket)
    }

    pub fn open_in(netns: BorrowedFd<'_>) -> Result<RouteSocket> {
        crate::ns::with_netns(netns, RouteSocket::open)?
    }

    pub fn links(&mut self) -> Result<Vec<Link>> {
        let entries = self.0.dump(|| Request::new(RTM_GETLINK, 0, "RTM_GETLINK(dump)", &link_header(0, 0, 0)))?;
        Ok(entries.iter().filter_map(|entry| parse_link(entry)).collect())
    }

    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let request =
            Request::new(RTM_GETLINK, 0, format!("RTM_GETLINK({name})"), &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.0.get(request) {
            Ok(entry) => Ok(parse_link(&entry)),
            Err(error) if error.errno() == Errno::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// IPv4 only.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let header = [AF_INET, 0, 0, 0, 0, 0, 0, 0];
        let entries = self.0.dump(|| Request::new(RTM_GETADDR, 0, "RTM_GETADDR(AF_INET, dump)", &header))?;
        Ok(entries.iter().filter_map(|entry| parse_address(entry)).collect())
    }

    /// IPv4 unicast routes of the main table.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut header = [0; ROUTE_HEADER_BYTES];
        header[0] = AF_INET;
        let entries = self.0.dump(|| Request::new(RTM_GETROUTE, 0, "RTM_GETROUTE(AF_INET, dump)", &header))?;
        Ok(entries.iter().filter_map(|entry| parse_route(entry)).collect())
    }

    /// The bridge keeps `mac` whatever its ports are.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: Option<u32>) -> Result<()> {
        let name_shown = format!("RTM_NEWLINK({name}, bridge, {mac})");
        let mut request = new_link(name_shown).text(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &mac.0);
        if let Some(mtu) = mtu {
            request = request.u32(IFLA_MTU, mtu);
        }
        self.0.ask(request.nest(IFLA_LINKINFO, Nest::default().text(IFLA_INFO_KIND, "bridge")))
    }

    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<()> {
        let netns = crate::fd::describe(pair.peer_netns);
        let shown = format!("RTM_NEWLINK({}, veth, peer {} in {netns})", pair.name, pair.peer_name);
        let mut request = new_link(shown).text(IFLA_IFNAME, pair.name).u32(IFLA_MASTER, pair.master);
        let mut peer = Nest::after(&link_header(0, 0, 0))
            .text(IFLA_IFNAME, pair.peer_name)
            .attr(IFLA_ADDRESS, &pair.peer_mac.0)
            .u32(IFLA_NET_NS_FD, pair.peer_netns.as_raw_fd() as u32);
        if let Some(mtu) = pair.mtu {
            request = request.u32(IFLA_MTU, mtu);
            peer = peer.u32(IFLA_MTU, mtu);
        }
        let data = Nest::default().nest(VETH_INFO_PEER, peer);
        self.0.ask(request.nest(IFLA_LINKINFO, Nest::default().text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, data)))
    }

    pub fn set_up(&mut self, link: u32) -> Result<()> {
        let header = link_header(link, IFF_UP, IFF_UP);
        self.0.ask(Request::new(RTM_SETLINK, 0, format!("RTM_SETLINK(link {link}, IFF_UP)"), &header))
    }

    /// A text for people (`ip -d link`), kept by the kernel.
    pub fn set_alias(&mut self, link: u32, alias: &str) -> Result<()> {
        let shown = format!("RTM_SETLINK(link {link}, alias {alias:?})");
        self.0.ask(Request::new(RTM_SETLINK, 0, shown, &link_header(link, 0, 0)).attr(IFLA_IFALIAS, alias.as_bytes()))
    }

    pub fn add_address(&mut self, link: u32, ip: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut header = vec![AF_INET, prefix, 0, RT_SCOPE_UNIVERSE];
        header.extend(link.to_ne_bytes());
        let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let broadcast = Ipv4Addr::from(u32::from(ip) | hosts);
        let shown = format!("RTM_NEWADDR({ip}/{prefix}, link {link})");
        self.0.ask(
            Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, shown, &header)
                .attr(IFA_LOCAL, &ip.octets())
                .attr(IFA_ADDRESS, &ip.octets())
                .attr(IFA_BROADCAST, &broadcast.octets()),
        )
    }

    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> Result<()> {
        let header = [AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0];
        let shown = format!("RTM_NEWROUTE(default via {gateway})");
        self.0.ask(
            Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, shown, &header).attr(RTA_GATEWAY, &gateway.octets()),
        )
    }

    /// False when there is none of that name.
    pub fn delete_link(&mut self, name: &str) -> Result<bool> {
        let request =
            Request::new(RTM_DELLINK, 0, format!("RTM_DELLINK({name})"), &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.0.ask(request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Errno::ENODEV => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn new_link(shown: String) -> Request {
    Request::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, shown, &link_header(0, IFF_UP, IFF_UP))
}

/// struct ifinfomsg
pub(super) fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(change.to_ne_bytes());
    header
}

fn parse_link(entry: &[u8]) -> Option<Link> {
    let attributes = Attributes::new(entry.get(LINK_HEADER_BYTES..)?);
    Some(Link {
        index: u32_at(entry, 4)?,
        name: attributes.text(IFLA_IFNAME)?,
        kind: attributes.nest(IFLA_LINKINFO).and_then(|info| info.text(IFLA_INFO_KIND)),
        alias: attributes.text(IFLA_IFALIAS),
        mtu: attributes.u32(IFLA_MTU).unwrap_or(0),
        master: attributes.u32(IFLA_MASTER),
        up: u32_at(entry, 8)? & IFF_UP != 0,
    })
}

fn parse_address(entry: &[u8]) -> Option<Address> {
    let attributes = Attributes::new(entry.get(ADDRESS_HEADER_BYTES..)?);
    // IFA_ADDRESS is the other end of a point-to-point link.
    let ip = ip_of(attributes, IFA_LOCAL).or_else(|| ip_of(attributes, IFA_ADDRESS))?;
    Some(Address { link: u32_at(entry, 4)?, ip, prefix: *entry.get(1)?, scope: *entry.get(3)? })
}

fn parse_route(entry: &[u8]) -> Option<Route> {
    let attributes = Attributes::new(entry.get(ROUTE_HEADER_BYTES..)?);
    let table = attributes.u32(RTA_TABLE).unwrap_or(u32::from(*entry.get(4)?));
    if table != u32::from(RT_TABLE_MAIN) || *entry.get(7)? != RTN_UNICAST || *entry.first()? != AF_INET {
        return None;
    }
    Some(Route {
        destination: ip_of(attributes, RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED),
        prefix: *entry.get(1)?,
        gateway: ip_of(attributes, RTA_GATEWAY),
        link: attributes.u32(RTA_OIF),
        source: ip_of(attributes, RTA_PREFSRC),
        metric: attributes.u32(RTA_PRIORITY).unwrap_or(0),
    })
}

fn ip_of(attributes: Attributes<'_>, kind: u16) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = attributes.get(kind)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}
