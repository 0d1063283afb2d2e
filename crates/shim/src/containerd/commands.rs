//! The commands that containerd runs and waits for. No loop, no thread; one answer on stdout.

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use killick_container::rootfs_mounts::unmount_all;
use killick_pod_dir::Roots;
use killick_sys::daemon::daemon;
use killick_sys::pidfd::PidFd;
use prost::Message;
use sha2::{Digest, Sha256};

use super::clock;
use super::command_line::CommandLine;
use super::left::{Kubernetes, Left};
use super::proto::{Any, BootstrapParams, BootstrapResult, DeleteResponse, RuncOptions, RuntimeInfo, RuntimeVersion};
use super::serve::LISTENER_FD;

/// Of containerd's own shims; the tests of containerd compute it again.
const SOCKETS: &str = "/run/containerd/s";
/// containerd sends a message of some hundred bytes.
const STDIN_BYTES_MAX: u64 = 1 << 20;
const BIND_TRIES: u32 = 5;
const CLEAN_DEADLINE: Duration = Duration::from_secs(4);
/// 128 + SIGKILL.
const KILLED: u32 = 137;
const RUNTIME: &str = "io.containerd.killick.v2";

/// `start`: the address of the shim that serves this container, which is another's of the same pod where there is one.
pub fn start(command_line: &CommandLine) -> Result<(), String> {
    let bundle = std::env::current_dir().map_err(|error| format!("find the working directory: {error}"))?;
    let mut given = Vec::new();
    // Nothing there is as good as an empty message.
    let _ = std::io::stdin().take(STDIN_BYTES_MAX).read_to_end(&mut given);
    let params = bootstrap_params(&given, command_line);
    let kubernetes = Kubernetes::read(&bundle)?;
    let group = kubernetes.group.unwrap_or_else(|| command_line.id.clone());
    let socket = socket_path(&command_line.address, &command_line.namespace, &group);
    let listener = listen(&socket)?;
    if let Some(listener) = &listener
        && let Err(error) = spawn(command_line, &bundle, listener, &options(&given, params.is_some()))
    {
        let _ = std::fs::remove_file(&socket);
        return Err(error);
    }
    let address = format!("unix://{}", socket.display());
    // containerd before 2.0 finds the shim again by this file.
    std::fs::write(bundle.join("address"), &address).map_err(|error| format!("write address: {error}"))?;
    let answer = match params {
        Some(_) => BootstrapResult { version: 3, address, protocol: "ttrpc".into() }.encode_to_vec(),
        // Every version takes the bare address: task API v2.
        None => address.into_bytes(),
    };
    std::io::stdout().write_all(&answer).map_err(|error| format!("write the answer: {error}"))
}

/// The message of containerd 2.3 and later. An older one's bytes may read as such a message: it must say what the
/// flags say.
fn bootstrap_params(given: &[u8], command_line: &CommandLine) -> Option<BootstrapParams> {
    let params = BootstrapParams::decode(given).ok()?;
    let same = params.instance_id == command_line.id && params.namespace == command_line.namespace;
    same.then_some(params)
}

fn options(given: &[u8], is_bootstrap: bool) -> RuncOptions {
    if is_bootstrap {
        return RuncOptions::default();
    }
    RuncOptions::of(Any::decode(given).ok().as_ref()).unwrap_or_default()
}

fn socket_path(address: &str, namespace: &str, group: &str) -> PathBuf {
    let name = Path::new(address).join(namespace).join(group);
    let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(SOCKETS).join(hex)
}

/// None: somebody serves there already.
fn listen(socket: &Path) -> Result<Option<UnixListener>, String> {
    let at = |error: &std::io::Error| format!("listen on {}: {error}", socket.display());
    let directory = socket.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| at(&error))?;
    for _ in 0..BIND_TRIES {
        match UnixListener::bind(socket) {
            Ok(listener) => {
                std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600)).map_err(|error| at(&error))?;
                return Ok(Some(listener));
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(at(&error)),
        }
        match UnixStream::connect(socket) {
            Ok(_) => return Ok(None),
            // A shim that was killed left it.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(socket);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(format!("connect to {}: {error}", socket.display())),
        }
    }
    Err(format!("listen on {}: somebody takes it again and again", socket.display()))
}

fn spawn(
    command_line: &CommandLine,
    bundle: &Path,
    listener: &UnixListener,
    options: &RuncOptions,
) -> Result<(), String> {
    let text = |error: killick_sys::error::Error| error.to_string();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|error| error.to_string())?;
    let empty = Roots::from_env().bin().join("empty");
    std::fs::create_dir_all(&empty).map_err(|error| format!("mkdir {}: {error}", empty.display()))?;
    // Containers are born beside the server: its executable must be nobody's to write (CVE-2019-5736).
    let program =
        killick_sys::selfexe::open_overlay(&empty).or_else(|_| killick_sys::selfexe::open_copy()).map_err(text)?;
    let score = oom_score_adj();
    let mut args: Vec<OsString> = vec!["containerd-shim-killick-v2".into()];
    let flags = [
        ("-namespace", OsString::from(&command_line.namespace)),
        ("-id", OsString::from(&command_line.id)),
        ("-address", OsString::from(&command_line.address)),
        ("-bundle", bundle.into()),
    ];
    args.extend(flags.into_iter().flat_map(|(name, value)| [name.into(), value]));
    if command_line.debug {
        args.push("-debug".into());
    }
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        killick_sys::schedule::own_core_group().map_err(text)?;
    }
    // Before the server is made, so that it is born with it; where that is refused it goes as others do.
    if let Some(score) = score {
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    if !options.shim_cgroup.is_empty() {
        enter_cgroup(&options.shim_cgroup)?;
    }
    let fds = [(null.as_fd(), 0), (null.as_fd(), 1), (null.as_fd(), 2), (listener.as_fd(), LISTENER_FD)];
    daemon(program.as_fd(), &args, &fds).map(drop).map_err(text)
}

/// One above containerd's, so that the daemon outlives its shims.
fn oom_score_adj() -> Option<i32> {
    let own = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", nix::unistd::getppid())).ok()?;
    own.trim().parse::<i32>().ok().map(|score| (score + 1).min(1000))
}

fn enter_cgroup(path: &str) -> Result<(), String> {
    use killick_container::cgroup::{Cgroup, Layout};
    let layout = Layout::detect().map_err(|error| error.to_string())?;
    let cgroup = Cgroup::open(&layout, path).map_err(|error| error.to_string())?;
    for (_, dir) in cgroup.dirs() {
        let file = dir.join("cgroup.procs");
        std::fs::write(&file, "0").map_err(|error| format!("shim_cgroup: write {}: {error}", file.display()))?;
    }
    Ok(())
}

/// `delete`: nothing of this container is left, whatever became of its shim; of a whole pod, when it is the sandbox.
pub fn delete(command_line: &CommandLine) -> Result<(), String> {
    let bundle = match command_line.bundle.as_os_str().is_empty() {
        true => std::env::current_dir().map_err(|error| format!("find the working directory: {error}"))?,
        false => command_line.bundle.clone(),
    };
    let deadline = Instant::now() + CLEAN_DEADLINE;
    let log = super::log::Log::open(&bundle, command_line.debug);
    let pid = Left::read(&bundle).map_or(0, |left| left.pid);
    for other in of_the_pod(&bundle, &command_line.id) {
        clean(&other, deadline, &log);
    }
    clean(&bundle, deadline, &log);
    let answer =
        DeleteResponse { pid: u32::try_from(pid).unwrap_or(0), exit_status: KILLED, exited_at: Some(clock::now()) };
    std::io::stdout().write_all(&answer.encode_to_vec()).map_err(|error| format!("write the answer: {error}"))
}

/// containerd tells of a sandbox only, when a shim has died (2.x): its containers' bundles are beside its own.
fn of_the_pod(bundle: &Path, id: &str) -> Vec<PathBuf> {
    let is_sandbox = Kubernetes::read(bundle).is_ok_and(|kubernetes| kubernetes.is_sandbox);
    let Some(parent) = bundle.parent().filter(|_| is_sandbox) else { return Vec::new() };
    let bundles = std::fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
    bundles
        .filter(|other| other != bundle && other.join("config.json").exists())
        .filter(|other| {
            Kubernetes::read(other).is_ok_and(|found| !found.is_sandbox && found.sandbox_id.as_deref() == Some(id))
        })
        .collect()
}

/// Goes on past errors: what is told is told to the log.
fn clean(bundle: &Path, deadline: Instant, log: &super::log::Log) {
    let complain = |error: &dyn std::fmt::Display| log.warn(&format!("{}: {error}", bundle.display()));
    if let Some(left) = Left::read(bundle) {
        if let Err(error) = left.cgroup.kill_all(deadline) {
            complain(&error);
        }
        // In a cgroup that was removed under it, or not in it yet.
        if left.pid > 0
            && let Ok(process) = PidFd::open_verified(left.pid, left.start_time)
        {
            let _ = process.send_raw_signal(libc::SIGKILL);
            let _ = process.wait_gone(deadline.saturating_duration_since(Instant::now()));
        }
        if let Err(error) = left.cgroup.remove(deadline) {
            complain(&error);
        }
        let is_dead =
            UnixStream::connect(&left.socket).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        if is_dead {
            let _ = std::fs::remove_file(&left.socket);
        }
    }
    if let Err(error) = killick_container::sandbox::unmount_in(&bundle.join("rootfs")) {
        complain(&error);
    }
    if let Err(error) = unmount_all(&bundle.join("rootfs")) {
        complain(&error);
    }
}

/// `-info`: what this runtime is and can do.
pub fn info() -> Result<(), String> {
    let features = killick_container::features::features();
    let value = serde_json::to_vec(&features).map_err(|error| error.to_string())?;
    let info = RuntimeInfo {
        name: RUNTIME.into(),
        version: Some(RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), revision: String::new() }),
        options: None,
        features: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".into(),
            value,
        }),
        annotations: std::collections::HashMap::new(),
    };
    std::io::stdout().write_all(&info.encode_to_vec()).map_err(|error| format!("write the answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_has_the_name_that_containerd_computes() {
        let path = socket_path("/run/containerd/containerd.sock", "k8s.io", "abc");
        let digest = Sha256::digest(b"/run/containerd/containerd.sock/k8s.io/abc");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(path, Path::new("/run/containerd/s").join(hex));
        // sun_path has 108 bytes.
        assert!(path.as_os_str().len() < 108);
    }

    #[test]
    fn an_older_daemons_options_are_no_bootstrap_message() {
        let command_line = CommandLine { id: "abc".into(), namespace: "default".into(), ..CommandLine::default() };
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: b"\x18\x01".to_vec() };
        assert_eq!(bootstrap_params(&any.encode_to_vec(), &command_line), None);
        assert_eq!(bootstrap_params(b"", &command_line), None);
        let params = BootstrapParams { instance_id: "abc".into(), namespace: "default".into() };
        assert!(bootstrap_params(&params.encode_to_vec(), &command_line).is_some());
    }
}
