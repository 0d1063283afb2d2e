//! Commands in a running container: for probes and hooks, and for `killick exec`. Each runs in a leaf cgroup.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use killick_container::cgroup::Leaf;
use killick_container::{Exec, ExecRequest, Progress, Stdio};
use killick_prober::exec::{Command, Launcher, Poll, Process};
use killick_sys::facts::Facts;
use killick_sys::pidfd::PidFd;
use killick_sys::spawn::set_undumpable;

use crate::context::Context;
use crate::live::Live;
use crate::reap::{until_zero, wait_for_end};

/// A command that is being started or runs.
#[derive(Debug)]
pub struct Running {
    pub context: Rc<Context>,
    live: Rc<Live>,
    leaf: Option<Leaf>,
    exec: Option<Exec>,
    process: Option<PidFd>,
}

impl Running {
    /// `Err` is the runtime's text.
    pub fn start(
        context: &Rc<Context>,
        live: &Rc<Live>,
        args: Vec<String>,
        env: Vec<String>,
        stdio: Stdio,
    ) -> Result<Running, String> {
        set_undumpable().map_err(|error| error.to_string())?;
        let leaf = live.leafs.borrow_mut().acquire().map_err(|error| error.to_string())?;
        let facts: &Facts = &context.host.facts;
        let request = ExecRequest { env, ..ExecRequest::new(args, stdio, Some(leaf.attach())) };
        match killick_container::exec(facts, &live.container, request) {
            Ok(exec) => Ok(Running {
                context: Rc::clone(context),
                live: Rc::clone(live),
                leaf: Some(leaf),
                exec: Some(exec),
                process: None,
            }),
            Err(error) => {
                let _ = live.leafs.borrow_mut().release(leaf);
                Err(error.to_string())
            }
        }
    }

    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        match (&self.exec, &self.process) {
            (Some(exec), _) => Some(exec.channel()),
            (None, Some(process)) => process.as_fd(),
            (None, None) => None,
        }
    }

    /// The pty's master, once, when the command runs.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.exec.as_mut().and_then(Exec::take_terminal)
    }

    /// How far the start has come.
    pub fn progress(&mut self) -> Progress {
        match &mut self.exec {
            Some(exec) => exec.progress(),
            None => Progress::Running,
        }
    }

    /// The process, once it runs.
    pub fn process(&mut self) -> Result<&PidFd, String> {
        if let Some(exec) = self.exec.take() {
            self.process = Some(exec.into_process().map_err(|error| error.to_string())?);
        }
        self.process.as_ref().ok_or_else(|| "the command does not run".to_owned())
    }

    fn look(&mut self) -> Poll {
        match self.progress() {
            Progress::Pending | Progress::AtGate => return Poll::Pending,
            Progress::Failed(error) => return Poll::Failed(error.to_string()),
            Progress::Running => {}
        }
        let process = match self.process() {
            Ok(process) => process,
            Err(error) => return Poll::Failed(error),
        };
        match process.wait() {
            Ok(Some(exit)) => Poll::Exited(exit.code()),
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Failed(error.to_string()),
        }
    }

    /// The leaf goes back to its pool. One in which the command has left something running goes with the container.
    fn give_back(&mut self) {
        if let Some(leaf) = self.leaf.take()
            && let Err(error) = self.live.leafs.borrow_mut().release(leaf)
        {
            self.context.complain(&error.to_string());
        }
    }

    /// Kills whatever the command has started, reaps what is ours, and gives the leaf back.
    pub fn kill_all(&mut self) {
        let (exec, process, leaf) = (self.exec.take(), self.process.take(), self.leaf.take());
        let (live, context) = (Rc::clone(&self.live), Rc::clone(&self.context));
        let process = match exec.map(Exec::into_process) {
            Some(Ok(process)) => Some(process),
            _ => process,
        };
        tokio::task::spawn_local(async move {
            let Some(leaf) = leaf else { return };
            {
                let mut kill = leaf.kill();
                let step = || kill.step().map_err(|error| error.to_string());
                if let Err(error) = until_zero("kill a command", step).await {
                    context.complain(&error);
                }
            }
            if let Some(process) = process {
                let _ = process.send_signal(nix::sys::signal::Signal::SIGKILL);
                wait_for_end(&process).await;
            }
            if let Err(error) = live.leafs.borrow_mut().release(leaf) {
                context.complain(&error.to_string());
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Process for Running {
    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel()
    }

    fn poll(&mut self) -> Poll {
        self.look()
    }

    fn kill(&mut self) {
        self.kill_all();
    }
}

/// Starts a probe's or hook's command in the container.
#[derive(Debug)]
pub struct InContainer {
    pub context: Rc<Context>,
    pub live: Rc<Live>,
}

impl Launcher for InContainer {
    fn launch(&self, command: Command) -> Result<Box<dyn Process>, String> {
        let Command { args, stdout, stderr } = command;
        let stdin = null()?;
        let stdio = Stdio::Streams { stdin, stdout, stderr };
        Running::start(&self.context, &self.live, args, Vec::new(), stdio).map(|run| Box::new(run) as Box<dyn Process>)
    }
}

pub fn null() -> Result<OwnedFd, String> {
    std::fs::File::open("/dev/null").map(OwnedFd::from).map_err(|error| format!("open /dev/null: {error}"))
}
