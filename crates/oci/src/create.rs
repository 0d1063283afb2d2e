//! create and run: a bundle becomes a container that waits at its gate, with everything undone when a part of it fails.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::driver;
use crate::foreground::Foreground;
use crate::lifecycle::{self, Ready};
use crate::notify;
use crate::state::{New, State, check_id};
use crate::stdio::{self, Passed};
use crate::{Context, Done, Failure};
use killick_container::bundle::{self as birth, BundleBirth, BundleRequest};
use killick_container::cgroup::{Cgroup, Newborn, UnitStart};
use killick_container::config::{Bundle, has_own_pid_namespace};
use killick_container::hooks::{self, Kind};
use killick_container::seccomp::cache::filter_of;
use killick_container::{Container, Stdio};
use killick_sys::facts::Facts;
use killick_sys::launch::gate_listen;
use oci_spec::runtime::Spec;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BUNDLE: Flag = Flag::value(&["bundle", "b"], "DIR", "the bundle (default: the working directory)");
const CONFIG: Flag = Flag::value(&["config", "f"], "FILE", "a configuration elsewhere than in the bundle");
const CONSOLE: Flag = Flag::value(&["console-socket"], "PATH", "a socket that receives the terminal's master");
const PIDFD: Flag = Flag::value(&["pidfd-socket"], "PATH", "a socket that receives the first process's pidfd");
const PID_FILE: Flag = Flag::value(&["pid-file"], "FILE", "where the first process's pid is written");
const NO_PIVOT: Flag = Flag::switch(&["no-pivot"], "move the root over the host's instead of changing places with it");
const NO_KEYRING: Flag = Flag::switch(&["no-new-keyring"], "keep the caller's session keyring");
const PRESERVE: Flag = Flag::value(&["preserve-fds"], "N", "so many descriptors from 3 on are passed on");
const DETACH: Flag = Flag::switch(&["detach", "d"], "do not wait for its end");
const KEEP: Flag = Flag::switch(&["keep"], "do not delete it at its end");
const NO_SUBREAPER: Flag = Flag::switch(&["no-subreaper"], "accepted: we never become a subreaper");

const CREATE: &[Flag] = &[BUNDLE, CONFIG, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE, NO_SUBREAPER, HELP];
const RUN: &[Flag] =
    &[BUNDLE, CONFIG, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE, DETACH, KEEP, NO_SUBREAPER, HELP];

pub fn commands() -> [Command; 2] {
    let both =
        |name, about, flags, run| Command { name, usage: "<id>", positional: (1, 1), about, flags, stops: false, run };
    [
        both("create", "make a container that waits for start", CREATE, create),
        both("run", "create and start a container", RUN, run),
    ]
}

fn create(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    let made = make(context, parsed, &words[0], true).map_err(|why| context.failed("create", why))?;
    drop(made);
    Ok(0)
}

impl Context {
    /// In runc's grammar.
    pub fn failed(&self, command: &str, why: String) -> Failure {
        format!("{} {command} failed: {why}", self.program).into()
    }
}

fn run(context: &Context, parsed: &Parsed, words: &[String]) -> Done {
    let id = &words[0];
    let detach = parsed.has("detach");
    let foreground = if detach { None } else { Some(Foreground::prepare()?) };
    let made = make(context, parsed, id, detach).map_err(|why| context.failed("run", why))?;
    let Made { state, container, terminal } = made;
    let started = lifecycle::start_container(context, &state, if detach { Ready::Wait } else { Ready::Beside });
    let notifier = match started {
        Ok(notifier) => notifier,
        Err(why) => {
            let _ = lifecycle::destroy(context, &state);
            let _ = container.process().wait();
            return Err(context.failed("run", why));
        }
    };
    let Some(foreground) = foreground else { return Ok(0) };
    let exit = foreground.attend(container.process(), terminal)?;
    drop(notifier);
    if !parsed.has("keep") {
        lifecycle::destroy(context, &state)?;
    }
    Ok(u8::try_from(exit.code()).unwrap_or(255))
}

/// A container at its gate.
#[derive(Debug)]
struct Made {
    state: State,
    container: Container,
    /// When nobody else gets it.
    terminal: Option<OwnedFd>,
}

/// What goes when a part of the making fails. The first process goes with its birth.
struct Undo<'a> {
    context: &'a Context,
    dir: Option<PathBuf>,
    cgroup: Option<Cgroup>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let deadline = Instant::now() + lifecycle::REMOVE_DEADLINE;
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.kill_all(deadline).and_then(|()| cgroup.remove(deadline))
        {
            self.context.log.warn(&error.to_string());
        }
        if let Some(dir) = self.dir.take()
            && let Err(error) = fs::remove_dir_all(&dir)
        {
            self.context.log.warn(&format!("remove {}: {error}", dir.display()));
        }
    }
}

fn make(context: &Context, parsed: &Parsed, id: &str, detach: bool) -> Result<Made, String> {
    check_id(id)?;
    let Bundle { path: bundle, rootfs, config, mut spec, warnings } =
        Bundle::read(parsed.one("bundle").unwrap_or("."), parsed.one("config"))?;
    warnings.iter().for_each(|warning| context.log.warn(warning));
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    let console = parsed.one("console-socket");
    stdio::check_terminal(terminal, console, detach)?;
    let passed = stdio::passed(parsed.number("preserve-fds")?)?;
    let seccomp = filter_of(&context.root.path.join(SECCOMP_CACHE), &spec).map_err(|error| error.to_string())?;

    let dir = context.root.make(id)?;
    let mut undo = Undo { context, dir: Some(dir.clone()), cgroup: None };
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let annotations = spec.annotations().clone().unwrap_or_default();
    let mut unit_start = UnitStart {
        pid: None,
        description: format!("killick container {id}"),
        resources: &resources,
        annotations: &annotations,
    };
    let mut cgroup = driver::make(context, &spec, id, &dir, &unit_start)?;
    undo.cgroup = Some(cgroup.clone());
    let gate = gate_listen(&dir.join("start.sock")).map_err(|error| error.to_string())?;
    let hook_state = hooks::state(killick_container::features::SPEC_VERSION, id, &bundle, &spec);
    let stdio = if terminal { terminal_of(&spec) } else { stdio::inherit()? };
    let Passed { numbers, mut env } = passed;
    if notify::of_caller().is_some() {
        env.push(notify::prepare(&dir, &mut spec)?);
    }
    let request = BundleRequest {
        id: id.to_owned(),
        bundle: &bundle,
        spec: &spec,
        cgroup: &cgroup,
        seccomp,
        stdio,
        inherited: numbers,
        env,
        keyring: keyring(parsed.has("no-new-keyring"), id),
        no_pivot: parsed.has("no-pivot"),
        gate: Some(gate),
        state: &hook_state,
    };
    let start = |why: String| format!("unable to start container process: {why}");
    let mut born = birth::create(&Facts::detect(), request).map_err(|error| start(error.to_string()))?;
    if let Some(pid) = born.unplaced() {
        unit_start.pid = Some(pid);
        match driver::start_unit(context, &mut cgroup, &unit_start) {
            Ok(()) => undo.cgroup = Some(cgroup.clone()),
            Err(driver::Failed::Foreign(why)) => {
                undo.cgroup = None;
                return Err(start(why));
            }
            Err(driver::Failed::Ours(why)) => return Err(start(why)),
        }
        born.placed().map_err(|error| start(error.to_string()))?;
    }
    let record = born.record().ok_or_else(|| start("it has no process".into()))?;
    let private_pid = has_own_pid_namespace(&spec);
    let new = New { dir, bundle: bundle.clone(), rootfs, record, cgroup, private_pid, config };
    let mut state = State::new(id, new);
    state.write()?;
    let at_gate = born.at_gate(|pid| runtime_hooks(&spec, &hook_state, &bundle, pid));
    born.warnings().iter().for_each(|warning| context.log.warn(warning));
    if let Err(error) = at_gate {
        let why = state.cgroup.explain(&error, None, Newborn::First);
        drop(born);
        drop(undo);
        lifecycle::poststop(context, &state);
        return Err(start(why));
    }
    // Where it was prepared from outside its PID namespace, another process is the first one now.
    state.record = born.record().ok_or_else(|| start("it has no process".into()))?;
    let terminal = finish(&mut born, console, parsed.one("pid-file"))?;
    if let (Some(socket), Some(process)) = (parsed.one("pidfd-socket"), born.process()) {
        stdio::send_pidfd(socket, "standard", process)?;
    }
    state.creating = false;
    state.no_new_keyring = parsed.has("no-new-keyring");
    state.write()?;
    let container = born.into_container().map_err(|error| start(error.to_string()))?;
    undo.dir = None;
    undo.cgroup = None;
    Ok(Made { state, container, terminal })
}

/// Everything that a caller waits for. The terminal, when nobody else gets it.
fn finish(born: &mut BundleBirth, console: Option<&str>, pid_file: Option<&str>) -> Result<Option<OwnedFd>, String> {
    let mut terminal = born.take_terminal();
    if let (Some(socket), Some(master)) = (console, terminal.take_if(|_| console.is_some())) {
        stdio::send_console(socket, master)?;
    }
    if let (Some(path), Some(process)) = (pid_file, born.process()) {
        stdio::write_pid_file(path, process.pid())?;
    }
    Ok(terminal)
}

/// runc's name for it.
pub fn keyring(keep: bool, id: &str) -> Option<String> {
    (!keep).then(|| format!("_ses.{id}"))
}

fn runtime_hooks(
    spec: &Spec,
    state: &serde_json::Map<String, serde_json::Value>,
    bundle: &Path,
    pid: i32,
) -> Result<(), String> {
    let run = |kind| hooks::run(kind, spec, state, &environment(), bundle, Some(pid));
    run(Kind::Prestart)?;
    run(Kind::CreateRuntime)
}

/// Our own, for hooks that name none.
pub fn environment() -> Vec<String> {
    std::env::vars_os().map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy())).collect()
}

fn terminal_of(spec: &Spec) -> Stdio {
    let size = spec.process().as_ref().and_then(|process| process.console_size());
    let small = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    match size {
        Some(size) => Stdio::Terminal { rows: small(size.height()), columns: small(size.width()) },
        None => Stdio::Terminal { rows: 0, columns: 0 },
    }
}

/// Beside the states, where no id can be: a profile is compiled once for each boot.
const SECCOMP_CACHE: &str = ".seccomp";

/// How long a start may take: startContainer hooks are part of it.
pub const START_DEADLINE: Duration = Duration::from_secs(600);
