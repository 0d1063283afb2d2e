//! Labels of security modules, on whatever this kernel has: with AppArmor on (a guest of `scripts/vm-lsm`, which loads
//! the profile `killick-test`) the profile is the program's; where a module is off, its labels are ignored and said so.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::Bundle;
use killick_sys::lsm::{has_apparmor, has_selinux};
use serde_json::json;

/// Loaded by `scripts/vm-lsm`: everything but what is below /forbidden.
const PROFILE: &str = "killick-test";
const CURRENT: &str = "cat /proc/self/attr/current; cat /forbidden/file";

fn confined(profile: &str) -> Bundle {
    let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", CURRENT], "apparmorProfile": profile}}));
    std::fs::create_dir(bundle.rootfs().join("forbidden")).unwrap();
    std::fs::write(bundle.rootfs().join("forbidden/file"), "read\n").unwrap();
    bundle
}

#[test]
fn an_apparmor_profile_confines_the_program_and_what_is_added() {
    if !has_apparmor() || std::env::var_os("KILLICK_LSM").is_none() {
        println!("not here: the profile {PROFILE} is not loaded; scripts/vm-lsm does it in a guest");
        return;
    }
    let current = format!("{PROFILE} (enforce)\n");
    for no_new_privileges in [true, false] {
        let bundle = confined(PROFILE);
        let mut config = bundle.config();
        config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        bundle.configure(&config);
        let run = bundle.run();
        assert_eq!((run.code, run.out.as_str()), (1, current.as_str()), "{run:?}");
        assert!(run.err.contains("Permission denied"), "{run:?}");
    }
    // An exec may have another, or none; a container in which somebody may trace bears it outside.
    for capabilities in [json!([]), json!(["CAP_SYS_PTRACE"])] {
        let bundle = confined("unconfined");
        let mut config = bundle.config();
        config["process"]["args"] = json!(["sleep", "1000000"]);
        config["process"]["capabilities"]["bounding"] = capabilities;
        bundle.configure(&config);
        bundle.create();
        bundle.start();
        let exec = |words: &[&str]| bundle.exec(&[words, &[&bundle.id, "sh", "-c", CURRENT]].concat());
        assert_eq!(exec(&[]).ok(), "unconfined\nread\n");
        let run = exec(&["--apparmor", PROFILE]);
        assert_eq!((run.code, run.out.as_str()), (1, current.as_str()), "{run:?}");
    }
    // One that is not loaded fails, and nothing is left.
    let bundle = confined("no-such-profile");
    let failed = bundle.quiet(&["run", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    failed.fails("`/proc/thread-self/attr/apparmor/exec`, \"exec no-such-profile\"): ENOENT");
    bundle.assert_gone();
}

#[test]
fn a_label_of_a_module_that_is_off_is_ignored_and_said_so() {
    let label = "system_u:system_r:container_t:s0:c1,c2";
    let bundle = Bundle::new(json!({
        "process": {"args": ["true"], "apparmorProfile": if has_apparmor() { "" } else { "web" }, "selinuxLabel": label},
        "linux": {"mountLabel": label},
    }));
    assert!(!has_selinux(), "no test knows what to do with a policy");
    let mut expected = format!("process.selinuxLabel {label:?} is ignored: SELinux is off\n");
    if !has_apparmor() {
        expected += "process.apparmorProfile \"web\" is ignored: this kernel has no AppArmor\n";
    }
    expected += &format!("linux.mountLabel {label:?} is ignored: SELinux is off\n");
    let run = bundle.quiet(&["run", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    assert_eq!((run.code, run.err), (0, expected));
}
