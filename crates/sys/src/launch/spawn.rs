//! The parent's side of a birth: one socket to the child says what became of it, so that a loop can watch it.

use super::bare;
use super::error::LaunchError;
use super::listener::Listening;
use super::plan::{Fd, Ids, Plan, Step, above_stdio};
use super::run;
use crate::error::{Error, Result};
use crate::fd;
use crate::ns;
use crate::pidfd::{Exit, PidFd};
use crate::spawn::{Birth, Born, birth, exit_now, set_undumpable, wait_for, wait_readable};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Instant;

/// Where the child's PID namespace comes from.
#[derive(Debug, Clone, Copy)]
pub enum PidNamespace<'a> {
    Inherit,
    /// Born inside this one (an `ns/pid` descriptor, or a pidfd where setns takes it), still our child.
    Inside(BorrowedFd<'a>),
    /// The first process of its own.
    New,
}

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Warning(String),
    /// With the pty's master.
    Terminal,
    /// With the pidfd of the process that goes on in our place (where the kernel has pidfds).
    Inside {
        pid: i32,
    },
    Gate,
    /// The next thing is a filter whose listener will have this number.
    Listener {
        fd: i32,
    },
    /// Who the process will be, and its home directory where one had to be looked up.
    User(Ids, Option<String>),
    /// The next thing is execve.
    Executing,
    Failed(LaunchError),
}

/// Two paths and some words.
pub(crate) const REPORT_BYTES_MAX: usize = 16 << 10;
/// The word that opens a gate.
pub const GO: &[u8] = b"go";
/// Warnings of one birth; more are dropped.
const WARNINGS_MAX: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    Pending,
    /// All is set up; `open_gate` lets it execve.
    AtGate,
    /// execve has succeeded.
    Running,
    Failed(LaunchError),
}

/// A process being born. Dropping it before `Running` kills and reaps the child.
#[derive(Debug)]
pub struct Launch {
    /// The process that becomes the program; until `Inside` is told, the one that prepares it.
    process: Option<PidFd>,
    /// The one that prepared it from outside; ends by itself.
    helper: Option<PidFd>,
    channel: OwnedFd,
    progress: Progress,
    gate_reached: bool,
    gate_open: bool,
    warnings: Vec<String>,
    terminal: Option<OwnedFd>,
    user: Option<(Ids, Option<String>)>,
    inside: Inside,
    /// The helper's number: where there is one, only it may say who the process is. What is born among tracers has the
    /// channel too, and a tracer takes its descriptors.
    prepared_by: Option<i32>,
    /// Who comes in the helper's place goes on with its steps.
    goes_on: bool,
    executing: bool,
    listening: Listening,
    /// The plan of a child without heap, which names the step that failed by number, and its end of the channel.
    bare: Option<(Plan, RawFd)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// `process` is the one.
    Here,
    /// `process` is the helper whose last act is to bear it.
    Awaited,
}

impl Inside {
    fn of(plan: &Plan) -> Self {
        if plan.steps.iter().any(|step| matches!(step, Step::BirthInside | Step::GoOn)) {
            Inside::Awaited
        } else {
            Inside::Here
        }
    }
}

/// Starts the child that runs `plan`. `cgroup` is a v2 directory to be born in.
pub fn launch(plan: Plan, pid: PidNamespace<'_>, cgroup: Option<Fd>) -> Result<Launch, LaunchError> {
    set_undumpable()?;
    let visit = match pid {
        PidNamespace::Inherit | PidNamespace::New => None,
        PidNamespace::Inside(target) => Some(ns::enter(target, ns::NamespaceKind::Pid).map_err(dead_namespace)?),
    };
    let new_pid_namespace = matches!(pid, PidNamespace::New);
    let plan = match bare::fits(&plan) && !new_pid_namespace {
        true => match launch_bare(plan, cgroup)? {
            Ok(launch) => return Ok(launch),
            Err(plan) => plan,
        },
        false => plan,
    };
    let (ours, theirs) = fd::seqpacket_pair()?;
    let theirs = above_stdio(theirs);
    fd::set_nonblocking(ours.as_fd(), true)?;
    if Inside::of(&plan) == Inside::Awaited {
        fd::ask_for_senders(ours.as_fd())?;
    }
    let into_cgroup = cgroup.map(|fd| plan.fds[fd.0].1.as_fd());
    match birth(Birth { into_cgroup, new_pid_namespace, sibling: false }).map_err(dead_namespace)? {
        Born::Parent { child } => {
            drop(visit);
            let mut launch = Launch::new(child, ours, Inside::of(&plan));
            launch.goes_on = plan.steps.iter().any(|step| matches!(step, Step::GoOn));
            Ok(launch)
        }
        Born::Child { in_cgroup } => {
            std::mem::forget(visit);
            drop(ours);
            exit_now(run::run(&plan, theirs, in_cgroup))
        }
    }
}

/// The plan comes back where it cannot be done without heap after all.
fn launch_bare(plan: Plan, cgroup: Option<Fd>) -> Result<Result<Launch, Plan>, LaunchError> {
    let (ours, theirs) = bare::channel()?;
    let theirs = above_stdio(theirs);
    let mut room = [MaybeUninit::uninit(); _];
    let Some(bare) = bare::prepare(&plan, theirs.as_fd(), &mut room)? else { return Ok(Err(plan)) };
    let born = bare.bear(cgroup.map(|fd| plan.fds[fd.0].1.as_fd()));
    drop(bare);
    match born {
        Ok(child) => {
            let mut launch = Launch::new(child, ours, Inside::Here);
            launch.bare = Some((plan, theirs.as_raw_fd()));
            Ok(Ok(launch))
        }
        // Without clone3 there are other ways.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP) => Ok(Err(plan)),
        Err(errno) => Err(dead_namespace(Error::new("clone3(CLONE_PIDFD|CLONE_CLEAR_SIGHAND)", errno))),
    }
}

/// ESRCH from setns and ENOMEM from clone say that the namespace's init is dead.
fn dead_namespace(error: Error) -> LaunchError {
    match error.errno() {
        Errno::ESRCH | Errno::ENOMEM => LaunchError::NotRunning,
        _ => LaunchError::Call(error),
    }
}

impl Launch {
    /// A process that another command left at its gate (`Step::GateSocket`), by the connection to it.
    pub fn at_gate(process: PidFd, channel: OwnedFd) -> Result<Self, LaunchError> {
        fd::set_nonblocking(channel.as_fd(), true)?;
        let mut launch = Launch::new(process, channel, Inside::Here);
        (launch.progress, launch.gate_reached) = (Progress::AtGate, true);
        Ok(launch)
    }

    fn new(process: PidFd, channel: OwnedFd, inside: Inside) -> Self {
        Launch {
            prepared_by: (inside == Inside::Awaited).then(|| process.pid()),
            goes_on: false,
            process: Some(process),
            helper: None,
            channel,
            progress: Progress::Pending,
            gate_reached: false,
            gate_open: false,
            warnings: Vec::new(),
            terminal: None,
            user: None,
            inside,
            executing: false,
            listening: Listening::Not,
            bare: None,
        }
    }

    /// Readable when `progress` has something new.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// None while a child outside the PID namespace prepares it.
    pub fn process(&self) -> Option<&PidFd> {
        self.process.as_ref().filter(|_| self.inside == Inside::Here)
    }

    /// The child that was made: the process, or the one that prepares it from outside.
    pub fn child(&self) -> Option<&PidFd> {
        self.process.as_ref()
    }

    /// What could not be done and was not fatal.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Who the process is, once its user is found.
    pub fn user(&self) -> Option<&Ids> {
        self.user.as_ref().map(|(ids, _)| ids)
    }

    /// The HOME that the process got because its environment has none.
    pub fn home(&self) -> Option<&str> {
        self.user.as_ref().and_then(|(_, home)| home.as_deref())
    }

    /// The pty's master, once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The process, for whoever waits for it from now on.
    pub fn into_process(mut self) -> Option<PidFd> {
        self.progress = Progress::Running;
        self.reap_helper();
        self.process.take()
    }

    /// Reads what the child has told; never blocks, except to reap a child that has told its failure and ends.
    pub fn progress(&mut self) -> Progress {
        let mut was_reset = false;
        while matches!(self.progress, Progress::Pending) || (self.gate_open && self.progress == Progress::AtGate) {
            let received = match self.bare {
                Some(_) => bare::receive(self.channel.as_fd()),
                None => fd::receive_message(self.channel.as_fd(), REPORT_BYTES_MAX),
            };
            match received {
                Ok(message) if message.is_end() => self.ended(),
                Ok(message) => self.heard(message),
                Err(error) if error.errno() == Errno::EAGAIN => {
                    self.fetch_listener();
                    break;
                }
                // It went without reading all of ours, which is told once, before what it said last.
                Err(error) if error.errno() == Errno::ECONNRESET && !was_reset => was_reset = true,
                Err(error) if error.errno() == Errno::ECONNRESET => self.ended(),
                Err(error) => self.fail(LaunchError::Call(error)),
            }
        }
        self.progress.clone()
    }

    /// The filter's listener, once the child has loaded it: for whoever answers. The child goes on with
    /// `listener_is_known`.
    pub fn take_listener(&mut self) -> Option<OwnedFd> {
        // The process that it speaks for must be known too.
        if self.inside == Inside::Awaited {
            return None;
        }
        match std::mem::take(&mut self.listening) {
            Listening::Taken(fd) => {
                self.listening = Listening::Given;
                Some(fd)
            }
            Listening::Released(fd) => Some(fd),
            other => {
                self.listening = other;
                None
            }
        }
    }

    pub fn listener_is_known(&mut self) -> Result<(), LaunchError> {
        match std::mem::take(&mut self.listening) {
            Listening::Given => Ok(Listening::release(self.channel.as_fd())?),
            Listening::Not | Listening::At(_) | Listening::Taken(_) | Listening::Released(_) => Ok(()),
        }
    }

    /// Gives the birth up, for a reason of the caller's.
    pub fn give_up(&mut self, error: LaunchError) {
        self.fail(error);
    }

    fn fetch_listener(&mut self) {
        let Some(process) = self.process.as_ref().filter(|_| self.progress == Progress::Pending) else { return };
        let taken = self.listening.fetch(process, self.channel.as_fd());
        // A helper bears the process only afterwards.
        let taken = match taken {
            Ok(true) if self.inside == Inside::Awaited => {
                if let Listening::Taken(fd) = std::mem::take(&mut self.listening) {
                    self.listening = Listening::Released(fd);
                }
                Listening::release(self.channel.as_fd())
            }
            other => other.map(drop),
        };
        if let Err(error) = taken {
            self.fail(LaunchError::Call(error));
        }
    }

    fn heard(&mut self, message: fd::Message) {
        if let Some((plan, channel)) = &self.bare {
            let Some(word) = bare::Word::read(&message.bytes) else {
                return self.fail(LaunchError::Died("unreadable report".into()));
            };
            match word.kind {
                bare::Kind::Executing => self.executing = true,
                bare::Kind::Warning if self.warnings.len() < WARNINGS_MAX => {
                    self.warnings.push(bare::explain(plan, *channel, word).to_string());
                }
                bare::Kind::Warning => {}
                bare::Kind::Failed => self.fail(bare::explain(plan, *channel, word)),
            }
            return;
        }
        let is_preparer = self.prepared_by.is_none() || self.prepared_by == message.sender;
        let mut fds = message.fds.into_iter();
        match serde_json::from_slice(&message.bytes) {
            // Forged: nothing is believed but what a process may say of itself.
            Ok(
                Report::Warning(_)
                | Report::User(..)
                | Report::Terminal
                | Report::Inside { .. }
                | Report::Listener { .. },
            ) if !is_preparer => {}
            Ok(Report::Inside { .. }) if self.inside == Inside::Here => {}
            Ok(Report::Warning(text)) if self.warnings.len() < WARNINGS_MAX => self.warnings.push(text),
            Ok(Report::Warning(_)) => {}
            Ok(Report::User(ids, home)) => self.user = Some((ids, home)),
            Ok(Report::Terminal) => self.terminal = fds.next(),
            Ok(Report::Inside { pid }) => {
                self.helper = self.process.replace(PidFd::adopt(pid, fds.next()));
                self.inside = Inside::Here;
                // What was born by `GoOn` is no program yet: it has its own to tell.
                self.prepared_by = self.prepared_by.filter(|_| !self.goes_on);
            }
            Ok(Report::Gate) => self.gate_reached = true,
            Ok(Report::Listener { fd }) => self.listening = Listening::At(fd),
            Ok(Report::Executing) => self.executing = true,
            Ok(Report::Failed(error)) => self.fail(error),
            Err(error) => self.fail(LaunchError::Died(format!("unreadable report: {error}"))),
        }
        if self.gate_reached && self.inside == Inside::Here && self.progress == Progress::Pending {
            self.progress = Progress::AtGate;
        }
    }

    /// The channel closed: by execve, or by a death without a word. Which of the two, the announcement tells: a short
    /// program may be a zombie by now. A kill between announcement and execve is reported by its exit, as any other.
    fn ended(&mut self) {
        self.reap_helper();
        self.bare = None;
        if self.executing {
            self.progress = Progress::Running;
        } else if let Some(process) = self.process.take() {
            let _ = process.send_signal(Signal::SIGKILL);
            let exit = process.reap_soon();
            self.died(exit);
        }
    }

    fn died(&mut self, exit: Result<Option<Exit>>) {
        self.process = None;
        let text = match exit {
            Ok(Some(Exit::Code(code))) => format!("exit code {code}"),
            Ok(Some(Exit::Signal { signal, .. })) => format!("signal {signal}"),
            Ok(None) => "it cannot be killed".into(),
            Err(error) => error.to_string(),
        };
        self.progress = Progress::Failed(LaunchError::Died(text));
    }

    fn fail(&mut self, error: LaunchError) {
        self.kill();
        self.bare = None;
        self.progress = Progress::Failed(error);
    }

    /// Lets a process at its gate go on to execve.
    pub fn open_gate(&mut self) -> Result<(), LaunchError> {
        self.gate_open = true;
        match fd::send_message(self.channel.as_fd(), GO, &[]) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.errno(), Errno::EPIPE | Errno::ECONNRESET) => Err(LaunchError::NotRunning),
            Err(error) => Err(LaunchError::Call(error)),
        }
    }

    /// Blocks until the progress is no longer `Pending`, nor `AtGate` once the gate is open. For tests and tools.
    pub fn wait(&mut self, deadline: Instant) -> Progress {
        self.wait_with(deadline, |_| {})
    }

    /// As `wait`; `attend` is called after each look.
    pub fn wait_with(&mut self, deadline: Instant, mut attend: impl FnMut(&mut Self)) -> Progress {
        loop {
            self.progress();
            attend(self);
            let progress = self.progress.clone();
            let settled = match progress {
                Progress::Pending => false,
                Progress::AtGate => !self.gate_open,
                Progress::Running | Progress::Failed(_) => true,
            };
            if settled {
                return progress;
            }
            if Instant::now() >= deadline {
                self.fail(LaunchError::Late);
                return self.progress.clone();
            }
            // A child without heap asks for nothing: nobody has to be woken before its end of the channel closes.
            let waited = match self.bare {
                Some(_) => wait_for(self.channel.as_fd(), PollFlags::empty(), deadline),
                None => wait_readable(self.channel.as_fd(), self.next_look(deadline)),
            };
            if let Err(error) = waited {
                self.fail(LaunchError::Call(error));
            }
        }
    }

    /// A child that waits in its filter sends nothing: it must be looked at.
    pub fn next_look(&self, deadline: Instant) -> Instant {
        match self.listening {
            Listening::At(_) => deadline.min(Instant::now() + std::time::Duration::from_millis(10)),
            Listening::Not | Listening::Taken(_) | Listening::Released(_) | Listening::Given => deadline,
        }
    }

    fn kill(&mut self) {
        let end = |process: &PidFd| {
            let _ = process.send_signal(Signal::SIGKILL);
            let _ = process.reap_soon();
        };
        self.helper.iter().chain(&self.process).for_each(end);
        (self.helper, self.process) = (None, None);
        // A helper may have told of its child without being heard yet.
        while self.inside == Inside::Awaited {
            match fd::receive_message(self.channel.as_fd(), REPORT_BYTES_MAX) {
                Ok(message) if !message.is_end() => {
                    if self.prepared_by == message.sender
                        && let Ok(Report::Inside { pid }) = serde_json::from_slice(&message.bytes)
                    {
                        end(&PidFd::adopt(pid, message.fds.into_iter().next()));
                        self.inside = Inside::Here;
                    }
                }
                Ok(_) | Err(_) => break,
            }
        }
    }

    fn reap_helper(&mut self) {
        if let Some(helper) = self.helper.take() {
            let _ = helper.reap_soon();
        }
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        match self.progress {
            Progress::Pending | Progress::AtGate => self.kill(),
            Progress::Running | Progress::Failed(_) => self.reap_helper(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(prepared_by: i32) -> (Launch, OwnedFd) {
        let (ours, theirs) = fd::seqpacket_pair().unwrap();
        fd::ask_for_senders(ours.as_fd()).unwrap();
        let mut launch = Launch::at_gate(PidFd::open(std::process::id() as i32).unwrap(), ours).unwrap();
        launch.progress = Progress::Pending;
        launch.gate_reached = false;
        launch.inside = Inside::Awaited;
        launch.prepared_by = Some(prepared_by);
        (launch, theirs)
    }

    fn tell(channel: &OwnedFd, report: &Report) {
        fd::send_message(channel.as_fd(), &serde_json::to_vec(report).unwrap(), &[]).unwrap();
    }

    /// A tracer of the half-born process has its descriptors. Without the check the shim would take pid 1 for the
    /// process, and kill it at the deadline; and run later execs as root.
    #[test]
    fn nobody_but_the_helper_says_who_the_process_is() {
        let own = std::process::id() as i32;
        let (mut forged, channel) = launch(own + 1);
        tell(&channel, &Report::User(Ids::default(), Some("/forged".into())));
        tell(&channel, &Report::Terminal);
        tell(&channel, &Report::Warning("forged".into()));
        tell(&channel, &Report::Inside { pid: 1 });
        assert_eq!(forged.progress(), Progress::Pending);
        assert_eq!((forged.user(), forged.home(), forged.warnings().len()), (None, None, 0));
        assert_eq!(forged.process.as_ref().map(PidFd::pid), Some(own));
        // `drop` would kill what it takes for its child: us.
        forged.process = None;
        forged.inside = Inside::Here;

        let (mut true_one, channel) = launch(own);
        tell(&channel, &Report::Inside { pid: own });
        tell(&channel, &Report::Inside { pid: 1 });
        tell(&channel, &Report::Gate);
        assert_eq!(true_one.progress(), Progress::AtGate);
        assert_eq!(true_one.process().map(PidFd::pid), Some(own), "the second one is not heard");
        (true_one.process, true_one.helper) = (None, None);
    }
}
