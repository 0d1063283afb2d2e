//! events: statistics once or again and again, and OOM notices.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::state::{State, Status};
use crate::{Context, Done, statistics};
use nix::poll::{PollFd, PollTimeout, poll};
use serde_json::json;
use std::os::fd::AsFd;
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
    if parsed.has("stats") {
        print_statistics(&state)?;
        return Ok(0);
    }
    let mut watch = state.cgroup.watch_oom().map_err(|error| error.to_string())?;
    let mut next = Instant::now() + interval;
    loop {
        let has_stopped = state.status()? == Status::Stopped;
        if let Some(watch) = &mut watch
            && watch.read().map_err(|error| error.to_string())?.kills > 0
        {
            println!("{}", json!({"type": "oom", "id": state.id}));
        }
        if has_stopped {
            return Ok(0);
        }
        if Instant::now() >= next {
            next += interval;
            print_statistics(&state)?;
        }
        let left = next.saturating_duration_since(Instant::now()).min(LOOK);
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut polled: Vec<PollFd<'_>> =
            watch.iter().map(|watch| PollFd::new(watch.as_fd(), watch.interest())).collect();
        let _ = poll(&mut polled, timeout);
    }
}

/// How often it is looked whether the container lives.
const LOOK: Duration = Duration::from_millis(500);

fn print_statistics(state: &State) -> Result<(), String> {
    let data = statistics::of(&state.cgroup, state.record.pid)?;
    println!("{}", json!({"type": "stats", "id": state.id, "data": data}));
    Ok(())
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
