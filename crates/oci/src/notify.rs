//! sd_notify: a container's READY reaches whoever waits for us, and nothing else of what it says.
//!
//! The container gets a socket of its own (its directory, read-only); the one that starts it listens there, hands
//! `READY=` lines on, tells the first process's pid, and waits until both are read.

use killick_sys::fd;
use killick_sys::program::wait_hangup;
use oci_spec::runtime::{Mount, Spec};
use serde_json::json;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::Duration;

const INSIDE: &str = "/run/notify";
const NAME: &str = "notify.sock";
/// How often it is asked whether the container still lives.
const TICK: Duration = Duration::from_millis(100);
/// How long the reader of our words may take.
const BARRIER: Duration = Duration::from_secs(30);
const MESSAGE_BYTES_MAX: usize = 4096;

/// Where our own caller listens.
pub fn of_caller() -> Option<String> {
    std::env::var("NOTIFY_SOCKET").ok().filter(|socket| !socket.is_empty())
}

fn directory(dir: &Path) -> PathBuf {
    dir.join("notify")
}

/// The container's directory and the variable that tells of it.
pub fn prepare(dir: &Path, spec: &mut Spec) -> Result<String, String> {
    let directory = directory(dir);
    let made = fs::DirBuilder::new().mode(0o755).create(&directory);
    made.map_err(|error| format!("mkdir {}: {error}", directory.display()))?;
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"];
    let mount = json!({"destination": INSIDE, "type": "bind", "source": directory, "options": options});
    let mount: Mount = serde_json::from_value(mount).map_err(|error| error.to_string())?;
    spec.mounts_mut().get_or_insert_default().push(mount);
    Ok(format!("NOTIFY_SOCKET={INSIDE}/{NAME}"))
}

/// The container's socket, if it was prepared for one.
pub fn listen(dir: &Path) -> Result<Option<UnixDatagram>, String> {
    let directory = directory(dir);
    if !directory.is_dir() {
        return Ok(None);
    }
    // A socket's name has 107 bytes at most.
    let opened = fs::File::open(&directory).map_err(|error| format!("open {}: {error}", directory.display()))?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd())).join(NAME);
    let bound = UnixDatagram::bind(&short).and_then(|socket| {
        fs::set_permissions(&short, fs::Permissions::from_mode(0o777))?;
        socket.set_read_timeout(Some(TICK))?;
        Ok(socket)
    });
    bound.map(Some).map_err(|error| format!("bind {}/{NAME}: {error}", directory.display()))
}

/// Until READY was handed on, or the container has ended.
pub fn forward(socket: &UnixDatagram, caller: &str, pid: i32, lives: impl Fn() -> bool) -> Result<(), String> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    loop {
        let ready = match socket.recv(&mut buffer) {
            Ok(length) => ready_lines(&buffer[..length]),
            Err(_) => Vec::new(),
        };
        if ready.is_empty() {
            if lives() {
                continue;
            }
            return Ok(());
        }
        return tell(caller, &ready, pid).map_err(|error| format!("NOTIFY_SOCKET {caller}: {error}"));
    }
}

fn ready_lines(message: &[u8]) -> Vec<u8> {
    let lines = message.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"READY="));
    lines.collect::<Vec<_>>().join(&b'\n')
}

fn tell(caller: &str, ready: &[u8], pid: i32) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let address = match caller.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(caller),
    };
    let socket = UnixDatagram::unbound().map_err(text)?;
    socket.connect_addr(&address.map_err(text)?).map_err(text)?;
    socket.send(ready).map_err(text)?;
    socket.send(format!("MAINPID={pid}").as_bytes()).map_err(text)?;
    let (read, write) = fd::pipe().map_err(|error| error.to_string())?;
    fd::send_message(socket.as_fd(), b"BARRIER=1", &[write.as_fd()]).map_err(|error| error.to_string())?;
    drop(write);
    wait_hangup(read.as_fd(), BARRIER).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_is_handed_on() {
        assert_eq!(ready_lines(b"STATUS=x\nREADY=1\nMAINPID=7\n"), b"READY=1");
        assert_eq!(ready_lines(b"MAINPID=7"), b"");
    }
}
