//! A command in the container: started by the caller's launcher, its output collected and bounded here.

use std::os::fd::{BorrowedFd, OwnedFd};

/// Starts commands in the container that is probed. Must not block.
pub trait Launcher {
    /// `Err` is the runtime's text, such as `exec: "foo": executable file not found in $PATH`.
    fn launch(&self, command: Command) -> Result<Box<dyn Process>, String>;
}

/// What to run, and the write ends that become its stdout and stderr; stdin is /dev/null.
#[derive(Debug)]
pub struct Command {
    pub args: Vec<String>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// A command that was launched. Dropping it must neither kill nor leak it: it is dropped only after it has ended or
/// after `kill`.
pub trait Process {
    /// Readable when `poll` has news; it may be another one after each `poll`. None: ask again from time to time
    /// (kernels without pidfds).
    fn wake_fd(&self) -> Option<BorrowedFd<'_>>;
    fn poll(&mut self) -> Poll;
    /// SIGKILL for everything that the command has started (its leaf cgroup). The dead are reaped by the caller's loop.
    fn kill(&mut self);
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
