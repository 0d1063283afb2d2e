//! A connection to systemd: its own socket, or the system bus. No thread, no NSS; every call ends by a deadline.
//!
//! Blocks until then: for a command and for a worker child, never for the shim's loop.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use serde::{Deserialize, Serialize};

use super::wire::{Kind, Message, PREFIX_BYTES, Value, WireError};

/// Where systemd is asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Address {
    /// systemd's own socket (root's alone), else the system bus.
    #[default]
    Host,
    /// A socket that speaks as `/run/systemd/private`.
    Private(PathBuf),
    /// A socket that speaks as the system bus.
    System(PathBuf),
}

const PRIVATE: &str = "/run/systemd/private";
const SYSTEM: [&str; 2] = ["/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"];
/// Signals that came while a reply was awaited; more are of others' jobs.
const SIGNALS_MAX: usize = 1024;
/// A line of the authentication.
const LINE_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    #[error("{what}: {errno:?}")]
    Call { what: String, errno: Errno },
    #[error("systemd did not answer {what} in time")]
    Late { what: String },
    #[error("systemd closed the connection during {what}")]
    Closed { what: String },
    #[error("{what}: {error}")]
    Wire { what: String, error: WireError },
    #[error("{what}: the bus refused us: {line}")]
    Authentication { what: String, line: String },
    /// An answer: the error's D-Bus name and text.
    #[error("{what}: {message} ({name})")]
    Refused { what: String, name: String, message: String },
}

impl BusError {
    /// The connection went, as it does when systemd executes itself anew (`daemon-reexec`).
    pub fn is_disconnect(&self) -> bool {
        match self {
            BusError::Closed { .. } => true,
            BusError::Call { errno, .. } => {
                matches!(errno, Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED | Errno::ENOENT)
            }
            BusError::Late { .. }
            | BusError::Wire { .. }
            | BusError::Authentication { .. }
            | BusError::Refused { .. } => false,
        }
    }
}

/// A method of systemd's to be called.
#[derive(Debug)]
pub struct Call<'a> {
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub body: Vec<Value>,
}

#[derive(Debug)]
pub struct Bus {
    socket: OwnedFd,
    /// Bytes of the next message that are here already.
    incoming: Vec<u8>,
    serial: u32,
    /// On the system bus: systemd's unique name, which the bus alone gives; anybody may send us a signal.
    owner: Option<String>,
    is_system: bool,
    /// `JobRemoved`, in the order of arrival.
    signals: VecDeque<Message>,
}

pub const SYSTEMD: &str = "org.freedesktop.systemd1";
pub const MANAGER: &str = "org.freedesktop.systemd1.Manager";
pub const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const JOB_REMOVED: &str = "JobRemoved";

impl Bus {
    pub fn connect(address: &Address, deadline: Instant) -> Result<Bus, BusError> {
        match address {
            Address::Private(path) => Bus::open(path, false, deadline),
            Address::System(path) => Bus::open(path, true, deadline),
            Address::Host => {
                let mut first = None;
                let candidates = std::iter::once((PRIVATE, false)).chain(SYSTEM.iter().map(|path| (*path, true)));
                for (path, is_system) in candidates {
                    match Bus::open(Path::new(path), is_system, deadline) {
                        Ok(bus) => return Ok(bus),
                        Err(error @ (BusError::Late { .. } | BusError::Wire { .. })) => return Err(error),
                        Err(error) => first = first.or(Some(error)),
                    }
                }
                Err(first.expect("there are candidates"))
            }
        }
    }

    fn open(path: &Path, is_system: bool, deadline: Instant) -> Result<Bus, BusError> {
        let what = format!("connect({})", path.display());
        let failed = |errno| BusError::Call { what: what.clone(), errno };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
        let address = UnixAddr::new(path).map_err(failed)?;
        loop {
            match connect(socket.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(Errno::EINTR) => {}
                // Its queue is full, and a Unix socket that is not connected cannot be polled.
                Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Err(Errno::EAGAIN) => return Err(BusError::Late { what }),
                Err(errno) => return Err(failed(errno)),
            }
        }
        let mut bus = Bus { socket, incoming: Vec::new(), serial: 0, owner: None, is_system, signals: VecDeque::new() };
        bus.authenticate(&what, deadline)?;
        if is_system {
            bus.join_bus(deadline)?;
        }
        Ok(bus)
    }

    /// SASL EXTERNAL: the kernel says who we are, and we say the same. BEGIN goes with it, as sd-bus does: a message
    /// that reaches systemd in one read with a late BEGIN would lie in its buffer until something else comes.
    fn authenticate(&mut self, what: &str, deadline: Instant) -> Result<(), BusError> {
        let uid = nix::unistd::geteuid().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.send(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes(), what, deadline)?;
        let line = self.line(what, deadline)?;
        if !line.starts_with("OK ") && line != "OK" {
            return Err(BusError::Authentication { what: what.to_owned(), line });
        }
        Ok(())
    }

    /// The bus gives us a name, and hands us the ends of systemd's jobs.
    fn join_bus(&mut self, deadline: Instant) -> Result<(), BusError> {
        let own = "org.freedesktop.DBus";
        let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='{JOB_REMOVED}'");
        for (member, body) in [("Hello", Vec::new()), ("AddMatch", vec![Value::Text(rule)])] {
            let call = Call { path: "/org/freedesktop/DBus", interface: own, member, body };
            self.call_at(own, call, deadline)?;
        }
        // systemd sends signals only while somebody has subscribed.
        let subscribe = Call { path: MANAGER_PATH, interface: MANAGER, member: "Subscribe", body: Vec::new() };
        match self.call(subscribe, deadline) {
            Err(BusError::Refused { name, .. }) if name.ends_with("AlreadySubscribed") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Calls a method of systemd and gives what it returns.
    pub fn call(&mut self, call: Call<'_>, deadline: Instant) -> Result<Vec<Value>, BusError> {
        self.call_at(SYSTEMD, call, deadline)
    }

    fn call_at(&mut self, destination: &str, call: Call<'_>, deadline: Instant) -> Result<Vec<Value>, BusError> {
        self.serial += 1;
        let subject = call.body.first().and_then(Value::as_text).filter(|_| destination == SYSTEMD).unwrap_or_default();
        let what = format!("{}({subject})", call.member);
        let mut message = Message::new(Kind::Call, self.serial);
        message.path = Some(call.path.to_owned());
        message.interface = Some(call.interface.to_owned());
        message.member = Some(call.member.to_owned());
        message.destination = Some(destination.to_owned());
        message.body = call.body;
        let bytes = message.to_bytes().map_err(|error| BusError::Wire { what: what.clone(), error })?;
        self.send(&bytes, &what, deadline)?;
        loop {
            let message = self.receive(&what, deadline)?;
            if message.reply_serial != Some(self.serial) {
                self.keep(message);
                continue;
            }
            if destination == SYSTEMD {
                self.owner = message.sender;
            }
            return match message.kind {
                Kind::Return => Ok(message.body),
                Kind::Error => {
                    let text = message.body.first().and_then(Value::as_text).unwrap_or_default().to_owned();
                    let name = message.error_name.unwrap_or_default();
                    Err(BusError::Refused { what, name, message: text })
                }
                Kind::Call | Kind::Signal | Kind::Unknown(_) => continue,
            };
        }
    }

    /// Waits for the end of a job; its result (`done`, `failed`, `canceled`, `timeout`, …).
    pub fn job_result(&mut self, job: &str, what: &str, deadline: Instant) -> Result<String, BusError> {
        loop {
            while let Some(signal) = self.signals.pop_front() {
                let text = |index: usize| signal.body.get(index).and_then(Value::as_text);
                if text(1) == Some(job) {
                    return Ok(text(3).unwrap_or_default().to_owned());
                }
            }
            let message = self.receive(what, deadline)?;
            self.keep(message);
        }
    }

    fn keep(&mut self, message: Message) {
        let is_end_of_job = message.kind == Kind::Signal
            && message.member.as_deref() == Some(JOB_REMOVED)
            && message.interface.as_deref() == Some(MANAGER);
        let is_of_systemd = !self.is_system || (self.owner.is_some() && message.sender == self.owner);
        if is_end_of_job && is_of_systemd {
            if self.signals.len() == SIGNALS_MAX {
                self.signals.pop_front();
            }
            self.signals.push_back(message);
        }
    }

    fn receive(&mut self, what: &str, deadline: Instant) -> Result<Message, BusError> {
        let wire = |error| BusError::Wire { what: what.to_owned(), error };
        loop {
            if let Some(prefix) = self.incoming.first_chunk::<PREFIX_BYTES>() {
                let length = Message::length(prefix).map_err(wire)?;
                if self.incoming.len() >= length {
                    let rest = self.incoming.split_off(length);
                    let bytes = std::mem::replace(&mut self.incoming, rest);
                    return Message::from_bytes(&bytes).map_err(wire);
                }
            }
            self.more(what, deadline)?;
        }
    }

    fn line(&mut self, what: &str, deadline: Instant) -> Result<String, BusError> {
        loop {
            if let Some(end) = self.incoming.windows(2).position(|pair| pair == b"\r\n") {
                let rest = self.incoming.split_off(end + 2);
                let line = std::mem::replace(&mut self.incoming, rest);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.incoming.len() > LINE_BYTES_MAX {
                let error = WireError::TooLong(self.incoming.len() as u64);
                return Err(BusError::Wire { what: what.to_owned(), error });
            }
            self.more(what, deadline)?;
        }
    }

    /// Some more bytes, before the deadline.
    fn more(&mut self, what: &str, deadline: Instant) -> Result<(), BusError> {
        let mut buffer = [0; 16 << 10];
        loop {
            self.wait(PollFlags::POLLIN, what, deadline)?;
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => return Err(BusError::Closed { what: what.to_owned() }),
                Ok(count) => {
                    self.incoming.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(BusError::Call { what: what.to_owned(), errno }),
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], what: &str, deadline: Instant) -> Result<(), BusError> {
        while !bytes.is_empty() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::EAGAIN) => self.wait(PollFlags::POLLOUT, what, deadline)?,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(BusError::Call { what: what.to_owned(), errno }),
            }
        }
        Ok(())
    }

    fn wait(&self, events: PollFlags, what: &str, deadline: Instant) -> Result<(), BusError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(BusError::Late { what: what.to_owned() });
            }
            // A poll of less than a millisecond would be none.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), events)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(BusError::Call { what: what.to_owned(), errno }),
            }
        }
    }
}
