//! Seccomp with somebody who answers: the listener, the words that go with it, and what hangs on both.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests run commands, and an agent beside them"
)]

mod common;

use common::{Bundle, until};
use killick_sys::fd::receive_message;
use serde_json::{Value, json};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Answers the calls of every process whose listener it gets: mkdir with ENOMEDIUM, anything else by letting it happen.
struct Agent {
    path: PathBuf,
    said: Arc<Mutex<Vec<Value>>>,
    answered: Arc<Mutex<Vec<i32>>>,
}

/// `struct seccomp_notif`
#[repr(C)]
#[derive(Default)]
struct Asked {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const RECV: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const CONTINUE: u32 = 1;

fn answer_all(listener: &OwnedFd, answered: &Mutex<Vec<i32>>) {
    loop {
        let mut asked = Asked::default();
        // SAFETY: the kernel writes a struct seccomp_notif.
        if unsafe { libc::ioctl(listener.as_raw_fd(), RECV as libc::Ioctl, &mut asked) } != 0 {
            // Interrupted: the process was killed. Otherwise nobody is under the filter any more.
            match nix::errno::Errno::last() {
                nix::errno::Errno::EINTR => continue,
                _ => return,
            }
        }
        answered.lock().unwrap().push(asked.number);
        let is_mkdir = i64::from(asked.number) == libc::SYS_mkdir;
        let (error, flags) = if is_mkdir { (-libc::ENOMEDIUM, 0) } else { (0, CONTINUE) };
        let answer = Answer { id: asked.id, value: 0, error, flags };
        // SAFETY: the kernel reads a struct seccomp_notif_resp.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND as libc::Ioctl, &answer) };
    }
}

impl Agent {
    fn new(dir: &Path) -> Self {
        let path = dir.join("agent.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let agent = Agent { path, said: Arc::default(), answered: Arc::default() };
        let (said, answered) = (Arc::clone(&agent.said), Arc::clone(&agent.answered));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = socket.accept() {
                let message = receive_message(stream.as_fd(), 1 << 16).unwrap();
                said.lock().unwrap().push(serde_json::from_slice(&message.bytes).unwrap());
                let listener = message.fds.into_iter().next().unwrap();
                let answered = Arc::clone(&answered);
                std::thread::spawn(move || answer_all(&listener, &answered));
            }
        });
        agent
    }

    fn said(&self) -> Vec<Value> {
        self.said.lock().unwrap().clone()
    }

    fn has_answered(&self, number: libc::c_long) -> bool {
        self.answered.lock().unwrap().iter().any(|answered| libc::c_long::from(*answered) == number)
    }
}

fn notify(names: &[&str], more: Value) -> Value {
    let mut profile =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}]});
    common::merge(&mut profile, more);
    profile
}

/// A bundle whose profile asks an agent about `names`.
fn asking(script: &str, names: &[&str], change: Value) -> (Bundle, Agent) {
    let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", script]}}));
    let agent = Agent::new(bundle.path());
    let mut config = bundle.config();
    let profile = notify(names, json!({"listenerPath": agent.path, "listenerMetadata": "of the test"}));
    common::merge(&mut config, json!({"linux": {"seccomp": profile}, "annotations": {"a": "b"}}));
    common::merge(&mut config, change);
    bundle.configure(&config);
    (bundle, agent)
}

const SCRIPT: &str = "mkdir /tmp/made; echo $?; test ! -e /tmp/made";

#[test]
fn calls_are_answered_by_the_process_behind_the_listener() {
    if common::lacks_notify() {
        return;
    }
    for no_new_privileges in [true, false] {
        let change = json!({"process": {"noNewPrivileges": no_new_privileges}});
        let (bundle, agent) = asking(SCRIPT, &["mkdir", "chmod"], change);
        let run = bundle.run();
        assert_eq!((run.code, run.out.as_str()), (0, "1\n"), "{run:?}");
        assert!(run.err.contains("No medium found"), "{run:?}");
        let said = agent.said();
        let pid = said[0]["pid"].as_i64().unwrap();
        assert_eq!(
            said,
            [json!({
                "ociVersion": "1.3.0", "fds": ["seccompFd"], "pid": pid, "metadata": "of the test",
                "state": {"ociVersion": "1.3.0", "id": bundle.id, "status": "creating", "pid": pid,
                    "bundle": bundle.path(), "annotations": {"a": "b"}},
            })]
        );
    }
}

/// Everything that the child still does itself may be asked about, too: the answer comes, because the listener was
/// fetched without its help.
#[test]
fn the_childs_own_last_calls_may_be_asked_about() {
    if common::lacks_notify() {
        return;
    }
    let names = [
        "sendmsg",
        "recvmsg",
        "read",
        "sendto",
        "recvfrom",
        "accept4",
        "setresuid",
        "capset",
        "execve",
        "close",
        "poll",
    ];
    for no_new_privileges in [true, false] {
        let change = json!({"process": {"noNewPrivileges": no_new_privileges}});
        let (bundle, agent) = asking("echo done", &names, change);
        assert_eq!(bundle.run().ok(), "done\n");
        for call in [libc::SYS_recvmsg, libc::SYS_execve, libc::SYS_accept4] {
            assert!(agent.has_answered(call), "call {call}");
        }
        assert_eq!(agent.has_answered(libc::SYS_setresuid), !no_new_privileges);
    }
}

#[test]
fn an_added_process_has_a_listener_of_its_own() {
    if common::lacks_notify() {
        return;
    }
    for capabilities in [json!([]), json!(["CAP_SYS_PTRACE"])] {
        let change = json!({"process": {"capabilities": {"bounding": capabilities}, "args": ["sleep", "1000000"]}});
        let (bundle, agent) = asking("", &["mkdir"], change);
        bundle.create();
        bundle.start();
        let run = bundle.exec(&[&bundle.id, "sh", "-c", SCRIPT]);
        assert_eq!((run.code, run.out.as_str()), (0, "1\n"), "{run:?}");
        let said = agent.said();
        assert_eq!(said.len(), 2);
        assert_eq!(said[1]["state"]["status"], json!("running"));
        assert_eq!(said[1]["state"]["pid"], said[0]["pid"]);
        assert_ne!(said[1]["pid"], said[0]["pid"]);
    }
}

/// runc's order: the filter is loaded before startContainer hooks.
#[test]
fn start_container_hooks_are_under_the_filter() {
    if common::lacks_notify() {
        return;
    }
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "mkdir /tmp/hook; echo $? > /tmp/answer"]});
    let (bundle, _agent) = asking("cat /tmp/answer", &["mkdir"], json!({"hooks": {"startContainer": [hook]}}));
    let run = bundle.run();
    assert_eq!((run.code, run.out.as_str()), (0, "1\n"), "{run:?}");
}

#[test]
fn without_anybody_to_answer_nothing_is_made() {
    if common::lacks_notify() {
        return;
    }
    let bundle = Bundle::new(json!({}));
    let path = bundle.path().to_str().unwrap();
    let mut config = bundle.config();
    let nobody = bundle.path().join("nobody.sock");
    for (profile, words) in [
        (notify(&["mkdir"], json!({"listenerPath": nobody})), "nobody.sock"),
        (notify(&["mkdir"], json!({})), "linux.seccomp.listenerPath: is not set, and SCMP_ACT_NOTIFY needs it"),
        (notify(&["write"], json!({"listenerPath": nobody})), "SCMP_ACT_NOTIFY cannot be used for the write syscall"),
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}),
            "linux.seccomp.listenerMetadata \"x\": without a listenerPath",
        ),
    ] {
        config["linux"]["seccomp"] = profile;
        bundle.configure(&config);
        let failed = bundle.quiet(&["create", "-b", path, &bundle.id]);
        assert_eq!((failed.code, failed.err.lines().count()), (1, 1), "{failed:?}");
        failed.fails(words);
        bundle.assert_gone();
    }
}

/// Nobody is asked, so nobody needs to be there.
#[test]
fn a_listener_path_without_such_calls_is_ignored() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such.sock"});
    let bundle = Bundle::new(json!({"process": {"args": ["echo", "ran"]}, "linux": {"seccomp": profile}}));
    assert_eq!(bundle.run().ok(), "ran\n");
}

#[test]
fn a_profile_that_says_nothing_is_no_filter() {
    let words = json!({"process": {"args": ["grep", "Seccomp:", "/proc/self/status"]}});
    for profile in
        [json!({}), json!({"defaultAction": ""}), json!({"defaultAction": "", "architectures": ["SCMP_ARCH_X86_64"]})]
    {
        let bundle = Bundle::new(words.clone());
        let mut config = bundle.config();
        config["linux"]["seccomp"] = profile;
        bundle.configure(&config);
        // Where the tests have one themselves it is inherited, as everything.
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let own = own.lines().find(|line| line.starts_with("Seccomp:")).unwrap();
        assert_eq!(bundle.run().ok(), format!("{own}\n"));
    }
}

/// Each action on a call that a shell's program makes, seen from its exit.
#[test]
fn every_action_does_what_it_says() {
    let logged = |out: &str| out.contains("made");
    for (action, more, code, words) in [
        ("SCMP_ACT_ALLOW", json!({}), 0, "made"),
        ("SCMP_ACT_LOG", json!({}), 0, "made"),
        ("SCMP_ACT_ERRNO", json!({}), 1, "Operation not permitted"),
        ("SCMP_ACT_ERRNO", json!({"errnoRet": libc::EXDEV}), 1, "Invalid cross-device link"),
        // Without a tracer a traced call is ENOSYS.
        ("SCMP_ACT_TRACE", json!({"errnoRet": 7}), 1, "Function not implemented"),
        ("SCMP_ACT_KILL", json!({}), 128 + libc::SIGSYS, ""),
        ("SCMP_ACT_KILL_THREAD", json!({}), 128 + libc::SIGSYS, ""),
        ("SCMP_ACT_KILL_PROCESS", json!({}), 128 + libc::SIGSYS, ""),
        ("SCMP_ACT_TRAP", json!({}), 128 + libc::SIGSYS, ""),
    ] {
        let mut rule = json!({"names": ["mkdir"], "action": action});
        common::merge(&mut rule, more);
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [rule,
            {"names": ["mkdir"], "action": "SCMP_ACT_ALLOW"}]});
        // An allow list would need every call of busybox: the default is what mkdir is not.
        let profile = json!({"defaultAction": if action == "SCMP_ACT_ALLOW" { "SCMP_ACT_LOG" } else { "SCMP_ACT_ALLOW" },
            "syscalls": [profile["syscalls"][0]]});
        let script = "mkdir /tmp/made; code=$?; test -d /tmp/made && echo made; exit $code";
        let bundle = Bundle::new(json!({"process": {"args": ["sh", "-c", script]}, "linux": {"seccomp": profile}}));
        let run = bundle.run();
        assert_eq!(run.code, code, "{action}: {run:?}");
        assert!(run.out.contains(words) || run.err.contains(words), "{action}: {run:?}");
        assert_eq!(logged(&run.out), code == 0, "{action}: {run:?}");
    }
}

#[test]
fn a_profile_that_is_too_long_says_so() {
    let rules: Vec<Value> = (0..3000)
        .map(|value| {
            json!({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}]})
        })
        .collect();
    let bundle = Bundle::new(json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}}}));
    let failed = bundle.quiet(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    failed.fails("instructions; the kernel takes 4096");
    bundle.assert_gone();
}

/// A filter that somebody changed on disk is never loaded: it is compiled again.
#[test]
fn a_cached_filter_that_was_tampered_with_is_compiled_again() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EXDEV}]});
    let change = json!({"process": {"args": ["mkdir", "/tmp/made"]}, "linux": {"seccomp": profile}});
    let bundle = Bundle::new(change);
    let refused = |what: &str| {
        let run = bundle.run();
        assert!(run.code == 1 && run.err.contains("Invalid cross-device link"), "{what}: {run:?}");
    };
    refused("compiled");
    let cache = bundle.states().join(".seccomp");
    until("the filter is kept", || fs::read_dir(&cache).unwrap().count() == 1);
    let file = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&file).unwrap();
    refused("from the cache");
    // Every ERRNO becomes ALLOW, as a poisoner would have it.
    let errno = (0x0005_0000 | libc::EXDEV as u32).to_le_bytes();
    let at = good.windows(4).position(|word| word == errno).unwrap();
    let mut poisoned = good.clone();
    poisoned[at..at + 4].copy_from_slice(&0x7fff_0000u32.to_le_bytes());
    fs::write(&file, &poisoned).unwrap();
    refused("poisoned");
    assert_eq!(fs::read(&file).unwrap(), good);
    // Another profile's file under this one's name.
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    refused("cut");
}
