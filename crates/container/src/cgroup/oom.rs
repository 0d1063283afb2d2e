//! OOM notice: an eventfd on v1, POLLPRI of `memory.events` on v2. Never inotify: 128 instances a host.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use killick_sys::cgroup as files;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{CgroupError, keyed};
use crate::resources::Version;

/// Tells when the OOM killer has been at work in a cgroup. Poll `as_fd()` for `interest()`, then call `read()`.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    kills_seen: u64,
}

#[derive(Debug)]
enum Source {
    V1 { event: EventFd, oom_control: PathBuf },
    V2 { events: File },
}

/// What `OomWatch::read` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomNotice {
    /// Kills since the last read. On a v1 kernel that does not count them (before 4.13) the number of notices.
    pub kills: u64,
    /// The cgroup has gone: stop watching.
    pub gone: bool,
}

impl OomWatch {
    pub(super) fn open(file: &Path, version: Version) -> Result<OomWatch, CgroupError> {
        let source = match version {
            Version::V1 => {
                let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                    .map_err(|errno| failed("eventfd for", file, errno.into()))?;
                let oom_control = File::open(file).map_err(|source| failed("open", file, source))?;
                let registration = format!("{} {}", event.as_fd().as_raw_fd(), oom_control.as_raw_fd());
                files::write(&file.with_file_name("cgroup.event_control"), &registration)?;
                Source::V1 { event, oom_control: file.to_owned() }
            }
            Version::V2 => Source::V2 { events: File::open(file).map_err(|source| failed("open", file, source))? },
        };
        let mut watch = OomWatch { source, kills_seen: 0 };
        // Arms the v2 notice (it fires for changes after a read) and takes the count to start from.
        watch.read()?;
        Ok(watch)
    }

    pub fn interest(&self) -> PollFlags {
        match self.source {
            Source::V1 { .. } => PollFlags::POLLIN,
            Source::V2 { .. } => PollFlags::POLLPRI,
        }
    }

    /// Takes the notice. Never waits.
    pub fn read(&mut self) -> Result<OomNotice, CgroupError> {
        match &self.source {
            Source::V1 { event, oom_control } => {
                // EAGAIN: nothing has happened.
                let notices = event.read().unwrap_or(0);
                match files::read_if_present(oom_control)? {
                    // The kernel fires the eventfd for the cgroup's removal too.
                    None => Ok(OomNotice { kills: 0, gone: true }),
                    Some(text) => Ok(self.counted(keyed(&text, "oom_kill"), notices)),
                }
            }
            Source::V2 { events } => {
                let mut buffer = [0; 512];
                match events.read_at(&mut buffer, 0) {
                    Ok(len) => {
                        let text = String::from_utf8_lossy(&buffer[..len]);
                        Ok(self.counted(keyed(&text, "oom_kill"), 0))
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(OomNotice { kills: 0, gone: true }),
                    Err(source) => Err(failed("read", Path::new("memory.events"), source)),
                }
            }
        }
    }

    fn counted(&mut self, kills: Option<u64>, notices: u64) -> OomNotice {
        let kills = match kills {
            Some(total) => total.saturating_sub(std::mem::replace(&mut self.kills_seen, total)),
            None => notices,
        };
        OomNotice { kills, gone: false }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { event, .. } => event.as_fd(),
            Source::V2 { events } => events.as_fd(),
        }
    }
}

fn failed(call: &'static str, path: &Path, source: std::io::Error) -> CgroupError {
    files::CgroupFileError { call, path: path.to_owned(), value: None, source }.into()
}

/// The watch's descriptor for a loop that owns what it polls: a duplicate with a life of its own.
impl OomWatch {
    pub fn try_clone_fd(&self) -> std::io::Result<OwnedFd> {
        self.as_fd().try_clone_to_owned()
    }
}
