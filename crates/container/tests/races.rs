//! A sibling that exchanges a directory of a shared volume with a link, again and again, while containers with mounts
//! below that directory are made (CVE-2019-19921, CVE-2021-30465, CVE-2024-45310): nothing is ever made or mounted
//! outside the root. 1,000 rounds here; `KILLICK_RACE_ROUNDS=100000` in `scripts/test --all`.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::{CreateRequest, Join, PidMode, Progress, Ptrace, Rootfs, Stdio, UserRequest, create};
use killick_sys::facts::Facts;
use killick_sys::spawn::worker;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

fn rounds() -> usize {
    std::env::var("KILLICK_RACE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

/// Every name below, with what kind it is.
fn listing(dir: &Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .flat_map(|entry| {
            let path = entry.path();
            let below = if entry.file_type().unwrap().is_dir() { listing(&path) } else { Vec::new() };
            below.into_iter().chain([format!("{} {:?}", path.display(), entry.file_type().unwrap())])
        })
        .collect();
    found.sort();
    found
}

/// Which component of the destination is exchanged for which link.
const LINKS: [(&str, &str); 4] = [
    ("volume/a", "ABSOLUTE"),
    ("volume/a", "../../../../../../../../../.."),
    ("volume/a/b", "ABSOLUTE"),
    ("volume/a/b/c", "ABSOLUTE"),
];

/// Without RESOLVE_IN_ROOT in `sys::path::open_in_root` (tried) the classic way makes its directories in `outside` within a
/// few rounds; detached mounts never have the host's files in sight, so there the links have nowhere to lead.
fn race(facts: Facts, rounds: usize) {
    let host = Host::with(facts);
    let sandbox = host.sandbox();
    let outside = host.fresh("outside");
    for name in ["b", "c", "b/c", "etc"] {
        std::fs::create_dir_all(outside.join(name)).unwrap();
    }
    std::fs::write(outside.join("b/c/file"), "the host's").unwrap();
    let before = listing(&outside);
    let mounted = mounts();
    let (mut ran, mut failed) = (0, 0);
    for (component, target) in LINKS {
        let volume = host.fresh("volume");
        let top = volume.parent().unwrap().join(format!("top{}", ran + failed));
        std::fs::create_dir_all(top.join("volume/a/b/c")).unwrap();
        std::fs::write(top.join("volume/a/b/c/file"), "").unwrap();
        let meant = top.join(component);
        let link = top.join("link");
        let target = if target == "ABSOLUTE" { outside.clone() } else { target.into() };
        std::os::unix::fs::symlink(target, &link).unwrap();
        let attacker = worker::<(), _>(Duration::from_secs(24 * 3600), || {
            loop {
                let _ = renameat2(AT_FDCWD, &meant, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE);
            }
        })
        .unwrap();
        let source = host.fresh("source");
        std::fs::write(source.join("file"), "bound").unwrap();
        let more = json!([
            {"destination": "/volume", "source": top.join("volume"), "options": ["rbind"]},
            {"destination": "/volume/a/b/c", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/volume/a/b/c/file", "source": source.join("file"), "options": ["bind", "ro"]},
            {"destination": "/volume/a/new/deep", "source": source, "options": ["rbind", "rslave"]},
        ]);
        let spec = spec(json!({"process": {"cwd": "/volume/a/cwd"}, "mounts": with_mounts(more),
            "linux": {"maskedPaths": ["/proc/kcore", "/volume/a/b"], "readonlyPaths": ["/volume/a"]}}));
        for _ in 0..rounds.div_ceil(LINKS.len()) {
            let request = CreateRequest {
                id: "raced".into(),
                spec: &spec,
                rootfs: Rootfs::Directory { path: host.layer(), readonly: false },
                join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
                cgroup: None,
                seccomp: None,
                stdio: Stdio::null().unwrap(),
                user: UserRequest::Ids,
                sources: Vec::new(),
            };
            let mut created = create(&host.facts, request).unwrap();
            match created.wait(soon()) {
                Progress::AtGate => ran += 1,
                Progress::Failed(_) => failed += 1,
                other => panic!("{other:?}"),
            }
        }
        drop(attacker);
        assert_eq!(listing(&outside), before, "{component}");
        assert_eq!(mounts_since(&mounted), Vec::<String>::new(), "{component}");
    }
    assert_eq!(std::fs::read_to_string(outside.join("b/c/file")).unwrap(), "the host's");
    // Both outcomes: the exchange was at work.
    assert!(ran > 0 && failed > 0, "{ran} ran, {failed} failed");
    end_sandbox(sandbox);
}

#[test]
fn a_mount_point_exchanged_for_a_link_never_leads_out_of_the_root() {
    isolated_for(Duration::from_secs(150 + rounds() as u64 / 4), || race(Facts::detect(), rounds() / 2));
}

#[test]
fn a_classic_mount_point_exchanged_for_a_link_never_leads_out_of_the_root() {
    let facts = Facts { detached_mounts: false, ..Facts::detect() };
    isolated_for(Duration::from_secs(150 + rounds() as u64 / 4), || race(facts, rounds() / 2));
}
