//! Single fields of config.json against the kernel.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, output};
use serde_json::json;
use std::process::Command;

/// The bundle run in the foreground by a shell that has made `before` true around it.
fn run_after(bundle: &Bundle, wrapper: &[&str], before: &str) -> common::Output {
    let path = bundle.path().to_str().unwrap();
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).args(["sh", "-c", &format!("{before}; exec \"$@\""), "sh"]);
    command.arg(common::PROGRAM).arg("--root").arg(bundle.states()).args(["run", "--bundle", path, &bundle.id]);
    output(command)
}

#[test]
fn a_memory_policy_is_the_first_processs_and_an_execs() {
    let bundle = Bundle::new(json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}}));
    bundle.create();
    bundle.start();
    let id = bundle.id.as_str();
    for words in [[id, "head", "-n1", "/proc/1/numa_maps"], [id, "head", "-n1", "/proc/self/numa_maps"]] {
        let line = bundle.exec(&words).ok();
        assert!(line.contains(" bind:0 "), "{line}");
    }
}

#[test]
fn a_memory_policy_for_nodes_that_are_not_there_is_the_kernels_to_refuse() {
    let bundle = Bundle::new(json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "60"}}}));
    let failed = bundle.quiet(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    failed.fails("set_mempolicy(0x2, nodes [60])");
    bundle.assert_gone();
}

#[test]
fn the_callers_cpus_are_not_the_containers() {
    let bundle = Bundle::shell("grep Cpus_allowed_list /proc/self/status");
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap();
    assert_eq!(run_after(&bundle, &["taskset", "-c", "0"], "true").ok().trim(), all);
}

#[test]
fn a_device_of_the_host_becomes_the_containers_with_its_addresses() {
    let show = "ip -o link show dev eth7; ip -o addr show dev eth7; test ! -e /sys/class/net/kd0; cat /proc/sys/net/ipv4/conf/eth7/forwarding";
    let bundle = Bundle::new(json!({
        "process": {"args": ["sh", "-c", show]},
        "linux": {"netDevices": {"kd0": {"name": "eth7"}}, "sysctl": {"net/ipv4/conf/eth7/forwarding": "1"}},
    }));
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/ip")).unwrap();
    // Not busybox's, which its shell prefers and which knows no peer.
    let before = "/bin/ip link add kd0 mtu 1400 type veth peer name kdp && /bin/ip addr add 10.9.8.7/24 dev kd0 && \
                  /bin/ip -6 addr add fd00:9::7/64 dev kd0 && /bin/ip link set kd0 up";
    let shown = run_after(&bundle, &["unshare", "-n"], before).ok();
    for words in ["mtu 1400", ",UP", "inet 10.9.8.7/24", "inet6 fd00:9::7/64"] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    assert!(shown.ends_with("\n1\n"), "{shown}");
}

#[test]
fn a_device_that_cannot_be_moved_fails_create_and_is_named() {
    let bundle = Bundle::new(json!({"linux": {"netDevices": {"nodev7": {}}}}));
    let path = bundle.path().to_str().unwrap();
    bundle
        .quiet(&["create", "-b", path, &bundle.id])
        .fails("linux.netDevices[\"nodev7\"]: RTM_GETLINK(nodev7): ENODEV");
    bundle.assert_gone();
    // A name that is taken inside.
    let bundle = Bundle::new(json!({"linux": {"netDevices": {"kd0": {"name": "lo"}}}}));
    let failed = run_after(&bundle, &["unshare", "-n"], "ip link add kd0 type veth peer name kdp");
    failed.fails("RTM_SETLINK(kd0, IFLA_NET_NS_FD");
}

#[test]
fn resctrl_is_refused_by_name_where_it_is_not() {
    if killick_container::rdt::mounted().is_some() {
        return;
    }
    let bundle = Bundle::new(json!({"linux": {"intelRdt": {"closID": "gold"}}}));
    let path = bundle.path().to_str().unwrap();
    bundle.quiet(&["create", "-b", path, &bundle.id]).fails("linux.intelRdt: this host has no resctrl file system");
    bundle.assert_gone();
}
