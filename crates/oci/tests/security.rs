//! What a hostile image, configuration or container may try against killick-oci (docs/security.md): each attack stays
//! inside, or the command refuses.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, Output, merge};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;

/// `create` of the usual configuration with `change`, in a root that `prepare` has been at.
fn create(change: Value, prepare: impl FnOnce(&std::path::Path)) -> (Bundle, Output) {
    let bundle = Bundle::new(json!({}));
    let mut config = bundle.config();
    merge(&mut config, change);
    bundle.configure(&config);
    prepare(&bundle.rootfs());
    let created = bundle.quiet(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    (bundle, created)
}

/// killick-oci with what a shell script has set before it: descriptors, limits, signals.
fn from_shell(bundle: &Bundle, prelude: &str, words: &[&str]) -> Output {
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &format!("{prelude}\nexec \"$@\""), "sh", common::PROGRAM, "--root"]);
    command.arg(bundle.states()).args(words).stdin(std::process::Stdio::null());
    common::output(command)
}

fn mounts_with(more: Value) -> Value {
    let mut mounts = Bundle::new(json!({})).config()["mounts"].as_array().unwrap().clone();
    mounts.push(more);
    json!({ "mounts": mounts })
}

/// CVE-2019-16884, CVE-2025-52881. Without the check in `mounts.rs` a sysfs or a cgroup mount is let through; without
/// the one in `rootfs.rs` a link of the image leads there.
#[test]
fn nothing_is_mounted_over_a_file_of_proc_by_any_type_or_way() {
    let inside = "cannot be mounted because it is inside /proc";
    let source = tempfile::tempdir().unwrap();
    let bind = |at: &str| json!({"destination": at, "type": "bind", "source": source.path(), "options": ["rbind"]});
    let of = |at: &str, fstype: &str| json!({"destination": at, "type": fstype, "source": "x"});
    for at in ["/proc/self/attr", "/proc/sys", "/proc/1", "/proc/../proc/sys", "//proc/./sys/", "/proc/sys/kernel/x"] {
        for mount in [bind(at), of(at, "tmpfs"), of(at, "sysfs"), of(at, "cgroup"), of(at, "proc"), of(at, "mqueue")] {
            let (_, refused) = create(mounts_with(mount.clone()), |_| {});
            assert_eq!(refused.code, 1, "{mount}");
            refused.fails(inside);
        }
    }
    for (at, link, target) in [
        ("/volume/attr", "volume", "/proc/self"),
        ("/volume", "volume", "/proc/sys"),
        ("/volume/sys", "volume", "../../../proc"),
        ("/deep/volume/1", "deep", "/volume/.."),
    ] {
        for mount in [bind(at), of(at, "tmpfs"), of(at, "mqueue")] {
            let (_, refused) = create(mounts_with(mount.clone()), |root| {
                symlink(target, root.join(link)).unwrap();
                if link == "deep" {
                    symlink("/proc", root.join("volume")).unwrap();
                }
            });
            refused.fails(inside);
        }
    }
    // An image whose VOLUME is /proc.
    let (_, refused) = create(mounts_with(bind("/proc")), |_| {});
    refused.fails("\"/proc\" cannot be mounted because it is not of type proc");
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642.
#[test]
fn proc_and_sys_are_mounted_on_directories_and_never_through_links() {
    for name in ["proc", "sys"] {
        for target in ["tmp", "/tmp", "/proc", "../../../../tmp", "nowhere"] {
            let (bundle, refused) = create(json!({}), |root| {
                fs::remove_dir(root.join(name)).unwrap();
                symlink(target, root.join(name)).unwrap();
            });
            refused.fails("must be mounted on ordinary directory");
            bundle.assert_gone();
        }
        let (_, refused) = create(json!({}), |root| {
            fs::remove_dir(root.join(name)).unwrap();
            fs::write(root.join(name), "a file").unwrap();
        });
        refused.fails("must be mounted on ordinary directory");
    }
}

/// CVE-2019-5736: what runs as our binary inside a container is open to the container. Without `protect` in `main.rs`
/// the file behind it is the host's killick-oci.
#[test]
fn the_executable_that_a_container_sees_is_never_the_hosts_file() {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(common::PROGRAM).unwrap();
    let is_protected = |pid: i32| {
        let exe = fs::File::open(format!("/proc/{pid}/exe")).unwrap();
        let link = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        let overlay =
            nix::sys::statfs::fstatfs(&exe).unwrap().filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC;
        let (dev, ino) = (exe.metadata().unwrap().dev(), exe.metadata().unwrap().ino());
        assert_ne!((dev, ino), (file.dev(), file.ino()), "{}", link.display());
        overlay || link.to_string_lossy().starts_with("/memfd:")
    };
    let before = fs::read(common::PROGRAM).unwrap();
    let all = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_KILL"]);
    let capabilities = json!({"bounding": all, "effective": all, "permitted": all});
    let bundle = Bundle::new(json!({"process": {"capabilities": capabilities}}));
    bundle.create();
    assert!(is_protected(bundle.pid()), "the first process at its gate");
    // A process of the container with every right writes to it, by whatever way the mounts allow.
    let script = "mount -o remount,rw / 2>/dev/null; cat /proc/1/exe >/dev/null && echo readable; \
                  (: >> /proc/1/exe) 2>&1; exec 7</proc/1/exe; mount -o remount,rw,bind /proc/self/fd/7 2>/dev/null; \
                  (: >> /proc/self/fd/7) 2>&1; true";
    let output = bundle.exec(&[&bundle.id, "sh", "-c", script]);
    assert!(output.out.contains("readable"), "the attack was made: {output:?}");
    assert!(
        output.out.matches("Read-only file system").count() == 2 || output.out.contains("not permitted"),
        "{output:?}"
    );
    assert!(fs::read(common::PROGRAM).unwrap() == before);
}

/// The same file as the program, as an interpreter, by any of its names: it runs, in the container, as the copy that
/// nobody can write to; it does not become the runtime again.
#[test]
fn our_own_binary_as_the_containers_program_does_no_harm() {
    let before = fs::read(common::PROGRAM).unwrap();
    for program in ["/proc/self/exe", "/etc/shebang", "/etc/link"] {
        let bundle = Bundle::new(json!({"process": {"args": [program, "--version"]}}));
        fs::write(bundle.rootfs().join("etc/shebang"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(bundle.rootfs().join("etc/shebang"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        symlink("/proc/self/exe", bundle.rootfs().join("etc/link")).unwrap();
        let ran = bundle.run();
        // As the program of the container it says its version, or does not know the script as a command.
        assert!(ran.out.contains("killick-oci version") || ran.err.contains("/etc/shebang"), "{program}: {ran:?}");
        assert!(fs::read(common::PROGRAM).unwrap() == before);
    }
}

/// CVE-2024-21626: a directory outside as cwd or as the way to the program. Without the check of getcwd and the early
/// closing of descriptors, `/proc/self/fd/N` is a directory of the host.
#[test]
fn a_working_directory_or_a_program_by_a_descriptor_leads_nowhere_outside() {
    let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", "exec sleep 1000000"]}}));
    bundle.create();
    bundle.start();
    let marker = format!("marker-{}", bundle.id);
    fs::write(bundle.path().join(&marker), "of the host").unwrap();
    let places = (0..64).map(|n| format!("/proc/self/fd/{n}"));
    let more =
        ["/proc/1/cwd", "/proc/1/root/..", "/proc/thread-self/root/..", "/proc/self/task/1/cwd", "/proc/self/cwd"];
    for place in places.chain(more.map(String::from)) {
        let found = bundle.exec(&["--cwd", &place, &bundle.id, "sh", "-c", "pwd; ls /proc/self/cwd/.. /proc/self/cwd"]);
        let refused = found.code != 0;
        let is_root = found.out.starts_with("/\n") && found.out.contains("hooks") && !found.out.contains(&marker);
        assert!(refused || is_root, "{place}: {found:?}");
        let ran = bundle.exec(&[&bundle.id, &format!("{place}/../../../../../../../../../../bin/cat"), "/etc/passwd"]);
        assert!(ran.code != 0 || ran.out.contains("web:x:101"), "{place}: {ran:?}");
    }
}

/// The same for `create`; and what a caller passes on is a descriptor, not a way out.
#[test]
fn a_passed_directory_is_no_working_directory() {
    for cwd in ["/proc/self/fd/3", "/proc/self/fd/3/..", "/proc/1/fd/3"] {
        let bundle = Bundle::new(json!({"process": {"cwd": cwd, "args": ["pwd"]}}));
        let run = ["run", "--preserve-fds", "1", "-b", bundle.path().to_str().unwrap(), &bundle.id];
        let ran = from_shell(&bundle, "exec 3</etc", &run);
        ran.fails("outside of container mount namespace root");
        bundle.assert_gone();
    }
}

/// A container with its own PID namespace that another one joins by path; `capabilities` are the first one's.
fn joined(capabilities: Value, change: Value) -> (Bundle, Bundle) {
    let sets = json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    let first = Bundle::new(json!({"process": {"capabilities": sets}}));
    first.create();
    first.start();
    let second = Bundle::new(json!({}));
    let mut config = second.config();
    for namespace in config["linux"]["namespaces"].as_array_mut().unwrap() {
        if namespace["type"] == "pid" {
            namespace["path"] = json!(format!("/proc/{}/ns/pid", first.pid()));
        }
    }
    merge(&mut config, change);
    second.configure(&config);
    (first, second)
}

/// Before 5.12 nobody can hand over a procfs: beside somebody who may trace, it is refused by name; else it is born
/// inside.
fn lacks_handed_mounts() -> bool {
    let lacks = common::lacks(killick_sys::facts::Facts::detect().detached_mounts, "mounts to hand over (5.12)");
    if lacks {
        let (_first, second) = joined(json!(["CAP_SYS_PTRACE"]), json!({"process": {"args": ["true"]}}));
        second.run().fails("cannot be joined safely: process");
        let (_first, second) = joined(json!([]), json!({"process": {"args": ["cat", "/proc/1/comm"]}}));
        assert_eq!(second.run().ok(), "sleep\n");
    }
    lacks
}

#[test]
fn a_container_that_joins_a_pid_namespace_by_path_sees_it_and_only_it() {
    if lacks_handed_mounts() {
        return;
    }
    let script = "echo pid $$; cat /proc/self/stat | head -c 8; echo; ls /proc | grep -c '^[0-9]'; cat /proc/1/cmdline; \
                  test -r /proc/kcore && wc -c < /proc/kcore; mount | grep -c ' on /proc '";
    let hooks = json!({"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > $0", "STATE"]}]});
    for with_hooks in [false, true] {
        let (first, second) = joined(json!(["CAP_SYS_PTRACE"]), json!({"process": {"args": ["sh", "-c", script]}}));
        if with_hooks {
            let mut config = second.config();
            config["hooks"] = hooks.clone();
            config["hooks"]["prestart"][0]["args"][3] = json!(second.path().join("told"));
            config["hooks"]["startContainer"] = json!([{"path": "/bin/true"}]);
            second.configure(&config);
        }
        let ran = second.run();
        let lines: Vec<&str> = ran.out.lines().collect();
        assert_eq!(ran.code, 0, "{ran:?}");
        let pid: i32 = lines[0].strip_prefix("pid ").unwrap().parse().unwrap();
        // The first one, we, and what we started.
        assert!(pid > 1 && ran.out.contains("sleep\u{0}1000000"), "{ran:?}");
        assert!((2..=5).contains(&lines[2].parse::<i32>().unwrap()), "{ran:?}");
        assert!(ran.out.ends_with("\u{0}1\n") || ran.out.ends_with("\u{0}0\n1\n"), "kcore masked, one /proc: {ran:?}");
        if with_hooks {
            let told: Value = serde_json::from_slice(&fs::read(second.path().join("told")).unwrap()).unwrap();
            assert!(told["pid"].as_i64().unwrap() > 1, "{told}");
        }
        assert_eq!(first.status(), "running");
    }
}

/// The life of such a container: created, started, exec'd into, killed and deleted as any other.
#[test]
fn a_container_in_anothers_pid_namespace_lives_as_any_other() {
    if lacks_handed_mounts() {
        return;
    }
    let (first, second) = joined(json!(["CAP_SYS_PTRACE"]), json!({}));
    second.create();
    assert_eq!(second.status(), "created");
    let created = second.pid();
    let own = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_eq!(own(created), own(first.pid()), "at the gate it is inside");
    second.start();
    assert_eq!((second.status(), second.pid()), ("running".to_owned(), created));
    assert_eq!(second.exec(&[&second.id, "echo", "hello"]).ok(), "hello\n");
    assert!(second.exec(&[&second.id, "cat", "/proc/1/cmdline"]).ok().starts_with("sleep"));
    second.oci(&["kill", &second.id, "KILL"]).ok();
    second.wait_for("stopped");
    second.oci(&["delete", &second.id]).ok();
    assert_eq!(first.status(), "running", "the first one goes on");
}

#[path = "../../container/tests/tracer/mod.rs"]
mod tracer;

/// Design §4 for killick-oci: somebody in the PID namespace seizes every new process while `round` makes some. Without
/// the birth from outside (`born_outside` in `bundle.rs`) it finds every capability of the host, the caller's environment
/// and directories within the first few.
fn under_attack(seized: u32, round: impl Fn(&Bundle, &Bundle)) {
    use killick_sys::ns::{self, NamespaceKind};
    use std::os::fd::AsFd;
    let (first, second) =
        joined(json!(["CAP_SYS_PTRACE"]), json!({"process": {"args": ["true"], "capabilities": null}}));
    let roots = [format!("/proc/{}/root", first.pid()), second.rootfs().display().to_string()];
    let roots = roots.map(|path| tracer::identity(&path));
    let pids = ns::open_of(first.pid(), NamespaceKind::Pid).unwrap();
    let visit = ns::enter(pids.as_fd(), NamespaceKind::Pid).unwrap();
    let mut attacker = killick_sys::spawn::worker(tracer::ATTACK + std::time::Duration::from_secs(20), || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        killick_sys::mount::change("/".as_ref(), libc::MS_REC | libc::MS_PRIVATE).unwrap();
        Ok(tracer::attack(|seen| seen.seized >= seized, &roots, b"no such secret"))
    })
    .unwrap();
    drop(visit);
    let mut rounds = 0;
    let seen = loop {
        if let Some(seen) = attacker.poll(std::time::Instant::now()) {
            break seen.unwrap();
        }
        round(&first, &second);
        rounds += 1;
    };
    seen.assert_nothing(seized / 2, rounds);
}

#[test]
fn an_attacker_with_ptrace_sees_nothing_of_killick_oci_exec() {
    under_attack(40, |first, _| assert_eq!(first.exec(&[&first.id, "true"]).code, 0));
}

#[test]
fn an_attacker_with_ptrace_sees_nothing_of_a_container_that_joins_its_pid_namespace() {
    if lacks_handed_mounts() {
        return;
    }
    under_attack(40, |_, second| assert_eq!(second.run().code, 0));
}
