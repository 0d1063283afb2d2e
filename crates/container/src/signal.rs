//! A signal for a container: for its first process, or for all of them where the kernel does not do the rest.

use crate::cgroup::Cgroup;
use crate::state::Container;
use std::time::Instant;

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The first process; SIGKILL reaches all if nothing else ends the others.
    First,
    All,
}

#[derive(Debug)]
pub struct Signalled<'a> {
    /// The first process, while there is one.
    pub container: Option<&'a Container>,
    pub cgroup: &'a Cgroup,
    /// A PID namespace of its own: with its first process all others die.
    pub private_pid: bool,
    pub is_paused: bool,
}

impl Signalled<'_> {
    /// Sends it; false when there was no process to send it to. A killed cgroup is empty before the deadline, or it is
    /// an error.
    pub fn send(&self, signal: i32, reach: Reach, deadline: Instant) -> Result<bool, String> {
        let kills = signal == libc::SIGKILL;
        let sent = match (reach, self.container) {
            (Reach::All, _) if kills => self.cgroup.kill_all(deadline).map(|()| true).map_err(text)?,
            (Reach::First, Some(_)) if kills && !self.private_pid => {
                self.cgroup.kill_all(deadline).map(|()| true).map_err(text)?
            }
            (Reach::All, _) => self.cgroup.signal_all(signal).map_err(text)? > 0,
            (Reach::First, Some(container)) => container.process().send_raw_signal(signal).map_err(text)?,
            (Reach::First, None) => false,
        };
        // What a v1 freezer holds dies when it thaws.
        if kills && self.is_paused {
            self.cgroup.thaw().map_err(text)?;
        }
        Ok(sent)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
