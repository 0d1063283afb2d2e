//! Restart policies, back-off, init containers, hooks, termination: kubelet's rules on real pods.

use std::time::Duration;

use crate::world::{BUSYBOX, World, squeezed};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("restart_policies_give_kubelets_phases_reasons_and_restarts", policies),
        test("always_restarts_after_exit_0_and_backs_off", always),
        test("init_containers_run_in_order_before_the_others", init_containers),
        test("a_failing_init_container_with_never_fails_the_pod", init_fails),
        test("a_term_handler_ends_the_pod_within_its_grace_period", graceful),
        test("a_container_that_ignores_term_is_killed_after_its_grace_period", ignores_term),
        test("prestop_runs_before_the_signal", prestop),
        test("when_the_first_process_ends_the_rest_of_the_container_is_killed", rest_is_killed),
        test("an_oom_kill_is_reported_as_oomkilled", oom),
        test("the_termination_message_is_read_and_cut", termination_message),
    ]
}

fn policies(world: &World) -> Result<(), String> {
    let cases = [
        ("on-failure-0", "OnFailure", 0, "Succeeded", "Completed"),
        ("never-0", "Never", 0, "Succeeded", "Completed"),
        ("never-3", "Never", 3, "Failed", "Error"),
    ];
    for (name, policy, code, phase, word) in cases {
        let yaml = world
            .busybox(name, &format!("sleep 1; exit {code}"), "")
            .replace("spec:\n", &format!("spec:\n  restartPolicy: {policy}\n"));
        let pod = world.apply(name, &yaml)?;
        pod.wait(20, phase, |pod| Ok(pod.value("/status/phase")? == phase))?;
        let row = pod.row()?;
        ensure!(row[2] == word && row[3] == "0" && row[1] == "0/1", "{policy} with {code}: {row:?}");
        let state = pod.value("/status/containerStatuses/0/state/terminated")?;
        ensure!(state["exitCode"] == code && state["reason"] == word, "{policy} with {code}: {state}");
    }
    let yaml =
        world.busybox("on-failure-3", "sleep 1; exit 3", "").replace("spec:\n", "spec:\n  restartPolicy: OnFailure\n");
    let pod = world.apply("on-failure-3", &yaml)?;
    pod.wait(20, "a restart", |pod| Ok(pod.restarts()? >= 1))?;
    let last = pod.value("/status/containerStatuses/0/lastState/terminated")?;
    ensure!(last["exitCode"] == 3 && last["reason"] == "Error", "{last}");
    ensure!(pod.value("/status/phase")? == "Running", "OnFailure with 3 is not finished");
    Ok(())
}

fn always(world: &World) -> Result<(), String> {
    let pod = world.apply("always-0", &world.busybox("always-0", "sleep 1; exit 0", ""))?;
    pod.wait(30, "CrashLoopBackOff", |pod| Ok(pod.status_word()? == "CrashLoopBackOff"))?;
    ensure!(pod.restarts()? >= 1, "no restart");
    ensure!(pod.value("/status/phase")? == "Running", "phase {}", pod.value("/status/phase")?);
    let waiting = pod.value("/status/containerStatuses/0/state/waiting")?;
    ensure!(
        waiting["message"]
            .as_str()
            .unwrap_or_default()
            .starts_with("back-off 10s restarting failed container=main pod=always-0_default("),
        "{waiting}"
    );
    pod.wait(25, "the next restart", |pod| Ok(pod.restarts()? >= 2))
}

fn init_containers(world: &World) -> Result<(), String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: init-order}}\nspec:\n  terminationGracePeriodSeconds: 2\n  volumes: [{{name: data, emptyDir: {{}}}}]\n  initContainers:\n  - name: one\n    image: {BUSYBOX}\n    command: [sh, -c, 'sleep 2; echo one >> /data/order']\n    volumeMounts: [{{name: data, mountPath: /data}}]\n  - name: two\n    image: {BUSYBOX}\n    command: [sh, -c, 'echo two >> /data/order']\n    volumeMounts: [{{name: data, mountPath: /data}}]\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [sh, -c, 'echo main >> /data/order; exec sleep 600']\n    volumeMounts: [{{name: data, mountPath: /data}}]\n"
    );
    let pod = world.apply("init-order", &yaml)?;
    pod.wait(5, "Init:0/2", |pod| Ok(pod.status_word()? == "Init:0/2"))?;
    pod.wait_running()?;
    let order = pod.shell("cat /data/order")?;
    ensure!(order == "one\ntwo\nmain\n", "{order:?}");
    Ok(())
}

fn init_fails(world: &World) -> Result<(), String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: init-fails}}\nspec:\n  restartPolicy: Never\n  initContainers:\n  - name: one\n    image: {BUSYBOX}\n    command: [sh, -c, 'exit 4']\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [sleep, '600']\n"
    );
    let pod = world.apply("init-fails", &yaml)?;
    pod.wait(20, "Failed", |pod| Ok(pod.value("/status/phase")? == "Failed"))?;
    ensure!(pod.status_word()? == "Init:Error", "{:?}", pod.row()?);
    Ok(())
}

fn graceful(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox("graceful", "trap 'sleep 1; echo bye; exit 0' TERM; while :; do sleep 0.1; done", "")
        .replace("terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 20");
    let pod = world.apply("graceful", &yaml)?;
    pod.wait_running()?;
    let start = std::time::Instant::now();
    let text = world.ok(&["delete", "pod", "graceful"])?;
    ensure!(text == "pod \"graceful\" deleted from default namespace\n", "{text:?}");
    ensure!(start.elapsed() < Duration::from_secs(world.patience(15)), "the handler's exit was not noticed");
    let gone = world.killick(&["get", "pod", "graceful"]);
    ensure!(
        gone.code == 1 && gone.stderr.contains("Error from server (NotFound): pods \"graceful\" not found"),
        "{gone:?}"
    );
    Ok(())
}

fn ignores_term(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox("ignores-term", "trap '' TERM; while :; do sleep 0.1; done", "")
        .replace("terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 4");
    let pod = world.apply("ignores-term", &yaml)?;
    pod.wait_running()?;
    let start = std::time::Instant::now();
    world.ok(&["delete", "pod", "ignores-term"])?;
    ensure!(
        start.elapsed() >= Duration::from_secs(4),
        "killed before its grace period was over: {:?}",
        start.elapsed()
    );
    Ok(())
}

fn prestop(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox(
            "prestop",
            "trap 'echo signalled >> /data/order; exit 0' TERM; while :; do sleep 0.1; done",
            "lifecycle:\n  preStop:\n    exec: {command: [sh, -c, 'echo hook >> /data/order']}\nvolumeMounts: [{name: data, mountPath: /data}]",
        )
        .replace("terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 15")
        + &format!("  volumes: [{{name: data, hostPath: {{path: {}/prestop, type: DirectoryOrCreate}}}}]\n", world.directory.display());
    let pod = world.apply("prestop", &yaml)?;
    pod.wait_running()?;
    world.ok(&["delete", "pod", "prestop"])?;
    let order = std::fs::read_to_string(world.directory.join("prestop/order")).map_err(|error| error.to_string())?;
    ensure!(order == "hook\nsignalled\n", "{order:?}");
    Ok(())
}

fn rest_is_killed(world: &World) -> Result<(), String> {
    let line = "setsid sleep 4242 & setsid sleep 4243 & sleep 1; exit 5";
    let pod = world.apply(
        "rest-killed",
        &world.busybox("rest-killed", line, "").replace("spec:\n", "spec:\n  restartPolicy: OnFailure\n"),
    )?;
    pod.wait(20, "a restart", |pod| Ok(pod.restarts()? >= 1))?;
    pod.wait(30, "running again", |pod| Ok(pod.status_word()? == "Running"))?;
    let processes = pod.shell("ps -o args")?;
    ensure!(
        processes.lines().filter(|line| *line == "sleep 4242").count() <= 1,
        "processes of the first attempt are still there:\n{processes}"
    );
    Ok(())
}

fn oom(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "oom",
        "exec /inside memory 200",
        &format!("{}\nresources: {{limits: {{memory: 32Mi}}}}", crate::world::INSIDE_MOUNT),
    ) + &world.inside_volume();
    let pod = world.apply("oom", &yaml.replace("spec:\n", "spec:\n  restartPolicy: Never\n"))?;
    pod.wait(30, "an end", |pod| Ok(!pod.value("/status/containerStatuses/0/state/terminated")?.is_null()))?;
    let state = pod.value("/status/containerStatuses/0/state/terminated")?;
    ensure!(state["reason"] == "OOMKilled" && state["exitCode"] == 137, "{state}");
    Ok(())
}

fn termination_message(world: &World) -> Result<(), String> {
    let line =
        "head -c 5000 /dev/zero | tr '\\0' x > /dev/termination-log; echo -n END >> /dev/termination-log; exit 1";
    let pod = world.apply(
        "last-words",
        &world.busybox("last-words", line, "").replace("spec:\n", "spec:\n  restartPolicy: Never\n"),
    )?;
    pod.wait(20, "Failed", |pod| Ok(pod.value("/status/phase")? == "Failed"))?;
    let message = pod.value("/status/containerStatuses/0/state/terminated/message")?;
    let message = message.as_str().unwrap_or_default();
    ensure!(
        message.len() == 4096 && message.ends_with("xEND"),
        "{} bytes: …{:?}",
        message.len(),
        &message[message.len().saturating_sub(10)..]
    );
    ensure!(squeezed(&pod.describe()?).contains("Exit Code: 1"), "describe");
    Ok(())
}
