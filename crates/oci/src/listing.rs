//! state, list, ps: what is, told as runc tells it.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::state::Status;
use crate::{Context, Done};
use killick_sys::program::{self, Program};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const FORMAT: Flag = Flag::value(&["format", "f"], "FORMAT", "table or json");

pub fn commands() -> [Command; 3] {
    [
        Command {
            name: "state",
            usage: "<id>",
            positional: (1, 1),
            about: "print a container's state",
            flags: const { &[HELP] },
            stops: false,
            run: state,
        },
        Command {
            name: "list",
            usage: "",
            positional: (0, 0),
            about: "list containers",
            flags: const { &[FORMAT, Flag::switch(&["quiet", "q"], "ids only"), HELP] },
            stops: false,
            run: list,
        },
        Command {
            name: "ps",
            usage: "<id> [ps options]",
            positional: (1, usize::MAX),
            about: "list a container's processes",
            flags: const { &[FORMAT, HELP] },
            stops: true,
            run: ps,
        },
    ]
}

fn state(context: &Context, _: &Parsed, words: &[String]) -> Done {
    let state = context.root.load(&words[0])?.describe()?;
    print!("{}", serde_json::to_string_pretty(&state).map_err(|error| error.to_string())?);
    Ok(0)
}

fn list(context: &Context, parsed: &Parsed, _: &[String]) -> Done {
    let format = parsed.one("format").unwrap_or("table");
    if !matches!(format, "table" | "json") {
        return Err(format!("invalid format option: {format}").into());
    }
    let mut all = Vec::new();
    for id in context.root.ids()? {
        // One that is being made or removed is not there.
        let Ok(found) = context.root.load(&id) else { continue };
        let mut state = found.describe()?;
        state["owner"] = json!(owner(found.owner));
        all.push(state);
    }
    if parsed.has("quiet") {
        all.iter().for_each(|state| println!("{}", word(state, "id")));
    } else if format == "json" {
        println!("{}", Value::Array(all));
    } else {
        let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
        rows.extend(
            all.iter().map(|state| ["id", "pid", "status", "bundle", "created", "owner"].map(|key| word(state, key))),
        );
        print!("{}", table(&rows));
    }
    Ok(0)
}

fn word(state: &Value, key: &str) -> String {
    match &state[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Columns at least 12 wide, with 3 blanks between.
fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            5 => cell.clone(),
            _ => format!("{cell:<width$}", width = widths[column]),
        });
        cells.collect::<String>() + "\n"
    };
    rows.iter().map(line).collect()
}

/// The name in the host's /etc/passwd, else the number.
fn owner(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("#{uid}"))
}

/// ps is a tool of the host.
const PS_DEADLINE: Duration = Duration::from_secs(30);

fn ps(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    let state = context.root.load(&words[0])?;
    // One that has stopped, or whose cgroup has gone, has none: that is no error, as runc has it.
    let pids = match state.status()? {
        Status::Stopped => state.cgroup.processes().unwrap_or_default(),
        _ => state.cgroup.processes().map_err(|error| error.to_string())?,
    };
    match parsed.one("format").unwrap_or("table") {
        "json" => {
            println!("{}", json!(pids));
            return Ok(0);
        }
        "table" => {}
        other => return Err(format!("invalid format option: {other}").into()),
    }
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into());
    let found = program::search("ps", &path).ok_or("exec: \"ps\": executable file not found in $PATH")?;
    let options = if words.len() > 1 { words[1..].to_vec() } else { vec!["-ef".to_owned()] };
    let args = ["ps".to_owned()].into_iter().chain(options).collect();
    let program = Program { path: found, args, env: crate::create::environment(), cwd: None };
    let output = program::run(&program, b"", Some(Instant::now() + PS_DEADLINE)).map_err(|error| error.to_string())?;
    if output.exit.is_none_or(|exit| exit.code() != 0) {
        return Err(format!("ps failed: {}", output.stderr.trim_end()).into());
    }
    print!("{}", filter(&output.stdout, &pids)?);
    Ok(0)
}

/// The lines of ps whose PID column is one of ours.
fn filter(text: &str, pids: &[i32]) -> Result<String, String> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column =
        header.split_whitespace().position(|title| title == "PID").ok_or("couldn't find PID field in ps output")?;
    let ours = |line: &&str| {
        line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok()).is_some_and(|pid: i32| pids.contains(&pid))
    };
    let kept = lines.filter(ours).map(|line| format!("{line}\n"));
    Ok([format!("{header}\n")].into_iter().chain(kept).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ps_only_our_lines_are_kept() {
        let text = "UID PID PPID CMD\nroot 1 0 init\nroot 12 1 sh\n";
        assert_eq!(filter(text, &[12]).unwrap(), "UID PID PPID CMD\nroot 12 1 sh\n");
        assert!(filter("A B\n", &[]).is_err());
    }
}
