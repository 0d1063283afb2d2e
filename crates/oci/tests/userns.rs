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
        match killick_sys::ns::owner(std::os::fd::AsFd::as_fd(&namespace)) {
            Err(error) if error.errno() == nix::errno::Errno::ENOTTY => {
                common::lacks(false, "NS_GET_USERNS (4.9)");
            }
            owner => assert_eq!(owner.unwrap(), user, "{kind}"),
        }
    }
    let exec =
        bundle.exec(&["--cap", "CAP_SYS_ADMIN", &bundle.id, "sh", "-c", "id -u; id -g; hostname new && hostname"]);
    assert_eq!(exec.ok(), "0\n0\nnew\n");
}

/// What is made before the host's rights end wants them: id-mapped mounts, the host's own /proc and /sys. (Time
/// namespaces are older by half a year.)
fn lacks_detached() -> bool {
    common::lacks(killick_sys::facts::Facts::detect().detached_mounts, "detached mounts (5.12)")
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
    if lacks_detached() {
        return;
    }
    let bundle = shell("ls /sys/class/net | grep -c . && grep -c ' /sys ' /proc/self/mounts", json!({}));
    let mut config = bundle.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
    bundle.configure(&config);
    let links = fs::read_dir("/sys/class/net").unwrap().count();
    prints(&bundle, &format!("{links}\n1\n"));
}

#[test]
fn the_hosts_processes_and_queues_are_shown_where_they_are_shared() {
    if lacks_detached() {
        return;
    }
    let bundle = shell("test -d /proc/1 && grep -q sleep /proc/1/comm && echo own || echo shared", json!({}));
    let mut config = bundle.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    bundle.configure(&config);
    prints(&bundle, "shared\n");
}

/// A process in namespaces of its own, made by unshare(1), to be joined by path.
struct Elsewhere(std::process::Child);

impl Elsewhere {
    fn new(words: &[&str]) -> Self {
        let mut command = std::process::Command::new("unshare");
        command.args(words).args(["sh", "-c", "echo ready; exec sleep 1000000"]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        Elsewhere(child)
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With these namespaces instead, and without what the others would need.
fn with_namespaces(bundle: &Bundle, namespaces: Value) {
    let mut config = bundle.config();
    config["linux"]["namespaces"] = namespaces;
    bundle.configure(&config);
}

#[test]
fn a_user_namespace_is_joined_by_path_with_what_belongs_to_it_and_what_does_not() {
    let owner = self::bundle(json!({}));
    owner.create();
    let owned = |kind: &str| format!("/proc/{}/ns/{kind}", owner.pid());
    let hosts = Elsewhere::new(&["--ipc"]);
    let bundle = shell("echo up; ls /sys/class/net; id -u; hostname mine && hostname", capable(&["CAP_SYS_ADMIN"]));
    let mut config = bundle.config();
    for field in ["uidMappings", "gidMappings"] {
        config["linux"].as_object_mut().unwrap().remove(field);
    }
    // The queues of a namespace that is the host's are the host's to mount.
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/mqueue");
    config["hostname"] = json!("");
    bundle.configure(&config);
    with_namespaces(
        &bundle,
        json!([
            {"type": "user", "path": owned("user")}, {"type": "network", "path": owned("net")},
            {"type": "uts", "path": owned("uts")}, {"type": "ipc", "path": hosts.path("ipc")},
            {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}]),
    );
    prints(&bundle, "up\nlo\n0\nmine\n");
    // The same mappings may be said again, others not.
    let mut config = bundle.config();
    merge(&mut config, json!({"linux": mappings(), "process": {"args": ["true"]}}));
    bundle.configure(&config);
    bundle.run().ok();
    config["linux"]["uidMappings"][0]["hostID"] = json!(5);
    bundle.configure(&config);
    bundle.run().fails("both user namespace path and non-matching mapping specified");
}

#[test]
fn our_own_user_namespace_by_path_is_none() {
    let bundle = Bundle::shell("cat /proc/self/uid_map");
    let mut config = bundle.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user", "path": "/proc/self/ns/user"}));
    bundle.configure(&config);
    let out = bundle.run().ok();
    assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
}

#[test]
fn a_namespace_that_forbids_setgroups_is_joined_without_groups() {
    // unshare writes "deny" for a map of one's own group.
    let denied = Elsewhere::new(&["--user", "--map-root-user"]);
    assert_eq!(fs::read_to_string(format!("/proc/{}/setgroups", denied.0.id())).unwrap(), "deny\n");
    for (groups, expected) in [(json!([]), Ok("0\n")), (json!([1]), Err("setgroups"))] {
        let bundle = Bundle::new(json!({"process": {"args": ["id", "-G"], "user": {"additionalGids": groups}}}));
        let mut config = bundle.config();
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user", "path": denied.path("user")}));
        bundle.configure(&config);
        match expected {
            Ok(out) => prints(&bundle, out),
            Err(text) => bundle.run().fails(text),
        }
    }
}

/// tmpfs can be id-mapped since 6.3. A guest lives on one; there the refusal is what is looked at.
fn is_refused_for_tmpfs(run: &common::Output, source: &std::path::Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let is_tmpfs = nix::sys::statfs::statfs(source).unwrap().filesystem_type().0 == TMPFS_MAGIC;
    let is_refused = is_tmpfs && run.code == 1 && run.err.contains("cannot be id-mapped on this kernel");
    if is_refused {
        println!("not here: this kernel does not id-map tmpfs (6.3), and says so; on ext4 the rest is looked at");
    }
    is_refused
}

#[test]
fn a_bind_mount_shows_its_owners_by_the_containers_maps_or_its_own() {
    if lacks_detached() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    fs::set_permissions(source.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(source.path().join("roots"), "").unwrap();
    fs::write(source.path().join("users"), "").unwrap();
    std::os::unix::fs::chown(source.path().join("users"), Some(1000), Some(1001)).unwrap();
    let run = |mut mount: Value| {
        merge(&mut mount, json!({"destination": "/data", "source": source.path()}));
        let bundle = shell("stat -c %u:%g /data/roots /data/users; touch /data/new && stat -c %u /data/new", json!({}));
        let mut config = bundle.config();
        config["mounts"].as_array_mut().unwrap().push(mount);
        bundle.configure(&config);
        fs::create_dir(bundle.rootfs().join("data")).unwrap();
        let run = bundle.run();
        let new = fs::metadata(source.path().join("new")).map(|made| made.uid()).ok();
        let _ = fs::remove_file(source.path().join("new"));
        let refused = is_refused_for_tmpfs(&run, source.path());
        (run.code, run.out, run.err, new, refused)
    };
    // Plain: the host's owners are nobody.
    let (code, out, _, new, _) = run(json!({"options": ["bind"]}));
    assert_eq!((code, out.as_str(), new), (1, "65534:65534\n65534:65534\n", None));
    // By the container's maps: what root inside makes is root's outside.
    for option in ["idmap", "ridmap"] {
        let (code, out, err, new, refused) = run(json!({"options": ["rbind", option]}));
        if refused {
            return;
        }
        assert_eq!((code, out.as_str(), err.as_str(), new), (0, "0:0\n1000:1001\n0\n", "", Some(0)), "{option}");
    }
    // By its own: what is 1000 on disk is the container's root.
    let map = |on_disk: u32, host: u32| json!([{"containerID": on_disk, "hostID": host, "size": 1}]);
    let own = json!({"options": ["bind"], "uidMappings": map(1000, HOST_UID), "gidMappings": map(1001, HOST_GID)});
    let (_, out, _, _, _) = run(own);
    assert_eq!(out, "65534:65534\n0:0\n");
}

#[test]
fn an_idmapped_mount_without_a_user_namespace_has_its_own_maps_or_is_refused() {
    let source = tempfile::tempdir().unwrap();
    fs::set_permissions(source.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(source.path().join("file"), "").unwrap();
    let bundle = |mount: Value| {
        let bundle = Bundle::shell("stat -c %u:%g /data/file");
        let mut config = bundle.config();
        let mut all = json!({"destination": "/data", "source": source.path()});
        merge(&mut all, mount);
        config["mounts"].as_array_mut().unwrap().push(all);
        bundle.configure(&config);
        bundle
    };
    let map = json!([{"containerID": 0, "hostID": 7, "size": 9}]);
    if lacks_detached() {
        let refused = bundle(json!({"options": ["rbind"], "uidMappings": map, "gidMappings": map}));
        return refused.run().fails("mount /data: id-mapped mounts need Linux 5.12");
    }
    let mapped = bundle(json!({"options": ["rbind", "ridmap"], "uidMappings": map, "gidMappings": map})).run();
    if is_refused_for_tmpfs(&mapped, source.path()) {
        return;
    }
    assert_eq!((mapped.code, mapped.out.as_str()), (0, "7:7\n"), "{mapped:?}");
    bundle(json!({"options": ["rbind", "idmap"]})).run().fails("takes those of the container's user namespace");
    bundle(json!({"options": ["rbind"], "uidMappings": map})).run().fails("without mount /data.gidMappings");
    bundle(json!({"type": "tmpfs", "uidMappings": map, "gidMappings": map}))
        .run()
        .fails("id-mapped mounts are only supported for bind mounts");
    // procfs cannot.
    let proc = json!({"source": "/proc/self/net", "options": ["bind"], "uidMappings": map, "gidMappings": map});
    bundle(proc).run().fails("cannot be id-mapped on this kernel");
}

#[test]
fn clocks_of_a_time_namespace_differ_for_the_first_process_and_execs() {
    if lacks_detached() {
        return;
    }
    let uptime = || -> f64 { fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap() };
    let offsets = json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}});
    for user in [false, true] {
        let bundle = if user { bundle(json!({})) } else { Bundle::new(json!({})) };
        let mut config = bundle.config();
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] = offsets.clone();
        bundle.configure(&config);
        bundle.create();
        bundle.start();
        let shown = fs::read_to_string(format!("/proc/{}/timens_offsets", bundle.pid())).unwrap();
        let shown: Vec<&str> = shown.split_whitespace().collect();
        assert_eq!(shown, ["monotonic", "7", "0", "boottime", "1000000", "5"], "user namespace: {user}");
        let inside: f64 =
            bundle.exec(&[&bundle.id, "cat", "/proc/uptime"]).ok().split(' ').next().unwrap().parse().unwrap();
        let difference = inside - uptime();
        assert!((999_990.0..1_000_001.0).contains(&difference), "{difference}");
        // Joined by path, without a user namespace of its own.
        let other = Bundle::shell("cat /proc/uptime");
        let mut config = other.config();
        let path = format!("/proc/{}/ns/time", bundle.pid());
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time", "path": path}));
        other.configure(&config);
        let inside: f64 = other.run().ok().split(' ').next().unwrap().parse().unwrap();
        assert!((999_990.0..1_000_001.0).contains(&(inside - uptime())));
        config["linux"]["timeOffsets"] = offsets.clone();
        other.configure(&config);
        other.run().fails("nobody may set its offsets");
    }
    let bundle = Bundle::shell("true");
    let mut config = bundle.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    config["linux"]["timeOffsets"] = json!({"boottime": {"secs": -1_000_000_000}});
    bundle.configure(&config);
    bundle.run().fails("timens_offsets");
    bundle.assert_gone();
}

#[test]
fn a_mount_namespace_by_path_is_joined_and_nothing_of_its_own_is_changed() {
    let other = Elsewhere::new(&["--mount", "--propagation", "private"]);
    let root = |pid: u32| fs::read_link(format!("/proc/{pid}/root")).unwrap();
    let bundle = Bundle::shell("readlink /proc/self/ns/mnt; ls / | wc -l; touch /x && echo writable; sleep 1000000");
    let names = fs::read_dir(bundle.rootfs()).unwrap().count();
    let mut config = bundle.config();
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "mount" {
            namespace["path"] = json!(other.path("mnt"));
        }
    }
    config["process"]["args"] = json!(["sleep", "1000000"]);
    bundle.configure(&config);
    bundle.create();
    bundle.start();
    let theirs = fs::read_link(other.path("mnt")).unwrap();
    assert_eq!(fs::read_link(format!("/proc/{}/ns/mnt", bundle.pid())).unwrap(), theirs);
    assert_eq!(root(other.0.id()), std::path::Path::new("/"), "their root is still theirs");
    assert!(fs::read_dir(format!("/proc/{}/root", other.0.id())).unwrap().count() > names);
    let script = "readlink /proc/self/ns/mnt; ls / | wc -l; test -c /dev/null && echo null";
    let exec = bundle.exec(&[&bundle.id, "sh", "-c", script]).ok();
    assert_eq!(exec, format!("{}\n{names}\nnull\n", theirs.display()));
}

#[test]
fn without_a_mount_namespace_the_root_is_a_chroot_and_nothing_is_mounted() {
    let bundle = Bundle::shell("ls / | wc -l; test -c /dev/null && echo null");
    let names = fs::read_dir(bundle.rootfs()).unwrap().count();
    let mut config = bundle.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "mount");
    bundle.configure(&config);
    bundle.run().fails("unable to restrict sys entries without a private MNT namespace");
    for field in ["maskedPaths", "readonlyPaths"] {
        config["linux"].as_object_mut().unwrap().remove(field);
    }
    bundle.configure(&config);
    bundle.run().fails("unable to mount without a private MNT namespace");
    config.as_object_mut().unwrap().remove("mounts");
    bundle.configure(&config);
    prints(&bundle, &format!("{names}\nnull\n"));
}

#[test]
fn an_unbindable_mount_cannot_be_bound() {
    let source = tempfile::tempdir().unwrap();
    let script = "mkdir -p /tmp/a; mount -o bind /data /tmp/a 2>/dev/null || echo refused; \
                  mount -o bind / /tmp/a 2>/dev/null || echo refused";
    let bundle = Bundle::shell(script);
    let mut config = bundle.config();
    merge(&mut config, capable(&["CAP_SYS_ADMIN"]));
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/data", "source": source.path(), "options": ["bind", "unbindable"]}));
    config["linux"]["rootfsPropagation"] = json!("unbindable");
    bundle.configure(&config);
    prints(&bundle, "refused\nrefused\n");
}

#[test]
fn hooks_see_the_host_and_the_namespaces_as_they_should() {
    let bundle = bundle(json!({}));
    let out = bundle.path().join("hooks.out");
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    fs::set_permissions(bundle.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hook = |name: &str| {
        let script = format!("echo {name} $(id -u) >>{}", out.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let mut config = bundle.config();
    config["hooks"] = json!({
        "createRuntime": hook("createRuntime"), "createContainer": hook("createContainer"),
        "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    config["process"]["args"] = json!(["true"]);
    bundle.configure(&config);
    bundle.run().ok();
    let told = fs::read_to_string(&out).unwrap();
    assert_eq!(told, "createRuntime 0\ncreateContainer 0\npoststart 0\npoststop 0\n");
}

#[test]
fn a_filter_without_no_new_privileges_is_loaded_inside() {
    let bundle = shell("mkdir /tmp/x 2>/dev/null || echo filtered; grep Seccomp: /proc/self/status", json!({}));
    let mut config = bundle.config();
    config["process"]["noNewPrivileges"] = json!(false);
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    bundle.configure(&config);
    prints(&bundle, "filtered\nSeccomp:\t2\n");
}

#[test]
fn wrong_maps_are_refused_by_name_and_leave_nothing() {
    let range = |inside: u32, outside: u32, size: u32| json!({"containerID": inside, "hostID": outside, "size": size});
    let many: Vec<Value> = (0..341).map(|n| range(n, n, 1)).collect();
    for (map, expected) in [
        (json!([]), "no namespace path to join nor mappings to apply specified"),
        (json!([range(1, 1, 1)]), "linux.uidMappings: container id 0 is not mapped"),
        (json!([range(0, 0, 0)]), "linux.uidMappings[0].size: a range of no ids"),
        (json!([range(0, 0, 9), range(3, 20, 1)]), "linux.uidMappings[1]: the range 3 20 1 overlaps"),
        (json!(many), "linux.uidMappings: 341 ranges; the kernel takes 340"),
    ] {
        let bundle = bundle(json!({"linux": {"uidMappings": map, "gidMappings": map}}));
        bundle.run().fails(expected);
        bundle.assert_gone();
    }
}

#[test]
fn a_v2_cgroup_that_it_may_write_to_is_its_own() {
    if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        eprintln!("a_v2_cgroup_that_it_may_write_to_is_its_own: this host has no pure cgroup v2; runs in the v2 guest");
        return;
    }
    let script = "stat -c %u /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/mine && echo made; \
                  echo $$ >/sys/fs/cgroup/mine/cgroup.procs && echo moved; \
                  echo max 2>/dev/null >/sys/fs/cgroup/pids.max || echo the limit is not ours";
    let bundle = shell(script, json!({}));
    let mut config = bundle.config();
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys/fs/cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
    bundle.configure(&config);
    prints(&bundle, "0\nmade\nmoved\nthe limit is not ours\n");
    // Read-only as it mostly is, it stays root's.
    prints(&shell("stat -c %u /sys/fs/cgroup/cgroup.procs", json!({})), "65534\n");
}

/// The attacker is root of the same user namespace, with every right there, and sees all processes. Until execve ours
/// is not dumpable, and its memory belongs to the host's user namespace: that is what keeps it out (it may kill it).
#[test]
fn root_of_the_same_user_namespace_cannot_look_into_a_half_born_process() {
    if lacks_detached() {
        return;
    }
    let all = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_KILL"];
    let attacker = bundle(capable(&all));
    let mut config = attacker.config();
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    attacker.configure(&config);
    attacker.create();
    attacker.start();
    let look = |pid: &str| {
        let script = format!(
            "for what in exe cwd root fd/0 fd/3 ns/mnt; do readlink /proc/{pid}/$what; done 2>/dev/null; \
             cat /proc/{pid}/environ 2>/dev/null | head -c 5; head -c 1 /proc/{pid}/mem 2>&1 | grep -c 'I/O error'; true"
        );
        let caps = all.iter().flat_map(|cap| ["--cap", *cap]);
        let words: Vec<&str> = caps.chain([attacker.id.as_str(), "sh", "-c", &script]).collect();
        attacker.exec(&words).ok()
    };
    for own_pid_namespace in [true, false] {
        let victim = bundle(json!({"process": {"env": ["SECRET=x", "PATH=/bin"]}}));
        let mut config = victim.config();
        for field in ["uidMappings", "gidMappings"] {
            config["linux"].as_object_mut().unwrap().remove(field);
        }
        for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "user" {
                namespace["path"] = json!(format!("/proc/{}/ns/user", attacker.pid()));
            }
        }
        if !own_pid_namespace {
            config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
        }
        victim.configure(&config);
        victim.create();
        let pid = victim.pid().to_string();
        assert_eq!(look(&pid), "0\n", "at the gate; PID namespace of its own: {own_pid_namespace}");
        victim.start();
        let seen = look(&pid);
        assert!(seen.contains("/bin/busybox") && seen.contains("SECRE"), "once it is a program of theirs: {seen:?}");
    }
}

/// Each exec is looked at from inside while it comes: nothing but the container's own programs is ever seen.
#[test]
fn who_watches_each_exec_in_its_user_namespace_sees_its_own_programs_only() {
    let script = "while :; do for p in /proc/[0-9]*; do readlink $p/exe; readlink $p/fd/* ; done 2>/dev/null; done \
                  >/tmp/seen";
    let watcher = shell(script, capable(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]));
    watcher.create();
    watcher.start();
    for _ in 0..40 {
        watcher.quiet(&["exec", &watcher.id, "true"]).ok();
    }
    let seen = fs::read_to_string(watcher.rootfs().join("tmp/seen")).unwrap();
    let mut seen: Vec<&str> = seen.lines().collect();
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.contains(&"/bin/busybox"), "{seen:?}");
    let foreign: Vec<&&str> = seen
        .iter()
        .filter(|path| !["/bin/busybox", "/dev/null", "/tmp/seen"].contains(*path) && !path.starts_with("/proc"))
        .filter(|path| !path.starts_with("pipe:") && !path.starts_with("/dev/"))
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
