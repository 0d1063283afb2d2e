//! seccomp(2): a finished classic BPF program, and the one call that loads it.
//!
//! Compiling a profile to the program is the business of `container::seccomp`.
#![allow(unsafe_code)]

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// One classic BPF instruction (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Insn {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// `BPF_MAXINSNS`: the kernel takes no longer program.
pub const INSNS_MAX: usize = 4096;

pub const FLAG_TSYNC: u32 = 1;
pub const FLAG_LOG: u32 = 1 << 1;
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
pub const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// A compiled filter. `load()` is one system call and allocates nothing: it is the child's last step before execve.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filter {
    #[serde(with = "digits")]
    pub program: Vec<Insn>,
    pub flags: u32,
}

/// A program in a state file: sixteen hexadecimal digits for each instruction. As a list of objects it was more than
/// half of the file, which every command reads.
mod digits {
    use super::{INSNS_MAX, Insn};
    use serde::de::{Error, SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};
    use std::fmt::Write;

    const DIGITS: usize = 16;

    pub(super) fn serialize<S: Serializer>(program: &[Insn], serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(program.len() * DIGITS);
        for Insn { code, jt, jf, k } in program {
            // Writing to a string does not fail.
            let _ = write!(text, "{code:04x}{jt:02x}{jf:02x}{k:08x}");
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Insn>, D::Error> {
        deserializer.deserialize_any(Program)
    }

    struct Program;

    impl<'de> Visitor<'de> for Program {
        type Value = Vec<Insn>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a BPF program")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            let invalid = || E::custom("a BPF program that is no whole number of instructions");
            if !text.len().is_multiple_of(DIGITS) || text.len() / DIGITS > INSNS_MAX || !text.is_ascii() {
                return Err(invalid());
            }
            let numbers = text.as_bytes().chunks(DIGITS).map(|digits| {
                let digits = digits.iter().try_fold(0u64, |number, digit| {
                    char::from(*digit).to_digit(16).map(|digit| number << 4 | u64::from(digit))
                });
                digits.ok_or_else(invalid)
            });
            let insn = |number: u64| Insn {
                code: (number >> 48) as u16,
                jt: (number >> 40) as u8,
                jf: (number >> 32) as u8,
                k: number as u32,
            };
            numbers.map(|number| number.map(insn)).collect()
        }

        /// As it was written before.
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut program = Vec::new();
            while let Some(insn) = list.next_element()? {
                program.push(insn);
            }
            Ok(program)
        }
    }
}

impl Filter {
    /// Loads the filter for this thread, for good. Needs no_new_privs or CAP_SYS_ADMIN in its user namespace.
    ///
    /// Without flags by prctl, which every kernel since 3.5 has; a flag needs seccomp(2) (3.17).
    pub fn load(&self) -> Result<(), Errno> {
        let len = u16::try_from(self.program.len()).map_err(|_| Errno::EINVAL)?;
        let program = libc::sock_fprog { len, filter: self.program.as_ptr().cast_mut().cast() };
        let loaded = if self.flags == 0 {
            // SAFETY: the program outlives the call; the kernel copies and checks it, and only reads.
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) }.into()
        } else {
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &program) }
        };
        Errno::result(loaded).map(drop)
    }
}

impl Filter {
    /// Some of its calls are answered by another process, through a listener.
    pub fn listens(&self) -> bool {
        self.flags & FLAG_NEW_LISTENER != 0
    }

    /// As `load`, for a filter that listens: its listener, with O_CLOEXEC. (5.0)
    pub(crate) fn load_listener(&self) -> Result<std::os::fd::OwnedFd, Errno> {
        let len = u16::try_from(self.program.len()).map_err(|_| Errno::EINVAL)?;
        let program = libc::sock_fprog { len, filter: self.program.as_ptr().cast_mut().cast() };
        // SAFETY: the program outlives the call; the kernel copies and checks it, and only reads.
        let loaded = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &program) };
        Errno::result(loaded).map(|fd| crate::fd::own(fd as std::os::fd::RawFd))
    }
}

/// What is open is a filter's listener.
pub fn is_listener(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    use std::os::fd::AsRawFd;
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    target.is_ok_and(|target| target.to_string_lossy().contains("seccomp notify"))
}

/// Whether this kernel takes a filter flag: a null program is EFAULT when the flag is known, EINVAL when not.
pub fn flag_is_supported(flag: u32) -> bool {
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: with a null program the call always fails and changes nothing.
    let asked = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flag, none) };
    Errno::result(asked) == Err(Errno::EFAULT)
}

/// Whether this kernel knows a return action (`SECCOMP_GET_ACTION_AVAIL`, 4.14). Before that kernels knew just
/// KILL_THREAD, TRAP, ERRNO, TRACE and ALLOW.
pub fn action_is_supported(action: u32) -> bool {
    let basic = [0x0000_0000, 0x0003_0000, 0x0005_0000, 0x7ff0_0000, 0x7fff_0000];
    // SAFETY: reads the one integer that it is given.
    let asked = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &action) };
    Errno::result(asked).is_ok() || basic.contains(&action)
}

/// Whether a traced process's calls still pass its filter (since 4.8; before, ptrace was a way around it). Asked by
/// what came with 4.14, so that a kernel that cannot tell counts as one that does not filter.
pub fn ptrace_is_filtered() -> bool {
    let action = 0x7fff_0000u32;
    // SAFETY: reads the one integer that it is given.
    let asked = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &action) };
    Errno::result(asked).is_ok()
}

const _: () = assert!(size_of::<Insn>() == size_of::<libc::sock_filter>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_kept_as_digits_and_read_in_its_older_form_too() {
        let insn = Insn { code: 0x15, jt: 1, jf: 255, k: 0xc000_003e };
        let filter = Filter { program: vec![insn, Insn::default()], flags: 4 };
        let text = serde_json::to_string(&filter).unwrap();
        assert_eq!(text, r#"{"program":"001501ffc000003e0000000000000000","flags":4}"#);
        assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), filter);
        let older =
            r#"{"program":[{"code":21,"jt":1,"jf":255,"k":3221225534},{"code":0,"jt":0,"jf":0,"k":0}],"flags":4}"#;
        assert_eq!(serde_json::from_str::<Filter>(older).unwrap(), filter);
        for damaged in [r#"{"program":"0015","flags":0}"#, r#"{"program":"zz1501ffc000003e","flags":0}"#] {
            assert!(serde_json::from_str::<Filter>(damaged).is_err(), "{damaged}");
        }
    }
}
