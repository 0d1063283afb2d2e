//! events: every field that runc has, for a container that is busy; OOM notices; an end.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn statistics(bundle: &Bundle) -> Value {
    let event: Value = serde_json::from_str(&bundle.oci(&["events", "--stats", &bundle.id]).ok()).unwrap();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(bundle.id)));
    event["data"].clone()
}

/// What `runc events --stats` prints on either cgroup version; those of one version only are asked for below.
const FIELDS: &[&str] = &[
    "/cpu/usage/total",
    "/cpu/usage/kernel",
    "/cpu/usage/user",
    "/cpu/throttling/periods",
    "/cpu/throttling/throttledPeriods",
    "/cpu/throttling/throttledTime",
    "/cpuset/cpus/0",
    "/cpuset/mems/0",
    "/cpuset/cpu_exclusive",
    "/cpuset/mem_hardwall",
    "/cpuset/mem_exclusive",
    "/cpuset/memory_migrate",
    "/cpuset/memory_spread_page",
    "/cpuset/memory_spread_slab",
    "/cpuset/memory_pressure",
    "/cpuset/sched_load_balance",
    "/cpuset/sched_relax_domain_level",
    "/memory/cache",
    "/memory/usage/limit",
    "/memory/usage/usage",
    "/memory/usage/max",
    "/memory/usage/failcnt",
    "/memory/swap/limit",
    "/memory/swap/usage",
    "/memory/kernel/limit",
    "/memory/kernel/usage",
    "/memory/kernelTCP/limit",
    "/memory/raw/pgfault",
    "/pids/current",
    "/pids/limit",
    "/blkio/ioServiceBytesRecursive",
    "/blkio/ioServicedRecursive",
    "/hugetlb",
    "/intel_rdt",
    "/network_interfaces/0/Name",
    "/network_interfaces/0/RxBytes",
    "/network_interfaces/0/TxDropped",
];

#[test]
fn a_busy_containers_counters_are_all_filled() {
    let bundle = Bundle::new(json!({
        "process": {"args": ["sh", "-c", "head -c 3000000 /dev/zero >/tmp/file; while :; do echo x >/dev/null; done"]},
        "linux": {"resources": {
            "pids": {"limit": 20}, "memory": {"limit": 104_857_600}, "cpu": {"quota": 20000, "period": 100_000}}}}));
    bundle.create();
    bundle.start();
    let busy = |data: &Value, field: &str| data.pointer(field).and_then(Value::as_u64).is_some_and(|number| number > 0);
    until("it was throttled", || {
        let data = statistics(&bundle);
        busy(&data, "/cpu/throttling/throttledTime") && busy(&data, "/cpu/usage/user")
    });
    let data = statistics(&bundle);
    for field in FIELDS {
        assert!(data.pointer(field).is_some(), "{field} in {data:#}");
    }
    for field in [
        "/cpu/usage/total",
        "/cpu/usage/user",
        "/cpu/throttling/periods",
        "/cpu/throttling/throttledPeriods",
        "/memory/usage/usage",
        "/memory/usage/max",
        "/memory/raw/pgfault",
        "/memory/swap/usage",
    ] {
        assert!(busy(&data, field), "{field} in {data:#}");
    }
    assert_eq!(data["pids"]["limit"], 20);
    assert_eq!(data["memory"]["usage"]["limit"], 104_857_600);
    assert_eq!(data["network_interfaces"][0]["Name"], "lo");
    // v1 counts for each CPU.
    if let Some(all) = data["cpu"]["usage"]["percpu"].as_array() {
        assert!(!all.is_empty());
        assert_eq!(data["cpu"]["usage"]["percpu_user"].as_array().unwrap().len(), all.len());
        assert_eq!(data["cpu"]["usage"]["percpu_kernel"].as_array().unwrap().len(), all.len());
    }
}

#[test]
fn statistics_come_at_their_interval_an_oom_at_once_and_all_ends_with_the_container() {
    let bundle = Bundle::new(json!({"linux": {"resources": {"memory": {"limit": 31_457_280, "swap": 31_457_280}}}}));
    bundle.create();
    bundle.start();
    let mut watching =
        bundle.command(&["events", "--interval=100ms", &bundle.id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["type"], "stats");
    // busybox's tail keeps a line without an end in memory.
    let killed = bundle.quiet(&["exec", &bundle.id, "busybox", "tail", "/dev/zero"]);
    assert_eq!(killed.code, 137, "{killed:?}");
    until("it is told", || next() == json!({"type": "oom", "id": bundle.id}));
    bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    assert!(watching.wait().unwrap().success());
}

#[test]
fn intervals_and_states_are_checked() {
    let bundle = Bundle::new(json!({}));
    for interval in ["0s", "0", "x", "-1s"] {
        let failed = bundle.oci(&["events", &format!("--interval={interval}"), &bundle.id]);
        assert_eq!(failed.code, 1, "{failed:?}");
        assert!(failed.err.contains("interval"), "{failed:?}");
    }
    bundle.create();
    assert_eq!(statistics(&bundle)["pids"]["current"], 1, "created counts as running");
    bundle.oci(&["kill", &bundle.id, "KILL"]).ok();
    bundle.wait_for("stopped");
    bundle.oci(&["events", "--stats", &bundle.id]).fails(&format!("container with id {} is not running", bundle.id));
}
