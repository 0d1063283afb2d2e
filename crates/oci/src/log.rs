//! The log as runc writes it: to a file that the caller reads, and the plain message to standard error. Nothing is
//! printed where all is well: standard error is the container's too.

pub use killick_sys::error::plain;
use std::fs::{File, OpenOptions};
use std::io::Write;

#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    json: bool,
    debug: bool,
}

impl Log {
    pub fn stderr() -> Self {
        Log { file: None, json: false, debug: false }
    }

    pub fn open(path: Option<&str>, format: Option<&str>, debug: bool) -> Result<Self, String> {
        let json = match format.unwrap_or("text") {
            "" | "text" => false,
            "json" => true,
            other => return Err(format!("invalid log-format: {other}")),
        };
        let path = path.filter(|path| !path.is_empty()).map(|path| path.strip_prefix("file:").unwrap_or(path));
        let file = match path {
            Some(path) => {
                use std::os::unix::fs::OpenOptionsExt;
                let opened = OpenOptions::new().create(true).append(true).mode(0o644).open(path);
                Some(opened.map_err(|error| format!("open {path}: {}", plain(&error)))?)
            }
            None => None,
        };
        Ok(Log { file, json, debug })
    }

    /// To the log file, and as it is to standard error.
    pub fn error(&self, message: &str) {
        self.write("error", message);
        if self.file.is_some() {
            eprintln!("{message}");
        }
    }

    /// To the log file only, if there is one.
    pub fn warn(&self, message: &str) {
        if self.file.is_some() {
            self.write("warning", message);
        }
    }

    /// With `--debug` only: then also to standard error, which is a container's too.
    pub fn debug(&self, message: &str) {
        if self.debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let time = jiff::Timestamp::now();
        let line = if self.json {
            format!("{}\n", serde_json::json!({"level": level, "msg": message, "time": time.to_string()}))
        } else {
            format!("time=\"{time}\" level={level} msg={message:?}\n")
        };
        // A log that cannot be written must not stop a container.
        let _ = match &self.file {
            Some(file) => (&mut &*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}
