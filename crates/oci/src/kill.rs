//! kill: a signal for the first process, or for all.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::state::Status;
use crate::{Context, Done};
use killick_container::signal::{Reach, Signalled};
use nix::sys::signal::Signal;
use std::str::FromStr;
use std::time::Instant;

pub fn command() -> Command {
    Command {
        name: "kill",
        usage: "<id> [signal]",
        positional: (1, 2),
        about: "send a signal (default SIGTERM) to a container's first process",
        flags: const { &[Flag::switch(&["all", "a"], "to all of its processes; one that has stopped is no error"), HELP] },
        stops: true,
        run: kill,
    }
}

fn kill(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    let state = context.root.load(&words[0])?;
    let signal = number(words.get(1).map_or("SIGTERM", String::as_str))?;
    let reach = if parsed.has("all") { Reach::All } else { Reach::First };
    let status = state.status()?;
    if matches!(status, Status::Stopped | Status::Creating) && reach == Reach::First {
        return Err("container not running".into());
    }
    let container = state.container()?;
    let target = Signalled {
        container: container.as_ref(),
        cgroup: &state.cgroup,
        private_pid: state.private_pid,
        is_paused: status == Status::Paused,
    };
    let sent = target.send(signal, reach, Instant::now() + crate::lifecycle::REMOVE_DEADLINE)?;
    if !sent && reach == Reach::First {
        return Err("container not running".into());
    }
    Ok(0)
}

/// A number, or a name with or without SIG, in any case; RTMIN+n too.
fn number(text: &str) -> Result<i32, String> {
    let unknown = || format!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |rest: &str| rest.parse::<i32>().ok().filter(|offset| (0..=30).contains(offset));
    let number = match name {
        "RTMIN" => Some(34),
        "RTMAX" => Some(64),
        _ if name.starts_with("RTMIN+") => name.strip_prefix("RTMIN+").and_then(real_time).map(|offset| 34 + offset),
        _ if name.starts_with("RTMAX-") => name.strip_prefix("RTMAX-").and_then(real_time).map(|offset| 64 - offset),
        _ => Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32),
    };
    number.ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, expected) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("0", None),
            ("65", None),
            ("SIGNONE", None),
        ] {
            assert_eq!(number(text).ok(), expected, "{text}");
        }
    }
}
