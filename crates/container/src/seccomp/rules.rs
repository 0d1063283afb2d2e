//! What each system call of each architecture gets: a profile read with libseccomp's meaning.

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::table::TABLE;
use super::{Kernel, SeccompError};

pub(super) const RET_KILL_PROCESS: u32 = 0x8000_0000;
pub(super) const RET_KILL_THREAD: u32 = 0;
pub(super) const RET_TRAP: u32 = 0x0003_0000;
pub(super) const RET_ERRNO: u32 = 0x0005_0000;
pub(super) const RET_USER_NOTIF: u32 = 0x7fc0_0000;
pub(super) const RET_TRACE: u32 = 0x7ff0_0000;
pub(super) const RET_LOG: u32 = 0x7ffc_0000;
pub(super) const RET_ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Set in the numbers of the x32 ABI, which has x86_64's audit architecture.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A set of call numbers and conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    pub(super) const NATIVE: Abi = if cfg!(target_arch = "aarch64") { Abi::Aarch64 } else { Abi::X86_64 };

    /// Architectures without a table here cannot occur on a machine that runs this.
    fn of(arch: Arch) -> Option<Abi> {
        match arch {
            Arch::ScmpArchNative => Some(Abi::NATIVE),
            Arch::ScmpArchX86_64 => Some(Abi::X86_64),
            Arch::ScmpArchX86 => Some(Abi::X86),
            Arch::ScmpArchX32 => Some(Abi::X32),
            Arch::ScmpArchAarch64 => Some(Abi::Aarch64),
            Arch::ScmpArchArm => Some(Abi::Arm),
            Arch::ScmpArchMips
            | Arch::ScmpArchMips64
            | Arch::ScmpArchMips64n32
            | Arch::ScmpArchMipsel
            | Arch::ScmpArchMipsel64
            | Arch::ScmpArchMipsel64n32
            | Arch::ScmpArchPpc
            | Arch::ScmpArchPpc64
            | Arch::ScmpArchPpc64le
            | Arch::ScmpArchS390
            | Arch::ScmpArchS390x
            | Arch::ScmpArchParisc
            | Arch::ScmpArchParisc64
            | Arch::ScmpArchRiscv64
            | Arch::ScmpArchLoongarch64
            | Arch::ScmpArchM68k
            | Arch::ScmpArchSh
            | Arch::ScmpArchSheb => None,
        }
    }

    /// `AUDIT_ARCH_*`, what a filter sees.
    pub(super) fn audit(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Arguments are 32 bits wide: the upper halves are zero, or (x32) not looked at by the kernel.
    pub(super) fn is_32_bit(self) -> bool {
        matches!(self, Abi::X86 | Abi::X32 | Abi::Arm)
    }

    /// The call's number, x32's with its bit.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let row = TABLE.binary_search_by(|(known, _)| known.cmp(&name)).ok()?;
        let column = match self {
            Abi::X86_64 => 0,
            Abi::X86 => 1,
            Abi::X32 => 2,
            Abi::Aarch64 => 3,
            Abi::Arm => 4,
        };
        let number = u32::try_from(TABLE[row].1[column]).ok()?;
        Some(if self == Abi::X32 { number | X32_BIT } else { number })
    }
}

/// i386's one call for all sockets, and the one for System V IPC: number, and each call's first argument.
const SOCKETCALL: (u32, &[(&str, u64)]) = (
    102,
    &[
        ("socket", 1),
        ("bind", 2),
        ("connect", 3),
        ("listen", 4),
        ("accept", 5),
        ("getsockname", 6),
        ("getpeername", 7),
        ("socketpair", 8),
        ("send", 9),
        ("recv", 10),
        ("sendto", 11),
        ("recvfrom", 12),
        ("shutdown", 13),
        ("setsockopt", 14),
        ("getsockopt", 15),
        ("sendmsg", 16),
        ("recvmsg", 17),
        ("accept4", 18),
        ("recvmmsg", 19),
        ("sendmmsg", 20),
    ],
);
const IPC: (u32, &[(&str, u64)]) = (
    117,
    &[
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ],
);

/// One comparison of an argument; for `MaskedEq` the mask is applied first, for the others it is all ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u8,
    pub(super) op: LinuxSeccompOperator,
    pub(super) value: u64,
    pub(super) mask: u64,
}

/// An action for calls that meet all the conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// What a range of numbers gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Return(u32),
    /// The first rule that matches, else the default.
    Rules {
        rules: Vec<Rule>,
        default: u32,
        is_32_bit: bool,
    },
}

/// One audit architecture: verdicts by their first number, beginning with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) audit: u32,
    pub(super) ranges: Vec<(u32, Verdict)>,
}

impl Block {
    /// Some call may be answered by somebody else.
    pub(super) fn asks(&self) -> bool {
        self.ranges.iter().any(|(_, verdict)| match verdict {
            Verdict::Return(action) => *action == RET_USER_NOTIF,
            Verdict::Rules { rules, .. } => rules.iter().any(|rule| rule.action == RET_USER_NOTIF),
        })
    }
}

/// The whole profile: a block for each architecture, the native one first. A call of any other is killed.
pub(super) fn blocks(profile: &LinuxSeccomp, kernel: &Kernel) -> Result<Vec<Block>, SeccompError> {
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(SeccompError::NotifyDefault);
    }
    let default = action(profile.default_action(), profile.default_errno_ret(), kernel)?;
    let mut abis = vec![Abi::NATIVE];
    for abi in profile.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch)) {
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    let no_stub = matches!(
        profile.default_action(),
        // A tracer answers for calls that it does not know, too.
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
    ) || profile.default_errno_ret() == Some(ENOSYS);
    let mut blocks: Vec<Block> = Vec::new();
    for abi in abis {
        let rules = rules_of(profile, abi, default, kernel)?;
        let newest = if no_stub { None } else { newest_named(profile, abi) };
        let ranges = ranges(abi, &rules, default, newest);
        match blocks.iter_mut().find(|block| block.audit == abi.audit()) {
            // x32 beside x86_64: the one ends where the other begins.
            Some(block) => {
                block.ranges.retain(|(first, _)| (*first < X32_BIT) == (abi == Abi::X32));
                block.ranges.extend(ranges.into_iter().filter(|(first, _)| (*first >= X32_BIT) == (abi == Abi::X32)));
                block.ranges.sort_by_key(|(first, _)| *first);
            }
            None => blocks.push(Block { audit: abi.audit(), ranges }),
        }
    }
    for block in &mut blocks {
        block.ranges.dedup_by(|next, before| next.1 == before.1);
    }
    Ok(blocks)
}

/// A return value of the filter. What an old kernel lacks is taken by the nearest that it has.
fn action(action: LinuxSeccompAction, errno: Option<u32>, kernel: &Kernel) -> Result<u32, SeccompError> {
    if let Some(errno) = errno
        && errno > 0xffff
    {
        return Err(SeccompError::ErrnoTooLarge(errno));
    }
    let value = match action {
        LinuxSeccompAction::ScmpActErrno => return Ok(RET_ERRNO | errno.unwrap_or(EPERM)),
        LinuxSeccompAction::ScmpActTrace => return Ok(RET_TRACE | errno.unwrap_or(EPERM)),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess if kernel.has_kill_process => RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActKillProcess => RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActTrap => RET_TRAP,
        LinuxSeccompAction::ScmpActNotify if kernel.has_notify => RET_USER_NOTIF,
        // Nothing else would do: who asks does not want to be refused, nor given.
        LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::Notify),
        LinuxSeccompAction::ScmpActLog if kernel.has_log => RET_LOG,
        LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActAllow => RET_ALLOW,
    };
    match errno {
        // Written by tools that fill in every field; it says nothing else than the default.
        None | Some(0) => Ok(value),
        Some(errno) => Err(SeccompError::ErrnoWithout { errno, action }),
    }
}

/// The rules by number, in the listed order. An unconditional rule stands for all of its call.
fn rules_of(
    profile: &LinuxSeccomp,
    abi: Abi,
    default: u32,
    kernel: &Kernel,
) -> Result<BTreeMap<u32, Vec<Rule>>, SeccompError> {
    let mut by_number: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret(), kernel)?;
        let alternatives = alternatives(syscall)?;
        if action == default {
            continue;
        }
        for name in syscall.names() {
            // Not ours to need, but runc's, and what is written for it is told the same here.
            if action == RET_USER_NOTIF && name == "write" {
                return Err(SeccompError::NotifyFor(name.clone()));
            }
            for (number, first_argument) in places(abi, name) {
                let rules = by_number.entry(number).or_default();
                for conditions in &alternatives {
                    add(rules, Rule { conditions: multiplexed(conditions, first_argument), action });
                }
            }
        }
    }
    Ok(by_number)
}

/// Where a name is found: its own number, and i386's multiplexers.
fn places(abi: Abi, name: &str) -> Vec<(u32, Option<u64>)> {
    let mut places: Vec<(u32, Option<u64>)> = abi.number(name).map(|number| (number, None)).into_iter().collect();
    if abi == Abi::X86 {
        for (number, calls) in [SOCKETCALL, IPC] {
            places.extend(calls.iter().filter(|(call, _)| *call == name).map(|(_, code)| (number, Some(*code))));
        }
    }
    places
}

/// A multiplexer's first argument says which call it is; the call's own are behind a pointer, out of sight. Like
/// libseccomp, conditions on the other arguments are kept as they stand.
fn multiplexed(conditions: &[Condition], first_argument: Option<u64>) -> Vec<Condition> {
    let Some(code) = first_argument else { return conditions.to_vec() };
    let which = Condition { index: 0, op: LinuxSeccompOperator::ScmpCmpEq, value: code, mask: u64::MAX };
    std::iter::once(which).chain(conditions.iter().filter(|c| c.index != 0).copied()).collect()
}

fn add(rules: &mut Vec<Rule>, rule: Rule) {
    if rules.iter().any(|known| known.conditions.is_empty()) {
        return;
    }
    if rule.conditions.is_empty() {
        rules.clear();
    }
    if !rules.contains(&rule) {
        rules.push(rule);
    }
}

/// The conditions of an entry: all of them together, or (as old Docker profiles want it) each by itself when two are
/// about the same argument.
fn alternatives(syscall: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let arguments: &[LinuxSeccompArg] = syscall.args().as_deref().unwrap_or_default();
    let mut conditions = Vec::new();
    for argument in arguments {
        let Some(index) = u8::try_from(argument.index()).ok().filter(|i| *i < 6) else {
            let name = syscall.names().first().cloned().unwrap_or_default();
            return Err(SeccompError::ArgumentIndex { name, index: argument.index() });
        };
        let (value, mask) = match argument.op() {
            LinuxSeccompOperator::ScmpCmpMaskedEq => (argument.value_two().unwrap_or(0), argument.value()),
            LinuxSeccompOperator::ScmpCmpNe
            | LinuxSeccompOperator::ScmpCmpLt
            | LinuxSeccompOperator::ScmpCmpLe
            | LinuxSeccompOperator::ScmpCmpEq
            | LinuxSeccompOperator::ScmpCmpGe
            | LinuxSeccompOperator::ScmpCmpGt => (argument.value(), u64::MAX),
        };
        conditions.push(Condition { index, op: argument.op(), value, mask });
    }
    let repeated = conditions.iter().enumerate().any(|(at, c)| conditions[..at].iter().any(|d| d.index == c.index));
    Ok(if repeated { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] })
}

/// The highest number that the profile names: what is beyond did not exist for its author and gets ENOSYS, so that a
/// libc tries the older way instead of failing with EPERM (runc does the same).
fn newest_named(profile: &LinuxSeccomp, abi: Abi) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|syscall| syscall.names());
    names.flat_map(|name| places(abi, name)).map(|(number, _)| number).max()
}

fn ranges(abi: Abi, rules: &BTreeMap<u32, Vec<Rule>>, default: u32, newest: Option<u32>) -> Vec<(u32, Verdict)> {
    let mut ranges = vec![(0, Verdict::Return(default))];
    if abi == Abi::X32 {
        ranges.push((X32_BIT, Verdict::Return(default)));
    }
    for (number, rules) in rules {
        let verdict = match rules.as_slice() {
            [Rule { conditions, action }] if conditions.is_empty() => Verdict::Return(*action),
            rules => Verdict::Rules { rules: rules.to_vec(), default, is_32_bit: abi.is_32_bit() },
        };
        set(&mut ranges, *number, number.checked_add(1), verdict);
    }
    if abi == Abi::X86_64 {
        // Without x32 in the profile its numbers are another architecture. All ones is what a tracer makes a call that
        // shall not happen.
        set(&mut ranges, X32_BIT, Some(u32::MAX), Verdict::Return(RET_KILL_THREAD));
    }
    if let Some(after) = newest.and_then(|newest| newest.checked_add(1)) {
        set(&mut ranges, after, None, Verdict::Return(RET_ERRNO | ENOSYS));
    }
    ranges
}

/// Gives `[from, to)` a verdict; `None` is the end of all numbers.
fn set(ranges: &mut Vec<(u32, Verdict)>, from: u32, to: Option<u32>, verdict: Verdict) {
    let after = to.map(|to| {
        let last = ranges.iter().rfind(|(first, _)| *first <= to).expect("the first range begins at 0");
        (to, last.1.clone())
    });
    ranges.retain(|(first, _)| *first < from || to.is_some_and(|to| *first >= to));
    let at = ranges.partition_point(|(first, _)| *first < from);
    ranges.insert(at, (from, verdict));
    if let Some(after) = after
        && !ranges.iter().any(|(first, _)| *first == after.0)
    {
        ranges.insert(at + 1, after);
    }
}
