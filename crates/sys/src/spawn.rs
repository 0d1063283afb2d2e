//! The one place where processes are made. A child is a copy of the caller's memory, never a sharer: an OOM in a
//! container's cgroup kills whoever shares memory with its processes (design §4).
//!
//! `worker` runs a closure in a child, for whatever may wait on a disk: its value comes back over a socket.

use crate::error::{Context, Error, Result, check};
use crate::fd::{self, own};
use crate::ns;
use crate::pidfd::{Exit, PidFd};
use crate::signal::{Blocked, reset_dispositions, unblock_all};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How a child is born.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Birth<'a> {
    /// v2: born inside this cgroup (5.7). Where that is refused the caller is told: `Born::in_cgroup`.
    pub(crate) into_cgroup: Option<BorrowedFd<'a>>,
    /// First process of a PID namespace of its own.
    pub(crate) new_pid_namespace: bool,
    /// Child of our parent instead of ours.
    pub(crate) sibling: bool,
}

pub(crate) enum Born {
    Parent {
        child: PidFd,
    },
    /// `in_cgroup`: CLONE_INTO_CGROUP was asked for and done.
    Child {
        in_cgroup: bool,
    },
}

/// A copy of this process. Both return; the child has every signal blocked, so that no handler of ours runs there.
pub(crate) fn birth(how: Birth<'_>) -> Result<Born> {
    let _blocked = Blocked::all()?;
    // With other threads (a test harness) malloc's locks may be held by one that the child will not have: only the
    // C library's own fork takes them first.
    if how.sibling || !has_threads() {
        match clone3(how, how.into_cgroup) {
            Err(error) if how.into_cgroup.is_some() && falls_back_without_cgroup(&error) => match clone3(how, None) {
                Err(error) if error.is_refused() => {}
                other => return other,
            },
            Err(error) if error.is_refused() => {}
            other => return other,
        }
    }
    if how.sibling {
        return clone_sibling(how);
    }
    let visit = if how.new_pid_namespace { Some(ns::new_pid_for_children()?) } else { None };
    let born = fork()?;
    if let (Born::Child { .. }, Some(visit)) = (&born, visit) {
        // The child lives where it should: it has nothing to come back from.
        std::mem::forget(visit);
    }
    Ok(born)
}

/// Before 5.7 the cgroup field is too big (E2BIG); EBUSY and EOPNOTSUPP come from cgroups that have delegated or
/// are threaded: the child then tries by itself, and that error is the one to tell.
fn falls_back_without_cgroup(error: &Error) -> bool {
    matches!(error.errno(), Errno::E2BIG | Errno::EINVAL | Errno::EBUSY | Errno::EOPNOTSUPP | Errno::EBADF)
}

fn has_threads() -> bool {
    use std::os::unix::fs::MetadataExt;
    // A directory for each thread beside `.` and `..`.
    std::fs::metadata("/proc/self/task").map_or(true, |task| task.nlink() > 3)
}

pub(crate) const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// clone3's argument: VER2 of the structure, 88 bytes; older kernels take it while the tail is zero.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

impl CloneArgs {
    /// VER0, up to `tls`: what the first kernels with clone3 know.
    pub(crate) const VER0_BYTES: usize = 64;
}

#[allow(unsafe_code)]
fn clone3(how: Birth<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<Born> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    let mut names = Vec::new();
    if how.sibling {
        // clone3 takes the exit signal of the caller, and wants none here.
        args.flags |= libc::CLONE_PARENT as u64;
        args.exit_signal = 0;
        names.push("CLONE_PARENT");
    }
    args.flags |= libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    names.push("CLONE_PIDFD");
    if how.new_pid_namespace {
        args.flags |= libc::CLONE_NEWPID as u64;
        names.push("CLONE_NEWPID");
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
        names.push("CLONE_INTO_CGROUP");
    }
    // SAFETY: without CLONE_VM the child has a copy of this stack and returns here on it, as after fork; the caller
    // has one thread, so no lock is held by a thread that the child lacks.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match check(pid, || format!("clone3({})", names.join("|")))? {
        0 => Ok(Born::Child { in_cgroup: cgroup.is_some() }),
        pid => Ok(Born::Parent { child: PidFd::adopt(pid as i32, Some(own(pidfd))) }),
    }
}

/// clone(2) for kernels without clone3, where the caller's single thread is certain.
#[allow(unsafe_code)]
fn clone_sibling(how: Birth<'_>) -> Result<Born> {
    let mut flags = libc::CLONE_PARENT | libc::SIGCHLD;
    if how.new_pid_namespace {
        flags |= libc::CLONE_NEWPID;
    }
    // SAFETY: a null stack means this one, copied; the other pointers are unused without their flags.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match check(pid, || "clone(CLONE_PARENT|SIGCHLD)".into())? {
        0 => Ok(Born::Child { in_cgroup: false }),
        pid => Ok(Born::Parent { child: PidFd::adopt(pid as i32, None) }),
    }
}

#[allow(unsafe_code)]
fn fork() -> Result<Born> {
    // SAFETY: the C library's fork leaves its own locks usable in the child; the child runs only code of this
    // crate and its caller's, which take no locks of other threads.
    let pid = unsafe { libc::fork() };
    match check(libc::c_long::from(pid), || "fork()".into())? {
        0 => Ok(Born::Child { in_cgroup: false }),
        pid => Ok(Born::Parent { child: PidFd::adopt(pid as i32, None) }),
    }
}

/// Ends this process at once: no destructors, no atexit handlers of the program we are a copy of.
#[allow(unsafe_code)]
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// This process cannot be traced or read through /proc by others, and leaves no core file (design §4: asserted
/// again before each birth, because setuid and execve change it).
pub fn set_undumpable() -> Result<()> {
    nix::sys::prctl::set_dumpable(false).call(|| "prctl(PR_SET_DUMPABLE, 0)".into())
}

/// Ends with its parent.
pub(crate) fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).call(|| "prctl(PR_SET_PDEATHSIG, SIGKILL)".into())
}

/// A worker's answer may be this long, descriptors aside.
pub const WORKER_ANSWER_BYTES_MAX: usize = 16 << 20;

/// A child that computes one value. Watch `result_fd` for reading (and `deadline`), then call `poll`.
/// Dropping it kills the child and all of its process group, and reaps it.
#[derive(Debug)]
pub struct Worker<T> {
    child: PidFd,
    result: OwnedFd,
    deadline: Instant,
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
    finished: bool,
    value: PhantomData<fn() -> T>,
}

/// Runs `f` in a child of its own process group, until `deadline` (an amount from now). The value comes over a
/// socket; `f` may do everything that one must not do on the loop: wait for disks, mount, run tools.
pub fn worker<T, F>(deadline: Duration, f: F) -> Result<Worker<T>>
where
    T: Serialize + DeserializeOwned,
    F: FnOnce() -> Result<T, String>,
{
    worker_with_fds(deadline, || f().map(|value| (value, Vec::new())))
}

/// As `worker`, with descriptors beside the value: `Worker::take_fds`.
pub fn worker_with_fds<T, F>(deadline: Duration, f: F) -> Result<Worker<T>>
where
    T: Serialize + DeserializeOwned,
    F: FnOnce() -> Result<(T, Vec<OwnedFd>), String>,
{
    let (ours, theirs) = fd::stream_pair()?;
    match birth(Birth::default())? {
        Born::Parent { child } => {
            drop(theirs);
            fd::set_nonblocking(ours.as_fd(), true)?;
            Ok(Worker {
                child,
                result: ours,
                deadline: Instant::now() + deadline,
                bytes: Vec::new(),
                fds: Vec::new(),
                finished: false,
                value: PhantomData,
            })
        }
        Born::Child { .. } => {
            drop(ours);
            exit_now(work(theirs, f))
        }
    }
}

fn work<T: Serialize>(answer: OwnedFd, f: impl FnOnce() -> Result<(T, Vec<OwnedFd>), String>) -> i32 {
    reset_dispositions();
    let prepared = nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0))
        .call(|| "setpgid(0, 0)".into())
        .and_then(|()| die_with_parent())
        .and_then(|()| unblock_all());
    // A panic unwinds only in tests; elsewhere it aborts, and the parent sees a worker that died without an answer.
    let done = match prepared {
        Err(error) => Err(error.to_string()),
        Ok(()) => std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
        }),
    };
    let (value, fds) = match done {
        Ok((value, fds)) => (Ok(value), fds),
        Err(text) => (Err(text), Vec::new()),
    };
    let Ok(mut bytes) = serde_json::to_vec(&value) else { return 70 };
    bytes.push(b'\n');
    let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut sent = match fd::send_message(answer.as_fd(), &bytes, &borrowed) {
        Ok(sent) => sent,
        Err(_) => return 71,
    };
    while sent < bytes.len() {
        match fd::send_message(answer.as_fd(), &bytes[sent..], &[]) {
            Ok(more) => sent += more,
            Err(_) => return 71,
        }
    }
    0
}

impl<T: DeserializeOwned> Worker<T> {
    /// Readable when the worker has something to say or has ended.
    pub fn result_fd(&self) -> BorrowedFd<'_> {
        self.result.as_fd()
    }

    pub fn pidfd(&self) -> &PidFd {
        &self.child
    }

    /// "Wake me then": `poll` gives up at this time.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// None while it works and the deadline has not passed.
    pub fn poll(&mut self, now: Instant) -> Option<Result<T, String>> {
        loop {
            match fd::receive_message(self.result.as_fd(), 64 << 10) {
                Ok(message) if message.is_end() => return Some(self.answer()),
                Ok(message) => {
                    self.bytes.extend_from_slice(&message.bytes);
                    self.fds.extend(message.fds);
                    if self.bytes.len() > WORKER_ANSWER_BYTES_MAX {
                        self.kill();
                        return Some(Err(format!("the worker's answer exceeds {WORKER_ANSWER_BYTES_MAX} bytes")));
                    }
                    if self.bytes.last() == Some(&b'\n') {
                        return Some(self.answer());
                    }
                }
                Err(error) if error.errno() == Errno::EAGAIN && now < self.deadline => return None,
                Err(error) if error.errno() == Errno::EAGAIN => {
                    self.kill();
                    return Some(Err("the worker did not finish before its deadline".into()));
                }
                Err(error) => {
                    self.kill();
                    return Some(Err(error.to_string()));
                }
            }
        }
    }

    fn answer(&mut self) -> Result<T, String> {
        if self.bytes.last() != Some(&b'\n') {
            self.kill_group();
            let exit = self.child.reap_soon().map_err(|error| error.to_string())?;
            self.finished = true;
            return Err(match exit {
                None => "the worker closed its answer and does not end".into(),
                Some(Exit::Code(code)) => format!("the worker ended with exit code {code} and no answer"),
                Some(Exit::Signal { signal, .. }) => format!("the worker was killed by signal {signal}"),
            });
        }
        self.kill();
        serde_json::from_slice::<Result<T, String>>(&self.bytes)
            .unwrap_or_else(|error| Err(format!("the worker's answer: {error}")))
    }

    /// Blocks until the answer or the deadline: for the CLI, workers and tests.
    pub fn wait(mut self) -> Result<T, String> {
        self.wait_mut()
    }

    /// As `wait`, with the worker kept for `take_fds`.
    pub fn wait_mut(&mut self) -> Result<T, String> {
        loop {
            if let Some(answer) = self.poll(Instant::now()) {
                return answer;
            }
            wait_readable(self.result.as_fd(), self.deadline).map_err(|error| error.to_string())?;
        }
    }
}

impl<T> Worker<T> {
    /// The answer is in hand or no longer wanted: whatever is left of the group ends here.
    fn kill(&mut self) {
        if !self.finished {
            self.kill_group();
            let _ = self.child.reap_soon();
            self.finished = true;
        }
    }

    #[allow(unsafe_code)]
    fn kill_group(&self) {
        // SAFETY: the group bears the number of our unreaped child, so it is that child's group or does not exist yet.
        unsafe { libc::kill(-self.child.pid(), libc::SIGKILL) };
        let _ = self.child.send_signal(Signal::SIGKILL);
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Blocks until `fd` can be read or `deadline` passes.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, deadline: Instant) -> Result<()> {
    wait_for(fd, PollFlags::POLLIN, deadline)
}

/// Blocks until `fd` has one of these, or its other end is closed, or `deadline` passes.
pub(crate) fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A millisecond more than left, so that the caller sees the deadline as passed.
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, events)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Error::new(format!("poll({})", fd::describe(fd)), errno)),
    }
}
