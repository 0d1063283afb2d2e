//! Unix sockets that keep message borders and carry descriptors. Knows nothing of what the messages say.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, recvmsg, sendmsg, socket, sockopt,
};

/// Most descriptors that one message may carry.
pub const FDS_MAX: usize = 8;

/// Longest path that fits a `sockaddr_un`; longer ones go through `/proc/self/fd`.
const SOCKET_PATH_MAX: usize = 100;

/// What one `receive` brought.
#[derive(Debug)]
pub struct Received {
    pub len: usize,
    pub fds: Vec<OwnedFd>,
    /// The message or its descriptors did not fit: what is here is not the whole of it.
    pub truncated: bool,
}

/// A listening socket at `path`, non-blocking. The path must be free; its directory decides who may connect.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    with_short_path(path, |address| Ok(bind(fd.as_raw_fd(), address)?))?;
    listen(&fd, Backlog::new(64)?)?;
    Ok(fd)
}

/// A blocking connection to the listener at `path`.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    with_short_path(path, |address| Ok(connect(fd.as_raw_fd(), address)?))?;
    Ok(fd)
}

/// The next connection, non-blocking; `WouldBlock` when there is none.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    Ok(own(raw))
}

/// The effective uid of the process that connected, as the kernel noted it then.
pub fn peer_uid(connection: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(getsockopt(&connection, sockopt::PeerCredentials)?.uid())
}

/// Sends one message whole, or nothing.
pub fn send(connection: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        connection.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_EOR,
        None,
    )?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Takes one message. `len` 0 without descriptors: the other side has gone.
pub fn receive(connection: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let received = receive_once(connection, buffer)?;
    // Linux looks at the queue first and at the shutdown after: a message sent just before the close can still be there
    // when an end has been told (as in `fd::receive_message`).
    if received.len == 0 && received.fds.is_empty() { receive_once(connection, buffer) } else { Ok(received) }
}

fn receive_once(connection: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            fds.extend(raw.into_iter().map(own));
        }
    }
    let truncated = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    Ok(Received { len: message.bytes, fds, truncated })
}

fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us and nothing else in the process knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Calls `f` with an address for `path`, by way of its directory's descriptor when the path itself is too long.
fn with_short_path<T>(path: &Path, f: impl FnOnce(&UnixAddr) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return f(&UnixAddr::new(path)?);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = nix::fcntl::open(
        directory,
        nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )?;
    let short = Path::new("/proc/self/fd").join(directory.as_fd().as_raw_fd().to_string()).join(name);
    f(&UnixAddr::new(&short)?)
}
