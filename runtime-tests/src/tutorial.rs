//! The tutorial, typed as its readers type it, on the manifests of `examples/` without a change.

use serde_json::Value;

use crate::world::{BUSYBOX, World, squeezed};
use crate::{Test, ensure, test};

const EXEC: &str = include_str!("../../examples/livenessProbe-exec.yaml");
const HTTP: &str = include_str!("../../examples/livenessProbe-httpget.yaml");
const TCP: &str = include_str!("../../examples/livenessProbe-tcp.yaml");
const READINESS: &str = include_str!("../../examples/readinessProbe-httpget.yaml");
const TOMCAT: &str = include_str!("../../examples/startupProbe-tomcat.yaml");

pub fn tests() -> Vec<Test> {
    vec![
        test("liveness_exec_with_its_own_pid_namespace_is_killed_after_the_grace_period", exec_with_own_pid_namespace),
        test("liveness_exec_pod_restarts_between_the_40th_and_50th_second_with_143", exec),
        test("liveness_tcp_on_8090_is_probed_at_6_9_and_12_s_restarted_and_backs_off", tcp_refused),
        test("liveness_tcp_on_80_stays_running", tcp),
        test("liveness_httpget_restarts_when_the_page_is_deleted", http),
        test("readiness_follows_the_page_both_ways_and_never_restarts", readiness),
        test("a_slow_starter_is_spared_by_its_startup_probe", slow_start),
        test("a_startup_probe_that_never_passes_kills_the_container", startup_never),
        test("tomcat_starts_slowly_and_is_not_killed", tomcat).long(),
    ]
}

/// Seconds from the first container's first start to its end, and its exit code, once it was restarted.
fn first_life(pod: &crate::world::Pod<'_>) -> Result<(i64, i64), String> {
    let last = pod.value("/status/containerStatuses/0/lastState/terminated")?;
    let time = |key: &str| last.get(key).and_then(Value::as_str).and_then(seconds).ok_or(format!("no {key} in {last}"));
    let code = last.get("exitCode").and_then(Value::as_i64).ok_or(format!("no exitCode in {last}"))?;
    Ok((time("finishedAt")? - time("startedAt")?, code))
}

/// Seconds of an RFC 3339 UTC time within its day: enough for differences of minutes.
fn seconds(time: &str) -> Option<i64> {
    let clock = time.split_once('T')?.1.trim_end_matches('Z');
    let mut parts = clock.split(':').map(|part| part.parse::<i64>().ok());
    Some(parts.next()?? * 3600 + parts.next()?? * 60 + parts.next()??)
}

fn within_a_day(difference: i64) -> i64 {
    difference.rem_euclid(86_400)
}

fn exec(world: &World) -> Result<(), String> {
    let pod = world.apply("liveness-exec-pod", EXEC)?;
    pod.wait(10, "ready", |pod| pod.ready())?;
    let row = pod.row()?;
    ensure!(row[1..4] == ["1/1", "Running", "0"], "{row:?}");
    let wide = world.ok(&["get", "pod", "liveness-exec-pod", "-o", "wide"])?;
    let heading = squeezed(wide.lines().next().unwrap_or_default());
    ensure!(heading == "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES", "{heading}");
    let events = squeezed(&pod.describe()?);
    for text in [
        "Successfully assigned default/liveness-exec-pod to",
        &format!("Container image \"{BUSYBOX}\" already present on machine"),
        "Container created",
        "Container started",
    ] {
        ensure!(events.contains(text), "describe lacks {text:?}:\n{}", pod.describe()?);
    }
    pod.wait(60, "RESTARTS 1", |pod| Ok(pod.restarts()? == 1))?;
    let (life, code) = first_life(&pod)?;
    ensure!(code == 143, "exit code {code}");
    ensure!((40..=50).contains(&within_a_day(life)), "restarted after {life} s");
    let events = squeezed(&pod.describe()?);
    ensure!(
        events.contains("Liveness probe failed: cat: can't open '/tmp/healthy': No such file or directory"),
        "{events}"
    );
    ensure!(events.contains("(x3 over"), "three failures are counted: {events}");
    ensure!(events.contains("Container liveness-exec failed liveness probe, will be restarted"), "{events}");
    pod.wait(10, "ready again", |pod| pod.ready())
}

fn exec_with_own_pid_namespace(world: &World) -> Result<(), String> {
    let yaml = EXEC
        .replace("liveness-exec-pod", "liveness-own-pid")
        .replace("spec:\n", "spec:\n  shareProcessNamespace: false\n");
    let pod = world.apply("liveness-own-pid", &yaml)?;
    pod.wait(100, "RESTARTS 1", |pod| Ok(pod.restarts()? == 1))?;
    let (life, code) = first_life(&pod)?;
    ensure!(code == 137, "exit code {code}");
    ensure!((70..=82).contains(&within_a_day(life)), "killed after {life} s: 45 s of failures and 30 s of grace");
    Ok(())
}

fn http(world: &World) -> Result<(), String> {
    let pod = world.apply("liveness-httpget-pod", HTTP)?;
    pod.wait(10, "ready", |pod| pod.ready())?;
    std::thread::sleep(std::time::Duration::from_secs(5));
    ensure!(pod.restarts()? == 0, "restarted although the page is there:\n{}", pod.describe()?);
    world.ok(&["exec", "liveness-httpget-pod", "--", "rm", "/usr/share/nginx/html/index.html"])?;
    pod.wait(30, "RESTARTS 1", |pod| Ok(pod.restarts()? == 1))?;
    let events = squeezed(&pod.describe()?);
    ensure!(events.contains("Liveness probe failed: HTTP probe failed with statuscode: 404"), "{events}");
    Ok(())
}

fn tcp(world: &World) -> Result<(), String> {
    let pod = world.apply("liveness-tcp-pod", TCP)?;
    pod.wait_running()?;
    std::thread::sleep(std::time::Duration::from_secs(50));
    let row = pod.row()?;
    ensure!(row[1..4] == ["1/1", "Running", "0"], "{row:?}\n{}", pod.describe()?);
    Ok(())
}

fn tcp_refused(world: &World) -> Result<(), String> {
    let yaml = TCP.replace("liveness-tcp-pod", "liveness-tcp-8090").replace("port: 80\n", "port: 8090\n");
    let pod = world.apply("liveness-tcp-8090", &yaml)?;
    pod.wait_running()?;
    pod.wait(27, "RESTARTS 1", |pod| Ok(pod.restarts()? >= 1))?;
    let (life, _) = first_life(&pod)?;
    ensure!((11..=15).contains(&within_a_day(life)), "probed at 6, 9 and 12 s, so killed at 12 s, not after {life} s");
    let events = squeezed(&pod.describe()?);
    ensure!(events.contains("Liveness probe failed: dial tcp 10.88."), "{events}");
    ensure!(events.contains(":8090: connect: connection refused"), "{events}");
    pod.wait(60, "CrashLoopBackOff", |pod| Ok(pod.status_word()? == "CrashLoopBackOff"))?;
    ensure!(pod.restarts()? >= 2, "RESTARTS {}", pod.restarts()?);
    // The BackOff event itself falls to kubelet's spam filter here (25 events a pod at once); the status has the words.
    let waiting = pod.value("/status/containerStatuses/0/state/waiting/message")?;
    let message = waiting.as_str().unwrap_or_default();
    ensure!(
        message.starts_with("back-off ")
            && message.contains("s restarting failed container=liveness-tcp pod=liveness-tcp-8090_default("),
        "{message:?}"
    );
    Ok(())
}

fn readiness(world: &World) -> Result<(), String> {
    let pod = world.apply("readiness-httpget-pod", READINESS)?;
    pod.wait_running()?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    ensure!(pod.row()?[1] == "0/1", "{:?}", pod.row()?);
    pod.shell("echo ready > /usr/share/nginx/html/ready.html")?;
    pod.wait(10, "1/1", |pod| Ok(pod.row()?[1] == "1/1"))?;
    ensure!(pod.value("/status/conditions")?.to_string().contains("\"Ready\""), "conditions");
    pod.shell("rm /usr/share/nginx/html/ready.html")?;
    pod.wait(20, "0/1", |pod| Ok(pod.row()?[1] == "0/1"))?;
    pod.wait_event(5, "Readiness probe failed: HTTP probe failed with statuscode: 404")?;
    ensure!(pod.restarts()? == 0, "a readiness probe never restarts");
    Ok(())
}

fn slow_start(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "slow-start",
        "sleep 8; exec busybox httpd -f -p 8080 -h /etc",
        "startupProbe:\n  tcpSocket: {port: 8080}\n  periodSeconds: 1\n  failureThreshold: 30\nlivenessProbe:\n  tcpSocket: {port: 8080}\n  periodSeconds: 1\n  failureThreshold: 1",
    );
    let pod = world.apply("slow-start", &yaml)?;
    pod.wait_running()?;
    ensure!(pod.value("/status/containerStatuses/0/started")? == Value::Bool(false), "started before the probe passed");
    pod.wait(20, "started and ready", |pod| pod.ready())?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    ensure!(pod.restarts()? == 0, "the liveness probe did not wait:\n{}", pod.describe()?);
    pod.wait_event(2, "Startup probe failed: dial tcp")?;
    ensure!(!pod.describe()?.contains("Liveness probe failed"), "liveness ran before startup passed");
    Ok(())
}

fn startup_never(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "startup-never",
        "exec sleep 600",
        "startupProbe:\n  exec: {command: [\"false\"]}\n  periodSeconds: 1\n  failureThreshold: 3",
    );
    let pod = world.apply("startup-never", &yaml)?;
    pod.wait(20, "RESTARTS 1", |pod| Ok(pod.restarts()? >= 1))?;
    pod.wait_event(5, "Container main failed startup probe, will be restarted")
}

fn tomcat(world: &World) -> Result<(), String> {
    let pod = world.apply("startup-tomcat-pod", TOMCAT)?;
    pod.wait(60, "ready", |pod| pod.ready())?;
    std::thread::sleep(std::time::Duration::from_secs(10));
    ensure!(pod.restarts()? == 0, "Tomcat was killed:\n{}", pod.describe()?);
    Ok(())
}
