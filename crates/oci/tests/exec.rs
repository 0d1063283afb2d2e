//! exec, terminals, descriptors: what a process in a container gets.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, PROGRAM, output, until};
use killick_sys::fd::receive_message;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

fn running() -> Bundle {
    let bundle = Bundle::new(json!({}));
    bundle.create();
    bundle.start();
    bundle
}

#[test]
fn flags_change_environment_directory_user_and_rights() {
    let bundle = running();
    let id = bundle.id.as_str();
    let sh = |flags: &[&str], script: &str| {
        let words: Vec<&str> = flags.iter().copied().chain([id, "sh", "-c", script]).collect();
        bundle.exec(&words).ok()
    };
    assert_eq!(sh(&[], "echo $HOME $$; pwd").split_once(' ').unwrap().0, "/root");
    assert_eq!(sh(&["-e", "A=1", "--env", "B=2"], "echo $A$B"), "12\n");
    assert_eq!(sh(&["--cwd", "/tmp"], "pwd"), "/tmp\n");
    assert_eq!(sh(&["-u", "101:102", "-g", "33"], "id -u; id -g; id -G; echo $HOME"), "101\n102\n102 33\n/srv\n");
    let caps = "grep -E 'CapEff|CapBnd' /proc/self/status";
    let before = u64::from_str_radix(sh(&[], caps).split_whitespace().nth(1).unwrap(), 16).unwrap();
    let after =
        u64::from_str_radix(sh(&["--cap", "CAP_NET_RAW"], caps).split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(after, before | 1 << 13);
    assert_eq!(sh(&[], "ls /proc/self/fd | wc -l").trim(), "4", "0, 1, 2 and the directory itself");
}

#[test]
fn ids_that_are_no_decimal_numbers_are_refused() {
    let bundle = running();
    for user in ["4294967295", "-1", "0x1", " 1", "1:x", "root"] {
        let failed = bundle.exec(&[&format!("--user={user}"), &bundle.id, "true"]);
        assert_eq!(failed.code, 255, "{failed:?}");
        assert!(failed.err.contains("invalid user or group id"), "{failed:?}");
    }
}

#[test]
fn exit_codes_are_the_programs_and_255_when_there_was_none() {
    let bundle = running();
    let id = bundle.id.as_str();
    assert_eq!(bundle.exec(&[id, "sh", "-c", "exit 42"]).code, 42);
    assert_eq!(bundle.exec(&[id, "sh", "-c", "kill -9 $$"]).code, 137);
    for (command, text) in [
        ("nothing", "exec: \"nothing\": executable file not found in $PATH"),
        ("/bin/nothing", "exec: \"/bin/nothing\": stat /bin/nothing: no such file or directory"),
        ("/etc/not-executable", "exec: \"/etc/not-executable\": permission denied"),
        ("/etc/no-interpreter", "exec /etc/no-interpreter: no such file or directory"),
        ("/bin", "exec: \"/bin\": is a directory"),
    ] {
        let failed = bundle.quiet(&["exec", id, command]);
        assert_eq!(failed.code, 255);
        assert!(failed.err.contains(text), "{failed:?}");
    }
}

#[test]
fn a_whole_process_is_taken_from_a_file_and_detached() {
    let bundle = running();
    let process = json!({
        "args": ["sh", "-c", "env > /tmp/env; id -u > /tmp/uid; sleep 1000000"], "cwd": "/tmp", "env": ["PATH=/bin", "ONLY=this"],
        "user": {"uid": 0, "gid": 0}, "capabilities": {"bounding": ["CAP_FLY"]}
    });
    let (file, pid_file) = (bundle.path().join("process.json"), bundle.path().join("pid"));
    fs::write(&file, process.to_string()).unwrap();
    let words = ["exec", "-d", "--pid-file", pid_file.to_str().unwrap(), "-p", file.to_str().unwrap(), &bundle.id];
    let done = bundle.quiet(&words);
    assert_eq!((done.code, done.err.as_str()), (0, "ignoring unknown or unavailable capabilities: [\"CAP_FLY\"]\n"));
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    until("it has told its environment", || bundle.rootfs().join("tmp/uid").exists());
    let env = fs::read_to_string(bundle.rootfs().join("tmp/env")).unwrap();
    let mut env: Vec<&str> =
        env.lines().filter(|line| !line.starts_with("SHLVL") && !line.starts_with("PWD")).collect();
    env.sort_unstable();
    assert_eq!(env, ["HOME=/root", "ONLY=this", "PATH=/bin"]);
    let pids: Vec<i32> = serde_json::from_str(&bundle.oci(&["ps", "-f", "json", &bundle.id]).ok()).unwrap();
    assert!(pids.contains(&pid), "{pids:?} has {pid}");
}

#[test]
fn a_container_that_waits_at_its_gate_takes_an_exec() {
    let bundle = Bundle::new(json!({}));
    bundle.create();
    assert_eq!(bundle.exec(&[&bundle.id, "hostname"]).ok(), "killick\n");
    assert_eq!(bundle.status(), "created");
}

#[test]
fn a_process_with_ptrace_around_execs_too() {
    let all = ["CAP_SYS_PTRACE", "CAP_KILL"];
    let bundle =
        Bundle::new(json!({"process": {"capabilities": {"bounding": all, "effective": all, "permitted": all}}}));
    bundle.create();
    bundle.start();
    let run = bundle.exec(&[&bundle.id, "sh", "-c", "grep CapEff /proc/self/status; exit 5"]);
    assert_eq!((run.code, run.out.as_str()), (5, "CapEff:\t0000000000080020\n"), "{run:?}");
}

/// The master that a command sends, and what it must be told by.
fn master(listener: &UnixListener) -> fs::File {
    let (stream, _) = listener.accept().unwrap();
    let message = receive_message(stream.as_fd(), 64).unwrap();
    assert_eq!(message.bytes, b"/dev/ptmx");
    fs::File::from(message.fds.into_iter().next().unwrap())
}

fn read_until(master: &mut fs::File, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut buffer = [0; 4096];
        match master.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
        }
    }
    assert!(text.contains(wanted), "{text:?}");
    text
}

#[test]
fn a_terminal_goes_over_the_console_socket_and_is_the_containers_own() {
    let bundle = Bundle::new(json!({"process": {
        "terminal": true, "consoleSize": {"height": 33, "width": 99},
        "args": ["sh", "-c", "tty; stty size; test -c /dev/console && echo console; read line; echo got $line"]}}));
    // Longer than a socket's name may be.
    let deep = bundle.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let listener = {
        let here = fs::File::open(&deep).unwrap();
        UnixListener::bind(format!("/proc/self/fd/{}/console", std::os::fd::AsRawFd::as_raw_fd(&here))).unwrap()
    };
    let socket = deep.join("console");
    let path = bundle.path().to_str().unwrap();
    bundle.quiet(&["create", "-b", path, "--console-socket", socket.to_str().unwrap(), &bundle.id]).ok();
    let mut console = master(&listener);
    bundle.start();
    let text = read_until(&mut console, "console");
    assert!(text.contains("/dev/pts/0") && text.contains("33 99"), "{text:?}");
    console.write_all(b"hello\n").unwrap();
    read_until(&mut console, "got hello");
    bundle.wait_for("stopped");
}

#[test]
fn an_exec_has_a_terminal_too() {
    let bundle = running();
    let socket = bundle.path().join("console");
    let listener = UnixListener::bind(&socket).unwrap();
    let words =
        ["exec", "-t", "-d", "--console-socket", socket.to_str().unwrap(), &bundle.id, "sh", "-c", "tty; echo done"];
    bundle.quiet(&words).ok();
    let text = read_until(&mut master(&listener), "done");
    assert!(text.contains("/dev/pts/"), "{text:?}");
}

#[test]
fn a_terminal_needs_somewhere_to_go() {
    let bundle = Bundle::new(json!({"process": {"terminal": true}}));
    let path = bundle.path().to_str().unwrap();
    bundle.quiet(&["create", "-b", path, &bundle.id]).fails("cannot allocate tty if killick-oci will detach");
    let bundle = Bundle::new(json!({}));
    let path = bundle.path().to_str().unwrap();
    bundle
        .quiet(&["create", "-b", path, "--console-socket", "/nowhere", &bundle.id])
        .fails("cannot use console socket if killick-oci will not detach or allocate tty");
    bundle.assert_gone();
}

/// Runs the container by a shell that opens descriptors first, each on a file of that content.
fn run_with(bundle: &Bundle, open: &[(i32, &str)], before: &str, flags: &str) -> common::Output {
    let (states, path, id) = (bundle.states(), bundle.path(), &bundle.id);
    let mut line = String::new();
    for (number, text) in open {
        let file = path.join(format!("fd-{number}"));
        fs::write(&file, text).unwrap();
        line += &format!("exec {number}<{}; ", file.display());
    }
    line += &format!("{before} exec {PROGRAM} --root {} run -b {} {flags} {id}", states.display(), path.display());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &line]).stdin(Stdio::null());
    output(command)
}

#[test]
fn preserved_descriptors_stay_at_their_places_and_all_others_are_closed() {
    let bundle = Bundle::shell("cat <&3; cat <&4; ls /proc/self/fd | wc -l");
    let four = [(3, "three\n"), (4, "four\n"), (5, "five\n"), (9, "nine\n")];
    assert_eq!(run_with(&bundle, &four, "", "--preserve-fds 2").ok(), "three\nfour\n6\n", "0 to 4, and the directory");
    bundle.assert_gone();
    let bundle = Bundle::shell("ls /proc/self/fd | wc -l");
    assert_eq!(run_with(&bundle, &four, "", "").ok(), "4\n");
    // What is not open stays closed: nothing of ours is in its place.
    let bundle =
        Bundle::shell("cat <&5; for n in 0 1 2 3 4 5 6 7 8 9; do test -e /proc/$$/fd/$n && echo -n $n,; done; echo");
    let holes = run_with(&bundle, &[(5, "five\n"), (8, "eight\n")], "ulimit -Sn 64;", "--preserve-fds=100");
    assert_eq!(holes.ok(), "five\n0,1,2,5,8,\n");
    let failed = run_with(&bundle, &[], "", "--preserve-fds=x");
    assert_eq!(failed.code, 1, "{failed:?}");
}

#[test]
fn listening_sockets_are_passed_on_by_listen_fds() {
    let bundle = Bundle::shell("cat <&3; echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; cat <&6");
    let open = [(3, "listening\n"), (4, "second\n"), (5, "third\n"), (6, "preserved\n")];
    let before = "export LISTEN_FDS=3 LISTEN_PID=$$ LISTEN_FDNAMES=web:a:b;";
    let passed = run_with(&bundle, &open, before, "--preserve-fds 1");
    assert_eq!(passed.ok(), "listening\n3 1 web:a:b\npreserved\n");
    let bundle = Bundle::shell("echo [$LISTEN_FDS]");
    assert_eq!(run_with(&bundle, &[], "export LISTEN_FDS=1 LISTEN_PID=1;", "").ok(), "[]\n", "another process's");
}

#[test]
fn an_exec_gets_preserved_descriptors_too() {
    let bundle = running();
    let file = bundle.path().join("hello");
    fs::write(&file, "hello world\n").unwrap();
    let (states, id) = (bundle.states(), &bundle.id);
    let exec = format!("exec --preserve-fds=1 {id} cat /proc/self/fd/3");
    let line = format!("exec 3<{}; exec {PROGRAM} --root {} {exec}", file.display(), states.display());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &line]).stdin(Stdio::null());
    assert_eq!(output(command).ok(), "hello world\n");
}

#[test]
fn ready_is_handed_on_with_the_pid_and_a_barrier() {
    // busybox cannot send to a socket of datagrams: the container's part is played from outside, by its own directory.
    let bundle = Bundle::shell("test -S $NOTIFY_SOCKET && touch /tmp/has-socket; sleep 1000000");
    let caller = bundle.path().join("caller");
    let listener = std::os::unix::net::UnixDatagram::bind(&caller).unwrap();
    listener.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let path = bundle.path().to_str().unwrap();
    let notifying = |words: &[&str]| {
        let mut command = bundle.command(words);
        command.env("NOTIFY_SOCKET", &caller).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    assert!(notifying(&["create", "-b", path, &bundle.id]).wait().unwrap().success());
    let mut start = notifying(&["start", &bundle.id]);
    let pid = bundle.pid();
    let inside = format!("/proc/{pid}/root/run/notify/notify.sock");
    until("the container sees its socket", || bundle.rootfs().join("tmp/has-socket").exists());
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    client.send_to(b"STATUS=soon", &inside).unwrap();
    client.send_to(b"READY=1\nMAINPID=1", &inside).unwrap();
    let mut received = Vec::new();
    while received.len() < 3 {
        received.push(receive_message(listener.as_fd(), 100).unwrap());
    }
    let texts: Vec<String> = received.iter().map(|m| String::from_utf8_lossy(&m.bytes).into_owned()).collect();
    assert_eq!(texts, ["READY=1".to_owned(), format!("MAINPID={pid}"), "BARRIER=1".to_owned()]);
    assert_eq!(received[2].fds.len(), 1);
    assert!(start.try_wait().unwrap().is_none(), "it waits until its words are read");
    drop(received);
    assert!(start.wait().unwrap().success());
}

#[test]
fn a_profile_binds_the_first_process_and_its_execs() {
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]});
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new(json!({
            "process": {"args": ["sh", "-c", "mkdir /tmp/a; sleep 1000000"], "noNewPrivileges": no_new_privileges},
            "linux": {"seccomp": seccomp}}));
        bundle.create();
        bundle.start();
        let failed = bundle.exec(&[&bundle.id, "mkdir", "/tmp/b"]);
        assert_eq!(failed.code, 1);
        assert!(failed.err.contains("File descriptor in bad state"), "errno 77: {failed:?}");
        assert!(!bundle.rootfs().join("tmp/a").exists());
    }
}

#[test]
fn policy_io_priority_cpus_and_personality_are_set() {
    let bundle = Bundle::new(json!({
        "process": {"args": ["sleep", "1000000"], "scheduler": {"policy": "SCHED_BATCH", "nice": 4},
            "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}, "execCPUAffinity": {"initial": "0-1", "final": "0"}},
        "linux": {"personality": {"domain": "LINUX32"}}}));
    bundle.create();
    bundle.start();
    let pid = bundle.pid();
    let stat = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<String> = text.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect();
        // Fields 19 (nice) and 41 (policy: BATCH is 3), counted from 3.
        (fields[16].clone(), fields[38].clone())
    };
    assert_eq!(stat(&pid.to_string()), ("4".to_owned(), "3".to_owned()));
    let personality = |pid: &str| fs::read_to_string(format!("/proc/{pid}/personality")).unwrap().trim().to_owned();
    assert_eq!(personality(&pid.to_string()), "00000008");
    let class = Command::new("/bin/busybox").args(["ionice", "-p", &pid.to_string()]).output().unwrap();
    assert!(String::from_utf8_lossy(&class.stdout).contains("idle"), "{class:?}");
    let told =
        bundle.exec(&[&bundle.id, "sh", "-c", "grep Cpus_allowed_list /proc/self/status; cat /proc/self/personality"]);
    assert_eq!(told.ok(), "Cpus_allowed_list:\t0\n00000008\n");
}

#[test]
fn a_tmpfs_begins_with_what_lies_below_it() {
    let bundle = Bundle::new(json!({
        "process": {"args": ["sh", "-c", "cd /etc; cat deep/er/file; readlink link; stat -c '%a %u' deep passwd; touch new && echo writable"]}}));
    let mut config = bundle.config();
    let options = ["nosuid", "nodev", "tmpcopyup"];
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": options}));
    bundle.configure(&config);
    let etc = bundle.rootfs().join("etc");
    fs::create_dir_all(etc.join("deep/er")).unwrap();
    fs::write(etc.join("deep/er/file"), "content\n").unwrap();
    fs::set_permissions(etc.join("deep"), std::os::unix::fs::PermissionsExt::from_mode(0o2755)).unwrap();
    std::os::unix::fs::chown(etc.join("deep"), Some(101), Some(102)).unwrap();
    // A way out for a careless copy.
    std::os::unix::fs::symlink("/proc/self/root/etc/shadow", etc.join("link")).unwrap();
    assert_eq!(bundle.run().ok(), "content\n/proc/self/root/etc/shadow\n2755 101\n644 0\nwritable\n");
    assert!(!etc.join("new").exists());
}

#[test]
fn processes_have_a_session_keyring_of_their_own() {
    let bundle = Bundle::shell("cat /proc/keys | grep _ses; true");
    let mut config = bundle.config();
    config["linux"]["maskedPaths"] = json!([]);
    bundle.configure(&config);
    let keys = bundle.run().ok();
    assert!(keys.contains(&format!("_ses.{}", bundle.id)), "{keys:?}");
}

#[test]
fn pidfds_go_over_their_socket() {
    if common::lacks(killick_sys::facts::Facts::detect().pidfd, "pidfds (5.3)") {
        let bundle = Bundle::new(json!({}));
        let path = bundle.path().to_str().unwrap();
        let refused = bundle.quiet(&["create", "-b", path, "--pidfd-socket", "/nowhere", &bundle.id]);
        return refused.fails("--pidfd-socket: this kernel has no pidfds (5.3)");
    }
    let bundle = Bundle::new(json!({}));
    let socket = bundle.path().join("pidfd");
    let listener = UnixListener::bind(&socket).unwrap();
    let pid_of = |word: &[u8]| {
        let (stream, _) = listener.accept().unwrap();
        let message = receive_message(stream.as_fd(), 64).unwrap();
        assert_eq!(message.bytes, word);
        let number = std::os::fd::AsRawFd::as_raw_fd(&message.fds[0]);
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        info.lines().find_map(|line| line.strip_prefix("Pid:")).unwrap().trim().parse::<i32>().unwrap()
    };
    let (path, at) = (bundle.path().to_str().unwrap(), socket.to_str().unwrap());
    bundle.quiet(&["create", "-b", path, "--pidfd-socket", at, &bundle.id]).ok();
    assert_eq!(pid_of(b"standard"), bundle.pid());
    bundle.start();
    let file = bundle.path().join("pid");
    let words =
        ["exec", "-d", "--pid-file", file.to_str().unwrap(), "--pidfd-socket", at, &bundle.id, "sleep", "1000000"];
    bundle.quiet(&words).ok();
    assert_eq!(pid_of(b"setns").to_string(), fs::read_to_string(&file).unwrap());
}

#[test]
fn run_and_exec_in_the_foreground_lend_their_terminal() {
    // A person's terminal, and what was shown on it.
    let on_a_terminal = |mut command: Command| {
        let pty = nix::pty::openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        drop((pty.slave, command));
        let (mut master, mut shown) = (fs::File::from(pty.master), Vec::new());
        // EIO: the last user of the other end has gone.
        let _ = master.read_to_end(&mut shown);
        let code = child.wait().unwrap().code().unwrap_or(-1);
        common::Output { code, out: String::from_utf8_lossy(&shown).into_owned(), err: String::new() }
    };
    let bundle = Bundle::new(json!({"process": {"terminal": true, "args": ["sh", "-c", "tty; exit 3"]}}));
    let path = bundle.path().to_str().unwrap();
    let run = on_a_terminal(bundle.command(&["run", "-b", path, &bundle.id]));
    assert!(run.code == 3 && run.out.contains("/dev/pts/0"), "{run:?}");
    bundle.assert_gone();
    let bundle = running();
    let exec = on_a_terminal(bundle.command(&["exec", "-t", &bundle.id, "sh", "-c", "tty; exit 4"]));
    assert!(exec.code == 4 && exec.out.contains("/dev/pts/"), "{exec:?}");
}

/// CapInh, CapPrm, CapEff, CapBnd and CapAmb of a process that is run with these flags.
fn capabilities(bundle: &Bundle, flags: &[&str]) -> [u64; 5] {
    let words: Vec<&str> = flags.iter().copied().chain([bundle.id.as_str(), "cat", "/proc/self/status"]).collect();
    let text = bundle.exec(&words).ok();
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    })
}

#[test]
fn a_capability_that_is_added_is_ambient_only_where_it_is_inheritable() {
    if common::lacks(killick_sys::caps::has_ambient(), "ambient capabilities (4.3)") {
        return;
    }
    let none = json!([]);
    let bundle = Bundle::new(json!({"process": {"capabilities":
        {"bounding": none, "effective": none, "inheritable": none, "permitted": none, "ambient": none}}}));
    bundle.create();
    bundle.start();
    assert_eq!(capabilities(&bundle, &[]), [0; 5]);
    let two = 1 << 5 | 1 << 29;
    assert_eq!(capabilities(&bundle, &["--cap=CAP_KILL", "--cap=CAP_AUDIT_WRITE"]), [0, two, two, two, 0]);
    let bundle = Bundle::new(json!({"process": {"capabilities": {
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SYSLOG"], "effective": none, "inheritable": ["CAP_CHOWN"],
        "permitted": ["CAP_KILL", "CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}}}));
    bundle.create();
    bundle.start();
    let bounding = 0x4_0000_0021;
    // Ambient capabilities keep the kernel from giving root all that is bounding (capabilities(7)).
    assert_eq!(capabilities(&bundle, &[])[3..], [bounding, 1]);
    let [inheritable, permitted, effective, bound, ambient] = capabilities(&bundle, &["--cap=CAP_SYSLOG"]);
    assert_eq!((inheritable, bound, ambient), (1, bounding, 1));
    assert!(permitted & effective & 1 << 34 != 0, "{permitted:x} {effective:x}");
}

#[test]
fn an_exec_goes_where_it_is_sent_below_the_containers_cgroup() {
    let bundle = running();
    let id = bundle.id.as_str();
    for wrong in ["..", "notexistspath", "cpu:notexistspath", "waaaaat:/", "a:b:c"] {
        let failed = bundle.exec(&["--cgroup", wrong, id, "true"]);
        assert_eq!(failed.code, 255, "{wrong}: {failed:?}");
    }
    bundle.exec(&["--cgroup", "..", id, "true"]).fails("exec failed: .. is not a sub cgroup path");
    bundle.exec(&["--cgroup", "waaaaat:/", id, "true"]).fails("unknown controller waaaaat in SubCgroupPaths");
    assert_eq!(bundle.exec(&["--cgroup=/", id, "echo", "x"]).ok(), "x\n");
    let dirs = bundle.cgroup_dirs();
    for dir in &dirs {
        fs::create_dir(dir.join("below")).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(dir.join(file)) {
                // v1: a new cpuset has none; v2 has what the parent has.
                let _ = fs::write(dir.join("below").join(file), value.trim());
            }
        }
    }
    let is_below = |text: &str| text.lines().filter(|line| line.ends_with("/below")).count();
    let everywhere = bundle.exec(&["--cgroup", "below", id, "cat", "/proc/self/cgroup"]).ok();
    assert!(is_below(&everywhere) >= dirs.len().min(8), "{everywhere}");
    let v1 = fs::read_to_string("/proc/self/cgroup").unwrap().contains(":pids:");
    if v1 {
        let one = bundle.exec(&["--cgroup", "pids:below", "--cgroup", "cpu:/", id, "cat", "/proc/self/cgroup"]).ok();
        assert_eq!(is_below(&one), 1, "{one}");
        let both = bundle.exec(&["--cgroup", "pids:below", "--cgroup", "below", id, "true"]);
        both.fails("missing <controller>: prefix");
    }
    until("the execs have left", || {
        dirs.iter().all(|dir| fs::remove_dir(dir.join("below")).is_ok() || !dir.join("below").exists())
    });
}

#[test]
fn an_exec_into_a_paused_container_may_wait_for_its_resume() {
    let bundle = running();
    bundle.oci(&["pause", &bundle.id]).ok();
    bundle.exec(&[&bundle.id, "true"]).fails("cannot exec in a paused container (use --ignore-paused to override)");
    let mut command = bundle.command(&["exec", "--ignore-paused", &bundle.id, "echo", "let in"]);
    let mut waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it is among the container's", || {
        let pids: Vec<i32> = serde_json::from_str(&bundle.oci(&["ps", "-f", "json", &bundle.id]).ok()).unwrap();
        pids.len() == 2
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(waiting.try_wait().unwrap().is_none(), "it does nothing before");
    assert_eq!(bundle.status(), "paused");
    bundle.oci(&["resume", &bundle.id]).ok();
    let told = waiting.wait_with_output().unwrap();
    assert_eq!((told.status.code(), String::from_utf8_lossy(&told.stdout).as_ref()), (Some(0), "let in\n"), "{told:?}");
}

#[test]
fn with_debug_an_exec_tells_its_first_cpus() {
    let bundle = Bundle::new(json!({"process": {"execCPUAffinity": {"initial": "0"}}}));
    bundle.create();
    bundle.start();
    let told = bundle.oci(&["--debug", "exec", &bundle.id, "true"]);
    assert!(told.code == 0 && told.err.contains("affinity: 0x1"), "{told:?}");
    bundle.exec(&[&bundle.id, "true"]).ok();
}

#[test]
fn a_root_that_is_moved_is_as_one_that_is_pivoted() {
    // Nothing of the host's procfs is below: its processes are the container's own.
    let bundle = Bundle::shell("ls / | grep -c host-only; ls /proc | grep -c '^[0-9]'; true");
    let path = bundle.path().to_str().unwrap();
    let run = bundle.oci(&["run", "--no-pivot", "-b", path, &bundle.id]);
    let lines: Vec<&str> = run.out.lines().collect();
    assert_eq!((run.code, lines[0], run.err.as_str()), (0, "0", ""), "{run:?}");
    assert!(lines[1].parse::<u32>().unwrap() < 8, "{run:?}");
    bundle.assert_gone();
    let mut config = bundle.config();
    config["linux"]["rootfsPropagation"] = json!("private");
    bundle.configure(&config);
    bundle
        .quiet(&["create", "-b", path, "--no-pivot", &bundle.id])
        .fails("rootfsPropagation of [r]private is not safe without pivot_root");
}
