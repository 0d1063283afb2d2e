//! Seccomp: an OCI profile becomes a BPF program that the child loads with one call.
//!
//! Our own compiler: libseccomp needs 10 ms for what is compiled here in a fraction of one, and would bring its memory
//! along. `rules` decides what each call of each architecture gets, `assemble` writes it as a search tree over ranges
//! of numbers. libseccomp is the oracle of the tests.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

use killick_sys::seccomp as kernel;
pub use killick_sys::seccomp::Filter;

mod assemble;
pub mod cache;
pub(crate) mod listener;
mod profile;
mod rules;
mod table;
#[cfg(test)]
mod tests;

pub use profile::default_profile;
use rules::Block;

/// Changes whenever the same profile would compile to another program: part of the cache's key.
pub const COMPILER_VERSION: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    #[error("linux.seccomp: SCMP_ACT_NOTIFY cannot be used as default action")]
    NotifyDefault,
    #[error("linux.seccomp: SCMP_ACT_NOTIFY cannot be used for the {0} syscall")]
    NotifyFor(String),
    #[error("linux.seccomp: this kernel has no SCMP_ACT_NOTIFY")]
    Notify,
    #[error("linux.seccomp.listenerPath: is not set, and SCMP_ACT_NOTIFY needs it")]
    NoListener,
    #[error("linux.seccomp: errnoRet {errno} with {action}, which returns none")]
    ErrnoWithout { errno: u32, action: LinuxSeccompAction },
    #[error("linux.seccomp: errnoRet {0} is larger than 65535")]
    ErrnoTooLarge(u32),
    #[error("linux.seccomp.flags: this kernel does not know {0}")]
    Flag(LinuxSeccompFilterFlag),
    #[error("linux.seccomp.syscalls: argument index {index} of {name:?}; a call has arguments 0 to 5")]
    ArgumentIndex { name: String, index: usize },
    #[error("linux.seccomp: the profile compiles to {0} instructions; the kernel takes 4096")]
    TooLong(usize),
}

/// What this kernel can do with filters, found by asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    pub has_log: bool,
    pub has_kill_process: bool,
    /// `SCMP_ACT_NOTIFY` (5.0).
    pub has_notify: bool,
    /// Filter flags that it takes (`killick_sys::seccomp::FLAG_…`).
    pub flags: u32,
}

impl Kernel {
    pub fn detect() -> Kernel {
        let known = [kernel::FLAG_TSYNC, kernel::FLAG_LOG, kernel::FLAG_SPEC_ALLOW, kernel::FLAG_WAIT_KILLABLE_RECV];
        Kernel {
            has_log: kernel::action_is_supported(rules::RET_LOG),
            has_kill_process: kernel::action_is_supported(rules::RET_KILL_PROCESS),
            has_notify: kernel::action_is_supported(rules::RET_USER_NOTIF),
            flags: known.into_iter().filter(|flag| kernel::flag_is_supported(*flag)).fold(0, |all, flag| all | flag),
        }
    }

    /// The newest kernel that this code knows.
    pub const NEWEST: Kernel = Kernel { has_log: true, has_kill_process: true, has_notify: true, flags: 0b10_1111 };
}

/// Compiles a profile for the architectures it names, always including the one we were built for.
pub fn compile(profile: &LinuxSeccomp, kernel: &Kernel) -> Result<Filter, SeccompError> {
    let blocks = rules::blocks(profile, kernel)?;
    let program = assemble::assemble(&blocks);
    if program.len() > killick_sys::seccomp::INSNS_MAX {
        return Err(SeccompError::TooLong(program.len()));
    }
    let asks = blocks.iter().any(Block::asks);
    if asks && profile.listener_path().as_ref().is_none_or(|path| path.as_os_str().is_empty()) {
        return Err(SeccompError::NoListener);
    }
    let listener = if asks { kernel::FLAG_NEW_LISTENER } else { 0 };
    Ok(Filter { program, flags: flags(profile, kernel, asks)? | listener })
}

/// Absent flags are not an empty list: then the speculation mitigation, costly and of no use here, is left off where
/// the kernel can be told so, as runc does.
fn flags(profile: &LinuxSeccomp, kernel: &Kernel, asks: bool) -> Result<u32, SeccompError> {
    let Some(listed) = profile.flags() else { return Ok(kernel::FLAG_SPEC_ALLOW & kernel.flags) };
    let mut flags = 0;
    for flag in listed {
        let bit = match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => kernel::FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => kernel::FLAG_SPEC_ALLOW,
            // The child that loads the filter has one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => continue,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => kernel::FLAG_WAIT_KILLABLE_RECV,
        };
        if kernel.flags & bit == 0 {
            return Err(SeccompError::Flag(*flag));
        }
        // The kernel takes it only together with a listener.
        if bit != kernel::FLAG_WAIT_KILLABLE_RECV || asks {
            flags |= bit;
        }
    }
    Ok(flags)
}
