//! The pod's sandbox: pause in its cgroup, the pod's network, and the files that all its containers see.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use killick_container::cgroup::Cgroup;
use killick_container::sandbox::{self, Sandbox, SandboxRequest};
use killick_container::{LaunchError, Progress};
use killick_network::{PodNetwork, files};
use killick_pod::event::{Event, Record};
use killick_pod::spec::{Pod, PodSecurityContext};
use killick_sys::spawn::worker;
use nix::sys::signal::Signal;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::births::Birth;
use crate::container_config::pod_resources;
use crate::context::Context;
use crate::live::{LiveSandbox, netns_of};
use crate::message::Message;
use crate::reap::{self, empty_cgroup, remove_cgroup};
use crate::state::SandboxState;
use crate::wait::finish;

const NETWORK_DEADLINE: Duration = Duration::from_secs(60);
const FILES_DEADLINE: Duration = Duration::from_secs(30);

/// Answers `CreateSandbox`. What an earlier try left is taken away first; a failure undoes everything.
pub async fn create(context: Rc<Context>, pod: Pod, attempt: u32) {
    let message = match make(&context, &pod, attempt).await {
        Ok(sandbox) => Message::SandboxMade { sandbox: Rc::new(sandbox) },
        Err(message) => {
            for error in take_down(&context, None, None).await {
                context.complain(&error);
            }
            Message::Event(Event::SandboxFailed { attempt, message })
        }
    };
    context.tell(message).await;
}

async fn make(context: &Context, pod: &Pod, attempt: u32) -> Result<LiveSandbox, String> {
    let host = &context.host;
    for error in take_down(context, None, None).await {
        context.complain(&error);
    }
    let resources = pod_resources(pod)?;
    Cgroup::create(&host.layout, host.pod_cgroup(), &resources).map_err(|error| error.to_string())?;
    let cgroup = Cgroup::create(&host.layout, pause_cgroup(context), &LinuxResources::default())
        .map_err(|error| error.to_string())?;
    let hostname = files::hostname(pod, &host.node.name);
    let mut birth = sandbox::create(
        &host.facts,
        SandboxRequest {
            pause: context.pause,
            args: vec!["pause".to_owned(), "pause".to_owned()],
            hostname: hostname.clone(),
            host_network: pod.spec.host_network,
            host_ipc: pod.spec.host_ipc,
            host_pid: pod.spec.host_pid,
            joined: Vec::new(),
            oom_score_adj: sandbox::PAUSE_OOM_SCORE_ADJ,
            sysctls: sysctls(&pod.spec.security_context),
            shm_bytes: sandbox::SHM_BYTES,
            cgroup: Some(&cgroup),
            // pause loads a filter of its own: none but the calls that it makes.
            seccomp: None,
            dir: host.dir.run_dir(),
        },
    )
    .map_err(failed)?;
    Birth::watch(birth.channel())
        .map_err(failed)?
        .reaches(Progress::Running, || birth.progress())
        .await
        .map_err(failed)?;
    let sandbox = birth.into_sandbox().map_err(failed)?;
    match furnish(context, pod, &sandbox).await {
        Ok((netns, network, files)) => {
            let PodFiles { hosts, resolv_conf, .. } = files;
            Ok(LiveSandbox { attempt, sandbox, netns, network, hosts, resolv_conf })
        }
        Err(error) => {
            let _ = sandbox.process().send_signal(Signal::SIGKILL);
            reap::wait_for_end(sandbox.process()).await;
            Err(error)
        }
    }
}

/// Pause runs: now its network, and the files that tell of it.
async fn furnish(
    context: &Context,
    pod: &Pod,
    sandbox: &Sandbox,
) -> Result<(Option<OwnedFd>, Option<PodNetwork>, PodFiles), String> {
    let network = match pod.spec.host_network {
        true => None,
        false => Some(set_up_network(context, sandbox).await?),
    };
    for warning in network.iter().flat_map(|network| &network.warnings) {
        context.note(warn("NetworkLimited", warning)).await;
    }
    let ips: Vec<_> = network.iter().map(|network| network.ip).collect();
    let files = write_files(context, pod, &ips).await?;
    for message in &files.cut {
        context.note(warn("DNSConfigForming", message)).await;
    }
    Ok((netns_of(sandbox)?, network, files))
}

fn failed(error: LaunchError) -> String {
    error.to_string()
}

fn warn(reason: &str, message: &str) -> Record {
    Record {
        warning: true,
        reason: reason.to_owned(),
        message: message.to_owned(),
        field_path: String::new(),
        component: "kubelet".to_owned(),
    }
}

fn sysctls(security: &PodSecurityContext) -> Vec<(String, String)> {
    security.sysctls.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect()
}

pub fn pause_cgroup(context: &Context) -> PathBuf {
    context.host.pod_cgroup().join("pause")
}

async fn set_up_network(context: &Context, sandbox: &Sandbox) -> Result<PodNetwork, String> {
    let netns = sandbox.network_namespace().map_err(failed)?;
    let (uid, settings) = (context.host.dir.uid().to_owned(), context.host.network.clone());
    let mut worker = worker(NETWORK_DEADLINE, move || killick_network::setup(&uid, netns.as_fd(), &settings))
        .map_err(|error| error.to_string())?;
    finish(&mut worker).await
}

/// The files that the kubelet manages for all containers of a pod.
#[derive(Debug, Serialize, Deserialize)]
pub struct PodFiles {
    pub hosts: String,
    pub resolv_conf: String,
    /// What did not fit in resolv.conf, in kubelet's words.
    pub cut: Vec<String>,
}

/// Writes `etc-hosts`, `resolv.conf` and `hostname` into the pod's directory.
pub async fn write_files(context: &Context, pod: &Pod, ips: &[std::net::IpAddr]) -> Result<PodFiles, String> {
    let (pod, ips) = (pod.clone(), ips.to_vec());
    let (dir, node) = (context.host.dir.data_dir(), context.host.node.name.clone());
    let mut worker = worker(FILES_DEADLINE, move || {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let hosts = files::hosts(&pod, &ips, &read("/etc/hosts"));
        let resolv = files::resolv_conf(&pod, &read("/etc/resolv.conf"));
        write(&dir, "etc-hosts", &hosts)?;
        write(&dir, "resolv.conf", &resolv.text)?;
        write(&dir, "hostname", &format!("{}\n", files::hostname(&pod, &node)))?;
        Ok(PodFiles { hosts, resolv_conf: resolv.text, cut: resolv.cut })
    })
    .map_err(|error| error.to_string())?;
    finish(&mut worker).await
}

/// In place: a container that has the file mounted sees the new text.
fn write(dir: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = dir.join(name);
    let describe = |error: std::io::Error| format!("write {}: {error}", path.display());
    std::fs::write(&path, text).map_err(describe)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).map_err(describe)
}

/// Answers `StopSandbox`.
pub async fn stop(context: Rc<Context>, sandbox: Option<Rc<LiveSandbox>>, state: Option<SandboxState>, attempt: u32) {
    for error in take_down(&context, sandbox.as_deref(), state.as_ref()).await {
        context.complain(&error);
    }
    context.tell(Message::SandboxStopped { attempt }).await;
}

/// Pause, the network and pause's cgroup go; every step is tried, the errors are returned together.
pub async fn take_down(context: &Context, sandbox: Option<&LiveSandbox>, state: Option<&SandboxState>) -> Vec<String> {
    let mut errors = Vec::new();
    if let Some(live) = sandbox {
        if let Err(error) = live.sandbox.process().send_signal(Signal::SIGKILL) {
            errors.push(error.to_string());
        }
        reap::wait_for_end(live.sandbox.process()).await;
    }
    if let Some(state) = state
        && let Err(error) = state.record.unmount()
    {
        errors.push(error.to_string());
    }
    match Cgroup::open(&context.host.layout, pause_cgroup(context)) {
        Ok(cgroup) => {
            errors.extend(empty_cgroup(&cgroup).await.err());
            errors.extend(remove_cgroup(&cgroup).await.err());
        }
        Err(error) => errors.push(error.to_string()),
    }
    let (uid, settings) = (context.host.dir.uid().to_owned(), context.host.network.clone());
    let torn_down = worker(NETWORK_DEADLINE, move || Ok(killick_network::teardown(&uid, &settings)));
    match torn_down {
        Ok(mut worker) => match finish(&mut worker).await {
            Ok(mut failed) => errors.append(&mut failed),
            Err(error) => errors.push(error),
        },
        Err(error) => errors.push(error.to_string()),
    }
    errors
}

/// Says when pause has died.
pub async fn watch(context: Rc<Context>, sandbox: Rc<LiveSandbox>) {
    crate::wait::ended(sandbox.sandbox.process()).await;
    // Nobody else reaps it.
    let _ = sandbox.sandbox.process().wait();
    context.tell(Message::SandboxEnded { attempt: sandbox.attempt }).await;
}
