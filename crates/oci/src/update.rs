//! update: other limits for a container that lives.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::state::Status;
use crate::{Context, Done};
use serde_json::{Value, json};

/// Flags, and where their values go; those of `SIZES` take k, m and g.
const NUMBERS: &[(&str, &str)] = &[
    ("blkio-weight", "/blockIO/weight"),
    ("cpu-period", "/cpu/period"),
    ("cpu-quota", "/cpu/quota"),
    ("cpu-burst", "/cpu/burst"),
    ("cpu-share", "/cpu/shares"),
    ("cpu-rt-period", "/cpu/realtimePeriod"),
    ("cpu-rt-runtime", "/cpu/realtimeRuntime"),
    ("cpu-idle", "/cpu/idle"),
    ("pids-limit", "/pids/limit"),
];
const SIZES: &[(&str, &str)] = &[
    ("kernel-memory", "/memory/kernel"),
    ("kernel-memory-tcp", "/memory/kernelTCP"),
    ("memory", "/memory/limit"),
    ("memory-reservation", "/memory/reservation"),
    ("memory-swap", "/memory/swap"),
];
const TEXTS: &[(&str, &str)] = &[("cpuset-cpus", "/cpu/cpus"), ("cpuset-mems", "/cpu/mems")];

pub fn command() -> Command {
    Command {
        name: "update",
        usage: "<id>",
        positional: (1, 1),
        about: "change a container's limits",
        flags: const {
            &[
                Flag::value(&["resources", "r"], "FILE", "the limits as JSON; - is standard input"),
                Flag::value(&["blkio-weight"], "N", ""),
                Flag::value(&["cpu-period"], "US", ""),
                Flag::value(&["cpu-quota"], "US", ""),
                Flag::value(&["cpu-burst"], "US", ""),
                Flag::value(&["cpu-share"], "N", ""),
                Flag::value(&["cpu-rt-period"], "US", ""),
                Flag::value(&["cpu-rt-runtime"], "US", ""),
                Flag::value(&["cpuset-cpus"], "LIST", ""),
                Flag::value(&["cpuset-mems"], "LIST", ""),
                Flag::value(&["cpu-idle"], "0|1", ""),
                Flag::value(&["kernel-memory"], "BYTES", ""),
                Flag::value(&["kernel-memory-tcp"], "BYTES", ""),
                Flag::value(&["memory"], "BYTES", "with k, m or g; -1 lifts the limit"),
                Flag::value(&["memory-reservation"], "BYTES", ""),
                Flag::value(&["memory-swap"], "BYTES", "memory and swap together"),
                Flag::value(&["pids-limit"], "N", ""),
                Flag::value(&["l3-cache-schema"], "TEXT", "its share of cache (resctrl)"),
                Flag::value(&["mem-bw-schema"], "TEXT", "its share of memory bandwidth (resctrl)"),
                HELP,
            ]
        },
        stops: false,
        run: update,
    }
}

fn update(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    let mut state = context.root.load(&words[0])?;
    if matches!(state.status()?, Status::Stopped | Status::Creating) {
        return Err("container not running".into());
    }
    let schemas = ["l3-cache-schema", "mem-bw-schema"].map(|flag| parsed.one(flag));
    if schemas.iter().any(Option::is_some) {
        let rdt = state.record.rdt().ok_or("linux.intelRdt: the container has no group of resctrl")?;
        rdt.change(schemas[0], schemas[1])?;
    }
    let change = match parsed.one("resources") {
        Some("-") => {
            let read = serde_json::from_reader(std::io::stdin());
            read.map_err(|error| format!("resources from standard input: {error}"))?
        }
        Some(path) => killick_container::config::read_json(&crate::foreground::absolute(path)?)?,
        None => from_flags(parsed)?,
    };
    let warnings = killick_container::update::update(&state.cgroup, &mut state.config, change)?;
    warnings.iter().for_each(|warning| context.log.warn(warning));
    state.write()?;
    Ok(0)
}

fn from_flags(parsed: &Parsed) -> Result<Value, String> {
    let mut change = json!({});
    for (flag, pointer) in NUMBERS {
        if let Some(number) = parsed.number::<i64>(flag)? {
            put(&mut change, pointer, json!(number));
        }
    }
    for (flag, pointer) in SIZES {
        if let Some(text) = parsed.one(flag) {
            put(&mut change, pointer, json!(size(text).ok_or_else(|| format!("--{flag} {text:?} is no size"))?));
        }
    }
    for (flag, pointer) in TEXTS {
        if let Some(text) = parsed.one(flag) {
            put(&mut change, pointer, json!(text));
        }
    }
    Ok(change)
}

fn put(value: &mut Value, pointer: &str, new: Value) {
    let mut here = value;
    for part in pointer.trim_start_matches('/').split('/') {
        here = &mut here[part];
    }
    *here = new;
}

/// Bytes, with k, m, g or t for powers of 1024; -1 is no limit.
fn size(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        't' => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        for (text, expected) in [
            ("5", Some(5)),
            ("1k", Some(1024)),
            ("2M", Some(2 << 20)),
            ("1gb", Some(1 << 30)),
            ("-1", Some(-1)),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
