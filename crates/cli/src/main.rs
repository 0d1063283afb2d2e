//! killick: pods for people.
//!
//! Parse first, touch the world after: `command` says what may be typed, `run` turns it into options, and each command
//! is one function of a context and its options. Nothing here makes a container: the shim does.
#![forbid(unsafe_code)]

mod apply;
mod command;
mod completion;
mod container_choice;
mod context;
mod delete;
mod describe;
mod diff;
mod duration;
mod exec;
mod get;
mod image;
mod jsonpath;
mod logs;
mod output;
mod plan;
mod pod_row;
mod print;
mod probes;
mod resource;
mod run;
mod select;
mod simulate;
mod source;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wait;
mod yaml_out;

use std::process::ExitCode;

use output::Out;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let mut stdout = std::io::stdout().lock();
    let mut stderr = std::io::stderr().lock();
    let mut stdin = std::io::stdin().lock();
    let mut out = Out { stdout: &mut stdout, stderr: &mut stderr };
    let code = match run::run(&arguments, &mut stdin, &mut out) {
        Ok(()) => 0,
        Err(failure) if failure.code == 0 => out.say(failure.text).map_or_else(|failure| failure.code, |()| 0),
        Err(failure) => {
            if !failure.text.is_empty() {
                out.warn(failure.text);
            }
            failure.code
        }
    };
    // What cannot be written now cannot be told either.
    let _ = out.stdout.flush();
    ExitCode::from(code)
}
