//! The six hooks: order, place, state, environment, failure and time.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::Bundle;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Runs `script` as a hook of the host, with the bundle's path as $1.
fn hook(bundle: &Path, script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script, "sh", bundle.to_str().unwrap()]})
}

#[test]
fn hooks_run_in_order_with_the_state_on_their_stdin() {
    let bundle = Bundle::new(json!({"annotations": {"k": "v"}}));
    let mut config = bundle.config();
    config["root"]["readonly"] = json!(false);
    for kind in KINDS {
        // Inside the container the bundle's path is another place: startContainer writes below /tmp.
        let script = match kind {
            "startContainer" => "echo startContainer $(cat) $FROM >> /tmp/order".to_owned(),
            kind => format!("echo {kind} $(cat) >> $1/rootfs/tmp/order"),
        };
        let first = hook(bundle.path(), &script);
        let second = hook(bundle.path(), &script.replace(kind, &format!("{kind}2")));
        config["hooks"][kind] = json!([first, second]);
    }
    config["process"]["env"] = json!(["PATH=/bin", "FROM=process"]);
    bundle.configure(&config);
    let order = bundle.rootfs().join("tmp/order");
    let names = || -> Vec<String> {
        let text = fs::read_to_string(&order).unwrap_or_default();
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    bundle.create();
    assert_eq!(
        names(),
        ["prestart", "prestart2", "createRuntime", "createRuntime2", "createContainer", "createContainer2"]
    );
    let pid = bundle.pid();
    bundle.start();
    assert_eq!(names()[6..], ["startContainer", "startContainer2", "poststart", "poststart2"]);
    bundle.oci(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(names()[10..], ["poststop", "poststop2"]);
    let text = fs::read_to_string(&order).unwrap();
    for (kind, status, told) in [
        ("prestart", "creating", Some(pid)),
        ("createRuntime", "creating", Some(pid)),
        ("createContainer", "creating", Some(1)),
        ("startContainer", "created", Some(1)),
        ("poststart", "running", Some(pid)),
        ("poststop", "stopped", None),
    ] {
        let line = text.lines().find(|line| line.starts_with(&format!("{kind} "))).unwrap();
        let json = line.strip_prefix(kind).unwrap().trim().trim_end_matches(" process");
        let state: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(state["status"], status, "{kind}");
        assert_eq!(state["id"], bundle.id.as_str());
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
        assert_eq!(state["annotations"], json!({"k": "v"}));
        assert_eq!(state.get("pid").and_then(Value::as_i64), told.map(i64::from), "{kind}");
    }
    // A hook without an environment of its own has the process's.
    assert!(text.lines().any(|line| line.starts_with("startContainer ") && line.ends_with(" process")), "{text}");
}

#[test]
fn hooks_run_in_the_namespaces_that_are_theirs() {
    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    let script = "readlink /proc/self/ns/uts > $1/rootfs/tmp/KIND; readlink /proc/self/ns/mnt >> $1/rootfs/tmp/KIND";
    for kind in ["createRuntime", "createContainer"] {
        config["hooks"][kind] = json!([hook(bundle.path(), &script.replace("KIND", kind))]);
    }
    bundle.configure(&config);
    bundle.create();
    let pid = bundle.pid();
    let namespaces = |of: &str| {
        let link = |kind: &str| fs::read_link(format!("/proc/{of}/ns/{kind}")).unwrap().display().to_string();
        format!("{}\n{}\n", link("uts"), link("mnt"))
    };
    let told = |kind: &str| fs::read_to_string(bundle.rootfs().join("tmp").join(kind)).unwrap();
    assert_eq!(told("createRuntime"), namespaces("self"));
    assert_eq!(told("createContainer"), namespaces(&pid.to_string()));
}

#[test]
fn a_hook_that_fails_undoes_the_container() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = Bundle::new(json!({}));
        let mut config = bundle.config();
        config["hooks"][kind] =
            json!([hook(bundle.path(), "echo no luck >&2; exit 4"), hook(bundle.path(), "touch $1/second")]);
        config["hooks"]["poststop"] = json!([hook(bundle.path(), "touch $1/poststop")]);
        bundle.configure(&config);
        let path = bundle.path().to_str().unwrap();
        let failed = bundle.quiet(&["create", "-b", path, &bundle.id]);
        assert_eq!(failed.code, 1);
        let text = format!("error running {kind} hook #0: exit status 4, stdout: , stderr: no luck");
        assert!(failed.err.contains(&text), "{failed:?}");
        assert!(!bundle.path().join("second").exists(), "the first failure stops");
        assert!(bundle.path().join("poststop").exists());
        bundle.assert_gone();
    }
}

#[test]
fn a_failing_hook_of_start_stops_the_container() {
    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    config["hooks"]["startContainer"] = json!([{"path": "/bin/false"}]);
    bundle.configure(&config);
    bundle.create();
    bundle.quiet(&["start", &bundle.id]).fails("error running startContainer hook #0: exit status 1");
    bundle.wait_for("stopped");

    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    config["hooks"]["poststart"] = json!([{"path": "/bin/false"}]);
    bundle.configure(&config);
    bundle.create();
    bundle.quiet(&["start", &bundle.id]).fails("error running poststart hook #0: exit status 1");
    bundle.assert_gone();

    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    config["hooks"]["poststop"] = json!([{"path": "/bin/false"}, {"path": "/bin/true"}]);
    bundle.configure(&config);
    bundle.create();
    let deleted = bundle.quiet(&["delete", &bundle.id]);
    assert_eq!(
        (deleted.code, deleted.err.as_str()),
        (0, "error running poststop hook #0: exit status 1, stdout: , stderr: \n")
    );
}

#[test]
fn a_hook_that_does_not_end_is_killed_at_its_timeout() {
    for kind in ["createRuntime", "createContainer"] {
        let bundle = Bundle::new(json!({}));
        let mut config = bundle.config();
        config["hooks"][kind] = json!([{"path": "/bin/sleep", "args": ["sleep", "1000000"], "timeout": 1}]);
        bundle.configure(&config);
        let path = bundle.path().to_str().unwrap();
        bundle.quiet(&["create", "-b", path, &bundle.id]).fails("hook ran past specified timeout of 1.0s");
        bundle.assert_gone();
    }
}
