//! A container is born as its configuration says, on kernels with detached mounts and in the classic way.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::{LaunchError, PidMode, Ptrace, Stdio, UserQuery, UserRequest};
use killick_sys::facts::Facts;
use killick_sys::pidfd::Exit;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Every test here holds in both ways.
fn both_ways(test: impl Fn(Host)) {
    isolated(|| {
        test(Host::new());
        test(Host::with(Facts { detached_mounts: false, ..Facts::detect() }));
    });
}

#[test]
fn a_container_runs_and_its_exit_code_is_seen() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let spec = spec(json!({"process": {"args": ["sh", "-c", "echo hello; exit 7"]}}));
        assert_eq!(host.run(&sandbox, &spec).unwrap(), ("hello\n".into(), Exit::Code(7)));
        end_sandbox(sandbox);
    });
}

#[test]
fn it_has_its_descriptors_and_no_others() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        // ls itself opens the directory as 3.
        assert_eq!(host.shell(&sandbox, "ls /proc/self/fd"), "0\n1\n2\n3\n");
        end_sandbox(sandbox);
    });
}

#[test]
fn signals_are_as_a_new_process_expects_them() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let script = "exec cat /proc/self/status";
        let status = host.shell(&sandbox, script);
        for field in ["SigBlk", "SigIgn", "SigCgt", "SigPnd"] {
            let line = status.lines().find(|line| line.starts_with(field)).unwrap();
            assert!(line.ends_with("0000000000000000"), "{line}");
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn capabilities_are_exactly_those_asked_for() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let status = |spec| {
            let (status, _) = host.run(&sandbox, &spec).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
            };
            ["CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb"].map(field)
        };
        let set = |names: &[u64]| names.iter().fold(0, |set, bit| set | 1u64 << bit);
        let args = json!(["cat", "/proc/self/status"]);
        let usual = set(&[0, 1, 5, 6, 7, 10]);
        assert_eq!(status(spec(json!({"process": {"args": args}}))), [usual, usual, usual, 0, 0]);
        // For another user the effective set goes with execve, but for ambient ones.
        let other = json!({"process": {"args": args, "user": {"uid": 5, "gid": 5}}});
        assert_eq!(status(spec(other)), [usual, 0, 0, 0, 0]);
        let bind = json!(["CAP_NET_BIND_SERVICE"]);
        let ambient = json!({"process": {"args": args, "user": {"uid": 5, "gid": 5}, "capabilities": {
            "bounding": bind, "effective": bind, "permitted": bind, "inheritable": bind, "ambient": bind}}});
        // Without ambient capabilities (before 4.3) another user has none after execve; the birth warns.
        let expected = if killick_sys::caps::has_ambient() { [1; 5] } else { [1, 0, 0, 1, 0] };
        assert_eq!(status(spec(ambient)), expected.map(|has| has * set(&[10])));
        let none = json!({"process": {"args": args, "capabilities": {
            "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}}});
        assert_eq!(status(spec(none)), [0; 5]);
        end_sandbox(sandbox);
    });
}

#[test]
fn masked_paths_are_empty_and_readonly_paths_read_only() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let script = "cat /proc/kcore /proc/keys /proc/timer_list; ls -A /proc/scsi /sys/firmware 2>/dev/null | grep -v :; \
                      touch /proc/sys/kernel/domainname 2>/dev/null || echo sys is read-only; \
                      echo h > /proc/sysrq-trigger || echo sysrq is read-only; \
                      echo 1 > /sys/kernel/x || echo sysfs is read-only; exit 0";
        let output = host.shell(&sandbox, script);
        for line in ["sys is read-only", "sysrq is read-only", "sysfs is read-only"] {
            assert!(output.contains(line), "{output}");
        }
        assert!(!output.contains("ELF"), "{output}");
        end_sandbox(sandbox);
    });
}

#[test]
fn dev_is_complete_and_only_what_is_listed() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let extra = json!({"process": {"args": ["sh", "-c", "cd /dev; ls; stat -c '%n %a %t:%T %u:%g' null zero full random urandom tty fuse; \
            readlink fd; readlink stdin; readlink ptmx; echo x > null; head -c 2 zero | wc -c; stat -c %a /dev/shm /dev/pts/ptmx"]},
            "linux": {"devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 3, "gid": 4}]}});
        let (output, _) = host.run(&sandbox, &spec(extra)).unwrap();
        let expected = "core\nfd\nfull\nfuse\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
            null 666 1:3 0:0\nzero 666 1:5 0:0\nfull 666 1:7 0:0\nrandom 666 1:8 0:0\nurandom 666 1:9 0:0\ntty 666 5:0 0:0\n\
            fuse 660 a:e5 3:4\n/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n2\n1777\n666\n";
        assert_eq!(output, expected);
        end_sandbox(sandbox);
    });
}

#[test]
fn the_root_is_an_overlay_whose_layers_stay_clean() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        assert_eq!(
            host.shell(
                &sandbox,
                "echo x > /etc/new && rm /etc/passwd 2>/dev/null; grep ' / ' /proc/mounts | head -c 12"
            )
            .trim(),
            "overlay / ov"
        );
        assert!(!exists(&host.layer().join("etc/new")));
        end_sandbox(sandbox);
    });
}

#[test]
fn a_read_only_root_still_has_its_mounts() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let (stdio, output) = pipes();
        let args = json!([
            "sh",
            "-c",
            "touch /x 2>/dev/null || echo root is read-only; echo y > /data/y; echo s > /dev/shm/s; cat /data/y"
        ]);
        let volume = host.fresh("volume");
        let mounts = with_mounts(json!([{"destination": "/data", "source": volume, "options": ["rbind", "rprivate"]}]));
        let spec = spec(json!({"process": {"args": args}, "mounts": mounts}));
        let request = killick_container::CreateRequest {
            id: "ro".into(),
            spec: &spec,
            rootfs: killick_container::Rootfs::layers(vec![host.layer()], &host.fresh("c"), true),
            join: killick_container::Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: None,
            seccomp: None,
            stdio,
            user: UserRequest::Ids,
            sources: Vec::new(),
        };
        let created = killick_container::create(&host.facts, request).unwrap();
        assert_eq!(run_created(created, output).unwrap().0, "root is read-only\ny\n");
        assert_eq!(std::fs::read_to_string(volume.join("y")).unwrap(), "y\n");
        end_sandbox(sandbox);
    });
}

#[test]
fn ids_groups_umask_and_limits_are_set() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let changes = json!({"process": {
            "args": ["sh", "-c", "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; touch /tmp/f; stat -c %a /tmp/f; pwd; cat /proc/self/limits | grep 'open files'"],
            "cwd": "/tmp",
            "user": {"uid": 5, "gid": 6, "umask": 63, "additionalGids": [7, 8]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]}});
        std::fs::set_permissions(host.layer().join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
            .unwrap();
        let (output, _) = host.run(&sandbox, &spec(changes)).unwrap();
        assert!(output.starts_with("5\n6\n6 7 8\n0077\n64\n128\n600\n/tmp\n"), "{output}");
        end_sandbox(sandbox);
    });
}

#[test]
fn users_by_name_are_those_of_the_image() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let run = |query: UserQuery| {
            let (stdio, output) = pipes();
            let spec = spec(json!({"process": {"args": ["sh", "-c", "id -u; id -g; id -G; echo $HOME"]}}));
            let request = killick_container::CreateRequest {
                id: "user".into(),
                spec: &spec,
                rootfs: host.rootfs(),
                join: killick_container::Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
                cgroup: None,
                seccomp: None,
                stdio,
                user: UserRequest::Lookup(query),
                sources: Vec::new(),
            };
            run_created(killick_container::create(&host.facts, request)?, output)
        };
        let named = UserQuery { user: "web".into(), image_groups: true, ..UserQuery::default() };
        assert_eq!(run(named).unwrap().0, "101\n102\n102 33\n/srv\n");
        let missing = UserQuery { user: "nosuch".into(), ..UserQuery::default() };
        assert_eq!(run(missing).unwrap_err(), LaunchError::NoUser("nosuch".into()));
        end_sandbox(sandbox);
    });
}

#[test]
fn no_new_privileges_is_as_asked() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        for asked in [false, true] {
            let spec = spec(
                json!({"process": {"args": ["grep", "NoNewPrivs", "/proc/self/status"], "noNewPrivileges": asked}}),
            );
            assert_eq!(host.run(&sandbox, &spec).unwrap().0, format!("NoNewPrivs:\t{}\n", i32::from(asked)));
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn what_cannot_be_run_is_said_in_the_engines_words() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        std::fs::write(host.layer().join("bin/script"), "#!/nosuch/interpreter\n").unwrap();
        std::fs::write(host.layer().join("bin/garbage"), "garbage").unwrap();
        for name in ["script", "garbage"] {
            std::fs::set_permissions(
                host.layer().join("bin").join(name),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )
            .unwrap();
        }
        let check = |changes, text: &str, code| {
            let error = host.run(&sandbox, &spec(changes)).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (text, code));
        };
        let args = |args: &[&str]| json!({"process": {"args": args}});
        check(args(&["foo"]), "exec: \"foo\": executable file not found in $PATH", 127);
        check(args(&["/bin/foo"]), "exec: \"/bin/foo\": stat /bin/foo: no such file or directory", 127);
        check(args(&["/etc/not-executable"]), "exec: \"/etc/not-executable\": permission denied", 126);
        check(args(&["/etc"]), "exec: \"/etc\": is a directory", 126);
        check(args(&["script"]), "exec /bin/script: no such file or directory", 127);
        check(args(&["garbage"]), "exec /bin/garbage: exec format error", 126);
        let file = json!({"process": {"args": ["true"], "cwd": "/etc/passwd"}});
        check(
            file,
            "chdir to cwd (\"/etc/passwd\") set in config.json failed: chdir /etc/passwd: not a directory",
            128,
        );
        end_sandbox(sandbox);
    });
}

#[test]
fn pause_has_nothing_and_sees_nothing() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let root = format!("/proc/{}/root", sandbox.pid());
        let seen: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        // Before 3.19 its own program has to be there.
        assert_eq!(seen, if host.facts.execveat { vec![] } else { vec!["pause"] });
        let write = std::fs::write(format!("{root}/x"), "").unwrap_err();
        assert_eq!(write.raw_os_error(), Some(libc::EROFS));
        let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
        for line in [
            "Uid:\t65535\t65535\t65535\t65535",
            "Gid:\t65535\t65535\t65535\t65535",
            "NoNewPrivs:\t1",
            "CapBnd:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "SigIgn:\t0000000000000000",
        ] {
            assert!(status.contains(line), "{line} in {status}");
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn the_hosts_network_brings_the_hosts_name() {
    both_ways(|host| {
        let pause = std::fs::read("/bin/busybox").unwrap();
        let request = killick_container::sandbox::SandboxRequest { host_network: true, ..host.sandbox_request(&pause) };
        let request = killick_container::sandbox::SandboxRequest { sysctls: Vec::new(), ..request };
        let mut birth = killick_container::sandbox::create(&host.facts, request).unwrap();
        assert_eq!(birth.wait(soon()), killick_container::Progress::Running);
        let sandbox = birth.into_sandbox().unwrap();
        let own = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        let output =
            host.shell(&sandbox, "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; readlink /proc/self/ns/ipc");
        let mut lines = output.lines();
        assert_eq!((lines.next(), lines.next()), (Some(own("net").as_str()), Some(own("uts").as_str())));
        assert_ne!(lines.next(), Some(own("ipc").as_str()));
        end_sandbox(sandbox);
    });
}

#[test]
fn a_missing_working_directory_is_made() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let (stdio, output) = pipes();
        let read_only = spec(json!({"process": {"args": ["pwd"], "cwd": "/made/for/me"}}));
        let request = killick_container::CreateRequest {
            id: "cwd".into(),
            spec: &read_only,
            rootfs: killick_container::Rootfs::layers(vec![host.layer()], &host.fresh("c"), true),
            join: killick_container::Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: None,
            seccomp: None,
            stdio,
            user: UserRequest::Ids,
            sources: Vec::new(),
        };
        let created = killick_container::create(&host.facts, request).unwrap();
        assert_eq!(run_created(created, output).unwrap().0, "/made/for/me\n");
        let spec = spec(json!({"process": {"args": ["pwd"], "cwd": "/srv/app/data"}}));
        assert_eq!(host.run(&sandbox, &spec).unwrap().0, "/srv/app/data\n");
        end_sandbox(sandbox);
    });
}

#[test]
fn a_working_directory_cannot_lead_outside() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        for n in 0..24 {
            let spec = spec(json!({"process": {"args": ["ls"], "cwd": format!("/proc/self/fd/{n}")}}));
            match host.run(&sandbox, &spec) {
                // Descriptors of the container's own root may be there; nothing of the host's.
                Ok((listing, _)) => {
                    assert!(listing.contains("bin") && !listing.contains("lost+found"), "{n}: {listing}")
                }
                Err(error) => assert!(matches!(error, LaunchError::Cwd { .. } | LaunchError::CwdOutside), "{error}"),
            }
        }
        end_sandbox(sandbox);
    });
}

#[test]
fn bind_mounts_have_the_flags_and_the_propagation_asked_for() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let volume = host.fresh("volume");
        std::fs::write(volume.join("file"), "content").unwrap();
        let mounts = with_mounts(json!([
            {"destination": "/ro", "source": volume, "options": ["rbind", "ro", "noexec"]},
            {"destination": "/rro", "source": volume, "options": ["rbind", "rro"]},
            {"destination": "/deep/er/file", "source": volume.join("file"), "options": ["bind"]},
            {"destination": "/slave", "source": volume, "options": ["rbind", "rslave"]},
        ]));
        let script = "touch /ro/x 2>/dev/null || echo ro; touch /rro/x 2>/dev/null || echo rro; cat /deep/er/file; echo; \
                      grep -E ' /(ro|rro|slave) ' /proc/self/mountinfo";
        let (output, _) =
            host.run(&sandbox, &spec(json!({"process": {"args": ["sh", "-c", script]}, "mounts": mounts}))).unwrap();
        assert!(output.starts_with("ro\nrro\ncontent\n"), "{output}");
        assert!(output.contains("noexec"), "{output}");
        assert!(!output.contains("shared:"), "{output}");
        end_sandbox(sandbox);
    });
}

#[test]
fn mount_points_are_made_inside_whatever_the_image_says() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let outside = host.fresh("outside");
        std::os::unix::fs::symlink(&outside, host.layer().join("escape")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../..", host.layer().join("up")).unwrap();
        let volume = host.fresh("volume");
        let mounts = with_mounts(json!([
            {"destination": "/escape/made", "source": volume, "options": ["bind"]},
            {"destination": "/up/made-too", "source": volume, "options": ["bind"]},
        ]));
        let (output, _) = host
            .run(
                &sandbox,
                &spec(json!({"process": {"args": ["sh", "-c", "ls -d /up/made-too /escape/made"]}, "mounts": mounts})),
            )
            .unwrap();
        assert_eq!(output, "/escape/made\n/up/made-too\n");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!exists(Path::new("/made-too")));
        end_sandbox(sandbox);
    });
}

#[test]
fn a_dev_or_proc_that_is_a_symlink_is_refused_or_stays_inside() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let outside = host.fresh("outside");
        std::fs::remove_dir(host.layer().join("proc")).unwrap();
        std::os::unix::fs::symlink("tmp", host.layer().join("proc")).unwrap();
        let error = host.run(&sandbox, &spec(json!({}))).unwrap_err();
        assert!(error.to_string().contains("must be mounted on ordinary directory"), "{error}");
        std::fs::remove_file(host.layer().join("proc")).unwrap();
        std::fs::remove_dir(host.layer().join("dev")).unwrap();
        let relative = format!("../..{}", outside.display());
        std::os::unix::fs::symlink(relative, host.layer().join("dev")).unwrap();
        let (output, _) = host.run(&sandbox, &spec(json!({"process": {"args": ["ls", "/dev/null"]}}))).unwrap();
        assert_eq!(output, "/dev/null\n");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        end_sandbox(sandbox);
    });
}

#[test]
fn containers_of_a_pod_share_what_pods_share() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let sleeper = host.started(&sandbox, &spec(json!({})));
        let output = host.shell(
            &sandbox,
            "hostname; echo shared > /dev/shm/file; ps | grep -c '[s]leep 1000000'; readlink /proc/self/ns/net",
        );
        let mut lines = output.lines();
        assert_eq!(lines.next(), Some("pod-host"));
        assert_eq!(lines.next(), Some("2"), "pause and the sleeper: {output}");
        let inode = std::fs::metadata(format!("/proc/{}/ns/net", sandbox.pid())).unwrap().ino();
        assert_eq!(lines.next(), Some(format!("net:[{inode}]").as_str()));
        assert_eq!(host.shell(&sandbox, "cat /dev/shm/file"), "shared\n");
        end(sleeper.process());
        end_sandbox(sandbox);
    });
}

#[test]
fn a_pid_namespace_of_its_own_starts_at_one() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let (stdio, output) = pipes();
        let spec = spec(json!({"process": {"args": ["sh", "-c", "echo $$; ls -d /proc/[0-9]*"]}}));
        let created = host.create_with(&sandbox, PidMode::Own, Ptrace::Possible, &spec, stdio).unwrap();
        let (output, _) = run_created(created, output).unwrap();
        assert!(output.starts_with("1\n/proc/1\n"), "{output}");
        end_sandbox(sandbox);
    });
}

#[test]
fn the_hosts_pid_namespace_is_shared_when_asked() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let (stdio, output) = pipes();
        let spec = spec(json!({"process": {"args": ["readlink", "/proc/self/ns/pid"]}}));
        let created = host.create_with(&sandbox, PidMode::Host, Ptrace::Impossible, &spec, stdio).unwrap();
        let (output, _) = run_created(created, output).unwrap();
        let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
        assert!(output.contains(own.to_str().unwrap()), "{output}");
        end_sandbox(sandbox);
    });
}

#[test]
fn a_terminal_is_the_containers_own() {
    both_ways(|host| {
        use std::io::Read;
        let sandbox = host.sandbox();
        let spec = spec(
            json!({"process": {"args": ["sh", "-c", "tty; stat -c %t:%T /dev/console; ulimit -n >/dev/null; test -t 0 && echo yes"]}}),
        );
        let mut created = host.created(&sandbox, &spec, Stdio::Terminal { rows: 25, columns: 81 }).unwrap();
        assert_eq!(created.wait(soon()), killick_container::Progress::AtGate);
        let mut master = std::fs::File::from(created.take_terminal().unwrap());
        let container = start(created);
        let mut output = String::new();
        let mut buffer = [0; 512];
        while let Ok(length) = master.read(&mut buffer) {
            output.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        assert_eq!(output, "/dev/pts/0\r\n88:0\r\nyes\r\n");
        container.process().wait_blocking().unwrap();
        end_sandbox(sandbox);
    });
}

#[test]
fn a_container_at_its_gate_is_killed_when_its_maker_lets_go() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let mut created = host.created(&sandbox, &spec(json!({})), Stdio::null().unwrap()).unwrap();
        assert_eq!(created.wait(soon()), killick_container::Progress::AtGate);
        let pid = created.process().unwrap().pid();
        drop(created);
        assert!(!exists(Path::new(&format!("/proc/{pid}"))));
        end_sandbox(sandbox);
    });
}

#[test]
fn a_dead_sandbox_says_that_nothing_runs() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        end(sandbox.process());
        let error = host.run(&sandbox, &spec(json!({}))).unwrap_err();
        assert_eq!(error, LaunchError::NotRunning);
        sandbox.unmount().unwrap();
    });
}

#[test]
fn a_death_at_the_gate_is_seen_when_it_is_opened() {
    both_ways(|host| {
        let sandbox = host.sandbox();
        let mut created = host.created(&sandbox, &spec(json!({})), Stdio::null().unwrap()).unwrap();
        assert_eq!(created.wait(soon()), killick_container::Progress::AtGate);
        let pid = created.process().unwrap().pid();
        created.process().unwrap().send_signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        while killick_sys::pidfd::start_time(pid).is_ok() && created.process().unwrap().is_running() {
            nix::sched::sched_yield().unwrap();
        }
        assert_eq!(created.start().unwrap_err(), LaunchError::NotRunning);
        drop(created);
        end_sandbox(sandbox);
    });
}
