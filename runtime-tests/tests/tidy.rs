//! The rules of docs/architecture.md that a reader cannot see at one place, kept by tests.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    sources(&root().join("crates"), &mut found);
    sources(&root().join("runtime-tests"), &mut found);
    found
        .into_iter()
        .filter(|path| !path.components().any(|part| part.as_os_str() == "target"))
        .map(|path| (path.strip_prefix(root()).unwrap().display().to_string(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The rooms and what each may use (docs/architecture.md); every one but pod and pause may use sys as well.
const MAY_USE: &[(&str, &[&str])] = &[
    ("pod", &[]),
    ("sys", &[]),
    ("pause", &[]),
    ("container", &["sys"]),
    ("prober", &["sys", "pod", "container"]),
    ("volume", &["sys", "pod"]),
    ("image", &["sys", "pod"]),
    ("network", &["sys", "pod"]),
    ("pod-dir", &["sys", "pod"]),
    ("supervisor", &["sys", "pod", "pod-dir", "container", "prober", "volume", "image", "network"]),
    ("shim", &["sys", "supervisor", "container", "prober", "pod-dir"]),
    ("oci", &["sys", "container"]),
    ("cli", &["sys", "pod", "pod-dir", "image"]),
];

#[test]
fn dependencies_point_down_only() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        MAY_USE.iter().map(|(room, uses)| (*room, uses.iter().copied().collect())).collect();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // pause has no manifest: it is one file that shim/build.rs compiles, and can depend on nothing.
        let manifest = fs::read_to_string(root().join("crates").join(&name).join("Cargo.toml")).unwrap_or_default();
        assert!(name == "pause" || !manifest.is_empty(), "{name} has no manifest");
        let uses = allowed.get(name.as_str()).unwrap_or_else(|| panic!("crates/{name} is not in the list of rooms"));
        let section =
            manifest.split("[dependencies]").nth(1).unwrap_or_default().split("\n[").next().unwrap_or_default();
        for line in section.lines().filter(|line| line.starts_with("killick-")) {
            let used = line.trim_start_matches("killick-").split(['.', ' ', '=']).next().unwrap();
            assert!(uses.contains(used), "{name} may not use {used}");
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), allowed.len(), "a room of the list is missing: {seen:?}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> =
        all_sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "no //! at the start of {silent:?}");
}

#[test]
fn unsafe_code_is_in_sys_and_pause_only() {
    let word = ["unsafe", " {"].concat();
    let other = ["unsafe", " fn"].concat();
    for (path, text) in all_sources() {
        // A test may call the kernel or libseccomp raw to see what a filter did.
        if path.starts_with("crates/sys/") || path.starts_with("crates/pause/") || path.contains("/tests/") {
            continue;
        }
        assert!(!text.contains(&word) && !text.contains(&other), "unsafe in {path}");
        if path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{path} does not forbid unsafe code");
        }
    }
}

#[test]
fn the_pod_crate_knows_no_clock_no_file_and_no_thread() {
    for (path, text) in all_sources() {
        // Tests of limits look at the clock: a refusal must come at once.
        if path.starts_with("crates/pod/src/") && !path.ends_with("tests.rs") && !path.contains("/tests/") {
            for word in
                ["Instant::now", "SystemTime::now", "std::fs", "std::thread", "std::process", "std::net::Tcp", "tokio"]
            {
                assert!(!text.contains(word), "{word} in {path}");
            }
        }
    }
}

#[test]
fn no_promise_is_left_in_the_code() {
    let words: Vec<String> = [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimplemented", "!("], ["#[ign", "ore"]]
        .iter()
        .map(|parts| parts.concat())
        .collect();
    for (path, text) in all_sources() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{word} in {path}");
        }
    }
}

#[test]
fn the_examples_are_the_tutorials() {
    for name in [
        "livenessProbe-exec",
        "livenessProbe-httpget",
        "livenessProbe-tcp",
        "readinessProbe-httpget",
        "startupProbe-tomcat",
    ] {
        assert!(root().join("examples").join(format!("{name}.yaml")).is_file(), "{name}");
    }
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let sources = all_sources();
    let mut count = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 2) {
        let column = row.trim_end_matches('|').rsplit(" | ").next().unwrap();
        for name in column.split('`').skip(1).step_by(2) {
            let (function, listed) = (format!("fn {name}("), format!("\"{name}\""));
            let exists = sources.iter().any(|(_, text)| text.contains(&function) || text.contains(&listed));
            assert!(exists, "docs/security.md names {name}, and no test has that name");
            count += 1;
        }
    }
    assert!(count > 40, "{count} tests");
}
