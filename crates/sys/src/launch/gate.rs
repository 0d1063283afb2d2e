//! A process that is made by one command and started by another: it waits on a listening socket, and whoever says GO
//! hears from it what became of execve.

use super::error::LaunchError;
use super::plan::Fd;
use super::run::{Child, FAILED};
use super::spawn::GO;
use crate::error::{Context, Error, Result, check};
use crate::fd;
use crate::spawn::exit_now;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// A socket's name has 107 bytes at most: the directory is named by a descriptor.
fn short(path: &Path) -> Result<(OwnedFd, PathBuf)> {
    use nix::fcntl::{OFlag, open};
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("socket at {}", path.display()), Errno::EINVAL));
    };
    let directory =
        open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
            .call(|| format!("open({}, O_PATH)", directory.display()))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((directory, path))
}

fn unix_socket(kind: SockType) -> Result<OwnedFd> {
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).call(|| "socket(AF_UNIX)".into())
}

/// The socket that a first process will wait on; root's alone.
pub fn gate_listen(path: &Path) -> Result<OwnedFd> {
    let listener = unix_socket(SockType::SeqPacket)?;
    let (_directory, short) = short(path)?;
    let address = UnixAddr::new(&short).call(|| format!("socket at {}", path.display()))?;
    bind(listener.as_raw_fd(), &address).call(|| format!("bind({})", path.display()))?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .call(|| format!("chmod({}, 0600)", path.display()))?;
    let backlog = Backlog::new(4).call(|| "listen(4)".into())?;
    listen(&listener, backlog).call(|| format!("listen({})", path.display()))?;
    Ok(listener)
}

/// ECONNREFUSED: nobody waits there any more.
pub fn gate_connect(path: &Path) -> Result<OwnedFd> {
    connect_to(path, SockType::SeqPacket)
}

/// A stream to a console socket (`--console-socket`), whatever the length of its path.
pub fn stream_connect(path: &Path) -> Result<OwnedFd> {
    connect_to(path, SockType::Stream)
}

fn connect_to(path: &Path, kind: SockType) -> Result<OwnedFd> {
    let socket = unix_socket(kind)?;
    let (_directory, short) = short(path)?;
    let address = UnixAddr::new(&short).call(|| format!("socket at {}", path.display()))?;
    connect(socket.as_raw_fd(), &address).call(|| format!("connect({})", path.display()))?;
    Ok(socket)
}

impl Child<'_> {
    /// Everything is set up and every right is gone. A starter that goes away before its word is forgotten.
    pub(super) fn wait_at_socket(&mut self, listener: Fd) {
        // Whoever made this process must have noted where it is before it can live alone.
        match fd::receive_message(self.channel.as_fd(), GO.len()) {
            Ok(message) if message.bytes == GO => {}
            Ok(_) | Err(_) => exit_now(FAILED),
        }
        loop {
            match accept(self.fd(listener).as_raw_fd()) {
                Ok(starter) => self.channel = starter,
                Err(Errno::EINTR | Errno::ECONNABORTED) => continue,
                Err(_) => exit_now(FAILED),
            }
            if let Ok(message) = fd::receive_message(self.channel.as_fd(), GO.len())
                && message.bytes == GO
            {
                return;
            }
        }
    }

    /// The runtime does its part while this waits; when it gives up, the socket closes.
    pub(super) fn rendezvous(&self, with: Fd) -> Result<(), LaunchError> {
        fd::send_message(self.fd(with), b"here", &[])?;
        let mut heard = fd::receive_message(self.fd(with), GO.len());
        if heard.as_ref().is_err_and(|error| error.errno() == Errno::ECONNRESET) {
            // Closed with our word unread, which is told before what was sent: that is still there.
            heard = fd::receive_message(self.fd(with), GO.len());
        }
        match heard {
            Ok(message) if message.bytes == GO => Ok(()),
            Ok(_) | Err(_) => exit_now(FAILED),
        }
    }
}

#[allow(unsafe_code)]
fn accept(listener: RawFd) -> Result<OwnedFd, Errno> {
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for, so both pointers may be null.
    let accepted = unsafe { libc::accept4(listener, none, none.cast(), libc::SOCK_CLOEXEC) };
    check(accepted.into(), || "accept4()".into()).map(|fd| fd::own(fd as RawFd)).map_err(|error| error.errno())
}
