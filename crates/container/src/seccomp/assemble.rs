//! Classic BPF: a search tree over ranges of call numbers, chains of comparisons at some of its leaves.
//!
//! Written from the end to the beginning, so that every target is known when something jumps to it. Jumps reach 255
//! instructions: a farther return is written again nearby, a farther chain is reached by a long jump.

use std::collections::HashMap;

use killick_sys::seccomp::Insn;
use oci_spec::runtime::LinuxSeccompOperator;

use super::rules::{Block, Condition, RET_KILL_THREAD, Rule, Verdict};

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// struct seccomp_data
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A place in the program, counted from its end.
type Label = usize;

#[derive(Debug, Clone, Copy)]
enum Target {
    Return(u32),
    Label(Label),
}

#[derive(Default)]
struct Assembler {
    /// The program backwards.
    reversed: Vec<Insn>,
    /// The nearest return of each value.
    returns: HashMap<u32, Label>,
}

pub(super) fn assemble(blocks: &[Block]) -> Vec<Insn> {
    let mut program = Assembler::default();
    let trees: Vec<(u32, Label)> = blocks.iter().rev().map(|block| (block.audit, program.block(block))).collect();
    // The first block, which is the native one, was written last: it is nearest to the test of the architecture.
    let mut next = Target::Return(RET_KILL_THREAD);
    for (audit, tree) in trees {
        next = Target::Label(program.test(JUMP_EQ, audit, Target::Label(tree), next));
    }
    program.load(ARCHITECTURE);
    program.reversed.reverse();
    program.reversed
}

impl Assembler {
    fn block(&mut self, block: &Block) -> Label {
        let targets: Vec<(u32, Target)> =
            block.ranges.iter().map(|(first, verdict)| (*first, self.verdict(verdict))).collect();
        let tree = self.tree(&targets);
        match tree {
            Target::Label(label) if label + 1 == self.reversed.len() => {}
            // One verdict for all numbers, or a tree that was not written last.
            Target::Label(_) | Target::Return(_) => {
                let near = self.near(tree);
                self.long_jump(near);
            }
        }
        self.load(NUMBER)
    }

    fn verdict(&mut self, verdict: &Verdict) -> Target {
        match verdict {
            Verdict::Return(action) => Target::Return(*action),
            Verdict::Rules { rules, default, is_32_bit } => {
                rules.iter().rev().fold(Target::Return(*default), |next, rule| self.rule(rule, next, *is_32_bit))
            }
        }
    }

    /// Half of the ranges on each side, so that no number has a long way.
    fn tree(&mut self, ranges: &[(u32, Target)]) -> Target {
        if let [(_, target)] = ranges {
            return *target;
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let high_target = self.tree(high);
        let low_target = self.tree(low);
        Target::Label(self.test(JUMP_GE, high[0].0, high_target, low_target))
    }

    fn rule(&mut self, rule: &Rule, next: Target, is_32_bit: bool) -> Target {
        rule.conditions.iter().rev().fold(Target::Return(rule.action), |matched, condition| {
            if is_32_bit { self.narrow(condition, matched, next) } else { self.wide(condition, matched, next) }
        })
    }

    /// A comparison of 64 bits is one of the upper halves and, where they are equal, one of the lower.
    fn wide(&mut self, condition: &Condition, yes: Target, no: Target) -> Target {
        let Condition { index, op, value, mask } = *condition;
        let offset = ARGUMENTS + 8 * u32::from(index);
        let (low_at, high_at) = if cfg!(target_endian = "big") { (offset + 4, offset) } else { (offset, offset + 4) };
        let halves = |word: u64| (word as u32, (word >> 32) as u32);
        let ((low, high), (low_mask, high_mask)) = (halves(value), halves(mask));
        match op {
            LinuxSeccompOperator::ScmpCmpEq | LinuxSeccompOperator::ScmpCmpMaskedEq => {
                let low = self.equal(low_at, low_mask, low, yes, no);
                self.equal(high_at, high_mask, high, low, no)
            }
            LinuxSeccompOperator::ScmpCmpNe => {
                let low = self.equal(low_at, low_mask, low, no, yes);
                self.equal(high_at, high_mask, high, low, yes)
            }
            LinuxSeccompOperator::ScmpCmpGt => self.greater(JUMP_GT, (low_at, high_at), (low, high), yes, no),
            LinuxSeccompOperator::ScmpCmpGe => self.greater(JUMP_GE, (low_at, high_at), (low, high), yes, no),
            LinuxSeccompOperator::ScmpCmpLe => self.greater(JUMP_GT, (low_at, high_at), (low, high), no, yes),
            LinuxSeccompOperator::ScmpCmpLt => self.greater(JUMP_GE, (low_at, high_at), (low, high), no, yes),
        }
    }

    /// `jump` compares the lower halves; the upper decide before, unless they are equal.
    fn greater(&mut self, jump: u16, at: (u32, u32), value: (u32, u32), yes: Target, no: Target) -> Target {
        self.test(jump, value.0, yes, no);
        let low = Target::Label(self.load(at.0));
        let equal = Target::Label(self.test(JUMP_EQ, value.1, low, no));
        self.test(JUMP_GT, value.1, yes, equal);
        Target::Label(self.load(at.1))
    }

    /// The same for arguments of 32 bits: a value that does not fit is greater than all of them.
    fn narrow(&mut self, condition: &Condition, yes: Target, no: Target) -> Target {
        let Condition { index, op, value, mask } = *condition;
        let offset = ARGUMENTS + 8 * u32::from(index) + if cfg!(target_endian = "big") { 4 } else { 0 };
        let low = value as u32;
        let fits = value >> 32 == 0;
        let mut compare = |jump, yes, no| {
            self.test(jump, low, yes, no);
            Target::Label(self.load(offset))
        };
        match (op, fits) {
            (LinuxSeccompOperator::ScmpCmpEq | LinuxSeccompOperator::ScmpCmpMaskedEq, true) => {
                self.equal(offset, mask as u32, low, yes, no)
            }
            (LinuxSeccompOperator::ScmpCmpNe, true) => compare(JUMP_EQ, no, yes),
            (LinuxSeccompOperator::ScmpCmpGt, true) => compare(JUMP_GT, yes, no),
            (LinuxSeccompOperator::ScmpCmpGe, true) => compare(JUMP_GE, yes, no),
            (LinuxSeccompOperator::ScmpCmpLe, true) => compare(JUMP_GT, no, yes),
            (LinuxSeccompOperator::ScmpCmpLt, true) => compare(JUMP_GE, no, yes),
            (
                LinuxSeccompOperator::ScmpCmpEq
                | LinuxSeccompOperator::ScmpCmpMaskedEq
                | LinuxSeccompOperator::ScmpCmpGt
                | LinuxSeccompOperator::ScmpCmpGe,
                false,
            ) => no,
            (
                LinuxSeccompOperator::ScmpCmpNe | LinuxSeccompOperator::ScmpCmpLe | LinuxSeccompOperator::ScmpCmpLt,
                false,
            ) => yes,
        }
    }

    /// `(word & mask) == value`, without what a full or an empty mask makes needless.
    fn equal(&mut self, offset: u32, mask: u32, value: u32, yes: Target, no: Target) -> Target {
        if mask == 0 {
            return if value == 0 { yes } else { no };
        }
        self.test(JUMP_EQ, value, yes, no);
        if mask != u32::MAX {
            self.push(Insn { code: AND, jt: 0, jf: 0, k: mask });
        }
        Target::Label(self.load(offset))
    }

    fn load(&mut self, offset: u32) -> Label {
        self.push(Insn { code: LOAD, jt: 0, jf: 0, k: offset })
    }

    fn test(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Label {
        let targets = (self.near(yes), self.near(no));
        let (jt, jf) = (self.distance(targets.0), self.distance(targets.1));
        let short = |distance: usize| u8::try_from(distance).expect("made near, with room for the other one's return");
        self.push(Insn { code, jt: short(jt), jf: short(jf), k })
    }

    /// Instructions between the next one to be written and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label - 1
    }

    /// A place for `target` that the next instruction reaches, with room for a few written before it.
    fn near(&mut self, target: Target) -> Label {
        const SPARE: usize = 4;
        let reach = usize::from(u8::MAX) - SPARE;
        match target {
            Target::Label(label) if self.distance(label) <= reach => label,
            Target::Label(label) => self.long_jump(label),
            Target::Return(action) => match self.returns.get(&action) {
                Some(label) if self.distance(*label) <= reach => *label,
                Some(_) | None => {
                    let label = self.push(Insn { code: RETURN, jt: 0, jf: 0, k: action });
                    self.returns.insert(action, label);
                    label
                }
            },
        }
    }

    fn long_jump(&mut self, to: Label) -> Label {
        let k = u32::try_from(self.distance(to)).expect("programs are shorter than 4 GiB");
        self.push(Insn { code: JUMP, jt: 0, jf: 0, k })
    }

    fn push(&mut self, insn: Insn) -> Label {
        self.reversed.push(insn);
        self.reversed.len() - 1
    }
}
