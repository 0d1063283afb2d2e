//! Plans as text: what is done, in which order, in each way. A change here is a change of what runs as root.
//! `KILLICK_UPDATE_GOLDEN=1` writes the files anew.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::{CreateRequest, Join, PidMode, Ptrace, Rootfs, UserRequest, create_with, sandbox};
use killick_sys::facts::Facts;
use killick_sys::seccomp::{Filter, Insn};
use serde_json::json;
use std::path::Path;

fn check(name: &str, plan: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans").join(name);
    if std::env::var_os("KILLICK_UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, plan).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(golden == plan, "{} differs; the plan is now:\n{plan}", path.display());
}

#[test]
fn plans_are_as_written_down() {
    isolated(|| {
        let newest =
            Facts { pidfd: true, setns_by_pidfd: true, detached_mounts: true, cgroup_namespace: true, execveat: true };
        let allow = Filter { program: vec![Insn { code: 6, jt: 0, jf: 0, k: 0x7fff_0000 }], flags: 0 };
        for (way, facts) in [("detached", newest), ("classic", Facts::classic())] {
            if facts.detached_mounts && !Facts::detect().detached_mounts {
                println!("the plan {way} is not for this kernel");
                continue;
            }
            let host = Host::with(facts);
            let clean = |text: String| text.replace(host.dir.path().to_str().unwrap(), "$DIR");
            let sandbox = host.sandbox();
            let more = json!([{"destination": "/data", "source": host.layer(), "options": ["rbind", "ro", "rslave"]}]);
            let spec = spec(json!({
                "process": {"noNewPrivileges": true, "oomScoreAdj": 985,
                            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]},
                "mounts": with_mounts(more)}));
            for (how, ptrace) in [("", Ptrace::Impossible), ("-outside", Ptrace::Possible)] {
                let (stdio, _output) = pipes();
                let request = CreateRequest {
                    id: "golden".into(),
                    spec: &spec,
                    rootfs: Rootfs::layers(vec![host.layer()], &host.dir.path().join("c"), true),
                    join: Join::sandbox(&sandbox, PidMode::Sandbox, ptrace),
                    cgroup: None,
                    seccomp: Some(allow.clone()),
                    stdio,
                    user: UserRequest::Ids,
                    sources: Vec::new(),
                };
                let mut text = String::new();
                drop(create_with(&host.facts, request, |plan| text = plan.to_string()).unwrap());
                check(&format!("container-{way}{how}.txt"), &clean(text));
            }
            let pause = std::fs::read("/bin/busybox").unwrap();
            let request = sandbox::SandboxRequest { dir: host.dir.path().join("s"), ..host.sandbox_request(&pause) };
            std::fs::create_dir(&request.dir).unwrap();
            let mut text = String::new();
            let birth = sandbox::create_with(&host.facts, request, |plan| text = plan.to_string()).unwrap();
            let mut birth = birth;
            birth.wait(soon());
            end_sandbox(birth.into_sandbox().unwrap());
            check(&format!("sandbox-{way}.txt"), &clean(text));
            end_sandbox(sandbox);
        }
    });
}
