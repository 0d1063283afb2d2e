//! Each result of each handler, seen from outside; Unknown is visible and changes nothing.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{BUSYBOX, INSIDE_MOUNT, NGINX, World};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("a_liveness_command_that_is_not_there_is_unknown_for_60_s", unknown_exec),
        test("an_exec_probe_that_hangs_fails_and_its_whole_process_tree_is_killed", exec_timeout),
        test("success_and_failure_of_each_handler_are_seen_inside_the_pod", each_handler),
        test("a_network_probe_spoiled_by_our_own_lateness_is_unknown", late_is_unknown),
        test("a_listener_on_the_pods_loopback_is_reached_by_host_127_0_0_1", loopback),
        test("exec_probes_leave_no_process_and_no_descriptor_behind", exec_leaks_nothing),
    ]
}

fn unknown_exec(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "unknown-exec",
        "exec sleep 600",
        "livenessProbe:\n  exec: {command: [/nosuch]}\n  periodSeconds: 5\nreadinessProbe:\n  exec: {command: [\"true\"]}\n  periodSeconds: 2",
    );
    let pod = world.apply("unknown-exec", &yaml)?;
    pod.wait(10, "ready", |pod| pod.ready())?;
    pod.wait_event(15, "Warning Unhealthy")?;
    pod.wait_event(5, "Liveness probe errored and resulted in unknown state:")?;
    std::thread::sleep(Duration::from_secs(60));
    ensure!(pod.restarts()? == 0, "Unknown restarted the container:\n{}", pod.describe()?);
    ensure!(pod.ready()?, "Unknown changed readiness");
    Ok(())
}

fn exec_timeout(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "exec-timeout",
        "exec sleep 600",
        &format!("{INSIDE_MOUNT}\nreadinessProbe:\n  exec: {{command: [/inside, escape]}}\n  periodSeconds: 3\n  timeoutSeconds: 1"),
    ) + &world.inside_volume();
    let pod = world.apply("exec-timeout", &yaml)?;
    pod.wait_event(15, "Readiness probe failed: command timed out: \"/inside escape\" timed out after 1s")?;
    // Between two attempts nothing of the tree is there: not the command, not what it forked and set loose.
    pod.wait(10, "no process of the hung probe", |pod| Ok(!pod.shell("ps")?.contains("/inside escape")))?;
    ensure!(!pod.ready()?, "a hanging readiness probe counts as success");
    Ok(())
}

/// One pod for each handler: kubelet's spam filter lets through 25 events of a pod.
fn each_handler(world: &World) -> Result<(), String> {
    for (handler, passes, fails, text) in [
        ("exec", "exec: {command: [\"true\"]}", "exec: {command: [sh, -c, 'echo broken; exit 3']}", "broken"),
        ("tcp", "tcpSocket: {port: 80}", "tcpSocket: {port: 81}", ":81: connect: connection refused"),
        (
            "http",
            "httpGet: {port: 80, path: /index.html}",
            "httpGet: {port: 80, path: /absent}",
            "HTTP probe failed with statuscode: 404",
        ),
    ] {
        let name = format!("handler-{handler}");
        let container = |name: &str, handler: &str| {
            format!(
                "  - name: {name}\n    image: {BUSYBOX}\n    command: [sh, -c, exec sleep 600]\n    readinessProbe:\n      {handler}\n      periodSeconds: 1\n"
            )
        };
        let yaml = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: web\n    image: {NGINX}\n{}{}",
            container("passes", passes),
            container("fails", fails)
        );
        let pod = world.apply(&name, &yaml)?;
        pod.wait(20, "the one that passes is ready, the other is not", |pod| Ok(pod.row()?[1] == "2/3"))?;
        pod.wait_event(10, "Readiness probe failed: ")?;
        pod.wait_event(10, text)?;
        let fails = pod.value("/status/containerStatuses/0")?;
        ensure!(fails["name"] == "fails" && fails["ready"] == false, "{fails}");
    }
    Ok(())
}

/// The shim is stopped for longer than the timeout: the attempts that were due are Unknown, not failures.
fn late_is_unknown(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "late",
        "exec busybox httpd -f -p 80 -h /etc",
        "livenessProbe:\n  httpGet: {port: 80, path: /passwd}\n  periodSeconds: 1\n  failureThreshold: 1\nreadinessProbe:\n  tcpSocket: {port: 80}\n  periodSeconds: 1\n  failureThreshold: 1",
    );
    let pod = world.apply("late", &yaml)?;
    pod.wait(15, "ready", |pod| pod.ready())?;
    let shim = Pid::from_raw(pod.shim_pid()? as i32);
    for _ in 0..3 {
        kill(shim, Signal::SIGSTOP).map_err(|errno| format!("SIGSTOP: {errno}"))?;
        std::thread::sleep(Duration::from_millis(2500));
        kill(shim, Signal::SIGCONT).map_err(|errno| format!("SIGCONT: {errno}"))?;
        std::thread::sleep(Duration::from_millis(1500));
    }
    ensure!(pod.restarts()? == 0, "our own lateness killed a healthy container:\n{}", pod.describe()?);
    ensure!(pod.ready()?, "our own lateness changed readiness");
    let record = world.ok(&["probes", "late"])?;
    ensure!(record.contains("Unknown"), "no attempt is recorded as Unknown:\n{record}");
    Ok(())
}

fn loopback(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "loopback",
        "exec busybox httpd -f -p 127.0.0.1:8081 -h /etc",
        "readinessProbe:\n  httpGet: {host: 127.0.0.1, port: 8081, path: /passwd}\n  periodSeconds: 1",
    );
    let pod = world.apply("loopback", &yaml)?;
    pod.wait(15, "ready", |pod| pod.ready())
}

fn exec_leaks_nothing(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "exec-leaks",
        "exec sleep 600",
        "readinessProbe:\n  exec: {command: [sh, -c, 'sleep 0.05 & exit 0']}\n  periodSeconds: 1",
    );
    let pod = world.apply("exec-leaks", &yaml)?;
    pod.wait(10, "ready", |pod| pod.ready())?;
    let shim = pod.shim_pid()?;
    let descriptors = || std::fs::read_dir(format!("/proc/{shim}/fd")).map(Iterator::count).unwrap_or(0);
    std::thread::sleep(Duration::from_secs(2));
    let before = descriptors();
    std::thread::sleep(Duration::from_secs(10));
    let after = descriptors();
    ensure!(after <= before + 3, "{before} descriptors became {after}");
    let status = std::fs::read_to_string(format!("/proc/{shim}/status")).map_err(|error| error.to_string())?;
    ensure!(status.contains("Threads:\t1\n"), "the shim has more than one thread:\n{status}");
    let children = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap_or_default();
    ensure!(children.split_whitespace().count() <= 4, "children of the shim: {children}");
    Ok(())
}
