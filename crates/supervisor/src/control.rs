//! The control socket's server: root's requests, each on a connection of its own, each answered within its time.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use killick_container::{Progress, Stdio};
use killick_pod_dir::control::{
    CONNECTIONS_MAX, Connection, ControlError, Listener, Refusal, Request, Response, Tty, VERSION,
    may_enter_a_container,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::births::Birth;
use crate::context::Context;
use crate::execs::{Running, null};
use crate::live::Live;
use crate::message::Message;
use crate::wait::ended;

/// A client that says nothing is hung up on.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);
/// The loop answers at once; this is for a loop that hangs.
const LOOP_DEADLINE: Duration = Duration::from_secs(10);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves for ever.
pub async fn serve(context: Rc<Context>, listener: Listener) -> io::Result<()> {
    let listener = watched(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let connection = accept(&listener).await;
        let context = Rc::clone(&context);
        tokio::task::spawn_local(async move {
            let _place = place;
            // A client that has gone needs no answer, and nobody else is told.
            let _ = converse(context, connection).await;
        });
    }
}

fn watched<T: std::os::fd::AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

async fn accept(listener: &AsyncFd<Listener>) -> Connection {
    loop {
        match listener.get_ref().accept() {
            Ok(connection) => return connection,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match listener.readable().await {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            },
            // Not root, or gone again, or no descriptor left: the next one may be served.
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn converse(context: Rc<Context>, connection: Connection) -> Result<(), ControlError> {
    let connection = watched(connection)?;
    let Ok(received) = timeout(REQUEST_DEADLINE, receive(&connection)).await else { return Ok(()) };
    let connection_ref = connection.get_ref();
    let (request, fds) = match received {
        Ok(Some(received)) => received,
        Ok(None) => return Ok(()),
        Err(error) => return connection_ref.send(&refused(Refusal::BadRequest, &error.to_string()), &[]),
    };
    match request {
        Request::Ping => connection_ref.send(&Response::Pong { version: VERSION, pid: std::process::id() }, &[]),
        Request::Delete { grace_seconds, force } => {
            let ask = |answer| Message::Delete { grace_seconds, force, answer };
            connection_ref.send(&ask_loop(&context, ask).await, &[])
        }
        Request::UpdatePod { staged } => {
            connection_ref.send(&ask_loop(&context, |answer| Message::Update { staged, answer }).await, &[])
        }
        Request::Exec { container, args, stdin, tty } => {
            let started = match find(&context, container).await {
                Ok(live) => start(&context, &live, args, stdin, tty, fds).await,
                Err(response) => Err(response),
            };
            match started {
                Ok(running) => run(connection_ref, running).await,
                Err(response) => connection_ref.send(&response, &[]),
            }
        }
    }
}

async fn receive(connection: &AsyncFd<Connection>) -> Result<Option<(Request, Vec<OwnedFd>)>, ControlError> {
    loop {
        match connection.get_ref().receive() {
            Err(ControlError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable().await?.clear_ready();
            }
            other => return other,
        }
    }
}

fn refused(reason: Refusal, message: &str) -> Response {
    Response::Refused { reason, message: message.to_owned() }
}

async fn ask_loop(context: &Context, message: impl FnOnce(oneshot::Sender<Response>) -> Message) -> Response {
    let (answer, answered) = oneshot::channel();
    context.tell(message(answer)).await;
    match timeout(LOOP_DEADLINE, answered).await {
        Ok(Ok(response)) => response,
        _ => refused(Refusal::Internal, "the supervisor did not answer"),
    }
}

async fn find(context: &Context, container: String) -> Result<Rc<Live>, Response> {
    let (answer, answered) = oneshot::channel();
    context.tell(Message::Find { container, answer }).await;
    match timeout(LOOP_DEADLINE, answered).await {
        Ok(Ok(found)) => found,
        _ => Err(refused(Refusal::Internal, "the supervisor did not answer")),
    }
}

async fn start(
    context: &Rc<Context>,
    live: &Rc<Live>,
    args: Vec<String>,
    stdin: bool,
    tty: Option<Tty>,
    fds: Vec<OwnedFd>,
) -> Result<Running, Response> {
    let is_terminal = tty.is_some();
    let stdio = stdio(stdin, tty, fds).map_err(|message| refused(Refusal::BadRequest, &message))?;
    let env = if is_terminal { vec!["TERM=xterm".to_owned()] } else { Vec::new() };
    let cannot = |error: String| refused(Refusal::CannotStart, &error);
    let mut running = Running::start(context, live, args, env, stdio).map_err(cannot)?;
    let birth = match running.channel() {
        Some(channel) => Birth::watch(channel).map_err(|error| cannot(error.to_string()))?,
        None => return Err(cannot("the command does not run".to_owned())),
    };
    match birth.reaches(Progress::Running, || running.progress()).await {
        Ok(()) => Ok(running),
        Err(error) => Err(cannot(error.to_string())),
    }
}

/// The client's descriptors, each of a kind that a container may have.
fn stdio(stdin: bool, tty: Option<Tty>, fds: Vec<OwnedFd>) -> Result<Stdio, String> {
    let wanted = if tty.is_some() { 0 } else { 2 + usize::from(stdin) };
    if fds.len() != wanted {
        return Err(format!("{} descriptors came along, {wanted} were expected", fds.len()));
    }
    if let Some(tty) = tty {
        let (rows, columns) = tty.size.map_or((0, 0), |size| (size.rows, size.columns));
        return Ok(Stdio::Terminal { rows, columns });
    }
    if !fds.iter().all(|fd| may_enter_a_container(fd.as_fd())) {
        return Err("a descriptor is neither an anonymous pipe nor one end of a socketpair".to_owned());
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| "a descriptor is missing".to_owned());
    let stdin = if stdin { next()? } else { null()? };
    Ok(Stdio::Streams { stdin, stdout: next()?, stderr: next()? })
}

/// Tells the start, waits for the end, tells it. A client that hangs up leaves the command alone.
async fn run(connection: &Connection, mut running: Running) -> Result<(), ControlError> {
    let master = running.take_terminal();
    let told = connection.send(&Response::Started, master.as_ref().map(AsFd::as_fd).as_slice());
    drop(master);
    let code = match running.process() {
        Ok(process) => {
            ended(process).await;
            process.wait().ok().flatten().map_or(137, |exit| exit.code())
        }
        Err(_) => 137,
    };
    told.and_then(|()| connection.send(&Response::Exited { code }, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipes(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| killick_sys::fd::pipe().unwrap().1).collect()
    }

    #[test]
    fn only_pipes_in_the_right_number_become_a_commands_streams() {
        assert!(stdio(false, None, pipes(2)).is_ok());
        assert!(stdio(true, None, pipes(3)).is_ok());
        assert!(stdio(true, Some(Tty { size: None }), Vec::new()).is_ok());
        for (stdin, tty, count) in [(true, false, 2), (false, false, 3), (false, true, 2)] {
            let tty = tty.then_some(Tty { size: None });
            let error = stdio(stdin, tty, pipes(count)).unwrap_err();
            assert!(error.contains("descriptors came along"), "{error}");
        }
        for path in ["/", "/etc/passwd", "/dev/null"] {
            let mut fds = pipes(1);
            fds.push(std::fs::File::open(path).unwrap().into());
            let error = stdio(false, None, fds).unwrap_err();
            assert!(error.contains("neither an anonymous pipe"), "{path}: {error}");
        }
    }
}
