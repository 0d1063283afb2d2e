//! A network device moves to another network namespace and keeps its addresses (`linux.netDevices`).

use super::message::{Attributes, Request, u32_at};
use super::route::{IFA_ADDRESS, IFA_BROADCAST, IFA_LOCAL, IFLA_IFNAME, IFLA_NET_NS_FD, RouteSocket};
use super::route::{IFF_UP, Link, RTM_GETADDR, RTM_NEWADDR, RTM_SETLINK, link_header};
use super::{NLM_F_CREATE, NLM_F_EXCL};
use crate::error::{Error, Result};
use crate::fd::describe;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// What an address keeps: NODAD, MANAGETEMPADDR and NOPREFIXROUTE. The rest is the kernel's to say.
const IFA_FLAGS_KEPT: u32 = 0x02 | 0x100 | 0x200;
const RT_SCOPE_UNIVERSE: u8 = 0;
const HEADER_BYTES: usize = 8;

/// An address of either family as the kernel has it, without its lifetimes and its label.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    family: u8,
    prefix: u8,
    flags: u32,
    /// `IFA_ADDRESS`, `IFA_LOCAL`, `IFA_BROADCAST` where it has them.
    parts: Vec<(u16, Vec<u8>)>,
}

/// Moves the device `name` of this thread's network namespace to `target`, where it is called `new_name` (a `%d` in it
/// is a number of the kernel's choice), has its global permanent addresses again, and is up.
pub fn move_device(name: &str, target: BorrowedFd<'_>, new_name: &str) -> Result<()> {
    let mut here = RouteSocket::open()?;
    let mut there = RouteSocket::open_in(target)?;
    let device = here.link(name)?.ok_or_else(|| Error::new(format!("RTM_GETLINK({name})"), Errno::ENODEV))?;
    let addresses = here.permanent_addresses(device.index)?;
    let before = there.links()?;
    here.set_down(device.index)?;
    here.send_away(&device, target, new_name)?;
    let moved = match there.link(new_name)?.filter(|_| !new_name.contains('%')) {
        Some(link) => Some(link),
        // The kernel chose the number.
        None => there.links()?.into_iter().find(|link| before.iter().all(|other| other.index != link.index)),
    };
    let moved = moved.ok_or_else(|| Error::new(format!("RTM_GETLINK({new_name})"), Errno::ENODEV))?;
    for address in &addresses {
        there.restore_address(moved.index, address)?;
    }
    there.set_up(moved.index)
}

impl RouteSocket {
    fn set_down(&mut self, link: u32) -> Result<()> {
        let shown = format!("RTM_SETLINK(link {link}, not IFF_UP)");
        self.0.ask(Request::new(RTM_SETLINK, 0, shown, &link_header(link, 0, IFF_UP)))
    }

    fn send_away(&mut self, device: &Link, target: BorrowedFd<'_>, new_name: &str) -> Result<()> {
        let shown = format!("RTM_SETLINK({}, IFLA_NET_NS_FD {}, name {new_name})", device.name, describe(target));
        let request = Request::new(RTM_SETLINK, 0, shown, &link_header(device.index, 0, 0));
        self.0.ask(request.text(IFLA_IFNAME, new_name).u32(IFLA_NET_NS_FD, target.as_raw_fd() as u32))
    }

    fn permanent_addresses(&mut self, link: u32) -> Result<Vec<Kept>> {
        let entries = self.0.dump(|| Request::new(RTM_GETADDR, 0, "RTM_GETADDR(dump)", &[0; HEADER_BYTES]))?;
        Ok(entries.iter().filter(|entry| u32_at(entry, 4) == Some(link)).filter_map(|entry| permanent(entry)).collect())
    }

    fn restore_address(&mut self, link: u32, address: &Kept) -> Result<()> {
        let Kept { family, prefix, flags, parts } = address;
        let mut header = vec![*family, *prefix, 0, RT_SCOPE_UNIVERSE];
        header.extend(link.to_ne_bytes());
        let shown = format!("RTM_NEWADDR(link {link}, family {family}, /{prefix})");
        let mut request = Request::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, shown, &header);
        for (kind, bytes) in parts {
            request = request.attr(*kind, bytes);
        }
        self.0.ask(request.u32(IFA_FLAGS, *flags))
    }
}

fn permanent(entry: &[u8]) -> Option<Kept> {
    let attributes = Attributes::new(entry.get(HEADER_BYTES..)?);
    let (family, prefix, scope) = (*entry.first()?, *entry.get(1)?, *entry.get(3)?);
    let flags = attributes.u32(IFA_FLAGS).unwrap_or(u32::from(*entry.get(2)?));
    if scope != RT_SCOPE_UNIVERSE || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    let part = |kind| attributes.get(kind).map(|bytes| (kind, bytes.to_vec()));
    let parts = [IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST].into_iter().filter_map(part).collect();
    Some(Kept { family, prefix, flags: flags & IFA_FLAGS_KEPT, parts })
}
