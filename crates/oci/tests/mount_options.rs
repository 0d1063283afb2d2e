//! Mount options, each against the kernel, on a new file system, a bound file and a bound directory.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::Bundle;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A container that prints what is mounted on /t, /f and /d, with `options` on each.
fn with(options: &[&str]) -> (Bundle, common::Output) {
    let bundle = Bundle::new(json!({"process": {"args": ["cat", "/proc/self/mountinfo"]}}));
    let sources = bundle.path().join("sources");
    fs::create_dir_all(sources.join("dir")).unwrap();
    fs::write(sources.join("file"), "x").unwrap();
    let mut config = bundle.config();
    let bind = |name: &str, source: &str| {
        let all: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
        json!({"destination": name, "type": "bind", "source": sources.join(source), "options": all})
    };
    let tmpfs: Vec<&str> = options.iter().copied().filter(|option| *option != "bind" && *option != "rbind").collect();
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": tmpfs}));
    if !options.contains(&"tmpcopyup") {
        mounts.extend([bind("/f", "file"), bind("/d", "dir")]);
    }
    bundle.configure(&config);
    let run = bundle.run();
    (bundle, run)
}

/// The per-mount options of a mount point.
fn flags<'a>(mounts: &'a str, point: &str) -> Vec<&'a str> {
    let line = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some(point))
        .unwrap_or_else(|| panic!("{point} in {mounts}"));
    line.split(' ').nth(5).unwrap().split(',').collect()
}

/// The options that other tests have: they need a user namespace, a mount that is there, a shared source or a link.
const ELSEWHERE: [&str; 7] = ["idmap", "ridmap", "remount", "shared", "rshared", "slave", "rslave"];

#[test]
fn every_option_is_taken_by_a_tmpfs_a_file_and_a_directory() {
    let features: Value = serde_json::from_str(&Bundle::new(json!({})).oci(&["features"]).ok()).unwrap();
    let all: Vec<&str> =
        features["mountOptions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(all.len() > 60 && all.is_sorted(), "{all:?}");
    for option in all.into_iter().filter(|option| !ELSEWHERE.contains(option)) {
        let (_bundle, run) = with(&[option]);
        assert_eq!(run.code, 0, "{option}: {run:?}");
        let seen = match option {
            "ro" | "rro" => "ro",
            "nosuid" | "rnosuid" => "nosuid",
            "nodev" | "rnodev" => "nodev",
            "noexec" | "rnoexec" => "noexec",
            "noatime" | "rnoatime" => "noatime",
            "nodiratime" | "rnodiratime" => "nodiratime",
            "nosymfollow" | "rnosymfollow" => "nosymfollow",
            "relatime" | "rrelatime" => "relatime",
            _ => continue,
        };
        for point in ["/t", "/f", "/d"] {
            assert!(flags(&run.out, point).contains(&seen), "{option} on {point}: {}", run.out);
        }
    }
}

#[test]
fn flags_of_a_file_system_hold_for_a_new_one() {
    for (option, shown) in [("sync", "sync"), ("dirsync", "dirsync"), ("rsync", "sync"), ("lazytime", "lazytime")] {
        let (_bundle, run) = with(&[option]);
        let line = run.out.lines().find(|line| line.contains(" /t ")).unwrap();
        let superblock = line.rsplit(' ').next().unwrap();
        assert!(superblock.split(',').any(|word| word == shown), "{option}: {line}");
    }
}

#[test]
fn the_last_of_two_options_wins() {
    for (options, point, has, has_not) in [
        (&["ro", "rw"][..], "/d", "rw", "ro"),
        (&["rw", "ro"], "/d", "ro", "rw"),
        (&["noexec", "exec"], "/t", "relatime", "noexec"),
        (&["rro", "rrw"], "/d", "rw", "ro"),
        (&["nosuid", "rsuid"], "/t", "relatime", "nosuid"),
        (&["strictatime"], "/d", "rw", "relatime"),
        (&["strictatime", "rnostrictatime", "rnorelatime", "nostrictatime"], "/d", "relatime", "noatime"),
    ] {
        let (_bundle, run) = with(options);
        let seen = flags(&run.out, point);
        assert!(seen.contains(&has) && !seen.contains(&has_not), "{options:?}: {seen:?}");
    }
}

#[test]
fn a_bind_drops_data_and_a_relative_destination_is_from_the_root() {
    let bundle = Bundle::new(json!({"process": {"args": ["true"]}}));
    let mut config = bundle.config();
    config["mounts"].as_array_mut().unwrap().extend([
        json!({"destination": "data", "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"]}),
        json!({"destination": "/b", "type": "bind", "source": bundle.path(), "options": ["bind", "size=5", "z"]}),
    ]);
    bundle.configure(&config);
    let run = bundle.quiet(&["run", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    let warnings = "mount \"data\": a relative destination is taken from /\n\
                    mount /b: a bind mount takes no data, dropped: \"size=5,z\"\n";
    assert_eq!((run.code, run.err.as_str()), (0, warnings));
    assert!(bundle.rootfs().join("data").is_dir());
}

#[test]
fn what_is_mounted_is_remounted() {
    let script = "cat /proc/self/mountinfo; df() { stat -f -c %b /t; }; df";
    let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", script]}}));
    let mut config = bundle.config();
    let remount =
        |at: &str, options: Value| json!({"destination": at, "type": "tmpfs", "source": "tmpfs", "options": options});
    config["mounts"].as_array_mut().unwrap().extend([
        remount("/t", json!(["size=64k"])),
        remount("/t", json!(["remount", "nodev", "ro", "size=128k"])),
        json!({"destination": "/d", "type": "bind", "source": bundle.path(), "options": ["bind"]}),
        json!({"destination": "/d", "type": "bind", "source": "none", "options": ["bind", "remount", "noexec"]}),
        remount("/dev", json!(["remount", "ro", "nosuid"])),
    ]);
    bundle.configure(&config);
    let out = bundle.run().ok();
    assert!(["ro", "nodev"].iter().all(|flag| flags(&out, "/t").contains(flag)), "{out}");
    assert!(flags(&out, "/d").contains(&"noexec"), "{out}");
    assert!(flags(&out, "/dev").contains(&"ro"), "{out}");
    assert!(out.ends_with("\n32\n"), "128k in pages: {out}");
    // Where nothing is mounted there is nothing to change.
    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    config["mounts"].as_array_mut().unwrap().push(remount("/etc", json!(["remount", "ro"])));
    bundle.configure(&config);
    bundle.quiet(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]).fails("mount /etc");
    bundle.assert_gone();
}

#[test]
fn links_are_copied_or_not_followed_where_it_is_said() {
    let script = "readlink /copied; readlink /link; cat /plain";
    let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", script]}}));
    let link = bundle.path().join("link");
    std::os::unix::fs::symlink("target-of-link", &link).unwrap();
    fs::write(bundle.path().join("file"), "the file\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", bundle.rootfs().join("plain")).unwrap();
    let bind = |at: &str, source: &Path, option: &str| json!({"destination": at, "type": "bind", "source": source, "options": ["bind", option]});
    let mut config = bundle.config();
    config["mounts"].as_array_mut().unwrap().extend([
        bind("/copied", &link, "copy-symlink"),
        bind("/link", &link, "src-nofollow"),
        bind("/plain", &bundle.path().join("file"), "dest-nofollow"),
    ]);
    bundle.configure(&config);
    assert_eq!(bundle.run().ok(), "target-of-link\ntarget-of-link\nthe file\n");
    assert!(!fs::read_to_string(bundle.rootfs().join("etc/passwd")).unwrap().contains("the file"));
}
