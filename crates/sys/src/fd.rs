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
            // Said each time that a loop finds nothing more.
            Err(Errno::EAGAIN) => return Err(Error::new("recvmsg()", Errno::EAGAIN)),
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

/// First and last number of each stretch that holds none of `keep`.
pub(crate) fn gaps(keep: impl IntoIterator<Item = RawFd>) -> Vec<(u32, u32)> {
    let mut keep: Vec<u32> = keep.into_iter().filter_map(|fd| u32::try_from(fd).ok()).collect();
    keep.sort_unstable();
    let mut gaps = Vec::new();
    let mut first = 0;
    for kept in keep {
        if first < kept {
            gaps.push((first, kept - 1));
        }
        first = kept + 1;
    }
    gaps.push((first, u32::MAX));
    gaps
}

/// Closes everything but `keep`: close_range between the kept numbers, /proc/self/fd where that is refused.
pub fn close_all_except(keep: &[RawFd]) -> Result<()> {
    close_except(keep, close_listed)
}

/// As `close_all_except`, where /proc may be a container's and tell anything: no open number has reached `end`.
pub fn close_all_except_below(keep: &[RawFd], end: RawFd) -> Result<()> {
    close_except(keep, |keep| {
        close_those(0..end, keep);
        Ok(())
    })
}

#[allow(unsafe_code)]
fn close_except(keep: &[RawFd], one_by_one: impl FnOnce(&[RawFd]) -> Result<()>) -> Result<()> {
    for (first, last) in gaps(keep.iter().copied()) {
        // SAFETY: only numbers that nobody in this process will use again are closed: the caller is a child
        // that owns exactly `keep`.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        match check(done, || format!("close_range({first}, {last}, 0)")) {
            Ok(_) => {}
            Err(error) if error.is_refused() => return one_by_one(keep),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the kernel has close_range (5.9); asked of numbers that cannot be open.
#[allow(unsafe_code)]
pub(crate) fn has_close_range() -> bool {
    // SAFETY: no descriptor has this number.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) == 0 }
}

fn close_listed(keep: &[RawFd]) -> Result<()> {
    let listed = std::fs::read_dir("/proc/self/fd").map(|entries| {
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
        numbers.collect::<Vec<_>>()
    });
    // Where there is no /proc, all that there may be.
    let open = match listed {
        Ok(open) => open,
        Err(_) => (0..limit_of_fds() as RawFd).collect(),
    };
    close_those(open, keep);
    Ok(())
}

#[allow(unsafe_code)]
fn close_those(numbers: impl IntoIterator<Item = RawFd>, keep: &[RawFd]) {
    for fd in numbers {
        if !keep.contains(&fd) {
            // SAFETY: as above; a number that is not open answers EBADF.
            unsafe { libc::close(fd) };
        }
    }
}

/// A number that no descriptor of this process has reached.
fn limit_of_fds() -> u32 {
    use nix::sys::resource::{Resource, getrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, u64::from(FDS_MAX)));
    u32::try_from(hard).unwrap_or(FDS_MAX).min(FDS_MAX)
}

/// `fs.nr_open` of an ordinary system.
const FDS_MAX: u32 = 1 << 20;
