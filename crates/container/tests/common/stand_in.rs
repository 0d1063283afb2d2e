//! A stand-in for systemd: a D-Bus peer on a socket, as well or badly behaved as a test wants.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods, reason = "a peer in a thread of the test's")]

use killick_container::systemd::Address;
use killick_container::systemd::wire::{Kind, Message, PREFIX_BYTES, Value};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// What it does with a StartTransientUnit and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As systemd.
    Well,
    /// Takes the connection and never says anything.
    Mute,
    /// Answers nothing after the authentication.
    Silent,
    /// Starts the job and never ends it.
    Endless,
    /// The job ends so.
    Result(&'static str),
    /// Not D-Bus.
    Garbage,
    /// The first half of an answer.
    Half,
    /// An answer that would be 100 MB.
    Huge,
    /// Ends the connection instead of the first answer to StartTransientUnit; the unit is there.
    Lost,
    /// The unit is somebody's.
    Exists,
    /// The unit was left as failed: it goes with ResetFailedUnit.
    Failed,
    /// Somebody else tells the end of the job first, and wrongly.
    Liar,
    /// Nobody is let in.
    Locked,
}

#[derive(Debug, Clone)]
pub struct Manners {
    pub manner: Manner,
    pub version: &'static str,
    /// Properties that it refuses.
    pub unknown: &'static [&'static str],
    /// It is the system bus with systemd behind it.
    pub is_system: bool,
    /// The directory of the unit's cgroup, into which it puts processes.
    pub place: Option<PathBuf>,
}

impl Manners {
    pub fn well() -> Manners {
        Manners { manner: Manner::Well, version: "252.39-1~deb12u2", unknown: &[], is_system: false, place: None }
    }
}

pub type Called = (String, Vec<Value>);

#[derive(Debug)]
pub struct StandIn {
    dir: tempfile::TempDir,
    pub calls: Receiver<Called>,
    is_system: bool,
}

impl StandIn {
    pub fn new(manners: Manners) -> StandIn {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("bus")).unwrap();
        let (sender, calls) = channel();
        let is_system = manners.is_system;
        std::thread::spawn(move || serve(&listener, &manners, usize::MAX, &sender));
        StandIn { dir, calls, is_system }
    }

    pub fn address(&self) -> Address {
        let path = self.dir.path().join("bus");
        if self.is_system { Address::System(path) } else { Address::Private(path) }
    }

    /// The methods called since the last look.
    pub fn members(&self) -> Vec<String> {
        self.calls.try_iter().map(|(member, _)| member).collect()
    }
}

/// So many connections, one after the other.
pub fn serve(listener: &UnixListener, manners: &Manners, connections: usize, calls: &Sender<Called>) {
    let mut peer = Peer { manners, calls, units: Vec::new(), reset: false, lost: false, job: 0 };
    for stream in listener.incoming().flatten().take(connections) {
        // The client's end is no failure of ours.
        let _ = peer.converse(stream);
    }
}

struct Peer<'a> {
    manners: &'a Manners,
    calls: &'a Sender<Called>,
    units: Vec<String>,
    reset: bool,
    lost: bool,
    job: u32,
}

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const US: &str = ":1.1";

impl Peer<'_> {
    fn converse(&mut self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"BEGIN\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            greeting.push(byte[0]);
        }
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        assert_eq!(String::from_utf8_lossy(&greeting), format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n"));
        match self.manners.manner {
            Manner::Mute => return until_closed(&mut stream),
            Manner::Garbage => {
                stream.write_all(b"OK 0123\r\n")?;
                stream.write_all(&[b'#'; 4096])?;
                return until_closed(&mut stream);
            }
            Manner::Locked => {
                stream.write_all(b"REJECTED EXTERNAL\r\n")?;
                return until_closed(&mut stream);
            }
            _ => stream.write_all(b"OK 0123456789abcdef0123456789abcdef\r\n")?,
        }
        loop {
            let mut bytes = vec![0; PREFIX_BYTES];
            stream.read_exact(&mut bytes)?;
            let length = Message::length(bytes.first_chunk().unwrap()).unwrap();
            bytes.resize(length, 0);
            stream.read_exact(&mut bytes[PREFIX_BYTES..])?;
            let call = Message::from_bytes(&bytes).unwrap();
            if !self.answer(&mut stream, &call)? {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, stream: &mut UnixStream, call: &Message) -> std::io::Result<bool> {
        let member = call.member.clone().unwrap_or_default();
        let _ = self.calls.send((member.clone(), call.body.clone()));
        let text = |index: usize| call.body.get(index).and_then(Value::as_text).unwrap_or_default().to_owned();
        match self.manners.manner {
            Manner::Silent => return Ok(true),
            Manner::Half => {
                let whole = reply(call, vec![Value::text("x".repeat(100))]);
                stream.write_all(&whole[..whole.len() / 2])?;
                return Ok(true);
            }
            Manner::Huge => {
                stream.write_all(&[b'l', 2, 0, 1, 0, 0, 0, 6, 1, 0, 0, 0, 0, 0, 0, 0])?;
                return Ok(true);
            }
            _ => {}
        }
        // Something that nobody asked for comes in between, as it does on the private socket.
        stream.write_all(&signal(
            MANAGER,
            "UnitNew",
            vec![Value::text("other.service"), Value::Path("/x".into())],
            US,
        ))?;
        match member.as_str() {
            "Hello" => stream.write_all(&reply(call, vec![Value::text(":1.7")]))?,
            "AddMatch" | "Subscribe" => stream.write_all(&reply(call, Vec::new()))?,
            "Get" => {
                let version = Value::Variant(Box::new(Value::text(self.manners.version)));
                stream.write_all(&reply(call, vec![version]))?;
            }
            "StartTransientUnit" => return self.start(stream, call, &text(0)),
            "SetUnitProperties" => match self.refused(&call.body[2]) {
                Some(name) => stream.write_all(&unknown(call, &name))?,
                None => stream.write_all(&reply(call, Vec::new()))?,
            },
            "StopUnit" => match self.units.iter().position(|unit| *unit == text(0)) {
                Some(at) => {
                    self.units.remove(at);
                    self.job(stream, call, &text(0), "done")?;
                }
                None => {
                    let why = format!("Unit {} not loaded.", text(0));
                    stream.write_all(&error(call, "org.freedesktop.systemd1.NoSuchUnit", &why))?;
                }
            },
            "ResetFailedUnit" => {
                self.reset = true;
                stream.write_all(&reply(call, Vec::new()))?;
            }
            other => {
                let why = format!("Unknown method {other}");
                stream.write_all(&error(call, "org.freedesktop.DBus.Error.UnknownMethod", &why))?;
            }
        }
        Ok(true)
    }

    fn start(&mut self, stream: &mut UnixStream, call: &Message, unit: &str) -> std::io::Result<bool> {
        if let Some(name) = self.refused(&call.body[2]) {
            stream.write_all(&unknown(call, &name))?;
            return Ok(true);
        }
        let is_taken = match self.manners.manner {
            Manner::Exists => true,
            Manner::Failed => !self.reset,
            _ => self.units.iter().any(|known| known == unit),
        };
        if is_taken {
            let why = format!("Unit {unit} already exists.");
            stream.write_all(&error(call, "org.freedesktop.systemd1.UnitExists", &why))?;
            return Ok(true);
        }
        self.units.push(unit.to_owned());
        if let Some(place) = &self.manners.place {
            std::fs::create_dir_all(place).unwrap();
            for pid in pids(&call.body[2]) {
                std::fs::write(place.join("cgroup.procs"), pid.to_string()).unwrap();
            }
        }
        match self.manners.manner {
            Manner::Lost if !self.lost => {
                self.lost = true;
                return Ok(false);
            }
            Manner::Endless => stream.write_all(&reply(call, vec![Value::Path("/job/1".into())]))?,
            Manner::Result(result) => self.job(stream, call, unit, result)?,
            _ => self.job(stream, call, unit, "done")?,
        }
        Ok(true)
    }

    fn job(&mut self, stream: &mut UnixStream, call: &Message, unit: &str, result: &str) -> std::io::Result<()> {
        self.job += 1;
        let path = format!("/org/freedesktop/systemd1/job/{}", self.job);
        stream.write_all(&reply(call, vec![Value::Path(path.clone())]))?;
        let end = |path: &str, result: &str, sender: &str| {
            let body = vec![Value::U32(1), Value::Path(path.to_owned()), Value::text(unit), Value::text(result)];
            signal(MANAGER, "JobRemoved", body, sender)
        };
        stream.write_all(&end("/org/freedesktop/systemd1/job/999", "failed", US))?;
        if self.manners.manner == Manner::Liar {
            stream.write_all(&end(&path, "failed", ":1.666"))?;
        }
        stream.write_all(&end(&path, result, US))
    }

    fn refused(&self, properties: &Value) -> Option<String> {
        let Value::Array { items, .. } = properties else { panic!("{properties:?}") };
        let names = items.iter().map(|item| match item {
            Value::Struct(fields) => fields[0].as_text().unwrap().to_owned(),
            other => panic!("{other:?}"),
        });
        names.into_iter().find(|name| self.manners.unknown.contains(&name.as_str()))
    }
}

fn pids(properties: &Value) -> Vec<u32> {
    let Value::Array { items, .. } = properties else { panic!("{properties:?}") };
    let mut found = Vec::new();
    for item in items {
        if let Value::Struct(fields) = item
            && fields[0].as_text() == Some("PIDs")
            && let Value::Variant(value) = &fields[1]
            && let Value::Array { items, .. } = value.as_ref()
        {
            found.extend(items.iter().filter_map(|pid| if let Value::U32(pid) = pid { Some(*pid) } else { None }));
        }
    }
    found
}

fn until_closed(stream: &mut UnixStream) -> std::io::Result<()> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(drop)
}

fn reply(call: &Message, body: Vec<Value>) -> Vec<u8> {
    let mut message = Message::new(Kind::Return, 1);
    (message.reply_serial, message.sender, message.body) = (Some(call.serial), Some(US.into()), body);
    message.to_bytes().unwrap()
}

fn error(call: &Message, name: &str, text: &str) -> Vec<u8> {
    let mut message = Message::new(Kind::Error, 1);
    (message.reply_serial, message.error_name) = (Some(call.serial), Some(name.into()));
    (message.sender, message.body) = (Some(US.into()), vec![Value::text(text)]);
    message.to_bytes().unwrap()
}

fn unknown(call: &Message, name: &str) -> Vec<u8> {
    let why = format!("Cannot set property {name}, or unknown property.");
    error(call, "org.freedesktop.DBus.Error.PropertyReadOnly", &why)
}

fn signal(interface: &str, member: &str, body: Vec<Value>, sender: &str) -> Vec<u8> {
    let mut message = Message::new(Kind::Signal, 1);
    message.path = Some("/org/freedesktop/systemd1".into());
    (message.interface, message.member) = (Some(interface.into()), Some(member.into()));
    (message.sender, message.body) = (Some(sender.into()), body);
    message.to_bytes().unwrap()
}

/// A stand-in in a process of its own, for a test that must have one thread; it ends after so many connections.
pub fn in_a_worker(socket: &Path, manners: Manners, connections: usize) -> killick_sys::spawn::Worker<()> {
    let listener = UnixListener::bind(socket).unwrap();
    killick_sys::spawn::worker(Duration::from_secs(60), move || {
        let (sender, _calls) = channel();
        serve(&listener, &manners, connections, &sender);
        Ok(())
    })
    .unwrap()
}
