//! Netlink: requests with attributes, answers with errors in words. `route` speaks of links, addresses and routes,
//! `nft` of the packet filter. A socket stays in the network namespace in which it was opened.

mod device;
mod message;
pub mod nft;
pub mod route;

use crate::error::{Context, Error, Result};
pub use device::move_device;
use message::{Attributes, Parts, Request};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send};
use nix::sys::time::TimeVal;
use std::os::fd::{AsRawFd, OwnedFd};

/// The kernel answers at once; this is for a kernel in trouble.
const ANSWER_SECONDS_MAX: i64 = 5;
/// The kernel packs a dump into pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;
/// Entries of one dump: more than any host has, so that a loop ends.
const DUMP_ENTRIES_MAX: usize = 1 << 20;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER_BYTES: usize = 16;

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    fn open(protocol: SockProtocol) -> Result<Socket> {
        let call = || format!("socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, {protocol:?})");
        let fd = nix::sys::socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
            .call(call)?;
        let timeout = TimeVal::new(ANSWER_SECONDS_MAX, 0);
        nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)
            .call(|| format!("setsockopt({}, SO_RCVTIMEO)", fd.as_raw_fd()))?;
        explain_errors(&fd);
        Ok(Socket { fd, sequence: 0 })
    }

    /// One request, acknowledged.
    fn ask(&mut self, request: Request) -> Result<()> {
        let name = request.name().to_owned();
        self.send(request, NLM_F_ACK)?;
        loop {
            for answer in self.receive(&name)?.iter() {
                if let Some(error) = self.error_of(answer, &name)? {
                    return error;
                }
            }
        }
    }

    /// One request with one answer: its body, or what went wrong.
    fn get(&mut self, request: Request) -> Result<Vec<u8>> {
        let name = request.name().to_owned();
        self.send(request, 0)?;
        loop {
            for answer in self.receive(&name)?.iter() {
                match self.error_of(answer, &name)? {
                    Some(Err(error)) => return Err(error),
                    Some(Ok(())) => {}
                    None if answer.sequence == self.sequence => return Ok(answer.body.to_vec()),
                    None => {}
                }
            }
        }
    }

    /// Every entry that the kernel has, one body each. A dump that changed meanwhile is made again.
    fn dump(&mut self, make: impl Fn() -> Request) -> Result<Vec<Vec<u8>>> {
        const TRIES: u32 = 20;
        for _ in 0..TRIES {
            if let Some(entries) = self.dump_once(make())? {
                return Ok(entries);
            }
        }
        Err(Error::new(make().name(), Errno::EINTR))
    }

    fn dump_once(&mut self, request: Request) -> Result<Option<Vec<Vec<u8>>>> {
        let name = request.name().to_owned();
        self.send(request, NLM_F_DUMP)?;
        let (mut entries, mut torn) = (Vec::new(), false);
        loop {
            for answer in self.receive(&name)?.iter() {
                if answer.sequence != self.sequence {
                    continue;
                }
                torn |= answer.flags & NLM_F_DUMP_INTR != 0;
                match answer.kind {
                    NLMSG_DONE => return Ok((!torn).then_some(entries)),
                    NLMSG_ERROR => {
                        if let Some(Err(error)) = self.error_of(answer, &name)? {
                            return Err(error);
                        }
                    }
                    _ if entries.len() < DUMP_ENTRIES_MAX => entries.push(answer.body.to_vec()),
                    _ => return Err(Error::new(name, Errno::EOVERFLOW)),
                }
            }
        }
    }

    /// All or nothing (nf_tables): the first error of the batch.
    fn batch(&mut self, begin: Request, requests: Vec<Request>, end: Request) -> Result<()> {
        let mut bytes = begin.finish(NLM_F_REQUEST, self.next());
        let mut names = Vec::new();
        for request in requests {
            let sequence = self.next();
            names.push((sequence, request.name().to_owned()));
            bytes.extend(request.finish(NLM_F_REQUEST | NLM_F_ACK, sequence));
        }
        let whole = format!("{}…{} messages", begin_name(&names), names.len());
        bytes.extend(end.finish(NLM_F_REQUEST, self.next()));
        self.send_bytes(&bytes, &whole)?;
        while !names.is_empty() {
            for answer in self.receive(&whole)?.iter() {
                let place = names.iter().position(|(sequence, _)| *sequence == answer.sequence);
                let name = place.map_or(whole.as_str(), |place| names[place].1.as_str());
                if answer.kind == NLMSG_ERROR {
                    parse_error(answer, name)?;
                }
                if let Some(place) = place {
                    names.remove(place);
                }
            }
        }
        Ok(())
    }

    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn send(&mut self, request: Request, flags: u16) -> Result<()> {
        let name = request.name().to_owned();
        let sequence = self.next();
        let bytes = request.finish(NLM_F_REQUEST | flags, sequence);
        self.send_bytes(&bytes, &name)
    }

    fn send_bytes(&self, bytes: &[u8], name: &str) -> Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => return other.call(|| format!("send({name})")).map(drop),
            }
        }
    }

    fn receive(&self, name: &str) -> Result<Parts> {
        let mut bytes = vec![0; RECEIVE_BYTES];
        loop {
            match recv(self.fd.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                // The receive timeout.
                Err(Errno::EAGAIN) => return Err(Error::new(format!("recv({name})"), Errno::ETIMEDOUT)),
                other => {
                    let length = other.call(|| format!("recv({name})"))?;
                    bytes.truncate(length);
                    return Ok(Parts::new(bytes));
                }
            }
        }
    }

    /// None: not an answer of this kind, or one to an earlier request.
    fn error_of(&self, answer: message::Part<'_>, name: &str) -> Result<Option<Result<()>>> {
        if answer.kind != NLMSG_ERROR || answer.sequence != self.sequence {
            return Ok(None);
        }
        Ok(Some(parse_error(answer, name)))
    }
}

fn begin_name(names: &[(u32, String)]) -> &str {
    names.first().map_or("", |(_, name)| name)
}

/// An NLMSG_ERROR: errno 0 is the acknowledgement. Newer kernels add what they found wrong, in words.
fn parse_error(answer: message::Part<'_>, name: &str) -> Result<()> {
    let code = answer.body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(-libc::EPROTO, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let mut call = name.to_owned();
    if answer.flags & NLM_F_ACK_TLVS != 0 {
        let request = answer.body.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let request = if answer.flags & NLM_F_CAPPED != 0 { HEADER_BYTES } else { request as usize };
        let tail = answer.body.get(4 + message::align(request)..).unwrap_or_default();
        if let Some(text) = Attributes::new(tail).text(NLMSGERR_ATTR_MSG) {
            call = format!("{call} = {text:?}");
        }
    }
    Err(Error::new(call, Errno::from_raw(-code)))
}

/// Asks for errors in words (4.12); older kernels give the number only.
#[allow(unsafe_code)]
fn explain_errors(fd: &OwnedFd) {
    const SOL_NETLINK: libc::c_int = 270;
    const NETLINK_EXT_ACK: libc::c_int = 11;
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one c_int that lives through the call.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_NETLINK,
            NETLINK_EXT_ACK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}
