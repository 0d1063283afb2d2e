//! Waiting for a birth on the one loop: a sandbox, a container, an exec.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use killick_container::{LaunchError, Progress};
use tokio::time::{Instant, timeout_at};

use crate::wait::Readable;

/// A process that is not ready after this time is killed.
pub const BIRTH_DEADLINE: Duration = Duration::from_secs(60);

/// The channel of one birth.
#[derive(Debug)]
pub struct Birth {
    channel: Readable,
    deadline: Instant,
}

impl Birth {
    pub fn watch(channel: BorrowedFd<'_>) -> Result<Birth, LaunchError> {
        let channel = Readable::new(channel).map_err(|error| LaunchError::Unsupported(error.to_string()))?;
        Ok(Birth { channel, deadline: Instant::now() + BIRTH_DEADLINE })
    }

    /// The next thing that `progress` says: it has come as far as `wanted`, or the birth has failed.
    pub async fn reaches(&self, wanted: Progress, mut progress: impl FnMut() -> Progress) -> Result<(), LaunchError> {
        loop {
            match progress() {
                Progress::Failed(error) => return Err(error),
                reached if reached == wanted => return Ok(()),
                Progress::Pending | Progress::AtGate | Progress::Running => {}
            }
            match timeout_at(self.deadline, self.channel.news()).await {
                Ok(_) => {}
                Err(_) => return Err(LaunchError::Late),
            }
        }
    }
}
