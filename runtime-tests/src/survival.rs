//! kill -9 of the shim, of keep, of both: nothing restarts, no exit code and no log line is lost, probes go on.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{Pod, World};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("a_killed_shim_is_replaced_and_nothing_restarts", shim),
        test("an_exit_while_the_shim_is_dead_is_not_lost", exit_code),
        test("no_log_line_is_lost_over_a_killed_shim", log_lines),
        test("probes_go_on_after_a_killed_shim", probes),
        test("after_the_death_of_shim_and_keep_the_next_command_starts_them", both),
        test("a_pod_whose_shim_is_killed_while_it_is_deleted_goes_all_the_same", delete),
        test("kills_at_random_instants_leave_nothing_behind", random).long(),
    ]
}

fn signal(pid: u32, signal: Signal) -> Result<(), String> {
    kill(Pid::from_raw(pid as i32), signal).map_err(|errno| format!("kill({pid}): {errno}"))
}

/// Waits for a shim that is not this one.
fn new_shim(pod: &Pod<'_>, old: u32) -> Result<u32, String> {
    let deadline = Instant::now() + Duration::from_secs(pod.world.patience(3));
    while Instant::now() < deadline {
        if let Ok(pid) = pod.shim_pid()
            && pid != old
        {
            return Ok(pid);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("no new shim".into())
}

fn shim(world: &World) -> Result<(), String> {
    let pod = world.apply(
        "shim-dies",
        &world.busybox(
            "shim-dies",
            "exec sleep 600",
            "readinessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1}",
        ),
    )?;
    pod.wait(15, "ready", |pod| pod.ready())?;
    let id = pod.value("/status/containerStatuses/0/containerID")?;
    for _ in 0..3 {
        let old = pod.shim_pid()?;
        signal(old, Signal::SIGKILL)?;
        new_shim(&pod, old)?;
        pod.wait(5, "the new shim answers", |pod| Ok(pod.shell("echo hi").is_ok_and(|text| text == "hi\n")))?;
        ensure!(
            pod.value("/status/containerStatuses/0/containerID")? == id && pod.restarts()? == 0,
            "the container was restarted:\n{}",
            pod.describe()?
        );
    }
    Ok(())
}

fn exit_code(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox("exit-lost", "while [ ! -e /tmp/go ]; do sleep 0.05; done; sleep 0.3; exit 42", "")
        .replace("spec:\n", "spec:\n  restartPolicy: Never\n");
    let pod = world.apply("exit-lost", &yaml)?;
    pod.wait_running()?;
    let shim = pod.shim_pid()?;
    let keep = pod.keep_pid()?;
    pod.shell("touch /tmp/go")?;
    // keep is stopped, so that no new shim comes before the container has ended.
    signal(keep, Signal::SIGSTOP)?;
    signal(shim, Signal::SIGKILL)?;
    std::thread::sleep(Duration::from_secs(world.patience(2)));
    signal(keep, Signal::SIGCONT)?;
    pod.wait(10, "Failed", |pod| Ok(pod.value("/status/phase")? == "Failed"))?;
    let state = pod.value("/status/containerStatuses/0/state/terminated")?;
    ensure!(state["exitCode"] == 42 && state["reason"] == "Error", "{state}");
    Ok(())
}

fn log_lines(world: &World) -> Result<(), String> {
    let yaml = world.busybox("log-lines", "i=0; while [ $i -lt 3000 ]; do echo line-$i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.1; done; exec sleep 600", "");
    let pod = world.apply("log-lines", &yaml)?;
    pod.wait_running()?;
    for _ in 0..2 {
        let old = pod.shim_pid()?;
        signal(old, Signal::SIGKILL)?;
        new_shim(&pod, old)?;
        std::thread::sleep(Duration::from_millis(500));
    }
    pod.wait(30, "the last line", |pod| Ok(world.ok(&["logs", &pod.name])?.contains("line-2999\n")))?;
    let log = world.ok(&["logs", "log-lines"])?;
    let lines: Vec<_> = log.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        ensure!(*line == format!("line-{number}"), "line {number} is {line:?}, of {}", lines.len());
    }
    ensure!(lines.len() == 3000, "{} lines", lines.len());
    Ok(())
}

fn probes(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "probes-go-on",
        "touch /tmp/healthy; exec sleep 600",
        "livenessProbe:\n  exec: {command: [cat, /tmp/healthy]}\n  periodSeconds: 1\n  failureThreshold: 3",
    );
    let pod = world.apply("probes-go-on", &yaml)?;
    pod.wait_running()?;
    let old = pod.shim_pid()?;
    signal(old, Signal::SIGKILL)?;
    new_shim(&pod, old)?;
    pod.wait(5, "the new shim answers", |pod| Ok(pod.shell("rm /tmp/healthy").is_ok()))?;
    pod.wait(15, "RESTARTS 1", |pod| Ok(pod.restarts()? == 1))
}

fn both(world: &World) -> Result<(), String> {
    let pod = world.apply(
        "both-die",
        &world.busybox("both-die", "exec sleep 600", "livenessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1}"),
    )?;
    pod.wait_running()?;
    let id = pod.value("/status/containerStatuses/0/containerID")?;
    let (keep, shim) = (pod.keep_pid()?, pod.shim_pid()?);
    signal(keep, Signal::SIGKILL)?;
    signal(shim, Signal::SIGKILL)?;
    std::thread::sleep(Duration::from_millis(300));
    world.ok(&["get", "pods"])?;
    pod.wait(5, "a new keep and shim", |pod| {
        Ok(pod.keep_pid().is_ok_and(|pid| pid != keep) && pod.shim_pid().is_ok_and(|pid| pid != shim))
    })?;
    pod.wait(5, "exec works", |pod| Ok(pod.shell("echo hi").is_ok()))?;
    ensure!(
        pod.value("/status/containerStatuses/0/containerID")? == id && pod.restarts()? == 0,
        "the container was restarted:\n{}",
        pod.describe()?
    );
    Ok(())
}

fn delete(world: &World) -> Result<(), String> {
    let pod = world.apply(
        "delete-dies",
        &world
            .busybox("delete-dies", "trap '' TERM; while :; do sleep 0.1; done", "")
            .replace("Seconds: 2", "Seconds: 5"),
    )?;
    pod.wait_running()?;
    let uid = pod.uid()?;
    world.ok(&["delete", "pod", "delete-dies", "--wait=false"])?;
    std::thread::sleep(Duration::from_millis(500));
    signal(pod.shim_pid()?, Signal::SIGKILL)?;
    let deadline = Instant::now() + Duration::from_secs(world.patience(15));
    while Instant::now() < deadline && world.killick(&["get", "pod", "delete-dies"]).code == 0 {
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(world.killick(&["get", "pod", "delete-dies"]).code == 1, "the pod is still there:\n{:?}", pod.row());
    // The name goes first, the directories some milliseconds later.
    let path = world.directory.join("root/pods").join(uid);
    while Instant::now() < deadline && path.exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(!path.exists(), "{} is still there", path.display());
    Ok(())
}

/// 100 pods, each killed (shim, or shim and keep) at another instant of its life, then deleted.
fn random(world: &World) -> Result<(), String> {
    for round in 0..100u64 {
        let name = format!("random-{round}");
        let pod = world.apply(&name, &world.busybox(&name, "sleep 1; exit 1", ""))?;
        std::thread::sleep(Duration::from_millis(round * 37 % 1500));
        let keep = pod.keep_pid();
        if round % 3 == 0
            && let Ok(pid) = keep
        {
            signal(pid, Signal::SIGKILL)?;
        }
        if let Ok(pid) = pod.shim_pid() {
            signal(pid, Signal::SIGKILL)?;
        }
        let output = world.killick(&["delete", "pod", &name, "--now"]);
        ensure!(output.code == 0, "round {round}: {output:?}");
        let left = world.shell(&format!("find /sys/fs/cgroup -path '*{}*' -type d | head -3", name))?;
        ensure!(left.is_empty(), "round {round}: {left}");
    }
    Ok(())
}
