//! A birth that fails half-way leaves nothing, wherever it fails; and kernels without the newer calls do as well.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::sandbox;
use killick_container::{
    CreateRequest, ExecRequest, Join, LaunchError, PidMode, Progress, Ptrace, Stdio, UserRequest, create_with,
};
use killick_sys::facts::Facts;
use killick_sys::pidfd::Exit;
use killick_sys::seccomp::{Filter, Insn};
use serde_json::json;

fn both_ways(test: impl Fn(Host)) {
    isolated(|| {
        test(Host::new());
        test(Host::with(Facts { detached_mounts: false, ..Facts::detect() }));
    });
}

#[test]
fn a_container_that_fails_at_any_step_leaves_nothing() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let fds = open_fds();
        let volume = host.fresh("volume");
        let more = json!([{"destination": "/data", "source": volume, "options": ["rbind"]}]);
        let changes = json!({"process": {"noNewPrivileges": true, "oomScoreAdj": 500}, "mounts": with_mounts(more)});
        let spec = spec(changes);
        for (pid, ptrace) in [(PidMode::Sandbox, Ptrace::Impossible), (PidMode::Sandbox, Ptrace::Possible)] {
            let before = mounts();
            let mut step = 0;
            let mut count = usize::MAX;
            while step < count {
                let request = CreateRequest {
                    id: "fails".into(),
                    spec: &spec,
                    rootfs: host.rootfs(),
                    join: Join::sandbox(&sandbox, pid, ptrace),
                    cgroup: None,
                    seccomp: None,
                    stdio: Stdio::null().unwrap(),
                    user: UserRequest::Ids,
                    sources: Vec::new(),
                };
                let mut created = create_with(&host.facts, request, |plan| {
                    count = plan.steps().len();
                    plan.fail_at(step);
                })
                .unwrap();
                let mut progress = created.wait(soon());
                if progress == Progress::AtGate {
                    created.start().unwrap();
                    progress = created.wait(soon());
                }
                let failed = matches!(&progress, Progress::Failed(_));
                assert!(failed, "step {step}: {progress:?}");
                drop(created);
                assert_eq!(children().len(), 1, "step {step}: only pause is left");
                assert_eq!(mounts_since(&before), Vec::<String>::new(), "step {step}");
                step += 1;
            }
            assert!(count > 40, "{count} steps");
        }
        assert_eq!(open_fds(), fds);
        end_sandbox(sandbox);
    });
}

#[test]
fn a_sandbox_that_fails_at_any_step_leaves_nothing() {
    both_ways(|host| {
        let pause = std::fs::read("/bin/busybox").unwrap();
        let before = mounts();
        let mut step = 0;
        let mut count = usize::MAX;
        while step < count {
            let request = host.sandbox_request(&pause);
            let shm = request.dir.join("shm");
            let mut birth = sandbox::create_with(&host.facts, request, |plan| {
                count = plan.steps().len();
                plan.fail_at(step);
            })
            .unwrap();
            let progress = birth.wait(soon());
            assert!(matches!(progress, Progress::Failed(LaunchError::Call(_))), "step {step}: {progress:?}");
            birth.unmount().unwrap();
            drop(birth);
            assert!(children().is_empty(), "step {step}");
            assert_eq!(mounts_since(&before), Vec::<String>::new(), "step {step}: {}", shm.display());
            step += 1;
        }
        assert!(count > 20, "{count} steps");
    });
}

/// Calls newer than Linux 5.0 that we use.
const NEWER: [i64; 12] = [
    libc::SYS_clone3,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pidfd_getfd,
    libc::SYS_openat2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_close_range,
];

/// From here on this process and its children live on a kernel that answers `errno` to these calls.
fn refuse(calls: &[i64], errno: i32) {
    let insn = |code: u16, jt: u8, k: u32| Insn { code, jt, jf: 0, k };
    let mut program = vec![insn(0x20, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        // jeq: to the last instruction, past the remaining comparisons and the ALLOW.
        program.push(insn(0x15, (calls.len() - index) as u8, *call as u32));
    }
    program.push(insn(0x06, 0, 0x7fff_0000));
    program.push(insn(0x06, 0, 0x0005_0000 | errno as u32));
    Filter { program, flags: 0 }.load().unwrap();
}

fn a_pod_lives() {
    let host = Host::new();
    let sandbox = host.sandbox();
    let volume = host.fresh("volume");
    std::fs::write(volume.join("file"), "kept\n").unwrap();
    let mounts = with_mounts(json!([{"destination": "/data", "source": volume, "options": ["rbind", "ro", "rslave"]}]));
    let changes = json!({"process": {"noNewPrivileges": true, "user": {"uid": 101, "gid": 102}}, "mounts": mounts});
    let container = host.started(&sandbox, &spec(changes));
    let script = "id -u; cat /data/file; touch /data/x 2>/dev/null || echo ro; ls /proc/self/fd; \
                  echo x 2>/dev/null > /proc/sys/kernel/domainname || echo sys ro; hostname";
    let (output, exit) =
        host.exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", script]), stdio, None)).unwrap();
    assert_eq!((output.as_str(), exit), ("101\nkept\nro\n0\n1\n2\n3\nsys ro\npod-host\n", Exit::Code(0)));
    let missing = host.exec(&container, |stdio| ExecRequest::new(args(&["nosuch"]), stdio, None)).unwrap_err();
    assert_eq!(missing, LaunchError::NotFoundInPath("nosuch".into()));
    let (stdio, output) = pipes();
    let own = spec(json!({"process": {"args": ["sh", "-c", "echo $$"]}}));
    let created = host.create_with(&sandbox, PidMode::Own, Ptrace::Impossible, &own, stdio).unwrap();
    assert_eq!(run_created(created, output).unwrap().0, "1\n");
    assert_eq!(host.shell(&sandbox, "echo shared > /dev/shm/x && cat /dev/shm/x"), "shared\n");
    end(container.process());
    end_sandbox(sandbox);
}

#[test]
fn a_pod_lives_without_any_of_the_newer_calls() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        isolated(|| {
            refuse(&NEWER, errno);
            let facts = Facts::detect();
            assert!(!facts.pidfd && !facts.detached_mounts && !facts.setns_by_pidfd, "{facts:?}");
            a_pod_lives();
        });
    }
}

#[test]
fn a_pod_lives_without_each_of_the_newer_calls() {
    for call in NEWER {
        isolated(|| {
            refuse(&[call], libc::ENOSYS);
            a_pod_lives();
        });
    }
}

#[test]
fn a_root_file_system_is_copied_where_overlay_is_refused() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        // An overlay cannot be the upper layer of another one.
        let base = host.fresh("base");
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir(base.join(name)).unwrap();
        }
        let path = |name: &str| base.join(name).display().to_string();
        let data = format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
        killick_sys::mount::mount("overlay", &base.join("merged"), "overlay", 0, &data).unwrap();
        let second = host.fresh("second");
        std::fs::create_dir_all(second.join("etc")).unwrap();
        std::fs::write(second.join("etc/passwd"), "second\n").unwrap();
        nix::sys::stat::mknod(
            &second.join("etc/group"),
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::empty(),
            0,
        )
        .unwrap();
        for (index, facts) in
            [Facts::detect(), Facts { detached_mounts: false, ..Facts::detect() }].into_iter().enumerate()
        {
            let (stdio, output) = pipes();
            let name = format!("c{index}");
            let spec = spec(json!({"process": {"args": ["sh", "-c", "cat /etc/passwd; ls /etc; echo x > /etc/new"]}}));
            let layers = vec![host.layer(), second.clone()];
            let request = CreateRequest {
                id: "copied".into(),
                spec: &spec,
                rootfs: killick_container::Rootfs::layers(layers, &base.join("merged").join(name), false),
                join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
                cgroup: None,
                seccomp: None,
                stdio,
                user: UserRequest::Ids,
                sources: Vec::new(),
            };
            let created = killick_container::create(&facts, request).unwrap();
            let (output, _) = run_created(created, output).unwrap();
            assert_eq!(output, "second\nnot-executable\npasswd\n");
            assert!(!exists(&host.layer().join("etc/new")));
        }
        end_sandbox(sandbox);
        killick_sys::mount::unmount_detach(&base.join("merged")).unwrap();
    });
}

#[test]
fn many_layers_fit_in_both_ways() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let mut layers = vec![host.layer()];
        for index in 0..120 {
            let layer =
                host.fresh(&format!("a-layer-with-a-name-as-long-as-a-digest-0123456789abcdef0123456789-{index}-"));
            std::fs::write(layer.join(format!("from-layer-{index}")), "").unwrap();
            layers.push(layer);
        }
        let (stdio, output) = pipes();
        let spec = spec(json!({"process": {"args": ["sh", "-c", "ls / | grep -c from-layer"]}}));
        let request = CreateRequest {
            id: "layers".into(),
            spec: &spec,
            rootfs: killick_container::Rootfs::layers(layers, &host.fresh("c"), false),
            join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: None,
            seccomp: None,
            stdio,
            user: UserRequest::Ids,
            sources: Vec::new(),
        };
        let created = killick_container::create(&host.facts, request).unwrap();
        assert_eq!(run_created(created, output).unwrap().0, "120\n");
        end_sandbox(sandbox);
    });
}
