//! `exec`: pipes made here and pumped here, or a terminal whose master comes from the shim; the shim starts the command
//! and tells its exit code.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use killick_pod::status::Phase;
use killick_pod_dir::control::{Connection, ControlError, Refusal, Request, Response, Tty};
use killick_sys::tty::{set_window_size, window_size};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::apply::{refusal_of, with_patience};
use crate::container_choice::choose;
use crate::context::Context;
use crate::output::{Failure, Out, Result};
use crate::pod_row::phase_word;

/// A container's start may hold the shim's answer up for a moment; longer means that something is wrong.
const START_DEADLINE: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug, Clone)]
pub struct ExecOptions {
    pub kube_namespace: String,
    pub pod: String,
    pub container: Option<String>,
    pub command: Vec<String>,
    pub stdin: bool,
    pub tty: bool,
    pub quiet: bool,
}

pub fn exec(context: &Context, options: &ExecOptions, out: &mut Out<'_>) -> Result<()> {
    context.revive_named(&options.kube_namespace, &options.pod, out)?;
    let view = context.named_pod(&options.kube_namespace, &options.pod)?;
    if matches!(view.status.phase, Phase::Succeeded | Phase::Failed) {
        return Err(Failure::error(format!(
            "cannot exec into a container in a completed pod; current phase is {}",
            phase_word(view.status.phase)
        )));
    }
    let (container, said) = choose(&view.pod, options.container.as_deref())?;
    if let Some(line) = said.filter(|_| !options.quiet) {
        out.warn(line);
    }
    let input = io::stdin();
    let mut tty = options.tty;
    if tty && options.stdin && !nix::unistd::isatty(&input).unwrap_or(false) {
        out.warn("Unable to use a TTY - input is not a terminal or the right kind of file");
        tty = false;
    }
    let request = Request::Exec {
        container: container.clone(),
        args: options.command.clone(),
        stdin: options.stdin,
        tty: tty.then(|| Tty { size: window_size(input.as_fd()).ok() }),
    };
    let cannot = |error: io::Error| Failure::error(format!("exec: {error}"));
    let mut streams = if tty { Streams::default() } else { Streams::pipes(options.stdin).map_err(cannot)? };
    let path = view.dir.control_socket();
    let started = with_patience(context, &view.dir, || {
        let connection = Connection::connect(&path)?;
        connection.send(&request, &streams.theirs())?;
        let (answer, fds) = connection.receive_within::<Response>(START_DEADLINE)?;
        Ok((connection, answer, fds))
    });
    let (connection, answer, mut fds) = started.map_err(|error| refusal_of(&view.dir, view.name(), Err(error)))?;
    streams.theirs.clear();
    match answer {
        Response::Started => {}
        Response::Refused { reason, message } => return Err(refused(reason, &message, &container)),
        other => return Err(Failure::error(format!("the pod's shim gave an answer that makes no sense: {other:?}"))),
    }
    let end = if tty {
        let master = fds.pop().ok_or_else(|| Failure::error("the pod's shim sent no terminal"))?;
        on_terminal(&connection, &master, options.stdin, out)?
    } else {
        pump(&connection, streams, out)?
    };
    match end {
        End::Exited(0) => Ok(()),
        End::Exited(code) => {
            Err(Failure { text: format!("command terminated with exit code {code}"), code: exit_code(code) })
        }
        End::Signalled(signal) => Err(Failure::code(exit_code(128 + signal))),
        End::Lost => Err(Failure::error("the pod's shim went away before it could tell how the command ended")),
    }
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(1)
}

fn refused(reason: Refusal, message: &str, container: &str) -> Failure {
    Failure::error(match reason {
        Refusal::NotRunning => {
            format!("Internal error occurred: unable to upgrade connection: container not found (\"{container}\")")
        }
        Refusal::CannotStart => format!(
            "Internal error occurred: error executing command in container: failed to exec in container: {message}: unknown"
        ),
        Refusal::BadRequest | Refusal::Busy | Refusal::Internal => format!("Internal error occurred: {message}"),
    })
}

enum End {
    Exited(i32),
    /// We were told to end.
    Signalled(i32),
    Lost,
}

/// Our ends of the command's pipes, and its own until they are handed over.
#[derive(Default)]
struct Streams {
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    theirs: Vec<OwnedFd>,
}

impl Streams {
    fn pipes(stdin: bool) -> io::Result<Streams> {
        let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
        let mut streams = Streams::default();
        if stdin {
            let (theirs, ours) = pipe()?;
            // Writing must not wait for a command that does not read. Only our end is changed.
            fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            streams.stdin = Some(File::from(ours));
            streams.theirs.push(theirs);
        }
        for ours in [&mut streams.stdout, &mut streams.stderr] {
            let (reader, theirs) = pipe()?;
            fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            *ours = Some(File::from(reader));
            streams.theirs.push(theirs);
        }
        Ok(streams)
    }

    fn theirs(&self) -> Vec<BorrowedFd<'_>> {
        self.theirs.iter().map(AsFd::as_fd).collect()
    }
}

/// Waits for one of these to be ready; the events that came, in the same order.
fn wait(fds: &[(BorrowedFd<'_>, PollFlags)], timeout: PollTimeout) -> Result<Vec<PollFlags>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
    loop {
        match poll(&mut polled, timeout) {
            Ok(_) => return Ok(polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::error(format!("poll: {errno}"))),
        }
    }
}

/// The shim's word on the end, when the connection is readable.
fn ending(connection: &Connection) -> Result<Option<i32>> {
    match connection.receive::<Response>() {
        Ok(Some((Response::Exited { code }, _))) => Ok(Some(code)),
        Ok(Some((other, _))) => {
            Err(Failure::error(format!("the pod's shim gave an answer that makes no sense: {other:?}")))
        }
        Ok(None) | Err(ControlError::Io(_)) => Ok(None),
        Err(error) => Err(Failure::error(error)),
    }
}

/// Carries the bytes of the three streams until the command has ended. What it had written is in the pipes then.
fn pump(connection: &Connection, mut streams: Streams, out: &mut Out<'_>) -> Result<End> {
    let input = io::stdin();
    let mut connected = true;
    let mut input_open = streams.stdin.is_some();
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let mut fds: Vec<(BorrowedFd<'_>, PollFlags)> = Vec::new();
        let control_at = connected.then(|| push(&mut fds, connection.as_fd(), PollFlags::POLLIN));
        let stdout_at = streams.stdout.as_ref().map(|file| push(&mut fds, file.as_fd(), PollFlags::POLLIN));
        let stderr_at = streams.stderr.as_ref().map(|file| push(&mut fds, file.as_fd(), PollFlags::POLLIN));
        let reads = input_open && streams.stdin.is_some() && pending.is_empty();
        let input_at = reads.then(|| push(&mut fds, input.as_fd(), PollFlags::POLLIN));
        let writes = if pending.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let stdin_at = streams.stdin.as_ref().map(|file| push(&mut fds, file.as_fd(), writes));
        if fds.is_empty() {
            return Ok(End::Lost);
        }
        let ready = wait(&fds, PollTimeout::NONE)?;
        let is_ready = |at: Option<usize>| at.is_some_and(|at| !ready[at].is_empty());
        let failed = |at: Option<usize>| at.is_some_and(|at| ready[at].contains(PollFlags::POLLERR));
        let (stdout_ready, stderr_ready) = (is_ready(stdout_at), is_ready(stderr_at));
        let (control_ready, input_ready) = (is_ready(control_at), is_ready(input_at));
        let (stdin_ready, stdin_failed) = (is_ready(stdin_at), failed(stdin_at));
        drop(fds);
        if stdout_ready {
            carry(&mut streams.stdout, false, out)?;
        }
        if stderr_ready {
            carry(&mut streams.stderr, true, out)?;
        }
        if input_ready {
            let mut buffer = vec![0; BUFFER_BYTES];
            let length = nix::unistd::read(&input, &mut buffer).unwrap_or_default();
            input_open = length > 0;
            pending.extend_from_slice(&buffer[..length]);
        }
        if stdin_failed {
            // The command reads no more.
            streams.stdin = None;
            pending.clear();
        } else if stdin_ready && let Some(file) = &mut streams.stdin {
            match file.write(&pending) {
                Ok(length) => drop(pending.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    streams.stdin = None;
                    pending.clear();
                }
            }
        }
        if !input_open && pending.is_empty() {
            streams.stdin = None;
        }
        if control_ready {
            match ending(connection)? {
                Some(code) => {
                    carry(&mut streams.stdout, false, out)?;
                    carry(&mut streams.stderr, true, out)?;
                    return Ok(End::Exited(code));
                }
                None => connected = false,
            }
        }
        if !connected && streams.stdout.is_none() && streams.stderr.is_none() {
            return Ok(End::Lost);
        }
    }
}

fn push<'a>(fds: &mut Vec<(BorrowedFd<'a>, PollFlags)>, fd: BorrowedFd<'a>, flags: PollFlags) -> usize {
    fds.push((fd, flags));
    fds.len() - 1
}

/// Writes out what a stream has now; at its end it is closed.
fn carry(stream: &mut Option<File>, to_stderr: bool, out: &mut Out<'_>) -> Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(file) = stream {
        match file.read(&mut buffer) {
            Ok(0) => *stream = None,
            Ok(length) if to_stderr => {
                // Nobody reads our stderr: the command goes on all the same.
                let _ = out.stderr.write_all(&buffer[..length]);
            }
            Ok(length) => out.bytes(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A terminal whose other side is closed says EIO.
            Err(_) => *stream = None,
        }
    }
    Ok(())
}

/// The terminal that is ours is put back whatever happens.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> Result<RawMode> {
        let failed = |errno: Errno| Failure::error(format!("set the terminal to raw mode: {errno}"));
        let input = io::stdin();
        let before = tcgetattr(&input).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&input, SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Signals that end us: they are read from a descriptor, so that raw mode is left first.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];

fn on_terminal(connection: &Connection, master: &OwnedFd, stdin: bool, out: &mut Out<'_>) -> Result<End> {
    let failed = |errno: Errno| Failure::error(format!("exec: {errno}"));
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGWINCH);
    ENDING.into_iter().for_each(|signal| mask.add(signal));
    mask.thread_block().map_err(failed)?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
    let _raw = if stdin { Some(RawMode::enter()?) } else { None };
    fcntl(master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    let copy = master.try_clone().map_err(|error| Failure::error(format!("exec: {error}")))?;
    let mut reader = Some(File::from(copy));
    let input = io::stdin();
    let mut input_open = stdin;
    let mut pending: Vec<u8> = Vec::new();
    let mut connected = true;
    loop {
        let mut fds = Vec::new();
        let signals_at = push(&mut fds, signals.as_fd(), PollFlags::POLLIN);
        let control_at = connected.then(|| push(&mut fds, connection.as_fd(), PollFlags::POLLIN));
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !pending.is_empty());
        let master_at = reader.is_some().then(|| push(&mut fds, master.as_fd(), wanted));
        let input_at = (input_open && pending.is_empty()).then(|| push(&mut fds, input.as_fd(), PollFlags::POLLIN));
        let ready = wait(&fds, PollTimeout::NONE)?;
        let is_ready = |at: Option<usize>| at.is_some_and(|at| !ready[at].is_empty());
        let (control_ready, master_ready) = (is_ready(control_at), is_ready(master_at));
        let (input_ready, signals_ready) = (is_ready(input_at), !ready[signals_at].is_empty());
        drop(fds);
        if signals_ready {
            while let Ok(Some(signal)) = signals.read_signal() {
                if signal.ssi_signo != Signal::SIGWINCH as u32 {
                    return Ok(End::Signalled(signal.ssi_signo as i32));
                }
                if let Ok(size) = window_size(input.as_fd()) {
                    // A size that cannot be set is no reason to end the session.
                    let _ = set_window_size(master.as_fd(), size);
                }
            }
        }
        if input_ready {
            let mut buffer = vec![0; 4096];
            let length = nix::unistd::read(&input, &mut buffer).unwrap_or_default();
            input_open = length > 0;
            pending.extend_from_slice(&buffer[..length]);
        }
        if master_ready {
            carry(&mut reader, false, out)?;
            if !pending.is_empty() {
                match nix::unistd::write(master, &pending) {
                    Ok(length) => drop(pending.drain(..length)),
                    Err(Errno::EAGAIN) => {}
                    Err(_) => pending.clear(),
                }
            }
        }
        if control_ready {
            match ending(connection)? {
                Some(code) => {
                    carry(&mut reader, false, out)?;
                    return Ok(End::Exited(code));
                }
                None => connected = false,
            }
        }
        if !connected && reader.is_none() {
            return Ok(End::Lost);
        }
    }
}
