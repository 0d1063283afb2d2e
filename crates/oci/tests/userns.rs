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
