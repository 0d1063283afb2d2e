//! A container's life by runc's commands, and the specification's state machine against real processes.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, merge, until};
use serde_json::{Value, json};
use std::fs;

#[test]
fn a_container_is_created_started_killed_and_deleted_and_nothing_is_left() {
    let bundle = Bundle::new(json!({"annotations": {"org.example.key": "value"}}));
    bundle.create();
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["ociVersion"], "1.3.0");
    assert_eq!(state["id"], bundle.id.as_str());
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
    assert_eq!(state["annotations"], json!({"org.example.key": "value"}));
    assert!(state["created"].as_str().unwrap().ends_with('Z'));
    let pid = bundle.pid();
    bundle.start();
    assert_eq!(bundle.status(), "running");
    assert_eq!(bundle.pid(), pid);
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, b"sleep\x001000000\0");
    bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    bundle.wait_for("stopped");
    assert_eq!(bundle.state()["pid"], 0);
    bundle.oci(&["delete", &bundle.id]).ok();
    bundle.assert_gone();
    bundle.oci(&["state", &bundle.id]).fails("container does not exist");
}

#[test]
fn run_gives_output_and_exit_code_and_deletes() {
    let bundle = Bundle::shell("echo out; echo err >&2; exit 7");
    let run = bundle.run();
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (7, "out\n", "err\n"));
    bundle.assert_gone();
    let bundle = Bundle::shell("kill -9 $$; sleep 1; exit 3");
    // Its own PID 1 cannot be killed from inside: it goes on.
    assert_eq!(bundle.run().code, 3);
    let bundle = Bundle::shell("exit 0");
    bundle.oci(&["run", "--keep", "-b", bundle.path().to_str().unwrap(), &bundle.id]).ok();
    assert_eq!(bundle.status(), "stopped");
}

#[test]
fn run_forwards_signals_and_dies_with_its_program() {
    let bundle = Bundle::shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    let mut command = bundle.command(&["run", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    bundle.assert_gone();
}

#[test]
fn at_the_gate_every_right_is_gone_and_no_descriptor_of_the_host_is_open() {
    let bundle = Bundle::new(json!({
        "process": {"user": {"uid": 101, "gid": 102, "additionalGids": [33]}, "capabilities": {
            "bounding": ["CAP_NET_RAW"], "effective": [], "permitted": [], "inheritable": [], "ambient": []}}
    }));
    bundle.create();
    let pid = bundle.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("Uid"), "101 101 101 101");
    assert_eq!(line("Groups"), "33");
    assert_eq!(
        (line("CapEff"), line("CapPrm"), line("CapBnd")),
        ("0".repeat(16), "0".repeat(16), format!("{:016x}", 1 << 13))
    );
    assert_eq!(line("NoNewPrivs"), "1");
    let mut open: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .map(|target| if target.starts_with("socket:") { "socket".into() } else { target })
        .collect();
    open.sort();
    // Stdio, the container's own root, the gate, and the way to our own create, whose other end is closed.
    assert_eq!(open, ["/", "/dev/null", "/dev/null", "/dev/null", "socket", "socket"]);
    bundle.start();
    assert_eq!(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 3);
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    let bundle = Bundle::shell("while :; do echo x >> /tmp/beat; sleep 0.01; done");
    bundle.create();
    bundle.start();
    let beat = bundle.rootfs().join("tmp/beat");
    let length = || fs::metadata(&beat).map_or(0, |metadata| metadata.len());
    until("it beats", || length() > 0);
    bundle.oci(&["pause", &bundle.id]).ok();
    let before = length();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(length(), before);
    bundle.oci(&["resume", &bundle.id]).ok();
    until("it beats again", || length() > before);
}

#[test]
fn of_two_creates_of_one_id_one_wins() {
    let bundle = Bundle::new(json!({}));
    let path = bundle.path().to_str().unwrap();
    let spawn = |_| {
        let mut command = bundle.command(&["create", "-b", path, &bundle.id]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(spawn).collect();
    let won = children.into_iter().map(|mut child| child.wait().unwrap().success()).filter(|won| *won).count();
    assert_eq!(won, 1);
    assert_eq!(bundle.status(), "created");
}

#[test]
fn list_ps_and_stats_tell_of_a_running_container() {
    let bundle =
        Bundle::new(json!({"linux": {"resources": {"pids": {"limit": 20}, "memory": {"limit": 104_857_600}}}}));
    bundle.create();
    bundle.start();
    assert_eq!(bundle.oci(&["list", "-q"]).ok(), format!("{}\n", bundle.id));
    let list: Value = serde_json::from_str(&bundle.oci(&["list", "-f", "json"]).ok()).unwrap();
    assert_eq!((&list[0]["id"], &list[0]["owner"]), (&json!(bundle.id), &json!("root")));
    assert!(bundle.oci(&["list"]).ok().starts_with("ID "));
    let pid = bundle.pid();
    assert_eq!(bundle.oci(&["ps", "--format", "json", &bundle.id]).ok(), format!("[{pid}]\n"));
    let event: Value = serde_json::from_str(&bundle.oci(&["events", "--stats", &bundle.id]).ok()).unwrap();
    assert_eq!(event["type"], "stats");
    assert_eq!(event["data"]["pids"], json!({"current": 1, "limit": 20}));
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 104_857_600);
    bundle.oci(&["update", "--memory", "200m", "--pids-limit", "30", &bundle.id]).ok();
    let event: Value = serde_json::from_str(&bundle.oci(&["events", "--stats", &bundle.id]).ok()).unwrap();
    assert_eq!(event["data"]["pids"]["limit"], 30);
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 200 << 20);
    let mut update = bundle.command(&["update", "--resources", "-", &bundle.id]);
    let mut child = update.stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"{\"pids\":{\"limit\":40}}").unwrap();
    assert!(child.wait().unwrap().success());
    let event: Value = serde_json::from_str(&bundle.oci(&["events", "--stats", &bundle.id]).ok()).unwrap();
    assert_eq!(event["data"]["pids"]["limit"], 40);
}

#[test]
fn kill_all_reaches_every_process_where_the_pid_namespace_is_the_hosts() {
    let bundle = Bundle::shell("sleep 1000000 & sleep 1000000 & wait");
    let mut config = bundle.config();
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    bundle.configure(&config);
    bundle.create();
    bundle.start();
    let count = || {
        let pids: Value = serde_json::from_str(&bundle.oci(&["ps", "-f", "json", &bundle.id]).ok()).unwrap();
        pids.as_array().unwrap().len()
    };
    until("three processes", || count() == 3);
    bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    bundle.wait_for("stopped");
    bundle.oci(&["delete", &bundle.id]).ok();
    bundle.assert_gone();
}

#[test]
fn the_pid_file_holds_the_pid_and_nothing_else() {
    let bundle = Bundle::new(json!({}));
    let file = bundle.path().join("pid");
    let (path, file_text) = (bundle.path().to_str().unwrap(), file.to_str().unwrap());
    // Flags after the id, with one dash, as some callers write them.
    bundle.quiet(&["create", &bundle.id, "-bundle", path, &format!("--pid-file={file_text}")]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), bundle.pid().to_string());
}

#[test]
fn spec_is_written_once_and_features_are_told() {
    let bundle = Bundle::new(json!({}));
    let path = bundle.path().to_str().unwrap();
    bundle.oci(&["spec", "-b", path]).fails("File config.json exists. Remove it first");
    let other = tempfile::tempdir().unwrap();
    bundle.oci(&["spec", "--rootless", "--bundle", other.path().to_str().unwrap()]).ok();
    let config: Value = serde_json::from_slice(&fs::read(other.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 0, "size": 1}]));
    let kinds: Vec<&str> =
        config["linux"]["namespaces"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["pid", "ipc", "uts", "mount", "cgroup", "user"]);
    assert!(config["linux"].get("resources").is_none() && !config.to_string().contains("gid=5"));
    let features: Value = serde_json::from_str(&bundle.oci(&["features"]).ok()).unwrap();
    assert_eq!(features["ociVersionMax"], "1.3.0");
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")));
    let version = bundle.oci(&["--version"]).ok();
    assert!(version.starts_with("killick-oci version "), "{version}");
    assert!(bundle.oci(&["create", "--help"]).ok().contains("--pid-file"));
}

#[test]
fn a_create_that_is_killed_anywhere_leaves_nothing_that_delete_force_does_not_find() {
    // In the middle of its hooks.
    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    let kill = json!([{"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $PPID; sleep 0.1"]}]);
    config["hooks"]["createRuntime"] = kill;
    bundle.configure(&config);
    let path = bundle.path().to_str().unwrap();
    assert_eq!(bundle.quiet(&["create", "-b", path, &bundle.id]).code, -1);
    bundle.oci(&["delete", "--force", &bundle.id]).ok();
    bundle.assert_gone();
    // At any other moment.
    for round in 0..40 {
        let bundle = Bundle::new(json!({}));
        let path = bundle.path().to_str().unwrap();
        let mut command = bundle.command(&["create", "-b", path, &bundle.id]);
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(400 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        bundle.oci(&["delete", "--force", &bundle.id]).ok();
        bundle.assert_gone();
    }
}

#[test]
fn a_container_without_a_process_is_created_and_cannot_be_started() {
    let bundle = Bundle::new(json!({"process": null}));
    bundle.create();
    bundle.quiet(&["start", &bundle.id]).fails("process property must not be empty");
    assert_eq!(bundle.status(), "created");
    bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    bundle.wait_for("stopped");
    bundle.oci(&["delete", &bundle.id]).ok();
    bundle.assert_gone();
}

#[test]
fn namespaces_are_joined_by_path_and_their_kind_is_checked() {
    let first = Bundle::new(json!({}));
    first.create();
    first.start();
    let pid = first.pid();
    let link = |pid: i32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let second = Bundle::new(json!({}));
    let mut config = second.config();
    let names = [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts")];
    let joined = names.map(|(kind, file)| json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    let namespaces: Vec<Value> =
        joined.into_iter().chain([json!({"type": "mount"}), json!({"type": "cgroup"})]).collect();
    config["linux"]["namespaces"] = json!(namespaces);
    config["hostname"] = json!("shared");
    second.configure(&config);
    second.create();
    for (_, file) in names {
        assert_eq!(link(second.pid(), file), link(pid, file), "{file}");
    }
    assert_ne!(link(second.pid(), "mnt"), link(pid, "mnt"));
    second.start();
    assert_eq!(first.exec(&[&first.id, "hostname"]).ok(), "shared\n", "the UTS namespace is one");
    assert!(second.exec(&[&second.id, "sh", "-c", "ls /proc"]).ok().lines().any(|line| line == "1"));
    // The first process of the namespace takes all others with it.
    first.oci(&["kill", &first.id, "9"]).ok();
    second.wait_for("stopped");

    let third = Bundle::new(json!({}));
    let mut config = third.config();
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "network", "path": "/proc/self/ns/uts"}]);
    config["hostname"] = Value::Null;
    third.configure(&config);
    let path = third.path().to_str().unwrap();
    third.quiet(&["create", "-b", path, &third.id]).fails("CLONE_NEWNET): EINVAL");
    third.assert_gone();
}

#[test]
fn a_state_is_roots_own_and_a_cgroup_of_others_is_left_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::new(json!({}));
    bundle.create();
    let dir = bundle.states().join(&bundle.id);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir.join("state.json")), mode(&dir.join("start.sock")), mode(&dir)), (0o600, 0o600, 0o711));
    // Another container that names the same cgroup is refused, and takes nothing down.
    let path = bundle.path().to_str().unwrap();
    bundle.quiet(&["create", "-b", path, "second"]).fails("container's cgroup is not empty");
    bundle.oci(&["delete", "--force", "second"]).ok();
    assert_eq!(bundle.status(), "created");
}

#[test]
fn a_small_memory_limit_holds_and_one_that_is_too_small_is_named() {
    let limited = |bytes: u64| json!({"linux": {"resources": {"memory": {"limit": bytes, "swap": bytes}}}});
    let bundle = Bundle::new(limited(6 << 20));
    bundle.create();
    bundle.start();
    assert_eq!(bundle.exec(&[&bundle.id, "echo", "in 6 MiB"]).ok(), "in 6 MiB\n");
    bundle.oci(&["delete", "--force", &bundle.id]).ok();
    let mut config = bundle.config();
    config["process"]["args"] = json!(["echo", "run"]);
    bundle.configure(&config);
    assert_eq!(bundle.run().ok(), "run\n");
    merge(&mut config, limited(4096));
    bundle.configure(&config);
    for command in ["create", "run"] {
        let path = bundle.path().to_str().unwrap();
        let failed = bundle.quiet(&[command, "-b", path, &bundle.id]);
        assert_eq!(
            (failed.code, failed.err.trim_end()),
            (1, format!("killick-oci {command} failed: unable to start container process: container init was OOM-killed (memory limit too low?)").as_str())
        );
        bundle.assert_gone();
    }
}

#[test]
fn a_container_with_cgroups_of_its_own_is_managed_all_the_same() {
    let bundle = Bundle::shell("while :; do echo x >> /tmp/beat; sleep 0.01; done");
    bundle.create();
    bundle.start();
    let (id, pid) = (bundle.id.as_str(), bundle.pid());
    // As a container with a writable cgroup mount does it: its processes go into a group below, so that (v2) its own can
    // hand controllers down, and takes no process any more.
    let dirs = bundle.cgroup_dirs();
    for dir in &dirs {
        let below = dir.join("init");
        fs::create_dir(&below).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(dir.join(file)) {
                let _ = fs::write(below.join(file), value.trim());
            }
        }
        for process in fs::read_to_string(dir.join("cgroup.procs")).unwrap().lines() {
            // One that has ended since needs no move.
            let _ = fs::write(below.join("cgroup.procs"), process);
        }
        let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
        if !all.is_empty() {
            until("controllers are handed down", || {
                for process in fs::read_to_string(dir.join("cgroup.procs")).unwrap().lines() {
                    let _ = fs::write(below.join("cgroup.procs"), process);
                }
                fs::write(dir.join("cgroup.subtree_control"), all.join(" ")).is_ok()
            });
        }
    }
    let of_init = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(of_init.contains("/init"), "{of_init}");
    assert_eq!(bundle.exec(&[id, "echo", "in"]).ok(), "in\n");
    let beat = bundle.rootfs().join("tmp/beat");
    let length = || fs::metadata(&beat).map_or(0, |metadata| metadata.len());
    bundle.oci(&["pause", id]).ok();
    assert_eq!(bundle.status(), "paused");
    let before = length();
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert_eq!(length(), before);
    bundle.oci(&["resume", id]).ok();
    until("it goes on", || length() > before);
    bundle.oci(&["update", "--memory", "200m", "--pids-limit", "30", id]).ok();
    let event: Value = serde_json::from_str(&bundle.oci(&["events", "--stats", id]).ok()).unwrap();
    assert_eq!(
        (&event["data"]["pids"]["limit"], &event["data"]["memory"]["usage"]["limit"]),
        (&json!(30), &json!(200 << 20))
    );
    assert!(event["data"]["pids"]["current"].as_u64().unwrap() >= 1, "{event}");
    let pids: Vec<i32> = serde_json::from_str(&bundle.oci(&["ps", "-f", "json", id]).ok()).unwrap();
    assert!(pids.contains(&pid), "{pids:?}");
    bundle.oci(&["kill", "--all", id, "KILL"]).ok();
    bundle.wait_for("stopped");
    bundle.oci(&["delete", id]).ok();
    bundle.assert_gone();
}
