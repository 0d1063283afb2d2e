//! killick-oci below conmon (Debian's), as podman and CRI-O run it: create, exec, terminals, attach, logs, exit files.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde_json::{Value, json};

use crate::world::World;
use crate::{Needs, Test, test};

pub fn tests() -> Vec<Test> {
    let host = |name, run| test(name, run).on(Needs::Host);
    vec![
        host("under_conmon_a_container_is_logged_and_its_exit_is_written_down", run_and_log),
        host("under_conmon_a_create_that_fails_says_why", create_fails),
        host("under_conmon_an_exec_has_its_own_exit", exec),
        host("under_conmon_stdin_and_attach_reach_the_container", attach),
        host("under_conmon_a_terminal_is_the_attached_ones", terminal),
        host("under_conmon_an_oom_is_noticed", oom),
        host("under_conmon_a_container_ends_after_its_timeout", timeout),
    ]
}

/// A bundle and conmon's directories. What is left of it goes when it is dropped.
struct Pod {
    oci: PathBuf,
    dir: PathBuf,
    id: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);
const LONGEST: Duration = Duration::from_secs(30);

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + LONGEST;
    loop {
        if let Some(found) = found() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(format!("not in time: {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Pod {
    fn new(world: &World, script: &str, change: impl FnOnce(&mut Value)) -> Result<Pod, String> {
        let id = format!("conmon-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let oci = world.killick.with_file_name("killick-oci");
        let pod = Pod { oci, dir: world.directory.join(&id), id };
        let bin = pod.dir.join("bundle/rootfs/bin");
        for dir in [bin.clone(), pod.dir.join("exits"), pod.dir.join("socks"), pod.dir.join("persist")] {
            fs::create_dir_all(dir).map_err(text)?;
        }
        fs::copy("/bin/busybox", bin.join("busybox")).map_err(text)?;
        for applet in ["sh", "cat", "sleep", "echo", "tty", "tail", "true", "head"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).map_err(text)?;
        }
        pod.oci(&["spec", "--bundle", &pod.path("bundle")])?;
        let file = pod.dir.join("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).map_err(text)?).map_err(text)?;
        config["process"]["args"] = json!(["sh", "-c", script]);
        config["process"]["terminal"] = json!(false);
        config["process"]["rlimits"] = json!([]);
        config["root"]["readonly"] = json!(false);
        config["linux"]["cgroupsPath"] = json!(format!("/{}", pod.id));
        change(&mut config);
        fs::write(&file, config.to_string()).map_err(text)?;
        Ok(pod)
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn oci(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.oci);
        let done = command.args(["--root", &self.path("states")]).args(words).stdin(Stdio::null()).output();
        let done = done.map_err(text)?;
        match done.status.success() {
            true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
            false => Err(format!("killick-oci {words:?}: {}", String::from_utf8_lossy(&done.stderr))),
        }
    }

    /// conmon with podman's arguments; its words for its caller go into the file `sync`.
    fn conmon(&self, unit: &str, more: &[&str]) -> Result<(), String> {
        let oci = self.oci.display().to_string();
        let sync = self.path(&format!("sync-{unit}"));
        let (log, states) = (format!("k8s-file:{}", self.path("log")), self.path("states"));
        let (bundle, pid, own) = (self.path("bundle"), self.path(&format!("pid-{unit}")), self.path("conmon.pid"));
        let (exits, socks, persist) = (self.path("exits"), self.path("socks"), self.path("persist"));
        let words = [
            "--api-version",
            "1",
            "-c",
            &self.id,
            "-u",
            unit,
            "-n",
            &self.id,
            "-r",
            &oci,
            "-b",
            &bundle,
            "-p",
            &pid,
            "-P",
            &own,
            "-l",
            &log,
            "--exit-dir",
            &exits,
            "--socket-dir-path",
            &socks,
            "--persist-dir",
            &persist,
            "--full-attach",
            "--runtime-arg",
            "--root",
            "--runtime-arg",
            &states,
            "--runtime-arg",
            "--log-format=json",
        ];
        let mut command = Command::new("sh");
        command.args(["-c", "s=$1; shift; exec conmon \"$@\" 3>>\"$s\"", "conmon", &sync]).args(words).args(more);
        command.env("_OCI_SYNCPIPE", "3").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().map_err(|error| format!("conmon: {error}"))?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("conmon: {status}; {}", fs::read_to_string(&sync).unwrap_or_default())),
        }
    }

    /// What conmon told its caller first.
    fn told(&self, unit: &str) -> Result<Value, String> {
        let file = self.path(&format!("sync-{unit}"));
        until("conmon's first word", || {
            let text = fs::read_to_string(&file).ok()?;
            serde_json::from_str(text.lines().next()?).ok()
        })
    }

    fn create(&self, more: &[&str]) -> Result<i64, String> {
        self.conmon(&self.id, more)?;
        let told = self.told(&self.id)?;
        told["data"].as_i64().filter(|pid| *pid > 0).ok_or(format!("conmon said {told}"))
    }

    fn start(&self) -> Result<(), String> {
        self.oci(&["start", &self.id]).map(drop)
    }

    /// The exit code that conmon writes down.
    fn exit(&self, unit: &str) -> Result<String, String> {
        let file = self.dir.join("exits").join(unit);
        until(&format!("the exit file of {unit}"), || fs::read_to_string(&file).ok().filter(|text| !text.is_empty()))
    }

    /// `stream tag text` of each line of the log.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().filter_map(|line| line.split_once(' ').map(|(_, rest)| rest.to_owned())).collect()
    }

    /// The attach socket: packets, each with the number of its stream first.
    fn attach(&self) -> Result<OwnedFd, String> {
        let here = fs::File::open(self.dir.join("bundle")).map_err(text)?;
        // A socket's name has 107 bytes at most.
        let name = format!("/proc/self/fd/{}/attach", here.as_raw_fd());
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(text)?;
        let address = UnixAddr::new(Path::new(&name)).map_err(text)?;
        connect(socket.as_raw_fd(), &address)
            .map_err(|errno| format!("connect({}/attach): {errno}", self.path("bundle")))?;
        Ok(socket)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.oci(&["delete", "--force", &self.id]);
        // conmon ends once its container has.
        let pid = fs::read_to_string(self.path("conmon.pid")).unwrap_or_default();
        let _ = until("conmon ends", || (!Path::new(&format!("/proc/{}/exe", pid.trim())).exists()).then_some(()));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

fn run_and_log(world: &World) -> Result<(), String> {
    let pod = Pod::new(world, "echo out; echo err >&2; echo -n half; exit 7", |_| {})?;
    let pid = pod.create(&[])?;
    same("the pid file", fs::read_to_string(pod.path(&format!("pid-{}", pod.id))).map_err(text)?, pid.to_string())?;
    let state: Value = serde_json::from_str(&pod.oci(&["state", &pod.id])?).map_err(text)?;
    same("the state", (state["status"].as_str(), state["pid"].as_i64()), (Some("created"), Some(pid)))?;
    pod.start()?;
    same("the exit file", pod.exit(&pod.id)?.as_str(), "7")?;
    let mut log = pod.log();
    log.sort();
    same("the log", log, ["stderr F err", "stdout F out", "stdout P half"].map(str::to_owned).to_vec())?;
    pod.oci(&["delete", &pod.id]).map(drop)
}

fn create_fails(world: &World) -> Result<(), String> {
    let pod = Pod::new(world, "", |config| config["process"]["args"] = json!(["nothing"]))?;
    let _ = pod.conmon(&pod.id, &["--sync"]);
    let told = pod.told(&pod.id)?.to_string();
    let words = "executable file not found in $PATH";
    if told.contains(words) { Ok(()) } else { Err(format!("conmon said {told}, without {words:?}")) }
}

fn exec(world: &World) -> Result<(), String> {
    let pod = Pod::new(world, "sleep 1000000", |_| {})?;
    pod.create(&["--no-new-keyring"])?;
    pod.start()?;
    let process = json!({"args": ["sh", "-c", "echo from the exec; exit 5"], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}});
    let spec = pod.path("process.json");
    fs::write(&spec, process.to_string()).map_err(text)?;
    pod.conmon("added", &["--exec", "--exec-process-spec", &spec, "--runtime-opt", "--preserve-fds=0"])?;
    // The pid first, then the exit code.
    let told = until("its exit code", || {
        let text = fs::read_to_string(pod.path("sync-added")).ok()?;
        serde_json::from_str::<Value>(text.lines().nth(1)?).ok()
    })?;
    same("its exit code", told["data"].as_i64(), Some(5))?;
    // Named by the container too: podman gives each exec a directory of its own.
    same("its exit file", pod.exit(&pod.id)?.as_str(), "5")?;
    fs::remove_file(pod.dir.join("exits").join(&pod.id)).map_err(text)?;
    until("its line in the log", || pod.log().contains(&"stdout F from the exec".to_owned()).then_some(()))?;
    let process = json!({"args": ["/nothing"], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}});
    fs::write(&spec, process.to_string()).map_err(text)?;
    let _ = pod.conmon("missing", &["--exec", "--sync", "--exec-process-spec", &spec]);
    let told = pod.told("missing")?.to_string();
    if !told.contains("no such file or directory") {
        return Err(format!("conmon said {told}"));
    }
    pod.oci(&["kill", &pod.id, "KILL"])?;
    same("the exit file", pod.exit(&pod.id)?.as_str(), "137")
}

fn attach(world: &World) -> Result<(), String> {
    let pod = Pod::new(world, "while read line; do echo got $line; done; echo end of input", |_| {})?;
    pod.create(&["--stdin"])?;
    pod.start()?;
    let socket = pod.attach()?;
    nix::unistd::write(&socket, b"one\n").map_err(text)?;
    let mut buffer = [0; 1024];
    let length = nix::unistd::read(&socket, &mut buffer).map_err(text)?;
    same("a packet of stdout (2)", &buffer[..length], &b"\x02got one\n"[..])?;
    // The only writer goes: the container reads the end of its input.
    drop(socket);
    same("the exit file", pod.exit(&pod.id)?.as_str(), "0")?;
    same("the log", pod.log(), ["stdout F got one", "stdout F end of input"].map(str::to_owned).to_vec())
}

fn terminal(world: &World) -> Result<(), String> {
    let pod = Pod::new(world, "tty; read line; echo got $line; exit 3", |config| {
        config["process"]["terminal"] = json!(true);
    })?;
    pod.create(&["--terminal", "--stdin"])?;
    let socket = pod.attach()?;
    pod.start()?;
    nix::unistd::write(&socket, b"typed\n").map_err(text)?;
    same("the exit file", pod.exit(&pod.id)?.as_str(), "3")?;
    let log = pod.log().join("\n");
    for wanted in ["/dev/pts/0", "got typed"] {
        if !log.contains(wanted) {
            return Err(format!("the log has no {wanted:?}: {log}"));
        }
    }
    Ok(())
}

fn oom(world: &World) -> Result<(), String> {
    // busybox's tail keeps a line without an end in memory.
    let pod = Pod::new(world, "exec busybox tail /dev/zero", |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 20 << 20, "swap": 20 << 20});
    })?;
    pod.create(&[])?;
    pod.start()?;
    same("the exit file", pod.exit(&pod.id)?.as_str(), "137")?;
    until("the file \"oom\"", || pod.dir.join("persist/oom").exists().then_some(()))
}

fn timeout(world: &World) -> Result<(), String> {
    let pod = Pod::new(world, "sleep 1000000", |_| {})?;
    pod.create(&["--timeout", "1"])?;
    pod.start()?;
    pod.exit(&pod.id).map(drop)
}
