//! A filter that asks somebody (`SCMP_ACT_NOTIFY`): how its descriptor comes from the child that loads it to the parent.
//!
//! ```text
//! child                              parent
//!   Listener { fd: N }  ──channel──►   N is the child's next free number
//!   seccomp(NEW_LISTENER) = N
//!   waits, maybe in the filter         pidfd_getfd(child, N), until it is there; hands it to whoever answers
//!   goes on             ◄──channel──   KNOWN
//! ```
//! The child says it before: from the filter on, its every call may wait for an answer that nobody gives yet.

use super::error::LaunchError;
use super::run::{Child, FAILED};
use super::spawn::Report;
use crate::error::{Context, Error, Result};
use crate::fd;
use crate::pidfd::PidFd;
use crate::seccomp::Filter;
use crate::spawn::exit_now;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The word that lets the child go on.
const KNOWN: &[u8] = b"known";
/// Looks at the child's descriptors, a millisecond apart; it loads the filter meanwhile.
const LOOKS_MAX: u32 = 200;

/// What the parent knows of it.
#[derive(Debug, Default)]
pub(super) enum Listening {
    #[default]
    Not,
    /// Told by the child: under this number.
    At(i32),
    Taken(OwnedFd),
    /// The same, and the child goes on already: nothing more is said to it. (A word that it never reads would turn the
    /// end of the channel into ECONNRESET, before what it said last.)
    Released(OwnedFd),
    /// With whoever answers; the child waits.
    Given,
}

impl Child<'_> {
    pub(super) fn load_listener(&self, filter: &Filter) -> Result<(), LaunchError> {
        let next = nix::unistd::dup(&self.channel).call(|| "dup(channel)".into())?;
        let number = next.as_raw_fd();
        drop(next);
        self.report(&Report::Listener { fd: number }, None);
        let count = filter.program.len();
        let listener = filter
            .load_listener()
            .call(|| format!("seccomp(SECCOMP_SET_MODE_FILTER, NEW_LISTENER, {count} instructions)"))?;
        match fd::receive_message(self.channel.as_fd(), KNOWN.len()) {
            Ok(message) if message.bytes == KNOWN => {}
            Ok(_) => exit_now(FAILED),
            Err(error) => return Err(error.into()),
        }
        drop(listener);
        Ok(())
    }
}

impl Listening {
    /// The descriptor, once the child has it; None when it is not there in time, or `channel` has news first.
    pub(super) fn fetch(&mut self, child: &PidFd, channel: BorrowedFd<'_>) -> Result<bool> {
        let Listening::At(number) = *self else { return Ok(false) };
        for _ in 0..LOOKS_MAX {
            match child.get_fd(number) {
                Ok(fd) if crate::seccomp::is_listener(fd.as_fd()) => {
                    *self = Listening::Taken(fd);
                    return Ok(true);
                }
                // Not yet.
                Ok(_) => {}
                Err(error) if error.errno() == Errno::EBADF => {}
                Err(error) => return Err(error),
            }
            let mut news = [PollFd::new(channel, PollFlags::POLLIN)];
            match poll(&mut news, PollTimeout::from(1u8)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(false),
                Err(errno) => return Err(Error::new("poll(a birth)", errno)),
            }
        }
        Ok(false)
    }

    pub(super) fn release(channel: BorrowedFd<'_>) -> Result<()> {
        match fd::send_message(channel, KNOWN, &[]) {
            // What it died of is on the channel.
            Err(error) if matches!(error.errno(), Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            sent => sent.map(drop),
        }
    }
}
