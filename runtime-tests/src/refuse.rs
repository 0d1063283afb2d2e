//! An old kernel, imitated: a filter refuses the calls that came after it, for a program and all that it starts. It
//! imitates missing calls and a few missing flags; it cannot imitate missing files of /proc, mount options, features
//! of cgroups, or old bugs.
//!
//!     killick-runtime-tests refuse --kernel 3.10 --errno ENOSYS -- PROGRAM [ARGUMENT...]

use std::os::unix::process::CommandExt;
use std::process::Command;

use killick_sys::seccomp::{Filter, Insn};

/// What is refused, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The newest kernel imitated.
    pub kernel: (u32, u32),
    /// ENOSYS as an old kernel says it, or EPERM as old container hosts do for every call that they do not know.
    pub errno: i32,
    /// Calls that stay.
    pub except: Vec<String>,
}

const USAGE: &str = "usage: killick-runtime-tests refuse --kernel N.M [--errno ENOSYS|EPERM] [--except CALL]... -- PROGRAM [ARGUMENT...]";

/// `refuse` as a command; comes back only with an exit code.
pub fn main(arguments: impl Iterator<Item = String>) -> i32 {
    match Refusal::parse(arguments) {
        Ok((refusal, program)) => {
            if let Err(errno) = refusal.filter().load() {
                eprintln!("refuse: prctl(PR_SET_SECCOMP): {errno}; it needs CAP_SYS_ADMIN");
                return 125;
            }
            let error = Command::new(&program[0]).args(&program[1..]).exec();
            eprintln!("refuse: {}: {error}", program[0]);
            126
        }
        Err(error) => {
            eprintln!("refuse: {error}\n{USAGE}");
            2
        }
    }
}

impl Refusal {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<(Refusal, Vec<String>), String> {
        let mut refusal = Refusal { kernel: (0, 0), errno: libc::ENOSYS, except: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--kernel" => refusal.kernel = kernel(&value()?)?,
                "--errno" => refusal.errno = errno(&value()?)?,
                "--except" => refusal.except.push(value()?),
                "--" => break,
                _ => return Err(format!("unknown option {argument}")),
            }
        }
        let program: Vec<String> = arguments.collect();
        let unknown = refusal.except.iter().find(|name| !CALLS.iter().any(|call| call.0 == name.as_str()));
        match (refusal.kernel, unknown, program.is_empty()) {
            ((0, 0), ..) => Err("--kernel is missing".into()),
            (_, Some(name), _) => Err(format!("--except {name}: no such call in the list")),
            (_, _, true) => Err("no program".into()),
            _ => Ok((refusal, program)),
        }
    }

    /// `3.10:EPERM`
    pub fn short(text: &str) -> Result<Refusal, String> {
        let (version, error) = text.split_once(':').ok_or_else(|| format!("{text:?} is no KERNEL:ERRNO"))?;
        Ok(Refusal { kernel: kernel(version)?, errno: errno(error)?, except: Vec::new() })
    }

    /// The arguments that make `main` do this.
    pub fn arguments(&self) -> Vec<String> {
        let (major, minor) = self.kernel;
        let errno = if self.errno == libc::EPERM { "EPERM" } else { "ENOSYS" };
        let mut arguments: Vec<String> =
            ["refuse", "--kernel", &format!("{major}.{minor}"), "--errno", errno].map(String::from).into();
        for name in &self.except {
            arguments.extend(["--except".to_owned(), name.clone()]);
        }
        arguments.push("--".to_owned());
        arguments
    }

    fn filter(&self) -> Filter {
        let refuse = |errno: i32| ret(RET_ERRNO | errno as u32);
        let mut program = vec![load(ARCH), jump(JEQ, NATIVE, 1, 0), ret(RET_ALLOW), load(NR)];
        let newer = |since: (u32, u32)| since > self.kernel;
        for (name, number, since) in CALLS {
            if newer(*since) && !self.except.iter().any(|kept| kept == name) {
                program.extend([jump(JEQ, *number as u32, 0, 1), refuse(self.errno)]);
            }
        }
        for flag in FLAGS {
            if newer(flag.since) {
                let check = [load(flag.argument), jump(flag.test, flag.value, 0, 1), refuse(flag.errno), load(NR)];
                program.extend([jump(JEQ, flag.call as u32, 0, check.len() as u8)]);
                program.extend(check);
            }
        }
        if newer((5, 8)) {
            // Several namespaces by one setns: only a pidfd can do that.
            let check = [
                load(ARG1),
                insn(libc::BPF_MISC | libc::BPF_TAX, 0),
                insn(libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K, 1),
                insn(libc::BPF_ALU | libc::BPF_AND | libc::BPF_X, 0),
                jump(JEQ, 0, 1, 0),
                refuse(libc::EINVAL),
                load(NR),
            ];
            program.extend([jump(JEQ, libc::SYS_setns as u32, 0, check.len() as u8)]);
            program.extend(check);
        }
        program.push(ret(RET_ALLOW));
        Filter { program, flags: 0 }
    }
}

fn kernel(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?} is no kernel version as 3.10"))
}

fn errno(text: &str) -> Result<i32, String> {
    match text {
        "ENOSYS" => Ok(libc::ENOSYS),
        "EPERM" => Ok(libc::EPERM),
        _ => Err(format!("{text:?}: the errno is ENOSYS or EPERM")),
    }
}

const RET_ERRNO: u32 = 0x0005_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
/// Offsets in `struct seccomp_data`; of an argument, its lower half.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARG0: u32 = 16;
const ARG1: u32 = 24;
const ARG2: u32 = 32;
const JEQ: u32 = libc::BPF_JEQ;
const JSET: u32 = libc::BPF_JSET;
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

fn insn(code: u32, k: u32) -> Insn {
    Insn { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> Insn {
    insn(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn ret(value: u32) -> Insn {
    insn(libc::BPF_RET | libc::BPF_K, value)
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k }
}

/// A flag of a call that is older than the flag.
struct Flag {
    call: i64,
    argument: u32,
    test: u32,
    value: u32,
    /// What a kernel says that does not know it.
    errno: i32,
    since: (u32, u32),
}

const fn flag(call: i64, argument: u32, test: u32, value: u32, errno: i32, since: (u32, u32)) -> Flag {
    Flag { call, argument, test, value, errno, since }
}

const CLONE_NEWTIME: u32 = 0x80;

const FLAGS: &[Flag] = &[
    // Kernels before 4.6 ignore unknown flags of clone(2), which a filter cannot: here they are an error.
    flag(libc::SYS_clone, ARG0, JSET, libc::CLONE_PIDFD as u32, libc::EINVAL, (5, 2)),
    flag(libc::SYS_clone, ARG0, JSET, libc::CLONE_NEWCGROUP as u32, libc::EINVAL, (4, 6)),
    flag(libc::SYS_unshare, ARG0, JSET, libc::CLONE_NEWCGROUP as u32, libc::EINVAL, (4, 6)),
    flag(libc::SYS_setns, ARG1, JSET, libc::CLONE_NEWCGROUP as u32, libc::EINVAL, (4, 6)),
    flag(libc::SYS_unshare, ARG0, JSET, CLONE_NEWTIME, libc::EINVAL, (5, 6)),
    flag(libc::SYS_setns, ARG1, JSET, CLONE_NEWTIME, libc::EINVAL, (5, 6)),
    flag(libc::SYS_prctl, ARG0, JEQ, libc::PR_CAP_AMBIENT as u32, libc::EINVAL, (4, 3)),
    // waitid's P_PIDFD.
    flag(libc::SYS_waitid, ARG0, JEQ, 3, libc::EINVAL, (5, 4)),
    // Locks of open files.
    flag(libc::SYS_fcntl, ARG1, JEQ, libc::F_OFD_GETLK as u32, libc::EINVAL, (3, 15)),
    flag(libc::SYS_fcntl, ARG1, JEQ, libc::F_OFD_SETLK as u32, libc::EINVAL, (3, 15)),
    flag(libc::SYS_fcntl, ARG1, JEQ, libc::F_OFD_SETLKW as u32, libc::EINVAL, (3, 15)),
    flag(libc::SYS_fcntl, ARG1, JEQ, libc::F_ADD_SEALS as u32, libc::EINVAL, (3, 17)),
    flag(libc::SYS_fcntl, ARG1, JEQ, libc::F_GET_SEALS as u32, libc::EINVAL, (3, 17)),
    flag(libc::SYS_ioctl, ARG1, JEQ, 0x5441, libc::ENOTTY, (4, 13)), // TIOCGPTPEER
    flag(libc::SYS_ioctl, ARG1, JEQ, 0xb701, libc::ENOTTY, (4, 9)),  // NS_GET_USERNS
    flag(libc::SYS_ioctl, ARG1, JEQ, 0xb702, libc::ENOTTY, (4, 9)),  // NS_GET_PARENT
    flag(libc::SYS_ioctl, ARG1, JEQ, 0xb703, libc::ENOTTY, (4, 11)), // NS_GET_NSTYPE
    flag(libc::SYS_ioctl, ARG1, JEQ, 0xb704, libc::ENOTTY, (4, 11)), // NS_GET_OWNER_UID
    // O_TMPFILE: older kernels see the directory.
    flag(libc::SYS_openat, ARG2, JSET, (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32, libc::EISDIR, (3, 11)),
];

/// Calls by name, number and the first kernel that has them, from 3.11 on.
const CALLS: &[(&str, i64, (u32, u32))] = &[
    ("sched_setattr", libc::SYS_sched_setattr, (3, 14)),
    ("sched_getattr", libc::SYS_sched_getattr, (3, 14)),
    ("renameat2", libc::SYS_renameat2, (3, 15)),
    ("seccomp", libc::SYS_seccomp, (3, 17)),
    ("getrandom", libc::SYS_getrandom, (3, 17)),
    ("memfd_create", libc::SYS_memfd_create, (3, 17)),
    ("bpf", libc::SYS_bpf, (3, 18)),
    ("execveat", libc::SYS_execveat, (3, 19)),
    ("userfaultfd", libc::SYS_userfaultfd, (4, 3)),
    ("membarrier", libc::SYS_membarrier, (4, 3)),
    ("mlock2", libc::SYS_mlock2, (4, 4)),
    ("copy_file_range", libc::SYS_copy_file_range, (4, 5)),
    ("preadv2", libc::SYS_preadv2, (4, 6)),
    ("pwritev2", libc::SYS_pwritev2, (4, 6)),
    ("pkey_mprotect", libc::SYS_pkey_mprotect, (4, 9)),
    ("pkey_alloc", libc::SYS_pkey_alloc, (4, 9)),
    ("pkey_free", libc::SYS_pkey_free, (4, 9)),
    ("statx", libc::SYS_statx, (4, 11)),
    ("io_pgetevents", 333, (4, 18)),
    ("rseq", libc::SYS_rseq, (4, 18)),
    ("pidfd_send_signal", 424, (5, 1)),
    ("io_uring_setup", 425, (5, 1)),
    ("io_uring_enter", 426, (5, 1)),
    ("io_uring_register", 427, (5, 1)),
    ("open_tree", 428, (5, 2)),
    ("move_mount", 429, (5, 2)),
    ("fsopen", 430, (5, 2)),
    ("fsconfig", 431, (5, 2)),
    ("fsmount", 432, (5, 2)),
    ("fspick", 433, (5, 2)),
    ("pidfd_open", 434, (5, 3)),
    ("clone3", 435, (5, 3)),
    ("close_range", 436, (5, 9)),
    ("openat2", 437, (5, 6)),
    ("pidfd_getfd", 438, (5, 6)),
    ("faccessat2", 439, (5, 8)),
    ("process_madvise", 440, (5, 10)),
    ("epoll_pwait2", 441, (5, 11)),
    ("mount_setattr", 442, (5, 12)),
    ("quotactl_fd", 443, (5, 14)),
    ("landlock_create_ruleset", 444, (5, 13)),
    ("landlock_add_rule", 445, (5, 13)),
    ("landlock_restrict_self", 446, (5, 13)),
    ("memfd_secret", 447, (5, 14)),
    ("process_mrelease", 448, (5, 15)),
    ("futex_waitv", 449, (5, 16)),
    ("set_mempolicy_home_node", 450, (5, 17)),
    ("cachestat", 451, (6, 5)),
    ("fchmodat2", 452, (6, 6)),
    ("map_shadow_stack", 453, (6, 6)),
    ("futex_wake", 454, (6, 7)),
    ("futex_wait", 455, (6, 7)),
    ("futex_requeue", 456, (6, 7)),
    ("statmount", 457, (6, 8)),
    ("listmount", 458, (6, 8)),
    ("lsm_get_self_attr", 459, (6, 8)),
    ("lsm_set_self_attr", 460, (6, 8)),
    ("lsm_list_modules", 461, (6, 8)),
    ("mseal", 462, (6, 10)),
    ("setxattrat", 463, (6, 13)),
    ("getxattrat", 464, (6, 13)),
    ("listxattrat", 465, (6, 13)),
    ("removexattrat", 466, (6, 13)),
    ("open_tree_attr", 467, (6, 15)),
    ("file_getattr", 468, (6, 17)),
    ("file_setattr", 469, (6, 17)),
    ("listns", 470, (6, 19)),
];
