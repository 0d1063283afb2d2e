//! pause: the smallest process of a pod, without libc and without a heap. One file, two roles, chosen by `argv[1]`:
//!
//! - `pause` holds the pod's namespaces as PID 1 of the pod. It installs no handler and blocks nothing, so whatever the
//!   kernel drops for a namespace's init it drops for us: nothing inside the pod can end it (pid_namespaces(7)).
//! - `keep DIR SHIM` keeps a standalone pod's shim alive. It outlives the shim, so it holds what must not die with it:
//!   the pod's lock, a dup of each log pipe's read end, and the exit codes of children that fall to it.
//!
//! `shim/build.rs` compiles this file with `$RUSTC` and the shim embeds the result; it is no member of the workspace.
//! It must know nothing of pods, and parse nothing that comes from a container.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::mem::{MaybeUninit, size_of, zeroed};
use core::ptr::{addr_of, addr_of_mut, null};

#[cfg(target_arch = "x86_64")]
mod arch {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const LSEEK: usize = 8;
    pub const RT_SIGACTION: usize = 13;
    pub const RT_SIGPROCMASK: usize = 14;
    pub const GETPID: usize = 39;
    pub const SENDMSG: usize = 46;
    pub const RECVMSG: usize = 47;
    pub const SOCKETPAIR: usize = 53;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const FCNTL: usize = 72;
    pub const PRCTL: usize = 157;
    pub const RESTART_SYSCALL: usize = 219;
    pub const CLOCK_GETTIME: usize = 228;
    pub const EXIT_GROUP: usize = 231;
    pub const WAITID: usize = 247;
    pub const OPENAT: usize = 257;
    pub const RENAMEAT: usize = 264;
    pub const PPOLL: usize = 271;
    pub const SIGNALFD4: usize = 289;
    pub const DUP3: usize = 292;
    pub const AUDIT_ARCH: u32 = 0xc000_003e;
}

#[cfg(target_arch = "aarch64")]
mod arch {
    pub const READ: usize = 63;
    pub const WRITE: usize = 64;
    pub const CLOSE: usize = 57;
    pub const LSEEK: usize = 62;
    pub const RT_SIGACTION: usize = 134;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const GETPID: usize = 172;
    pub const SENDMSG: usize = 211;
    pub const RECVMSG: usize = 212;
    pub const SOCKETPAIR: usize = 199;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const FCNTL: usize = 25;
    pub const PRCTL: usize = 167;
    pub const RESTART_SYSCALL: usize = 128;
    pub const CLOCK_GETTIME: usize = 113;
    pub const EXIT_GROUP: usize = 94;
    pub const WAITID: usize = 95;
    pub const OPENAT: usize = 56;
    pub const RENAMEAT: usize = 38;
    pub const PPOLL: usize = 73;
    pub const SIGNALFD4: usize = 74;
    pub const DUP3: usize = 24;
    pub const AUDIT_ARCH: u32 = 0xc000_00b7;
}

// The stack holds argc, argv…, NULL, envp…, NULL: hand its address to Rust and never come back.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {}", "ud2", sym begin);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x0, sp", "bl {}", "brk #1", sym begin);

#[cfg(target_arch = "x86_64")]
fn syscall(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: each caller passes pointers to live memory of the size that its call reads or writes; rcx and r11 are
    // what the instruction clobbers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0], in("rsi") arguments[1], in("rdx") arguments[2],
            in("r10") arguments[3], in("r8") arguments[4], in("r9") arguments[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn syscall(number: usize, arguments: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: each caller passes pointers to live memory of the size that its call reads or writes.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1], in("x2") arguments[2], in("x3") arguments[3],
            in("x4") arguments[4], in("x5") arguments[5],
            options(nostack)
        );
    }
    result
}

fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    syscall(number, [a, b, c, d, 0, 0])
}

fn exit(status: i32) -> ! {
    loop {
        call(arch::EXIT_GROUP, status as usize, 0, 0, 0);
    }
}

const EINTR: isize = -4;
const SIGCHLD: usize = 17;
const SIGNALS: usize = 64;
const SIG_SETMASK: usize = 2;
const AT_FDCWD: usize = -100isize as usize;
const O_WRONLY: usize = 1;
const O_CREAT: usize = 0o100;
const O_APPEND: usize = 0o2000;
const O_CLOEXEC: usize = 0o2000000;
const PR_SET_DUMPABLE: usize = 4;
const PR_SET_NAME: usize = 15;
const PR_SET_SECCOMP: usize = 22;
const PR_SET_CHILD_SUBREAPER: usize = 36;
const PR_SET_NO_NEW_PRIVS: usize = 38;

unsafe extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: `_start` passes the initial stack, which begins with argc.
    let argc = unsafe { *stack };
    // SAFETY: argv follows argc.
    let argv = unsafe { stack.add(1) } as *const *const u8;
    // SAFETY: envp follows argv's closing null.
    let envp = unsafe { argv.add(argc + 1) };
    if argc == 2 && is(argument(argv, 1), b"pause\0") {
        pause();
    }
    if argc == 4 && is(argument(argv, 1), b"keep\0") {
        keep(argument(argv, 2), argument(argv, 3), envp);
    }
    say(b"pause: roles are `pause` and `keep DIR SHIM`\n");
    exit(2)
}

fn argument(argv: *const *const u8, index: usize) -> *const u8 {
    // SAFETY: the caller compared `index` with argc.
    unsafe { *argv.add(index) }
}

/// Whether a C string from the kernel equals `word`, which ends with its own nul.
fn is(text: *const u8, word: &[u8]) -> bool {
    for (index, byte) in word.iter().enumerate() {
        // SAFETY: reading stops at the first difference, so never behind the string's nul.
        if unsafe { *text.add(index) } != *byte {
            return false;
        }
    }
    true
}

fn say(text: &[u8]) {
    call(arch::WRITE, 2, text.as_ptr() as usize, text.len(), 0);
}

// ------------------------------------------------------------------------------------------------------------ signals

/// The kernel's `struct sigaction`, not libc's.
#[repr(C)]
struct SigAction {
    handler: usize,
    flags: usize,
    #[cfg(target_arch = "x86_64")]
    restorer: usize,
    mask: u64,
}

const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;

fn dispose(signal: usize, handler: usize) {
    // SAFETY: all fields are integers; SIG_DFL and SIG_IGN need neither flags nor a restorer.
    let mut action: SigAction = unsafe { zeroed() };
    action.handler = handler;
    call(arch::RT_SIGACTION, signal, addr_of!(action) as usize, 0, 8);
}

fn set_signal_mask(mask: u64) {
    call(arch::RT_SIGPROCMASK, SIG_SETMASK, addr_of!(mask) as usize, 0, 8);
}

// -------------------------------------------------------------------------------------------------------------- pause

/// Sleeps for ever. What is ignored across execve is undone first: an ignored signal would be no danger, but a blocked
/// one would stay pending, and a handler of ours would make it deliverable from inside.
fn pause() -> ! {
    call(arch::PRCTL, PR_SET_NAME, c"pause".as_ptr() as usize, 0, 0);
    // A container process with pause's uid must not trace it.
    call(arch::PRCTL, PR_SET_DUMPABLE, 0, 0, 0);
    // PID 1 of its namespace is safe with the defaults; with hostPID it is an ordinary process and ignores what it can.
    let rest = if call(arch::GETPID, 0, 0, 0, 0) == 1 { SIG_DFL } else { SIG_IGN };
    for signal in 1..=SIGNALS {
        dispose(signal, if signal == SIGCHLD { SIG_IGN } else { rest });
    }
    set_signal_mask(0);
    only_sleep_is_allowed();
    loop {
        call(arch::PPOLL, 0, 0, 0, 0);
    }
}

#[repr(C)]
struct BpfInstruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

#[repr(C)]
struct BpfProgram {
    length: u16,
    instructions: *const BpfInstruction,
}

const fn load(offset: u32) -> BpfInstruction {
    BpfInstruction { code: 0x20, jt: 0, jf: 0, k: offset }
}

const fn jump_if_equal(k: u32, jt: u8, jf: u8) -> BpfInstruction {
    BpfInstruction { code: 0x15, jt, jf, k }
}

const fn answer(k: u32) -> BpfInstruction {
    BpfInstruction { code: 0x06, jt: 0, jf: 0, k }
}

static ONLY_SLEEP: [BpfInstruction; 8] = [
    load(4),
    jump_if_equal(arch::AUDIT_ARCH, 0, 4),
    load(0),
    jump_if_equal(arch::PPOLL as u32, 3, 0),
    jump_if_equal(arch::RESTART_SYSCALL as u32, 2, 0),
    jump_if_equal(arch::EXIT_GROUP as u32, 1, 0),
    answer(0x0005_0001), // SECCOMP_RET_ERRNO | EPERM
    answer(0x7fff_0000), // SECCOMP_RET_ALLOW
];

/// Best effort: a kernel without seccomp still runs pause, which then merely could do more than it does.
fn only_sleep_is_allowed() {
    call(arch::PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0);
    let program = BpfProgram { length: ONLY_SLEEP.len() as u16, instructions: ONLY_SLEEP.as_ptr() };
    call(arch::PRCTL, PR_SET_SECCOMP, 2, addr_of!(program) as usize, 0);
}

// --------------------------------------------------------------------------------------------------------------- keep
//
// keep and a shim talk over a SOCK_SEQPACKET pair, the shim asks and keep answers, 16 bytes each way:
//
//     { word: u32, zero: u32, key: u64 }
//     HELLO            the shim runs: from now on it is started again when it dies      -> OK
//     PUT  key + fd    hold this fd under this key, in place of one held before         -> OK | REFUSED
//     DROP key         close what is held under this key                                -> OK
//     GET  index       the index-th held fd                                             -> OK key + fd | REFUSED
//
// What a started shim finds: fd 3 the socket, fd 4 the pod's lock, fd 5 (first start only) the pipe of who waits.

const HELLO: u32 = 1;
const PUT: u32 = 2;
const DROP: u32 = 3;
const GET: u32 = 4;
const OK: u32 = 0;
const REFUSED: u32 = 1;

const SOCKET: usize = 3;
const LOCK: usize = 4;
const READY: usize = 5;

/// Two log pipes for each of 128 containers.
const HELD_MAX: usize = 256;
/// `exits` is put aside as `exits.old` at this size, so that a pod that makes orphans cannot fill /run.
const EXITS_BYTES_MAX: isize = 1 << 20;
const DELAY_MAX_SECONDS: u64 = 30;
/// A shim that ran this long was healthy: the next death counts as a first one.
const HEALTHY_SECONDS: u64 = 60;
const PATH_MAX: usize = 512;

#[derive(Clone, Copy)]
struct Held {
    key: u64,
    fd: i32,
}

struct Keep {
    shim: *const u8,
    dir: *const u8,
    envp: *const *const u8,
    signals: i32,
    exits: i32,
    exits_path: [u8; PATH_MAX],
    exits_old_path: [u8; PATH_MAX],
    /// Initialised up to `held_count`.
    held: [MaybeUninit<Held>; HELD_MAX],
    held_count: usize,
    /// Pid of the running shim, 0 while it is dead.
    shim_pid: i32,
    /// Our end of the running shim's socket, -1 without one.
    socket: i32,
    /// A shim has said HELLO at least once.
    greeted: bool,
    /// READY is still open.
    waited_for: bool,
}

fn keep(dir: *const u8, shim: *const u8, envp: *const *const u8) -> ! {
    call(arch::PRCTL, PR_SET_NAME, c"killick-keep".as_ptr() as usize, 0, 0);
    call(arch::PRCTL, PR_SET_DUMPABLE, 0, 0, 0);
    if call(arch::PRCTL, PR_SET_CHILD_SUBREAPER, 1, 0, 0) < 0 {
        fail(b"keep: prctl(PR_SET_CHILD_SUBREAPER) failed\n");
    }
    set_cloexec(LOCK, true);
    set_cloexec(READY, true);
    let sigchld: u64 = 1 << (SIGCHLD - 1);
    set_signal_mask(sigchld);
    let signals = call(arch::SIGNALFD4, usize::MAX, addr_of!(sigchld) as usize, 8, O_CLOEXEC | 0o4000);
    if signals < 0 {
        fail(b"keep: signalfd failed\n");
    }
    let mut keep = Keep {
        shim,
        dir,
        envp,
        signals: signals as i32,
        exits: -1,
        exits_path: [0; PATH_MAX],
        exits_old_path: [0; PATH_MAX],
        // Not written before it is used: pages that were never touched cost nothing.
        held: [const { MaybeUninit::uninit() }; HELD_MAX],
        held_count: 0,
        shim_pid: 0,
        socket: -1,
        greeted: false,
        waited_for: true,
    };
    if !join(&mut keep.exits_path, dir, b"/exits\0") || !join(&mut keep.exits_old_path, dir, b"/exits.old\0") {
        fail(b"keep: the pod directory's path is too long\n");
    }
    keep.open_exits();
    if keep.exits < 0 {
        fail(b"keep: cannot open exits in the pod directory\n");
    }
    keep.run()
}

fn fail(text: &[u8]) -> ! {
    say(text);
    exit(1)
}

impl Keep {
    fn run(&mut self) -> ! {
        let mut delay_seconds = 0;
        loop {
            let started = now_seconds();
            self.start();
            // The one who waits for the first shim learns of its death by the pipe's end. Once: the number is used again.
            if self.waited_for {
                close(READY as i32);
                self.waited_for = false;
            }
            let status = self.serve(u64::MAX);
            if status == 0 {
                exit(0);
            }
            if !self.greeted {
                fail(b"keep: the shim ended before it ran\n");
            }
            if now_seconds() - started >= HEALTHY_SECONDS {
                delay_seconds = 0;
            }
            self.report(status, delay_seconds);
            if delay_seconds > 0 {
                self.serve(now_seconds() + delay_seconds);
            }
            delay_seconds = if delay_seconds == 0 { 1 } else { (delay_seconds * 2).min(DELAY_MAX_SECONDS) };
        }
    }

    /// Starts a shim. A failure looks like a shim that died at once: `shim_pid` stays 0.
    fn start(&mut self) {
        let mut pair = [0i32; 2];
        // AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC
        if call(arch::SOCKETPAIR, 1, 5 | O_CLOEXEC, 0, pair.as_mut_ptr() as usize) < 0 {
            return;
        }
        let pid = call(arch::CLONE, SIGCHLD, 0, 0, 0);
        if pid == 0 {
            self.become_shim(pair[1]);
        }
        close(pair[1]);
        if pid < 0 {
            close(pair[0]);
            return;
        }
        self.socket = pair[0];
        self.shim_pid = pid as i32;
    }

    fn become_shim(&self, socket: i32) -> ! {
        if socket as usize != SOCKET {
            call(arch::DUP3, socket as usize, SOCKET, 0, 0);
        }
        set_cloexec(SOCKET, false);
        set_cloexec(LOCK, false);
        if self.waited_for {
            set_cloexec(READY, false);
        }
        set_signal_mask(0);
        let argv = [self.shim, c"pod".as_ptr() as *const u8, c"run".as_ptr() as *const u8, self.dir, null()];
        call(arch::EXECVE, self.shim as usize, argv.as_ptr() as usize, self.envp as usize, 0);
        say(b"keep: cannot execute the shim\n");
        exit(127)
    }

    /// Answers the shim and reaps until the shim has ended (then its status word), or until `end`.
    fn serve(&mut self, end: u64) -> i32 {
        let waits_for_shim = end == u64::MAX;
        if waits_for_shim && self.shim_pid == 0 {
            return 127 << 8;
        }
        loop {
            let now = now_seconds();
            if now >= end {
                return 0;
            }
            let mut polls = [
                PollFd { fd: self.signals, events: POLLIN, revents: 0 },
                PollFd { fd: self.socket, events: POLLIN, revents: 0 },
            ];
            let wait = TimeSpec { seconds: (end - now) as i64, nanoseconds: 0 };
            let timeout = if waits_for_shim { null() } else { addr_of!(wait) };
            let ready = call(arch::PPOLL, polls.as_mut_ptr() as usize, polls.len(), timeout as usize, 0);
            if ready <= 0 {
                continue;
            }
            if polls[1].revents != 0 {
                self.answer();
            }
            if polls[0].revents != 0 {
                let mut drain = [0u8; 128];
                while call(arch::READ, self.signals as usize, drain.as_mut_ptr() as usize, drain.len(), 0) > 0 {}
                if let Some(status) = self.reap() {
                    // What the shim asked before it died still counts.
                    while self.socket >= 0 {
                        self.answer();
                    }
                    return status;
                }
            }
        }
    }

    // ------------------------------------------------------------------------------------------------------- children

    /// Reaps everything that has ended; the shim's status when it is among them.
    fn reap(&mut self) -> Option<i32> {
        let mut shim_status = None;
        loop {
            let mut info = SigInfo { words: [0; 32] };
            let result =
                syscall(arch::WAITID, [P_ALL, 0, addr_of_mut!(info) as usize, WEXITED | WNOHANG | WNOWAIT, 0, 0]);
            let pid = info.words[4];
            if result < 0 || pid == 0 {
                return shim_status;
            }
            let status = wait_status(info.words[2], info.words[6]);
            if pid == self.shim_pid {
                shim_status = Some(status);
                self.shim_pid = 0;
            } else {
                // Written before the reaping: who sees the pid gone finds the line.
                self.write_exit(pid, status);
            }
            syscall(arch::WAITID, [P_PID, pid as usize, 0, WEXITED, 0, 0]);
        }
    }

    /// Appends `pid starttime status`: field 22 of /proc/PID/stat, and the status word of wait(2).
    fn write_exit(&mut self, pid: i32, status: i32) {
        let mut line = Text::new();
        line.number(pid as u64).byte(b' ').number(start_time(pid)).byte(b' ').number(status as u64).byte(b'\n');
        call(arch::WRITE, self.exits as usize, line.bytes.as_ptr() as usize, line.length, 0);
        if call(arch::LSEEK, self.exits as usize, 0, 1, 0) >= EXITS_BYTES_MAX {
            let (from, to) = (self.exits_path.as_ptr() as usize, self.exits_old_path.as_ptr() as usize);
            call(arch::RENAMEAT, AT_FDCWD, from, AT_FDCWD, to);
            close(self.exits);
            self.open_exits();
        }
    }

    fn open_exits(&mut self) {
        let flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
        self.exits = call(arch::OPENAT, AT_FDCWD, self.exits_path.as_ptr() as usize, flags, 0o600) as i32;
    }

    fn report(&self, status: i32, delay_seconds: u64) {
        let mut line = Text::new();
        let (what, number): (&[u8], i32) = match status & 0x7f {
            0 => (b"exit code ", status >> 8),
            signal => (b"signal ", signal),
        };
        line.text(b"keep: the shim ended with ").text(what).number(number as u64);
        line.text(b", starting it again in ").number(delay_seconds).text(b" s\n");
        say(&line.bytes[..line.length]);
    }

    // ---------------------------------------------------------------------------------------------------- descriptors

    /// One request, one answer. The socket is closed when the shim has closed its end or sent what is no request.
    fn answer(&mut self) {
        let mut message = Message::default();
        let (length, fd) = receive(self.socket, &mut message);
        if length == EINTR {
            return;
        }
        if length != size_of::<Message>() as isize {
            close(fd);
            close(self.socket);
            self.socket = -1;
            return;
        }
        let mut reply = Message { word: OK, zero: 0, key: message.key };
        let mut reply_fd = -1;
        match message.word {
            HELLO => self.greeted = true,
            PUT => {
                if !self.put(message.key, fd) {
                    close(fd);
                    reply.word = REFUSED;
                }
            }
            DROP => self.drop_key(message.key),
            GET => match self.held_at(message.key as usize) {
                Some(held) => {
                    reply.key = held.key;
                    reply_fd = held.fd;
                }
                None => reply.word = REFUSED,
            },
            _ => reply.word = REFUSED,
        }
        if message.word != PUT {
            close(fd);
        }
        send(self.socket, &reply, reply_fd);
    }

    fn put(&mut self, key: u64, fd: i32) -> bool {
        if fd < 0 {
            return false;
        }
        self.drop_key(key);
        let Some(place) = self.held.get_mut(self.held_count) else { return false };
        place.write(Held { key, fd });
        self.held_count += 1;
        true
    }

    fn held_at(&self, index: usize) -> Option<Held> {
        let place = self.held.get(index).filter(|_| index < self.held_count)?;
        // SAFETY: places below `held_count` are written.
        Some(unsafe { place.assume_init() })
    }

    fn drop_key(&mut self, key: u64) {
        for index in 0..self.held_count {
            let Some(held) = self.held_at(index).filter(|held| held.key == key) else { continue };
            close(held.fd);
            self.held_count -= 1;
            // The last one takes its place.
            if let (Some(last), Some(place)) = (self.held.get(self.held_count).copied(), self.held.get_mut(index)) {
                *place = last;
            }
            return;
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct Message {
    word: u32,
    zero: u32,
    key: u64,
}

#[repr(C)]
struct IoVec {
    base: usize,
    length: usize,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_length: u32,
    iov: *mut IoVec,
    iov_length: usize,
    control: usize,
    control_length: usize,
    flags: i32,
}

/// A control message with exactly one fd. `length` is 20; the struct is padded to 24 as CMSG_SPACE wants.
#[repr(C)]
struct OneFd {
    length: usize,
    level: i32,
    kind: i32,
    fd: i32,
}

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
const MSG_CTRUNC: i32 = 0x8;

/// The length received (0 at the end, negative at an error) and the fd that came along, or -1.
fn receive(socket: i32, message: &mut Message) -> (isize, i32) {
    let mut iov = IoVec { base: message as *mut Message as usize, length: size_of::<Message>() };
    let mut control = OneFd { length: 0, level: 0, kind: 0, fd: -1 };
    let mut header = MsgHdr {
        name: 0,
        name_length: 0,
        iov: &mut iov,
        iov_length: 1,
        control: addr_of_mut!(control) as usize,
        control_length: size_of::<OneFd>(),
        flags: 0,
    };
    let flags = MSG_DONTWAIT | MSG_CMSG_CLOEXEC;
    let length = call(arch::RECVMSG, socket as usize, addr_of_mut!(header) as usize, flags, 0);
    let carried =
        length >= 0 && header.control_length >= 20 && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    // Room is for one: the kernel closes what does not fit and sets MSG_CTRUNC, which is no request of ours.
    if carried && header.flags & MSG_CTRUNC != 0 {
        close(control.fd);
        return (-1, -1);
    }
    (length, if carried { control.fd } else { -1 })
}

/// Does not wait: a shim that asks without reading answers loses them.
fn send(socket: i32, message: &Message, fd: i32) {
    let mut iov = IoVec { base: message as *const Message as usize, length: size_of::<Message>() };
    let control = OneFd { length: 20, level: SOL_SOCKET, kind: SCM_RIGHTS, fd };
    let header = MsgHdr {
        name: 0,
        name_length: 0,
        iov: &mut iov,
        iov_length: 1,
        control: if fd >= 0 { addr_of!(control) as usize } else { 0 },
        control_length: if fd >= 0 { size_of::<OneFd>() } else { 0 },
        flags: 0,
    };
    call(arch::SENDMSG, socket as usize, addr_of!(header) as usize, MSG_DONTWAIT | MSG_NOSIGNAL, 0);
}

// -------------------------------------------------------------------------------------------------------- small words

#[repr(C)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

const POLLIN: i16 = 1;

#[repr(C)]
struct TimeSpec {
    seconds: i64,
    nanoseconds: i64,
}

/// `siginfo_t` of waitid on 64-bit: signo, errno, code, padding, pid, uid, status.
#[repr(C, align(8))]
struct SigInfo {
    words: [i32; 32],
}

const P_ALL: usize = 0;
const P_PID: usize = 1;
const WNOHANG: usize = 1;
const WEXITED: usize = 4;
const WNOWAIT: usize = 0x0100_0000;
const CLD_EXITED: i32 = 1;
const CLD_DUMPED: i32 = 3;

/// The status word of wait(2).
fn wait_status(code: i32, status: i32) -> i32 {
    match code {
        CLD_EXITED => (status & 0xff) << 8,
        CLD_DUMPED => status | 0x80,
        _ => status,
    }
}

fn now_seconds() -> u64 {
    let mut time = TimeSpec { seconds: 0, nanoseconds: 0 };
    call(arch::CLOCK_GETTIME, 1, addr_of_mut!(time) as usize, 0, 0);
    time.seconds as u64
}

fn close(fd: i32) {
    if fd >= 0 {
        call(arch::CLOSE, fd as usize, 0, 0, 0);
    }
}

fn set_cloexec(fd: usize, on: bool) {
    call(arch::FCNTL, fd, 2, on as usize, 0);
}

/// Field 22 of /proc/PID/stat, 0 if it cannot be read. The command's name, which its owner chose, is skipped by the
/// last `)` of the line: what follows is the kernel's.
fn start_time(pid: i32) -> u64 {
    let mut path = Text::new();
    path.text(b"/proc/").number(pid as u64).text(b"/stat\0");
    let fd = call(arch::OPENAT, AT_FDCWD, path.bytes.as_ptr() as usize, O_CLOEXEC, 0);
    if fd < 0 {
        return 0;
    }
    let mut stat = MaybeUninit::<[u8; 512]>::uninit();
    let length = call(arch::READ, fd as usize, stat.as_mut_ptr() as usize, 512, 0);
    close(fd as i32);
    if length <= 0 {
        return 0;
    }
    // SAFETY: the kernel has written `length` bytes.
    let stat = unsafe { core::slice::from_raw_parts(stat.as_ptr() as *const u8, length as usize) };
    let Some(name_end) = stat.iter().rposition(|byte| *byte == b')') else { return 0 };
    // The space behind `)` begins field 3.
    let mut field = 2;
    let mut value = 0u64;
    for byte in stat.iter().skip(name_end + 1) {
        match byte {
            b' ' => field += 1,
            b'0'..=b'9' if field == 22 => value = value.wrapping_mul(10).wrapping_add((byte - b'0') as u64),
            _ => {}
        }
        if field > 22 {
            break;
        }
    }
    value
}

/// `dir` + `name` (with its nul) into `path`.
fn join(path: &mut [u8; PATH_MAX], dir: *const u8, name: &[u8]) -> bool {
    let mut length = 0;
    loop {
        // SAFETY: `dir` is a C string and reading ends at its nul.
        let byte = unsafe { *dir.add(length) };
        if byte == 0 {
            break;
        }
        match path.get_mut(length) {
            Some(place) => *place = byte,
            None => return false,
        }
        length += 1;
    }
    match path.get_mut(length..length + name.len()) {
        Some(place) => {
            place.copy_from_slice(name);
            true
        }
        None => false,
    }
}

/// A short line under construction; what does not fit is cut.
struct Text {
    bytes: [u8; 96],
    length: usize,
}

impl Text {
    fn new() -> Text {
        Text { bytes: [0; 96], length: 0 }
    }

    fn byte(&mut self, byte: u8) -> &mut Text {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        self
    }

    fn text(&mut self, text: &[u8]) -> &mut Text {
        for byte in text {
            self.byte(*byte);
        }
        self
    }

    fn number(&mut self, mut number: u64) -> &mut Text {
        let mut digits = [0u8; 20];
        let mut count = 0;
        loop {
            if let Some(place) = digits.get_mut(count) {
                *place = b'0' + (number % 10) as u8;
            }
            count += 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        for index in (0..count).rev() {
            self.byte(digits.get(index).copied().unwrap_or(b'?'));
        }
        self
    }
}

// What the compiler may call although there is no libc. Volatile, so that it does not make them call themselves.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for index in 0..length {
        // SAFETY: the caller's contract: both ranges are `length` long.
        unsafe { to.add(index).write_volatile(from.add(index).read()) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    for index in 0..length {
        // SAFETY: the caller's contract: the range is `length` long.
        unsafe { to.add(index).write_volatile(byte as u8) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, two: *const u8, length: usize) -> i32 {
    for index in 0..length {
        // SAFETY: the caller's contract: both ranges are `length` long.
        let a = unsafe { one.add(index).read_volatile() };
        // SAFETY: as above.
        let b = unsafe { two.add(index).read_volatile() };
        if a != b {
            return a as i32 - b as i32;
        }
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(101)
}

const _: () = assert!(size_of::<OneFd>() == 24 && size_of::<Message>() == 16);
