//! How this process is scheduled: policy, I/O priority, cpus.
#![allow(unsafe_code)]

use crate::error::{Context, Error, Result, check};
use nix::errno::Errno;

/// `struct sched_attr`, as far as every kernel since 3.14 has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedAttr {
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

pub(crate) fn set_scheduler(attr: &SchedAttr) -> Result<()> {
    #[repr(C)]
    struct Raw {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let SchedAttr { policy, flags, nice, priority, runtime, deadline, period } = *attr;
    let raw = Raw { size: size_of::<Raw>() as u32, policy, flags, nice, priority, runtime, deadline, period };
    // SAFETY: the structure has the size that it tells, and outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) };
    match check(done, || format!("sched_setattr(0, policy={policy}, nice={nice}, priority={priority})")).map(drop) {
        // Before 3.14: the older calls, for what they can say.
        Err(error) if error.errno() == Errno::ENOSYS && attr.runtime == 0 => set_classic_scheduler(attr),
        // A sandbox that does not know the call says EPERM as a refused policy does: the older call then says which.
        Err(error) if error.errno() == Errno::EPERM && attr.runtime == 0 => {
            set_classic_scheduler(attr).map_err(|_| error)
        }
        other => other,
    }
}

fn set_classic_scheduler(attr: &SchedAttr) -> Result<()> {
    const RESET_ON_FORK: u64 = 1;
    let SchedAttr { policy, flags, nice, priority, .. } = *attr;
    if flags & !RESET_ON_FORK != 0 {
        return Err(Error::new(format!("sched_setattr(0, flags={flags:#x}), which is of Linux 3.14"), Errno::ENOSYS));
    }
    let reset = if flags & RESET_ON_FORK != 0 { libc::SCHED_RESET_ON_FORK } else { 0 };
    let parameter = libc::sched_param { sched_priority: priority as libc::c_int };
    let policy = policy as libc::c_int | reset;
    // SAFETY: the structure outlives the call. Not by the C library, which refuses unknown policies.
    let done = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameter) };
    check(done, || format!("sched_setscheduler(0, {policy:#x}, priority={priority})"))?;
    // SAFETY: no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice) };
    check(done, || format!("setpriority(PRIO_PROCESS, 0, {nice})")).map(drop)
}

/// Class in the upper three bits, level in the rest; inherited by children.
pub(crate) fn set_io_priority(priority: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, libc::c_int::from(priority)) };
    check(done, || format!("ioprio_set(IOPRIO_WHO_PROCESS, 0, {priority:#x})")).map(drop)
}

pub(crate) fn set_affinity(cpus: &[usize]) -> Result<()> {
    let bits = usize::BITS as usize;
    let mut mask = vec![0usize; cpus.iter().max().map_or(1, |last| last / bits + 1)];
    for cpu in cpus {
        mask[cpu / bits] |= 1 << (cpu % bits);
    }
    // SAFETY: pointer and length are the vector's, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask.as_slice()), mask.as_ptr()) };
    check(done, || format!("sched_setaffinity(0, {cpus:?})")).map(drop)
}

/// As many as a kernel can be built for; what is not there is left out by it.
pub(crate) const ALL_CPUS: [usize; 8192 / usize::BITS as usize] = [usize::MAX; 8192 / usize::BITS as usize];

/// Every cpu that the cgroup has.
pub(crate) fn all_cpus() -> Result<()> {
    let mask = ALL_CPUS;
    // SAFETY: pointer and length are the array's, which outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(&mask), mask.as_ptr()) };
    check(done, || "sched_setaffinity(0, all)".into()).map(drop)
}

/// Joins, or makes, the session keyring of this name, so that the caller's is not seen.
pub(crate) fn join_session_keyring(name: &str) -> Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name_c = std::ffi::CString::new(name).map_err(std::io::Error::from).call(|| "keyctl".into())?;
    // SAFETY: the string outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name_c.as_ptr()) };
    check(done, || format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})")).map(drop)
}

/// Gives this process's group a core-scheduling cookie of its own (5.14): none but those who inherit it run on the same
/// core at the same time.
pub fn own_core_group() -> Result<()> {
    const PR_SCHED_CORE: libc::c_int = 62;
    const PR_SCHED_CORE_CREATE: libc::c_ulong = 1;
    const PIDTYPE_PGID: libc::c_ulong = 2;
    // SAFETY: no memory is passed.
    let done = unsafe {
        libc::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0 as libc::c_ulong, PIDTYPE_PGID, 0 as libc::c_ulong)
    };
    check(libc::c_long::from(done), || "prctl(PR_SCHED_CORE, CREATE, 0, PGID)".into()).map(drop)
}
