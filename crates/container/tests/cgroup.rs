//! Cgroups against this host's kernel: made, entered, killed, counted, removed. Needs root.
#![allow(clippy::disallowed_methods, reason = "tests start processes that are put into cgroups")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use killick_container::cgroup::{Attach, Cgroup, CgroupError, Layout, Metrics, pods_below};
use killick_container::devices;
use nix::poll::{PollFd, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;

/// A cgroup tree of one test: removed with everything in it when the test ends, also when it fails.
struct Tree {
    layout: Layout,
    root: String,
}

impl Tree {
    fn new(name: &str) -> Tree {
        assert!(nix::unistd::geteuid().is_root(), "needs root");
        let layout = Layout::detect().unwrap();
        Tree { layout, root: format!("killick-test-{name}-{}", std::process::id()) }
    }

    /// The v2 tree alone, as on a host without v1: freezing, killing, leafs and device programs need no controller.
    /// None is enabled, since on a hybrid host that would be everybody's business. `None`: this host has no v2.
    fn v2(name: &str) -> Option<Tree> {
        let mut tree = Tree::new(name);
        tree.layout.v1.clear();
        match &mut tree.layout.unified {
            Some(unified) => unified.controllers.clear(),
            None => {
                eprintln!("{name}: not tested here, no v2 tree is mounted on this host");
                return None;
            }
        }
        Some(tree)
    }

    fn create(&self, below: &str, resources: &str) -> Result<Cgroup, CgroupError> {
        let resources: LinuxResources = serde_json::from_str(resources).unwrap();
        Cgroup::create(&self.layout, format!("{}/{below}", self.root), &resources)
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let unified = self.layout.unified.iter().map(|u| u.mount_point.clone());
        self.layout.v1.iter().map(|h| h.mount_point.clone()).chain(unified).collect()
    }

    fn left(&self) -> Vec<PathBuf> {
        self.mounts().into_iter().map(|m| m.join(&self.root)).filter(|d| d.exists()).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Ok(cgroup) = Cgroup::open(&self.layout, &self.root) {
            let _ = cgroup.kill_all(soon());
            let _ = cgroup.remove(soon());
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Runs a shell script inside a cgroup: the shell itself writes 0 to each file, as a child of ours does.
fn enter(attach: &Attach, script: &str) -> Child {
    let tasks = attach.tasks().map(|fd| fd.as_raw_fd());
    let fds = tasks.chain(attach.procs.iter().map(|fd| fd.as_raw_fd()));
    let write: String = fds
        .map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap())
        .map(|file| format!("echo 0 > '{}' || exit 99\n", file.display()))
        .collect();
    Command::new("/bin/sh").arg("-c").arg(format!("{write}{script}")).stdout(Stdio::null()).spawn().unwrap()
}

fn in_cgroup(cgroup: &Cgroup, script: &str) -> Child {
    enter(&cgroup.attach().unwrap(), script)
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = soon();
    while !done() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn read(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let layout = cgroup.layout();
    let file = match layout.v1_hierarchy(controller) {
        Some(hierarchy) => hierarchy.mount_point.join(cgroup.path()).join(v1),
        None => layout.unified.as_ref().unwrap().mount_point.join(cgroup.path()).join(v2),
    };
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

#[test]
fn limits_are_in_the_files_and_a_child_is_in_every_hierarchy() {
    let tree = Tree::new("limits");
    let cgroup = tree
        .create(
            "pod1/web",
            r#"{"cpu":{"shares":512,"quota":50000,"period":100000},"memory":{"limit":33554432,"swap":33554432},
                "pids":{"limit":20},"devices":[{"allow":false,"access":"rwm"}]}"#,
        )
        .unwrap();
    assert_eq!(read(&cgroup, "memory", "memory.limit_in_bytes", "memory.max"), "33554432");
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "20");
    match cgroup.layout().v1_hierarchy("cpu") {
        Some(_) => {
            assert_eq!(read(&cgroup, "cpu", "cpu.shares", ""), "512");
            assert_eq!(read(&cgroup, "cpu", "cpu.cfs_quota_us", ""), "50000");
        }
        None => assert_eq!(read(&cgroup, "cpu", "", "cpu.max"), "50000 100000"),
    }
    let mut child = in_cgroup(&cgroup, "exec sleep 60");
    until("the child is in the cgroup", || cgroup.processes().unwrap().contains(&(child.id() as i32)));
    until("in every hierarchy", || {
        let membership = std::fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        let path = format!("/{}", cgroup.path().display());
        let inside = membership.lines().filter(|line| line.ends_with(&path)).count();
        inside == cgroup.layout().v1.len() + usize::from(cgroup.layout().is_v2())
    });
    cgroup.kill_all(soon()).unwrap();
    // A zombie is not a member: removal need not wait for the reaping.
    cgroup.remove(soon()).unwrap();
    child.wait().unwrap();
}

#[test]
fn fork_and_setsid_do_not_outrun_a_kill() {
    let tree = Tree::new("fork");
    let cgroup = tree.create("pod1/bomb", r#"{"pids":{"limit":200}}"#).unwrap();
    // Each copy starts two more in sessions of their own, for ever.
    let script = "f() { while :; do (setsid sh -c 'sleep 30 & sleep 30' &) ; (f &) ; done; }; f 2>/dev/null";
    let mut child = in_cgroup(&cgroup, script);
    until("it multiplies", || cgroup.processes().unwrap().len() > 50);
    cgroup.kill_all(soon()).unwrap();
    assert!(cgroup.is_empty().unwrap());
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "200", "the old limit is back");
    child.wait().unwrap();
    cgroup.remove(soon()).unwrap();
}

#[test]
fn without_the_pids_controller_freezing_stops_the_forks() {
    let mut tree = Tree::new("freezer");
    if tree.layout.is_v2() {
        return; // v2 always has cgroup.kill or cgroup.freeze: the test above is the one
    }
    let all = tree.layout.clone();
    tree.layout.v1.retain(|h| !h.has("pids"));
    let cgroup = tree.create("pod1/bomb", "{}").unwrap();
    let script = "i=0; while [ $i -lt 40 ]; do (setsid sh -c 'while :; do (true); done' &); i=$((i+1)); done; sleep 60";
    let mut child = in_cgroup(&cgroup, script);
    until("it multiplies", || cgroup.processes().unwrap().len() > 20);
    cgroup.kill_all(soon()).unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    child.wait().unwrap();
    cgroup.remove(soon()).unwrap();
    tree.layout = all;
}

#[test]
fn a_frozen_container_can_be_killed_and_thawed() {
    let tree = Tree::new("frozen");
    let cgroup = tree.create("pod1/web", "{}").unwrap();
    let mut child = in_cgroup(&cgroup, "while :; do :; done");
    until("it runs", || cgroup.processes().unwrap().len() == 1);
    cgroup.freeze(soon()).unwrap();
    assert!(cgroup.is_frozen().unwrap());
    assert!(matches!(tree.create("pod1/web", "{}"), Err(CgroupError::NotEmpty { count: 1, .. })));
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze(soon()).unwrap();
    cgroup.kill_all(soon()).unwrap();
    child.wait().unwrap();
    cgroup.remove(soon()).unwrap();
    cgroup.thaw().expect("a cgroup that has gone is thawed");
}

#[test]
fn an_oom_kill_is_told_and_counted() {
    let tree = Tree::new("oom");
    let cgroup = tree.create("pod1/hog", r#"{"memory":{"limit":16777216,"swap":16777216}}"#).unwrap();
    let mut watch = cgroup.watch_oom().unwrap().expect("this host has the memory controller");
    assert_eq!(watch.read().unwrap().kills, 0);
    let mut child = in_cgroup(&cgroup, "exec dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null");
    let mut fds = [PollFd::new(watch.as_fd(), watch.interest())];
    assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)).unwrap(), 1, "a notice within 10 s");
    child.wait().unwrap();
    let mut kills = 0;
    until("the kill is counted", || {
        kills += watch.read().unwrap().kills;
        kills > 0
    });
    assert_eq!(kills, 1);
    assert_eq!(cgroup.oom_kills().unwrap(), Some(1));
    cgroup.remove(soon()).unwrap();
    assert!(watch.read().unwrap().gone);
}

#[test]
fn removal_takes_children_along_and_the_root_goes_with_the_last_pod() {
    let tree = Tree::new("children");
    let cgroup = tree.create("pod1/web", "{}").unwrap();
    for mount in tree.mounts() {
        let dir = mount.join(cgroup.path());
        if dir.exists() {
            std::fs::create_dir_all(dir.join("a/b")).unwrap();
            std::fs::create_dir(dir.join("c")).unwrap();
        }
    }
    cgroup.remove(soon()).unwrap();
    let pod = Cgroup::open(&tree.layout, format!("{}/pod1", tree.root)).unwrap();
    pod.remove(soon()).unwrap();
    pod.remove_parent_if_unused().unwrap();
    assert_eq!(tree.left(), Vec::<PathBuf>::new());
}

#[test]
fn removal_waits_for_a_process_that_takes_its_time_and_gives_up_at_the_deadline() {
    let tree = Tree::new("busy");
    let cgroup = tree.create("pod1/web", "{}").unwrap();
    // In a cgroup below, as a container that has delegated leaves them.
    let nested =
        Cgroup::create(&tree.layout, cgroup.path().join("a/b/c"), &serde_json::from_str("{}").unwrap()).unwrap();
    let mut child = in_cgroup(&nested, "exec sleep 4");
    until("the child is inside", || !cgroup.is_empty().unwrap());
    let error = cgroup.remove(Instant::now() + Duration::from_millis(100)).unwrap_err();
    assert!(error.to_string().contains("not done before the deadline"), "{error}");
    // A zombie is in no cgroup, but who waits for it must not matter.
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    cgroup.remove(soon()).unwrap();
    reaper.join().unwrap();
    assert!(!cgroup.exists());
}

#[test]
fn the_root_stays_while_another_pod_is_there() {
    let tree = Tree::new("root");
    let one = tree.create("pod1", "{}").unwrap();
    tree.create("pod2/web", "{}").unwrap();
    assert_eq!(pods_below(&tree.layout, &tree.root).unwrap(), ["1", "2"]);
    one.remove(soon()).unwrap();
    one.remove_parent_if_unused().unwrap();
    assert_eq!(pods_below(&tree.layout, &tree.root).unwrap(), ["2"]);
}

#[test]
fn a_failure_undoes_what_was_made() {
    let tree = Tree::new("undo");
    // The kernel refuses a CPU that does not exist.
    let text = tree.create("pod1/web", r#"{"cpu":{"cpus":"4000"}}"#).unwrap_err().to_string();
    assert!(text.contains("cpuset.cpus \"4000\": E"), "{text}");
    assert_eq!(tree.left(), Vec::<PathBuf>::new());
    for path in ["", "/", "../x", "a/../../b"] {
        assert!(matches!(Cgroup::open(&tree.layout, path), Err(CgroupError::Path(_))), "{path:?}");
    }
}

#[test]
fn limits_of_a_running_container_change_up_and_down() {
    let tree = Tree::new("update");
    let cgroup = tree.create("pod1/web", r#"{"memory":{"limit":20971520,"swap":20971520}}"#).unwrap();
    for mb in [40, 30, 80, 10] {
        let (bytes, quota, period) = (mb << 20, mb * 1000, mb * 2000);
        let resources =
            format!(r#"{{"memory":{{"limit":{bytes},"swap":{bytes}}},"cpu":{{"quota":{quota},"period":{period}}}}}"#);
        cgroup.set(&serde_json::from_str(&resources).unwrap()).unwrap();
        assert_eq!(read(&cgroup, "memory", "memory.limit_in_bytes", "memory.max"), bytes.to_string());
    }
    let below: LinuxResources = serde_json::from_str(r#"{"memory":{"limit":1,"checkBeforeUpdate":true}}"#).unwrap();
    let mut child = in_cgroup(&cgroup, "exec sleep 60");
    until("it runs", || cgroup.processes().unwrap().len() == 1);
    until("it uses memory", || match cgroup.stats().unwrap() {
        Metrics::V1(metrics) => metrics.memory.unwrap().usage.unwrap().usage > 1,
        Metrics::V2(metrics) => metrics.memory.unwrap().usage > 1,
    });
    assert!(matches!(cgroup.set(&below), Err(CgroupError::BelowUsage { limit: 1 })));
    cgroup.kill_all(soon()).unwrap();
    child.wait().unwrap();
}

#[test]
fn a_leaf_holds_what_an_exec_started_and_nothing_else() {
    let tree = Tree::new("leaf");
    let cgroup = tree.create("pod1/web", r#"{"pids":{"limit":100}}"#).unwrap();
    let mut init = in_cgroup(&cgroup, "exec sleep 60");
    until("init is inside", || cgroup.processes().unwrap().len() == 1);
    let mut pool = cgroup.leaf_pool();
    let leaf = pool.acquire().unwrap();
    let mut exec = enter(leaf.attach(), "setsid sleep 61 & sleep 62 & wait");
    until("three processes", || leaf.processes().unwrap().len() == 3);
    assert_eq!(cgroup.processes().unwrap().len(), 4, "the container's own list holds them too");
    let memory = tree.layout.v1_hierarchy("memory").map(|h| h.mount_point.join(cgroup.path()).join("cgroup.procs"));
    if let Some(memory) = memory {
        until("charged to the container", || std::fs::read_to_string(&memory).unwrap().lines().count() == 4);
    }
    leaf.kill_all(soon()).unwrap();
    exec.wait().unwrap();
    assert_eq!(cgroup.processes().unwrap(), [init.id() as i32]);
    pool.release(leaf).unwrap();
    let again = pool.acquire().unwrap();
    let mut exec = enter(again.attach(), "(exit 3)");
    assert_eq!(exec.wait().unwrap().code(), Some(3), "a leaf can fork again after a kill");
    // A shim that was killed while it killed an exec leaves a leaf that can fork no more; the next one makes it anew.
    let primary = tree.layout.v1_hierarchy("pids").map(|h| h.mount_point.clone());
    let mount = primary.unwrap_or_else(|| tree.layout.unified.as_ref().unwrap().mount_point.clone());
    std::fs::write(mount.join(cgroup.path()).join("killick-exec-0/pids.max"), "0").unwrap_or_default();
    let mut next_shims = cgroup.leaf_pool();
    let anew = next_shims.acquire().unwrap();
    assert_eq!(enter(anew.attach(), "(exit 3)").wait().unwrap().code(), Some(3));
    next_shims.release(anew).unwrap();
    next_shims.clear().unwrap();
    drop(again);
    cgroup.kill_all(soon()).unwrap();
    init.wait().unwrap();
    cgroup.remove(soon()).unwrap();
}

#[test]
fn devices_outside_the_list_cannot_be_opened() {
    let tree = Tree::new("devices");
    let cgroup = tree.create("pod1/web", r#"{"devices":[{"allow":false,"access":"rwm"}]}"#).unwrap();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let run = |cgroup: &Cgroup, script: &str| {
        let script = format!("cd {} || exit 98; ( {script} ) 2>/dev/null || exit 1", dir.path().display());
        in_cgroup(cgroup, &script).wait().unwrap().code()
    };
    assert_eq!(run(&cgroup, "mknod kmsg c 1 11 && mknod mem c 1 1"), Some(0), "any node may be made");
    assert_eq!(run(&cgroup, "exec 3< kmsg"), Some(1), "but not opened");
    assert_eq!(run(&cgroup, "exec 3<> /dev/null && exec 4< /dev/urandom"), Some(0));
    let mut running = in_cgroup(&cgroup, "exec sleep 60");
    until("it runs", || cgroup.processes().unwrap().len() == 1);
    let more = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    cgroup.set(&serde_json::from_str(more).unwrap()).unwrap();
    assert_eq!(run(&cgroup, "exec 3< kmsg"), Some(0), "an update gives it");
    assert_eq!(run(&cgroup, "exec 3> kmsg"), Some(1), "for reading only");
    cgroup.kill_all(soon()).unwrap();
    running.wait().unwrap();
    // On v1 the kernel takes a denial only from the exception with the same numbers: it must be said for each.
    let wide = r#"{"devices":[{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":1,"minor":11,"access":"rw"},
        {"allow":false,"type":"c","major":1,"access":"w"}]}"#;
    let resources: LinuxResources = serde_json::from_str(wide).unwrap();
    let denied = tree.create("pod1/wide", wide).unwrap();
    assert_eq!(run(&denied, "exec 3< kmsg"), Some(0));
    assert_eq!(run(&denied, "exec 3> kmsg"), Some(1));
    assert_eq!(run(&denied, "exec 3> /dev/null"), Some(0), "the defaults come last");
    if let Some(hierarchy) = tree.layout.v1_hierarchy("devices") {
        let list = std::fs::read_to_string(hierarchy.mount_point.join(denied.path()).join("devices.list")).unwrap();
        let rules = devices::parse(resources.devices().as_ref().unwrap()).unwrap();
        assert_eq!(devices::v1::State::parse(&list), devices::v1::fresh(&rules).unwrap().1, "{list}");
    }
    let everything = tree.create("pod1/privileged", r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap();
    assert_eq!(run(&everything, "exec 3< kmsg"), Some(0));
}

#[test]
fn a_device_program_restricts_a_v2_cgroup_and_is_replaced() {
    if !killick_sys::bpf::is_available() {
        println!("not here: this kernel has no device programs (4.15)");
        return;
    }
    let Some(tree) = Tree::v2("bpf") else { return };
    let cgroup = tree.create("pod1/web", r#"{"devices":[{"allow":false,"access":"rwm"}]}"#).unwrap();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let run = |cgroup: &Cgroup, script: &str| {
        let script = format!("cd {} || exit 98; ( {script} ) 2>/dev/null || exit 1", dir.path().display());
        in_cgroup(cgroup, &script).wait().unwrap().code()
    };
    assert_eq!(run(&cgroup, "mknod kmsg c 1 11 && mknod mem c 1 1"), Some(0), "any node may be made");
    assert_eq!(run(&cgroup, "exec 3< kmsg"), Some(1), "but not opened");
    assert_eq!(run(&cgroup, "exec 3<> /dev/null && exec 4< /dev/urandom"), Some(0));
    for round in 0..3 {
        // To and fro: the old program goes in the moment in which the new one comes.
        let access = if round % 2 == 0 { "r" } else { "m" };
        let more = format!(
            r#"{{"devices":[{{"allow":false,"access":"rwm"}},
                {{"allow":true,"type":"c","major":1,"minor":11,"access":"{access}"}}]}}"#
        );
        cgroup.set(&serde_json::from_str(&more).unwrap()).unwrap();
        assert_eq!(run(&cgroup, "exec 3< kmsg"), Some(if access == "r" { 0 } else { 1 }), "round {round}");
        assert_eq!(run(&cgroup, "exec 3<> kmsg"), Some(1), "an open for both needs both");
        let fd = std::fs::File::open(Path::new(&cgroup.dirs()[0].1)).unwrap();
        assert_eq!(killick_sys::bpf::device_programs(fd.as_fd()).unwrap().len(), 1);
    }
    // A hole in a wildcard, which v1 cannot say.
    let hole = r#"{"devices":[{"allow":true,"access":"rwm"},
        {"allow":false,"type":"c","major":1,"minor":11,"access":"w"}]}"#;
    cgroup.set(&serde_json::from_str(hole).unwrap()).unwrap();
    assert_eq!(run(&cgroup, "exec 3< kmsg"), Some(0));
    assert_eq!(run(&cgroup, "exec 3> kmsg"), Some(1));
    cgroup.remove(soon()).unwrap();
}

#[test]
fn a_v2_cgroup_is_frozen_killed_and_removed() {
    let Some(tree) = Tree::v2("unified") else { return };
    let cgroup = tree.create("pod1/web", "{}").unwrap();
    let mut init = in_cgroup(&cgroup, "while :; do (setsid sleep 30 &); [ -e /nonexistent ]; sleep 0.01; done");
    until("it multiplies", || cgroup.processes().unwrap().len() > 10);
    cgroup.freeze(soon()).unwrap();
    assert!(cgroup.is_frozen().unwrap());
    assert!(matches!(tree.create("pod1/web", "{}"), Err(CgroupError::NotEmpty { .. })));
    cgroup.thaw().unwrap();
    let mut pool = cgroup.leaf_pool();
    let leaf = pool.acquire().unwrap();
    let mut exec = enter(leaf.attach(), "setsid sleep 61 & sleep 62 & wait");
    until("three processes", || leaf.processes().unwrap().len() == 3);
    leaf.kill_all(soon()).unwrap();
    exec.wait().unwrap();
    pool.release(leaf).unwrap();
    let mut exec = enter(pool.acquire().unwrap().attach(), "(exit 3)");
    assert_eq!(exec.wait().unwrap().code(), Some(3), "a leaf can fork again after a kill");
    cgroup.freeze(soon()).unwrap();
    cgroup.kill_all(soon()).unwrap();
    init.wait().unwrap();
    cgroup.remove(soon()).unwrap();
}

#[test]
fn a_leaf_works_where_the_container_has_delegated() {
    let tree = Tree::new("delegated");
    if !tree.layout.is_v2() {
        eprintln!("delegated: not tested here, controllers are on v1");
        return;
    }
    let cgroup = tree.create("pod1/systemd", "{}").unwrap();
    let dir = PathBuf::from(&cgroup.dirs()[0].1);
    std::fs::create_dir(dir.join("init.scope")).unwrap();
    std::fs::write(dir.join("cgroup.subtree_control"), "+memory +pids").unwrap();
    let own = cgroup.attach().unwrap();
    assert_eq!(enter(&own, "exit 0").wait().unwrap().code(), Some(99), "the container's own cgroup is refused");
    let mut pool = cgroup.leaf_pool();
    let leaf = pool.acquire().unwrap();
    assert_eq!(enter(leaf.attach(), "exit 3").wait().unwrap().code(), Some(3));
    pool.release(leaf).unwrap();
    cgroup.remove(soon()).unwrap();
}

#[test]
fn a_cpuset_is_inherited_on_the_way_down() {
    let tree = Tree::new("cpuset");
    if tree.layout.v1_hierarchy("cpuset").is_none() {
        return; // v2 inherits by itself
    }
    let cgroup = tree.create("pod1/web", "{}").unwrap();
    assert_ne!(read(&cgroup, "cpuset", "cpuset.cpus", ""), "");
    assert_ne!(read(&cgroup, "cpuset", "cpuset.mems", ""), "");
}

#[test]
fn the_counters_are_those_of_the_container() {
    let tree = Tree::new("stats");
    let cgroup =
        tree.create("pod1/web", r#"{"memory":{"limit":33554432,"swap":33554432},"pids":{"limit":9}}"#).unwrap();
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 60";
    let mut child = in_cgroup(&cgroup, script);
    until("it runs", || cgroup.processes().unwrap().len() == 1);
    until("it has used some time", || match cgroup.stats().unwrap() {
        Metrics::V1(metrics) => {
            let (cpu, memory) = (metrics.cpu.unwrap(), metrics.memory.unwrap());
            assert_eq!(metrics.pids.unwrap().limit, 9);
            assert_eq!(memory.usage.unwrap().limit, 33_554_432);
            assert_eq!(metrics.memory_oom_control.unwrap().oom_kill, 0);
            assert!(metrics.blkio.is_some());
            // Not total_rss: before 5.16 it is told in batches of 32 pages a processor, more than a small shell has.
            cpu.total > 1_000_000 && memory.usage.unwrap().usage > 0 && metrics.pids.unwrap().current == 1
        }
        Metrics::V2(metrics) => {
            assert_eq!(metrics.pids.unwrap().limit, 9);
            assert_eq!(metrics.memory.as_ref().unwrap().usage_limit, 33_554_432);
            metrics.cpu.unwrap().usage_usec > 1_000 && metrics.memory.unwrap().anon > 0
        }
    });
    assert_eq!(cgroup.signal_all(libc::SIGTERM).unwrap(), 1);
    child.wait().unwrap();
    cgroup.remove(soon()).unwrap();
}
