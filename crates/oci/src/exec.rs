//! exec: one more process in a container that lives.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::foreground::{Foreground, absolute, window};
use crate::state::{State, Status};
use crate::stdio::{self, Passed};
use crate::{Context, Done, Failure};
use killick_container::cgroup::{Below, Newborn};
use killick_container::config::{self, read_json};
use killick_container::{ProcessRequest, Progress, Stdio, exec_process};
use killick_sys::facts::Facts;
use oci_spec::runtime::Process;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a failure of ours exits with, so that it is not taken for the program's.
const FAILED: u8 = 255;
/// How long it may take until the program runs.
const EXEC_DEADLINE: Duration = Duration::from_secs(60);
/// And where it was asked to wait for a resume.
const PAUSED_DEADLINE: Duration = Duration::from_secs(24 * 3600);

pub fn command() -> Command {
    Command {
        name: "exec",
        usage: "<id> <command> [args…]",
        positional: (1, usize::MAX),
        about: "run one more process in a container",
        flags: const {
            &[
                Flag::value(&["process", "p"], "FILE", "the process as JSON; no command then"),
                Flag::value(&["console-socket"], "PATH", "a socket that receives the terminal's master"),
                Flag::value(&["pidfd-socket"], "PATH", "a socket that receives its pidfd"),
                Flag::value(&["pid-file"], "FILE", "where its pid is written"),
                Flag::value(&["cwd"], "DIR", "its working directory"),
                Flag::value(&["env", "e"], "NAME=VALUE", "one more variable"),
                Flag::switch(&["tty", "t"], "a terminal of its own"),
                Flag::value(&["user", "u"], "UID[:GID]", "its user"),
                Flag::value(&["additional-gids", "g"], "GID", "one more group"),
                Flag::switch(&["detach", "d"], "do not wait for its end"),
                Flag::value(&["process-label"], "LABEL", "its SELinux label"),
                Flag::value(&["apparmor"], "PROFILE", "its AppArmor profile"),
                Flag::switch(&["no-new-privs"], "no program gives it more rights"),
                Flag::value(&["cap", "c"], "CAP", "one more capability"),
                Flag::value(&["preserve-fds"], "N", "so many descriptors from 3 on are passed on"),
                Flag::value(&["cgroup"], "[CTRL:]PATH", "a cgroup below the container's"),
                Flag::switch(&["ignore-paused"], "also in a paused container, where it waits"),
                Flag::switch(&["no-subreaper"], "accepted: we never become a subreaper"),
                HELP,
            ]
        },
        stops: true,
        run,
    }
}

fn run(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    exec(context, parsed, words).map_err(|why| Failure { message: format!("exec failed: {why}"), code: FAILED })
}

fn exec(context: &Context, parsed: &Parsed, words: &[String]) -> Result<u8, String> {
    let below = Below::parse(parsed.all("cgroup"))?;
    let state = context.root.load(&words[0])?;
    let mut deadline = Instant::now() + EXEC_DEADLINE;
    let status = state.status()?;
    if status == Status::Paused {
        // Frozen on arrival: it goes on when the container does.
        deadline += PAUSED_DEADLINE;
    }
    let container = match status {
        Status::Stopped => return Err("cannot exec in a stopped container".into()),
        Status::Creating => return Err("cannot exec in a container that is being created".into()),
        Status::Paused if !parsed.has("ignore-paused") => {
            return Err("cannot exec in a paused container (use --ignore-paused to override)".into());
        }
        Status::Paused | Status::Created | Status::Running => {
            state.container()?.ok_or("cannot exec in a stopped container")?
        }
    };
    let process = process(context, parsed, &state, &words[1..])?;
    if let Some(initial) = process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.initial().as_ref()) {
        context.log.debug(&format!(
            "affinity: {:#x}",
            killick_container::cpu_mask(initial).map_err(|error| error.to_string())?
        ));
    }
    let detach = parsed.has("detach");
    let (tty, console) = (process.terminal().unwrap_or(false), parsed.one("console-socket"));
    stdio::check_terminal(tty, console, detach)?;
    let Passed { numbers, env } = stdio::passed(parsed.number("preserve-fds")?)?;
    let streams = if tty { terminal(&process, detach) } else { stdio::inherit()? };
    let attach = state.cgroup.attach_exec(state.record.pid, &below)?;
    let foreground = if detach { None } else { Some(Foreground::prepare()?) };
    let keyring = crate::create::keyring(state.no_new_keyring, &state.id);
    let request =
        ProcessRequest { process: &process, stdio: streams, attach: Some(&attach), inherited: numbers, env, keyring };
    let start = |error: killick_container::LaunchError| format!("unable to start container process: {error}");
    let kills = state.cgroup.oom_kills().ok().flatten();
    let mut born = exec_process(&Facts::detect(), &container, request).map_err(start)?;
    let progress = born.wait(deadline);
    born.warnings().iter().for_each(|warning| context.log.warn(warning));
    if let Progress::Failed(error) = progress {
        let why = state.cgroup.explain(&error, kills, Newborn::Added);
        return Err(format!("unable to start container process: {why}"));
    }
    let mut terminal = born.take_terminal();
    if let Some(socket) = console
        && let Some(master) = terminal.take()
    {
        stdio::send_console(socket, master)?;
    }
    let process = born.into_process().map_err(start)?;
    if let Some(socket) = parsed.one("pidfd-socket") {
        stdio::send_pidfd(socket, "setns", &process)?;
    }
    if let Some(path) = parsed.one("pid-file") {
        stdio::write_pid_file(path, process.pid())?;
    }
    let Some(foreground) = foreground else { return Ok(0) };
    let exit = foreground.attend(&process, terminal)?;
    Ok(u8::try_from(exit.code()).unwrap_or(FAILED))
}

fn terminal(process: &Process, detach: bool) -> Stdio {
    let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    match (process.console_size(), window().filter(|_| !detach)) {
        (Some(size), _) => Stdio::Terminal { rows: small(size.height()), columns: small(size.width()) },
        (None, Some(size)) => Stdio::Terminal { rows: size.rows, columns: size.columns },
        (None, None) => Stdio::Terminal { rows: 0, columns: 0 },
    }
}

/// From a file, or the container's own with what the flags change.
fn process(context: &Context, parsed: &Parsed, state: &State, args: &[String]) -> Result<Process, String> {
    let mut process = match parsed.one("process") {
        // A command beside it is ignored, as runc has it.
        Some(path) => read_json(&absolute(path)?)?,
        None if args.is_empty() => return Err("no command given".into()),
        None => {
            let mut process = state.config.get("process").cloned().ok_or("the container has no process")?;
            change(&mut process, parsed, args)?;
            process
        }
    };
    config::complete_process(&mut process, &state.config);
    let warnings = killick_container::support::check_process(&mut process)?;
    warnings.iter().for_each(|warning| context.log.warn(warning));
    config::typed(&process, "process")
}

fn change(process: &mut Value, parsed: &Parsed, args: &[String]) -> Result<(), String> {
    process["args"] = json!(args);
    process["terminal"] = json!(parsed.has("tty"));
    if let Some(object) = process.as_object_mut() {
        object.remove("consoleSize");
    }
    if let Some(cwd) = parsed.one("cwd") {
        process["cwd"] = json!(cwd);
    }
    for (flag, field) in [("process-label", "selinuxLabel"), ("apparmor", "apparmorProfile")] {
        if let Some(value) = parsed.one(flag) {
            process[field] = json!(value);
        }
    }
    if parsed.has("no-new-privs") {
        process["noNewPrivileges"] = json!(true);
    }
    append(process, "/env", parsed.all("env"));
    if let Some(user) = parsed.one("user") {
        let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
        process["user"]["uid"] = json!(id(uid)?);
        if let Some(gid) = gid {
            process["user"]["gid"] = json!(id(gid)?);
        }
    }
    for gid in parsed.all("additional-gids") {
        let gid = id(gid)?;
        match process.pointer_mut("/user/additionalGids").and_then(Value::as_array_mut) {
            Some(gids) => gids.push(json!(gid)),
            None => process["user"]["additionalGids"] = json!([gid]),
        }
    }
    if !parsed.all("cap").is_empty() {
        for set in ["bounding", "effective", "permitted"] {
            append(process, &format!("/capabilities/{set}"), parsed.all("cap"));
        }
        // Only what is inheritable can be ambient.
        let inheritable = process.pointer("/capabilities/inheritable").cloned().unwrap_or_default();
        let is_inheritable = |cap: &&String| inheritable.as_array().is_some_and(|all| all.contains(&json!(cap)));
        let ambient: Vec<String> = parsed.all("cap").iter().filter(is_inheritable).cloned().collect();
        append(process, "/capabilities/ambient", &ambient);
    }
    Ok(())
}

fn append(value: &mut Value, pointer: &str, words: &[String]) {
    if words.is_empty() {
        return;
    }
    let mut here = value;
    let parts: Vec<&str> = pointer.trim_start_matches('/').split('/').collect();
    for part in parts {
        here = &mut here[part];
    }
    let listed = here.as_array().cloned().unwrap_or_default();
    *here = listed.into_iter().chain(words.iter().map(|word| json!(word))).collect();
}

/// Strictly decimal (CVE-2016-3697 and its kin): no sign, no blank, no other base.
fn id(text: &str) -> Result<u32, String> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u32>().ok().filter(|number| plain && *number != u32::MAX);
    number.ok_or_else(|| format!("invalid user or group id {text:?}: it is a decimal number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_strictly_decimal() {
        for (text, expected) in [
            ("1", Some(1)),
            ("0", Some(0)),
            ("4294967295", None),
            ("-1", None),
            ("0x1", None),
            (" 1", None),
            ("+1", None),
            ("", None),
        ] {
            assert_eq!(id(text).ok(), expected, "{text:?}");
        }
    }
}
