//! Waiting on the one loop: for a descriptor, for a worker, for a process.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use killick_sys::pidfd::PidFd;
use killick_sys::spawn::Worker;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout_at;

/// How often a process is looked at where the kernel has no pidfds, and an outside process where it cannot be waited
/// for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A duplicate of a descriptor, watched for reading.
#[derive(Debug)]
pub struct Readable(AsyncFd<Watched>);

#[derive(Debug)]
struct Watched(OwnedFd);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Readable {
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Readable> {
        let owned = Watched(fd.try_clone_to_owned()?);
        AsyncFd::with_interest(owned, Interest::READABLE).map(Readable)
    }

    /// Returns when there is something to read, or the other side has gone. What is read must be read to the end
    /// (EAGAIN): the next call waits for news.
    pub async fn news(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

/// The worker's value, before its deadline.
pub async fn finish<T: DeserializeOwned>(worker: &mut Worker<T>) -> Result<T, String> {
    let readable = Readable::new(worker.result_fd()).map_err(|error| error.to_string())?;
    let deadline = tokio::time::Instant::from_std(worker.deadline());
    loop {
        if let Some(answer) = worker.poll(Instant::now()) {
            return answer;
        }
        // Late or failed: the next poll says it.
        let _ = timeout_at(deadline, readable.news()).await;
    }
}

/// Returns when the process has ended (it may still be a zombie).
pub async fn ended(process: &PidFd) {
    let Some(readable) = process.as_fd().and_then(|fd| Readable::new(fd).ok()) else {
        while process.is_running() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        return;
    };
    while process.is_running() {
        // A pidfd stays readable, so a spurious wake-up cannot lose the end.
        let _ = readable.news().await;
    }
}
