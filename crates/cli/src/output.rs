//! Where a command writes, and how it ends.

use std::io::{self, Write};

use crate::table::Table;

/// Why a command failed: what is to be said on stderr, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whole lines without the last newline; empty when all has been said.
    pub text: String,
    pub code: u8,
}

pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Said as it stands.
    pub fn said(text: impl Into<String>) -> Failure {
        Failure { text: text.into(), code: 1 }
    }

    /// `error: …`
    pub fn error(text: impl std::fmt::Display) -> Failure {
        Failure::said(format!("error: {text}"))
    }

    /// `error: …` and where to read on.
    pub fn usage(text: impl std::fmt::Display, command: &str) -> Failure {
        Failure::said(format!("error: {text}\nSee 'killick {command} -h' for help and examples"))
    }

    /// `Error from server (NotFound): pods "x" not found`
    pub fn not_found(resource: &str, name: &str) -> Failure {
        Failure::said(format!("Error from server (NotFound): {resource} \"{name}\" not found"))
    }

    pub fn bad_request(text: impl std::fmt::Display) -> Failure {
        Failure::said(format!("Error from server (BadRequest): {text}"))
    }

    /// Nothing more to say.
    pub fn code(code: u8) -> Failure {
        Failure { text: String::new(), code }
    }

    /// Several failures as one: each on its own line.
    pub fn all(failures: Vec<Failure>) -> Result<()> {
        let Some(first) = failures.first() else { return Ok(()) };
        let code = first.code;
        let texts: Vec<&str> =
            failures.iter().map(|failure| failure.text.as_str()).filter(|text| !text.is_empty()).collect();
        Err(Failure { text: texts.join("\n"), code })
    }
}

impl From<killick_pod_dir::Error> for Failure {
    fn from(error: killick_pod_dir::Error) -> Failure {
        Failure::error(error)
    }
}

/// The two streams. A reader who has gone ends the command quietly, as SIGPIPE would.
#[allow(missing_debug_implementations)]
pub struct Out<'a> {
    pub stdout: &'a mut dyn Write,
    pub stderr: &'a mut dyn Write,
}

impl Out<'_> {
    pub fn say(&mut self, text: impl std::fmt::Display) -> Result<()> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    pub fn print(&mut self, text: &str) -> Result<()> {
        self.bytes(text.as_bytes())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stdout.write_all(bytes).and_then(|()| self.stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::code(141),
            _ => Failure::error(format!("write to stdout: {error}")),
        })
    }

    pub fn table(&mut self, rows: &[Vec<String>]) -> Result<()> {
        let mut text = String::new();
        Table::new().write(rows, &mut text);
        self.print(&text)
    }

    /// To stderr. That it cannot be written changes nothing about the command.
    pub fn warn(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.stderr, "{text}");
    }
}
