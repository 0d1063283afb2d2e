//! What an exec costs that can be counted: system calls, clones, programs run, page faults, threads and heap. One
//! process does execs on its main thread, as the shim does; another traces it and all that it bears.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::cgroup::{Cgroup, LeafPool};
use killick_container::{
    Container, CreateRequest, ExecRequest, Join, PidMode, Progress, Ptrace, Stdio, UserRequest, create, exec, seccomp,
};
use killick_sys::cgroup::Layout;
use killick_sys::pidfd::Exit;
use nix::sys::ptrace;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio as Streams};

/// performance.md §6: the whole exec, shim and child, until the program runs and until its exit is known.
const EXEC_CALLS_MAX: usize = 120;
/// A copied heap would cost the parent 60 and the child 40.
const EXEC_FAULTS_MAX: f64 = 30.0;
const HEAP_BYTES_MAX: u64 = 1 << 20;

const NAMES: [&str; 2] = ["an_exec_is_frugal", "an_exec_among_tracers_is_born_twice_and_runs_one_program"];
/// Tells a copy of this program that it is the one to be traced.
const ROLE: &str = "KILLICK_FRUGAL_ROLE";

fn main() {
    if let Some(role) = std::env::var_os(ROLE) {
        return be_traced(if role == "guarded" { Ptrace::Possible } else { Ptrace::Impossible });
    }
    // What a test harness would be asked: the test's list, or another test's name.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") {
        return;
    }
    let wanted = |name: &str| words.iter().all(|word| name.contains(word.as_str()));
    assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
    if wanted(NAMES[0]) {
        let count = trace("plain");
        println!("an exec: {count}");
        assert!(count.calls() <= EXEC_CALLS_MAX, "{count}");
        assert_eq!((count.births, count.programs), (1, 1), "{count}");
        println!("test {} ... ok", NAMES[0]);
    }
    if wanted(NAMES[1]) {
        // The second birth is the price of having nothing with the host's rights among tracers (design §4).
        let count = trace("guarded");
        println!("an exec among tracers: {count}");
        assert_eq!((count.births, count.programs), (2, 1), "{count}");
        println!("test {} ... ok", NAMES[1]);
    }
}

/// Execs in a container with the usual limits, capabilities and filter; the last one between two marks.
fn be_traced(ptrace: Ptrace) {
    let host = Host::new();
    let sandbox = host.sandbox();
    let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"];
    let mut spec = serde_json::to_value(spec(json!({}))).unwrap();
    spec["process"]["capabilities"] =
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    spec["process"]["noNewPrivileges"] = json!(true);
    spec["process"]["env"] = json!(["PATH=/bin", "HOME=/root"]);
    let spec: oci_spec::runtime::Spec = serde_json::from_value(spec).unwrap();
    let profile = seccomp::default_profile(killick_sys::caps::CapSet::EMPTY, true);
    let filter = seccomp::compile(&profile, &seccomp::Kernel::detect()).unwrap();
    let name = format!("killick-test-frugal-{}", std::process::id());
    let resources = serde_json::from_value(json!({"pids": {"limit": 100}})).unwrap();
    let cgroup = Cgroup::create(&Layout::detect().unwrap(), &name, &resources).unwrap();
    let request = CreateRequest {
        id: "test".into(),
        spec: &spec,
        rootfs: host.rootfs(),
        join: Join::sandbox(&sandbox, PidMode::Sandbox, ptrace),
        cgroup: Some(&cgroup),
        seccomp: Some(filter),
        stdio: Stdio::null().unwrap(),
        user: UserRequest::Ids,
        sources: Vec::new(),
    };
    let mut created = create(&host.facts, request).unwrap();
    assert_eq!(created.wait(soon()), Progress::AtGate);
    let container = start(created);
    let mut pool = cgroup.leaf_pool();

    let faults =
        || [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].map(|who| getrusage(who).unwrap().minor_page_faults());
    exec_once(&host, &container, &mut pool);
    let before = faults();
    for _ in 0..50 {
        exec_once(&host, &container, &mut pool);
    }
    let after = faults();
    // The program's own are among the child's.
    #[allow(clippy::disallowed_methods, reason = "the same program, without a container")]
    for _ in 0..50 {
        assert!(Command::new("/bin/busybox").arg("true").status().unwrap().success());
    }
    let own = (faults()[1] - after[1]) as f64 / 50.0;
    let per_exec = [(after[0] - before[0]) as f64 / 50.0, (after[1] - before[1]) as f64 / 50.0 - own];
    println!("page faults of parent and child: {per_exec:?}");
    if ptrace == Ptrace::Impossible {
        assert!(per_exec.iter().all(|faults| *faults < EXEC_FAULTS_MAX), "{per_exec:?}");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    assert!(status.lines().any(|line| line.split_whitespace().eq(["Threads:", "1"])), "{status}");
    let heap = heap_bytes();
    assert!(heap < HEAP_BYTES_MAX, "{heap} bytes of heap");

    // Here the tracer takes hold of us.
    println!("ready");
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    mark();
    exec_once(&host, &container, &mut pool);
    mark();

    pool.clear().unwrap();
    cgroup.kill_all(soon()).unwrap();
    container.process().wait_blocking().unwrap();
    cgroup.remove(soon()).unwrap();
    end_sandbox(sandbox);
    assert!(children().is_empty());
}

/// A call that nothing else here makes.
fn mark() {
    nix::unistd::getpgid(None).unwrap();
}

fn exec_once(host: &Host, container: &Container, pool: &mut LeafPool) {
    let leaf = pool.acquire().unwrap();
    let request = ExecRequest::new(args(&["/bin/true"]), Stdio::null().unwrap(), Some(leaf.attach()));
    let mut birth = exec(&host.facts, container, request).unwrap();
    assert_eq!(birth.wait(soon()), Progress::Running);
    assert_eq!(birth.into_process().unwrap().wait_blocking().unwrap(), Exit::Code(0));
    pool.release(leaf).unwrap();
}

fn heap_bytes() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let sizes = maps.lines().filter(|line| line.ends_with("[heap]")).map(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        u64::from_str_radix(end, 16).unwrap() - u64::from_str_radix(start, 16).unwrap()
    });
    sizes.sum()
}

#[derive(Default)]
struct Count {
    /// By number, of the parent and of each child until its execve.
    calls: BTreeMap<i64, usize>,
    births: usize,
    programs: usize,
}

impl Count {
    fn calls(&self) -> usize {
        self.calls.values().sum()
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (calls, births, programs) = (self.calls(), self.births, self.programs);
        write!(f, "{calls} calls, {births} clone(s), {programs} execve(s); by number: {:?}", self.calls)
    }
}

/// Runs a copy of this program and counts between its marks.
#[allow(clippy::disallowed_methods, clippy::zombie_processes, reason = "a process to trace, waited for by its number")]
fn trace(role: &str) -> Count {
    let mut traced = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, role)
        .stdin(Streams::piped())
        .stdout(Streams::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut output = traced.stdout.take().unwrap();
    while !said.ends_with(b"ready\n") {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "it ended: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    print!("{}", String::from_utf8_lossy(&said[..said.len() - "ready\n".len()]));
    let main = Pid::from_raw(traced.id() as i32);
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_TRACEEXEC
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(main, options).unwrap();
    ptrace::interrupt(main).unwrap();
    traced.stdin.take().unwrap().write_all(b"x").unwrap();

    let mark = libc::SYS_getpgid;
    let (mut count, mut marks) = (Count::default(), 0);
    // Whether the next stop of a process is a call's end; those that run their program are no longer counted.
    let mut inside: BTreeMap<Pid, bool> = BTreeMap::new();
    let mut done: Vec<Pid> = Vec::new();
    loop {
        let status = waitpid(None, Some(WaitPidFlag::__WALL)).unwrap();
        let (pid, signal) = match status {
            WaitStatus::PtraceSyscall(pid) => {
                let ends = inside.entry(pid).or_default();
                if !*ends {
                    let number = number_of(pid);
                    match number {
                        Some(number) if number == mark && pid == main => marks += 1,
                        Some(number) if marks == 1 && !done.contains(&pid) => {
                            *count.calls.entry(number).or_default() += 1
                        }
                        _ => {}
                    }
                }
                *ends = !*ends;
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, _, event) => {
                let is_birth =
                    [libc::PTRACE_EVENT_CLONE, libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK].contains(&event);
                if marks == 1 {
                    count.births += usize::from(is_birth);
                    if event == libc::PTRACE_EVENT_EXEC {
                        count.programs += 1;
                        done.push(pid);
                    }
                }
                (pid, None)
            }
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal).filter(|signal| *signal != Signal::SIGSTOP)),
            WaitStatus::Exited(pid, code) if pid == main => {
                assert_eq!(code, 0);
                break;
            }
            WaitStatus::Signaled(pid, signal, _) if pid == main => panic!("it was killed by {signal}"),
            _ => continue,
        };
        // One that was killed meanwhile has nothing to be told.
        let _ = ptrace::syscall(pid, signal);
    }
    assert_eq!(marks, 2);
    count
}

/// The call at whose entry a process has stopped (`number arguments…`). In a debug build Rust's library asks for the
/// flags of a descriptor before it closes it: that is not ours.
fn number_of(pid: Pid) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
    let mut words = text.split(' ');
    let number: i64 = words.next()?.parse().ok()?;
    let is_check = number == libc::SYS_fcntl && words.nth(1) == Some("0x1");
    (!is_check).then_some(number)
}
