//! Golden plans. `KILLICK_BLESS=1 cargo test -p killick-pod plan` writes them anew.

use serde_json::json;

use super::*;
use crate::manifest::{Object, parse};

fn check(name: &str, manifest: &str, facts: &HostFacts, golden: &str) {
    let parsed = parse("x", manifest.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let Object::Pod(pod) = &parsed[0] else { panic!() };
    let text = plan(pod, facts);
    if std::env::var_os("KILLICK_BLESS").is_some() {
        std::fs::write(format!("{}/src/plan/golden/{name}.txt", env!("CARGO_MANIFEST_DIR")), text).unwrap();
        return;
    }
    assert_eq!(text, golden, "{name}");
}

fn hybrid() -> HostFacts {
    let facts = json!({
        "kernel": "6.18.5", "machine": "x86_64",
        "calls": {"pidfd": true, "setns_by_pidfd": true, "detached_mounts": false},
        "cgroups": {"v1": [{"name": "cpu"}], "unified": {"mount": "/sys/fs/cgroup/unified"}},
    });
    HostFacts { memory_bytes: 4 << 30, node: "node1".to_owned(), ..HostFacts::from_json(&facts) }
}

#[test]
fn the_plan_of_the_tcp_example_has_its_timetable() {
    let manifest = include_str!("../../../../examples/livenessProbe-tcp.yaml");
    check("tcp", manifest, &hybrid(), include_str!("golden/tcp.txt"));
}

#[test]
fn the_plan_of_the_tomcat_example_waits_for_its_startup_probe() {
    let manifest = include_str!("../../../../examples/startupProbe-tomcat.yaml");
    check("tomcat", manifest, &hybrid(), include_str!("golden/tomcat.txt"));
}

#[test]
fn the_plan_of_a_pod_with_everything_names_everything() {
    let manifest = include_str!("../manifest/tests/everything.yaml");
    let facts = HostFacts { cgroups: "v2".to_owned(), kernel: String::new(), ..hybrid() };
    check("everything", manifest, &facts, include_str!("golden/everything.txt"));
}

#[test]
fn facts_that_are_missing_keep_their_defaults() {
    assert_eq!(HostFacts::from_json(&json!(null)), HostFacts::default());
    assert_eq!(HostFacts::from_json(&json!({"cgroups": {"v1": [], "unified": {}}})).cgroups, "v2");
    assert_eq!(HostFacts::from_json(&json!({"cgroups": {"v1": [{}], "unified": null}})).cgroups, "v1");
    assert_eq!(hybrid().missing, ["detached_mounts"]);
}
