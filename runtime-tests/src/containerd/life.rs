//! Containers and pods as ctr and kubelet drive them.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use super::cri::CreateContainerRequest;
use super::cri::{
    CONTAINER, ContainerConfig, ContainerMetadata, ContainerStatsResponse, ContainerStatusResponse, Cri, EXITED, Empty,
    ExecSyncRequest, ExecSyncResponse, Id, ImageSpec, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NODE, NamespaceOption, POD,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusResponse, RUNNING, RunPodSandboxRequest,
    StopContainerRequest, UpdateContainerResourcesRequest,
};
use super::{Daemon, IMAGE, named, until};
use crate::world::World;
use crate::{Test, ensure, ensure_eq};

pub fn tests() -> Vec<Test> {
    vec![
        named("containerd_ctr_runs_executes_pauses_and_removes", ctr),
        named("containerd_a_pod_lives_through_the_cri_and_leaves_nothing", pod),
        named("containerd_containers_of_a_pod_see_each_other_only_when_they_share", sharing),
        named("containerd_a_daemon_that_restarts_loses_no_line_and_restarts_nothing", daemon_restarts),
        named("containerd_a_killed_shim_leaves_nothing_of_its_pod", shim_killed),
        named("containerd_an_exec_that_is_late_goes_with_all_it_has_started", late_exec),
        named("containerd_the_shim_has_one_thread", one_thread),
    ]
}

fn ctr(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "ctr")?;
    let once = daemon.run_once("code", "echo out; echo err >&2; exit 7");
    ensure_eq!(once.code, 7, "{}", once.stderr);
    ensure_eq!(once.stdout.trim(), "out");
    ensure!(once.stderr.contains("err"), "{}", once.stderr);
    let long = daemon.run_once("long", "dd if=/dev/zero bs=1M count=8 2>/dev/null | tr '\\0' x");
    ensure_eq!(long.stdout.len(), 8 << 20);
    let missing = daemon.try_ctr(&["run", "--rm", "--runtime", super::RUNTIME, IMAGE, "none", "nosuch"]);
    let text = "OCI runtime create failed: unable to start container process: exec: \"nosuch\": executable file not found in $PATH";
    ensure!(missing.stderr.contains(text), "{}", missing.stderr);
    ensure!(daemon.left_of("none").is_empty(), "{:?}", daemon.left_of("none"));

    daemon.run_detached("sleeper", "trap 'exit 5' TERM; while :; do sleep 0.1; done")?;
    let exec = |id: &str, line: &str| daemon.try_ctr(&["task", "exec", "--exec-id", id, "sleeper", "sh", "-c", line]);
    let one = exec("one", "echo in; exit 3");
    ensure_eq!((one.code, one.stdout.trim()), (3, "in"), "{}", one.stderr);
    let none = daemon.try_ctr(&["task", "exec", "--exec-id", "none", "sleeper", "nosuch"]);
    ensure!(none.stderr.contains("exec: \"nosuch\": executable file not found in $PATH"), "{}", none.stderr);
    daemon.ctr(&["task", "pause", "sleeper"])?;
    ensure!(daemon.ctr(&["task", "ls"])?.contains("PAUSED"), "it is not paused");
    ensure!(exec("two", "true").code != 0, "an exec in a paused container ran");
    daemon.ctr(&["task", "resume", "sleeper"])?;
    let metrics = daemon.ctr(&["task", "metrics", "sleeper"])?;
    ensure!(metrics.contains("memory"), "{metrics}");
    daemon.ctr(&["task", "kill", "-s", "TERM", "sleeper"])?;
    until("it is stopped", 20, || Ok(daemon.ctr(&["task", "ls"])?.contains("STOPPED")))?;
    let removed = daemon.try_ctr(&["task", "rm", "sleeper"]);
    ensure!(removed.stderr.contains("exit code 5") || removed.code == 0, "{}", removed.stderr);
    until("nothing is left", 10, || Ok(daemon.left_of("sleeper").is_empty()))
}

/// A pod through the CRI.
pub struct Pod<'d, 'w> {
    pub cri: Cri,
    pub id: String,
    config: PodSandboxConfig,
    options: NamespaceOption,
    daemon: &'d Daemon<'w>,
}

impl<'d, 'w> Pod<'d, 'w> {
    pub fn run(daemon: &'d Daemon<'w>, pid: i32, sysctls: &[(&str, &str)]) -> Result<Pod<'d, 'w>, String> {
        let mut cri = Cri::connect(&daemon.socket())?;
        let options = NamespaceOption { network: POD, pid, ipc: POD };
        let logs = daemon.dir.join("logs");
        fs::create_dir_all(&logs).map_err(|error| error.to_string())?;
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: "pod".into(), uid: daemon.name.clone(), namespace: "ns".into() }),
            hostname: "podhost".into(),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: daemon.cgroup(),
                security_context: Some(LinuxSandboxSecurityContext { namespace_options: Some(options) }),
                sysctls: sysctls.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<HashMap<_, _>>(),
            }),
        };
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: "killick".into() };
        let answer: Id = cri.call("RunPodSandbox", request).map_err(|e| format!("{e}\n{}", daemon.log_tail()))?;
        Ok(Pod { cri, id: answer.id, config, options, daemon })
    }

    pub fn container(&mut self, name: &str, line: &str, memory: i64) -> Result<String, String> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(ImageSpec { image: IMAGE.into() }),
            command: vec!["sh".into(), "-c".into(), line.into()],
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources { cpu_shares: 100, memory_limit_in_bytes: memory }),
                security_context: Some(LinuxContainerSecurityContext { namespace_options: Some(self.options) }),
            }),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let told = |error| format!("{error}\n{}", self.daemon.log_tail());
        let answer: Id = self.cri.call("CreateContainer", request).map_err(told)?;
        let _: Empty = self.cri.call("StartContainer", answer.clone()).map_err(told)?;
        Ok(answer.id)
    }

    pub fn exec(&mut self, container: &str, line: &str, timeout: i64) -> Result<ExecSyncResponse, String> {
        let cmd = vec!["sh".into(), "-c".into(), line.into()];
        self.cri.call("ExecSync", ExecSyncRequest { container_id: container.into(), cmd, timeout })
    }

    pub fn output(&mut self, container: &str, line: &str) -> Result<String, String> {
        let answer = self.exec(container, line, 30)?;
        ensure_eq!(answer.exit_code, 0, "{line}: {}", String::from_utf8_lossy(&answer.stderr));
        Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }

    pub fn status(&mut self, container: &str) -> Result<super::cri::ContainerStatus, String> {
        let answer: ContainerStatusResponse = self.cri.call("ContainerStatus", Id { id: container.into() })?;
        answer.status.ok_or_else(|| "no status".into())
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.daemon.dir.join("logs").join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Stops and removes the pod; then nothing of it is left.
    pub fn remove(mut self) -> Result<(), String> {
        let id = Id { id: self.id.clone() };
        let _: Empty = self.cri.call("StopPodSandbox", id.clone())?;
        let _: Empty = self.cri.call("RemovePodSandbox", id)?;
        until("nothing of the pod is left", 10, || Ok(self.daemon.left_of(&self.id).is_empty()))
    }
}

fn pod(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "pod")?;
    let mut pod = Pod::run(&daemon, CONTAINER, &[("net.ipv4.ip_unprivileged_port_start", "0")])?;
    let status: PodSandboxStatusResponse = pod.cri.call("PodSandboxStatus", Id { id: pod.id.clone() })?;
    let status = status.status.ok_or("no status")?;
    ensure_eq!(status.state, 0, "the sandbox is not ready");
    let ip = status.network.map(|network| network.ip).unwrap_or_default();
    let web = pod.container("web", "echo started; trap 'exit 5' TERM; while :; do sleep 0.1; done", 64 << 20)?;
    ensure_eq!(pod.output(&web, "hostname")?, "podhost");
    ensure!(pod.output(&web, "ip -o -4 addr show eth0")?.contains(&ip), "the pod's address is not {ip}");
    ensure_eq!(pod.output(&web, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")?, "0");
    // A PID namespace of its own is the default of Kubernetes.
    ensure_eq!(pod.output(&web, "cut -d' ' -f4 /proc/1/stat")?, "0");
    let seven = pod.exec(&web, "echo out; echo err >&2; exit 7", 10)?;
    ensure_eq!((seven.exit_code, seven.stdout.as_slice(), seven.stderr.as_slice()), (7, &b"out\n"[..], &b"err\n"[..]));
    let stats: ContainerStatsResponse = pod.cri.call("ContainerStats", Id { id: web.clone() })?;
    let memory = stats.stats.and_then(|stats| stats.memory?.working_set_bytes).map_or(0, |value| value.value);
    ensure!(memory > 0, "no memory is counted");
    let limits = LinuxContainerResources { cpu_shares: 0, memory_limit_in_bytes: 32 << 20 };
    let request = UpdateContainerResourcesRequest { container_id: web.clone(), linux: Some(limits) };
    let _: Empty = pod.cri.call("UpdateContainerResources", request)?;
    let _: Empty = pod.cri.call("StopContainer", StopContainerRequest { container_id: web.clone(), timeout: 20 })?;
    let status = pod.status(&web)?;
    ensure_eq!((status.state, status.exit_code, status.reason.as_str()), (EXITED, 5, "Error"));
    ensure!(pod.log("web").contains("stdout F started"), "{}", pod.log("web"));
    let _: Empty = pod.cri.call("RemoveContainer", Id { id: web.clone() })?;
    until("nothing of the container is left", 10, || Ok(daemon.left_of(&web).is_empty()))?;

    let hungry = pod.container("hungry", "dd if=/dev/zero of=/dev/null bs=200M count=1", 32 << 20)?;
    let mut status = pod.status(&hungry)?;
    until("it is killed", 30, || {
        status = pod.status(&hungry)?;
        Ok(status.state == EXITED)
    })?;
    ensure_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    pod.remove()
}

fn sharing(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "share")?;
    let mut pod = Pod::run(&daemon, POD, &[])?;
    let one = pod.container("one", "exec sleep 1000", 0)?;
    let two = pod.container("two", "exec sleep 2000", 0)?;
    let processes = pod.output(&two, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?;
    ensure!(processes.contains("sleep 1000") && processes.contains("sleep 2000"), "{processes}");
    ensure_eq!(pod.output(&one, "cat /proc/1/comm")?, "pause");
    // One of them ends, the other goes on.
    let _: Empty = pod.cri.call("StopContainer", StopContainerRequest { container_id: one.clone(), timeout: 0 })?;
    ensure_eq!(pod.status(&one)?.exit_code, 137);
    ensure_eq!(pod.status(&two)?.state, RUNNING);
    let processes = pod.output(&two, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?;
    ensure!(!processes.contains("sleep 1000"), "{processes}");
    pod.remove()?;
    let node = NamespaceOption { network: NODE, pid: NODE, ipc: NODE };
    let mut pod = Pod::run(&daemon, NODE, &[])?;
    pod.options = NamespaceOption { network: POD, ipc: POD, ..node };
    let host = pod.container("host", "exec sleep 3000", 0)?;
    let own = std::process::id();
    ensure_eq!(pod.output(&host, &format!("test -d /proc/{own} && echo seen"))?, "seen");
    pod.remove()
}

fn daemon_restarts(world: &World) -> Result<(), String> {
    let mut daemon = Daemon::start(world, "again")?;
    let dir = daemon.dir.clone();
    let (id, web) = {
        let mut pod = Pod::run(&daemon, CONTAINER, &[])?;
        let web = pod.container("count", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done", 0)?;
        (pod.id.clone(), web)
    };
    let log = || fs::read_to_string(dir.join("logs/count.log")).unwrap_or_default();
    until("it writes", 20, || Ok(log().contains("line 10")))?;
    let shim = daemon.shim_of("k8s.io", &id)?;
    for signal in ["-TERM", "-KILL"] {
        daemon.stop(signal);
        std::thread::sleep(Duration::from_millis(500));
        daemon.run()?;
        ensure_eq!(daemon.shim_of("k8s.io", &id)?, shim, "another shim serves the pod");
        let mut cri = Cri::connect(&daemon.socket())?;
        let status: ContainerStatusResponse = cri.call("ContainerStatus", Id { id: web.clone() })?;
        ensure_eq!(status.status.map(|status| status.state), Some(RUNNING));
        let request = ExecSyncRequest { container_id: web.clone(), cmd: vec!["true".into()], timeout: 10 };
        let answer: ExecSyncResponse = cri.call("ExecSync", request)?;
        ensure_eq!(answer.exit_code, 0);
        let before = log().lines().count();
        until("it writes on", 20, || Ok(log().lines().count() > before + 10))?;
    }
    // What the daemon had read and not written is its own to lose; what the shim holds is not: the lines go on in order.
    let numbers: Vec<u64> =
        log().lines().filter_map(|line| line.rsplit(' ').next().and_then(|number| number.parse().ok())).collect();
    let torn = log().lines().filter(|line| !line.contains(" stdout ")).count();
    ensure_eq!(torn, 0, "torn lines");
    ensure!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "lines out of order or twice");
    let missing: u64 = numbers.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
    ensure!(missing <= 4, "{missing} lines are lost");
    let mut cri = Cri::connect(&daemon.socket())?;
    let _: Empty = cri.call("StopPodSandbox", Id { id: id.clone() })?;
    let _: Empty = cri.call("RemovePodSandbox", Id { id: id.clone() })?;
    until("nothing of the pod is left", 10, || Ok(daemon.left_of(&id).is_empty()))
}

fn shim_killed(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "kill9")?;
    let mut pod = Pod::run(&daemon, CONTAINER, &[])?;
    let one = pod.container("one", "exec sleep 77001", 0)?;
    let two = pod.container("two", "exec sleep 77002", 0)?;
    pod.output(&one, "sleep 77003 >/dev/null 2>&1 </dev/null & true")?;
    let shim = daemon.shim_of("k8s.io", &pod.id)?;
    let _ = Command::new("kill").args(["-KILL", &shim.to_string()]).status();
    let lives = |text: &str| {
        fs::read_dir("/proc").into_iter().flatten().flatten().any(|process| {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).replace('\0', " ").starts_with(text)
        })
    };
    until("no process of the pod is left", 20, || {
        Ok(!["sleep 77001", "sleep 77002", "sleep 77003"].map(lives).contains(&true))
    })?;
    // containerd has seen it too.
    until("the containers have ended", 20, || {
        Ok(pod.status(&one)?.state == EXITED && pod.status(&two)?.state == EXITED)
    })?;
    let (sandbox, ids) = (pod.id.clone(), [one, two]);
    pod.remove()?;
    for id in ids.iter().chain([&sandbox]) {
        until("nothing is left", 10, || Ok(daemon.left_of(id).is_empty()))
            .map_err(|error| format!("{error}: {:?}", daemon.left_of(id)))?;
    }
    Ok(())
}

fn late_exec(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "late")?;
    let mut pod = Pod::run(&daemon, CONTAINER, &[])?;
    let web = pod.container("web", "exec sleep 1000", 0)?;
    let begun = Instant::now();
    let late = pod.exec(&web, "setsid sleep 88001 & sleep 88002 & sleep 88003", 1);
    let error = late.err().ok_or("a late exec has succeeded")?;
    ensure!(error.contains("timeout 1s exceeded"), "{error}");
    ensure!(begun.elapsed() < Duration::from_secs(20), "the answer took {:?}", begun.elapsed());
    until("all that it has started is gone", 10, || {
        Ok(!pod.output(&web, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")?.contains("sleep 8800"))
    })?;
    pod.remove()
}

fn one_thread(world: &World) -> Result<(), String> {
    let daemon = Daemon::start(world, "thread")?;
    let mut pod = Pod::run(&daemon, CONTAINER, &[])?;
    let web = pod.container("web", "exec sleep 1000", 0)?;
    for _ in 0..10 {
        pod.output(&web, "true")?;
    }
    let shim = daemon.shim_of("k8s.io", &pod.id)?;
    let status = fs::read_to_string(format!("/proc/{shim}/status")).map_err(|error| error.to_string())?;
    ensure!(status.contains("Threads:\t1\n"), "{status}");
    let open = fs::read_dir(format!("/proc/{shim}/fd")).map_err(|error| error.to_string())?.count();
    for _ in 0..20 {
        pod.output(&web, "true")?;
    }
    let after = fs::read_dir(format!("/proc/{shim}/fd")).map_err(|error| error.to_string())?.count();
    ensure!(after <= open, "descriptors grow: {open} -> {after}");
    pod.remove()
}
