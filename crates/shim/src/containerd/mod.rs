//! containerd's shim: `start`, `delete`, `-info` and `-v` as commands, and the server that answers the task API.
//!
//! The commands link no event loop, print the answer and nothing else: containerd reads stdout and stderr as one.

mod clock;
mod command_line;
mod commands;
mod create;
mod events;
mod exits;
mod io;
mod left;
mod log;
mod metrics;
mod proto;
mod serve;
mod shim;
mod task;
mod ttrpc;

pub(crate) use command_line::{Action, CommandLine};

/// Does what containerd asked for.
pub(crate) fn run(command_line: CommandLine) -> Result<(), String> {
    match command_line.action {
        Action::Start => commands::start(&command_line),
        Action::Delete => commands::delete(&command_line),
        Action::Info => commands::info(),
        Action::Version => {
            println!("containerd-shim-killick-v2:\n  Version:  {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Serve => serve::serve(command_line),
    }
}
