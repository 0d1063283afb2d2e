//! Signals as a new process must find them: nothing blocked, nothing ignored, nothing caught.

use crate::error::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Linux has 64 signals on every architecture we build for.
pub const SIGNAL_MAX: i32 = 64;

/// All signals blocked until dropped: around a clone, so that no handler of ours runs in the child.
#[derive(Debug)]
pub struct Blocked {
    before: SigSet,
}

impl Blocked {
    pub fn all() -> Result<Self> {
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
            .call(|| "rt_sigprocmask(SIG_SETMASK, ~[])".into())?;
        Ok(Self { before })
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // It can only fail for a bad `how`.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Every disposition back to default: ignored ones would survive execve (a Rust program ignores SIGPIPE).
#[allow(unsafe_code)]
pub fn reset_dispositions() {
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: SIG_DFL runs no code of ours; the C library refuses its own two signals, which stay default.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

pub fn unblock_all() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).call(|| "rt_sigprocmask(SIG_SETMASK, [])".into())
}
