//! Bad input: one line that names field and value, exit code 1, nothing left.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, merge, output};
use serde_json::{Value, json};
use std::fs;

fn check(change: Value, expected: &str) {
    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    merge(&mut config, change);
    bundle.configure(&config);
    let path = bundle.path().to_str().unwrap();
    let failed = bundle.quiet(&["create", "-b", path, &bundle.id]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.err.starts_with("killick-oci create failed: "), "{failed:?}");
    assert!(failed.err.contains(expected), "wanted {expected:?} in {failed:?}");
    assert_eq!(failed.err.lines().count(), 1, "{failed:?}");
    bundle.assert_gone();
}

#[test]
fn an_invalid_configuration_is_refused_and_leaves_nothing() {
    check(json!({"ociVersion": null}), "ociVersion must be specified");
    check(json!({"root": {"path": "missing"}}), "invalid rootfs: stat");
    check(json!({"root": {"path": "config.json"}}), "not a directory");
    check(json!({"process": {"args": []}}), "args must not be empty");
    check(json!({"process": {"cwd": "x"}}), "Cwd must be an absolute path");
    check(json!({"process": {"env": ["NOVALUE"]}}), "invalid environment variable \"NOVALUE\"");
    check(json!({"process": {"rlimits": [{"type": "RLIMIT_FANCY", "soft": 1, "hard": 1}]}}), "RLIMIT_FANCY");
    check(
        json!({"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 2, "hard": 2}]}}),
        "rlimit RLIMIT_CORE is given twice",
    );
    check(
        json!({"process": {"scheduler": {"policy": "SCHED_FIFO", "nice": 3}}}),
        "process.scheduler.nice: 3 is invalid here",
    );
    check(json!({"linux": {"timeOffsets": {"boottime": {"secs": 1}}}}), "linux.timeOffsets: time namespace offsets");
    check(json!({"linux": {"rootfsPropagation": "sideways"}}), "rootfsPropagation=sideways is not supported");
    check(
        json!({"linux": {"sysctl": {"vm.swappiness": "1"}}}),
        "sysctl \"vm.swappiness\" is not in a separate kernel namespace",
    );
    check(json!({"linux": {"sysctl": {"net.no.such.key": "1"}}}), "/proc/sys/net/no/such/key");
    check(json!({"linux": {"resources": {"memory": {"limit": -5}}}}), "invalid memory value: -5");
    let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let unified = if is_v2 { "cannot set nosuch.high" } else { "cannot use unified on cgroup v1" };
    check(json!({"linux": {"resources": {"unified": {"nosuch.high": "1"}}}}), unified);
    check(
        json!({"mounts": [{"destination": "/proc/sys", "type": "tmpfs", "source": "x"}]}),
        "\"/proc/sys\" cannot be mounted because it is inside /proc",
    );
    check(
        json!({"mounts": [{"destination": "/data", "type": "bind", "source": "/no/such", "options": ["bind"]}]}),
        "/no/such",
    );
    check(json!({"mounts": [{"destination": "/data", "type": "nofs", "source": "x"}]}), "/data");
}

#[test]
fn a_program_that_cannot_run_fails_create_in_the_engines_words() {
    let words = "unable to start container process: ";
    for (program, text) in [
        ("nothing", "exec: \"nothing\": executable file not found in $PATH"),
        ("/bin/nothing", "exec: \"/bin/nothing\": stat /bin/nothing: no such file or directory"),
        ("/etc/not-executable", "exec: \"/etc/not-executable\": permission denied"),
        ("/etc", "exec: \"/etc\": is a directory"),
    ] {
        check(json!({"process": {"args": [program]}}), &format!("{words}{text}"));
    }
}

#[test]
fn what_only_execve_can_tell_fails_start() {
    let bundle = Bundle::new(json!({"process": {"args": ["/etc/no-interpreter"]}}));
    bundle.create();
    bundle.quiet(&["start", &bundle.id]).fails("exec /etc/no-interpreter: no such file or directory");
    bundle.wait_for("stopped");
}

#[test]
fn ids_and_places_are_checked_first() {
    let bundle = Bundle::new(json!({}));
    let path = bundle.path().to_str().unwrap();
    for id in ["a/b", "..", "ä", ""] {
        let failed = bundle.quiet(&["create", "-b", path, id]);
        assert_eq!(failed.code, 1);
        assert!(
            failed.err.contains("container id cannot be empty") || failed.err.contains("invalid container ID format"),
            "{failed:?}"
        );
    }
    bundle.quiet(&["create", "-b", "/no/such", "x"]).fails("no such file or directory");
    bundle.quiet(&["create", "-b", "/tmp", "x"]).fails("config.json not found");
    fs::write(bundle.path().join("config.json"), "{\"ociVersion\": ").unwrap();
    bundle.quiet(&["create", "-b", path, "x"]).fails("EOF while parsing");
    let mut command = std::process::Command::new(common::PROGRAM);
    command.args(["--root", "/", "list"]);
    output(command).fails("Option --root argument should not be set to /");
    assert!(!bundle.states().join("x").exists());
}

#[test]
fn what_is_not_supported_says_so() {
    let bundle = Bundle::new(json!({}));
    let path = bundle.path().to_str().unwrap();
    // Where systemd runs the host, the path's form is what is wrong.
    let text = match std::path::Path::new("/run/systemd/system").exists() {
        true => "expected cgroupsPath to be of format",
        false => "systemd cgroup flag passed, but systemd support for managing cgroups is not available",
    };
    bundle.oci(&["--systemd-cgroup", "create", "-b", path, &bundle.id]).fails(text);
    bundle.oci(&["--cgroup-manager", "disabled", "list"]).fails("is not supported: cgroupfs or systemd");
    bundle.oci(&["--log-format", "xml", "list"]).fails("invalid log-format: xml");
}

#[test]
fn an_error_is_one_json_record_and_one_line_for_people() {
    let bundle = Bundle::new(json!({}));
    let log = bundle.path().join("oci-log");
    let failed = bundle.oci(&["--log-format=json", "--log", log.to_str().unwrap(), "start", "nobody"]);
    assert_eq!((failed.code, failed.err.as_str()), (1, "container does not exist\n"));
    let record: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim_end()).unwrap();
    assert_eq!((&record["level"], &record["msg"]), (&json!("error"), &json!("container does not exist")));
    assert!(record["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn the_table_for_people_names_every_field_that_is_refused() {
    let table = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/oci-support.md");
    let table = fs::read_to_string(table).unwrap();
    for refused in killick_container::support::REFUSED {
        let row = format!("| `{}` | refused |", refused.field);
        assert!(table.contains(&row), "docs/oci-support.md has no row {row:?}");
    }
}
