//! What pause gives a pod: each shared thing proven with a real pod of two containers; and pause itself, which nothing
//! inside the pod can end.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{BUSYBOX, INSIDE_MOUNT, Pod, World, indent, squeezed};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("two_containers_share_processes_network_ipc_host_name_and_volumes", shared),
        test("without_a_shared_pid_namespace_each_container_has_its_own_pid_1", own_pid),
        test("host_network_host_pid_and_host_ipc_are_the_hosts", host_namespaces),
        test("no_signal_from_inside_ends_pause", signals),
        test("when_pause_dies_the_pod_is_rebuilt_with_the_event", pause_dies),
        test("pods_reach_each_other_the_host_and_what_the_host_reaches", reach),
        test("pause_has_no_capability_and_an_empty_read_only_root", pause_rights),
    ]
}

fn two(world: &World, name: &str, spec: &str) -> String {
    let container = |name: &str| {
        format!(
            "  - name: {name}\n    image: {BUSYBOX}\n    command: [sh, -c, 'exec sleep 60{}']\n{}    - {{name: data, mountPath: /data}}\n",
            if name == "a" { 1 } else { 2 },
            indent(INSIDE_MOUNT, 4)
        )
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n{spec}  containers:\n{}{}{}  - {{name: data, emptyDir: {{}}}}\n",
        container("a"),
        container("b"),
        world.inside_volume()
    )
}

fn shared(world: &World) -> Result<(), String> {
    let pod = world.apply("shared", &two(world, "shared", ""))?;
    pod.wait_running()?;
    ensure!(pod.row()?[1] == "2/2", "{:?}", pod.row()?);
    // Processes.
    let seen = pod.shell_in("a", "ps -o pid,args")?;
    ensure!(seen.contains("sleep 602") && seen.contains("sleep 601"), "a does not see b's process:\n{seen}");
    ensure!(
        squeezed(&seen).contains("1 pause") || seen.lines().any(|line| line.trim().starts_with("1 ")),
        "pause is PID 1:\n{seen}"
    );
    // Network: one loopback, one port space.
    pod.shell_in("a", "echo from-a > /tmp/page; busybox httpd -p 127.0.0.1:7070 -h /tmp")?;
    let page = pod.shell_in("b", "wget -q -O - http://127.0.0.1:7070/page")?;
    ensure!(page == "from-a\n", "{page:?}");
    let taken =
        world.killick(&["exec", "-q", "shared", "-c", "b", "--", "busybox", "httpd", "-f", "-p", "127.0.0.1:7070"]);
    ensure!(taken.code != 0 && taken.stderr.contains("in use"), "the port is taken once for the pod: {taken:?}");
    // IPC.
    pod.shell_in("a", "/inside shm-write over-system-v && /inside mq-send over-posix")?;
    ensure!(pod.shell_in("b", "/inside shm-read")? == "over-system-v\n", "System V shared memory");
    ensure!(pod.shell_in("b", "/inside mq-receive")? == "over-posix\n", "POSIX message queue");
    pod.shell_in("a", "echo posix > /dev/shm/x")?;
    ensure!(pod.shell_in("b", "cat /dev/shm/x")? == "posix\n", "/dev/shm");
    // UTS.
    let names = (pod.shell_in("a", "hostname")?, pod.shell_in("b", "hostname")?);
    ensure!(names.0 == "shared\n" && names.1 == "shared\n", "{names:?}");
    // Volume.
    pod.shell_in("a", "echo file > /data/file")?;
    ensure!(pod.shell_in("b", "cat /data/file")? == "file\n", "volume");
    // And not the host's.
    ensure!(world.shell("hostname")?.trim() != "shared", "the host has the pod's name");
    Ok(())
}

fn own_pid(world: &World) -> Result<(), String> {
    let pod = world.apply("own-pid", &two(world, "own-pid", "  shareProcessNamespace: false\n"))?;
    pod.wait_running()?;
    for (container, own, other) in [("a", "sleep 601", "sleep 602"), ("b", "sleep 602", "sleep 601")] {
        let first = pod.shell_in(container, "tr '\\0' ' ' < /proc/1/cmdline")?;
        ensure!(first.trim() == own, "PID 1 of {container} is {first:?}");
        let seen = pod.shell_in(container, "ps -o args")?;
        ensure!(!seen.contains(other), "{container} sees the other's process:\n{seen}");
    }
    pod.shell_in("a", "/inside shm-write still-shared")?;
    ensure!(pod.shell_in("b", "/inside shm-read")? == "still-shared\n", "IPC is shared all the same");
    Ok(())
}

fn host_namespaces(world: &World) -> Result<(), String> {
    let pod =
        world.apply("host-ns", &two(world, "host-ns", "  hostNetwork: true\n  hostPID: true\n  hostIPC: true\n"))?;
    pod.wait_running()?;
    let of = |kind: &str| {
        fs::read_link(format!("/proc/self/ns/{kind}")).map(|link| link.display().to_string()).unwrap_or_default()
    };
    for kind in ["net", "pid", "ipc", "uts"] {
        let inside = pod.shell_in("a", &format!("readlink /proc/self/ns/{kind}"))?;
        ensure!(inside.trim() == of(kind), "{kind}: {inside} is not the host's {}", of(kind));
    }
    ensure!(pod.shell("ip link show eth0").is_ok(), "the host's link is not seen");
    Ok(())
}

fn signals(world: &World) -> Result<(), String> {
    let pod = world.apply("signals", &two(world, "signals", ""))?;
    pod.wait_running()?;
    let before = pod.value("/status/containerStatuses/0/containerID")?;
    for container in ["a", "b"] {
        let sent = pod.shell_in(container, "/inside signals")?;
        ensure!(sent == "sent\n", "{sent:?}");
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    ensure!(
        pod.restarts()? == 0 && pod.value("/status/containerStatuses/0/containerID")? == before,
        "pause ended:\n{}",
        pod.describe()?
    );
    ensure!(!pod.describe()?.contains("SandboxChanged"), "pause ended");
    Ok(())
}

/// The pid of the pod's pause on the host: the process that is PID 1 of the namespace that the containers are in.
fn pause_pid(pod: &Pod<'_>) -> Result<i32, String> {
    let inside = pod.shell("readlink /proc/self/ns/pid")?;
    for entry in fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let same =
            fs::read_link(entry.path().join("ns/pid")).is_ok_and(|link| link.display().to_string() == inside.trim());
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let first =
            status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().last() == Some("1"));
        if same && first {
            return Ok(pid);
        }
    }
    Err("no pause found".into())
}

fn pause_dies(world: &World) -> Result<(), String> {
    let pod = world.apply("pause-dies", &two(world, "pause-dies", ""))?;
    pod.wait_running()?;
    let pid = pause_pid(&pod)?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|errno| format!("kill({pid}): {errno}"))?;
    pod.wait_event(10, "SandboxChanged")?;
    pod.wait_event(10, "Pod sandbox changed, it will be killed and re-created.")?;
    pod.wait(20, "both run again", |pod| {
        Ok(pod.row()?[1..3] == ["2/2".to_string(), "Running".to_string()] && pod.restarts()? == 1)
    })?;
    ensure!(pause_pid(&pod)? != pid, "a new pause");
    ensure!(pod.shell_in("a", "hostname")? == "pause-dies\n", "the new sandbox has the name");
    Ok(())
}

fn reach(world: &World) -> Result<(), String> {
    let web = "mkdir /tmp/w; hostname > /tmp/w/index.html; exec busybox httpd -f -p 80 -h /tmp/w";
    let one = world.apply("reach-one", &world.busybox("reach-one", web, ""))?;
    let two = world.apply("reach-two", &world.busybox("reach-two", web, ""))?;
    one.wait_running()?;
    two.wait_running()?;
    let ip = |pod: &Pod<'_>| Ok::<_, String>(pod.value("/status/podIP")?.as_str().unwrap_or_default().to_string());
    let (first, second) = (ip(&one)?, ip(&two)?);
    ensure!(first.starts_with("10.88.") && second.starts_with("10.88.") && first != second, "{first} {second}");
    ensure!(one.shell(&format!("wget -q -O - http://{second}/"))? == "reach-two\n", "pod to pod");
    ensure!(world.shell(&format!("busybox wget -q -O - http://{first}/"))? == "reach-one\n", "host to pod");
    // The host's own address, and a machine beyond it, which only knows the host's address (masquerade).
    let outside = format!("wget -q -O - http://{}/", crate::world::OUTSIDE);
    ensure!(one.shell(&outside)? == "outside\n", "pod to the outside");
    let host = one.shell("ping -c 1 -W 2 198.51.100.2");
    ensure!(host.is_ok(), "pod to host: {host:?}");
    ensure!(one.shell("cat /etc/hosts")?.contains(&format!("{first}\treach-one")), "/etc/hosts");
    Ok(())
}

fn pause_rights(world: &World) -> Result<(), String> {
    let pod = world.apply("pause-rights", &two(world, "pause-rights", ""))?;
    pod.wait_running()?;
    let pid = pause_pid(&pod)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
    for line in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "Uid:\t65535\t65535\t65535\t65535",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Threads:\t1",
    ] {
        ensure!(status.contains(line), "no {line:?} in\n{status}");
    }
    let root = fs::read_dir(format!("/proc/{pid}/root/"))
        .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
    // Where a program cannot be run by its descriptor, pause sees its own.
    let expected: &[&str] = if world.is_before((3, 19)) { &["pause"] } else { &[] };
    ensure!(root.as_ref().is_ok_and(|found| found == expected), "pause's root holds {root:?}");
    ensure!(fs::write(format!("/proc/{pid}/root/x"), "x").is_err(), "pause's root is writable");
    Ok(())
}
