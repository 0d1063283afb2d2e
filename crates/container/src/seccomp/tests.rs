//! The compiler against two references: a plain reading of the profile, always; and libseccomp's own program, where the
//! machine has libseccomp-dev (as CI has). All run in a small BPF interpreter until no input differs.
#![allow(clippy::disallowed_methods, reason = "the oracle is a C program that is compiled and run here")]

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use killick_sys::caps::CapSet;
use killick_sys::seccomp::Insn;
use oci_spec::runtime::{Arch, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};
use serde_json::{Value, json};

use super::rules::{
    Abi, RET_ALLOW, RET_ERRNO, RET_KILL_PROCESS, RET_KILL_THREAD, RET_LOG, RET_TRACE, RET_TRAP, RET_USER_NOTIF, X32_BIT,
};
use super::table::TABLE;
use super::*;

/// What a filter is given: `struct seccomp_data` without the instruction pointer.
#[derive(Debug, Clone, Copy)]
struct Call {
    audit: u32,
    number: u32,
    args: [u64; 6],
}

/// Runs a program; the answer and the number of instructions that it took.
fn run(program: &[Insn], call: &Call) -> (u32, usize) {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.audit,
        16.. => {
            let arg = call.args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
        _ => 0,
    };
    let (mut at, mut accumulator, mut steps) = (0, 0u32, 0);
    loop {
        let Insn { code, jt, jf, k } = program[at];
        steps += 1;
        at += 1;
        let mut branch = |condition: bool| at += usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x45 => branch(accumulator & k != 0),
            0x06 => return (k, steps),
            other => panic!("no such instruction: {other:#x}"),
        }
    }
}

fn number(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    match action {
        LinuxSeccompAction::ScmpActErrno => RET_ERRNO | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActTrace => RET_TRACE | errno.unwrap_or(1),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => RET_KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => RET_TRAP,
        LinuxSeccompAction::ScmpActLog => RET_LOG,
        LinuxSeccompAction::ScmpActAllow => RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => RET_USER_NOTIF,
    }
}

fn holds(argument: &LinuxSeccompArg, args: &[u64; 6], narrow: bool) -> bool {
    let arg = args[argument.index()];
    let arg = if narrow { arg & 0xffff_ffff } else { arg };
    let value = argument.value();
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => arg != value,
        LinuxSeccompOperator::ScmpCmpLt => arg < value,
        LinuxSeccompOperator::ScmpCmpLe => arg <= value,
        LinuxSeccompOperator::ScmpCmpEq => arg == value,
        LinuxSeccompOperator::ScmpCmpGe => arg >= value,
        LinuxSeccompOperator::ScmpCmpGt => arg > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => arg & value == argument.value_two().unwrap_or(0),
    }
}

/// Whether an entry's arguments match: all, or any when two are about one argument.
fn matches(syscall: &LinuxSyscall, args: &[u64; 6], narrow: bool) -> bool {
    let listed = syscall.args().clone().unwrap_or_default();
    let indexes: BTreeSet<usize> = listed.iter().map(|a| a.index()).collect();
    if indexes.len() < listed.len() {
        listed.iter().any(|a| holds(a, args, narrow))
    } else {
        listed.iter().all(|a| holds(a, args, narrow))
    }
}

/// The profile read word by word: the reference that needs nothing. i386's multiplexers are left to libseccomp.
struct Reference<'a> {
    profile: &'a LinuxSeccomp,
    default: u32,
    stub: bool,
    /// What is said about each call, in the listed order, and the newest number that is named.
    said: Vec<(Abi, Said<'a>, Option<u32>)>,
}

type Said<'a> = HashMap<u32, Vec<&'a LinuxSyscall>>;

impl<'a> Reference<'a> {
    fn new(profile: &'a LinuxSeccomp) -> Reference<'a> {
        let default = number(profile.default_action(), profile.default_errno_ret());
        let stub = !matches!(default & 0xffff_0000, RET_ALLOW | RET_LOG | RET_TRACE) && default != RET_ERRNO | 38;
        let of_abi = |abi: Abi| {
            let mut said: Said<'_> = HashMap::new();
            for syscall in profile.syscalls().iter().flatten() {
                for number in syscall.names().iter().filter_map(|name| abi.number(name)) {
                    said.entry(number).or_default().push(syscall);
                }
            }
            let newest = said.keys().max().copied();
            (abi, said, newest)
        };
        let said = [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm].into_iter().map(of_abi).collect();
        Reference { profile, default, stub, said }
    }

    fn answer(&self, call: &Call) -> u32 {
        let listed = |arch: Arch| self.profile.architectures().iter().flatten().any(|a| *a == arch);
        let is_x32 = call.audit == 0xc000_003e && call.number >= X32_BIT;
        let abi = match call.audit {
            0xc000_003e if is_x32 && listed(Arch::ScmpArchX32) => Abi::X32,
            0xc000_003e => Abi::X86_64,
            0x4000_0003 if listed(Arch::ScmpArchX86) => Abi::X86,
            0xc000_00b7 if listed(Arch::ScmpArchAarch64) => Abi::Aarch64,
            0x4000_0028 if listed(Arch::ScmpArchArm) => Abi::Arm,
            _ => return RET_KILL_THREAD,
        };
        let (_, said, newest) = self.said.iter().find(|(of, _, _)| *of == abi).unwrap();
        if self.stub && newest.is_some_and(|newest| call.number > newest) {
            return RET_ERRNO | 38;
        }
        if is_x32 && abi == Abi::X86_64 && call.number != u32::MAX {
            return RET_KILL_THREAD;
        }
        let rules: Vec<(&LinuxSyscall, u32)> = said
            .get(&call.number)
            .iter()
            .flat_map(|rules| rules.iter())
            .map(|syscall| (*syscall, number(syscall.action(), syscall.errno_ret())))
            .filter(|(_, action)| *action != self.default)
            .collect();
        let unconditional = rules.iter().find(|(syscall, _)| syscall.args().as_ref().is_none_or(Vec::is_empty));
        if let Some((_, action)) = unconditional {
            return *action;
        }
        let first = rules.iter().find(|(syscall, _)| matches(syscall, &call.args, abi.is_32_bit()));
        first.map_or(self.default, |(_, action)| *action)
    }
}

/// xorshift: the same inputs every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

/// Values around those that the profile compares with, in each half, and some of no account.
fn interesting(profile: &LinuxSeccomp) -> Vec<u64> {
    let mut values: BTreeSet<u64> = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, u64::MAX].into();
    for argument in profile.syscalls().iter().flatten().flat_map(|s| s.args().iter().flatten()) {
        for value in [argument.value(), argument.value_two().unwrap_or(0)] {
            for near in [value, value.wrapping_add(1), value.wrapping_sub(1)] {
                values.extend([near, near ^ 1 << 32, near & 0xffff_ffff, near | 1 << 63, !near]);
            }
        }
    }
    values.into_iter().collect()
}

const AUDITS: [u32; 6] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0x8000_0016, 0];

fn numbers() -> Vec<u32> {
    let plain = (0..600).chain(0xf_0000..0xf_0008);
    let x32 = (0..600).map(|n| n | X32_BIT);
    plain.chain(x32).chain([X32_BIT - 1, u32::MAX, u32::MAX - 1, 1 << 31]).collect()
}

/// Every number of every architecture with a few arguments, more where the profile compares them.
fn calls(profile: &LinuxSeccomp, random: &mut Random) -> Vec<Call> {
    let values = interesting(profile);
    let conditional: BTreeSet<u32> = profile
        .syscalls()
        .iter()
        .flatten()
        .filter(|s| s.args().as_ref().is_some_and(|args| !args.is_empty()))
        .flat_map(|s| s.names())
        .flat_map(|name| [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm].map(|abi| abi.number(name)))
        .flatten()
        .chain([102, 117])
        .collect();
    let mut calls = Vec::new();
    for audit in AUDITS {
        for number in numbers() {
            let rounds = if conditional.contains(&number) { 120 } else { 2 };
            for _ in 0..rounds {
                let args = [(); 6].map(|()| random.of(&values));
                calls.push(Call { audit, number, args });
            }
        }
    }
    calls
}

fn profile(json: Value) -> LinuxSeccomp {
    serde_json::from_value(json).unwrap()
}

/// Values of 64 bits are compared on 32-bit architectures by libseccomp as if their upper halves were not there; a
/// plain reading says that no argument is as large.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Narrow,
    Wide,
    Any,
}

/// A profile of random rules in which no call can match two rules with different actions: there libseccomp promises no
/// order.
fn random_profile(random: &mut Random, rules_max: usize, width: Width) -> LinuxSeccomp {
    // write cannot be asked about.
    let names: Vec<&str> = TABLE
        .iter()
        .filter(|(name, row)| row[0] != -1 && row[0] < 451 && *name != "write")
        .map(|(name, _)| *name)
        .collect();
    let values = [0, 1, 7, 38, 0xffff, 0x7e02_0000, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, u64::MAX, 1 << 63];
    let values = if width == Width::Narrow { &values[..7] } else { &values[..] };
    let ops = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let defaults = ["ALLOW", "ERRNO", "TRAP", "LOG", "TRACE", "KILL_PROCESS", "KILL_THREAD"];
    let actions = [&defaults[..], &["KILL", "NOTIFY"]].concat();
    let mut syscalls = Vec::new();
    let mut used = BTreeSet::new();
    for _ in 0..random.below(40) {
        let action = random.of(&actions);
        let errno = if matches!(action, "ERRNO" | "TRACE") { json!(random.of(&[1, 38, 95])) } else { Value::Null };
        let fresh: Vec<&str> =
            (0..1 + random.below(5)).map(|_| random.of(&names)).filter(|n| used.insert(*n)).collect();
        for _ in 0..1 + random.below(rules_max) {
            let (count, first) = (random.below(4), random.below(6));
            let args: Vec<Value> = (0..count)
                .map(|at| {
                    // Twice the same argument is as good as two rules.
                    let index = if rules_max == 1 { (first + at) % 6 } else { random.below(6) };
                    let op = random.of(&ops);
                    let (value, two) = (random.of(values), random.of(values));
                    // Bits that the mask takes away can never be equal.
                    let two = if op == "MASKED_EQ" { two & value } else { 0 };
                    json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")})
                })
                .collect();
            let mut rule = json!({"names": fresh, "action": format!("SCMP_ACT_{action}"), "args": args});
            if !errno.is_null() {
                rule["errnoRet"] = errno.clone();
            }
            syscalls.push(rule);
        }
    }
    let default = random.of(&defaults);
    let arches: &[&str] =
        if width == Width::Wide { &["X86_64", "AARCH64"] } else { &["X86", "X32", "AARCH64", "ARM", "X86_64"] };
    let listed: Vec<String> =
        arches.iter().filter(|_| random.below(2) == 0).map(|arch| format!("SCMP_ARCH_{arch}")).collect();
    profile(json!({"defaultAction": format!("SCMP_ACT_{default}"), "architectures": listed, "syscalls": syscalls,
        "listenerPath": "/run/agent"}))
}

fn check(profile: &LinuxSeccomp, random: &mut Random) {
    let filter = compile(profile, &Kernel::NEWEST).unwrap();
    let reference = Reference::new(profile);
    for call in calls(profile, random) {
        if call.audit == 0x4000_0003 && matches!(call.number, 102 | 117) {
            continue; // multiplexers
        }
        let (ours, _) = run(&filter.program, &call);
        let expected = reference.answer(&call);
        assert_eq!(ours, expected, "{call:x?} {}", serde_json::to_string(profile).unwrap());
    }
}

#[test]
fn the_default_profile_does_what_it_says() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for bounding in [CapSet::EMPTY, CapSet::ALL, CapSet(1 << 21), CapSet(0xa80425fb)] {
        check(&default_profile(bounding, true), &mut random);
    }
}

#[test]
fn random_profiles_do_what_they_say() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20 {
        check(&random_profile(&mut random, 3, Width::Any), &mut random);
    }
}

/// libseccomp's compiler, if this machine has it.
fn oracle(directory: &Path) -> Option<PathBuf> {
    let program = directory.join("oracle");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/seccomp/oracle.c");
    let built = Command::new("cc").arg(source).arg("-o").arg(&program).arg("-lseccomp").output();
    match built {
        Ok(output) if output.status.success() => Some(program),
        failed => {
            assert!(std::env::var_os("REQUIRE_ALL").is_none(), "no libseccomp-dev to compare with: {failed:?}");
            eprintln!("not compared with libseccomp: this machine has no libseccomp-dev or no compiler");
            None
        }
    }
}

/// The same profile given to libseccomp as runc does.
fn libseccomp(oracle: &Path, profile: &LinuxSeccomp) -> Vec<Insn> {
    let default = number(profile.default_action(), profile.default_errno_ret());
    let mut text = format!("default {default}\n");
    for arch in profile.architectures().iter().flatten() {
        text += &format!("arch {}\n", *arch as u32);
    }
    for syscall in profile.syscalls().iter().flatten() {
        let action = number(syscall.action(), syscall.errno_ret());
        if action == default {
            continue;
        }
        let args = syscall.args().clone().unwrap_or_default();
        let indexes: BTreeSet<usize> = args.iter().map(|a| a.index()).collect();
        let alternatives: Vec<Vec<LinuxSeccompArg>> =
            if indexes.len() < args.len() { args.iter().map(|a| vec![*a]).collect() } else { vec![args] };
        for name in syscall.names() {
            for args in &alternatives {
                text += &format!("rule {action} {name} {}", args.len());
                for a in args {
                    text += &format!(" {} {} {} {}", a.index(), a.op() as u32, a.value(), a.value_two().unwrap_or(0));
                }
                text.push('\n');
            }
        }
    }
    let mut child =
        Command::new(oracle).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}\n{text}", output);
    let half = |b: &[u8]| u16::from_ne_bytes([b[0], b[1]]);
    let insn = |b: &[u8]| Insn { code: half(b), jt: b[2], jf: b[3], k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]) };
    output.stdout.chunks_exact(8).map(insn).collect()
}

/// Calls that libseccomp 2.5 has no name for are taken from the profile on both sides.
fn known_to_the_oracle(mut profile: LinuxSeccomp) -> LinuxSeccomp {
    let mut syscalls = profile.syscalls().clone().unwrap_or_default();
    for syscall in &mut syscalls {
        let known = |name: &String| {
            TABLE.iter().any(|(n, row)| n == name && row.iter().all(|number| *number < 451 || *number > 600))
        };
        let names: Vec<String> = syscall.names().iter().filter(|n| known(n) && *n != "uretprobe").cloned().collect();
        syscall.set_names(names);
    }
    profile.set_syscalls(Some(syscalls));
    profile
}

/// libseccomp 2.5.4 sometimes goes from the test of an architecture to those of the number without loading it: what it
/// compares then is the architecture. (First seen for get_thread_area with a condition, beside unconditional rules for
/// greater numbers.) Such a program answers nothing.
fn forgets_the_number(program: &[Insn]) -> bool {
    program.iter().enumerate().any(|(at, insn)| {
        let is_architecture = insn.code == 0x15 && AUDITS[..4].contains(&insn.k);
        is_architecture
            && program.get(at + 1 + usize::from(insn.jt)).is_some_and(|next| (next.code, next.k) != (0x20, 0))
    })
}

fn compare_with_libseccomp(oracle: &Path, profile: &LinuxSeccomp, random: &mut Random) {
    let ours = compile(profile, &Kernel::NEWEST).unwrap().program;
    let theirs = libseccomp(oracle, profile);
    if forgets_the_number(&theirs) {
        return check(profile, random);
    }
    let reference = Reference::new(profile);
    for call in calls(profile, random) {
        let (our_answer, _) = run(&ours, &call);
        // Beyond the newest named call runc puts ENOSYS before libseccomp's program.
        if reference.stub && our_answer == RET_ERRNO | 38 && reference.answer(&call) == RET_ERRNO | 38 {
            continue;
        }
        let (their_answer, _) = run(&theirs, &call);
        assert_eq!(our_answer, their_answer, "{call:x?} {}", serde_json::to_string(profile).unwrap());
    }
}

#[test]
fn libseccomp_answers_the_same_for_the_default_profile() {
    let directory = tempfile::tempdir().unwrap();
    let Some(oracle) = oracle(directory.path()) else { return };
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for bounding in [CapSet::EMPTY, CapSet::ALL, CapSet(0xa80425fb)] {
        let profile = known_to_the_oracle(default_profile(bounding, true));
        compare_with_libseccomp(&oracle, &profile, &mut random);
    }
}

/// One rule for each call: with more about one argument libseccomp 2.5.4 forgets which half it has loaded. `getitimer`
/// allowed if arg1 > 2^63, or if arg2 == 65535 and arg1 <= 7, is allowed by it for arg1 = 0x8000_0000 (it compares the
/// lower half with the upper half of 2^63).
#[test]
fn libseccomp_answers_the_same_for_random_profiles() {
    if !kernel::flag_is_supported(kernel::FLAG_LOG) {
        println!("not here: libseccomp asks the kernel which actions it has, and this one has no seccomp(2)");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(oracle) = oracle(directory.path()) else { return };
    // `scripts/test --all` says how many, from a seed of its own.
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (rounds, seed) =
        (number("KILLICK_ROUNDS").unwrap_or(40), number("KILLICK_SEED").unwrap_or(0x1234_5678_9abc_def1));
    let mut random = Random(seed | 1);
    for round in 0..rounds {
        let width = if round % 2 == 0 { Width::Narrow } else { Width::Wide };
        let profile = known_to_the_oracle(random_profile(&mut random, 1, width));
        compare_with_libseccomp(&oracle, &profile, &mut random);
    }
}

#[test]
fn the_default_profile_is_short_and_its_paths_are_too() {
    let filter = compile(&default_profile(CapSet::EMPTY, true), &Kernel::NEWEST).unwrap();
    assert!(filter.program.len() < 900, "{} instructions", filter.program.len());
    for number in 0..500 {
        let call = Call { audit: 0xc000_003e, number, args: [0; 6] };
        let (_, steps) = run(&filter.program, &call);
        assert!(steps <= 30, "{steps} steps for call {number}");
    }
}

#[test]
fn what_an_old_kernel_lacks_is_taken_by_the_nearest() {
    let old = Kernel { has_log: false, has_kill_process: false, has_notify: false, flags: 0 };
    let all = profile(json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_LOG"}]}));
    let filter = compile(&all, &old).unwrap();
    assert_eq!(filter.flags, 0);
    let answer = |number| run(&filter.program, &Call { audit: Abi::NATIVE.audit(), number, args: [0; 6] }).0;
    assert_eq!(answer(Abi::NATIVE.number("read").unwrap()), RET_ALLOW);
    assert_eq!(answer(1), if cfg!(target_arch = "x86_64") { RET_ERRNO | 38 } else { RET_KILL_THREAD });
}

#[test]
fn flags_absent_and_flags_empty_differ() {
    let flags = |json: Value, kernel: &Kernel| compile(&profile(json), kernel).map(|f| f.flags);
    let with = |listed: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": listed});
    let new = Kernel::NEWEST;
    let old = Kernel { flags: 0, ..new };
    let log = json!(["SECCOMP_FILTER_FLAG_LOG"]);
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW"}), &new), Ok(kernel::FLAG_SPEC_ALLOW));
    assert_eq!(flags(json!({"defaultAction": "SCMP_ACT_ALLOW"}), &old), Ok(0));
    assert_eq!(flags(with(json!([])), &new), Ok(0));
    assert_eq!(flags(with(log.clone()), &new), Ok(kernel::FLAG_LOG));
    assert_eq!(flags(with(json!(["SECCOMP_FILTER_FLAG_TSYNC"])), &old), Ok(0));
    let error = flags(with(log), &old).unwrap_err().to_string();
    assert_eq!(error, "linux.seccomp.flags: this kernel does not know SECCOMP_FILTER_FLAG_LOG");
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let refused = |json: Value| compile(&profile(json), &Kernel::NEWEST).unwrap_err().to_string();
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]});
    for (json, words) in [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            rule(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
            "SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})), "listenerPath: is not set"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 5})), "errnoRet 5 with SCMP_ACT_ALLOW"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536})), "larger than 65535"),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
            "argument index 6 of \"read\"",
        ),
    ] {
        let text = refused(json);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn names_are_sorted_and_a_name_that_nobody_knows_is_left_out() {
    assert!(TABLE.is_sorted_by_key(|(name, _)| *name));
    let unknown = profile(json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["no_such_call", "read"], "action": "SCMP_ACT_ALLOW"}]}));
    compile(&unknown, &Kernel::NEWEST).unwrap();
}
