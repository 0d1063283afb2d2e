//! A process in the foreground: our signals are its signals, our terminal is its terminal, its end is ours.

use crate::log::plain;
use killick_sys::pidfd::{Exit, PidFd};
use killick_sys::tty;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Signals wait for us from before the process is made, so that none is lost.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
}

/// Our terminal raw, until dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

impl Foreground {
    pub fn prepare() -> Result<Self, String> {
        let all = SigSet::all();
        all.thread_block().map_err(|errno| format!("rt_sigprocmask: {errno}"))?;
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        Ok(Foreground { signals: signals.map_err(|errno| format!("signalfd: {errno}"))? })
    }

    /// Until the process, our child, has ended.
    pub fn attend(&self, process: &PidFd, master: Option<OwnedFd>) -> Result<Exit, String> {
        let _raw = master.as_ref().and_then(|_| Raw::set());
        let mut master = master;
        let mut input_open = master.is_some();
        resize(master.as_ref());
        loop {
            self.forward(process, master.as_ref())?;
            if let Some(exit) = process.wait().map_err(|error| error.to_string())? {
                while master.as_ref().is_some_and(|master| pump(master.as_fd(), std::io::stdout().as_fd())) {}
                return Ok(exit);
            }
            let stdin = std::io::stdin();
            let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            if let Some(master) = &master {
                polled.push(PollFd::new(master.as_fd(), PollFlags::POLLIN));
                if input_open {
                    polled.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
                }
            }
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(format!("poll: {errno}")),
            }
            let ready = |index: usize| polled.get(index).and_then(PollFd::any).unwrap_or(false);
            let (output, input) = (ready(1), ready(2));
            if let Some(open) = &master {
                if input && !pump(stdin.as_fd(), open.as_fd()) {
                    input_open = false;
                }
                // The last slave is closed: its process ends, or goes on without us.
                if output && !pump(open.as_fd(), std::io::stdout().as_fd()) {
                    master = None;
                }
            }
        }
    }

    fn forward(&self, process: &PidFd, master: Option<&OwnedFd>) -> Result<(), String> {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = signal.ssi_signo as i32;
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD | Signal::SIGURG) => {}
                Ok(Signal::SIGWINCH) => resize(master),
                Ok(_) | Err(_) => {
                    process.send_raw_signal(number).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }
}

fn resize(master: Option<&OwnedFd>) {
    if let Some(master) = master
        && let Ok(size) = tty::window_size(std::io::stdin().as_fd())
    {
        let _ = tty::set_window_size(master.as_fd(), size);
    }
}

/// Moves what is there; false at the end, or when nothing comes any more.
fn pump(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut readable = [PollFd::new(from, PollFlags::POLLIN)];
    if !matches!(poll(&mut readable, PollTimeout::ZERO), Ok(ready) if ready > 0) {
        return false;
    }
    let mut buffer = [0; 16 << 10];
    let length = match nix::unistd::read(from, &mut buffer) {
        Ok(0) => return false,
        Ok(length) => length,
        Err(Errno::EINTR | Errno::EAGAIN) => return true,
        Err(_) => return false,
    };
    let mut left = &buffer[..length];
    while !left.is_empty() {
        match nix::unistd::write(to, left) {
            Ok(written) => left = &left[written..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let _ = poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(_) => return false,
        }
    }
    true
}

/// The size of our terminal, if there is one.
pub fn window() -> Option<tty::WindowSize> {
    tty::window_size(std::io::stdin().as_fd()).ok()
}

/// The path of a file that a caller named, absolute.
pub fn absolute(path: &str) -> Result<std::path::PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{path}: {}", plain(&error)))
}
