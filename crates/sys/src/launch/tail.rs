//! The last steps of a process that is born where somebody may trace it: gate, filter, execve.
//!
//! It has the container's rights by then; this file sees to it that it has nothing of the shim's memory either. What it
//! needs is laid out in one mapping beforehand, with a stack of its own; all other anonymous memory is kept from it
//! (MADV_DONTFORK), the caller's stack with its environment too. So it lives without heap and without thread-local
//! storage: bare system calls only, no C library, no allocation.

use super::arena::Arena;
use super::error::LaunchError;
use super::exec::command_line;
use super::memory::{PAGE, Private};
use super::plan::Step;
use super::spawn::{GO, Report};
use crate::error::Error;
use crate::fd::own;
use crate::seccomp::Filter;
use crate::spawn::CloneArgs;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

/// Text for the parent, and where its errno goes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Text {
    start: *const u8,
    length: usize,
    /// Five places for digits; null: there are none.
    digits: *mut u8,
}

/// All that the tail needs, in its mapping.
#[repr(C)]
#[derive(Clone, Copy)]
struct Orders {
    channel: RawFd,
    /// Where another command will start it (`Step::GateSocket`); -1: nowhere.
    listener: RawFd,
    /// A pipe on which the helper says that the parent has been told of us.
    known: [RawFd; 2],
    gate: bool,
    terminal: bool,
    has_filter: bool,
    filter_flags: u32,
    filter: libc::sock_fprog,
    path: *const u8,
    argv: *const *const u8,
    envp: *const *const u8,
    at_gate: Text,
    executing: Text,
    filter_failed: Text,
    not_found: Text,
    refused: Text,
    bad_format: Text,
    failed: Text,
}

/// The steps after the birth, if they are those that can be done without memory: a gate, Announce, Seccomp, Exec.
pub(super) fn is_simple(rest: &[Step]) -> bool {
    let after_gate = match rest {
        [Step::Gate | Step::GateSocket(_), rest @ ..] => rest,
        rest => rest,
    };
    matches!(after_gate, [Step::Announce, Step::Exec { .. }] | [Step::Announce, Step::Seccomp(_), Step::Exec { .. }])
        && cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
}

/// The tail's calls need little; a page for each frame that a debug build may make.
const STACK_BYTES: usize = 8 * PAGE;

impl Arena<'_> {
    /// The top of a new stack, which grows down from there.
    fn stack(&mut self) -> *mut u8 {
        let bottom = self.put(&[0u128; STACK_BYTES / size_of::<u128>()]);
        bottom.cast::<u8>().wrapping_add(STACK_BYTES)
    }

    fn report(&mut self, report: &Report) -> Text {
        let bytes = serde_json::to_vec(report).unwrap_or_default();
        let length = bytes.len();
        let start = self.put(&bytes);
        let marker = NO_ERRNO.to_string();
        let place = bytes.windows(marker.len()).position(|window| window == marker.as_bytes());
        let digits = place.map_or(std::ptr::null_mut(), |place| start.wrapping_add(place));
        Text { start, length, digits }
    }

    fn failed(&mut self, call: String) -> Text {
        self.report(&Report::Failed(LaunchError::Call(Error::with_raw(call, NO_ERRNO))))
    }

    fn strings(&mut self, strings: &[std::ffi::CString]) -> *const *const u8 {
        let mut pointers: Vec<*const u8> =
            strings.iter().map(|string| self.put(string.as_bytes_with_nul()).cast_const()).collect();
        pointers.push(std::ptr::null());
        self.put(&pointers)
    }
}

/// Stands in a text where an errno will be: five digits.
const NO_ERRNO: i32 = 99_999;

/// The child that was born, with its pidfd where the kernel gives one.
pub(super) struct Inside {
    pub(super) pid: i32,
    pub(super) pidfd: Option<OwnedFd>,
    /// It waits until a byte comes here, and ends if none does: nobody lives whom the parent does not know.
    pub(super) known: OwnedFd,
}

/// Bears the process that goes on with `rest` as a child of our parent, and returns in this one.
pub(super) fn birth(
    private: &Private,
    (steps_before, rest): (&[Step], &[Step]),
    (channel, listener): (RawFd, Option<RawFd>),
    path: &Path,
    home: Option<&str>,
) -> Result<Inside, LaunchError> {
    let terminal = steps_before.iter().any(|step| matches!(step, Step::Terminal { .. }));
    let (mut gate, mut filter, mut command) = (false, None, None);
    for step in rest {
        match step {
            Step::Gate | Step::GateSocket(_) => gate = true,
            Step::Seccomp(found) => filter = Some(found),
            Step::Exec { args, env } => command = Some((args, env)),
            _ => {}
        }
    }
    let (args, env) = command.ok_or_else(|| LaunchError::Unsupported("a tail without a command".into()))?;
    let (path, args, env) = command_line(path, args, env, home)?;
    let strings = args.iter().chain(&env).chain([&path]);
    let size: usize = strings.map(|string| string.as_bytes_with_nul().len() + 32).sum();
    let name = path.to_string_lossy().into_owned();
    let instructions = filter.map_or(0, |filter: &Filter| size_of_val(filter.program.as_slice()));
    // Eight texts that name the program, and the fixed part.
    let mut arena = Arena::mapped(size + instructions + 8 * (name.len() * 6 + 512) + 4 * PAGE + STACK_BYTES)?;
    let at_gate = arena.report(&Report::Gate);
    let executing = arena.report(&Report::Executing);
    let filter_failed = arena.failed("seccomp(SECCOMP_SET_MODE_FILTER)".into());
    let not_found = arena.report(&Report::Failed(LaunchError::NoInterpreter(name.clone())));
    let refused = arena.report(&Report::Failed(LaunchError::NotExecutable(name.clone())));
    let bad_format = arena.report(&Report::Failed(LaunchError::BadFormat(name.clone())));
    let failed = arena.failed(format!("execve({name:?})"));
    let program = filter.map_or(std::ptr::null_mut(), |filter| arena.put(&filter.program));
    let (known_read, known_write) = crate::fd::pipe()?;
    let orders = Orders {
        channel,
        listener: listener.unwrap_or(-1),
        known: [known_read.as_raw_fd(), known_write.as_raw_fd()],
        gate,
        terminal,
        has_filter: filter.is_some(),
        filter_flags: filter.map_or(0, |filter| filter.flags),
        filter: libc::sock_fprog {
            len: filter.map_or(0, |filter| filter.program.len() as u16),
            filter: program.cast(),
        },
        path: arena.put(path.as_bytes_with_nul()),
        argv: arena.strings(&args),
        envp: arena.strings(&env),
        at_gate,
        executing,
        filter_failed,
        not_found,
        refused,
        bad_format,
        failed,
    };
    let (orders, stack) = (arena.put(&[orders]).cast_const(), arena.stack());
    assert!(!arena.is_full(), "its size was counted before");
    private.keep_from_children()?;
    match bear(orders, stack) {
        Ok((pid, pidfd)) => Ok(Inside { pid, pidfd, known: known_write }),
        Err(Errno::ENOMEM) => Err(LaunchError::NotRunning),
        Err(errno) => Err(Error::new("clone3(CLONE_PARENT|CLONE_PIDFD)", errno).into()),
    }
}

/// `orders` and the stack below `stack` lie in the arena, which the child has.
fn bear(orders: *const Orders, stack: *mut u8) -> Result<(i32, Option<OwnedFd>), Errno> {
    let mut pidfd: RawFd = -1;
    let flags = (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64;
    // With CLONE_PARENT the exit signal is our own, and clone3 wants none.
    let args = CloneArgs {
        flags,
        pidfd: &raw mut pidfd as u64,
        stack: stack.wrapping_sub(STACK_BYTES) as u64,
        stack_size: STACK_BYTES as u64,
        ..CloneArgs::default()
    };
    match clone_onto_stack(libc::SYS_clone3, &raw const args as usize, CloneArgs::VER0_BYTES, orders) {
        pid if pid > 0 => return Ok((pid as i32, Some(own(pidfd)))),
        error => match Errno::from_raw(-error as i32) {
            Errno::ENOSYS | Errno::EPERM => {}
            errno => return Err(errno),
        },
    }
    let flags = (libc::CLONE_PARENT | libc::SIGCHLD) as usize;
    match clone_onto_stack(libc::SYS_clone, flags, stack as usize, orders) {
        pid if pid > 0 => Ok((pid as i32, None)),
        error => Err(Errno::from_raw(-error as i32)),
    }
}

/// clone3 or clone, whose child goes on in `run` on the stack that the arguments name; only the parent comes back.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn clone_onto_stack(number: libc::c_long, first: usize, second: usize, orders: *const Orders) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention (clone's other arguments are unused without their flags). The child has
    // a stack of its own, aligned to 16, and never returns from `run`.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number as isize => result,
            in("rdi") first, in("rsi") second, in("rdx") 0, in("r10") 0, in("r8") 0,
            in("r12") orders, in("r13") run as extern "C" fn(*const Orders) -> !,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
fn clone_onto_stack(number: libc::c_long, first: usize, second: usize, orders: *const Orders) -> isize {
    let result: isize;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") number,
            inlateout("x0") first as isize => result,
            in("x1") second, in("x2") 0, in("x3") 0, in("x4") 0,
            in("x20") orders, in("x21") run as extern "C" fn(*const Orders) -> !,
            lateout("x30") _,
        );
    }
    result
}

const FAILED: usize = 127;

/// The tail itself. Nothing here may allocate, panic or touch errno: there is no memory for it.
#[allow(unsafe_code)]
extern "C" fn run(orders: *const Orders) -> ! {
    // SAFETY: `bear` passes the orders in the arena, which is never given back.
    let orders = unsafe { &*orders };
    let [known_read, known_write] = orders.known;
    raw(libc::SYS_close, [known_write as usize, 0, 0, 0, 0, 0]);
    let byte = 0u8;
    loop {
        match raw(libc::SYS_read, [known_read as usize, &raw const byte as usize, 1, 0, 0, 0]) {
            1 => break,
            error if error == -(libc::EINTR as isize) => {}
            _ => end(FAILED),
        }
    }
    raw(libc::SYS_close, [known_read as usize, 0, 0, 0, 0, 0]);
    // The session of the helper ends with it, by SIGHUP where it has a terminal.
    raw(libc::SYS_setsid, [0; 6]);
    if orders.terminal {
        raw(libc::SYS_ioctl, [0, libc::TIOCSCTTY as usize, 0, 0, 0, 0]);
    }
    let mut channel = orders.channel;
    if orders.gate {
        tell(channel, &orders.at_gate, 0);
        if !is_let_go(channel) {
            end(FAILED);
        }
        if orders.listener >= 0 {
            channel = starter(orders.listener);
        }
    }
    tell(channel, &orders.executing, 0);
    if orders.has_filter {
        let program = &raw const orders.filter as usize;
        let loaded = if orders.filter_flags == 0 {
            let mode = libc::SECCOMP_MODE_FILTER as usize;
            raw(libc::SYS_prctl, [libc::PR_SET_SECCOMP as usize, mode, program, 0, 0, 0])
        } else {
            let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER as usize, orders.filter_flags as usize);
            raw(libc::SYS_seccomp, [operation, flags, program, 0, 0, 0])
        };
        if loaded < 0 {
            tell(channel, &orders.filter_failed, -loaded);
            end(FAILED);
        }
    }
    let errno = -raw(libc::SYS_execve, [orders.path as usize, orders.argv as usize, orders.envp as usize, 0, 0, 0]);
    let text = match errno as i32 {
        libc::ENOENT => &orders.not_found,
        libc::EACCES | libc::EPERM => &orders.refused,
        libc::ENOEXEC => &orders.bad_format,
        _ => &orders.failed,
    };
    tell(channel, text, errno);
    end(FAILED)
}

/// The word of whoever is at the other end; false: it has gone.
fn is_let_go(channel: RawFd) -> bool {
    let go = [0u8; GO.len()];
    loop {
        let place = &raw const go as usize;
        let received = raw(libc::SYS_recvfrom, [channel as usize, place, GO.len(), 0, 0, 0]);
        if received != -(libc::EINTR as isize) {
            return received == GO.len() as isize;
        }
    }
}

/// As `Child::wait_at_socket`: the connection over which another command said GO.
fn starter(listener: RawFd) -> RawFd {
    loop {
        let accepted = raw(libc::SYS_accept4, [listener as usize, 0, 0, libc::SOCK_CLOEXEC as usize, 0, 0]);
        if accepted == -(libc::EINTR as isize) || accepted == -(libc::ECONNABORTED as isize) {
            continue;
        }
        if accepted < 0 {
            end(FAILED);
        }
        if is_let_go(accepted as RawFd) {
            return accepted as RawFd;
        }
        raw(libc::SYS_close, [accepted as usize, 0, 0, 0, 0, 0]);
    }
}

#[allow(unsafe_code)]
fn tell(channel: RawFd, text: &Text, errno: isize) {
    if !text.digits.is_null() {
        let mut left = errno;
        let mut place = 5;
        while place > 0 {
            place -= 1;
            // Spaces before the number: JSON allows them, and no zeroes.
            let digit = if left > 0 || place == 4 { b'0' + (left % 10) as u8 } else { b' ' };
            left /= 10;
            // SAFETY: the five places were found in this text, in the arena, which is ours alone.
            unsafe { text.digits.wrapping_add(place).write(digit) };
        }
    }
    let flags = libc::MSG_NOSIGNAL as usize;
    raw(libc::SYS_sendto, [channel as usize, text.start as usize, text.length, flags, 0, 0]);
}

fn end(code: usize) -> ! {
    loop {
        raw(libc::SYS_exit_group, [code, 0, 0, 0, 0, 0]);
    }
}

/// A system call without the C library, which would write errno into memory that is not there.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[inline(always)]
pub(super) fn raw(number: libc::c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; callers pass pointers to what outlives the call. A child without
    // CLONE_VM returns here on its own copy of the stack.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
#[inline(always)]
pub(super) fn raw(number: libc::c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5],
            options(nostack),
        );
    }
    result
}
