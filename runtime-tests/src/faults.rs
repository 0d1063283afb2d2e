//! When the machine fails: a full disk, a network that is taken, a reboot; and nothing that grows with use.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::apart::Apart;
use crate::world::{Pod, World, squeezed};
use crate::{Test, ensure, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("a_full_disk_is_said_and_leaves_nothing", full_disk),
        test("a_subnet_that_overlaps_a_route_is_refused_and_names_it", overlap),
        test("after_a_reboot_the_next_command_starts_the_pods_again", reboot),
        test("an_apply_that_is_killed_leaves_a_whole_pod_or_none", killed_apply),
        test("a_directory_that_cannot_be_written_is_named", unwritable),
        test("a_full_log_disk_loses_no_line_and_ends_nothing", full_log_disk),
        test("a_damaged_state_is_begun_anew_and_ends_whole", damaged_state),
        test("when_keep_dies_the_pod_goes_on_and_says_so", keep_dies),
        test("the_callers_environment_and_limits_do_not_reach_a_container", environment),
        test("execs_logs_and_restarts_leave_no_descriptor_and_no_thread", nothing_grows),
    ]
}

fn full_disk(world: &World) -> Result<(), String> {
    let apart = Apart::new(world, "full")?;
    let disk = apart.directory.join("root");
    fs::create_dir_all(&disk).map_err(|error| error.to_string())?;
    let path = disk.display().to_string();
    let logs = apart.directory.join("logs").display().to_string();
    let outcome = (|| {
        world.shell(&format!("mount -t tmpfs -o size=1m killick-full {path}"))?;
        let archive = apart.busybox_archive().display().to_string();
        let import = apart.run(&["image", "import", &archive], None);
        ensure!(import.code == 1 && import.stderr.contains("no space left on device"), "import: {import:?}");
        ensure!(import.stderr.lines().count() == 1, "import: {import:?}");
        let used = world.shell(&format!("find {path} -type f -size +0 | wc -l"))?;
        ensure!(used.trim() == "0", "the import left {used} files:\n{}", world.shell(&format!("find {path}"))?);

        world.shell(&format!("mount -o remount,size=8m {path} && mkdir -p {logs}"))?;
        apart.import_busybox()?;
        let fill = format!("dd if=/dev/zero of={path}/filler bs=4k 2>/dev/null || true");
        let yaml = world.busybox("full", "echo hello; exec sleep 600", "");
        world.shell(&fill)?;
        let apply = apart.run(&["apply", "-f", "-"], Some(&yaml));
        ensure!(
            apply.code == 1 && apply.stdout.is_empty() && apply.stderr.contains("No space left on device"),
            "apply: {apply:?}"
        );
        ensure!(apart.ok(&["get", "pods"], None)?.is_empty(), "the pod is there");
        for place in ["root/pods", "run/pods", "run/names"] {
            let left = fs::read_dir(apart.directory.join(place)).map(Iterator::count).unwrap_or(0);
            ensure!(left == 0, "{left} left in {place}");
        }

        // A disk that becomes full while the pod runs: it goes on, says so where it writes, and can be deleted.
        world.shell(&format!("rm {path}/filler"))?;
        apart.ok(&["apply", "-f", "-"], Some(&yaml))?;
        apart.wait(15, "running", |apart| {
            apart.ok(&["get", "pods", "--no-headers"], None).is_ok_and(|rows| rows.contains("Running"))
        })?;
        world.shell(&fill)?;
        let write = apart.run(&["exec", "full", "--", "sh", "-c", "echo x > /x"], None);
        ensure!(write.code == 1 && write.stderr.contains("No space left on device"), "{write:?}");
        ensure!(apart.ok(&["exec", "full", "--", "echo", "lives"], None)? == "lives\n", "exec");
        apart.ok(&["delete", "pod", "full", "--now"], None)?;
        for place in ["root/pods", "run/pods", "run/names", "logs"] {
            let left = fs::read_dir(apart.directory.join(place)).map(Iterator::count).unwrap_or(0);
            ensure!(left == 0, "{left} left in {place}");
        }
        Ok(())
    })();
    drop(apart);
    world.shell(&format!("umount {path}"))?;
    outcome
}

fn overlap(world: &World) -> Result<(), String> {
    let apart = Apart::new(world, "overlap")?;
    apart.import_busybox()?;
    apart.shell(
        "ip link add lan0 type veth peer name lan1 && ip addr add 10.88.3.1/24 dev lan0 && ip link set lan0 up",
    )?;
    apart.ok(&["apply", "-f", "-"], Some(&world.busybox("overlap", "exec sleep 600", "")))?;
    let mut events = String::new();
    apart.wait(15, "the refusal", |apart| {
        events = apart.ok(&["describe", "pod", "overlap"], None).unwrap_or_default();
        events.contains("FailedCreatePodSandBox")
    })?;
    let events = squeezed(&events);
    ensure!(
        events.contains("Failed to create pod sandbox: ") && events.contains("10.88.3.0/24") && events.contains("lan0"),
        "the route is not named:\n{events}"
    );
    let row = apart.ok(&["get", "pods", "--no-headers"], None)?;
    ensure!(squeezed(&row).starts_with("overlap 0/1 ContainerCreating 0"), "{row}");
    let links = apart.shell("ip -o link")?;
    ensure!(!links.contains("killick0") && links.lines().count() == 3, "links are left:\n{links}");
    // With the route gone it starts by itself.
    apart.shell("ip link del lan0")?;
    apart.wait(30, "running", |apart| {
        apart.ok(&["get", "pods", "--no-headers"], None).is_ok_and(|rows| rows.contains("Running"))
    })?;
    apart.ok(&["delete", "pod", "overlap", "--now"], None)?;
    ensure!(!apart.shell("ip -o link")?.contains("killick0"), "the bridge is left");
    Ok(())
}

/// The host's processes below these, the given ones included.
fn family(roots: &[u32]) -> Vec<u32> {
    let mut found = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        next += 1;
    }
    found
}

/// On an old kernel a pod has mounts in the host's mount namespace.
fn unmount_below(directory: &std::path::Path) {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(std::path::Path::new);
    for point in points.filter(|point| point.starts_with(directory)) {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Everything that a reboot takes: the processes, /run, the network.
fn reboot(world: &World) -> Result<(), String> {
    let mut apart = Apart::new(world, "reboot")?;
    apart.import_busybox()?;
    let yaml = world.busybox(
        "reboot",
        "echo boot >> /data/boots; exec sleep 600",
        "volumeMounts: [{name: data, mountPath: /data}]",
    ) + "  volumes: [{name: data, emptyDir: {}}]\n";
    apart.ok(&["apply", "-f", "-"], Some(&yaml))?;
    let runs = |apart: &Apart<'_>| {
        apart
            .ok(&["get", "pods", "--no-headers"], None)
            .is_ok_and(|rows| rows.contains("1/1") && rows.contains("Running"))
    };
    apart.wait(15, "running", runs)?;
    let uid = apart.ok(&["get", "pod", "reboot", "-o", "jsonpath={.metadata.uid}"], None)?;
    let keep: Vec<u32> = fs::read_dir("/proc")
        .map_err(|error| error.to_string())?
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(&uid) && line.contains("keep")
        })
        .collect();
    ensure!(keep.len() == 1, "keeps of {uid}: {keep:?}");
    for pid in family(&keep) {
        let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
    }
    let run = apart.directory.join("run");
    // The killed processes go asynchronously; /run's content goes with the boot.
    std::thread::sleep(std::time::Duration::from_millis(300));
    unmount_below(&run);
    fs::remove_dir_all(&run).map_err(|error| format!("{}: {error}", run.display()))?;
    apart.new_network()?;
    let rows = apart.ok(&["get", "pods", "--no-headers"], None)?;
    ensure!(rows.contains("reboot"), "the pod is not listed: {rows:?}");
    apart.wait(20, "running again", runs)?;
    ensure!(apart.ok(&["get", "pod", "reboot", "-o", "jsonpath={.metadata.uid}"], None)? == uid, "another pod");
    let boots = apart.ok(&["exec", "reboot", "--", "cat", "/data/boots"], None)?;
    ensure!(boots == "boot\nboot\n", "an emptyDir lives as long as its pod: {boots:?}");
    apart.ok(&["delete", "pod", "reboot", "--now"], None)?;
    Ok(())
}

fn nothing_grows(world: &World) -> Result<(), String> {
    let yaml = world.busybox("grows", "echo up; exec sleep 600", "");
    let pod = world.apply("grows", &yaml)?;
    pod.wait_running()?;
    let shim = pod.shim_pid()?;
    let keep = pod.keep_pid()?;
    let descriptors = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0);
    let round = |pod: &Pod<'_>, number: u64| {
        for _ in 0..5 {
            pod.shell("echo hi")?;
        }
        let _ = world.killick(&["exec", "-q", "grows", "--", "nosuch"]);
        world.ok(&["logs", "grows"])?;
        // The container ends and comes back.
        pod.shell("kill -9 $(pidof sleep)").ok();
        pod.wait(60, "a restart", |pod| Ok(pod.restarts()? == number && pod.status_word()? == "Running"))
    };
    round(&pod, 1)?;
    let before = (descriptors(shim), descriptors(keep));
    round(&pod, 2)?;
    pod.wait(5, "the descriptors are back", |_| Ok(descriptors(shim) <= before.0 && descriptors(keep) <= before.1))
        .map_err(|error| format!("{before:?} became {:?}\n{error}", (descriptors(shim), descriptors(keep))))?;
    ensure!(pod.shim_pid()? == shim && pod.keep_pid()? == keep, "another shim or keep");
    for pid in [shim, keep] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| error.to_string())?;
        ensure!(status.contains("Threads:\t1\n"), "more than one thread:\n{status}");
    }
    Ok(())
}

/// Each round kills `apply` a little later in its life; the name can be used all the same.
fn killed_apply(world: &World) -> Result<(), String> {
    let apart = Apart::new(world, "killed-apply")?;
    apart.import_busybox()?;
    let file = apart.directory.join("pod.yaml");
    fs::write(&file, world.busybox("killed-apply", "exec sleep 600", "")).map_err(|error| error.to_string())?;
    let file = file.display().to_string();
    for round in 0..12u64 {
        let mut child = apart
            .command(&["apply", "-f", &file])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        std::thread::sleep(std::time::Duration::from_millis(round * 4));
        let _ = child.kill();
        let _ = child.wait();
        let listed = apart.run(&["get", "pods", "-o", "name"], None);
        ensure!(
            listed.code == 0 && ["", "pod/killed-apply\n"].contains(&listed.stdout.as_str()),
            "round {round}: {listed:?}"
        );
        let again = apart.run(&["apply", "-f", &file], None);
        ensure!(
            again.code == 0
                && ["pod/killed-apply created\n", "pod/killed-apply unchanged\n"].contains(&again.stdout.as_str()),
            "round {round}: {again:?}"
        );
        let deleted = apart.run(&["delete", "pod", "killed-apply", "--now"], None);
        ensure!(deleted.code == 0, "round {round}: {deleted:?}");
    }
    Ok(())
}

fn unwritable(world: &World) -> Result<(), String> {
    let apart = Apart::new(world, "unwritable")?;
    fs::write(apart.directory.join("root"), "a file where a directory should be\n")
        .map_err(|error| error.to_string())?;
    let yaml = world.busybox("unwritable", "exec sleep 600", "");
    for (arguments, input) in [
        (vec!["apply", "-f", "-"], Some(yaml.as_str())),
        (vec!["image", "import", "-"], Some("x")),
        (vec!["image", "ls"], None),
    ] {
        let output = apart.run(&arguments, input);
        ensure!(
            output.code == 1 && output.stdout.is_empty() && output.stderr.contains("apart-unwritable/root"),
            "{arguments:?}: {output:?}"
        );
        ensure!(output.stderr.lines().count() == 1, "{arguments:?}: {output:?}");
    }
    Ok(())
}

/// What does not fit waits in the pipe, as the container then does; nothing is dropped and nothing spins.
fn full_log_disk(world: &World) -> Result<(), String> {
    let apart = Apart::new(world, "full-logs")?;
    apart.import_busybox()?;
    let logs = apart.directory.join("logs");
    fs::create_dir_all(&logs).map_err(|error| error.to_string())?;
    let path = logs.display().to_string();
    let outcome = (|| {
        world.shell(&format!("mount -t tmpfs -o size=64k killick-full {path}"))?;
        let line = "i=0; while [ $i -lt 6000 ]; do echo line-$i; i=$((i+1)); done; exec sleep 600";
        apart.ok(&["apply", "-f", "-"], Some(&world.busybox("full-logs", line, "")))?;
        apart.wait(20, "it runs", |apart| apart.ok(&["exec", "full-logs", "--", "echo", "lives"], None).is_ok())?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        let early = apart.ok(&["logs", "full-logs"], None)?;
        ensure!(!early.contains("line-5999"), "64 KiB hold all of it: this proves nothing");
        ensure!(apart.ok(&["exec", "full-logs", "--", "echo", "lives"], None).is_ok(), "exec waits for the log");
        world.shell(&format!("mount -o remount,size=1m {path}"))?;
        let mut log = String::new();
        apart.wait(30, "the last line", |apart| {
            log = apart.ok(&["logs", "full-logs"], None).unwrap_or_default();
            log.ends_with("line-5999\n")
        })?;
        for (number, line) in log.lines().enumerate() {
            ensure!(line == format!("line-{number}"), "line {number} is {line:?}");
        }
        ensure!(
            apart.ok(&["get", "pods", "--no-headers"], None).is_ok_and(|row| squeezed(&row).contains("1/1 Running 0")),
            "restarted"
        );
        apart.ok(&["delete", "pod", "full-logs", "--now"], None).map(drop)
    })();
    drop(apart);
    world.shell(&format!("umount {path}"))?;
    outcome
}

fn damaged_state(world: &World) -> Result<(), String> {
    let pod = world.apply("damaged", &world.busybox("damaged", "exec sleep 600", ""))?;
    pod.wait_running()?;
    let directory = world.directory.join("run/pods").join(pod.uid()?);
    let shim = pod.shim_pid()?;
    for file in ["state.json", "status.json"] {
        fs::write(directory.join(file), "{\"version\": 1, garbage").map_err(|error| error.to_string())?;
    }
    ensure!(pod.row()?[0] == "damaged", "not listed: {:?}", pod.row()?);
    kill(Pid::from_raw(shim as i32), Signal::SIGKILL).map_err(|errno| format!("kill({shim}): {errno}"))?;
    pod.wait(15, "it runs again", |pod| {
        Ok(pod.shim_pid().is_ok_and(|pid| pid != shim)
            && pod.row()?[1..3] == ["1/1".to_string(), "Running".to_string()])
    })?;
    ensure!(pod.shell("ps | grep -c '[s]leep 600'")?.trim() == "1", "the old container is still there");
    Ok(())
}

fn keep_dies(world: &World) -> Result<(), String> {
    let pod = world.apply(
        "keep-dies",
        &world.busybox(
            "keep-dies",
            "exec sleep 600",
            "readinessProbe: {exec: {command: [\"true\"]}, periodSeconds: 1}",
        ),
    )?;
    pod.wait(15, "ready", |pod| pod.ready())?;
    let (keep, shim) = (pod.keep_pid()?, pod.shim_pid()?);
    kill(Pid::from_raw(keep as i32), Signal::SIGKILL).map_err(|errno| format!("kill({keep}): {errno}"))?;
    pod.wait_event(5, "Warning KeepLost")?;
    ensure!(pod.shell("echo lives")? == "lives\n" && pod.shim_pid()? == shim, "the pod did not go on");
    ensure!(pod.restarts()? == 0 && pod.ready()?, "{:?}", pod.row()?);
    let deleted = world.killick(&["delete", "pod", "keep-dies", "--now"]);
    ensure!(deleted.code == 0 && deleted.stderr.is_empty(), "{deleted:?}");
    Ok(())
}

fn environment(world: &World) -> Result<(), String> {
    let file = world.directory.join("callers.yaml");
    fs::write(&file, world.busybox("callers", "env; exec sleep 600", "")).map_err(|error| error.to_string())?;
    let pod = Pod { world, name: "callers".into() };
    let mut apply = world.command(&["apply", "-f", &file.display().to_string()]);
    let output = crate::world::run(apply.env("FROM_CALLER", "leaked"), None);
    ensure!(output.code == 0, "{output:?}");
    pod.wait_running()?;
    let mut exec = world.command(&["exec", "-q", "callers", "--", "env"]);
    let output = crate::world::run(exec.env("FROM_CALLER", "leaked"), None);
    ensure!(output.code == 0 && output.stdout.contains("HOSTNAME=callers\n"), "{output:?}");
    for (what, text) in [("exec", output.stdout), ("log", world.ok(&["logs", "callers"])?)] {
        ensure!(!text.contains("FROM_CALLER") && !text.contains("KILLICK_"), "{what}:\n{text}");
    }
    // The shim raises its own limit of descriptors; its children have what the caller had.
    let inside = pod.shell("ulimit -n; ulimit -Hn")?;
    let outside = world.shell("ulimit -n; ulimit -Hn")?;
    ensure!(inside == outside, "limits {inside:?} inside, {outside:?} outside");
    Ok(())
}
