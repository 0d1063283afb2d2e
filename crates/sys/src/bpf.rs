//! bpf(2) for one purpose: eBPF programs that decide about device access of a v2 cgroup.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// One eBPF instruction (`struct bpf_insn`); `dst` is the low nibble of `regs`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    pub code: u8,
    pub regs: u8,
    pub off: i16,
    pub imm: i32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// Whether the kernel has device programs (4.15): an empty one is EINVAL there too, but not "no such call".
pub fn is_available() -> bool {
    match load_device_program(&[]) {
        Ok(_) | Err(Errno::EINVAL | Errno::E2BIG) => true,
        Err(_) => false,
    }
}

/// Loads a device program. A kernel before 5.11 charges it to RLIMIT_MEMLOCK: EPERM there means that the limit is low.
pub fn load_device_program(program: &[Insn]) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        insns: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Load::default()
    };
    // The verifier answers EAGAIN when a signal is pending.
    const TRIES_MAX: u32 = 30;
    let mut tries = 0;
    loop {
        match bpf(BPF_PROG_LOAD, &attr) {
            Ok(fd) => return Ok(owned(fd)),
            Err(Errno::EAGAIN) if tries < TRIES_MAX => tries += 1,
            Err(errno) => return Err(errno),
        }
    }
}

/// The ids of the device programs attached to this very cgroup, at most 64 (the kernel's own limit).
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    // The whole 64 bytes: kernels from 6.17 write `revision` beyond a shorter attribute.
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    const { assert!(size_of::<Query>() == 64) };
    let mut ids = [0u32; 64];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..Query::default()
    };
    // SAFETY: the attribute is a whole, writable one; `prog_ids` points to `prog_cnt` integers that outlive the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &mut attr, size_of::<Query>()) };
    Errno::result(answer)?;
    Ok(ids[..(attr.prog_cnt as usize).min(ids.len())].to_vec())
}

/// A descriptor of a loaded program.
pub fn program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct Get {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    bpf(BPF_PROG_GET_FD_BY_ID, &Get { id, ..Get::default() }).map(owned)
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// Attaches a device program to a cgroup beside those that are there (an access needs the consent of all), or in the
/// place of `replace` (5.6; EINVAL before).
pub fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace_bpf_fd: replace.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    bpf(BPF_PROG_ATTACH, &attr).map(drop)
}

/// Detaches one device program.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = AttachAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(BPF_PROG_DETACH, &attr).map(drop)
}

fn bpf<T>(command: libc::c_long, attr: &T) -> Result<libc::c_int, Errno> {
    // SAFETY: `attr` is as large as said and these commands only read it; what it points to outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    Errno::result(answer).map(|value| value as libc::c_int)
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us (bpf descriptors are O_CLOEXEC); nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
