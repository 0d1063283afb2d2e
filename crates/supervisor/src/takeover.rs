//! A new shim finds a pod that runs: what `state.json` says is compared with what the kernel says.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use killick_pod::event::{Attempt, ContainerId};
use killick_pod::spec::Pod;
use killick_pod_dir::PodDir;
use killick_prober::Execs;
use tokio::time::sleep;

use crate::context::Context;
use crate::host::container_of;
use crate::live::{Live, LiveSandbox, netns_of};
use crate::reap::{End, recorded_exit};
use crate::start;
use crate::state::{ContainerState, SandboxState, keep_key};
use crate::watch::Farewell;

/// A child that waited at its gate ends when the shim that held the other end has ended.
const GATE_TRIES: u32 = 100;
const GATE_PAUSE: Duration = Duration::from_millis(10);

/// One container of the pod, as it was found.
#[derive(Debug)]
pub enum Found {
    /// It runs, or its zombie waits to be reaped.
    Runs(Farewell, Rc<Live>),
    /// It ran and is gone.
    Gone(Farewell, End),
    /// It never came past its gate: its start is to be done again.
    NeverRan,
}

/// The sandbox, if its pause lives.
pub fn find_sandbox(context: &Context, state: &SandboxState) -> Result<Option<LiveSandbox>, String> {
    let reopened = killick_container::sandbox::reopen(state.record.clone()).map_err(|error| error.to_string())?;
    let read = |name: &str| std::fs::read_to_string(context.host.dir.data_dir().join(name)).unwrap_or_default();
    let Some(sandbox) = reopened else { return Ok(None) };
    // Pause may die at this moment: then it is gone as well.
    let Ok(netns) = netns_of(&sandbox) else { return Ok(None) };
    Ok(Some(LiveSandbox {
        attempt: state.attempt,
        sandbox,
        netns,
        network: state.network.clone(),
        hosts: read("etc-hosts"),
        resolv_conf: read("resolv.conf"),
    }))
}

/// What keep holds, by key.
pub fn held(context: &Context) -> BTreeMap<u64, OwnedFd> {
    match context.keep.list() {
        Ok(held) => held.into_iter().collect(),
        Err(error) => {
            context.complain(&error);
            BTreeMap::new()
        }
    }
}

pub async fn find_container(
    context: &Context,
    pod: &Rc<Pod>,
    state: ContainerState,
    started: bool,
    held: &mut BTreeMap<u64, OwnedFd>,
) -> Result<Found, String> {
    let Some(container) = container_of(pod, state.attempt.container).cloned() else {
        return Err(format!("state.json has a container that the pod does not have: {:?}", state.attempt));
    };
    let outputs: Vec<OwnedFd> =
        [false, true].iter().filter_map(|stderr| held.remove(&keep_key(state.attempt, *stderr))).collect();
    let reopened = killick_container::reopen(state.record.clone()).map_err(|error| error.to_string())?;
    if let Some(process) = &reopened
        && !started
        && !has_executed(process.pid()).await
    {
        return Ok(Found::NeverRan);
    }
    if reopened.is_none() && !started {
        return Ok(Found::NeverRan);
    }
    let pump = match outputs.is_empty() {
        true => None,
        false => Some(start::pump(context, pod, &container.name, state.attempt, outputs)?),
    };
    let mut farewell = Farewell {
        attempt: state.attempt,
        cgroup: state.cgroup.clone(),
        live: None,
        pump,
        pod: Rc::clone(pod),
        container,
    };
    match reopened {
        Some(process) => {
            let live = Rc::new(Live {
                attempt: state.attempt,
                container: process,
                execs: Execs::of(&state.cgroup),
                cgroup: state.cgroup,
                stop_signal: state.stop_signal,
            });
            farewell.live = Some(Rc::clone(&live));
            Ok(Found::Runs(farewell, live))
        }
        None => {
            let code = recorded_exit(&context.host.dir, state.record.pid, state.record.start_time);
            Ok(Found::Gone(farewell, code.map_or(End::Unknown, End::Code)))
        }
    }
}

/// Whether it has come past its gate: what waits there still executes our own program.
async fn has_executed(pid: i32) -> bool {
    let exe = |pid: &str| std::fs::metadata(format!("/proc/{pid}/exe")).ok().map(|file| identity(&file));
    for _ in 0..GATE_TRIES {
        match exe(&pid.to_string()) {
            Some(theirs) if Some(theirs) == exe("self") => sleep(GATE_PAUSE).await,
            Some(_) => return true,
            None => return false,
        }
    }
    false
}

fn identity(file: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino())
}

/// The next number of each container, from the logs of a boot before.
pub fn numbers_from_logs(dir: &PodDir, pod: &Pod) -> Vec<(ContainerId, u32)> {
    let inits = pod.spec.init_containers.iter().enumerate().map(|(index, c)| (ContainerId::Init(index), c));
    let regulars = pod.spec.containers.iter().enumerate().map(|(index, c)| (ContainerId::Regular(index), c));
    let mut numbers = Vec::new();
    for (id, container) in inits.chain(regulars) {
        let entries = std::fs::read_dir(dir.log_dir(pod).join(&container.name)).into_iter().flatten().flatten();
        let highest =
            entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse::<u32>().ok()).max();
        if let Some(highest) = highest {
            numbers.push((id, highest.saturating_add(1)));
        }
    }
    numbers
}

/// Keys of nobody that is left.
pub fn drop_rest(context: &Context, held: BTreeMap<u64, OwnedFd>) {
    for key in held.into_keys() {
        let _ = context.keep.drop_key(key);
    }
}

/// For a message about one container.
pub fn describe(attempt: Attempt) -> String {
    format!("{:?} attempt {}", attempt.container, attempt.number)
}
