//! What a new process gets from our caller: three streams or a terminal, preserved descriptors, a pid file.

use crate::log::plain;
use killick_container::Stdio;
use killick_sys::fd;
use killick_sys::launch::stream_connect;
use killick_sys::pidfd::PidFd;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The caller's own streams.
pub fn inherit() -> Result<Stdio, String> {
    let dup =
        |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|error| format!("stdio: {}", plain(&error)));
    Ok(Stdio::Streams {
        stdin: dup(std::io::stdin().as_fd())?,
        stdout: dup(std::io::stdout().as_fd())?,
        stderr: dup(std::io::stderr().as_fd())?,
    })
}

/// `--console-socket`, the process's `terminal`, and whether we stay.
pub fn check_terminal(terminal: bool, console_socket: Option<&str>, detach: bool) -> Result<(), String> {
    match (terminal, console_socket, detach) {
        (true, None, true) => {
            Err("cannot allocate tty if killick-oci will detach without setting console socket".into())
        }
        (false, Some(_), _) | (_, Some(_), false) => {
            Err("cannot use console socket if killick-oci will not detach or allocate tty".into())
        }
        _ => Ok(()),
    }
}

/// One message: the name of the pty as its bytes, the master as its descriptor.
pub fn send_console(socket: &str, master: OwnedFd) -> Result<(), String> {
    let stream = stream_connect(Path::new(socket)).map_err(|error| error.to_string())?;
    fd::send_message(stream.as_fd(), b"/dev/ptmx", &[master.as_fd()]).map_err(|error| error.to_string())?;
    Ok(())
}

/// `--pidfd-socket`: as the console, with the process's pidfd; `kind` is runc's word for how it was made.
pub fn send_pidfd(socket: &str, kind: &str, process: &PidFd) -> Result<(), String> {
    let pidfd = process.as_fd().ok_or("--pidfd-socket: this kernel has no pidfds (5.3)")?;
    let stream = stream_connect(Path::new(socket)).map_err(|error| error.to_string())?;
    fd::send_message(stream.as_fd(), kind.as_bytes(), &[pidfd]).map_err(|error| error.to_string())?;
    Ok(())
}

/// Descriptors that are passed on at their places, and the variables that tell of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    pub numbers: Vec<i32>,
    pub env: Vec<String>,
}

/// `LISTEN_FDS` first, then `--preserve-fds`.
pub fn passed(preserve: Option<i32>) -> Result<Passed, String> {
    let variable = |name: &str| std::env::var(name).ok();
    let own = std::process::id().to_string();
    let listening = variable("LISTEN_PID").filter(|pid| *pid == own).and_then(|_| variable("LISTEN_FDS"));
    let listening: i32 = listening.and_then(|count| count.parse().ok()).filter(|count| *count > 0).unwrap_or(0);
    let preserve = preserve.unwrap_or(0);
    if !(0..=4096).contains(&preserve) || listening > 4096 {
        return Err(format!("--preserve-fds {preserve} is out of range"));
    }
    // One that is not open stays closed, as crun has it; what we have opened ourselves is not the caller's.
    let numbers = (3..3 + listening + preserve).filter(|number| is_inherited(*number)).collect();
    let mut env = Vec::new();
    if listening > 0 {
        env.extend([format!("LISTEN_FDS={listening}"), "LISTEN_PID=1".to_owned()]);
        env.extend(variable("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}")));
    }
    Ok(Passed { numbers, env })
}

/// Open, and not by us: ours close on exec.
fn is_inherited(number: i32) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    flags.and_then(|flags| i32::from_str_radix(flags, 8).ok()).is_some_and(|flags| flags & libc::O_CLOEXEC == 0)
}

/// Decimal, without a line feed, whole when it appears.
pub fn write_pid_file(path: &str, pid: i32) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = PathBuf::from(path);
    let name = path.file_name().ok_or_else(|| format!("--pid-file {}: not a file", path.display()))?;
    let new = path.with_file_name(format!(".{}", name.to_string_lossy()));
    // One that a killed run left.
    let _ = fs::remove_file(&new);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&new)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|error| format!("write {}: {}", path.display(), plain(&error)))
}
