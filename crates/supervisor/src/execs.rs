//! A command in a running container for `killick exec`, in a leaf cgroup as a probe's.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use killick_container::cgroup::Leaf;
use killick_container::{Exec, ExecRequest, Progress, Stdio};
use killick_sys::facts::Facts;
use killick_sys::pidfd::PidFd;
use killick_sys::spawn::set_undumpable;

use crate::context::Context;
use crate::live::Live;

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
        let leaf = live.execs.leafs().borrow_mut().acquire().map_err(|error| error.to_string())?;
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
                let _ = live.execs.leafs().borrow_mut().release(leaf);
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

    /// The leaf goes back to its pool. One in which the command has left something running goes with the container.
    fn give_back(&mut self) {
        if let Some(leaf) = self.leaf.take()
            && let Err(error) = self.live.execs.leafs().borrow_mut().release(leaf)
        {
            self.context.complain(&error.to_string());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.give_back();
    }
}

pub fn null() -> Result<OwnedFd, String> {
    std::fs::File::open("/dev/null").map(OwnedFd::from).map_err(|error| format!("open /dev/null: {error}"))
}
