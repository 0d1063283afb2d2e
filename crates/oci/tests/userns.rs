//! Containers in user namespaces: who they are inside and outside, what they own, what they are shown of the host, and
//! what is refused.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, merge};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;

const HOST_UID: u32 = 100_000;
const HOST_GID: u32 = 200_000;

fn mappings() -> Value {
    json!({
        "uidMappings": [{"containerID": 0, "hostID": HOST_UID, "size": 65_536}],
        "gidMappings": [{"containerID": 0, "hostID": HOST_GID, "size": 65_536}],
    })
}

/// runc's default configuration in a user namespace; root may write to its root, as engines arrange it.
fn bundle(change: Value) -> Bundle {
    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    merge(&mut config, json!({"linux": mappings()}));
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    merge(&mut config, change);
    bundle.configure(&config);
    give(&bundle);
    bundle
}

/// The root to the container's root. The temporary directory is passable, as engines have it.
fn give(bundle: &Bundle) {
    let path = bundle.rootfs();
    let done = std::process::Command::new("chown")
        .args(["-R", "-h", &format!("{HOST_UID}:{HOST_GID}")])
        .arg(&path)
        .status()
        .unwrap();
    assert!(done.success());
}

fn shell(script: &str, change: Value) -> Bundle {
    let bundle = bundle(json!({"process": {"args": ["sh", "-c", script]}}));
    let mut config = bundle.config();
    merge(&mut config, change);
    bundle.configure(&config);
    bundle
}

#[track_caller]
fn prints(bundle: &Bundle, expected: &str) {
    let run = bundle.run();
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, expected, ""));
    bundle.assert_gone();
}

#[test]
fn root_inside_is_nobody_outside_and_owns_its_namespaces() {
    let bundle = bundle(json!({}));
    bundle.create();
    bundle.start();
    let pid = bundle.pid();
    let status = fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((status.uid(), status.gid()), (HOST_UID, HOST_GID));
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/setgroups")).unwrap(), "allow\n");
    // NS_GET_USERNS of each other namespace is the container's.
    let user = fs::metadata(format!("/proc/{pid}/ns/user")).unwrap().ino();
    for kind in ["net", "ipc", "uts", "mnt", "pid", "cgroup"] {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(owner(&namespace), user, "{kind}");
    }
    let exec =
        bundle.exec(&["--cap", "CAP_SYS_ADMIN", &bundle.id, "sh", "-c", "id -u; id -g; hostname new && hostname"]);
    assert_eq!(exec.ok(), "0\n0\nnew\n");
}

/// The inode of the user namespace that owns this one.
fn owner(namespace: &fs::File) -> u64 {
    killick_sys::ns::owner(std::os::fd::AsFd::as_fd(namespace)).unwrap()
}

/// All of them, to `process.capabilities`.
fn capable(names: &[&str]) -> Value {
    json!({"process": {"capabilities": {"bounding": names, "effective": names, "permitted": names}}})
}

#[test]
fn the_file_systems_of_its_namespaces_are_its_own() {
    let script = "
        for at in /proc /sys /dev /dev/pts /dev/shm /dev/mqueue; do
            grep -q \" $at \" /proc/self/mounts || echo \"$at is not mounted\"
        done
        test $(stat -c %u /dev/shm) = 0 || echo the shm is not ours
        ls /sys/class/net
        for node in null zero full random urandom tty; do test -c /dev/$node || echo no $node; done
        echo lost >/dev/null && head -c 1 /dev/zero | wc -c
        touch /tmp/made && stat -c %u:%g /tmp/made
        stat -c %u:%g /etc/passwd
        test -d /sys/fs/cgroup && ls /sys/fs/cgroup >/dev/null";
    prints(&shell(script, json!({})), "lo\n1\n0:0\n0:0\n");
}

#[test]
fn its_capabilities_hold_for_what_is_its_own_and_nothing_else() {
    let script = "
        hostname inside && hostname
        mount -t tmpfs tmpfs /tmp && echo mounted
        mkdir /tmp/proc && mount -t proc proc /tmp/proc 2>/dev/null && echo another proc
        mknod /tmp/node c 1 3 2>/dev/null && echo made a node
        echo 1 2>/dev/null >/proc/sys/kernel/panic_on_oops && echo wrote a sysctl of the host
        true";
    let all = ["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE"];
    let bundle = shell(&script.replace("mknod", "busybox mknod"), capable(&all));
    prints(&bundle, "inside\nmounted\nanother proc\n");
}

#[test]
fn users_and_groups_are_those_of_the_namespace() {
    let change = json!({"process": {"user": {"uid": 101, "gid": 102, "additionalGids": [33, 65_535]}}});
    let bundle = bundle(change.clone());
    bundle.create();
    bundle.start();
    let status = fs::read_to_string(format!("/proc/{}/status", bundle.pid())).unwrap();
    let line = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("Uid"), "100101 100101 100101 100101");
    assert_eq!(line("Gid"), "200102 200102 200102 200102");
    assert_eq!(line("Groups"), "200033 265535");
    let exec = bundle.exec(&["-u", "7:8", "-g", "9", &bundle.id, "sh", "-c", "id -u; id -g; id -G"]);
    assert_eq!(exec.ok(), "7\n8\n8 9 33 65535\n");
    let unmapped = |user: &str| bundle.exec(&["-u", user, &bundle.id, "true"]);
    unmapped("65536").fails("cannot setuid to unmapped uid 65536 in user namespace");
    unmapped("1:65536").fails("cannot setgid to unmapped gid 65536 in user namespace");
    bundle.exec(&["-g", "70000", &bundle.id, "true"]).fails("cannot set additional groups");
}

#[test]
fn who_opens_its_stdout_again_may() {
    for user in [json!({"uid": 0, "gid": 0}), json!({"uid": 101, "gid": 102})] {
        let bundle = shell("echo one >/dev/stdout; echo two >/proc/self/fd/1", json!({"process": {"user": user}}));
        prints(&bundle, "one\ntwo\n");
    }
}

#[test]
fn several_ranges_are_mapped_each_to_its_own() {
    let map = json!([
        {"containerID": 0, "hostID": HOST_UID, "size": 1}, {"containerID": 1, "hostID": 300_000, "size": 10},
        {"containerID": 50, "hostID": 7, "size": 1}]);
    let bundle = bundle(json!({"linux": {"uidMappings": map, "gidMappings": map}}));
    bundle.create();
    bundle.start();
    for (inside, outside) in [("0", 100_000), ("5", 300_004), ("50", 7)] {
        let exec = bundle.quiet(&["exec", "-d", "-u", inside, &bundle.id, "sleep", "1000000"]);
        exec.ok();
        let found = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let inside_it = fs::metadata(entry.path().join("ns/user")).map(|meta| meta.ino()).ok();
            let own = fs::metadata(format!("/proc/{}/ns/user", bundle.pid())).map(|meta| meta.ino()).ok();
            inside_it.is_some() && inside_it == own && entry.metadata().is_ok_and(|meta| meta.uid() == outside)
        });
        assert!(found, "{inside}");
    }
    bundle.exec(&["-u", "11", &bundle.id, "true"]).fails("cannot setuid to unmapped uid 11 in user namespace");
}

#[test]
fn a_terminal_is_the_users_also_where_group_5_is_not_mapped() {
    for size in [65_536, 3] {
        let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": size}]);
        let bundle = shell(
            "stat -c %u:%g /dev/console; tty",
            json!({"process": {"terminal": true}, "linux": {"uidMappings": map(HOST_UID), "gidMappings": map(HOST_GID)}}),
        );
        let run = bundle.run();
        let group = if size == 3 { 0 } else { 5 };
        assert_eq!(
            (run.code, run.out.replace('\r', ""), run.err.as_str()),
            (0, format!("0:{group}\n/dev/pts/0\n"), ""),
            "{size} ids"
        );
    }
}

#[test]
fn a_read_only_root_and_flags_of_binds_hold() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "bound\n").unwrap();
    fs::set_permissions(source.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bundle = shell(
        "touch /x 2>/dev/null || echo read-only; cat /data/file; touch /data/x 2>/dev/null || echo that too",
        json!({"root": {"readonly": true}}),
    );
    let mut config = bundle.config();
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/data", "source": source.path(), "options": ["rbind", "ro", "nosuid", "nodev"]}));
    bundle.configure(&config);
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    prints(&bundle, "read-only\nbound\nthat too\n");
}

#[test]
fn the_hosts_network_shows_the_hosts_sys() {
    let bundle = shell("ls /sys/class/net | grep -c . && grep -c ' /sys ' /proc/self/mounts", json!({}));
    let mut config = bundle.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
    bundle.configure(&config);
    let links = fs::read_dir("/sys/class/net").unwrap().count();
    prints(&bundle, &format!("{links}\n1\n"));
}

#[test]
fn the_hosts_processes_and_queues_are_shown_where_they_are_shared() {
    std::fs::create_dir_all("/dev/mqueue").unwrap();
    let bundle = shell("test -d /proc/1 && grep -q sleep /proc/1/comm && echo own || echo shared", json!({}));
    let mut config = bundle.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    bundle.configure(&config);
    prints(&bundle, "shared\n");
}
