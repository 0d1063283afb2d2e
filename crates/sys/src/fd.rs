//! Descriptors: made with O_CLOEXEC, owned once, described by what they are open on, passed over sockets.

use crate::error::{Context, Error, Result, check};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Descriptors that one message may carry (SCM_MAX_FD is 253): a worker returns one for each mount of a container.
pub const FDS_PER_MESSAGE_MAX: usize = 64;

/// (read end, write end)
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).call(|| "pipe2(O_CLOEXEC)".into())
}

/// Two ends that keep message boundaries and pass descriptors; a closed peer reads as an empty message.
pub fn seqpacket_pair() -> Result<(OwnedFd, OwnedFd)> {
    pair(SockType::SeqPacket, "SOCK_SEQPACKET")
}

pub fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    pair(SockType::Stream, "SOCK_STREAM")
}

fn pair(kind: SockType, name: &str) -> Result<(OwnedFd, OwnedFd)> {
    nix::sys::socket::socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
        .call(|| format!("socketpair(AF_UNIX, {name}|SOCK_CLOEXEC)"))
}

/// What a socket delivered. No bytes and no descriptors: the peer has closed.
#[derive(Debug, Default)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
    /// Who sent it, as the kernel says, in our PID namespace; where the socket was told to ask (`ask_for_senders`).
    pub sender: Option<i32>,
}

impl Message {
    pub fn is_end(&self) -> bool {
        self.bytes.is_empty() && self.fds.is_empty()
    }
}

/// One message with descriptors; SIGPIPE is not raised.
pub fn send_message(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let sent = nix::sys::socket::sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Err(Errno::EINTR) => continue,
            other => {
                return other
                    .call(|| format!("sendmsg({}, {} bytes, {} fds)", describe(socket), bytes.len(), fds.len()));
            }
        }
    }
}

/// The next message, at most `max` bytes of it; an end is told only when no message is left. EAGAIN on a non-blocking socket is an error like any other.
/// Received descriptors have O_CLOEXEC. A message that was cut is refused (EMSGSIZE), its descriptors closed.
pub fn receive_message(socket: BorrowedFd<'_>, max: usize) -> Result<Message> {
    let message = receive_once(socket, max)?;
    // Linux looks at the queue of a SOCK_SEQPACKET first and at the shutdown after: what was sent in between, just
    // before the close, is still there when an end has been told. Nothing comes after it, so a second look is sure.
    if message.is_end() { receive_once(socket, max) } else { Ok(message) }
}

fn receive_once(socket: BorrowedFd<'_>, max: usize) -> Result<Message> {
    let mut bytes = vec![0; max];
    let mut space = nix::cmsg_space!([RawFd; FDS_PER_MESSAGE_MAX], nix::sys::socket::UnixCredentials);
    let describe_call = || format!("recvmsg({}, {max} bytes)", describe(socket));
    loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = nix::sys::socket::recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        );
        let received = match received {
            Err(Errno::EINTR) => continue,
            other => other.call(describe_call)?,
        };
        let (mut fds, mut sender) = (Vec::new(), None);
        for control in received.cmsgs().call(describe_call)? {
            match control {
                ControlMessageOwned::ScmRights(raw) => fds.extend(raw.into_iter().map(own)),
                ControlMessageOwned::ScmCredentials(who) => sender = Some(who.pid()),
                _ => {}
            }
        }
        let (length, flags) = (received.bytes, received.flags);
        if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Err(Error::new(describe_call(), Errno::EMSGSIZE));
        }
        bytes.truncate(length);
        return Ok(Message { bytes, fds, sender });
    }
}

/// Takes a descriptor that the kernel has just made for us.
#[allow(unsafe_code)]
pub(crate) fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: callers pass a number that a system call returned a moment ago and that nobody else has seen.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// From now on the kernel tells with each message who sent it.
pub fn ask_for_senders(socket: BorrowedFd<'_>) -> Result<()> {
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::PassCred, &true)
        .call(|| format!("setsockopt({}, SO_PASSCRED, 1)", describe(socket)))
}

pub fn set_nonblocking(fd: BorrowedFd<'_>, yes: bool) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let name = || format!("fcntl({}, F_SETFL, O_NONBLOCK={yes})", describe(fd));
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).call(name)?);
    flags.set(OFlag::O_NONBLOCK, yes);
    fcntl(fd, FcntlArg::F_SETFL(flags)).call(name).map(drop)
}

pub fn set_cloexec(fd: BorrowedFd<'_>, yes: bool) -> Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let flag = if yes { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flag)).call(|| format!("fcntl({}, F_SETFD, {flag:?})", describe(fd))).map(drop)
}

/// `7</proc/812/ns/net>`, or `7` when /proc does not tell.
pub fn describe(fd: impl AsFd) -> String {
    describe_raw(fd.as_fd().as_raw_fd())
}

pub(crate) fn describe_raw(fd: RawFd) -> String {
    if fd == libc::AT_FDCWD {
        return "AT_FDCWD".into();
    }
    match std::fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(target) => format!("{fd}<{}>", target.display()),
        Err(_) => fd.to_string(),
    }
}

/// Closes everything but `keep`: close_range between the kept numbers, /proc/self/fd where that is refused.
#[allow(unsafe_code)]
pub fn close_all_except(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter(|fd| **fd >= 0).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 0u32;
    for limit in keep.iter().copied().map(Some).chain([None]) {
        let last = match limit {
            Some(0) => None,
            Some(kept) => Some(kept - 1),
            None => Some(u32::MAX),
        };
        if let Some(last) = last
            && first <= last
        {
            // SAFETY: only numbers that nobody in this process will use again are closed: the caller is a child
            // that owns exactly `keep`.
            let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            match check(done, || format!("close_range({first}, {last}, 0)")) {
                Ok(_) => {}
                Err(error) if error.is_refused() => return close_listed(&keep),
                Err(error) => return Err(error),
            }
        }
        first = limit.map_or(u32::MAX, |kept| kept + 1);
    }
    Ok(())
}

#[allow(unsafe_code)]
fn close_listed(keep: &[u32]) -> Result<()> {
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        numbers.collect::<Vec<_>>()
    });
    // Where there is no /proc, all that there may be.
    let open = match listed {
        Ok(open) => open,
        Err(_) => (0..limit_of_fds()).collect(),
    };
    for fd in open {
        if keep.binary_search(&fd).is_err() {
            // SAFETY: as above; the directory's own descriptor is already closed, its number answers EBADF.
            unsafe { libc::close(fd as RawFd) };
        }
    }
    Ok(())
}

/// A program in memory that nobody can change any more: to be run without a path.
pub fn sealed_memfd(name: &str, content: &[u8]) -> Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // MFD_EXEC (6.3): without it some systems make memfds that cannot be run.
    let executable = flags | MFdFlags::from_bits_retain(0x10);
    let fd = memfd_create(name, executable)
        .or_else(|_| memfd_create(name, flags))
        .call(|| format!("memfd_create({name:?}, MFD_CLOEXEC|MFD_ALLOW_SEALING)"))?;
    let mut file = std::fs::File::from(fd);
    std::io::Write::write_all(&mut file, content).call(|| format!("write(memfd {name:?}, {} bytes)", content.len()))?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).call(|| format!("fcntl(memfd {name:?}, F_ADD_SEALS)"))?;
    // While somebody has it open for writing, execve says ETXTBSY: read-only by another open, and the first closed.
    crate::path::reopen(file.as_fd(), nix::fcntl::OFlag::O_RDONLY)
}

/// A number that no descriptor of this process has reached.
fn limit_of_fds() -> u32 {
    use nix::sys::resource::{Resource, getrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, u64::from(FDS_MAX)));
    u32::try_from(hard).unwrap_or(FDS_MAX).min(FDS_MAX)
}

/// `fs.nr_open` of an ordinary system.
const FDS_MAX: u32 = 1 << 20;
