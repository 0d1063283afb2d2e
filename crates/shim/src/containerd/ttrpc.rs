//! ttrpc: frames of ten bytes of header and a protobuf message on a unix stream socket (containerd/ttrpc, PROTOCOL.md).
//!
//! The server answers each request in a task of its own, so a pending Wait costs no thread and blocks nobody. What a
//! dropped connection still waits for is dropped with it; what changes something runs to its end (`Service::call`).

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::proto::{Request, Response, RpcStatus};

/// PROTOCOL.md: a longer message is discarded and answered with RESOURCE_EXHAUSTED.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
const HEADER_BYTES: usize = 10;
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// Requests of one connection that wait for their answer; the next is refused. 1,000 pending Waits are ordinary.
const IN_FLIGHT_MAX: usize = 4096;
/// Answers of one connection that nobody reads; then the connection's requests wait.
const ANSWERS_MAX: usize = 64;
/// Requests of more than this are read one after another, whoever sends them: a shim's memory is small.
const LARGE_BYTES: usize = 64 << 10;
/// A client that takes nothing for so long is cut off.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// gRPC's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
}

impl Code {
    /// As Go's grpc names it.
    pub fn name(self) -> &'static str {
        match self {
            Code::Unknown => "Unknown",
            Code::InvalidArgument => "InvalidArgument",
            Code::NotFound => "NotFound",
            Code::AlreadyExists => "AlreadyExists",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
        }
    }
}

/// What a call answers when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    pub message: String,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    length: usize,
    stream: u32,
    kind: u8,
}

impl Header {
    fn parse(bytes: [u8; HEADER_BYTES]) -> Header {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = bytes;
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        Header { length, stream: u32::from_be_bytes([s0, s1, s2, s3]), kind }
    }
}

fn frame(stream: u32, kind: u8, message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    message.encode(&mut bytes).expect("a vector grows");
    bytes
}

fn answer(stream: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match result {
        Ok(payload) => Response { status: None, payload },
        Err(Status { code, message }) => Response {
            status: Some(RpcStatus { code: code as i32, message, details: Vec::new() }),
            payload: Vec::new(),
        },
    };
    if HEADER_BYTES + response.encoded_len() > MESSAGE_BYTES_MAX {
        return answer(stream, Err(Status::new(Code::ResourceExhausted, "the answer is longer than a message may be")));
    }
    frame(stream, RESPONSE, &response)
}

/// What stands behind a server.
pub trait Service: 'static {
    /// Answers one call. Dropping the future must leave nothing half done.
    fn call(
        self: Rc<Self>,
        service: String,
        method: String,
        payload: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, Status>>;
}

/// Serves one connection until the other side ends it, or sends what is no ttrpc.
pub async fn serve<S: Service>(stream: UnixStream, service: Rc<S>, large: Rc<Semaphore>) -> io::Result<()> {
    let (mut from, to) = stream.into_split();
    let (answers, queue) = mpsc::channel(ANSWERS_MAX);
    let mut calls = JoinSet::new();
    let ended = Rc::new(Cell::new(false));
    let writer_ended = Rc::clone(&ended);
    let writer = tokio::task::spawn_local(async move {
        let written = write_answers(to, queue).await;
        writer_ended.set(true);
        written
    });
    let mut last = 0;
    let read = loop {
        let header = match read_header(&mut from).await {
            Ok(Some(header)) => header,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if ended.get() {
            break Ok(());
        }
        while calls.try_join_next().is_some() {}
        let refusal = refuse(&header, last, calls.len());
        if header.length > MESSAGE_BYTES_MAX || refusal.is_some() {
            if let Err(error) = discard(&mut from, header.length).await {
                break Err(error);
            }
            if let Some(status) = refusal
                && answers.send(answer(header.stream, Err(status))).await.is_err()
            {
                break Ok(());
            }
            continue;
        }
        if header.kind != REQUEST {
            // Data of a stream, or a response to nobody: nothing here asks for one.
            if let Err(error) = discard(&mut from, header.length).await {
                break Err(error);
            }
            continue;
        }
        last = header.stream;
        let permit = match header.length > LARGE_BYTES {
            true => Rc::clone(&large).acquire_owned_local().await,
            false => None,
        };
        let mut payload = vec![0; header.length];
        if let Err(error) = from.read_exact(&mut payload).await {
            break Err(error);
        }
        let (service, answers) = (Rc::clone(&service), answers.clone());
        calls.spawn_local(async move {
            let result = match Request::decode(payload.as_slice()) {
                Ok(request) => {
                    drop(payload);
                    service.call(request.service, request.method, request.payload).await
                }
                Err(error) => Err(Status::new(Code::InvalidArgument, format!("unreadable request: {error}"))),
            };
            drop(permit);
            // Nobody is left to hear it.
            let _ = answers.send(answer(header.stream, result)).await;
        });
    };
    calls.abort_all();
    drop(answers);
    match read {
        // What was answered goes out.
        Ok(()) => {
            while calls.join_next().await.is_some() {}
            writer.await.unwrap_or(Ok(()))
        }
        Err(error) => {
            writer.abort();
            Err(error)
        }
    }
}

/// A counted place, given back when it is dropped, without `Arc`.
#[derive(Debug)]
struct Permit(Rc<Semaphore>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

trait AcquireLocal {
    async fn acquire_owned_local(self) -> Option<Permit>;
}

impl AcquireLocal for Rc<Semaphore> {
    async fn acquire_owned_local(self) -> Option<Permit> {
        self.acquire().await.ok()?.forget();
        Some(Permit(self))
    }
}

fn refuse(header: &Header, last: u32, in_flight: usize) -> Option<Status> {
    if header.length > MESSAGE_BYTES_MAX {
        let text = format!("message length {} exceeds the maximum of {MESSAGE_BYTES_MAX}", header.length);
        return Some(Status::new(Code::ResourceExhausted, text));
    }
    if header.kind != REQUEST {
        return None;
    }
    if header.stream.is_multiple_of(2) {
        return Some(Status::new(Code::InvalidArgument, "StreamID must be odd for client initiated streams"));
    }
    if header.stream <= last {
        return Some(Status::new(Code::InvalidArgument, "StreamID cannot be re-used and must increment"));
    }
    (in_flight >= IN_FLIGHT_MAX)
        .then(|| Status::new(Code::ResourceExhausted, format!("{IN_FLIGHT_MAX} calls are pending on this connection")))
}

async fn read_header(from: &mut OwnedReadHalf) -> io::Result<Option<Header>> {
    let mut bytes = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match from.read(&mut bytes[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(Some(Header::parse(bytes)))
}

async fn discard(from: &mut OwnedReadHalf, length: usize) -> io::Result<()> {
    let mut left = length;
    let mut scrap = vec![0; left.min(16 << 10)];
    while left > 0 {
        let wanted = left.min(scrap.len());
        from.read_exact(&mut scrap[..wanted]).await?;
        left -= wanted;
    }
    Ok(())
}

async fn write_answers(mut to: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = queue.recv().await {
        tokio::time::timeout(WRITE_DEADLINE, to.write_all(&bytes)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}

/// A client that makes one call after another.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    next: u32,
}

/// Why a call got no answer of the service's.
#[derive(Debug)]
pub enum CallError {
    /// The connection is of no more use.
    Connection(io::Error),
    Status {
        code: i32,
        message: String,
    },
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallError::Connection(error) => error.fmt(f),
            CallError::Status { code, message } => write!(f, "{message} (code {code})"),
        }
    }
}

impl Client {
    pub async fn connect(path: &std::path::Path) -> io::Result<Client> {
        Ok(Client { stream: UnixStream::connect(path).await?, next: 1 })
    }

    pub async fn call(&mut self, service: &str, method: &str, message: &impl Message) -> Result<Vec<u8>, CallError> {
        let stream = self.next;
        self.next = self.next.wrapping_add(2);
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: message.encode_to_vec(),
            timeout_nano: 0,
            metadata: Vec::new(),
        };
        self.stream.write_all(&frame(stream, REQUEST, &request)).await.map_err(CallError::Connection)?;
        loop {
            let mut bytes = [0; HEADER_BYTES];
            self.stream.read_exact(&mut bytes).await.map_err(CallError::Connection)?;
            let header = Header::parse(bytes);
            if header.length > MESSAGE_BYTES_MAX {
                return Err(CallError::Connection(io::ErrorKind::InvalidData.into()));
            }
            let mut payload = vec![0; header.length];
            self.stream.read_exact(&mut payload).await.map_err(CallError::Connection)?;
            // An answer to a call that was given up.
            if header.kind != RESPONSE || header.stream != stream {
                continue;
            }
            let response = Response::decode(payload.as_slice())
                .map_err(|error| CallError::Connection(io::Error::new(io::ErrorKind::InvalidData, error)))?;
            return match response.status.filter(|status| status.code != 0) {
                None => Ok(response.payload),
                Some(status) => Err(CallError::Status { code: status.code, message: status.message }),
            };
        }
    }
}
