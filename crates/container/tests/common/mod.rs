//! A sandbox and containers made of busybox, for tests. Each test runs in a child of its own with one thread, as the
//! shim is: births and namespaces are a process's business, and a test harness has many threads.
#![allow(dead_code, clippy::unwrap_used)]

use killick_container::sandbox::{self, SandboxRequest};
use killick_container::{
    Container, CreateRequest, Created, ExecRequest, Join, LaunchError, PidMode, Progress, Ptrace, Rootfs, Sandbox,
    Stdio, UserRequest, create, exec,
};
use killick_sys::facts::Facts;
use killick_sys::pidfd::{Exit, PidFd};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Runs the test in a child with one thread and a mount namespace of its own; fails if it fails, or leaves processes or
/// mounts.
pub fn isolated(test: impl FnOnce()) {
    isolated_for(Duration::from_secs(150), test);
}

pub fn isolated_for(limit: Duration, test: impl FnOnce()) {
    assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
    let worker = killick_sys::spawn::worker(limit, || {
        // What a test forgets falls to it, so that it can be seen.
        nix::sys::prctl::set_child_subreaper(true).expect("subreaper");
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        killick_sys::mount::change(Path::new("/"), libc::MS_REC | libc::MS_PRIVATE).expect("private mounts");
        std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        let before = mounts();
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test)) {
            end_children();
            std::panic::resume_unwind(panic);
        }
        let left = children();
        assert!(left.is_empty(), "processes left: {left:?}");
        assert_eq!(mounts_since(&before), Vec::<String>::new(), "mounts left");
        Ok(())
    })
    .unwrap();
    worker.wait().unwrap();
}

/// Of a test that failed: sandboxes do not end by themselves.
fn end_children() {
    while let Some(pid) = children().first().and_then(|pid| pid.parse().ok()) {
        let process = PidFd::open(pid).unwrap();
        end(&process);
    }
}

/// What is mounted now and was not. (What others unmount, by removing a directory, goes here too.)
pub fn mounts_since(before: &str) -> Vec<String> {
    mounts().lines().filter(|line| !before.lines().any(|other| other == *line)).map(str::to_owned).collect()
}

pub fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Living and dead children of this process.
pub fn children() -> Vec<String> {
    let pid = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/self/task/{pid}/children")).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

pub fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

pub struct Host {
    pub facts: Facts,
    pub dir: tempfile::TempDir,
    count: std::cell::Cell<u32>,
}

impl Host {
    pub fn new() -> Self {
        Self::with(Facts::detect())
    }

    pub fn with(facts: Facts) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("killick-test-{}-", std::process::id())).tempdir().unwrap();
        let layer = dir.path().join("layer");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
            std::fs::create_dir_all(layer.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("busybox-static is installed");
        for applet in [
            "sh", "cat", "sleep", "id", "ls", "true", "false", "mount", "stat", "echo", "ps", "hostname", "tr", "env",
            "touch", "readlink", "grep", "pwd", "wc", "ipcs", "test", "tty", "mkdir", "head", "umask", "kill",
        ] {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(applet)).unwrap();
        }
        std::fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/sh\n")
            .unwrap();
        std::fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:102:\nlog:x:33:web\n").unwrap();
        std::fs::write(layer.join("etc/not-executable"), "x").unwrap();
        Self { facts, dir, count: std::cell::Cell::new(0) }
    }

    pub fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    /// A new directory of its own.
    pub fn fresh(&self, name: &str) -> PathBuf {
        self.count.set(self.count.get() + 1);
        let path = self.dir.path().join(format!("{name}{}", self.count.get()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn rootfs(&self) -> Rootfs {
        Rootfs::layers(vec![self.layer()], &self.fresh("container"), false)
    }

    pub fn sandbox_request<'a>(&self, pause: &'a [u8]) -> SandboxRequest<'a> {
        SandboxRequest {
            pause,
            args: ["sleep", "1000000"].map(String::from).to_vec(),
            hostname: "pod-host".into(),
            host_network: false,
            host_ipc: false,
            host_pid: false,
            joined: Vec::new(),
            oom_score_adj: killick_container::sandbox::PAUSE_OOM_SCORE_ADJ,
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())],
            shm_bytes: 1 << 20,
            cgroup: None,
            seccomp: None,
            dir: self.fresh("sandbox"),
        }
    }

    /// busybox's sleep stands in for pause: it sleeps, and that is all that is asked.
    pub fn sandbox(&self) -> Sandbox {
        let pause = std::fs::read("/bin/busybox").unwrap();
        let mut birth = sandbox::create(&self.facts, self.sandbox_request(&pause)).unwrap();
        assert_eq!(birth.wait(soon()), Progress::Running);
        birth.into_sandbox().unwrap()
    }

    pub fn create_with(
        &self,
        sandbox: &Sandbox,
        pid: PidMode,
        ptrace: Ptrace,
        spec: &Spec,
        stdio: Stdio,
    ) -> Result<Created, LaunchError> {
        create(
            &self.facts,
            CreateRequest {
                id: "test".into(),
                spec,
                rootfs: self.rootfs(),
                join: Join::sandbox(sandbox, pid, ptrace),
                cgroup: None,
                seccomp: None,
                stdio,
                user: UserRequest::Ids,
                sources: Vec::new(),
            },
        )
    }

    pub fn created(&self, sandbox: &Sandbox, spec: &Spec, stdio: Stdio) -> Result<Created, LaunchError> {
        self.create_with(sandbox, PidMode::Sandbox, Ptrace::Impossible, spec, stdio)
    }

    /// Runs a container to its end; what it printed, and its exit.
    pub fn run(&self, sandbox: &Sandbox, spec: &Spec) -> Result<(String, Exit), LaunchError> {
        let (stdio, output) = pipes();
        run_created(self.created(sandbox, spec, stdio)?, output)
    }

    /// A shell script in a container with the usual configuration.
    pub fn shell(&self, sandbox: &Sandbox, script: &str) -> String {
        let (output, exit) = self.run(sandbox, &spec(json!({"process": {"args": ["sh", "-c", script]}}))).unwrap();
        assert_eq!(exit, Exit::Code(0), "{output}");
        output
    }

    pub fn started(&self, sandbox: &Sandbox, spec: &Spec) -> Container {
        start(self.created(sandbox, spec, Stdio::null().unwrap()).unwrap())
    }

    pub fn exec(
        &self,
        container: &Container,
        request: impl FnOnce(Stdio) -> ExecRequest<'static>,
    ) -> Result<(String, Exit), LaunchError> {
        let (stdio, output) = pipes();
        let mut exec = exec(&self.facts, container, request(stdio))?;
        match exec.wait(soon()) {
            Progress::Running => {}
            Progress::Failed(error) => return Err(error),
            other => panic!("{other:?}"),
        }
        let process = exec.into_process()?;
        let text = read_all(output);
        Ok((text, process.wait_blocking().unwrap()))
    }
}

pub fn args(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub fn run_created(mut created: Created, output: OwnedFd) -> Result<(String, Exit), LaunchError> {
    match created.wait(soon()) {
        Progress::AtGate => {}
        Progress::Failed(error) => return Err(error),
        other => panic!("{other:?}"),
    }
    created.start()?;
    match created.wait(soon()) {
        Progress::Running => {}
        Progress::Failed(error) => return Err(error),
        other => panic!("{other:?}"),
    }
    let container = created.into_container()?;
    let text = read_all(output);
    Ok((text, container.process().wait_blocking().unwrap()))
}

pub fn start(mut created: Created) -> Container {
    assert_eq!(created.wait(soon()), Progress::AtGate);
    created.start().unwrap();
    assert_eq!(created.wait(soon()), Progress::Running);
    created.into_container().unwrap()
}

pub fn pipes() -> (Stdio, OwnedFd) {
    let (read, write) = killick_sys::fd::pipe().unwrap();
    let stdin = File::open("/dev/null").unwrap().into();
    (Stdio::Streams { stdin, stdout: write.try_clone().unwrap(), stderr: write }, read)
}

pub fn read_all(fd: OwnedFd) -> String {
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn end(process: &PidFd) {
    process.send_signal(Signal::SIGKILL).unwrap();
    process.wait_blocking().unwrap();
}

/// Ends a sandbox, and with its PID namespace every process in it.
pub fn end_sandbox(sandbox: Sandbox) {
    end(sandbox.process());
    sandbox.unmount().unwrap();
}

/// The configuration that containerd's CRI gives by default, changed by `changes` (objects merge, the rest replaces).
pub fn spec(changes: Value) -> Spec {
    let mut value = json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sleep", "1000000"],
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": false,
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"],
                "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"],
                "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"],
            },
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        ],
        "linux": {
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                            "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    merge(&mut value, changes);
    serde_json::from_value(value).unwrap()
}

fn merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(into.entry(key).or_insert(Value::Null), change);
            }
        }
        (into, changes) => *into = changes,
    }
}

/// The usual mounts and more.
pub fn with_mounts(more: Value) -> Value {
    let base = serde_json::to_value(spec(json!({}))).unwrap();
    let mut mounts = base["mounts"].as_array().unwrap().clone();
    mounts.extend(more.as_array().unwrap().clone());
    Value::Array(mounts)
}

pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
