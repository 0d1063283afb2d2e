//! Runs a program to its end: with an input, a deadline, and what it printed. For hooks and tools; blocks, so it is for
//! worker children, half-made containers and command lines, never for the shim's loop.

use crate::error::{Context, Error, Result, check};
use crate::fd;
use crate::pidfd::{Exit, PidFd};
use crate::signal::{reset_dispositions, unblock_all};
use crate::spawn::{Birth, Born, birth, exit_now};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is kept of each of the two outputs; the rest is read and dropped.
pub const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// An input up to this goes through a pipe without anybody reading it yet.
const PIPE_BYTES: usize = 60 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute: nothing is searched.
    pub path: PathBuf,
    /// With argv[0]; empty: the path.
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub cwd: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// None: killed at its deadline.
    pub exit: Option<Exit>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs it; an error is one of starting it. A program that never reads its input is no error.
pub fn run(program: &Program, input: &[u8], deadline: Option<Instant>) -> Result<Output> {
    let stdin = input_fd(input)?;
    let (stdout, stdout_write) = fd::pipe()?;
    let (stderr, stderr_write) = fd::pipe()?;
    let (failure, failure_write) = fd::pipe()?;
    match birth(Birth::default())? {
        Born::Child { .. } => {
            let streams = [stdin.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()];
            let errno = become_program(program, streams, failure_write.as_fd());
            let _ = File::from(failure_write).write_all(&(errno as i32).to_ne_bytes());
            exit_now(127)
        }
        Born::Parent { child } => {
            drop((stdin, stdout_write, stderr_write, failure_write));
            let mut errno = [0; 4];
            if File::from(failure).read_exact(&mut errno).is_ok() {
                let _ = child.wait_blocking();
                let errno = Errno::from_raw(i32::from_ne_bytes(errno));
                return Err(Error::new(format!("execve({:?})", program.path.display().to_string()), errno));
            }
            attend(&child, stdout, stderr, deadline)
        }
    }
}

fn input_fd(input: &[u8]) -> Result<OwnedFd> {
    if input.len() <= PIPE_BYTES {
        let (read, write) = fd::pipe()?;
        File::from(write).write_all(input).call(|| format!("write(pipe, {} bytes)", input.len()))?;
        return Ok(read);
    }
    let mut file = File::from(crate::sealed::sealed("input", input)?);
    file.rewind().call(|| "lseek(input, 0)".into())?;
    Ok(file.into())
}

#[allow(unsafe_code)]
fn become_program(program: &Program, streams: [BorrowedFd<'_>; 3], failure: BorrowedFd<'_>) -> Errno {
    let c_string = |text: &[u8]| CString::new(text).map_err(|_| Errno::EINVAL);
    let prepare = || -> Result<(), Errno> {
        reset_dispositions();
        unblock_all().map_err(|error| error.errno())?;
        for (number, stream) in streams.iter().enumerate() {
            // SAFETY: pipes of this child have numbers above 2, so only its copies of the caller's stdio are replaced.
            let done = unsafe { libc::dup2(stream.as_raw_fd(), number as i32) };
            check(done.into(), || "dup2".into()).map_err(|error| error.errno())?;
        }
        fd::close_all_except(&[0, 1, 2, failure.as_raw_fd()]).map_err(|error| error.errno())?;
        if let Some(cwd) = &program.cwd {
            nix::unistd::chdir(cwd)?;
        }
        Ok(())
    };
    if let Err(errno) = prepare() {
        return errno;
    }
    use std::os::unix::ffi::OsStrExt;
    let args: Vec<&[u8]> = match program.args.is_empty() {
        true => vec![program.path.as_os_str().as_bytes()],
        false => program.args.iter().map(String::as_bytes).collect(),
    };
    let path = c_string(program.path.as_os_str().as_bytes());
    let args: Result<Vec<CString>, Errno> = args.into_iter().map(c_string).collect();
    let env: Result<Vec<CString>, Errno> = program.env.iter().map(|variable| c_string(variable.as_bytes())).collect();
    let (Ok(path), Ok(args), Ok(env)) = (path, args, env) else { return Errno::EINVAL };
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: both arrays end with null and, like their strings, outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

/// How long after the program's end its outputs may still be read, when something it started holds them.
const DRAIN: Duration = Duration::from_millis(20);
/// How often a kernel without pidfds is asked for the end.
const ASK: Duration = Duration::from_millis(10);

fn attend(child: &PidFd, stdout: OwnedFd, stderr: OwnedFd, deadline: Option<Instant>) -> Result<Output> {
    let mut streams = [Some(stdout), Some(stderr)];
    let mut texts = [Vec::new(), Vec::new()];
    let mut exit = None;
    let mut until = deadline;
    while exit.is_none() || streams.iter().any(Option::is_some) {
        let now = Instant::now();
        if until.is_some_and(|until| now >= until) {
            if exit.is_some() {
                break;
            }
            child.send_signal(Signal::SIGKILL)?;
            child.wait_blocking()?;
            return Ok(Output { exit: None, stdout: text(&texts[0]), stderr: text(&texts[1]) });
        }
        let mut wait = until.map(|until| until - now);
        if child.as_fd().is_none() && exit.is_none() {
            wait = Some(wait.map_or(ASK, |wait| wait.min(ASK)));
        }
        wait_for(&streams, child.as_fd().filter(|_| exit.is_none()), wait)?;
        for (stream, text) in streams.iter_mut().zip(&mut texts) {
            read_some(stream, text)?;
        }
        if exit.is_none() {
            exit = child.wait()?;
            if exit.is_some() {
                until = Some(Instant::now() + DRAIN);
            }
        }
    }
    Ok(Output { exit, stdout: text(&texts[0]), stderr: text(&texts[1]) })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn wait_for(streams: &[Option<OwnedFd>; 2], child: Option<BorrowedFd<'_>>, wait: Option<Duration>) -> Result<()> {
    let open = streams.iter().flatten().map(AsFd::as_fd);
    let mut polled: Vec<PollFd<'_>> = open.chain(child).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = wait.map_or(PollTimeout::NONE, |wait| {
        PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Error::new("poll(a program's outputs)", errno)),
    }
}

fn read_some(stream: &mut Option<OwnedFd>, kept: &mut Vec<u8>) -> Result<()> {
    let Some(open) = stream else { return Ok(()) };
    let mut polled = [PollFd::new(open.as_fd(), PollFlags::POLLIN)];
    if !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(ready) if ready > 0) {
        return Ok(());
    }
    let mut buffer = [0; 4096];
    match nix::unistd::read(&*open, &mut buffer) {
        Ok(0) => *stream = None,
        Ok(length) => {
            let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..length.min(room)]);
        }
        Err(Errno::EINTR | Errno::EAGAIN) => {}
        Err(errno) => return Err(Error::new("read(a program's output)", errno)),
    }
    Ok(())
}

/// Blocks until the other end of a pipe is closed, or for so long.
pub fn wait_hangup(pipe: BorrowedFd<'_>, at_most: Duration) -> Result<()> {
    crate::spawn::wait_readable(pipe, Instant::now() + at_most)
}

/// The file that a plain name means by this PATH.
pub fn search(name: &str, path: &str) -> Option<PathBuf> {
    use nix::unistd::{AccessFlags, access};
    let candidates = path.split(':').filter(|directory| !directory.is_empty()).map(|d| Path::new(d).join(name));
    candidates.into_iter().find(|candidate| candidate.is_file() && access(candidate, AccessFlags::X_OK).is_ok())
}
