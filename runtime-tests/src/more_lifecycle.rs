//! Sidecars, deadlines, hooks that fail, and errors of single containers: kubelet's words on real pods.

use std::time::Duration;

use crate::world::{BUSYBOX, World, squeezed};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("a_sidecar_starts_first_counts_as_ready_and_ends_with_the_pod", sidecar),
        test("a_pod_past_its_active_deadline_has_failed", deadline),
        test("a_failing_post_start_hook_kills_the_container_and_says_so", post_start),
        test("a_working_directory_that_is_a_file_is_a_start_error", bad_directory),
        test("a_host_network_pod_has_the_nodes_address_and_no_link_of_its_own", host_network),
        test("a_config_map_applied_later_lets_the_waiting_container_start", object_later),
        test("a_name_is_free_again_when_its_pod_is_gone", name_again),
        test("the_oom_score_is_set_or_its_refusal_is_written_down", oom_score),
        test("a_mount_made_inside_is_seen_outside_where_bidirectional_is_asked_for", bidirectional),
        test("supplementary_groups_and_fs_group_reach_the_volume", groups),
    ]
}

fn sidecar(world: &World) -> Result<(), String> {
    let yaml = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: sidecar}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 2\n  volumes: [{{name: data, emptyDir: {{}}}}]\n  initContainers:\n  - name: helper\n    image: {BUSYBOX}\n    restartPolicy: Always\n    command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 0.1; done']\n    startupProbe: {{exec: {{command: [\"true\"]}}, periodSeconds: 1}}\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [sh, -c, 'while [ ! -e /data/end ]; do sleep 0.1; done']\n    volumeMounts: [{{name: data, mountPath: /data}}]\n"
    );
    let pod = world.apply("sidecar", &yaml)?;
    pod.wait(20, "2/2", |pod| Ok(pod.row()?[1..3] == ["2/2".to_string(), "Running".to_string()]))?;
    let helper = pod.value("/status/initContainerStatuses/0/state/running/startedAt")?;
    let main = pod.value("/status/containerStatuses/0/state/running/startedAt")?;
    ensure!(helper.as_str() <= main.as_str(), "{helper} is not before {main}");
    // The command may go with the container that it ends: what counts is that the file is there.
    let _ = pod.shell("touch /data/end");
    pod.wait(20, "Succeeded", |pod| Ok(pod.value("/status/phase")? == "Succeeded"))?;
    ensure!(!pod.value("/status/initContainerStatuses/0/state/terminated")?.is_null(), "the sidecar still runs");
    ensure!(pod.status_word()? == "Completed", "{:?}", pod.row()?);
    Ok(())
}

fn deadline(world: &World) -> Result<(), String> {
    let seconds = world.patience(4);
    let yaml = world
        .busybox("deadline", "exec sleep 600", "")
        .replace("spec:\n", &format!("spec:\n  activeDeadlineSeconds: {seconds}\n"));
    let pod = world.apply("deadline", &yaml)?;
    pod.wait_running()?;
    pod.wait(20, "Failed", |pod| Ok(pod.value("/status/phase")? == "Failed"))?;
    ensure!(pod.value("/status/reason")? == "DeadlineExceeded", "{}", pod.value("/status")?);
    ensure!(
        pod.value("/status/message")? == "Pod was active on the node longer than the specified deadline",
        "{}",
        pod.value("/status/message")?
    );
    pod.wait(10, "the container has ended", |pod| {
        Ok(!pod.value("/status/containerStatuses/0/state/terminated")?.is_null())
    })?;
    pod.wait_event(5, "DeadlineExceeded")
}

fn post_start(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "post-start",
        "exec sleep 600",
        "lifecycle: {postStart: {exec: {command: [sh, -c, 'echo oops; exit 3']}}}",
    );
    let pod = world.apply("post-start", &yaml)?;
    pod.wait_event(15, "Warning FailedPostStartHook")?;
    pod.wait_event(5, "PostStartHook failed")?;
    pod.wait(20, "restarted, with the hook's words", |pod| Ok(pod.restarts()? >= 1))?;
    let describe = squeezed(&pod.describe()?);
    ensure!(describe.contains("FailedPostStartHook"), "{describe}");
    ensure!(!pod.ready()?, "ready although its hook failed");
    Ok(())
}

fn bad_directory(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox("bad-cwd", "exec sleep 600", "workingDir: /etc/passwd")
        .replace("spec:\n", "spec:\n  restartPolicy: Never\n");
    let pod = world.apply("bad-cwd", &yaml)?;
    pod.wait(15, "StartError", |pod| Ok(pod.status_word()? == "StartError"))?;
    let state = pod.value("/status/containerStatuses/0/state/terminated")?;
    ensure!(state["exitCode"] == 128 && state["reason"] == "StartError", "{state}");
    ensure!(state["message"].as_str().unwrap_or_default().contains("/etc/passwd: not a directory"), "{state}");
    pod.wait_event(5, "Warning Failed")?;
    ensure!(pod.value("/status/phase")? == "Failed", "{}", pod.value("/status/phase")?);
    Ok(())
}

fn host_network(world: &World) -> Result<(), String> {
    let yaml = world.busybox("host-network", "exec sleep 600", "").replace("spec:\n", "spec:\n  hostNetwork: true\n");
    let pod = world.apply("host-network", &yaml)?;
    pod.wait_running()?;
    ensure!(pod.value("/status/podIP")? == "198.51.100.2", "{}", pod.value("/status")?);
    ensure!(pod.value("/status/hostIP")? == "198.51.100.2", "{}", pod.value("/status")?);
    let uid = pod.uid()?;
    let addresses =
        world.shell(&format!("grep -rl {uid} {}/run/ipam 2>/dev/null || true", world.directory.display()))?;
    ensure!(addresses.is_empty(), "an address was taken: {addresses}");
    ensure!(pod.shell("hostname")? == world.shell("uname -n")?, "the node's host name");
    Ok(())
}

fn object_later(world: &World) -> Result<(), String> {
    let yaml = world.busybox(
        "object-later",
        "exec sleep 600",
        "env: [{name: X, valueFrom: {secretKeyRef: {name: object-later, key: x}}}]\nvolumeMounts: [{name: s, mountPath: /s}]",
    ) + "  volumes: [{name: s, secret: {secretName: object-later}}]\n";
    let pod = world.apply("object-later", &yaml)?;
    pod.wait_event(15, "MountVolume.SetUp failed for volume \"s\" : secret \"object-later\" not found")?;
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: object-later}\ndata: {x: aGVsbG8=}\n";
    let created = world.killick_with_input(&["apply", "-f", "-"], secret);
    ensure!(created.stdout == "secret/object-later created\n", "{created:?}");
    pod.wait(60, "running", |pod| Ok(pod.status_word()? == "Running"))?;
    ensure!(pod.shell("echo $X; cat /s/x")? == "hello\nhello", "the secret's value");
    drop(pod);
    world.ok(&["delete", "secret", "object-later"]).map(drop)
}

fn name_again(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox("name-again", "trap '' TERM; while :; do sleep 0.1; done", "")
        .replace("Seconds: 2", "Seconds: 4");
    let pod = world.apply("name-again", &yaml)?;
    pod.wait_running()?;
    let uid = pod.uid()?;
    world.ok(&["delete", "pod", "name-again", "--wait=false"])?;
    pod.wait(3, "Terminating", |pod| Ok(pod.status_word()? == "Terminating"))?;
    // While it goes the name is taken: nothing new is made beside it.
    let early = world.killick_with_input(&["apply", "-f", "-"], &yaml);
    ensure!(
        !early.stdout.contains("created")
            && world.ok(&["get", "pods", "-o", "name"])?.matches("pod/name-again\n").count() == 1,
        "{early:?}"
    );
    pod.wait(20, "gone", |_| Ok(world.killick(&["get", "pod", "name-again"]).code == 1))?;
    let again = world.killick_with_input(&["apply", "-f", "-"], &yaml);
    ensure!(again.stdout == "pod/name-again created\n", "{again:?}");
    pod.wait_running()?;
    ensure!(pod.uid()? != uid, "the same uid");
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn groups(world: &World) -> Result<(), String> {
    let yaml = world
        .busybox(
            "groups",
            "exec sleep 600",
            "securityContext: {runAsUser: 1000, runAsGroup: 2000}\nvolumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /read, readOnly: true}]",
        )
        .replace("spec:\n", "spec:\n  securityContext: {fsGroup: 4000, supplementalGroups: [3000]}\n")
        + "  volumes: [{name: data, emptyDir: {}}]\n";
    let pod = world.apply("groups", &yaml)?;
    pod.wait_running()?;
    let groups = pod.shell("id -G")?;
    for group in ["2000", "3000", "4000"] {
        ensure!(groups.split_whitespace().any(|seen| seen == group), "no {group} in {groups}");
    }
    pod.shell("echo x > /data/file")?;
    ensure!(pod.shell("stat -c %g /data /data/file")? == "4000\n4000\n", "{}", pod.shell("ls -ln /data")?);
    ensure!(pod.shell("echo y > /read/file").is_err(), "a read-only mount is writable");
    Ok(())
}

/// A host without CAP_SYS_RESOURCE refuses a lower score: that is told, and the container runs.
fn oom_score(world: &World) -> Result<(), String> {
    let pod = world.apply(
        "oom-told",
        &world.busybox("oom-told", "exec sleep 600", "resources: {limits: {cpu: 100m, memory: 32Mi}}"),
    )?;
    pod.wait_running()?;
    if pod.shell("cat /proc/1/oom_score_adj; cat /proc/self/oom_score_adj")?.lines().any(|score| score == "-997") {
        return Ok(());
    }
    let log = world.directory.join("run/pods").join(pod.uid()?).join("shim.log");
    let log = std::fs::read_to_string(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    ensure!(log.contains("oom_score_adj"), "the refusal is not told:\n{log}");
    Ok(())
}

fn bidirectional(world: &World) -> Result<(), String> {
    let base = world.directory.join("bidirectional");
    std::fs::create_dir_all(&base).map_err(|error| error.to_string())?;
    let path = base.display().to_string();
    world.shell(&format!("mount -t tmpfs killick-test {path} && mount --make-shared {path} && mkdir {path}/inside"))?;
    let outcome = (|| {
        let yaml = world.busybox(
            "bidirectional",
            "exec sleep 600",
            "securityContext: {privileged: true}\nvolumeMounts: [{name: host, mountPath: /host, mountPropagation: Bidirectional}]",
        ) + &format!("  volumes: [{{name: host, hostPath: {{path: {path}}}}}]\n");
        let pod = world.apply("bidirectional", &yaml)?;
        pod.wait_running()?;
        pod.shell("mount -t tmpfs from-inside /host/inside && touch /host/inside/seen")?;
        ensure!(base.join("inside/seen").exists(), "the host does not see the container's mount");
        pod.shell("umount /host/inside")?;
        ensure!(!base.join("inside/seen").exists(), "the host does not see the container's umount");
        Ok(())
    })();
    world.shell(&format!("umount {path}/inside 2>/dev/null; umount {path}"))?;
    outcome
}
