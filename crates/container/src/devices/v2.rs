//! Device rules on v2: an eBPF program of ours, attached to the cgroup.
//!
//! The program keeps the kinds of access that are still undecided in a register and asks the rules from the last to
//! the first: a deny that touches one ends it with no, an allow takes its own away, and none left is yes. So `deny w`
//! holds against an open for reading and writing too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use killick_sys::bpf::{self, Insn};
use killick_sys::cgroup as files;
use nix::errno::Errno;

use super::{DEFAULT_RULES, DeviceError, Kind, Rule, in_user_namespace};

// Registers: the context is in r1 at entry, the answer in r0.
const R0: u8 = 0;
const R1: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operation codes of linux/bpf.h.
const LOAD_WORD: u8 = 0x61;
const MOV_REG: u8 = 0xbf;
const MOV: u8 = 0xb7;
const AND: u8 = 0x57;
const RSH: u8 = 0x77;
const JA: u8 = 0x05;
const JNE: u8 = 0x55;
const JSET: u8 = 0x45;
const EXIT: u8 = 0x95;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn { code, regs: src << 4 | dst, off, imm }
}

/// The program for a list of rules, the last deciding. What no rule matches is denied.
pub fn program(rules: &[Rule]) -> Vec<Insn> {
    let mut program = vec![
        insn(LOAD_WORD, KIND, R1, 0, 0),
        insn(MOV_REG, ACCESS, KIND, 0, 0),
        insn(AND, KIND, 0, 0, 0xffff),
        insn(RSH, ACCESS, 0, 0, 16),
        insn(LOAD_WORD, MAJOR, R1, 4, 0),
        insn(LOAD_WORD, MINOR, R1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let kind = match rule.kind {
            Kind::All => None,
            Kind::Block => Some(1),
            Kind::Char => Some(2),
        };
        let tests: Vec<(u8, i32)> = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)]
            .into_iter()
            .filter_map(|(register, wanted)| Some((register, i32::try_from(wanted?).ok()?)))
            .collect();
        let access = i32::from(rule.access);
        let verdict = if rule.allow {
            vec![insn(AND, ACCESS, 0, 0, !access), insn(JNE, ACCESS, 0, 2, 0), insn(MOV, R0, 0, 0, 1)]
        } else {
            vec![insn(JSET, ACCESS, 0, 1, access), insn(JA, 0, 0, 2, 0), insn(MOV, R0, 0, 0, 0)]
        };
        for (at, (register, wanted)) in tests.iter().enumerate() {
            let to_next = tests.len() - at - 1 + verdict.len() + 1;
            program.push(insn(JNE, *register, 0, to_next as i16, *wanted));
        }
        program.extend(verdict);
        program.push(insn(EXIT, 0, 0, 0, 0));
    }
    program.extend([insn(MOV, R0, 0, 0, 0), insn(EXIT, 0, 0, 0, 0)]);
    program
}

pub(super) fn apply(dir: &Path, rules: &[Rule]) -> Result<(), DeviceError> {
    let all: Vec<Rule> = rules.iter().chain(&DEFAULT_RULES).copied().collect();
    let cgroup = files::open_dir_readable(dir)?;
    match attach(&cgroup, &program(&all)) {
        Ok(()) => Ok(()),
        // Rootless: the caller has no right to more devices than it shows anyway.
        Err((_, Errno::EPERM | Errno::EACCES)) if in_user_namespace() => Ok(()),
        Err((call, errno)) => {
            let hint = match errno {
                Errno::EINVAL => "; the kernel may lack CONFIG_CGROUP_BPF",
                Errno::EPERM => "; bpf needs CAP_SYS_ADMIN, and on kernels before 5.11 a higher RLIMIT_MEMLOCK",
                _ => "",
            };
            Err(DeviceError::Bpf { path: dir.to_owned(), call, errno, hint })
        }
    }
}

/// Loads and attaches; an old program of ours goes in the same moment or after, never before: with both attached the
/// container has less for a moment, without any it would have everything.
fn attach(cgroup: &OwnedFd, program: &[Insn]) -> Result<(), (&'static str, Errno)> {
    let cgroup = cgroup.as_fd();
    let loaded = bpf::load_device_program(program).map_err(|e| ("bpf(PROG_LOAD)", e))?;
    let mut old: Vec<OwnedFd> = Vec::new();
    for id in bpf::device_programs(cgroup).map_err(|e| ("bpf(PROG_QUERY)", e))? {
        match bpf::program_by_id(id) {
            Ok(fd) => old.push(fd),
            // Gone meanwhile, or a security module keeps it from us: it is not ours to replace.
            Err(Errno::ENOENT | Errno::EPERM | Errno::EACCES) => {}
            Err(errno) => return Err(("bpf(PROG_GET_FD_BY_ID)", errno)),
        }
    }
    if let [only] = old.as_slice()
        && bpf::attach_device_program(cgroup, loaded.as_fd(), Some(only.as_fd())).is_ok()
    {
        return Ok(());
    }
    bpf::attach_device_program(cgroup, loaded.as_fd(), None).map_err(|e| ("bpf(PROG_ATTACH)", e))?;
    old.iter().try_for_each(|fd| detach(cgroup, fd.as_fd()))
}

fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), (&'static str, Errno)> {
    match bpf::detach_device_program(cgroup, program) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(("bpf(PROG_DETACH)", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{ALL_ACCESS, allows};

    /// Runs the few instructions that `program` writes.
    fn run(program: &[Insn], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let kind = if kind == Kind::Block { 1 } else { 2 };
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        for _ in 0..program.len() {
            let Insn { code, regs, off, imm } = program[at];
            let (dst, src) = (usize::from(regs & 15), usize::from(regs >> 4));
            let imm = i64::from(imm) as u64;
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    assert_eq!(src, 1, "only the context is read");
                    registers[dst] = u64::from(context[usize::try_from(off).unwrap() / 4]);
                    false
                }
                MOV_REG => {
                    registers[dst] = registers[src];
                    false
                }
                MOV => {
                    registers[dst] = imm;
                    false
                }
                AND => {
                    registers[dst] &= imm;
                    false
                }
                RSH => {
                    registers[dst] >>= imm;
                    false
                }
                JA => true,
                JNE => registers[dst] != imm,
                JSET => registers[dst] & imm != 0,
                EXIT => return registers[0] != 0,
                other => panic!("no such instruction: {other:#x}"),
            };
            if jump {
                at += usize::try_from(off).unwrap();
            }
        }
        panic!("the program does not end");
    }

    #[test]
    fn the_program_answers_as_the_rules_do() {
        // A generator of its own, so that a failure repeats: xorshift.
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        for _ in 0..500 {
            let mut rules: Vec<Rule> = (0..next(8))
                .map(|_| Rule {
                    allow: next(2) == 0,
                    kind: [Kind::All, Kind::Block, Kind::Char][next(3) as usize],
                    major: [None, Some(1), Some(8), Some(136)][next(4) as usize],
                    minor: [None, Some(0), Some(3)][next(3) as usize],
                    access: 1 + next(7) as u8,
                })
                .collect();
            if next(2) == 0 {
                rules.extend(DEFAULT_RULES);
            }
            let program = program(&rules);
            for kind in [Kind::Block, Kind::Char] {
                for (major, minor) in [(1, 0), (1, 3), (8, 0), (8, 3), (136, 3), (136, 9), (5, 2), (4095, 0xfffff)] {
                    for access in 1..=ALL_ACCESS {
                        let expected = allows(&rules, kind, major, minor, access);
                        let answer = run(&program, kind, major, minor, access);
                        assert_eq!(answer, expected, "{rules:?}: {kind:?} {major}:{minor} {access:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_kernels_verifier_takes_the_program() {
        if !bpf::is_available() {
            println!("not here: this kernel has no device programs (4.15)");
            return;
        }
        let everything = Rule { allow: true, kind: Kind::All, major: None, minor: None, access: ALL_ACCESS };
        let nothing = Rule { allow: false, ..everything };
        for rules in [vec![], vec![everything], vec![nothing], vec![nothing, everything], DEFAULT_RULES.to_vec()] {
            bpf::load_device_program(&program(&rules)).unwrap();
        }
        let many: Vec<Rule> = (0..200).map(|n| Rule { minor: Some(n), ..DEFAULT_RULES[2] }).collect();
        bpf::load_device_program(&program(&many)).unwrap();
    }
}
