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

/// Every disposition back to default: ignored ones would survive execve (a Rust program ignores SIGPIPE, and what
/// started us may ignore anything). By the bare call, because the C library keeps two signals for itself.
#[allow(unsafe_code)]
pub fn reset_dispositions() {
    let default = KernelSigaction::default();
    let nothing = std::ptr::null_mut::<KernelSigaction>();
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: the structure outlives the call; no code of ours can run by a default disposition. SIGKILL and
        // SIGSTOP answer EINVAL.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, nothing, size_of::<u64>()) };
    }
}

/// HUP, INT, QUIT and TERM end this process, though the kernel drops them for a PID namespace's init that does not catch
/// them. For one that waits to become its program: execve puts the dispositions back.
#[allow(unsafe_code)]
pub fn end_on_termination() -> Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, Signal, sigaction};
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: _exit does nothing but the call; it may run at any place of any code.
        unsafe { libc::_exit(128 + signal) }
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: the handler is async-signal-safe.
        unsafe { sigaction(signal, &action) }.call(|| format!("rt_sigaction({signal}, _exit)"))?;
    }
    Ok(())
}

/// A caller that ignores SIGCHLD leaves us without the ends of our children: the kernel throws them away.
#[allow(unsafe_code)]
pub fn hear_of_children() {
    let default = KernelSigaction::default();
    let nothing = std::ptr::null_mut::<KernelSigaction>();
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGCHLD, &raw const default, nothing, size_of::<u64>()) };
}

/// The kernel's own structure; all zero is SIG_DFL without flags.
#[repr(C)]
#[derive(Default)]
struct KernelSigaction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// Bit n-1 for signal n, for those that this process ignores. Asked once: what is ignored comes from whoever started
/// us and from Rust's start (SIGPIPE); no code of ours ignores one later.
#[allow(unsafe_code)]
pub(crate) fn ignored_from_start() -> u64 {
    static IGNORED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *IGNORED.get_or_init(|| {
        let mut ignored = 0;
        for signal in 1..=SIGNAL_MAX {
            let mut now = KernelSigaction::default();
            let nothing = std::ptr::null::<KernelSigaction>();
            // SAFETY: nothing is changed; the structure is filled.
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, nothing, &raw mut now, size_of::<u64>()) };
            if now.handler == libc::SIG_IGN {
                ignored |= 1 << (signal - 1);
            }
        }
        ignored
    })
}

pub fn unblock_all() -> Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).call(|| "rt_sigprocmask(SIG_SETMASK, [])".into())
}
