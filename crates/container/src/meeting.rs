//! Moments of a birth at which the child waits and the runtime does its part, in the order of the child's plan.

use killick_sys::error::Error;
use killick_sys::fd;
use killick_sys::launch::{GO, LaunchError, Plan, Step};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the runtime does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// Devices of the host and their names inside.
    NetDevices(Vec<(String, String)>),
    /// prestart and createRuntime.
    Hooks,
}

/// The runtime's end of the socket, and what is still to come.
#[derive(Debug, Default)]
pub(crate) struct Meetings {
    socket: Option<OwnedFd>,
    queue: VecDeque<Meeting>,
    step: Option<killick_sys::launch::Fd>,
}

impl Meetings {
    /// The child will wait here.
    pub(crate) fn plan(&mut self, plan: &mut Plan, meeting: Meeting) -> Result<(), Error> {
        let step = match self.step {
            Some(step) => step,
            None => {
                let (ours, theirs) = fd::seqpacket_pair()?;
                self.socket = Some(ours);
                *self.step.insert(plan.fd("rendezvous", theirs))
            }
        };
        plan.push(Step::Rendezvous(step));
        self.queue.push_back(meeting);
        Ok(())
    }

    /// Readable when the child waits; None when nothing is to come.
    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| !self.queue.is_empty()).map(AsFd::as_fd)
    }

    /// What the child waits for, once it has said that it is here.
    pub(crate) fn next(&mut self) -> Option<Meeting> {
        let here = fd::receive_message(self.socket()?, 16).is_ok_and(|message| !message.is_end());
        if here { self.queue.pop_front() } else { None }
    }

    /// The child may go on. What it died of meanwhile is on the channel.
    pub(crate) fn done(&self) -> Result<(), LaunchError> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match fd::send_message(socket.as_fd(), GO, &[]) {
            Err(error) if matches!(error.errno(), Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            sent => Ok(sent.map(drop)?),
        }
    }
}
