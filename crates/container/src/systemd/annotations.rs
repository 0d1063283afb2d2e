//! `org.systemd.property.<Name>` annotations: properties that a container may set on its own unit.
//!
//! By a list, and nothing else: a unit can also run programs as root on the host (`ExecStopPost`), start or stop other
//! units, load eBPF programs and widen its own limits (CVE-2024-3154). Values are GVariant text, read by the property's
//! own type.

use std::collections::HashMap;

use super::properties::Property;
use super::wire::Value;

pub const PREFIX: &str = "org.systemd.property.";
/// No value is longer.
const VALUE_BYTES_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Bool,
    I32,
    U32,
    U64,
    Text,
    Texts,
}

/// When a unit is stopped, in which order and how; what is counted. Nothing that starts, stops or runs anything.
const ALLOWED: &[(&str, Type)] = &[
    ("After", Type::Texts),
    ("BlockIOAccounting", Type::Bool),
    ("Before", Type::Texts),
    ("CPUAccounting", Type::Bool),
    ("CollectMode", Type::Text),
    ("DefaultDependencies", Type::Bool),
    ("Description", Type::Text),
    ("FinalKillSignal", Type::I32),
    ("IOAccounting", Type::Bool),
    ("IPAccounting", Type::Bool),
    ("KillMode", Type::Text),
    ("KillSignal", Type::I32),
    ("ManagedOOMMemoryPressure", Type::Text),
    ("ManagedOOMMemoryPressureLimit", Type::U32),
    ("ManagedOOMPreference", Type::Text),
    ("ManagedOOMSwap", Type::Text),
    ("MemoryAccounting", Type::Bool),
    ("OOMPolicy", Type::Text),
    ("RuntimeMaxUSec", Type::U64),
    ("SendSIGHUP", Type::Bool),
    ("SendSIGKILL", Type::Bool),
    ("TasksAccounting", Type::Bool),
    ("TimeoutStopUSec", Type::U64),
];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    #[error(
        "annotation {PREFIX}{name}: a container may not set this property; it may set {}",
        ALLOWED.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    )]
    Refused { name: String },
    #[error("annotation {PREFIX}{name}={value:?}: {wanted} is wanted")]
    Value { name: String, value: String, wanted: &'static str },
}

/// The properties that a container's annotations name, sorted.
pub fn properties(annotations: &HashMap<String, String>) -> Result<Vec<Property>, AnnotationError> {
    let mut named: Vec<_> =
        annotations.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.trim()))).collect();
    named.sort_unstable();
    named.into_iter().map(|(name, value)| property(name, value)).collect()
}

fn property(given: &str, text: &str) -> Result<Property, AnnotationError> {
    // Seconds are systemd's microseconds, as runc has it.
    let (name, is_seconds) = match given.strip_suffix("USec").is_none().then(|| given.strip_suffix("Sec")).flatten() {
        Some(stem) => (format!("{stem}USec"), true),
        None => (given.to_owned(), false),
    };
    let known = ALLOWED.iter().find(|(allowed, _)| *allowed == name);
    let (_, kind) = known.ok_or_else(|| AnnotationError::Refused { name: given.to_owned() })?;
    let (parsed, wanted) = match kind {
        Type::Bool => (bool_of(text).map(Value::Bool), "true or false"),
        Type::I32 => (number(text, &["int32", "@i"]).map(Value::I32), "a number, or int32 and a number"),
        Type::U32 => (number(text, &["uint32", "@u"]).map(Value::U32), "a number, or uint32 and a number"),
        Type::U64 if is_seconds => (seconds(text).map(Value::U64), "a number of seconds"),
        Type::U64 => (number(text, &["uint64", "@t"]).map(Value::U64), "a number, or uint64 and a number"),
        Type::Text => (quoted(text).map(Value::Text), "text in quotes"),
        Type::Texts => (list(text).map(Value::texts), "a list of texts: ['a.service']"),
    };
    let parsed = parsed.filter(|_| text.len() <= VALUE_BYTES_MAX);
    let wrong = || AnnotationError::Value { name: given.to_owned(), value: text.chars().take(100).collect(), wanted };
    Ok((name, parsed.ok_or_else(wrong)?))
}

fn bool_of(text: &str) -> Option<bool> {
    text.strip_prefix("@b").map_or(text, str::trim).parse().ok()
}

fn number<T: std::str::FromStr>(text: &str, types: &[&str]) -> Option<T> {
    types.iter().find_map(|name| text.strip_prefix(name)).map_or(text, str::trim).parse().ok()
}

fn seconds(text: &str) -> Option<u64> {
    let words = ["uint64", "int64", "uint32", "int32", "uint16", "int16", "@t", "@x", "@u", "@i", "@q", "@n", "@d"];
    let plain = words.iter().find_map(|name| text.strip_prefix(name)).map_or(text, str::trim);
    match plain.parse::<u64>() {
        Ok(whole) => whole.checked_mul(1_000_000),
        Err(_) => {
            let seconds = plain.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0)?;
            Some(seconds * 1e6).filter(|micros| *micros < 1e18).map(|micros| micros as u64)
        }
    }
}

/// One text in single or double quotes, with `\` before a quote or itself.
fn quoted(text: &str) -> Option<String> {
    let (value, rest) = one_quoted(text)?;
    rest.is_empty().then_some(value)
}

fn one_quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next()?.1 {
                escaped @ ('\\' | '\'' | '"') => value.push(escaped),
                _ => return None,
            },
            '\0'..='\x1f' => return None,
            end if end == quote => return Some((value, text[at + 1..].trim_start())),
            other => value.push(other),
        }
    }
    None
}

fn list(text: &str) -> Option<Vec<String>> {
    let text = text.strip_prefix("@as").map_or(text, str::trim_start);
    let mut rest = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    let mut values = Vec::new();
    while !rest.is_empty() {
        let (value, after) = one_quoted(rest)?;
        values.push(value);
        rest = match after.strip_prefix(',') {
            Some(more) => Some(more.trim_start()).filter(|more| !more.is_empty())?,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: Result<(&str, Value), &str>) {
        let annotations = HashMap::from([(format!("{PREFIX}{name}"), text.to_owned())]);
        let found = properties(&annotations).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(found), Ok((name, value))) => assert_eq!(found, [(name.to_owned(), value)], "{name}={text}"),
            (Err(found), Err(part)) => assert!(found.contains(part) && found.contains(name), "{name}={text}: {found}"),
            (found, expected) => panic!("{name}={text}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn values_are_read_by_the_propertys_type() {
        check("TimeoutStopUSec", "uint64 5000000", Ok(("TimeoutStopUSec", Value::U64(5_000_000))));
        check("TimeoutStopUSec", "@t 7", Ok(("TimeoutStopUSec", Value::U64(7))));
        check("TimeoutStopSec", "5", Ok(("TimeoutStopUSec", Value::U64(5_000_000))));
        check("TimeoutStopSec", "int32 5", Ok(("TimeoutStopUSec", Value::U64(5_000_000))));
        check("TimeoutStopSec", "1.5", Ok(("TimeoutStopUSec", Value::U64(1_500_000))));
        check("KillSignal", "15", Ok(("KillSignal", Value::I32(15))));
        check("CollectMode", "'inactive-or-failed'", Ok(("CollectMode", Value::text("inactive-or-failed"))));
        check("Description", r#""it's a \"web\" \\ x""#, Ok(("Description", Value::text(r#"it's a "web" \ x"#))));
        check("DefaultDependencies", "true", Ok(("DefaultDependencies", Value::Bool(true))));
        check(
            "After",
            "['crio.service', \"b.service\"]",
            Ok(("After", Value::texts(["crio.service".into(), "b.service".into()]))),
        );
        check("Before", "@as []", Ok(("Before", Value::texts([]))));
    }

    #[test]
    fn what_could_run_start_stop_or_widen_anything_is_refused() {
        for name in [
            "ExecStart",
            "ExecStartPre",
            "ExecStartPost",
            "ExecStop",
            "ExecStopPost",
            "ExecReload",
            "ExecCondition",
            "OnFailure",
            "OnSuccess",
            "Wants",
            "Requires",
            "BindsTo",
            "PartOf",
            "Conflicts",
            "Upholds",
            "PropagatesStopTo",
            "BPFProgram",
            "IPIngressFilterPath",
            "DeviceAllow",
            "DevicePolicy",
            "Delegate",
            "Slice",
            "PIDs",
            "User",
            "MemoryMax",
            "TasksMax",
            "CPUQuotaPerSecSec",
            "ControlGroup",
            "RefuseManualStop",
            "Sec",
            "",
            "a",
            "execstart",
            "FailureAction",
            "SuccessAction",
            "JobTimeoutAction",
            "AllowIsolate",
            "RequiresMountsFor",
        ] {
            check(name, "'x'", Err("a container may not set this property"));
        }
    }

    #[test]
    fn values_of_another_type_are_refused() {
        for (name, text) in [
            ("TimeoutStopUSec", "'5'"),
            ("TimeoutStopUSec", "-1"),
            ("TimeoutStopSec", "inf"),
            ("TimeoutStopSec", "99999999999999999999"),
            ("KillSignal", "TERM"),
            ("CollectMode", "inactive"),
            ("CollectMode", "'a' 'b'"),
            ("CollectMode", "'a"),
            ("CollectMode", "'a\\n'"),
            ("DefaultDependencies", "1"),
            ("After", "['a',]"),
            ("After", "['a' 'b']"),
            ("After", "'a'"),
        ] {
            check(name, text, Err("is wanted"));
        }
        check("CollectMode", &format!("'{}'", "x".repeat(5000)), Err("is wanted"));
    }
}
