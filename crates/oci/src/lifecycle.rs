//! start, delete, pause, resume: a container goes from one state to the next, or says why it may not.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::create::{START_DEADLINE, environment};
use crate::driver::PLANNED_CGROUP;
use crate::log::plain;
use crate::state::{State, Status};
use crate::{Context, Done, Failure, notify};
use killick_container::cgroup::Cgroup;
use killick_container::hooks::{self, Kind};
use killick_sys::spawn::Worker;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::Spec;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a killed container may take to be gone.
pub const REMOVE_DEADLINE: Duration = Duration::from_secs(10);
/// Nobody waits for the worker; it ends with us.
const NOTIFY_DEADLINE: Duration = Duration::from_secs(1 << 30);
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);

const FORCE: Flag = Flag::switch(&["force", "f"], "kill it first; an unknown container is no error");

pub fn commands() -> [Command; 4] {
    let one =
        |name, about, flags, run| Command { name, usage: "<id>", positional: (1, 1), about, flags, stops: false, run };
    [
        one("start", "let a created container run its program", &[HELP], start),
        one("delete", "remove what create made", &[FORCE, HELP], delete),
        one("pause", "stop all processes of a container", &[HELP], pause),
        one("resume", "let a paused container go on", &[HELP], resume),
    ]
}

fn start(context: &Context, _: &Parsed, words: &[String]) -> Done {
    let state = context.root.load(&words[0])?;
    startable(&state)?;
    start_container(context, &state, Ready::Wait).map_err(|why| context.failed("start", why))?;
    Ok(0)
}

fn startable(state: &State) -> Result<(), String> {
    match state.status()? {
        Status::Created => Ok(()),
        Status::Creating => Err("cannot start a container that is being created".into()),
        Status::Running => Err("cannot start an already running container".into()),
        Status::Paused => Err("cannot start a container in the paused state".into()),
        Status::Stopped => Err("cannot start a container that has stopped".into()),
    }
}

/// Of starts at once one opens the gate. Not the lock of deletions: those do not wait for hooks.
const START_LOCK: &str = "start.lock";

/// Whether to stay until a container that was told to notify is ready, or to listen in a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Wait,
    Beside,
}

/// Opens the gate and runs the poststart hooks; when one fails the container is stopped. The worker that hands its
/// READY on, if there is one.
pub fn start_container(context: &Context, state: &State, ready: Ready) -> Result<Option<Worker<()>>, String> {
    let caller = notify::of_caller();
    let listener = caller.as_ref().map(|_| notify::listen(&state.dir)).transpose()?.flatten();
    let container = state.container()?.ok_or("cannot start a container that has stopped")?;
    if state.config.get("process").is_none() {
        return Err("process property must not be empty".into());
    }
    let gate = state.gate();
    let lock = state.dir.join(START_LOCK);
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&lock);
    let opened = opened.map_err(|error| format!("open {}: {}", lock.display(), plain(&error)))?;
    let locked = Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| format!("flock: {errno}"))?;
    startable(state)?;
    let started = killick_container::bundle::start(&container, &gate, Instant::now() + START_DEADLINE);
    let _ = fs::remove_file(&gate);
    drop(locked);
    if let Err(error) = started {
        return Err(match error {
            // Another start was faster.
            killick_container::LaunchError::Call(error) if error.errno() == Errno::ECONNREFUSED => {
                "cannot start an already running container".into()
            }
            error => format!("unable to start container process: {error}"),
        });
    }
    if let Err(why) = run_hooks(state, Kind::Poststart, Some(state.record.pid)) {
        let _ = container.process().send_raw_signal(libc::SIGKILL);
        if let Err(failure) = destroy(context, state) {
            context.log.warn(&failure.message);
        }
        return Err(why);
    }
    let (Some(caller), Some(listener)) = (caller, listener) else { return Ok(None) };
    let (pid, process) = (state.record.pid, container.process());
    match ready {
        Ready::Wait => notify::forward(&listener, &caller, pid, || process.is_running()).map(|()| None),
        Ready::Beside => {
            let hand_on = || notify::forward(&listener, &caller, pid, || process.is_running());
            killick_sys::spawn::worker(NOTIFY_DEADLINE, hand_on).map(Some).map_err(|error| error.to_string())
        }
    }
}

fn run_hooks(state: &State, kind: Kind, pid: Option<i32>) -> Result<(), String> {
    let spec: Spec = serde_json::from_value(state.config.clone()).map_err(|error| format!("state.json: {error}"))?;
    let told = hooks::state(killick_container::features::SPEC_VERSION, &state.id, &state.bundle, &spec);
    hooks::run(kind, &spec, &told, &environment(), &state.bundle, pid)
}

/// What fails here is logged, and no more.
pub fn poststop(context: &Context, state: &State) {
    if let Err(why) = run_hooks(state, Kind::Poststop, None) {
        context.log.warn(&why);
    }
}

fn delete(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    let id = &words[0];
    let force = parsed.has("force");
    // Of deletes at once one removes, the others find nothing any more.
    let _lock = lock(&context.root.dir(id)?)?;
    let state = match context.root.load(id) {
        Ok(state) => state,
        Err(why) => return forget(context, id, force, why),
    };
    let status = state.status()?;
    match status {
        Status::Stopped | Status::Created => {}
        Status::Creating | Status::Running | Status::Paused if force => {}
        Status::Creating | Status::Running | Status::Paused => {
            return Err(format!("cannot delete container {id} that is not stopped: {}", status.word()).into());
        }
    }
    if let Some(container) = state.container()? {
        container.process().send_raw_signal(libc::SIGKILL).map_err(|error| error.to_string())?;
    }
    destroy(context, &state)?;
    Ok(0)
}

/// Until it is dropped; None where there is nothing.
fn lock(dir: &Path) -> Result<Option<Flock<File>>, String> {
    match File::open(dir) {
        Ok(opened) => {
            let locked = Flock::lock(opened, FlockArg::LockExclusive);
            locked.map(Some).map_err(|(_, errno)| format!("flock {}: {errno}", dir.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("open {}: {}", dir.display(), plain(&error))),
    }
}

/// What has no state: the directory of a create that was aborted, or, by force, of a container whose state is damaged.
/// Its cgroup was written down before anything was in it.
fn forget(context: &Context, id: &str, force: bool, why: String) -> Done {
    let dir = context.root.dir(id)?;
    let is_aborted = dir.is_dir() && !dir.join("state.json").exists();
    if is_aborted || (dir.is_dir() && force) {
        let planned = fs::read(dir.join(PLANNED_CGROUP)).ok();
        match planned.and_then(|text| serde_json::from_slice::<Cgroup>(&text).ok()) {
            Some(cgroup) => {
                let deadline = Instant::now() + REMOVE_DEADLINE;
                let removed = cgroup.kill_all(deadline).and_then(|()| cgroup.remove(deadline));
                removed.map_err(|error| error.to_string())?;
            }
            None if is_aborted => {}
            // Nobody would find its processes any more.
            None => return Err(why.into()),
        }
        fs::remove_dir_all(&dir).map_err(|error| format!("remove {}: {error}", dir.display()))?;
    }
    if force { Ok(0) } else { Err(why.into()) }
}

/// Kills what is left and removes everything, going on past errors: the first is returned.
pub fn destroy(context: &Context, state: &State) -> Result<(), Failure> {
    let deadline = Instant::now() + REMOVE_DEADLINE;
    let mut errors = Vec::new();
    let cgroup = &state.cgroup;
    if let Err(error) = cgroup.kill_all(deadline).and_then(|()| cgroup.remove(deadline)) {
        errors.push(error.to_string());
    }
    if let Err(why) = wait_until_gone(state, deadline) {
        errors.push(why);
    }
    if let Some(Err(why)) = state.record.rdt().map(|rdt| rdt.remove()) {
        errors.push(why);
    }
    // Without its directory nobody would find what is left.
    if errors.is_empty() {
        if let Err(error) = fs::remove_dir_all(&state.dir) {
            errors.push(format!("remove {}: {error}", state.dir.display()));
        }
        poststop(context, state);
    }
    match errors.into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// A PID namespace's init leaves its cgroup first, and ends when all others of the namespace have.
fn wait_until_gone(state: &State, deadline: Instant) -> Result<(), String> {
    while let Some(container) = state.container()? {
        if Instant::now() >= deadline {
            return Err("container init still running".into());
        }
        container.process().wait_gone(Duration::from_millis(20)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn pause(context: &Context, _: &Parsed, words: &[String]) -> Done {
    let state = context.root.load(&words[0])?;
    match state.status()? {
        Status::Created | Status::Running => {}
        Status::Creating | Status::Paused | Status::Stopped => return Err("container not running".into()),
    }
    state.cgroup.freeze(Instant::now() + FREEZE_DEADLINE).map_err(|error| error.to_string())?;
    Ok(0)
}

fn resume(context: &Context, _: &Parsed, words: &[String]) -> Done {
    let state = context.root.load(&words[0])?;
    if state.status()? != Status::Paused {
        return Err("container not paused".into());
    }
    state.cgroup.thaw().map_err(|error| error.to_string())?;
    Ok(0)
}
