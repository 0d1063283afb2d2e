//! killick-oci: runc's command line over crate `container`. Each command is one process that ends; what lives on is the
//! container and its state directory. Decides nothing about how a process is born: that is `container`'s.
#![forbid(unsafe_code)]

mod args;
mod create;
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
mod stdio;
mod update;

use args::{Command, Flag, Parsed};
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
    Flag::value(&["log-level"], "LEVEL", "accepted: errors and warnings are always logged"),
    Flag::switch(&["debug"], "accepted: errors and warnings are always logged"),
    Flag::switch(&["systemd-cgroup"], "not supported yet"),
    Flag::value(&["cgroup-manager"], "NAME", "cgroupfs"),
    Flag::value(&["rootless"], "BOOL", "accepted: false or auto"),
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
        Err(why) => return usage(&why, &args::help(program, GLOBAL, &commands)),
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
    let log = match Log::open(global.one("log"), global.one("log-format")) {
        Ok(log) => log,
        Err(why) => return told(Log::stderr(), why.into()),
    };
    let Some(command) = commands.iter().find(|command| command.name == name) else {
        return told(log, format!("No help topic for '{name}'").into());
    };
    let (parsed, left) = match args::parse(command.flags, &rest[1..], command.stops) {
        Ok(parsed) => parsed,
        Err(why) => return usage(&why, &command.help(program)),
    };
    if parsed.has("help") {
        print!("{}", command.help(program));
        return Ok(0);
    }
    let count = left.len();
    if count < command.positional.0 || count > command.positional.1 {
        let why = format!("{name:?} takes {} argument(s), and got {count}", command.counts());
        return usage(&why, &command.help(program));
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
    let refused = if global.has("systemd-cgroup") {
        Some("--systemd-cgroup: the systemd cgroup driver is not supported yet".to_owned())
    } else if global.one("cgroup-manager").is_some_and(|name| name != "cgroupfs") {
        Some(format!("--cgroup-manager {:?} is not supported yet", global.one("cgroup-manager").unwrap_or_default()))
    } else if global.one("rootless") == Some("true") {
        Some("--rootless true is not supported yet".to_owned())
    } else {
        None
    };
    if let Some(message) = refused {
        return Err((log, message.into()));
    }
    match Root::new(global.one("root")) {
        Ok(root) => Ok(Context { root, log, program: program.to_owned() }),
        Err(message) => Err((log, message.into())),
    }
}

fn told(log: Log, failure: Failure) -> Done {
    log.error(&failure.message);
    Err(failure)
}

fn usage(why: &str, help: &str) -> Done {
    println!("Incorrect Usage.\n\n{help}");
    eprintln!("{why}");
    Err(Failure { message: why.to_owned(), code: 1 })
}

/// The first three lines are what docker and podman look for.
fn version() -> String {
    let number = env!("CARGO_PKG_VERSION");
    format!("killick-oci version {number}\ncommit: v{number}\nspec: {}\n", features::SPEC_VERSION)
}
