//! Device rules on v1: what is written to `devices.deny` and `devices.allow`, and in which order.
//!
//! A new cgroup gets each rule in the listed order, as others read it back. A running container's goes from the old
//! list to the new one by the difference: a moment of "deny all" would fail whatever it opens just then.

use std::collections::BTreeMap;
use std::path::Path;

use killick_sys::cgroup as files;
use nix::errno::Errno;

use super::{ALL_ACCESS, DEFAULT_RULES, DeviceError, Kind, MKNOD, READ, Rule, WRITE, in_user_namespace};

/// A write to `devices.allow` or `devices.deny`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub allow: bool,
    /// `None` is `a`: everything, and an empty list of exceptions.
    pub what: Option<Line>,
    /// A default rule that the parent's own list forbids is gone without; a listed one is an error.
    pub optional: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

impl std::fmt::Display for Change {
    /// As it is written.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.what {
            None => write!(f, "a"),
            Some(Line { kind, major, minor, access }) => {
                write!(f, "{}", Rule { allow: self.allow, kind, major, minor, access })
            }
        }
    }
}

/// What the kernel keeps: a default and the exceptions from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub default_allow: bool,
    /// Access bits by kind and numbers: allowed under a denying default, denied under an allowing one.
    pub exceptions: BTreeMap<(Kind, Option<u32>, Option<u32>), u8>,
}

impl State {
    /// Reads `devices.list`. Under an allowing default the kernel does not tell the exceptions.
    pub fn parse(list: &str) -> State {
        let mut state = State::default();
        for line in list.lines() {
            let mut fields = line.split([' ', ':']);
            let (Some(kind), Some(major), Some(minor), Some(access)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let kind = match kind {
                "a" => return State { default_allow: true, ..State::default() },
                "b" => Kind::Block,
                _ => Kind::Char,
            };
            let bits = [('r', READ), ('w', WRITE), ('m', MKNOD)];
            let access = bits.iter().filter(|(letter, _)| access.contains(*letter)).fold(0, |all, (_, bit)| all | bit);
            *state.exceptions.entry((kind, major.parse().ok(), minor.parse().ok())).or_default() |= access;
        }
        state
    }

    /// Takes one write as the kernel does: what is said is added to the exceptions, or taken from the one exception
    /// that has exactly the same numbers. A wider or narrower exception is not touched.
    fn write(&mut self, change: &Change) {
        let Some(Line { kind, major, minor, access }) = change.what else {
            *self = State { default_allow: change.allow, ..State::default() };
            return;
        };
        let key = (kind, major, minor);
        if change.allow != self.default_allow {
            *self.exceptions.entry(key).or_default() |= access;
        } else if let Some(has) = self.exceptions.get_mut(&key) {
            *has &= !access;
            if *has == 0 {
                self.exceptions.remove(&key);
            }
        }
    }

    /// The writes that make a rule true here. `None`: no writes can, since a wider exception would have to get a hole.
    fn changes(&self, rule: &Rule, optional: bool) -> Option<Vec<Change>> {
        let everything = rule.major.is_none() && rule.minor.is_none() && rule.access == ALL_ACCESS;
        let kinds: &[Kind] = match rule.kind {
            Kind::All if everything => return Some(vec![Change { allow: rule.allow, what: None, optional }]),
            Kind::All => &[Kind::Block, Kind::Char],
            Kind::Block => &[Kind::Block],
            Kind::Char => &[Kind::Char],
        };
        let mut changes = Vec::new();
        for kind in kinds {
            let said = Line { kind: *kind, major: rule.major, minor: rule.minor, access: rule.access };
            changes.push(Change { allow: rule.allow, what: Some(said), optional });
            if rule.allow != self.default_allow {
                continue;
            }
            // Taken away: also from each narrower exception, by its own numbers.
            for ((_, major, minor), has) in self.exceptions.iter().filter(|((k, ..), _)| k == kind) {
                let inside =
                    rule.major.is_none_or(|m| Some(m) == *major) && rule.minor.is_none_or(|m| Some(m) == *minor);
                let overlaps = (rule.major.is_none() || major.is_none() || rule.major == *major)
                    && (rule.minor.is_none() || minor.is_none() || rule.minor == *minor);
                let access = has & rule.access;
                if access == 0 || !overlaps || (*major, *minor) == (rule.major, rule.minor) {
                    continue;
                }
                if !inside {
                    return None;
                }
                let narrower = Line { kind: *kind, major: *major, minor: *minor, access };
                changes.push(Change { allow: rule.allow, what: Some(narrower), optional });
            }
        }
        Some(changes)
    }
}

/// What a new cgroup is told, rule by rule, and what it then holds.
pub fn fresh(rules: &[Rule]) -> Result<(Vec<Change>, State), DeviceError> {
    let deny_all = Change { allow: false, what: None, optional: false };
    let mut state = State::default();
    let mut changes = vec![deny_all];
    for (index, rule) in rules.iter().enumerate() {
        let written = state.changes(rule, false).ok_or_else(|| DeviceError::Hole { index, rule: rule.to_string() })?;
        written.iter().for_each(|change| state.write(change));
        changes.extend(written);
    }
    if state.default_allow && state.exceptions.is_empty() {
        return Ok((changes, state));
    }
    for rule in &DEFAULT_RULES {
        // Under an allowing default a wider denial may cover a default device: it stays denied.
        let written = state.changes(rule, true).unwrap_or_default();
        written.iter().for_each(|change| state.write(change));
        changes.extend(written);
    }
    Ok((changes, state))
}

/// The writes from what a cgroup has to what it shall have, without taking away what both allow.
pub fn transition(now: &State, then: &State) -> Vec<Change> {
    let change = |allow: bool, key: &(Kind, Option<u32>, Option<u32>), access: u8| {
        let what = Line { kind: key.0, major: key.1, minor: key.2, access };
        Change { allow, what: Some(what), optional: false }
    };
    let exceptions = |allow: bool| then.exceptions.iter().map(move |(key, access)| change(allow, key, *access));
    let everything = |allow: bool| std::iter::once(Change { allow, what: None, optional: false });
    if then.default_allow {
        // The kernel hides the exceptions of an allowing list: start from none.
        return everything(true).chain(exceptions(false)).collect();
    }
    if now.default_allow {
        return everything(false).chain(exceptions(true)).collect();
    }
    let more = then.exceptions.iter().filter_map(|(key, access)| {
        let added = access & !now.exceptions.get(key).copied().unwrap_or(0);
        (added != 0).then(|| change(true, key, added))
    });
    let less = now.exceptions.iter().filter_map(|(key, access)| {
        let removed = access & !then.exceptions.get(key).copied().unwrap_or(0);
        (removed != 0).then(|| change(false, key, removed))
    });
    // First what is new, then what is no more.
    more.chain(less).collect()
}

pub(super) fn apply(dir: &Path, rules: &[Rule]) -> Result<(), DeviceError> {
    let (changes, then) = fresh(rules)?;
    let now = State::parse(&files::read(&dir.join("devices.list"))?);
    if now.default_allow && then.default_allow && then.exceptions.is_empty() {
        return Ok(());
    }
    let in_use = !files::processes(dir)?.is_empty();
    let changes = if in_use { transition(&now, &then) } else { changes };
    let (allow, deny) = (dir.join("devices.allow"), dir.join("devices.deny"));
    let (allow, deny) = (files::ControlFile::open(allow)?, files::ControlFile::open(deny)?);
    for change in &changes {
        let file = if change.allow { &allow } else { &deny };
        match file.write(&change.to_string()) {
            Ok(()) => {}
            Err(error) if error.errno() == Errno::EPERM && (change.optional || in_user_namespace()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::allows;

    fn rule(text: &str) -> Rule {
        let (allow, text) = (text.starts_with('+'), &text[1..]);
        let fields: Vec<&str> = text.split([' ', ':']).collect();
        let kind = match fields[0] {
            "a" => Kind::All,
            "b" => Kind::Block,
            _ => Kind::Char,
        };
        let access = [('r', READ), ('w', WRITE), ('m', MKNOD)];
        let access = access.iter().filter(|(l, _)| fields[3].contains(*l)).fold(0, |all, (_, bit)| all | bit);
        Rule { allow, kind, major: fields[1].parse().ok(), minor: fields[2].parse().ok(), access }
    }

    fn written(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|c| format!("{}{c}", if c.allow { '+' } else { '-' })).collect()
    }

    #[test]
    fn rules_are_written_in_the_listed_order_then_the_defaults() {
        let rules = [rule("-a *:* rwm"), rule("+c 10:229 rw"), rule("+b 8:* r")];
        let (changes, _) = fresh(&rules).unwrap();
        let lines = written(&changes);
        assert_eq!(lines[..5], ["-a", "-a", "+c 10:229 rw", "+b 8:* r", "+c *:* m"]);
        assert_eq!(lines.len(), 4 + DEFAULT_RULES.len());
        assert_eq!(lines.last().unwrap(), "+c 5:2 rwm");
    }

    #[test]
    fn everything_allowed_needs_no_defaults() {
        let (changes, state) = fresh(&[rule("+a *:* rwm")]).unwrap();
        assert_eq!(written(&changes), ["-a", "+a"]);
        assert!(state.default_allow);
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused() {
        let error = fresh(&[rule("+c 10:* rwm"), rule("-c 10:5 w")]).unwrap_err();
        assert!(error.to_string().contains("cannot deny c 10:5 w"), "{error}");
        // The same hole under an allowing default can be said; one in the denial cannot.
        assert!(fresh(&[rule("+a *:* rwm"), rule("-c 10:5 w")]).is_ok());
        assert!(fresh(&[rule("+a *:* rwm"), rule("-c 10:* w"), rule("+c 10:5 w")]).is_err());
    }

    /// The kernel takes a denial only from the exception with the very same numbers.
    #[test]
    fn a_wide_denial_is_said_for_each_narrower_exception_too() {
        let (changes, state) = fresh(&[rule("+c 10:229 rw"), rule("+c 10:230 m"), rule("-c 10:* w")]).unwrap();
        assert_eq!(written(&changes)[3..5], ["-c 10:* w", "-c 10:229 w"]);
        assert_eq!(state.exceptions[&(Kind::Char, Some(10), Some(229))], READ);
        assert_eq!(state.exceptions[&(Kind::Char, Some(10), Some(230))], MKNOD);
    }

    #[test]
    fn a_rule_for_both_kinds_with_numbers_is_two_lines() {
        let (changes, _) = fresh(&[rule("+a 7:3 rw")]).unwrap();
        assert_eq!(written(&changes)[1..3], ["+b 7:3 rw", "+c 7:3 rw"]);
    }

    #[test]
    fn any_list_becomes_any_other_and_what_both_allow_is_never_gone() {
        // A generator of its own, so that a failure repeats: xorshift.
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        let mut next = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 16) as usize % below
        };
        let mut random_state = || loop {
            let rules: Vec<Rule> = (0..next(7))
                .map(|_| Rule {
                    allow: next(4) > 0,
                    kind: [Kind::All, Kind::Block, Kind::Char, Kind::Char][next(4)],
                    major: [None, Some(1), Some(8)][next(3)],
                    minor: [None, Some(0), Some(3)][next(3)],
                    access: 1 + next(7) as u8,
                })
                .collect();
            if let Ok((_, state)) = fresh(&rules) {
                return state;
            }
        };
        for _ in 0..2_000 {
            let (old, new) = (random_state(), random_state());
            let mut state = old.clone();
            let kept = |state: &State| {
                let both = old.exceptions.iter().filter_map(|(key, access)| {
                    let common = access & new.exceptions.get(key).copied().unwrap_or(0);
                    (common != 0).then_some((key, common))
                });
                let covers = |key: &(Kind, Option<u32>, Option<u32>), access: u8| {
                    state.exceptions.iter().any(|((kind, major, minor), has)| {
                        *kind == key.0
                            && (major.is_none() || *major == key.1)
                            && (minor.is_none() || *minor == key.2)
                            && has & access == access
                    })
                };
                both.into_iter().all(|(key, access)| covers(key, access))
            };
            let changes = transition(&old, &new);
            let mut lost = false;
            for change in &changes {
                state.write(change);
                lost |= !old.default_allow && !new.default_allow && !kept(&state);
            }
            assert_eq!(state, new, "{old:?} to {new:?} by {changes:?}");
            assert!(!lost, "{old:?} to {new:?} by {changes:?}");
        }
    }

    #[test]
    fn the_list_reads_back_as_what_was_written() {
        let (_, state) = fresh(&[rule("+c 10:229 rw")]).unwrap();
        let text: String = state
            .exceptions
            .iter()
            .map(|((kind, major, minor), access)| {
                let rule = Rule { allow: true, kind: *kind, major: *major, minor: *minor, access: *access };
                format!("{rule}\n")
            })
            .collect();
        assert_eq!(State::parse(&text), state);
        assert!(State::parse("a *:* rwm\n").default_allow);
    }

    #[test]
    fn the_kernels_state_allows_what_the_rules_allow() {
        let lists: [&[&str]; 5] = [
            &[],
            &["-a *:* rwm", "+c 10:229 rw"],
            &["+b 8:* r", "+b 8:1 w", "-b 8:1 w"],
            &["+c 1:3 rwm", "-c 1:3 w"],
            &["+a *:* rwm", "-c 4:* rwm", "+c 4:5 r"],
        ];
        for list in lists {
            let listed: Vec<Rule> = list.iter().map(|t| rule(t)).collect();
            let Ok((_, state)) = fresh(&listed) else { continue };
            let all: Vec<Rule> = listed.iter().chain(&DEFAULT_RULES).copied().collect();
            for kind in [Kind::Block, Kind::Char] {
                for (major, minor) in [(1, 3), (1, 4), (8, 0), (8, 1), (10, 229), (10, 200), (136, 7), (4, 5), (4, 6)] {
                    for access in 1..=ALL_ACCESS {
                        let matching = state.exceptions.iter().filter(|((k, ma, mi), _)| {
                            *k == kind && ma.is_none_or(|m| m == major) && mi.is_none_or(|m| m == minor)
                        });
                        // The kernel asks for one exception that covers the access (allow list), or for any that
                        // touches it (deny list).
                        let mut matching = matching.map(|(_, a)| *a);
                        let kernel = if state.default_allow {
                            !matching.any(|a| a & access != 0)
                        } else {
                            matching.any(|a| a & access == access)
                        };
                        let expected = allows(&all, kind, major, minor, access);
                        // One exception must cover the whole access: `m` from one and `rw` from another is less.
                        assert!(
                            kernel == expected || (expected && !kernel && access & MKNOD != 0),
                            "{list:?} {kind:?} {major}:{minor} {access}"
                        );
                    }
                }
            }
        }
    }
}
