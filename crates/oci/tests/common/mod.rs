//! Real bundles with a busybox root, and killick-oci as a command. Each bundle has its own state root and cgroup, and
//! looks at its end for what is left of either.
#![allow(dead_code, clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_killick-oci");

/// Whether these tests live on a kernel (or an imitated one) that has no such thing; the reason is printed.
pub fn lacks(has: bool, what: &str) -> bool {
    if !has {
        println!("not here: this kernel has no {what}");
    }
    !has
}

/// `SCMP_ACT_NOTIFY`
pub fn lacks_notify() -> bool {
    lacks(
        killick_sys::seccomp::flag_is_supported(killick_sys::seccomp::FLAG_NEW_LISTENER),
        "seccomp notification (5.0)",
    )
}

/// What a command left: exit code, standard output, standard error.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Output {
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.warnings().as_str()), (0, ""), "stdout: {}", self.out);
        self.out
    }

    /// Standard error, but for what a kernel without ambient capabilities (before 4.3) says each time.
    fn warnings(&self) -> String {
        let expected = |line: &&str| {
            !killick_sys::caps::has_ambient() && line.contains("ambient capabilities") && line.ends_with("refused")
        };
        self.err.lines().filter(|line| !expected(line)).map(|line| format!("{line}\n")).collect()
    }

    #[track_caller]
    pub fn fails(self, text: &str) {
        assert_ne!(self.code, 0, "{self:?}");
        assert!(self.err.contains(text), "wanted {text:?} in {self:?}");
    }
}

pub struct Bundle {
    dir: tempfile::TempDir,
    pub id: String,
    pub cgroup: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

impl Bundle {
    /// runc's default configuration without a terminal, changed by `change`.
    pub fn new(change: Value) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
        let name = format!("oci-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        for made in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "hooks"] {
            fs::create_dir_all(rootfs.join(made)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        for applet in [
            "sh", "cat", "sleep", "id", "ls", "true", "false", "mount", "echo", "hostname", "env", "tty", "pwd",
            "touch", "kill", "mkdir", "stat", "grep", "readlink", "umask", "test", "stty", "wc", "chmod", "head",
            "tail",
        ] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/sh\n")
            .unwrap();
        fs::write(rootfs.join("etc/not-executable"), "x").unwrap();
        fs::write(rootfs.join("etc/no-interpreter"), "#!/no/such\n").unwrap();
        fs::set_permissions(rootfs.join("etc/no-interpreter"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let bundle = Bundle { dir, id: name.clone(), cgroup: format!("/{name}") };
        let made = bundle.command(&["spec", "--bundle"]).arg(bundle.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut config: Value = serde_json::from_slice(&fs::read(bundle.path().join("config.json")).unwrap()).unwrap();
        merge(
            &mut config,
            json!({
                "process": {"terminal": false, "args": ["sleep", "1000000"], "rlimits": []},
                "root": {"readonly": false},
                "linux": {"cgroupsPath": bundle.cgroup},
            }),
        );
        merge(&mut config, change);
        bundle.configure(&config);
        bundle
    }

    pub fn shell(script: &str) -> Self {
        Self::new(json!({"process": {"args": ["sh", "-c", script]}}))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub fn states(&self) -> PathBuf {
        self.path().join("states")
    }

    pub fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join("config.json")).unwrap()).unwrap()
    }

    pub fn configure(&self, config: &Value) {
        fs::write(self.path().join("config.json"), config.to_string()).unwrap();
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--root").arg(self.states()).args(words).stdin(Stdio::null());
        command
    }

    pub fn oci(&self, words: &[&str]) -> Output {
        output(self.command(words))
    }

    /// As `oci`, with the container's streams on /dev/null: a pipe would stay open as long as it lives. Errors and
    /// warnings come from the log.
    pub fn quiet(&self, words: &[&str]) -> Output {
        let log = self.path().join(format!("log-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut command = Command::new(PROGRAM);
        command.arg("--root").arg(self.states()).arg("--log-format=json").arg("--log").arg(&log).args(words);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        let lines = fs::read_to_string(&log).unwrap_or_default();
        let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let err = records.map(|record| format!("{}\n", record["msg"].as_str().unwrap())).collect();
        Output { code: status.code().unwrap_or(-1), out: String::new(), err }
    }

    #[track_caller]
    pub fn create(&self) {
        let path = self.path().to_str().unwrap();
        self.quiet(&["create", "--bundle", path, &self.id]).ok();
    }

    #[track_caller]
    pub fn start(&self) {
        self.oci(&["start", &self.id]).ok();
    }

    /// In the foreground; what it printed.
    pub fn run(&self) -> Output {
        let path = self.path().to_str().unwrap();
        self.oci(&["run", "--bundle", path, &self.id])
    }

    pub fn exec(&self, words: &[&str]) -> Output {
        let all: Vec<&str> = ["exec"].into_iter().chain(words.iter().copied()).collect();
        self.oci(&all)
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.oci(&["state", &self.id]).ok()).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap()
    }

    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        until(&format!("{} is {status}", self.id), || self.status() == status);
    }

    pub fn cgroup_dirs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for root in fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()) {
            let dir = root.join(self.cgroup.trim_start_matches('/'));
            found.extend(dir.is_dir().then_some(dir));
        }
        let dir = Path::new("/sys/fs/cgroup").join(self.cgroup.trim_start_matches('/'));
        found.extend(dir.is_dir().then_some(dir));
        found
    }

    /// Nothing of the container is there any more.
    #[track_caller]
    pub fn assert_gone(&self) {
        let left: Vec<_> = fs::read_dir(self.states())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| !path.ends_with(".seccomp") && !path.ends_with(".empty"))
            .collect();
        assert!(left.is_empty(), "states left: {left:?}");
        assert_eq!(self.cgroup_dirs(), Vec::<PathBuf>::new(), "cgroups left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let path = self.path().to_str().unwrap();
        assert!(!mounts.contains(path), "mounts left: {mounts}");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.states().join(&self.id).exists() {
            let deleted = self.oci(&["delete", "--force", &self.id]);
            if !std::thread::panicking() {
                assert_eq!(deleted, Output { code: 0, out: String::new(), err: String::new() });
            }
        }
        if !std::thread::panicking() {
            self.assert_gone();
        }
    }
}

pub fn output(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether to compare with the machine's own runc and crun (Debian's packages), which a guest does not have.
pub fn compares(test: &str) -> bool {
    let wanted = std::env::var_os("KILLICK_COMPARE").is_some();
    if !wanted {
        eprintln!("{test}: not here; it runs where KILLICK_COMPARE is set (scripts/test --all)");
    }
    wanted
}
