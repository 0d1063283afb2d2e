//! `containerd-shim-killick-v2`: one process for each pod. containerd calls it with Go's flags and finds the task API;
//! `pod` sub-commands serve standalone pods.
//!
//! Here is only the command line: what a pod needs is in crate `supervisor`.
#![forbid(unsafe_code)]

mod containerd;
mod facts;
mod run;
mod start;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// pause and keep, compiled by build.rs.
static PAUSE: &[u8] = include_bytes!(env!("KILLICK_PAUSE"));

const USAGE: &str = "\
usage: containerd-shim-killick-v2 pod start DIR   start the pod of this directory: its keep and its shim
       containerd-shim-killick-v2 pod run DIR     be the shim of this directory's pod (started by keep)
       containerd-shim-killick-v2 pod facts       what this host can do, as JSON
       containerd-shim-killick-v2 pod gc          end what has no pod directory any more, and say what that was
       containerd-shim-killick-v2 -namespace N -id ID -address SOCKET start     containerd: the shim of a container
       containerd-shim-killick-v2 -namespace N -id ID -bundle DIR delete        containerd: what a dead shim left
       containerd-shim-killick-v2 -info           what it is and can do, as protobuf
       containerd-shim-killick-v2 -v              the version";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = args.iter().map(|arg| arg.to_str().unwrap_or_default()).collect();
    if let Some(command_line) = containerd::CommandLine::parse(&args) {
        return finish(command_line.and_then(containerd::run));
    }
    let done = match words.as_slice() {
        ["pod", "start", _] => start::start(&PathBuf::from(&args[2])),
        ["pod", "run", _] => run::run(&PathBuf::from(&args[2])),
        ["pod", "facts"] => facts::facts(),
        ["pod", "gc"] => killick_supervisor::gc::gc(),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    finish(done)
}

fn finish(done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&error);
            ExitCode::FAILURE
        }
    }
}

/// `eprintln!` would panic where shim.log's disk is full.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
