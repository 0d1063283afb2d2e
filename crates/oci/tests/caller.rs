//! What killick-oci's caller does to it: kills it anywhere, calls it twice at once, hands it signals, limits, masks and
//! descriptors of its own. None of it reaches the container, and nothing is left.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, Output, until};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// killick-oci with what a shell script has set before it: descriptors, limits, signals.
fn from_shell(bundle: &Bundle, prelude: &str, words: &[&str]) -> Output {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{prelude}\nexec \"$@\""), "sh", common::PROGRAM, "--root"]);
    command.arg(bundle.states()).args(words).stdin(Stdio::null());
    common::output(command)
}

/// Processes whose command line names the container: the command, and what it has born so far.
fn named(id: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = numbers.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(id.len()).any(|window| window == id.as_bytes())
    })
    .collect()
}

/// Starts `create` under a tracer and kills it when it has made so many stops at system calls. False: it had ended.
#[allow(clippy::zombie_processes, reason = "reaped by its tracer, waitpid")]
fn create_until(bundle: &Bundle, stops: u32) -> bool {
    let path = bundle.path().to_str().unwrap().to_owned();
    let mut command = bundle.command(&["create", "-b", &path, &bundle.id]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: one call that only marks this process, between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    for _ in 0..stops {
        match waitpid(pid, None).unwrap() {
            WaitStatus::Stopped(_, signal) => {
                let pass = if signal == nix::sys::signal::SIGTRAP { None } else { Some(signal) };
                ptrace::syscall(pid, pass).unwrap();
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return false,
            _ => ptrace::syscall(pid, None).unwrap(),
        }
    }
    child.kill().unwrap();
    // The tracer hears of the stop that was on its way first.
    while !matches!(waitpid(pid, None), Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) | Err(_)) {}
    // Reaped above: it has no more to say.
    let _ = child.wait();
    true
}

/// Appendix A.3, 9. The stops are every entry to and exit from a system call; each is tried by `step`.
fn killed_anywhere(step: usize, change: Value) {
    let mut stops = 1;
    loop {
        let bundle = Bundle::new(change.clone());
        let killed = create_until(&bundle, stops);
        bundle.quiet(&["delete", "--force", &bundle.id]).ok();
        // A child that was born and knows nobody any more ends by itself.
        until("all of it has ended", || named(&bundle.id).is_empty());
        bundle.assert_gone();
        if !killed {
            break;
        }
        stops += step as u32;
    }
    assert!(stops > 100, "{stops} stops");
}

#[test]
fn a_create_that_is_killed_at_any_system_call_leaves_nothing_after_delete() {
    killed_anywhere(7, json!({}));
}

#[test]
fn a_create_with_hooks_that_is_killed_at_any_system_call_leaves_nothing_after_delete() {
    killed_anywhere(
        13,
        json!({"hooks": {"prestart": [{"path": "/bin/true"}], "createRuntime": [{"path": "/bin/true"}]}}),
    );
}

/// Appendix A.3, 10. A Rust program ignores SIGPIPE, and a shell's child inherits what the shell ignores.
#[test]
fn the_callers_signals_do_not_reach_the_container() {
    let prelude = "trap '' PIPE CHLD TERM HUP USR1 INT QUIT 40";
    let none = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n";
    let bundle = Bundle::new(json!({"process": {"args": ["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]}}));
    let run = ["run", "-b", bundle.path().to_str().unwrap(), &bundle.id];
    assert_eq!(from_shell(&bundle, prelude, &run).ok(), none);
    // With every signal blocked, too.
    let mut command = bundle.command(&run);
    // SAFETY: one call that only changes this process's mask, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let all = nix::sys::signal::SigSet::all();
            all.thread_block().map_err(Into::into)
        });
    }
    assert_eq!(common::output(command).ok(), none);

    let lives = Bundle::new(json!({}));
    lives.create();
    lives.start();
    let exec = ["exec", &lives.id, "grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    assert_eq!(from_shell(&lives, prelude, &exec).ok(), none);
}

/// Appendix A.3, 11.
#[test]
fn few_descriptors_and_holes_among_those_passed_on_are_no_trouble() {
    let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", "ulimit -Sn; ls /proc/self/fd"]}}));
    let path = bundle.path().to_str().unwrap();
    let run = |more: &[&str], prelude: &str| {
        let words: Vec<&str> = ["run"].iter().chain(more).copied().chain(["-b", path, &bundle.id]).collect();
        from_shell(&bundle, prelude, &words)
    };
    assert_eq!(run(&[], "ulimit -Sn 64").ok(), "64\n0\n1\n2\n3\n");
    // All up to the highest are open: they are passed at their places; 30 is beyond and is not.
    let open = "exec 3</dev/null 4</dev/null 5</dev/null 30</dev/null";
    assert_eq!(
        run(&["--preserve-fds", "3"], open).ok().lines().skip(1).collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4", "5", "6"]
    );
    // ls itself opens the directory at the first free number.
    let holes = run(&["--preserve-fds", "3"], "exec 3</dev/null 5</dev/null").ok();
    assert_eq!(holes.lines().skip(1).collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"]);
    let listen = "export LISTEN_PID=$$ LISTEN_FDS=3; exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null";
    assert_eq!(run(&[], listen).ok().lines().skip(1).collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5", "6"]);
}

/// Appendix A.3, 12.
#[test]
fn the_callers_umask_changes_no_mode_inside() {
    let volume = tempfile::tempdir().unwrap();
    fs::write(volume.path().join("file"), "").unwrap();
    let file = volume.path().join("file");
    let script =
        "umask; stat -c '%a %n' /dev/null /dev/full /new/dir /new/file /dev/pts/ptmx; touch /tmp/x; stat -c %a /tmp/x";
    let mut bundle_mounts = Bundle::new(json!({})).config()["mounts"].as_array().unwrap().clone();
    bundle_mounts.push(json!({"destination": "/new/dir", "type": "tmpfs", "source": "x"}));
    bundle_mounts.push(json!({"destination": "/new/file", "type": "bind", "source": file, "options": ["bind"]}));
    let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", script]}, "mounts": bundle_mounts}));
    let run = ["run", "-b", bundle.path().to_str().unwrap(), &bundle.id];
    let printed = from_shell(&bundle, "umask 077", &run).ok();
    let expected = "0022\n666 /dev/null\n666 /dev/full\n755 /new/dir\n644 /new/file\n666 /dev/pts/ptmx\n644\n";
    assert_eq!(printed, expected);
    // The mount points that were made in the image.
    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| fs::metadata(bundle.rootfs().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("new"), mode("new/dir"), mode("new/file")), (0o755, 0o755, 0o644));
}

/// Appendix A.3, 14.
#[test]
fn of_two_creates_of_one_id_exactly_one_wins() {
    for _ in 0..12 {
        let bundle = Bundle::new(json!({}));
        let path = bundle.path().to_str().unwrap();
        let created: Vec<Output> = std::thread::scope(|scope| {
            let both: Vec<_> =
                (0..3).map(|_| scope.spawn(|| bundle.quiet(&["create", "-b", path, &bundle.id]))).collect();
            both.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(created.iter().filter(|output| output.code == 0).count(), 1, "{created:?}");
        for lost in created.iter().filter(|output| output.code != 0) {
            assert!(lost.err.contains("container with given ID already exists"), "{lost:?}");
        }
        assert_eq!(bundle.status(), "created");
    }
}

#[test]
fn start_kill_and_delete_at_once_leave_one_outcome() {
    for round in 0..10 {
        let bundle = Bundle::new(json!({}));
        bundle.create();
        let results: Vec<Output> = std::thread::scope(|scope| {
            let bundle = &bundle;
            let words = ["start", "start", "kill", "delete --force", "delete"];
            let all: Vec<_> = words
                .into_iter()
                .map(|words| {
                    scope.spawn(move || {
                        let mut all: Vec<&str> = words.split(' ').chain([bundle.id.as_str()]).collect();
                        all.extend((words == "kill").then_some("KILL"));
                        bundle.quiet(&all)
                    })
                })
                .collect();
            all.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(results[..2].iter().filter(|output| output.code == 0).count() <= 1, "round {round}: {results:?}");
        bundle.quiet(&["delete", "--force", &bundle.id]).ok();
        bundle.assert_gone();
        until("nobody is left", || named(&bundle.id).is_empty());
    }
}
