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
fn under_attack(rounds_wanted: u32, round: impl Fn(&Bundle, &Bundle)) {
    use killick_sys::ns::{self, NamespaceKind};
    use std::os::fd::AsFd;
    let (first, second) =
        joined(json!(["CAP_SYS_PTRACE"]), json!({"process": {"args": ["true"], "capabilities": null}}));
    let roots = [format!("/proc/{}/root", first.pid()), second.rootfs().display().to_string()];
    let roots = roots.map(|path| tracer::identity(&path));
    let pids = ns::open_of(first.pid(), NamespaceKind::Pid).unwrap();
    let visit = ns::enter(pids.as_fd(), NamespaceKind::Pid).unwrap();
    let limit = tracer::limit(rounds_wanted);
    let stop = first.path().join("stop");
    let mut attacker = killick_sys::spawn::worker(limit + std::time::Duration::from_secs(20), || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        killick_sys::mount::change("/".as_ref(), libc::MS_REC | libc::MS_PRIVATE).unwrap();
        Ok(tracer::attack(limit, |_| stop.exists(), &roots, b"no such secret"))
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
        if rounds == rounds_wanted {
            fs::write(&stop, "").unwrap();
        }
    };
    seen.assert_nothing(3, rounds);
}

#[test]
fn an_attacker_with_ptrace_sees_nothing_of_killick_oci_exec() {
    under_attack(tracer::execs(60), |first, _| assert_eq!(first.exec(&[&first.id, "true"]).code, 0));
}

#[test]
fn an_attacker_with_ptrace_sees_nothing_of_a_container_that_joins_its_pid_namespace() {
    if lacks_handed_mounts() {
        return;
    }
    under_attack(tracer::execs(60).min(1000), |_, second| assert_eq!(second.run().code, 0));
}

/// All of the bundle but its root: what is the host's in these tests.
fn of_the_host(bundle: &Bundle) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![bundle.path().to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let ours = path == bundle.rootfs() || path == bundle.states() || path.to_string_lossy().contains("/log-");
            if !ours {
                let content = if kind.is_file() { fs::read(&path).unwrap().len() } else { 0 };
                found.push(format!("{} {kind:?} {content}", path.display()));
                left.extend(kind.is_dir().then_some(path));
            }
        }
    }
    found.sort();
    found
}

/// CVE-2025-31133, CVE-2025-52565, CVE-2026-41579, CVE-2026-47766, CVE-2026-88264: an image whose /dev, or a node of it,
/// is a link. With a mount on /dev the image's own is not used; without one the container fails, or all of it stays
/// inside. Without O_NOFOLLOW and the check of the node in `nodes.rs` a masked file shows what the link points to.
#[test]
fn a_dev_of_links_in_the_image_leads_nowhere() {
    let core_pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for with_dev in [true, false] {
        for terminal in [false, true] {
            for (name, target) in [
                ("dev", "/../../outside"),
                ("dev", "HOST/outside"),
                ("dev", "/proc/self"),
                ("dev/null", "/proc/sys/kernel/core_pattern"),
                ("dev/null", "HOST/outside/file"),
                ("dev/null", "zero"),
                ("dev/console", "HOST/outside/made"),
                ("dev/console", "/proc/sys/kernel/core_pattern"),
                ("dev/pts", "HOST/outside"),
                ("dev/ptmx", "HOST/outside/file"),
                ("dev/full", "../../../../outside/full"),
            ] {
                let script = "test \"$(cat /proc/kcore | wc -c)\" = 0 && test -c /dev/null && echo fine";
                let process = json!({"args": ["sh", "-c", script], "terminal": terminal});
                let bundle = Bundle::new(json!({"process": process, "linux": {"maskedPaths": ["/proc/kcore"]}}));
                let mut config = bundle.config();
                if !with_dev {
                    let mounts = config["mounts"].as_array_mut().unwrap();
                    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
                    bundle.configure(&config);
                }
                fs::create_dir(bundle.path().join("outside")).unwrap();
                fs::write(bundle.path().join("outside/file"), "the host's").unwrap();
                let target = target.replace("HOST", bundle.path().to_str().unwrap());
                let place = bundle.rootfs().join(name);
                if name == "dev" {
                    fs::remove_dir(&place).unwrap();
                }
                symlink(&target, &place).unwrap();
                let before = of_the_host(&bundle);
                let ran = bundle.run();
                assert!(ran.code != 0 || ran.out.contains("fine"), "{name} -> {target}: {ran:?}");
                let on_dev = name != "dev" && with_dev && !terminal;
                assert!(!on_dev || ran.code == 0, "a mount on /dev hides it: {name} -> {target}: {ran:?}");
                assert_eq!(of_the_host(&bundle), before, "{name} -> {target}");
                assert!(fs::read("/proc/sys/kernel/core_pattern").unwrap() == core_pattern);
            }
        }
    }
}

/// A null device that is missing or another node: masking with it would leave the file open (CVE-2025-31133).
#[test]
fn a_null_device_that_is_none_masks_nothing_and_fails() {
    for node in [Some((1, 5)), Some((1, 8)), None] {
        let bundle = Bundle::new(
            json!({"process": {"args": ["cat", "/etc/secret"]}, "linux": {"maskedPaths": ["/etc/secret"]}}),
        );
        let mut config = bundle.config();
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        bundle.configure(&config);
        fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        match node {
            Some((major, minor)) => {
                mknod(&bundle.rootfs().join("dev/null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(major, minor)).unwrap();
            }
            None => fs::write(bundle.rootfs().join("dev/null"), "").unwrap(),
        }
        let ran = bundle.run();
        assert!(ran.code != 0 && !ran.out.contains("secret"), "{ran:?}");
    }
}

/// CVE-2016-3697, CVE-2024-40635, CVE-2026-30892.
#[test]
fn a_user_is_a_plain_number_and_nothing_else() {
    let bundle = Bundle::new(json!({}));
    bundle.create();
    bundle.start();
    for (user, expected) in [("1", "1 0\n"), ("1:2", "1 2\n"), ("0", "0 0\n"), ("101", "101 0\n")] {
        assert_eq!(bundle.exec(&["-u", user, &bundle.id, "sh", "-c", "echo $(id -u) $(id -g)"]).ok(), expected);
    }
    for user in ["4294967295", "4294967296", "-1", "0x1", " 1", "+1", "1 ", "1:", ":1", "1:-1", "root", "1e0", ""] {
        let refused = bundle.exec(&["-u", user, &bundle.id, "id"]);
        assert_eq!(refused.code, 255, "{user:?}: {refused:?}");
    }
    for uid in [json!(4_294_967_296_u64), json!(-1), json!("0x1"), json!(" 1"), json!("1"), json!(1.5), json!(u64::MAX)]
    {
        for field in ["uid", "gid"] {
            let (bundle, refused) = create(json!({"process": {"user": {field: uid}}}), |_| {});
            refused.fails(&format!("process.user.{field}"));
            bundle.assert_gone();
        }
    }
}

/// CVE-2026-47262: /etc/passwd and /etc/group are anybody's.
#[test]
fn a_passwd_that_is_huge_cyclic_or_no_file_costs_nothing() {
    type Make = fn(&std::path::Path);
    let makes: [Make; 6] = [
        |path| fs::File::create(path).unwrap().set_len(1 << 30).unwrap(),
        |path| symlink("passwd", path).unwrap(),
        |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        |path| symlink("/dev/zero", path).unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| fs::write(path, format!("{}:x:0:0::/home/evil\n", "a".repeat(3 << 20))).unwrap(),
    ];
    for make in makes {
        let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", "echo $HOME"], "env": ["PATH=/bin"]}}));
        let path = bundle.rootfs().join("etc/passwd");
        fs::remove_file(&path).unwrap();
        make(&path);
        let started = std::time::Instant::now();
        let home = bundle.run().ok();
        assert!(home == "/\n" || home == "/home/evil\n", "{home:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(10));
    }
}

/// CVE-2022-0811: one value is written to one file, whatever it contains; a key is a name.
#[test]
fn a_sysctl_is_one_value_for_one_name() {
    let core_pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    for (key, value) in [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/evil"),
        ("net.ipv4.ip_forward", "1=kernel.core_pattern"),
        ("net/../kernel/core_pattern", "|/evil"),
        ("net.ipv4/../../kernel/core_pattern", "|/evil"),
        ("net.ipv4..kernel", "1"),
        ("net.", "1"),
        ("net./etc/passwd", "1"),
        ("kernel.shm_rmid_forced+kernel.core_pattern", "|/evil"),
        ("kernel.shm_rmid_forced=1\nkernel.core_pattern", "|/evil"),
        ("kernel/core_pattern", "|/evil"),
        ("fs.mqueue.msg_max/../../../kernel/core_pattern", "|/evil"),
    ] {
        let (_, refused) = create(json!({"linux": {"sysctl": {key: value}}}), |_| {});
        let shown = key.replace('\n', "\\n");
        // The kernel takes a number up to a line end, and no more than that.
        let is_cut = value.starts_with("1\n") && refused.code == 0;
        assert!(
            is_cut || refused.code == 1 && (refused.err.contains("sysctl") || refused.err.contains("/proc/sys")),
            "{shown}: {refused:?}"
        );
        assert!(refused.err.trim_end().lines().count() <= 1, "{refused:?}");
        assert!(fs::read("/proc/sys/kernel/core_pattern").unwrap() == core_pattern, "{shown}");
    }
}

/// CVE-2022-24769, -29162, -27650: nothing is inheritable unless it was asked for, in create and in exec.
#[test]
fn nothing_is_inheritable_or_ambient_unless_it_is_asked_for() {
    let bundle = Bundle::new(json!({}));
    bundle.create();
    bundle.start();
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    let grep = ["grep", "-E", "^Cap(Inh|Amb)", "/proc/self/status"];
    let exec = |more: &[&str]| {
        let words: Vec<&str> = more.iter().copied().chain([bundle.id.as_str()]).chain(grep).collect();
        bundle.exec(&words)
    };
    assert_eq!(exec(&[]).ok(), none);
    assert_eq!(exec(&["--cap", "CAP_NET_RAW"]).ok(), none);
    assert_eq!(exec(&["--cap", "CAP_NET_RAW", "-u", "7"]).ok(), none);
    let pid = bundle.pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
}

/// CVE-2022-0492: what a v1 hierarchy runs on the host when a group is empty is out of reach, and so are the limits.
#[test]
fn a_container_changes_nothing_of_its_cgroups() {
    let script = "find /sys/fs/cgroup -name release_agent | head; \
                  for file in $(find /sys/fs/cgroup -name notify_on_release -o -name cgroup.procs -o -name tasks -o -name memory.max); do \
                  (echo 1 > $file) 2>/dev/null && echo written $file; done; \
                  mkdir /tmp/c; mount -t cgroup -o memory cgroup /tmp/c 2>/dev/null && echo mounted; \
                  mkdir $(find /sys/fs/cgroup -type d | tail -1)/below 2>/dev/null && echo made; echo done";
    let bundle = Bundle::shell(script);
    symlink("busybox", bundle.rootfs().join("bin/find")).unwrap();
    assert_eq!(bundle.run().ok(), "done\n");
}

/// CVE-2023-25173: the caller's groups are not the container's.
#[test]
fn the_callers_supplementary_groups_do_not_reach_the_container() {
    let help = std::process::Command::new("setpriv").arg("--help").output().unwrap();
    if !String::from_utf8_lossy(&help.stdout).contains("--groups") {
        println!("not here: busybox's setpriv gives no groups; it runs on the host");
        return;
    }
    let bundle = Bundle::shell("id -G");
    let path = bundle.path().to_str().unwrap().to_owned();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--groups", "4242,4243", common::PROGRAM, "--root"]).arg(bundle.states());
    command.args(["run", "-b", &path, &bundle.id]).stdin(std::process::Stdio::null());
    assert_eq!(common::output(command).ok(), "0\n");
}

/// CVE-2020-15257, CVE-2021-41091: the runtime's files are its own, and it has no socket by a name.
#[test]
fn states_are_closed_to_others_and_no_abstract_socket_is_open() {
    use std::os::unix::fs::PermissionsExt;
    let abstract_names = || {
        let text = fs::read_to_string("/proc/net/unix").unwrap();
        text.lines().filter(|line| line.contains(" @") && line.contains("killick")).count()
    };
    let before = abstract_names();
    let bundle = Bundle::new(json!({}));
    bundle.create();
    let mode = |path: std::path::PathBuf| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(bundle.states()), 0o700);
    let dir = bundle.states().join(&bundle.id);
    assert!(mode(dir.clone()) & 0o066 == 0, "{:o}", mode(dir.clone()));
    for name in ["state.json", "start.sock"] {
        assert_eq!(mode(dir.join(name)), 0o600, "{name}");
    }
    assert_eq!(abstract_names(), before);
    let link = |name: &str| fs::read_link(format!("/proc/{}/fd/{name}", bundle.pid())).unwrap().display().to_string();
    let fds: Vec<String> = fs::read_dir(format!("/proc/{}/fd", bundle.pid()))
        .unwrap()
        .map(|entry| link(&entry.unwrap().file_name().into_string().unwrap()))
        .collect();
    assert!(
        fds.iter().all(|fd| fd == "/dev/null" || fd == "/" || fd.starts_with("socket:") || fd.starts_with("pipe:")),
        "{fds:?}"
    );
}

/// CVE-2022-4318, CVE-2024-3154: values with line ends, and annotations that other runtimes act on, change nothing.
#[test]
fn environment_and_annotations_are_data() {
    let home = "/x\nevil:x:0:0::/:/bin/sh";
    let annotations = json!({"org.systemd.property.ExecStartPost": "[['/bin/touch', ['/bin/touch', '/tmp/evil'], false]]",
        "run.oci.handler": "krun", "run.oci.keep_original_groups": "1", "io.kubernetes.cri.untrusted-workload": "true",
        "run.oci.mount_context_type": "x\ny"});
    let bundle = Bundle::new(json!({"annotations": annotations,
        "process": {"args": ["sh", "-c", "echo \"$HOME\"; cat /etc/passwd"], "env": ["PATH=/bin", format!("HOME={home}")]}}));
    let passwd = fs::read_to_string(bundle.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(bundle.run().ok(), format!("{home}\n{passwd}"));
}

/// CVE-2021-43784: a list of mounts longer than any 16-bit length.
#[test]
fn a_list_of_mounts_longer_than_64_kib_is_done_to_the_last() {
    let source = tempfile::tempdir().unwrap();
    let mut mounts = Bundle::new(json!({})).config()["mounts"].as_array().unwrap().clone();
    let name = "n".repeat(200);
    mounts.extend((0..400).map(|index| {
        json!({"destination": format!("/m/{name}{index}"), "type": "bind", "source": source.path(), "options": ["bind", "ro"]})
    }));
    assert!(serde_json::to_vec(&mounts).unwrap().len() > 100_000);
    let bundle =
        Bundle::new(json!({"mounts": mounts, "process": {"args": ["sh", "-c", "grep -c ' /m/' /proc/mounts"]}}));
    assert_eq!(bundle.run().ok(), "400\n");
}
