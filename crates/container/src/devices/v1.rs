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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub allow: bool,
    pub line: String,
    /// A default rule that the parent's own list forbids is gone without; a listed one is an error.
    pub optional: bool,
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

    /// Applies one rule as the kernel does. `false`: the kernel would take the rule, and it would not do what it says
    /// (a hole in a wider exception).
    fn apply(&mut self, rule: &Rule) -> bool {
        if rule.kind == Kind::All && rule.major.is_none() && rule.minor.is_none() && rule.access == ALL_ACCESS {
            *self = State { default_allow: rule.allow, ..State::default() };
            return true;
        }
        let kinds: &[Kind] = match rule.kind {
            Kind::All => &[Kind::Block, Kind::Char],
            Kind::Block => &[Kind::Block],
            Kind::Char => &[Kind::Char],
        };
        let mut exact = true;
        for kind in kinds {
            let key = (*kind, rule.major, rule.minor);
            if rule.allow != self.default_allow {
                *self.exceptions.entry(key).or_default() |= rule.access;
                continue;
            }
            self.exceptions.retain(|(k, major, minor), access| {
                let same_kind = k == kind;
                let inside =
                    rule.major.is_none_or(|m| Some(m) == *major) && rule.minor.is_none_or(|m| Some(m) == *minor);
                let overlaps = (rule.major.is_none() || major.is_none() || rule.major == *major)
                    && (rule.minor.is_none() || minor.is_none() || rule.minor == *minor);
                if same_kind && inside {
                    *access &= !rule.access;
                } else if same_kind && overlaps && *access & rule.access != 0 {
                    exact = false;
                }
                *access != 0
            });
        }
        exact
    }
}

/// What a new cgroup is told, rule by rule, and what it then holds.
pub fn fresh(rules: &[Rule]) -> Result<(Vec<Change>, State), DeviceError> {
    let mut state = State::default();
    let mut changes = vec![Change { allow: false, line: "a".to_owned(), optional: false }];
    for (index, rule) in rules.iter().enumerate() {
        if !state.apply(rule) {
            return Err(DeviceError::Hole { index, rule: rule.to_string() });
        }
        changes.extend(lines(rule, false));
    }
    if state.default_allow && state.exceptions.is_empty() {
        return Ok((changes, state));
    }
    for rule in &DEFAULT_RULES {
        // A denied device that is a default one is allowed again; that cannot leave a hole that matters.
        state.apply(rule);
        changes.extend(lines(rule, true));
    }
    Ok((changes, state))
}

/// The kernel reads `a` as everything, whatever stands behind it: a rule for both kinds with numbers is two lines.
fn lines(rule: &Rule, optional: bool) -> Vec<Change> {
    let everything = rule.major.is_none() && rule.minor.is_none() && rule.access == ALL_ACCESS;
    let kinds: &[Kind] = match rule.kind {
        Kind::All if !everything => &[Kind::Block, Kind::Char],
        Kind::All => &[Kind::All],
        Kind::Block => &[Kind::Block],
        Kind::Char => &[Kind::Char],
    };
    kinds
        .iter()
        .map(|kind| Rule { kind: *kind, ..*rule })
        .map(|rule| Change { allow: rule.allow, line: rule.to_string(), optional })
        .collect()
}

/// The writes from what a cgroup has to what it shall have, without taking away what both allow.
pub fn transition(now: &State, then: &State) -> Vec<Change> {
    let line = |allow: bool, key: &(Kind, Option<u32>, Option<u32>), access: u8| {
        let rule = Rule { allow, kind: key.0, major: key.1, minor: key.2, access };
        Change { allow, line: rule.to_string(), optional: false }
    };
    if then.default_allow {
        // The kernel hides the exceptions of an allowing list: start from none.
        let all = Change { allow: true, line: "a".to_owned(), optional: false };
        return std::iter::once(all)
            .chain(then.exceptions.iter().map(|(key, access)| line(false, key, *access)))
            .collect();
    }
    if now.default_allow {
        let none = Change { allow: false, line: "a".to_owned(), optional: false };
        return std::iter::once(none)
            .chain(then.exceptions.iter().map(|(key, access)| line(true, key, *access)))
            .collect();
    }
    let more = then.exceptions.iter().filter_map(|(key, access)| {
        let added = access & !now.exceptions.get(key).copied().unwrap_or(0);
        (added != 0).then(|| line(true, key, added))
    });
    let less = now.exceptions.iter().filter_map(|(key, access)| {
        let removed = access & !then.exceptions.get(key).copied().unwrap_or(0);
        (removed != 0).then(|| line(false, key, removed))
    });
    // First what is new, then what is no more. A removal takes narrower entries with it, so those that stay are said
    // again at the end.
    let (more, less): (Vec<_>, Vec<_>) = (more.collect(), less.collect());
    let again =
        if less.is_empty() { Vec::new() } else { then.exceptions.iter().map(|(k, a)| line(true, k, *a)).collect() };
    more.into_iter().chain(less).chain(again).collect()
}

pub(super) fn apply(dir: &Path, rules: &[Rule]) -> Result<(), DeviceError> {
    let (changes, then) = fresh(rules)?;
    let now = State::parse(&files::read(&dir.join("devices.list"))?);
    if now.default_allow && then.default_allow && then.exceptions.is_empty() {
        return Ok(());
    }
    let in_use = !files::processes(dir)?.is_empty();
    let changes = if in_use { transition(&now, &then) } else { changes };
    for change in &changes {
        let file = dir.join(if change.allow { "devices.allow" } else { "devices.deny" });
        match files::write(&file, &change.line) {
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

    #[test]
    fn rules_are_written_in_the_listed_order_then_the_defaults() {
        let rules = [rule("-a *:* rwm"), rule("+c 10:229 rw"), rule("+b 8:* r")];
        let (changes, _) = fresh(&rules).unwrap();
        let lines: Vec<String> =
            changes.iter().map(|c| format!("{}{}", if c.allow { '+' } else { '-' }, c.line)).collect();
        assert_eq!(lines[..5], ["-a", "-a *:* rwm", "+c 10:229 rw", "+b 8:* r", "+c *:* m"]);
        assert_eq!(lines.len(), 4 + DEFAULT_RULES.len());
        assert_eq!(lines.last().unwrap(), "+c 5:2 rwm");
    }

    #[test]
    fn everything_allowed_needs_no_defaults() {
        let (changes, state) = fresh(&[rule("+a *:* rwm")]).unwrap();
        assert_eq!(changes.len(), 2);
        assert!(state.default_allow);
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused() {
        let error = fresh(&[rule("+c 10:* rwm"), rule("-c 10:5 w")]).unwrap_err();
        assert!(error.to_string().contains("cannot deny c 10:5 w"), "{error}");
        // The same hole under an allowing default can be said.
        assert!(fresh(&[rule("+a *:* rwm"), rule("-c 10:5 w")]).is_ok());
    }

    #[test]
    fn a_rule_for_both_kinds_with_numbers_is_two_lines() {
        let (changes, _) = fresh(&[rule("+a 7:3 rw")]).unwrap();
        assert_eq!(changes[1].line, "b 7:3 rw");
        assert_eq!(changes[2].line, "c 7:3 rw");
    }

    #[test]
    fn a_running_container_never_loses_what_both_lists_allow() {
        let (_, old) = fresh(&[rule("+c 10:229 rw")]).unwrap();
        let (_, new) = fresh(&[rule("+c 10:230 rwm"), rule("+c 10:229 r")]).unwrap();
        let mut state = old.clone();
        for change in transition(&old, &new) {
            let sign = if change.allow { '+' } else { '-' };
            assert!(!change.line.starts_with('a'));
            state.apply(&rule(&format!("{sign}{}", change.line)));
            assert_eq!(state.exceptions[&(Kind::Char, Some(1), Some(3))], ALL_ACCESS);
            assert_ne!(state.exceptions[&(Kind::Char, Some(10), Some(229))] & READ, 0);
        }
        assert_eq!(state, new);
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
