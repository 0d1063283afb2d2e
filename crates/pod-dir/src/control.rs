//! The words on `control.sock`: one request, its answers, one message a packet, descriptors beside it.
//!
//! ```text
//! client                              shim
//! Ping                            ->  Pong
//! Delete                          ->  Accepted            (gone when the pod's directory is gone)
//! UpdatePod { staged }            ->  Accepted
//! Exec (+ stdin, stdout, stderr)  ->  Started             then, when the command ended, Exited
//! Exec { tty } (no descriptors)   ->  Started (+ master)  then Exited
//! anything                        ->  Refused
//! ```
//! A client that hangs up during an exec leaves the command alone. The window size of a terminal needs no message:
//! the client holds the master and sets it there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use killick_sys::seqpacket;
pub use killick_sys::tty::WindowSize;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub const VERSION: u32 = 1;
/// Largest message; below the kernel's default for one packet on a Unix socket.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;
/// Within this time the shim must answer anything but an exec's end.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Connections that may wait to be served.
pub const CONNECTIONS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Ping,
    /// `grace_seconds` None: the pod's own. A later one can only shorten the grace.
    Delete {
        grace_seconds: Option<i64>,
        force: bool,
    },
    /// Run a command in a running container. Descriptors: stdin (when `stdin`), stdout, stderr, all pipes or
    /// socketpairs; none with `tty`.
    Exec {
        container: String,
        args: Vec<String>,
        stdin: bool,
        tty: Option<Tty>,
    },
    /// The client has put the new manifest beside `pod.json` under this name ([`crate::PodDir::stage_pod`]).
    UpdatePod {
        staged: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tty {
    pub size: Option<WindowSize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Pong {
        version: u32,
        pid: u32,
    },
    Accepted,
    /// The command runs; with a terminal its master comes along.
    Started,
    /// 0–255; a death by signal is 128 + signal.
    Exited {
        code: i32,
    },
    Refused {
        reason: Refusal,
        message: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The message or its descriptors are not as they must be.
    BadRequest,
    /// No such container, or it does not run.
    NotRunning,
    /// The command could not be started: the message says why, as the runtime words it.
    CannotStart,
    /// The pod is being deleted, or too much is going on.
    Busy,
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    #[error("control socket: no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("control socket: the shim closed the connection without an answer")]
    Closed,
    #[error("control socket: a message that makes no sense: {0}")]
    Garbled(String),
    #[error("control socket: a message of {0} bytes is too long")]
    TooLong(usize),
}

/// The shim's end: bound at `path`, non-blocking.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Replaces a socket that a dead shim left there: whoever calls this holds the pod's lock.
    pub fn bind(path: &Path) -> io::Result<Listener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        seqpacket::listen_at(path).map(Listener)
    }

    /// The next connection (non-blocking), from root only; `WouldBlock` when there is none.
    pub fn accept(&self) -> io::Result<Connection> {
        let fd = seqpacket::accept(self.0.as_fd())?;
        if seqpacket::peer_uid(fd.as_fd())? != 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Connection(fd))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// One conversation. On the shim's side non-blocking (`WouldBlock` comes as [`ControlError::Io`]).
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Connection {
    pub fn connect(path: &Path) -> io::Result<Connection> {
        seqpacket::connect_to(path).map(Connection)
    }

    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let bytes = serde_json::to_vec(message).map_err(|error| ControlError::Garbled(error.to_string()))?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(ControlError::TooLong(bytes.len()));
        }
        Ok(seqpacket::send(self.0.as_fd(), &bytes, fds)?)
    }

    /// The next message, or `None` when the other side has hung up.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ControlError> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let received = seqpacket::receive(self.0.as_fd(), &mut buffer)?;
        if received.truncated {
            return Err(ControlError::TooLong(received.len));
        }
        if received.len == 0 {
            return Ok(None);
        }
        let message = serde_json::from_slice(&buffer[..received.len])
            .map_err(|error| ControlError::Garbled(error.to_string()))?;
        Ok(Some((message, received.fds)))
    }

    /// Waits for the next message at most `patience`.
    pub fn receive_within<T: DeserializeOwned>(&self, patience: Duration) -> Result<(T, Vec<OwnedFd>), ControlError> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) => return Err(ControlError::Late(patience)),
                Ok(_) => return self.receive()?.ok_or(ControlError::Closed),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(ControlError::Io(errno.into())),
            }
        }
    }
}

/// One request, one answer.
pub fn call(path: &Path, request: &Request) -> Result<Response, ControlError> {
    let connection = Connection::connect(path)?;
    connection.send(request, &[])?;
    Ok(connection.receive_within(ANSWER_DEADLINE)?.0)
}

const PIPEFS_MAGIC: i64 = 0x5049_5045;
const SOCKFS_MAGIC: i64 = 0x534f_434b;

/// Whether a container may have this descriptor: an anonymous pipe or one end of a socketpair. Anything that has a
/// name on the host (a file, a directory, a terminal, a fifo, a bound socket) could be reopened or walked up from.
pub fn may_enter_a_container(fd: BorrowedFd<'_>) -> bool {
    let Ok(filesystem) = nix::sys::statfs::fstatfs(fd) else { return false };
    match filesystem.filesystem_type().0 {
        PIPEFS_MAGIC => true,
        SOCKFS_MAGIC => is_socketpair(fd),
        _ => false,
    }
}

fn is_socketpair(fd: BorrowedFd<'_>) -> bool {
    use nix::sys::socket::{UnixAddr, getpeername, getsockname};
    let unnamed = |address: nix::Result<UnixAddr>| {
        address.is_ok_and(|address| address.path().is_none() && address.as_abstract().is_none())
    };
    unnamed(getsockname(fd.as_raw_fd())) && unnamed(getpeername(fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_request_and_its_descriptors_arrive_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        for directory in [scratch.path(), &deep] {
            let path = directory.join("control.sock");
            let listener = Listener::bind(&path).unwrap();
            assert!(listener.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
            let client = Connection::connect(&path).unwrap();
            let server = listener.accept().unwrap();
            assert!(
                matches!(server.receive::<Request>(), Err(ControlError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock)
            );
            let (reader, writer) = nix::unistd::pipe().unwrap();
            let request = Request::Exec {
                container: "web".into(),
                args: vec!["rm".into(), "/a b".into()],
                stdin: false,
                tty: Some(Tty { size: Some(WindowSize { rows: 24, columns: 80 }) }),
            };
            client.send(&request, &[reader.as_fd(), writer.as_fd()]).unwrap();
            let (received, fds) = server.receive::<Request>().unwrap().unwrap();
            assert_eq!(received, request);
            assert_eq!(fds.len(), 2);
            assert!(may_enter_a_container(fds[0].as_fd()));
            server.send(&Response::Exited { code: 3 }, &[]).unwrap();
            let (answer, _) = client.receive_within::<Response>(Duration::from_secs(5)).unwrap();
            assert_eq!(answer, Response::Exited { code: 3 });
            drop(client);
            assert!(server.receive::<Request>().unwrap().is_none());
            // A second shim takes the path over.
            drop(listener);
            Listener::bind(&path).unwrap();
        }
    }

    #[test]
    fn the_largest_message_fits_a_packet_and_a_larger_one_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("control.sock");
        let listener = Listener::bind(&path).unwrap();
        let client = Connection::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        let request = |size: usize| Request::UpdatePod { staged: "x".repeat(size) };
        client.send(&request(MESSAGE_BYTES_MAX - 100), &[]).unwrap();
        assert_eq!(server.receive::<Request>().unwrap().unwrap().0, request(MESSAGE_BYTES_MAX - 100));
        assert!(matches!(client.send(&request(MESSAGE_BYTES_MAX), &[]), Err(ControlError::TooLong(_))));
    }

    #[test]
    fn only_pipes_and_socketpairs_may_enter_a_container() {
        let scratch = tempfile::tempdir().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        assert!(may_enter_a_container(reader.as_fd()) && may_enter_a_container(writer.as_fd()));
        let (left, _right) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(may_enter_a_container(left.as_fd()));
        let file = File::create(scratch.path().join("file")).unwrap();
        assert!(!may_enter_a_container(file.as_fd()));
        assert!(!may_enter_a_container(File::open(scratch.path()).unwrap().as_fd()));
        assert!(!may_enter_a_container(File::open("/dev/null").unwrap().as_fd()));
        let fifo = scratch.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let fifo = File::options().read(true).write(true).open(&fifo).unwrap();
        assert!(!may_enter_a_container(fifo.as_fd()));
        let path = scratch.path().join("socket");
        let bound = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(!may_enter_a_container(bound.as_fd()));
        let connected = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(!may_enter_a_container(connected.as_fd()));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!may_enter_a_container(tcp.as_fd()));
    }
}
