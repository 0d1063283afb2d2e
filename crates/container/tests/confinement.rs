//! What a container may not do: calls that its filter refuses, and looking at those who are more than itself.
#![allow(clippy::unwrap_used)]

mod common;
mod tracer;

use common::*;
use killick_container::{CreateRequest, ExecRequest, Join, PidMode, Ptrace, Stdio, UserRequest, create};
use killick_sys::caps::CapSet;
use killick_sys::facts::Facts;
use killick_sys::ns::{self, NamespaceKind};
use killick_sys::pidfd::Exit;
use killick_sys::seccomp::{Filter, Insn};
use killick_sys::spawn::worker;
use nix::sys::wait::{WaitPidFlag, waitpid};
use serde_json::json;
use std::os::fd::AsFd;
use std::time::Duration;
use tracer::{Seen, attack, identity, limit};

/// EPERM for one call, all others allowed.
fn refusing(call: i64) -> Filter {
    let insn = |code, jt, jf, k| Insn { code, jt, jf, k };
    let program = vec![
        insn(0x20, 0, 0, 0),
        insn(0x15, 0, 1, call as u32),
        insn(0x06, 0, 0, 0x0005_0000 | libc::EPERM as u32),
        insn(0x06, 0, 0, 0x7fff_0000),
    ];
    Filter { program, flags: 0 }
}

#[test]
fn a_filter_holds_for_the_container_and_its_execs_with_and_without_new_privileges() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        for no_new_privileges in [false, true] {
            for ptrace in [Ptrace::Impossible, Ptrace::Possible] {
                for uid in [0, 5] {
                    let changes =
                        json!({"process": {"noNewPrivileges": no_new_privileges, "user": {"uid": uid, "gid": uid}}});
                    let spec = spec(changes);
                    let request = CreateRequest {
                        id: "filtered".into(),
                        spec: &spec,
                        rootfs: host.rootfs(),
                        join: Join::sandbox(&sandbox, PidMode::Sandbox, ptrace),
                        cgroup: None,
                        seccomp: Some(refusing(libc::SYS_mkdir)),
                        stdio: Stdio::null().unwrap(),
                        user: UserRequest::Ids,
                        sources: Vec::new(),
                    };
                    let container = start(create(&host.facts, request).unwrap());
                    let script = "grep Seccomp: /proc/self/status; mkdir /dev/shm/x 2>&1";
                    let (output, exit) = host
                        .exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", script]), stdio, None))
                        .unwrap();
                    let expected = "Seccomp:\t2\nmkdir: can't create directory '/dev/shm/x': Operation not permitted\n";
                    assert_eq!((output.as_str(), exit), (expected, Exit::Code(1)));
                    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
                    assert!(status.contains("Seccomp:\t2"), "{status}");
                    end(container.process());
                }
            }
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn the_default_profile_lets_every_kind_of_birth_through() {
    use killick_container::seccomp::{Kernel, compile, default_profile};
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        let filter = compile(&default_profile(CapSet::EMPTY, true), &Kernel::detect()).unwrap();
        for no_new_privileges in [false, true] {
            for (pid, ptrace) in [
                (PidMode::Sandbox, Ptrace::Impossible),
                (PidMode::Sandbox, Ptrace::Possible),
                (PidMode::Own, Ptrace::Possible),
                (PidMode::Host, Ptrace::Impossible),
            ] {
                let ids = json!({"uid": 101, "gid": 102, "additionalGids": [7]});
                let spec = spec(json!({"process": {"noNewPrivileges": no_new_privileges, "user": ids, "cwd": "/srv"}}));
                let request = |stdio| CreateRequest {
                    id: "default".into(),
                    spec: &spec,
                    rootfs: host.rootfs(),
                    join: Join::sandbox(&sandbox, pid, ptrace),
                    cgroup: None,
                    seccomp: Some(filter.clone()),
                    stdio,
                    user: UserRequest::Ids,
                    sources: Vec::new(),
                };
                let mut terminal = create(&host.facts, request(Stdio::Terminal { rows: 24, columns: 80 })).unwrap();
                assert_eq!(terminal.wait(soon()), killick_container::Progress::AtGate);
                let container = start(create(&host.facts, request(Stdio::null().unwrap())).unwrap());
                let (output, exit) = host
                    .exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", "id -u; pwd"]), stdio, None))
                    .unwrap();
                assert_eq!((output.as_str(), exit), ("101\n/srv\n", Exit::Code(0)), "{pid:?} {ptrace:?}");
                end(container.process());
            }
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn a_filter_loaded_last_may_forbid_all_that_we_do() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        for call in [
            libc::SYS_getcwd,
            libc::SYS_prctl,
            libc::SYS_fchown,
            libc::SYS_sendmsg,
            libc::SYS_close_range,
            libc::SYS_openat,
        ] {
            let (stdio, output) = pipes();
            let spec = spec(json!({"process": {"noNewPrivileges": true, "args": ["echo", "started"]}}));
            let request = CreateRequest {
                id: "strict".into(),
                spec: &spec,
                rootfs: host.rootfs(),
                join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
                cgroup: None,
                seccomp: Some(refusing(call)),
                stdio,
                user: UserRequest::Ids,
                sources: Vec::new(),
            };
            assert_eq!(run_created(create(&host.facts, request).unwrap(), output).unwrap().0, "started\n", "{call}");
        }
        end_sandbox(sandbox);
    });
}

/// Execs while somebody in the pod seizes every new process.
fn under_attack(host: &Host, ptrace: Ptrace, rounds: u32, enough: fn(&Seen) -> bool) -> (Seen, u32) {
    let sandbox = host.sandbox();
    // In our heap, as the environment of another container would be. Built at run time, so that it is nowhere else.
    let secret: String = ["another", "container's", "secret"].join("-") + &"-x".repeat(100);
    let ptrace_only = json!(["CAP_SYS_PTRACE"]);
    let changes = json!({"process": {"capabilities": {"bounding": ptrace_only, "effective": ptrace_only, "permitted": ptrace_only}}});
    let container =
        start(host.create_with(&sandbox, PidMode::Sandbox, ptrace, &spec(changes), Stdio::null().unwrap()).unwrap());
    let pids = sandbox.pid_namespace().unwrap();
    let visit = ns::enter(pids.as_fd(), NamespaceKind::Pid).unwrap();
    let stop = host.fresh("attack").join("stop");
    let root = identity(&format!("/proc/{}/root", container.pid()));
    let mut attacker = worker(limit(rounds) + Duration::from_secs(20), || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let enough = |seen: &Seen| enough(seen) || stop.exists();
        Ok(attack(limit(rounds), enough, &[root], secret.as_bytes()))
    })
    .unwrap();
    drop(visit);
    let mut execs = 0;
    let seen = loop {
        if let Some(seen) = attacker.poll(std::time::Instant::now()) {
            break seen.unwrap();
        }
        let request = ExecRequest::new(args(&["true"]), Stdio::null().unwrap(), None);
        let mut added = killick_container::exec(&host.facts, &container, request).unwrap();
        assert_eq!(added.wait(soon()), killick_container::Progress::Running);
        added.into_process().unwrap().wait_blocking().unwrap();
        execs += 1;
        if execs == rounds {
            std::fs::write(&stop, "").unwrap();
        }
    };
    end(container.process());
    end_sandbox(sandbox);
    std::hint::black_box(secret);
    (seen, execs)
}

#[test]
fn an_attacker_with_ptrace_never_sees_more_than_its_own_rights() {
    let rounds = tracer::execs(500);
    for facts in [Facts::detect(), Facts { detached_mounts: false, ..Facts::detect() }] {
        isolated_for(limit(rounds) * 2, || {
            let (seen, execs) = under_attack(&Host::with(facts), Ptrace::Possible, rounds, |_| false);
            seen.assert_nothing(20, execs);
        });
    }
}

#[test]
fn the_attack_works_on_processes_that_are_born_inside() {
    isolated(|| {
        let (seen, execs) = under_attack(&Host::new(), Ptrace::Impossible, 2000, |seen| {
            seen.beyond != 0 && seen.secret && !seen.host.is_empty()
        });
        assert!(
            seen.beyond != 0 && seen.secret && !seen.host.is_empty(),
            "{seen:?} in {execs} execs: the test above proves nothing"
        );
    });
}

#[test]
fn a_failure_inside_is_told_without_memory_too() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        for (name, content) in [("script", "#!/nosuch/interpreter\n"), ("garbage", "garbage")] {
            let path = host.layer().join("bin").join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let fail = |name: &str, seccomp| {
            let spec = spec(json!({"process": {"args": [name], "noNewPrivileges": true}}));
            let (stdio, output) = pipes();
            let request = CreateRequest {
                id: "fails".into(),
                spec: &spec,
                rootfs: host.rootfs(),
                join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Possible),
                cgroup: None,
                seccomp,
                stdio,
                user: UserRequest::Ids,
                sources: Vec::new(),
            };
            run_created(create(&host.facts, request).unwrap(), output).unwrap_err().to_string()
        };
        assert_eq!(fail("script", None), "exec /bin/script: no such file or directory");
        assert_eq!(fail("garbage", None), "exec /bin/garbage: exec format error");
        let broken = Filter { program: vec![Insn { code: 0xffff, jt: 0, jf: 0, k: 0 }], flags: 0 };
        assert_eq!(fail("true", Some(broken)), "seccomp(SECCOMP_SET_MODE_FILTER): EINVAL");
        assert_eq!(children().len(), 1);
        end_sandbox(sandbox);
    });
}

#[test]
fn every_process_leads_its_session_and_has_its_terminal() {
    use std::io::Read;
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        let script = "read -r pid comm state ppid group session tty rest < /proc/$$/stat; echo $((pid - session)) $tty";
        for ptrace in [Ptrace::Impossible, Ptrace::Possible] {
            let spec = spec(json!({}));
            let container =
                start(host.create_with(&sandbox, PidMode::Sandbox, ptrace, &spec, Stdio::null().unwrap()).unwrap());
            let (output, _) =
                host.exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", script]), stdio, None)).unwrap();
            assert_eq!(output, "0 0\n", "{ptrace:?}");
            let stdio = Stdio::Terminal { rows: 24, columns: 80 };
            let request = ExecRequest::new(args(&["sh", "-c", script]), stdio, None);
            let mut added = killick_container::exec(&host.facts, &container, request).unwrap();
            assert_eq!(added.wait(soon()), killick_container::Progress::Running);
            let mut master = std::fs::File::from(added.take_terminal().unwrap());
            let process = added.into_process().unwrap();
            let mut output = String::new();
            let mut buffer = [0; 64];
            while !output.ends_with('\n') {
                let length = master.read(&mut buffer).unwrap();
                output.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            // 136:0, the first pty of the container.
            assert_eq!(output, format!("0 {}\r\n", 136 << 8), "{ptrace:?}");
            assert_eq!(process.wait_blocking().unwrap(), Exit::Code(0));
            end(container.process());
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn a_birth_that_is_let_go_at_any_moment_leaves_nobody_alive() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        for ptrace in [Ptrace::Possible, Ptrace::Impossible] {
            let spec = spec(json!({}));
            let stdio = Stdio::null().unwrap();
            let container = start(host.create_with(&sandbox, PidMode::Sandbox, ptrace, &spec, stdio).unwrap());
            for round in 0..150 {
                let request = ExecRequest::new(args(&["sleep", "777"]), Stdio::null().unwrap(), None);
                let mut added = killick_container::exec(&host.facts, &container, request).unwrap();
                let until = std::time::Instant::now() + Duration::from_micros(round * 15);
                while std::time::Instant::now() < until {
                    nix::sched::sched_yield().unwrap();
                }
                match added.progress() {
                    killick_container::Progress::Running => end(&added.into_process().unwrap()),
                    _ => drop(added),
                }
            }
            // One that was born in the moment when its helper was killed ends by itself, and only it is not reaped.
            let alive = |pid: &String| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.contains(") Z ") && !stat.is_empty()
            };
            let living = || children().iter().filter(|pid| alive(pid)).count();
            let until = soon();
            while living() > 2 && std::time::Instant::now() < until {
                nix::sched::sched_yield().unwrap();
            }
            assert_eq!(living(), 2, "pause and the container");
            end(container.process());
            reap_unknown();
        }
        let (output, _) = host.run(&sandbox, &spec(json!({"process": {"args": ["ps"]}}))).unwrap();
        assert!(!output.contains("777"), "{output}");
        end_sandbox(sandbox);
        reap_unknown();
    });
}

fn reap_unknown() {
    while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
}
