//! events: statistics in runc's shape, and OOM notices.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::state::{State, Status};
use crate::{Context, Done};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value, json};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub fn command() -> Command {
    Command {
        name: "events",
        usage: "<id>",
        positional: (1, 1),
        about: "print statistics and OOM notices",
        flags: const {
            &[
                Flag::value(&["interval"], "DURATION", "how often statistics are printed (default 5s)"),
                Flag::switch(&["stats"], "print the statistics once"),
                HELP,
            ]
        },
        stops: false,
        run: events,
    }
}

fn events(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    let interval = duration(parsed.one("interval").unwrap_or("5s")).filter(|interval| !interval.is_zero());
    let interval = interval.ok_or("duration interval must be greater than 0")?;
    let state = context.root.load(&words[0])?;
    if state.status()? == Status::Stopped {
        return Err(format!("container with id {} is not running", state.id).into());
    }
    println!("{}", json!({"type": "stats", "id": state.id, "data": statistics(&state)}));
    if parsed.has("stats") {
        return Ok(0);
    }
    let watch = state.cgroup.watch_oom().map_err(|error| error.to_string())?;
    let mut kills = state.cgroup.oom_kills().unwrap_or(None).unwrap_or(0);
    let mut next = Instant::now() + interval;
    while state.status()? != Status::Stopped {
        let left = next.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled: Vec<PollFd<'_>> =
            watch.iter().map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN | PollFlags::POLLPRI)).collect();
        let _ = poll(&mut polled, timeout);
        let now_killed = state.cgroup.oom_kills().unwrap_or(None).unwrap_or(kills);
        if now_killed > kills {
            kills = now_killed;
            println!("{}", json!({"type": "oom", "id": state.id}));
        }
        if Instant::now() >= next {
            next += interval;
            println!("{}", json!({"type": "stats", "id": state.id, "data": statistics(&state)}));
        }
    }
    Ok(0)
}

/// `5s`, `500ms`, `1m`
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

/// The files of one cgroup, wherever each controller is.
struct Files(Vec<PathBuf>);

impl Files {
    fn read(&self, name: &str) -> Option<String> {
        self.0.iter().find_map(|dir| std::fs::read_to_string(dir.join(name)).ok())
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.read(name)?.trim() {
            "max" => Some(u64::MAX),
            text => text.parse().ok(),
        }
    }

    /// `key value` lines.
    fn table(&self, name: &str) -> Map<String, Value> {
        let text = self.read(name).unwrap_or_default();
        let row = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), json!(value.trim().parse::<u64>().ok()?)))
        };
        text.lines().filter_map(row).collect()
    }
}

fn statistics(state: &State) -> Value {
    let dirs: Vec<(String, PathBuf)> = state.cgroup.dirs();
    let is_v2 = dirs.iter().any(|(name, _)| name.is_empty());
    let files = Files(dirs.into_iter().map(|(_, dir)| dir).collect());
    if is_v2 { statistics_v2(&files) } else { statistics_v1(&files) }
}

fn statistics_v1(files: &Files) -> Value {
    /// User-space clock ticks of /proc and cpuacct.stat: 100 a second on every architecture we build for.
    const TICK_NS: u64 = 10_000_000;
    let usage: Vec<u64> = files
        .read("cpuacct.usage_percpu")
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let stat = files.table("cpuacct.stat");
    let throttling = files.table("cpu.stat");
    let ticks = |key: &str| stat.get(key).and_then(Value::as_u64).unwrap_or(0) * TICK_NS;
    let throttled = |key: &str| throttling.get(key).cloned().unwrap_or(json!(0));
    let memory = files.table("memory.stat");
    let entry = |prefix: &str| {
        let number = |name: &str| files.number(&format!("{prefix}.{name}"));
        json!({
            "limit": number("limit_in_bytes").unwrap_or(0),
            "usage": number("usage_in_bytes").unwrap_or(0),
            "max": number("max_usage_in_bytes").unwrap_or(0),
            "failcnt": number("failcnt").unwrap_or(0),
        })
    };
    json!({
        "cpu": {
            "usage": {
                "total": files.number("cpuacct.usage").unwrap_or(0),
                "percpu": usage,
                "kernel": ticks("system"),
                "user": ticks("user"),
            },
            "throttling": {
                "periods": throttled("nr_periods"),
                "throttledPeriods": throttled("nr_throttled"),
                "throttledTime": throttled("throttled_time"),
            },
        },
        "memory": {
            "cache": memory.get("cache").cloned().unwrap_or(json!(0)),
            "usage": entry("memory"),
            "swap": entry("memory.memsw"),
            "kernel": entry("memory.kmem"),
            "kernelTCP": entry("memory.kmem.tcp"),
            "raw": memory,
        },
        "pids": pids(files),
        "blkio": {
            "ioServiceBytesRecursive": blkio(files, "blkio.throttle.io_service_bytes_recursive"),
            "ioServicedRecursive": blkio(files, "blkio.throttle.io_serviced_recursive"),
        },
    })
}

fn statistics_v2(files: &Files) -> Value {
    let cpu = files.table("cpu.stat");
    let microseconds = |key: &str| cpu.get(key).and_then(Value::as_u64).unwrap_or(0) * 1000;
    let memory = files.table("memory.stat");
    let failures = files.table("memory.events").get("max").cloned().unwrap_or(json!(0));
    json!({
        "cpu": {
            "usage": {
                "total": microseconds("usage_usec"),
                "kernel": microseconds("system_usec"),
                "user": microseconds("user_usec"),
            },
            "throttling": {
                "periods": cpu.get("nr_periods").cloned().unwrap_or(json!(0)),
                "throttledPeriods": cpu.get("nr_throttled").cloned().unwrap_or(json!(0)),
                "throttledTime": microseconds("throttled_usec"),
            },
        },
        "memory": {
            "cache": memory.get("file").cloned().unwrap_or(json!(0)),
            "usage": {
                "limit": files.number("memory.max").unwrap_or(0),
                "usage": files.number("memory.current").unwrap_or(0),
                "max": files.number("memory.peak").unwrap_or(0),
                "failcnt": failures,
            },
            "swap": {
                "limit": files.number("memory.swap.max").unwrap_or(0),
                "usage": files.number("memory.swap.current").unwrap_or(0),
                "max": files.number("memory.swap.peak").unwrap_or(0),
                "failcnt": 0,
            },
            "raw": memory,
        },
        "pids": pids(files),
        "blkio": {},
    })
}

fn pids(files: &Files) -> Value {
    // No limit is 0, as runc says it.
    let limit = files.number("pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0);
    json!({"current": files.number("pids.current").unwrap_or(0), "limit": limit})
}

/// `8:0 Read 4096` lines.
fn blkio(files: &Files, name: &str) -> Vec<Value> {
    let text = files.read(name).unwrap_or_default();
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?, words.next()?);
        let number = |text: &str| text.parse::<u64>().ok();
        Some(json!({"major": number(major)?, "minor": number(minor)?, "op": op, "value": number(value)?}))
    };
    text.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, expected) in
            [("5s", Some(5000)), ("500ms", Some(500)), ("1.5m", Some(90_000)), ("5", None), ("s", None)]
        {
            assert_eq!(duration(text).map(|duration| duration.as_millis()), expected, "{text}");
        }
    }
}
