//! A client that speaks the shim's protocol itself, and badly.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use prost::Message;

use super::{Daemon, named};
use crate::world::World;
use crate::{Test, ensure, ensure_eq};

pub fn tests() -> Vec<Test> {
    vec![
        named("containerd_requests_in_wrong_states_get_their_codes", wrong_states),
        named("containerd_frames_that_are_none_hurt_nobody_else", bad_frames),
        named("containerd_many_waits_and_dropped_connections_cost_nothing", many_waits),
    ]
}

const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const INVALID_ARGUMENT: i32 = 3;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const UNIMPLEMENTED: i32 = 12;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// id, and exec_id or bundle: the first two fields of most requests.
#[derive(Clone, PartialEq, Message)]
struct Two {
    #[prost(string, tag = "1")]
    first: String,
    #[prost(string, tag = "2")]
    second: String,
}

#[derive(Clone, PartialEq, Message)]
struct Kill {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(uint32, tag = "3")]
    signal: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Close {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(bool, tag = "3")]
    stdin: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Exec {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
    #[prost(message, optional, tag = "7")]
    spec: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct State {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint32, tag = "3")]
    pid: u32,
    #[prost(int32, tag = "4")]
    status: i32,
}

struct Client {
    stream: UnixStream,
    next: u32,
}

fn frame(stream: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(body);
    bytes
}

impl Client {
    fn connect(socket: &Path) -> Result<Client, String> {
        let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(|error| error.to_string())?;
        Ok(Client { stream, next: 1 })
    }

    fn send(&mut self, service: &str, method: &str, message: &impl Message) -> Result<(), String> {
        let request = Request { service: service.into(), method: method.into(), payload: message.encode_to_vec() }
            .encode_to_vec();
        let bytes = frame(self.next, 1, &request);
        self.next += 2;
        self.stream.write_all(&bytes).map_err(|error| format!("{method}: {error}"))
    }

    fn receive(&mut self) -> Result<(u32, Response), String> {
        let mut header = [0; 10];
        self.stream.read_exact(&mut header).map_err(|error| format!("no answer: {error}"))?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).map_err(|error| format!("no answer: {error}"))?;
        Ok((stream, Response::decode(body.as_slice()).map_err(|error| error.to_string())?))
    }

    /// `Err((code, message))`: what the shim says.
    fn call(&mut self, method: &str, message: &impl Message) -> Result<Vec<u8>, (i32, String)> {
        self.call_of("containerd.task.v2.Task", method, message)
    }

    fn call_of(&mut self, service: &str, method: &str, message: &impl Message) -> Result<Vec<u8>, (i32, String)> {
        self.send(service, method, message).map_err(|error| (-1, error))?;
        let (_, response) = self.receive().map_err(|error| (-1, error))?;
        match response.status.filter(|status| status.code != 0) {
            Some(status) => Err((status.code, status.message)),
            None => Ok(response.payload),
        }
    }
}

fn of(id: &str, exec: &str) -> Two {
    Two { first: id.into(), second: exec.into() }
}

fn refused(result: Result<Vec<u8>, (i32, String)>, code: i32, what: &str) -> Result<(), String> {
    match result {
        Err((found, message)) if found == code && !message.is_empty() => Ok(()),
        Err((found, message)) => Err(format!("{what}: code {found} ({message}), not {code}")),
        Ok(_) => Err(format!("{what}: it succeeded")),
    }
}

fn wrong_states(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "states")?;
    daemon.run_detached("one", "exec sleep 1000")?;
    let mut client = Client::connect(&daemon.shim_socket("default", "one")?)?;
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let state = client.call_of(service, "State", &of("one", "")).map_err(|(_, why)| why)?;
        ensure_eq!(State::decode(state.as_slice()).map_err(|e| e.to_string())?.status, 2);
    }
    refused(client.call_of("no.Such", "State", &of("one", "")), UNIMPLEMENTED, "another service")?;
    refused(client.call("Dance", &of("one", "")), UNIMPLEMENTED, "another method")?;
    refused(client.call("Checkpoint", &of("one", "")), UNIMPLEMENTED, "checkpoint")?;
    for method in [
        "State",
        "Start",
        "Delete",
        "Kill",
        "Wait",
        "Pids",
        "Stats",
        "Pause",
        "Resume",
        "Update",
        "Exec",
        "CloseIO",
        "ResizePty",
    ] {
        refused(client.call(method, &of("other", "")), NOT_FOUND, &format!("{method} of an unknown container"))?;
    }
    for method in ["State", "Start", "Delete", "Kill", "Wait", "CloseIO", "ResizePty"] {
        refused(client.call(method, &of("one", "none")), NOT_FOUND, &format!("{method} of an unknown exec"))?;
    }
    client.call("Connect", &of("other", "")).map_err(|(_, why)| format!("Connect never fails: {why}"))?;
    refused(client.call("Create", &of("one", "/nowhere")), ALREADY_EXISTS, "a second one of its name")?;
    refused(client.call("Create", &of("../x", "/nowhere")), INVALID_ARGUMENT, "an id that is a path")?;
    refused(client.call("Create", &of("two", "nowhere")), INVALID_ARGUMENT, "a relative bundle")?;
    refused(client.call("Create", &of("two", "/nowhere")), NOT_FOUND, "a bundle that is not there")?;
    refused(client.call("Start", &of("one", "")), FAILED_PRECONDITION, "start of what runs")?;
    refused(client.call("Delete", &of("one", "")), FAILED_PRECONDITION, "delete of what runs")?;
    refused(client.call("Resume", &of("one", "")), FAILED_PRECONDITION, "resume of what is not paused")?;

    let process = br#"{"args":["sleep","1000"],"cwd":"/","user":{"uid":0,"gid":0},"env":["PATH=/bin"]}"#;
    let spec = Some(Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value: process.to_vec(),
    });
    let exec = |exec_id: &str, spec: Option<Any>| Exec { id: "one".into(), exec_id: exec_id.into(), spec };
    refused(client.call("Exec", &exec("e", None)), INVALID_ARGUMENT, "an exec without a process")?;
    let bad = Some(Any { type_url: String::new(), value: b"{\"args\":7}".to_vec() });
    refused(client.call("Exec", &exec("e", bad)), INVALID_ARGUMENT, "an exec of nonsense")?;
    client.call("Exec", &exec("e", spec.clone())).map_err(|(_, why)| why)?;
    refused(client.call("Exec", &exec("e", spec)), ALREADY_EXISTS, "a second exec of its name")?;
    let kill = |exec_id: &str, signal: u32| Kill { id: "one".into(), exec_id: exec_id.into(), signal };
    refused(client.call("Kill", &kill("e", 9)), FAILED_PRECONDITION, "a signal for an exec that does not run")?;
    refused(client.call("Kill", &kill("", 99)), INVALID_ARGUMENT, "a signal that is none")?;
    client.call("Start", &of("one", "e")).map_err(|(_, why)| why)?;
    refused(client.call("Start", &of("one", "e")), FAILED_PRECONDITION, "a second start")?;
    client.call("Kill", &kill("e", 9)).map_err(|(_, why)| why)?;
    client.call("Wait", &of("one", "e")).map_err(|(_, why)| why)?;
    refused(client.call("Kill", &kill("e", 9)), NOT_FOUND, "a signal for what has ended")?;
    client.call("Delete", &of("one", "e")).map_err(|(_, why)| why)?;
    refused(client.call("Delete", &of("one", "e")), NOT_FOUND, "a second delete")?;
    // One that cannot be started: its waiters are let go, and it can be deleted.
    let none = br#"{"args":["nosuch"],"cwd":"/","user":{"uid":0,"gid":0},"env":["PATH=/bin"]}"#;
    let none = Some(Any { type_url: String::new(), value: none.to_vec() });
    client.call("Exec", &exec("n", none)).map_err(|(_, why)| why)?;
    client.call("CloseIO", &Close { id: "one".into(), exec_id: "n".into(), stdin: true }).map_err(|(_, why)| why)?;
    let mut waiter = Client::connect(&daemon.shim_socket("default", "one")?)?;
    waiter.send("containerd.task.v2.Task", "Wait", &of("one", "n"))?;
    let why = client.call("Start", &of("one", "n")).err().ok_or("what is not there was started")?.1;
    ensure!(why.contains("executable file not found in $PATH"), "{why}");
    waiter.receive()?;
    client.call("Delete", &of("one", "n")).map_err(|(_, why)| why)?;
    // After all that it still lives.
    let state = client.call("State", &of("one", "")).map_err(|(_, why)| why)?;
    ensure_eq!(State::decode(state.as_slice()).map_err(|e| e.to_string())?.status, 2);
    Ok(())
}

fn bad_frames(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "frames")?;
    daemon.run_detached("one", "exec sleep 1000")?;
    let socket = daemon.shim_socket("default", "one")?;
    let mut good = Client::connect(&socket)?;
    // Half a header, half a body, and nothing more.
    let mut half = Client::connect(&socket)?;
    half.stream.write_all(&[0, 0, 0]).map_err(|error| error.to_string())?;
    let mut body = Client::connect(&socket)?;
    body.stream.write_all(&frame(1, 1, &[0; 100])[..50]).map_err(|error| error.to_string())?;
    good.call("State", &of("one", "")).map_err(|(_, why)| format!("beside half frames: {why}"))?;
    drop((half, body));
    // No protobuf, an even stream, a stream used twice, a message that is too long: each is answered, the next one too.
    let mut odd = Client::connect(&socket)?;
    let answer = |client: &mut Client, bytes: &[u8]| -> Result<i32, String> {
        client.stream.write_all(bytes).map_err(|error| error.to_string())?;
        Ok(client.receive()?.1.status.map_or(0, |status| status.code))
    };
    ensure_eq!(answer(&mut odd, &frame(1, 1, &[0xff; 20]))?, INVALID_ARGUMENT);
    ensure_eq!(answer(&mut odd, &frame(2, 1, &[]))?, INVALID_ARGUMENT);
    ensure_eq!(answer(&mut odd, &frame(1, 1, &[]))?, INVALID_ARGUMENT);
    ensure_eq!(answer(&mut odd, &frame(3, 1, &vec![0; (4 << 20) + 1]))?, RESOURCE_EXHAUSTED);
    odd.next = 5;
    odd.call("State", &of("one", "")).map_err(|(_, why)| format!("after nonsense: {why}"))?;
    // As long as a message may be.
    let mut long = Client::connect(&socket)?;
    let name = "x".repeat((4 << 20) - 200);
    refused(long.call("State", &of(&name, "")), NOT_FOUND, "a very long name").or_else(|why| {
        // The answer repeats the name and is too long itself.
        if why.contains("code 8") { Ok(()) } else { Err(why) }
    })?;
    good.call("State", &of("one", "")).map_err(|(_, why)| why)?;
    Ok(())
}

fn many_waits(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "waits")?;
    daemon.run_detached("one", "exec sleep 1000")?;
    let socket = daemon.shim_socket("default", "one")?;
    let shim = daemon.shim_of("default", "one")?;
    let count = |what: &str| std::fs::read_dir(format!("/proc/{shim}/{what}")).map_or(0, Iterator::count);
    let before = count("fd");
    for _ in 0..3 {
        let mut client = Client::connect(&socket)?;
        for _ in 0..1000 {
            client.send("containerd.task.v2.Task", "Wait", &of("one", ""))?;
        }
        client.call("State", &of("one", "")).map_err(|(_, why)| format!("beside 1,000 waits: {why}"))?;
        ensure_eq!(count("task"), 1, "threads");
    }
    super::until("the connections are gone", 20, || Ok(count("fd") <= before))?;
    // Sixty-four wait, and all of them hear it.
    let mut client = Client::connect(&socket)?;
    for _ in 0..64 {
        client.send("containerd.task.v2.Task", "Wait", &of("one", ""))?;
    }
    let mut other = Client::connect(&socket)?;
    other.call("Kill", &Kill { id: "one".into(), exec_id: String::new(), signal: 9 }).map_err(|(_, why)| why)?;
    for _ in 0..64 {
        let (_, response) = client.receive()?;
        ensure!(response.status.is_none(), "a wait has failed: {:?}", response.status);
    }
    Ok(())
}
