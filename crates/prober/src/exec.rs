//! A command in the container: started by the caller's launcher, its output collected and bounded here.

use crate::Probed;
use killick_pod::event::Outcome;
use killick_pod::time::go_duration;
use killick_sys::fd;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// kubelet keeps this much of stdout and stderr together.
pub const OUTPUT_BYTES_MAX: usize = 10 * 1024;
/// What a command may write beyond that; then nobody reads any more, and it waits until its time is over.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 16 << 10;
/// A killed process is gone after ~0.1 ms; one in an uninterruptible call is left to the launcher.
const KILL_WAIT_MAX: Duration = Duration::from_secs(1);
/// Without a descriptor to wait on, and while a tree is being killed.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Starts commands in the container that is probed. Must not block.
pub trait Launcher {
    /// `Err` is the runtime's text, such as `exec: "foo": executable file not found in $PATH`.
    fn launch(&self, command: Command) -> Result<Box<dyn Process + '_>, String>;
}

/// What to run, and the write ends that become its stdout and stderr; stdin is /dev/null.
#[derive(Debug)]
pub struct Command {
    pub args: Vec<String>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A command that was launched. If it is dropped before `poll` told its end, the launcher must see to it that
/// everything it started is killed.
pub trait Process {
    /// Readable when `poll` has news; it may be another one after each `poll`. None: ask again from time to time
    /// (kernels without pidfds).
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;
    fn poll(&mut self) -> Poll;
    /// SIGKILL for everything that the command has started. `poll` goes on until it says `Exited`.
    fn kill(&mut self);
    /// How long one of its threads has waited for a processor, unless its own quota held it back. Asked before `kill`.
    fn waited_runnable(&self) -> Duration {
        Duration::ZERO
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// Not executed yet, or running.
    Pending,
    /// Its first process ended: 0–255, 128 + signal.
    Exited(i32),
    /// It could not be executed: the runtime's text.
    Failed(String),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited {
        code: i32,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
    },
    /// Killed; what it wrote is dropped, as kubelet drops it.
    TimedOut {
        waited_runnable: Duration,
    },
    CannotRun(String),
}

pub(crate) async fn probe(args: Vec<String>, launcher: &dyn Launcher, timeout: Duration) -> Probed {
    let shown = args.join(" ");
    match run(args, launcher, Some(timeout)).await {
        Ended::Exited { code: 0, .. } => Outcome::Success.into(),
        Ended::Exited { stdout, stderr, .. } => Outcome::Failure(text(&stdout, &stderr)).into(),
        Ended::TimedOut { waited_runnable } => {
            let (shown, timeout) = (crate::url::quote(&shown), go_duration(timeout));
            let outcome = Outcome::Failure(format!("command timed out: {shown} timed out after {timeout}"));
            Probed { outcome, waited_runnable }
        }
        Ended::CannotRun(error) => Outcome::Unknown(error).into(),
    }
}

/// stdout, then stderr, cut.
pub(crate) fn text(stdout: &[u8], stderr: &[u8]) -> String {
    let both = [stdout, stderr].concat();
    String::from_utf8_lossy(&both[..both.len().min(OUTPUT_BYTES_MAX)]).into_owned()
}

pub(crate) async fn run(args: Vec<String>, launcher: &dyn Launcher, timeout: Option<Duration>) -> Ended {
    match try_run(args, launcher, timeout).await {
        Ok(ended) => ended,
        Err(error) => Ended::CannotRun(format!("failed to exec in container: {error}")),
    }
}

async fn try_run(args: Vec<String>, launcher: &dyn Launcher, timeout: Option<Duration>) -> Result<Ended, String> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let (mut stdout, stdout_end) = Output::pipe()?;
    let (mut stderr, stderr_end) = Output::pipe()?;
    let mut process = launcher.launch(Command { args, stdout: stdout_end, stderr: stderr_end })?;
    let passed = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(passed);
    let mut news = process.poll();
    loop {
        match news {
            Poll::Pending => {}
            Poll::Failed(error) => return Err(error),
            Poll::Exited(code) => {
                // What is in the pipes now was written before the end; whoever still holds them is not waited for.
                stdout.drain();
                stderr.drain();
                return Ok(Ended::Exited { code, stdout: stdout.kept, stderr: stderr.kept });
            }
        }
        let woken = tokio::select! {
            biased;
            () = &mut passed => Woken::Deadline,
            () = woken(&*process) => Woken::News,
            () = stdout.pump() => Woken::Output,
            () = stderr.pump() => Woken::Output,
        };
        news = match woken {
            Woken::Deadline => break,
            Woken::News => process.poll(),
            Woken::Output => Poll::Pending,
        };
    }
    let waited_runnable = process.waited_runnable();
    process.kill();
    let give_up = Instant::now() + KILL_WAIT_MAX;
    while process.poll() == Poll::Pending && Instant::now() < give_up {
        tokio::select! {
            () = woken(&*process) => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    Ok(Ended::TimedOut { waited_runnable })
}

enum Woken {
    Deadline,
    News,
    Output,
}

async fn woken(process: &dyn Process) {
    if let Some(fd) = process.wake_fd()
        && let Ok(fd) = AsyncFd::with_interest(fd, Interest::READABLE)
        && fd.readable().await.is_ok()
    {
        return;
    }
    tokio::time::sleep(LOOK_AGAIN).await;
}

/// The read end of a pipe and the beginning of what came through it.
struct Output {
    pipe: Option<AsyncFd<File>>,
    kept: Vec<u8>,
    discarded: usize,
}

impl Output {
    fn pipe() -> Result<(Output, OwnedFd), String> {
        let (read, write) = fd::pipe().map_err(|error| error.to_string())?;
        fd::set_nonblocking(read.as_fd(), true).map_err(|error| error.to_string())?;
        let pipe = AsyncFd::with_interest(File::from(read), Interest::READABLE).map_err(|error| error.to_string())?;
        Ok((Output { pipe: Some(pipe), kept: Vec::new(), discarded: 0 }, write))
    }

    /// Reads once. Never returns when nothing more can come or nobody wants it.
    async fn pump(&mut self) {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.discarded < DISCARDED_BYTES_MAX) else {
            return std::future::pending().await;
        };
        let mut bytes = [0; READ_BYTES];
        let Ok(mut ready) = pipe.readable().await else { return std::future::pending().await };
        match ready.try_io(|pipe| pipe.get_ref().read(&mut bytes)) {
            Ok(Ok(length)) => self.take(&bytes[..length]),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => self.pipe = None,
            Err(_would_block) => {}
        }
    }

    /// At most as much as a pipe holds.
    fn drain(&mut self) {
        const PIPE_BYTES: usize = 64 << 10;
        let mut bytes = [0; READ_BYTES];
        for _ in 0..PIPE_BYTES / READ_BYTES {
            let Some(pipe) = &self.pipe else { return };
            match pipe.get_ref().read(&mut bytes) {
                Ok(length) => self.take(&bytes[..length]),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.pipe = None;
        }
        let room = OUTPUT_BYTES_MAX - self.kept.len();
        let kept = bytes.len().min(room);
        self.kept.extend_from_slice(&bytes[..kept]);
        self.discarded += bytes.len() - kept;
    }
}
