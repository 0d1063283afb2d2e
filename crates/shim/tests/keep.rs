//! keep and pause, the two roles of the embedded binary, against the real kernel. The shim is played by a script.
#![allow(clippy::disallowed_methods, reason = "tests start processes")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PAUSE: &str = env!("KILLICK_PAUSE");

struct Keep {
    process: Child,
    dir: tempfile::TempDir,
}

impl Drop for Keep {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for pid in self.lines("pids").iter().filter_map(|line| line.parse::<i32>().ok()) {
            if fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("play-shim")) {
                signal(pid, 9);
            }
        }
    }
}

impl Keep {
    /// Starts keep with a shim that runs `script` under python3: `keep` and `n` (how often it was started) are at hand.
    fn start(script: &str) -> Keep {
        let dir = tempfile::tempdir().expect("temporary directory");
        let shim = dir.path().join("play-shim");
        fs::write(&shim, format!("{PRELUDE}\n{script}\n")).expect("write the script");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("chmod");
        let mut command = keep_command(dir.path(), &shim);
        Keep { process: command.spawn().expect("spawn keep"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Waits until file `name` has `count` lines.
    fn wait_lines(&self, name: &str, count: usize) -> Vec<String> {
        wait_for(&format!("{count} lines in {name}"), || Some(self.lines(name)).filter(|lines| lines.len() >= count))
    }
}

/// keep with its lock as fd 4 and its ready pipe as fd 5, through a shell that only renumbers: std cannot.
fn keep_command(dir: &Path, shim: &Path) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("exec \"$1\" keep \"$2\" \"$3\" 4<>\"$2/lock\" 5<>\"$2/ready\"").arg("sh");
    shell.arg(PAUSE).arg(dir).arg(shim).stdin(Stdio::null());
    shell
}

fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn signal(pid: i32, number: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::try_from(number).ok());
}

const PRELUDE: &str = r#"#!/usr/bin/python3
import os, sys, socket, struct, time, signal, array
here = sys.argv[3]
assert sys.argv[1:3] == ["pod", "run"], sys.argv
def note(name, text):
    with open(os.path.join(here, name), "a") as f: f.write(str(text) + "\n")
note("pids", os.getpid())
n = len(open(os.path.join(here, "pids")).readlines())
keep = socket.socket(fileno=3)
def ask(word, key=0, fd=None):
    control = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    keep.sendmsg([struct.pack("<IIQ", word, 0, key)], control)
    data, control, flags, _ = keep.recvmsg(16, 64)
    word, zero, key = struct.unpack("<IIQ", data)
    fds = [struct.unpack("<i", c[2])[0] for c in control]
    return word, key, (fds[0] if fds else None)
HELLO, PUT, DROP, GET = 1, 2, 3, 4
"#;

#[test]
fn a_shim_that_dies_is_started_again_after_0_1_and_2_seconds() {
    let keep = Keep::start("ask(HELLO)\nnote('times', time.monotonic())\nos.kill(os.getpid(), 9)");
    let times: Vec<f64> = keep.wait_lines("times", 4).iter().map(|line| line.parse().expect("a time")).collect();
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] < 0.9, "the first restart is at once: {gaps:?}");
    assert!((0.0..1.9).contains(&gaps[1]), "then about one second: {gaps:?}");
    assert!((1.0..3.5).contains(&gaps[2]), "then about two: {gaps:?}");
}

#[test]
fn keep_ends_when_the_pod_is_gone() {
    let mut keep = Keep::start("ask(HELLO)\nif n == 1: sys.exit(3)\nsys.exit(0)");
    assert_eq!(keep.process.wait().expect("wait").code(), Some(0));
    assert_eq!(keep.lines("pids").len(), 2, "only status 0 says that the pod is gone");
}

#[test]
fn keep_ends_when_the_first_shim_never_ran() {
    let mut keep = Keep::start("sys.exit(7)");
    assert_eq!(keep.process.wait().expect("wait").code(), Some(1));
    assert_eq!(keep.lines("pids").len(), 1);
}

#[test]
fn log_pipes_outlive_the_shim_with_what_is_in_them() {
    let keep = Keep::start(
        r#"
ask(HELLO)
if n == 1:
    r, w = os.pipe(); assert ask(PUT, 70, r)[0] == 0
    r2, w2 = os.pipe(); assert ask(PUT, 71, r2)[0] == 0
    r3, w3 = os.pipe(); assert ask(PUT, 72, r3)[0] == 0
    assert ask(DROP, 70)[0] == 0
    os.write(w2, b"seventy-one"); os.write(w3, b"old"); 
    r4, w4 = os.pipe(); assert ask(PUT, 72, r4)[0] == 0; os.write(w4, b"new")
    assert ask(PUT, 9)[0] == 1, "put without an fd is refused"
    os.kill(os.getpid(), 9)
i = 0
while True:
    word, key, fd = ask(GET, i)
    if word != 0: break
    note("found", "%d %s" % (key, os.read(fd, 100).decode())); i += 1
note("found", "end")
sys.exit(0)
"#,
    );
    let mut found = keep.wait_lines("found", 3);
    found.sort();
    assert_eq!(found, ["71 seventy-one", "72 new", "end"]);
}

#[test]
fn what_falls_to_keep_is_reaped_and_its_status_written_down() {
    let keep = Keep::start(
        r#"
ask(HELLO)
if n == 1:
    for code in (0, 7, "term"):
        pid = os.fork()
        if pid == 0:
            os.read(keep.fileno(), 0)
            while os.getppid() == int(open(os.path.join(here, "pids")).readline()): time.sleep(0.01)
            with open("/proc/self/comm", "w") as f: f.write("a) b (c")
            if code == "term": os.kill(os.getpid(), 15)
            os._exit(code)
        start = open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[19]
        note("expected", "%d %s %d" % (pid, start, 15 if code == "term" else code << 8))
    os.kill(os.getpid(), 9)
time.sleep(100)
"#,
    );
    let mut exits = keep.wait_lines("exits", 3);
    let mut expected = keep.lines("expected");
    exits.sort();
    expected.sort();
    assert_eq!(exits, expected);
    for line in expected {
        let pid = line.split(' ').next().expect("a pid").to_owned();
        wait_for("the reaping", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }
}

#[test]
fn the_lock_is_held_as_long_as_keep_or_its_shim_lives() {
    let keep = Keep::start("ask(HELLO)\nos.fstat(4)\nnote('cloexec', os.get_inheritable(4))\ntime.sleep(100)");
    keep.wait_lines("cloexec", 1);
    let held = fs::read_link(format!("/proc/{}/fd/4", keep.process.id())).expect("keep's lock");
    assert_eq!(held, keep.path("lock"));
    assert!(
        fs::read_link(format!("/proc/{}/fd/5", keep.process.id())).is_err(),
        "keep holds no end of the pipe on which the starter waits"
    );
}

#[test]
fn a_shim_that_sends_nonsense_is_cut_off_and_kept() {
    let keep = Keep::start(
        r#"
ask(HELLO)
if n == 1:
    keep.send(b"nonsense")
    note("cut", len(keep.recv(16)))
    os.kill(os.getpid(), 9)
note("again", 1)
time.sleep(100)
"#,
    );
    assert_eq!(keep.wait_lines("cut", 1), ["0"]);
    keep.wait_lines("again", 1);
}

#[test]
fn pause_and_keep_need_at_most_24_kib_each() {
    let keep = Keep::start("ask(HELLO)\nnote('up', 1)\ntime.sleep(100)");
    keep.wait_lines("up", 1);
    let mut pause = Command::new(PAUSE).arg("pause").spawn().expect("spawn pause");
    wait_for("pause to sleep", || sleeps(pause.id()).then_some(()));
    let (keeps, pauses) = (private_dirty_kib(keep.process.id()), private_dirty_kib(pause.id()));
    let _ = pause.kill();
    let _ = pause.wait();
    assert!(keeps <= 24 && pauses <= 24, "keep {keeps} KiB, pause {pauses} KiB private dirty");
}

fn sleeps(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") S "))
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "pause")
}

/// Anonymous pages and written pages; file pages that wait for write-back after a build are not the process's doing.
fn private_dirty_kib(pid: u32) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    let line = smaps.lines().find(|line| line.starts_with("Anonymous:")).expect("Anonymous");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("kB")
}

/// pause as PID 1 of a PID namespace of its own, the way a pod has it, attacked from inside by a root process.
#[test]
fn no_signal_from_inside_ends_pause() {
    let attack = r#"
import os, ctypes, struct, time, sys
libc = ctypes.CDLL(None, use_errno=True)
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.close(w)
    os.read(r, 1)
    time.sleep(0.2)
    for number in range(1, 65):
        for target in (1,):
            try: os.kill(target, number)
            except OSError: pass
            for code in (0, -1, -6, 0x80, 5):
                for forged_pid in (0, 1, 2):
                    info = struct.pack("<iiiiII", number, 0, code, 0, forged_pid, 0) + bytes(104)
                    libc.syscall(129, target, number, info)
                    libc.syscall(297, target, target, number, info)
            libc.syscall(234, 1, 1, number)
    time.sleep(1000)
os.execv(sys.argv[1], ["pause", "pause"])
"#;
    let mut unshare = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "python3", "-c", attack, PAUSE])
        .spawn()
        .expect("unshare of util-linux");
    let children = format!("/proc/{}/task/{}/children", unshare.id(), unshare.id());
    let pause: u32 = wait_for("pause", || {
        let pid = fs::read_to_string(&children).ok()?.split_whitespace().next()?.parse().ok()?;
        sleeps(pid).then_some(pid)
    });
    // The end of the pipe tells the attacker that pause was executed; it sleeps for long when it has sent everything.
    let sent = Instant::now();
    let attacker: u32 = wait_for("the attacker", || {
        let list = fs::read_to_string(format!("/proc/{pause}/task/{pause}/children")).ok()?;
        let pid: u32 = list.split_whitespace().next()?.parse().ok()?;
        let syscall = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
        // clock_nanosleep, for the second time
        (syscall.starts_with("230 ") && sent.elapsed() > Duration::from_secs(2)).then_some(pid)
    });
    assert!(
        sleeps(pause),
        "pause still sleeps after 64 signals, plain and forged, by kill, tgkill and rt_sigqueueinfo"
    );
    // SIGCHLD is ignored: the kernel reaps what falls to pause.
    signal(attacker as i32, 9);
    wait_for("the attacker's reaping", || (!Path::new(&format!("/proc/{attacker}")).exists()).then_some(()));
    assert!(sleeps(pause));
    signal(pause as i32, 9);
    // unshare 2.38 reports its child's death by a signal with an error of its own.
    assert!(!unshare.wait().expect("wait").success(), "SIGKILL from outside ends it");
}
