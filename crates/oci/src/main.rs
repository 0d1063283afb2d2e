//! killick-oci: runc's command line over crate `container`. Each command is one process that ends; what lives on is the
//! container and its state directory. Decides nothing about how a process is born: that is `container`'s.
#![forbid(unsafe_code)]

mod args;
mod create;
mod driver;
mod events;
mod exec;
mod features;
mod foreground;
mod kill;
mod lifecycle;
mod listing;
mod log;
mod notify;
mod spec;
mod state;
mod statistics;
mod stdio;
mod update;

use args::{Command, Flag, Parsed};
use killick_container::systemd::Driver;
use killick_sys::selfexe;
use log::Log;
use state::Root;
use std::os::unix::fs::DirBuilderExt;
use std::process::ExitCode;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    root: Root,
    log: Log,
    /// Who makes cgroups.
    driver: Driver,
    /// The spelling of an error: `killick-oci create failed: …`.
    program: String,
}

/// One line that names field and value, and the exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Failure { message, code: 1 }
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

type Done = Result<u8, Failure>;

const GLOBAL: &[Flag] = &[
    Flag::value(&["root"], "DIR", "where containers' states are kept (default /run/killick-oci)"),
    Flag::value(&["log"], "FILE", "the log file (default: standard error)"),
    Flag::value(&["log-format"], "FORMAT", "text or json"),
    Flag::value(&["log-level"], "LEVEL", "debug is as --debug; errors and warnings are always logged"),
    Flag::switch(&["debug"], "log what is done, too"),
    Flag::switch(&["systemd-cgroup"], "systemd makes the cgroups; cgroupsPath is slice:prefix:name"),
    Flag::value(&["cgroup-manager"], "NAME", "cgroupfs or systemd (default: by cgroupsPath's form)"),
    Flag::value(
        &["rootless"],
        "BOOL",
        "true, false or auto: accepted; a cgroup that cannot be made is an error in each",
    ),
    Flag::value(&["criu"], "PATH", "accepted and unused"),
    Flag::switch(&["version", "v"], "print the version"),
    Flag::switch(&["help", "h"], "show help"),
];

/// Beside the states, where no id can be: the second layer of the overlay that we run from.
const EMPTY: &str = ".empty";

fn commands() -> Vec<Command> {
    let mut all = Vec::new();
    all.extend(create::commands());
    all.extend(lifecycle::commands());
    all.extend([kill::command(), exec::command(), update::command(), events::command()]);
    all.extend(listing::commands());
    all.extend([spec::command(), features::command()]);
    all
}

fn main() -> ExitCode {
    killick_sys::signal::hear_of_children();
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(failure.code),
    }
}

/// A failure that comes back has been told already.
fn run(words: &[String]) -> Done {
    let program = "killick-oci";
    let commands = commands();
    let (global, rest) = match args::parse(GLOBAL, &words[1..], true) {
        Ok(parsed) => parsed,
        Err(why) => return usage(Log::stderr(), why, &args::help(program, GLOBAL, &commands)),
    };
    let Some(name) = rest.first().filter(|_| !global.has("help")) else {
        if global.has("version") {
            print!("{}", version());
        } else {
            print!("{}", args::help(program, GLOBAL, &commands));
        }
        return Ok(0);
    };
    if name == "help" {
        print!("{}", args::help(program, GLOBAL, &commands));
        return Ok(0);
    }
    let debug = global.has("debug") || global.one("log-level").is_some_and(|level| level.eq_ignore_ascii_case("debug"));
    let log = match Log::open(global.one("log"), global.one("log-format"), debug) {
        Ok(log) => log,
        Err(why) => return told(Log::stderr(), why.into()),
    };
    // Whatever it is asked with, even for help: that is how CRI-O finds out.
    if matches!(name.as_str(), "checkpoint" | "restore") {
        return told(log, format!("{name} is not supported by {program} (it would need criu)").into());
    }
    let Some(command) = commands.iter().find(|command| command.name == name) else {
        return told(log, format!("No help topic for '{name}'").into());
    };
    let (parsed, left) = match args::parse(command.flags, &rest[1..], command.stops) {
        Ok(parsed) => parsed,
        Err(why) => return usage(log, why, &command.help(program)),
    };
    if parsed.has("help") {
        print!("{}", command.help(program));
        return Ok(0);
    }
    if let Some(wrong) = command.counts_wrong(left.len()) {
        return usage(log, format!("{program}: {name:?} requires {wrong} argument(s)"), &command.help(program));
    }
    let context = match context(&global, log, program) {
        Ok(context) => context,
        Err((log, failure)) => return told(log, failure),
    };
    if let Err(why) = protect(command.name, &context) {
        return told(context.log, why.into());
    }
    match (command.run)(&context, &parsed, &left) {
        Err(failure) => told(context.log, failure),
        done => done,
    }
}

/// Commands whose child enters a container run from a place that nobody can write to: it shows its executable there
/// until it becomes the container's program (CVE-2019-5736).
fn protect(command: &str, context: &Context) -> Result<(), String> {
    if !["create", "run", "exec"].contains(&command) {
        return Ok(());
    }
    let empty = context.root.path.join(EMPTY);
    // Without it the copy in memory is taken.
    let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&empty);
    selfexe::ensure_protected(&empty).map_err(|error| format!("protect the executable: {error}"))
}

fn context(global: &Parsed, log: Log, program: &str) -> Result<Context, (Log, Failure)> {
    let driver = match (global.has("systemd-cgroup"), global.one("cgroup-manager")) {
        (true, None) | (_, Some("systemd")) => Ok(Driver::Systemd),
        (true, Some("cgroupfs")) => Err("--systemd-cgroup and --cgroup-manager cgroupfs exclude each other".to_owned()),
        (false, Some("cgroupfs")) => Ok(Driver::Cgroupfs),
        (false, None) => Ok(Driver::Auto),
        (_, Some(other)) => Err(format!("--cgroup-manager {other:?} is not supported: cgroupfs or systemd")),
    };
    let driver = match driver {
        Ok(driver) => driver,
        Err(message) => return Err((log, message.into())),
    };
    if let Some(other) = global.one("rootless").filter(|value| !matches!(*value, "true" | "false" | "auto")) {
        return Err((log, format!("invalid rootless: {other:?} is not true, false or auto").into()));
    }
    match Root::new(global.one("root")) {
        Ok(root) => Ok(Context { root, log, program: program.to_owned(), driver }),
        Err(message) => Err((log, message.into())),
    }
}

fn told(log: Log, failure: Failure) -> Done {
    log.error(&killick_container::config::one_line(&failure.message));
    Err(failure)
}

fn usage(log: Log, why: String, help: &str) -> Done {
    println!("Incorrect Usage.\n\n{help}");
    told(log, why.into())
}

/// The first three lines are what docker and podman look for.
fn version() -> String {
    let number = env!("CARGO_PKG_VERSION");
    format!("killick-oci version {number}\ncommit: v{number}\nspec: {}\n", killick_container::features::SPEC_VERSION)
}
