//! The shim's log: the fifo `log` in the bundle, which containerd copies to its own.
//!
//! Lossy on purpose: a daemon that is away must not stop a shim. The descriptor is kept, so a daemon that comes back
//! reads on.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    debug: bool,
}

impl Log {
    pub fn open(bundle: &Path, debug: bool) -> Log {
        // Both sides: opening the writing side alone needs a reader to be there.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(bundle.join("log"));
        Log { file: file.ok(), debug }
    }

    pub fn debug(&self, text: &str) {
        if self.debug {
            self.write("debug", text);
        }
    }

    pub fn warn(&self, text: &str) {
        self.write("warning", text);
    }

    pub fn error(&self, text: &str) {
        self.write("error", text);
    }

    /// logrus' text form, as containerd's own shims write it.
    fn write(&self, level: &str, text: &str) {
        let Some(file) = &self.file else { return };
        let line = format!("level={level} msg={text:?} runtime=io.containerd.killick.v2\n");
        // A full fifo loses the line.
        let _ = { file }.write(line.as_bytes());
    }
}
