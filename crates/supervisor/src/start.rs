//! A container's start: image, variables, mounts, configuration, birth, gate, execve. Answers `Start`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use killick_container::cgroup::Cgroup;
use killick_container::seccomp::cache::compile_cached;
use killick_container::{CreateRequest, Join, LaunchError, PidMode, Progress, Ptrace, Rootfs, Stdio};
use killick_image::{Image, Store};
use killick_pod::env::{Sources, resolve_env};
use killick_pod::event::{Attempt, StartFailure};
use killick_pod::expand::command_line;
use killick_pod::spec::{Container, DataKind, ImagePullPolicy, MountPropagation, Pod, SecurityContext};
use killick_pod_dir::objects::ObjectStore;
use killick_prober::Execs;
use killick_sys::fd::pipe;
use killick_sys::spawn::{set_undumpable, worker_with_fds};
use killick_volume::{Prepared, RecursiveReadOnly};
use serde::{Deserialize, Serialize};

use crate::births::Birth;
use crate::container_config::{self, Bind, SandboxView};
use crate::context::{Context, complain};
use crate::last_words;
use crate::live::{Live, LiveSandbox, pod_ip};
use crate::log_pump::{self, LogPump, PumpHandle};
use crate::message::Message;
use crate::reap::{empty_cgroup, remove_cgroup};
use crate::state::{ContainerState, keep_key, remove_container, write_container};
use crate::wait::finish;
use crate::watch::{self, Farewell};

/// Finding the image, the variables and the mounts: disk work, done in a worker.
const PREPARE_DEADLINE: Duration = Duration::from_secs(120);
/// `exitCode` of a container that the runtime could not start, as containerd reports it.
const START_ERROR_CODE: i32 = 128;

/// What a start needs besides the context.
#[derive(Debug)]
pub struct Start {
    pub attempt: Attempt,
    pub pod: Rc<Pod>,
    pub container: Container,
    pub sandbox: Rc<LiveSandbox>,
    pub volumes: Vec<Prepared>,
}

/// What the worker found; its descriptors are the sources of `mounts`, in order.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    image: Image,
    env: Vec<(String, String)>,
    mounts: Vec<FoundMount>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FoundMount {
    destination: PathBuf,
    read_only: bool,
    recursive_read_only: bool,
    propagation: MountPropagation,
}

pub async fn start(context: Rc<Context>, request: Start) {
    let attempt = request.attempt;
    if let Err(failure) = try_start(&context, &request).await {
        if let Err(error) = clean_up(&context, &request.container.name, attempt).await {
            context.complain(&error);
        }
        context.tell(Message::StartFailed { attempt, failure }).await;
    }
}

pub fn cgroup_path(context: &Context, container: &str) -> PathBuf {
    context.host.pod_cgroup().join(container)
}

/// Takes away what an earlier try of this container left: processes and cgroup. Its directory goes with the next try.
pub async fn clean_up(context: &Context, container: &str, attempt: Attempt) -> Result<(), String> {
    for stderr in [false, true] {
        let _ = context.keep.drop_key(keep_key(attempt, stderr));
    }
    let cgroup =
        Cgroup::open(&context.host.layout, cgroup_path(context, container)).map_err(|error| error.to_string())?;
    empty_cgroup(&cgroup).await?;
    remove_container(&context.host.dir, attempt.container);
    remove_cgroup(&cgroup).await
}

async fn try_start(context: &Rc<Context>, request: &Start) -> Result<(), StartFailure> {
    let Start { attempt, pod, container, sandbox, .. } = request;
    let create_failed = |message: String| StartFailure::CreateContainer { message };
    clean_up(context, &container.name, *attempt).await.map_err(create_failed)?;
    let (found, sources) = find(context, request).await?;
    let Found { image, env, mounts } = found;

    let args = command_line(container, &image.config.entrypoint, &image.config.cmd, &env);
    let hostname = killick_network::files::hostname(pod, &context.host.node.name);
    let pod_cgroup = context.host.pod_cgroup();
    let config = container_config::config(&container_config::Request {
        pod,
        container,
        image: &image.config,
        sandbox: SandboxView { hostname: &hostname, cgroup: &pod_cgroup },
        node: &context.node_view,
        args,
        env,
        binds: binds(context, request, &mounts, &sources),
    })
    .map_err(|message| StartFailure::CreateContainerConfig { message })?;

    let linux = config.spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let cgroup = Cgroup::create(&context.host.layout, cgroup_path(context, &container.name), &resources)
        .map_err(|error| create_failed(error.to_string()))?;

    let seccomp = match linux.and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => {
            Some(compile_cached(&context.host.roots.seccomp_cache(), profile, &context.host.seccomp).map_err(
                |error| create_failed(format!("seccomp profile of container {:?}: {error}", container.name)),
            )?)
        }
        None => None,
    };
    let (stdio, mut outputs) = streams(container).map_err(create_failed)?;
    let container_dir = context.host.dir.container_dir(&container.name, attempt.number);
    let read_only = config.spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true));
    let runtime_id = runtime_id();
    set_undumpable().map_err(|error| create_failed(error.to_string()))?;
    let launch_failed = |error: LaunchError| run_failure(&error);
    let mut created = killick_container::create(
        &context.host.facts,
        CreateRequest {
            id: runtime_id.clone(),
            spec: &config.spec,
            rootfs: Rootfs::layers(image.layers.clone(), &container_dir, read_only),
            join: Join::sandbox(&sandbox.sandbox, pid_mode(pod), ptrace(pod, container)),
            cgroup: Some(&cgroup),
            seccomp,
            stdio,
            user: config.user.clone(),
            sources: mounts.iter().map(|mount| mount.destination.clone()).zip(sources).collect(),
        },
    )
    .map_err(launch_failed)?;
    let birth = Birth::watch(created.channel()).map_err(launch_failed)?;
    birth.reaches(Progress::AtGate, || created.progress()).await.map_err(launch_failed)?;
    for warning in created.warnings() {
        context.complain(&format!("container {:?}: {warning}", container.name));
    }
    if let Some(master) = created.take_terminal() {
        outputs = vec![master];
    }
    for (fd, stderr) in outputs.iter().zip([false, true]) {
        if let Err(error) = context.keep.put(keep_key(*attempt, stderr), fd.as_fd()) {
            context.complain(&error);
        }
    }
    let pump = pump(context, pod, &container.name, *attempt, outputs).map_err(create_failed)?;

    let stop_signal = stop_signal(&image.config.stop_signal);
    let record = created.record().ok_or_else(|| run_failure(&LaunchError::NotRunning))?;
    let state = ContainerState {
        attempt: *attempt,
        record,
        cgroup: cgroup.clone(),
        image_id: image.id.clone(),
        stop_signal,
        terminal: container.tty,
    };
    write_container(&context.host.dir, &state).map_err(create_failed)?;

    let ran = match created.start() {
        Ok(()) => birth.reaches(Progress::Running, || created.progress()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ran {
        drop(created);
        pump.finish_within(Duration::ZERO).await;
        return Err(run_failure(&error));
    }
    let born = created.into_container().map_err(launch_failed)?;
    let live = Rc::new(Live { attempt: *attempt, container: born, execs: Execs::of(&cgroup), cgroup, stop_signal });
    context.tell(Message::Started { live: Rc::clone(&live), image_id: image.id }).await;
    let farewell = Farewell {
        attempt: *attempt,
        cgroup: live.cgroup.clone(),
        live: Some(Rc::clone(&live)),
        pump: Some(pump),
        pod: Rc::clone(pod),
        container: container.clone(),
    };
    tokio::task::spawn_local(watch::watch(Rc::clone(context), farewell, live));
    Ok(())
}

/// kubelet shows containerd's words; the status is always `StartError`, 128.
fn run_failure(error: &LaunchError) -> StartFailure {
    let message = format!(
        "failed to create containerd task: failed to create shim task: OCI runtime create failed: killick create \
         failed: unable to start container process: {error}: unknown"
    );
    StartFailure::Run { message, exit_code: START_ERROR_CODE }
}

async fn find(context: &Context, request: &Start) -> Result<(Found, Vec<OwnedFd>), StartFailure> {
    let (pod, container) = (Rc::clone(&request.pod), request.container.clone());
    let (roots, dir) = (context.host.roots.clone(), context.host.dir.clone());
    let (node, cpus) = (context.host.node.clone(), context.host.cpus);
    let ip = pod_ip(&request.sandbox, node.ip);
    let (attempt, volumes) = (request.attempt, request.volumes.clone());
    let mut worker = worker_with_fds(PREPARE_DEADLINE, move || {
        let image = match find_image(&roots.images(), &container) {
            Ok(image) => image,
            Err(failure) => return Ok((Err(failure), Vec::new())),
        };
        let objects = ObjectStore::new(&roots);
        let lookup = |kind: DataKind, namespace: &str, name: &str| objects.get(kind, namespace, name).ok().flatten();
        let sources = Sources { pod: &pod, objects: &lookup, node: &node, node_cpus: cpus, pod_ip: ip };
        let ready = resolve_env(&container, &sources)
            .and_then(|env| killick_volume::mounts(&container, &volumes, &env).map(|mounts| (env, mounts)));
        let (env, mounts) = match ready {
            Ok(ready) => ready,
            Err(message) => return Ok((Err(StartFailure::CreateContainerConfig { message }), Vec::new())),
        };
        make_directory(&dir.container_dir(&container.name, attempt.number))?;
        let mut found = Found { image, env, mounts: Vec::new() };
        let mut fds = Vec::new();
        for mount in mounts {
            found.mounts.push(FoundMount {
                destination: mount.destination,
                read_only: mount.read_only,
                recursive_read_only: mount.recursive_read_only != RecursiveReadOnly::Disabled,
                propagation: mount.propagation,
            });
            fds.push(mount.source);
        }
        Ok((Ok(found), fds))
    })
    .map_err(|error| StartFailure::CreateContainer { message: error.to_string() })?;
    match finish::<Result<Found, StartFailure>>(&mut worker).await {
        Ok(Ok(found)) => Ok((found, worker.take_fds())),
        Ok(Err(failure)) => Err(failure),
        Err(message) => Err(StartFailure::CreateContainer { message }),
    }
}

fn find_image(store: &Path, container: &Container) -> Result<Image, StartFailure> {
    let name = &container.image;
    let found = Store::open(store).and_then(|store| store.resolve(name));
    match found {
        Ok(Some(image)) => Ok(image),
        Ok(None) if container.image_pull_policy == ImagePullPolicy::Never => Err(StartFailure::ImageNeverPull),
        Ok(None) => Err(StartFailure::ImagePull {
            message: format!(
                "image \"{name}\" is not on this machine, and no registry is asked; bring it with: killick image \
                 import FILE"
            ),
        }),
        Err(error @ killick_image::Error::Reference(_)) => {
            Err(StartFailure::InvalidImageName { message: error.to_string() })
        }
        Err(error) => Err(StartFailure::CreateContainer { message: error.to_string() }),
    }
}

/// A fresh directory for this attempt; those of earlier attempts go (their containers are dead and their words read).
fn make_directory(dir: &Path) -> Result<(), String> {
    if let Some(parent) = dir.parent() {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            for error in killick_sys::tree::remove(&entry.path()) {
                complain(&error);
            }
        }
    }
    let describe = |error: std::io::Error| format!("create {}: {error}", dir.display());
    std::fs::create_dir_all(dir).map_err(describe)?;
    last_words::create(dir).map_err(describe)?;
    Ok(())
}

/// The volumes' mounts and the files that kubelet manages, unless the container mounts something there itself.
fn binds(context: &Context, request: &Start, mounts: &[FoundMount], sources: &[OwnedFd]) -> Vec<Bind> {
    use std::os::fd::AsRawFd;
    let (dir, container) = (&context.host.dir, &request.container);
    let words = dir.container_dir(&container.name, request.attempt.number).join("termination-log");
    let managed = [
        (dir.data_dir().join("etc-hosts"), "/etc/hosts"),
        (dir.data_dir().join("hostname"), "/etc/hostname"),
        (dir.data_dir().join("resolv.conf"), "/etc/resolv.conf"),
        (words, container.termination_message_path.as_str()),
    ];
    let mut binds: Vec<Bind> = mounts
        .iter()
        .zip(sources)
        .map(|(mount, source)| Bind {
            source: PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd())),
            destination: mount.destination.clone(),
            read_only: mount.read_only,
            recursive_read_only: mount.recursive_read_only,
            propagation: mount.propagation,
        })
        .collect();
    for (source, destination) in managed {
        let destination = PathBuf::from(destination);
        if destination.as_os_str().is_empty() || binds.iter().any(|bind| bind.destination == destination) {
            continue;
        }
        binds.push(Bind {
            source,
            destination,
            read_only: false,
            recursive_read_only: false,
            propagation: MountPropagation::None,
        });
    }
    binds
}

fn pid_mode(pod: &Pod) -> PidMode {
    match (pod.spec.host_pid, pod.spec.shares_pid()) {
        (true, _) => PidMode::Host,
        (false, true) => PidMode::Sandbox,
        (false, false) => PidMode::Own,
    }
}

/// Whether a process that sees the container's first one may trace it.
fn ptrace(pod: &Pod, container: &Container) -> Ptrace {
    let mut seen_by: Vec<&Container> = vec![container];
    if pod.spec.shares_pid() || pod.spec.host_pid {
        seen_by.extend(pod.spec.containers.iter().chain(&pod.spec.init_containers));
    }
    match seen_by.iter().any(|container| may_trace(&container.security_context)) {
        true => Ptrace::Possible,
        false => Ptrace::Impossible,
    }
}

fn may_trace(security: &SecurityContext) -> bool {
    let added = security.capabilities.iter().flat_map(|capabilities| &capabilities.add);
    let names = ["ALL", "SYS_PTRACE", "CAP_SYS_PTRACE"];
    security.privileged == Some(true) || added.into_iter().any(|name| names.contains(&name.to_uppercase().as_str()))
}

/// The streams of the container, and our read ends: stdout, stderr.
fn streams(container: &Container) -> Result<(Stdio, Vec<OwnedFd>), String> {
    if container.tty {
        return Ok((Stdio::Terminal { rows: 0, columns: 0 }, Vec::new()));
    }
    let (stdout_read, stdout) = pipe().map_err(|error| error.to_string())?;
    let (stderr_read, stderr) = pipe().map_err(|error| error.to_string())?;
    let stdin = if container.stdin { silent_pipe()? } else { crate::execs::null()? };
    Ok((Stdio::Streams { stdin, stdout, stderr }, vec![stdout_read, stderr_read]))
}

/// A stdin that nobody writes to and that never ends: the container holds both of its ends.
fn silent_pipe() -> Result<OwnedFd, String> {
    use std::os::fd::AsRawFd;
    let (read, _write) = pipe().map_err(|error| error.to_string())?;
    let path = format!("/proc/self/fd/{}", read.as_raw_fd());
    let both = std::fs::OpenOptions::new().read(true).write(true).open(&path);
    both.map(OwnedFd::from).map_err(|error| format!("open {path} for stdin: {error}"))
}

/// The pump of an attempt's output, from the start or after a take-over.
pub fn pump(
    context: &Context,
    pod: &Pod,
    container: &str,
    attempt: Attempt,
    outputs: Vec<OwnedFd>,
) -> Result<PumpHandle, String> {
    let dir = &context.host.dir;
    let pending = pending_path(context, container, attempt);
    let mut outputs = outputs.into_iter();
    let Some(stdout) = outputs.next() else { return Err(format!("container {container:?} has no output")) };
    let log = dir.log_dir(pod).join(container);
    LogPump::new(&log, attempt.number, &pending, stdout, outputs.next())
        .map(log_pump::spawn)
        .map_err(|error| format!("log of container {container:?} in {}: {error}", log.display()))
}

/// The pump's note of the write that is under way.
pub fn pending_path(context: &Context, container: &str, attempt: Attempt) -> PathBuf {
    context.host.dir.run_dir().join(format!("log-{container}-{}", attempt.number))
}

/// 64 hexadecimal digits, as containerd names containers.
fn runtime_id() -> String {
    let mut bytes = [0u8; 32];
    let read =
        std::fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    debug_assert!(read.is_ok(), "/dev/urandom always answers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The image's STOPSIGNAL: a name or a number; SIGTERM otherwise.
fn stop_signal(text: &str) -> i32 {
    let name = text.trim().to_uppercase();
    if let Ok(number) = name.parse::<i32>()
        && (1..=64).contains(&number)
    {
        return number;
    }
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    for (base, offset) in [("SIGRTMIN", 1), ("SIGRTMAX", -1)] {
        let first = if offset > 0 { 34 } else { 64 };
        if let Some(rest) = name.strip_prefix(base) {
            let distance = rest.trim_start_matches(['+', '-']).parse::<i32>().unwrap_or(0);
            return (first + offset * distance).clamp(34, 64);
        }
    }
    name.parse::<nix::sys::signal::Signal>().map_or(15, |signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_stop_signal_is_a_name_or_a_number() {
        for (text, number) in [
            ("", 15),
            ("SIGQUIT", 3),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGNONSENSE", 15),
            ("0", 15),
            ("65", 15),
        ] {
            assert_eq!(stop_signal(text), number, "{text:?}");
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        for container in spec["containers"].as_array_mut().unwrap() {
            for (key, value) in [("name", "a"), ("image", "i"), ("imagePullPolicy", "Never")] {
                container[key] = value.into();
            }
            container["terminationMessagePath"] = "/dev/termination-log".into();
            container["terminationMessagePolicy"] = "File".into();
        }
        spec["restartPolicy"] = "Always".into();
        spec["terminationGracePeriodSeconds"] = 30.into();
        spec["dnsPolicy"] = "Default".into();
        let metadata = serde_json::json!({"name": "p", "namespace": "default"});
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn who_may_be_traced_is_decided_by_everybody_who_sees_it() {
        use serde_json::json;
        let tracer = json!({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}});
        let privileged = json!({"securityContext": {"privileged": true}});
        for (spec, possible) in [
            (json!({"containers": [{}, {}]}), false),
            (json!({"containers": [{}, tracer]}), true),
            (json!({"containers": [{}, privileged]}), true),
            (json!({"containers": [{}, tracer], "shareProcessNamespace": false}), false),
            (json!({"containers": [tracer, {}], "shareProcessNamespace": false}), true),
        ] {
            let pod = pod(spec);
            let found = ptrace(&pod, &pod.spec.containers[0]);
            assert_eq!(found == Ptrace::Possible, possible, "{:?}", pod.spec.containers);
        }
    }

    #[test]
    fn the_pid_namespace_is_the_pods_unless_the_manifest_says_otherwise() {
        use serde_json::json;
        for (more, mode) in [
            (json!({"containers": [{}]}), PidMode::Sandbox),
            (json!({"containers": [{}], "shareProcessNamespace": false}), PidMode::Own),
            (json!({"containers": [{}], "hostPID": true}), PidMode::Host),
        ] {
            assert_eq!(pid_mode(&pod(more)), mode);
        }
    }
}
