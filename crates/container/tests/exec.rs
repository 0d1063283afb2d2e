//! One more process in a container: it sees what the first one sees, and nothing is left of it.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::cgroup::{Cgroup, Layout};
use killick_container::{ExecRequest, LaunchError, PidMode, Progress, Ptrace, Stdio, UserQuery, exec, reopen};
use killick_sys::facts::Facts;
use killick_sys::pidfd::Exit;
use serde_json::json;
use std::os::unix::fs::MetadataExt;

fn both_ways(test: impl Fn(Host)) {
    isolated(|| {
        test(Host::new());
        test(Host::with(Facts { detached_mounts: false, setns_by_pidfd: false, ..Facts::detect() }));
    });
}

#[test]
fn an_exec_is_in_all_namespaces_of_the_container() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        for (pid, ptrace) in [
            (PidMode::Sandbox, Ptrace::Impossible),
            (PidMode::Own, Ptrace::Impossible),
            (PidMode::Host, Ptrace::Impossible),
            (PidMode::Sandbox, Ptrace::Possible),
        ] {
            if ptrace == Ptrace::Possible && !host.facts.detached_mounts {
                continue;
            }
            let created = host.create_with(&sandbox, pid, ptrace, &spec(json!({})), Stdio::null().unwrap()).unwrap();
            let container = start(created);
            for kind in ["mnt", "net", "ipc", "uts", "pid", "cgroup", "user"] {
                let path = format!("/proc/self/ns/{kind}");
                let (output, _) =
                    host.exec(&container, |stdio| ExecRequest::new(args(&["readlink", &path]), stdio, None)).unwrap();
                let inode = std::fs::metadata(format!("/proc/{}/ns/{kind}", container.pid())).unwrap().ino();
                assert_eq!(output, format!("{kind}:[{inode}]\n"), "{pid:?} {ptrace:?}");
            }
            end(container.process());
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn an_exec_is_our_child_and_its_exit_is_ours_to_see() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let container = host.started(&sandbox, &spec(json!({})));
        let run = |script: &str| {
            host.exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", script]), stdio, None)).unwrap()
        };
        assert_eq!(run("echo out; echo err >&2; exit 9"), ("out\nerr\n".into(), Exit::Code(9)));
        assert_eq!(run("kill -9 $$").1, Exit::Signal { signal: 9, core: false });
        assert_eq!(run("ls /proc/self/fd").0, "0\n1\n2\n3\n");
        end(container.process());
        end_sandbox(sandbox);
    });
}

#[test]
fn an_exec_has_the_containers_settings_unless_told_otherwise() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let settings = json!({"process": {"cwd": "/tmp", "noNewPrivileges": true, "user": {"uid": 101, "gid": 102, "umask": 7},
            "env": ["PATH=/bin", "A=1", "B=2"], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 77}]}});
        let container = host.started(&sandbox, &spec(settings));
        let script =
            "id -u; id -g; pwd; umask; ulimit -n; echo $A $B $HOME; grep -E 'NoNewPrivs|CapBnd' /proc/self/status";
        let (output, _) =
            host.exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", script]), stdio, None)).unwrap();
        let expected = "101\n102\n/tmp\n0007\n77\n1 2 /srv\nCapBnd:\t00000000000004e3\nNoNewPrivs:\t1\n";
        assert_eq!(output, expected);
        let (output, _) = host
            .exec(&container, |stdio| ExecRequest {
                env: vec!["B=3".into(), "HOME=/x".into()],
                cwd: Some("/etc".into()),
                user: Some(UserQuery { user: "0".into(), ..UserQuery::default() }),
                ..ExecRequest::new(args(&["sh", "-c", "id -u; pwd; echo $A $B $HOME"]), stdio, None)
            })
            .unwrap();
        assert_eq!(output, "0\n/etc\n1 3 /x\n");
        end(container.process());
        end_sandbox(sandbox);
    });
}

#[test]
fn what_cannot_be_run_is_an_error_and_no_exit_code() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let container = host.started(&sandbox, &spec(json!({})));
        let fail = |request: ExecRequest<'static>| host.exec(&container, |_| request).unwrap_err();
        let request = |words: &[&str]| ExecRequest::new(args(words), Stdio::null().unwrap(), None);
        assert_eq!(fail(request(&["nosuch"])), LaunchError::NotFoundInPath("nosuch".into()));
        assert_eq!(fail(request(&["/etc/not-executable"])), LaunchError::NotExecutable("/etc/not-executable".into()));
        let missing = ExecRequest { cwd: Some("/nosuch".into()), ..request(&["true"]) };
        assert!(matches!(fail(missing), LaunchError::Cwd { .. }));
        end(container.process());
        assert_eq!(fail(request(&["true"])), LaunchError::NotRunning);
        end_sandbox(sandbox);
    });
}

#[test]
fn an_exec_mounts_nothing() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let container = host.started(&sandbox, &spec(json!({})));
        let mounts = || std::fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
        let before = mounts();
        let (output, _) = host
            .exec(&container, |stdio| ExecRequest::new(args(&["cat", "/proc/self/mountinfo"]), stdio, None))
            .unwrap();
        assert_eq!(output, before);
        assert_eq!(mounts(), before);
        end(container.process());
        end_sandbox(sandbox);
    });
}

#[test]
fn a_terminal_belongs_to_the_containers_devpts() {
    both_ways(|host| {
        use std::io::Read;
        let sandbox = host.sandbox();
        let container = host.started(&sandbox, &spec(json!({})));
        let stdio = Stdio::Terminal { rows: 0, columns: 0 };
        let mut added = exec(&host.facts, &container, ExecRequest::new(args(&["tty"]), stdio, None)).unwrap();
        assert_eq!(added.wait(soon()), Progress::Running);
        let mut master = std::fs::File::from(added.take_terminal().unwrap());
        let process = added.into_process().unwrap();
        let mut output = String::new();
        let mut buffer = [0; 64];
        while !output.ends_with('\n') {
            let length = master.read(&mut buffer).unwrap();
            output.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert_eq!(output, "/dev/pts/0\r\n");
        process.wait_blocking().unwrap();
        end(container.process());
        end_sandbox(sandbox);
    });
}

#[test]
fn a_recorded_container_is_found_again_or_known_to_be_gone() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        let container = host.started(&sandbox, &spec(json!({})));
        let text = serde_json::to_string(&container.record()).unwrap();
        let again = reopen(serde_json::from_str(&text).unwrap()).unwrap().unwrap();
        let (output, _) = host.exec(&again, |stdio| ExecRequest::new(args(&["echo", "found"]), stdio, None)).unwrap();
        assert_eq!(output, "found\n");
        let sandbox_text = serde_json::to_string(&sandbox.record()).unwrap();
        end(container.process());
        assert!(reopen(serde_json::from_str(&text).unwrap()).unwrap().is_none());
        let mut other: serde_json::Value = serde_json::from_str(&text).unwrap();
        other["pid"] = std::process::id().into();
        assert!(reopen(serde_json::from_value(other).unwrap()).unwrap().is_none(), "another process with that pid");
        assert!(killick_container::sandbox::reopen(serde_json::from_str(&sandbox_text).unwrap()).unwrap().is_some());
        end_sandbox(sandbox);
        assert!(killick_container::sandbox::reopen(serde_json::from_str(&sandbox_text).unwrap()).unwrap().is_none());
    });
}

#[test]
fn a_thousand_births_and_execs_leave_nothing() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        let container = host.started(&sandbox, &spec(json!({})));
        let once = || {
            let stdio = Stdio::null().unwrap();
            let mut added = exec(&host.facts, &container, ExecRequest::new(args(&["true"]), stdio, None)).unwrap();
            assert_eq!(added.wait(soon()), Progress::Running);
            assert_eq!(added.into_process().unwrap().wait_blocking().unwrap(), Exit::Code(0));
        };
        once();
        let fds = open_fds();
        (0..1000).for_each(|_| once());
        for _ in 0..50 {
            let (_, exit) = host.run(&sandbox, &spec(json!({"process": {"args": ["true"]}}))).unwrap();
            assert_eq!(exit, Exit::Code(0));
        }
        assert_eq!(open_fds(), fds);
        assert_eq!(children().len(), 2, "pause and the container");
        end(container.process());
        end_sandbox(sandbox);
    });
}

#[test]
fn a_changed_passwd_changes_nobody() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let spec = spec(json!({}));
        let query = UserQuery { user: "web".into(), image_groups: true, ..UserQuery::default() };
        let request = killick_container::CreateRequest {
            id: "named".into(),
            spec: &spec,
            rootfs: host.rootfs(),
            join: killick_container::Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: None,
            seccomp: None,
            stdio: Stdio::null().unwrap(),
            user: killick_container::UserRequest::Lookup(query),
            sources: Vec::new(),
        };
        let mut created = killick_container::create(&host.facts, request).unwrap();
        assert_eq!(created.wait(soon()), Progress::AtGate);
        assert_eq!(created.user().unwrap().groups, [33]);
        let container = start(created);
        let passwd = format!("/proc/{}/root/etc/passwd", container.pid());
        std::fs::write(passwd, "web:x:0:0::/:/bin/sh\n").unwrap();
        let (output, _) = host
            .exec(&container, |stdio| ExecRequest::new(args(&["sh", "-c", "id -u; id -g; id -G"]), stdio, None))
            .unwrap();
        assert_eq!(output, "101\n102\n102 33\n");
        end(container.process());
        end_sandbox(sandbox);
    });
}

#[test]
fn an_exec_runs_after_the_one_before_was_killed_with_its_leaf() {
    isolated(|| {
        let host = Host::new();
        let detected = Layout::detect().unwrap();
        // Where v2 holds no controllers, its tree alone is a layout too: the way that a host of pure v2 takes.
        let v2 = detected.unified.is_some().then(|| {
            let mut layout = detected.clone();
            layout.v1.clear();
            layout.unified.iter_mut().for_each(|unified| unified.controllers.clear());
            layout
        });
        let sandbox = host.sandbox();
        for (number, layout) in [detected].into_iter().chain(v2).enumerate() {
            let path = format!("killick-test-{}/again{number}", std::process::id());
            let cgroup = Cgroup::create(&layout, &path, &serde_json::from_str("{}").unwrap()).unwrap();
            let container = host.started(&sandbox, &spec(json!({})));
            let mut pool = cgroup.leaf_pool();
            for _ in 0..3 {
                let leaf = pool.acquire().unwrap();
                let words = args(&["sh", "-c", "echo alive; exec sleep 100"]);
                let (stdio, output) = pipes();
                let mut added =
                    exec(&host.facts, &container, ExecRequest::new(words, stdio, Some(leaf.attach()))).unwrap();
                assert_eq!(added.wait(soon()), Progress::Running);
                let process = added.into_process().unwrap();
                leaf.kill_all(soon()).unwrap();
                assert_eq!(process.wait_blocking().unwrap(), Exit::Signal { signal: 9, core: false });
                drop(output);
                pool.release(leaf).unwrap();
            }
            pool.clear().unwrap();
            end(container.process());
            cgroup.remove(soon()).unwrap();
            let _ = cgroup.remove_parent_if_unused();
        }
        end_sandbox(sandbox);
    });
}
