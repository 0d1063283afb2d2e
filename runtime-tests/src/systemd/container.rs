//! A container of a test's own, and what systemd and the kernel say of it.

use crate::World;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How the guest has its cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    V2,
    Hybrid,
    V1,
}

impl Layout {
    pub fn detect() -> Layout {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let has = |text: &str| mounts.lines().any(|line| line.contains(text));
        match (has(" /sys/fs/cgroup cgroup2 "), has(" cgroup2 ")) {
            (true, _) => Layout::V2,
            (false, true) => Layout::Hybrid,
            (false, false) => Layout::V1,
        }
    }
}

#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn run(command: &mut Command) -> Output {
    match command.stdin(Stdio::null()).output() {
        Ok(done) => Output {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        },
        Err(error) => Output { code: -1, out: String::new(), err: error.to_string() },
    }
}

pub fn shell(line: &str) -> Result<String, String> {
    let Output { code, out, err } = run(Command::new("sh").args(["-c", line]));
    if code == 0 { Ok(out) } else { Err(format!("{line}: exit code {code}\n{out}{err}")) }
}

pub fn systemd_version() -> String {
    shell("systemctl --version | head -1").unwrap_or_default().split(' ').nth(1).unwrap_or("?").to_owned()
}

pub fn version_number() -> u32 {
    systemd_version().parse().unwrap_or(0)
}

/// Fails with the two values where they differ.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}")) }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("{what}: not within 30 s"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What killick-oci says of a systemd that needs too long.
pub const LATE: &str = "systemd did not answer";

static COUNT: AtomicU32 = AtomicU32::new(0);
/// All of the tests' slices begin so.
const NAME: &str = "killicktest";

/// A bundle whose cgroup is `<slice>:kt:<id>`; deleted with the guard.
#[derive(Debug)]
pub struct Container<'a> {
    pub world: &'a World,
    pub id: String,
    pub slice: String,
    pub dir: PathBuf,
    /// What a test adds before the command.
    pub global: Vec<String>,
}

impl<'a> Container<'a> {
    /// Busybox's sleep with the usual mounts; `change` is merged into the configuration.
    pub fn new(world: &'a World, change: Value) -> Result<Container<'a>, String> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("c{number}");
        let slice = format!("{NAME}-s{number}.slice");
        let dir = PathBuf::from(format!("/tmp/systemd-test-{number}"));
        let made = format!(
            "rm -rf {0}; mkdir -p {0}/rootfs/bin {0}/rootfs/proc {0}/rootfs/sys {0}/rootfs/dev {0}/rootfs/tmp && \
             cp /bin/busybox {0}/rootfs/bin/ && cd {0}/rootfs/bin && \
             for a in sh sleep cat ls true head tail mkdir mknod echo grep; do ln -s busybox $a; done",
            dir.display()
        );
        shell(&made)?;
        let container = Container { world, id, slice, dir, global: vec!["--systemd-cgroup".into()] };
        let spec = run(Command::new(&world.killick_oci).args(["spec", "--bundle"]).arg(&container.dir));
        if spec.code != 0 {
            return Err(format!("spec: {}", spec.err));
        }
        let mut config = json!({
            "process": {"terminal": false, "args": ["sleep", "1000"]},
            "root": {"readonly": false},
            "linux": {"cgroupsPath": container.path()},
        });
        merge(&mut config, change);
        container.change(config)?;
        Ok(container)
    }

    pub fn path(&self) -> String {
        format!("{}:kt:{}", self.slice, self.id)
    }

    pub fn unit(&self) -> String {
        format!("kt-{}.scope", self.id)
    }

    pub fn change(&self, change: Value) -> Result<(), String> {
        let file = self.dir.join("config.json");
        let text = fs::read(&file).map_err(|error| error.to_string())?;
        let mut config: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        merge(&mut config, change);
        fs::write(&file, config.to_string()).map_err(|error| error.to_string())
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.world.killick_oci);
        command.arg("--root").arg(self.dir.join("state")).args(&self.global).args(words);
        command
    }

    pub fn oci(&self, words: &[&str]) -> Output {
        // Whoever keeps the streams of a container that lives on would keep us waiting.
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        let mut command = self.command(words);
        let files = fs::File::create(&out).and_then(|out| Ok((out, fs::File::create(&err)?)));
        let (stdout, stderr) = match files {
            Ok(files) => files,
            Err(error) => return Output { code: -1, out: String::new(), err: error.to_string() },
        };
        let status = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).status();
        Output {
            code: status.map_or(-1, |status| status.code().unwrap_or(-1)),
            out: fs::read_to_string(&out).unwrap_or_default(),
            err: fs::read_to_string(&err).unwrap_or_default(),
        }
    }

    /// Wants exit code 0 and nothing on standard error.
    pub fn ok(&self, words: &[&str]) -> Result<String, String> {
        let Output { code, out, err } = self.oci(words);
        if code == 0 && err.is_empty() { Ok(out) } else { Err(format!("{words:?}: exit code {code}\n{out}{err}")) }
    }

    pub fn fails(&self, words: &[&str], text: &str) -> Result<(), String> {
        let output = self.oci(words);
        if output.code != 0 && output.err.contains(text) {
            return Ok(());
        }
        Err(format!("{words:?}: wanted {text:?}, got {output:?}"))
    }

    pub fn create(&self) -> Result<(), String> {
        let (dir, pid_file) = (self.dir.display().to_string(), self.dir.join("pid").display().to_string());
        for _ in 0..3 {
            match self.ok(&["create", "--bundle", &dir, "--pid-file", &pid_file, &self.id]) {
                // An emulated systemd can need longer than a real one ever may: nothing is left then, and it goes again.
                Err(why) if why.contains(LATE) => {
                    println!("    {} was given up at the deadline, once more: {}", self.id, why.trim());
                    self.is_gone()?;
                }
                other => return other.map(drop),
            }
        }
        Err(format!("{} was given up at the deadline three times", self.id))
    }

    pub fn start(&self) -> Result<(), String> {
        self.create()?;
        self.ok(&["start", &self.id]).map(drop)
    }

    pub fn status(&self) -> Result<String, String> {
        let state: Value = serde_json::from_str(&self.ok(&["state", &self.id])?).map_err(|error| error.to_string())?;
        Ok(state["status"].as_str().unwrap_or_default().to_owned())
    }

    pub fn pid(&self) -> Result<String, String> {
        let text = fs::read_to_string(self.dir.join("pid")).map_err(|error| format!("pid file: {error}"))?;
        Ok(text.trim().to_owned())
    }

    /// In the background; its output goes to `file`.
    pub fn spawn(&self, words: &[&str], file: &Path) -> Result<Child, String> {
        let out = fs::File::create(file).map_err(|error| error.to_string())?;
        let err = out.try_clone().map_err(|error| error.to_string())?;
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(|error| error.to_string())
    }

    /// The unit's properties, as systemd says them.
    pub fn shown(&self) -> Result<HashMap<String, String>, String> {
        shown(&self.unit())
    }

    pub fn wants(&self, properties: &[(&str, &str)]) -> Result<(), String> {
        let shown = self.shown()?;
        for (name, value) in properties {
            same(name, shown.get(*name).map(String::as_str), Some(*value))?;
        }
        Ok(())
    }

    /// The scope's directory in the hierarchy of a controller.
    pub fn cgroup(&self, controller: &str) -> PathBuf {
        let below = format!("{NAME}.slice/{}/{}", self.slice, self.unit());
        match self.world.layout {
            Layout::V2 => Path::new("/sys/fs/cgroup").join(below),
            Layout::Hybrid | Layout::V1 => Path::new("/sys/fs/cgroup").join(controller).join(below),
        }
    }

    pub fn file(&self, controller: &str, v1: &str, v2: &str) -> Result<String, String> {
        let file = self.cgroup(controller).join(if self.world.layout == Layout::V2 { v2 } else { v1 });
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(text.trim().to_owned())
    }

    /// All hierarchies of a process that hold it elsewhere than in the scope.
    pub fn strays(&self, pid: &str) -> Result<Vec<String>, String> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|error| format!("{pid}: {error}"))?;
        let end = format!("/{}", self.unit());
        // Beside pure v1's own there is a v2 tree that nobody has mounted.
        let counts = |line: &&str| self.world.layout != Layout::V1 || !line.starts_with("0::");
        Ok(text.lines().filter(counts).filter(|line| !line.ends_with(&end)).map(str::to_owned).collect())
    }

    pub fn is_gone(&self) -> Result<(), String> {
        let unit = self.unit();
        until("the unit is gone", || {
            shown(&unit).is_ok_and(|shown| shown.get("LoadState").is_some_and(|state| state == "not-found"))
        })?;
        let left = shell(&format!("find /sys/fs/cgroup -name '{unit}'"))?;
        same("cgroups left", left.as_str(), "")
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let deleted = self.oci(&["delete", "--force", &self.id]);
        if deleted.code != 0 {
            println!("    {} could not be deleted: {}", self.id, deleted.err.trim());
        }
        let _ = shell(&format!("systemctl stop {} 2>/dev/null", self.slice));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub fn shown(unit: &str) -> Result<HashMap<String, String>, String> {
    let text = shell(&format!("systemctl show '{unit}'"))?;
    let mut found: HashMap<String, String> = HashMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let all = found.entry(name.to_owned()).or_default();
        if !all.is_empty() {
            all.push('\n');
        }
        all.push_str(value);
    }
    Ok(found)
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Scopes, cgroups and processes of the tests.
pub fn left_behind() -> Result<(), String> {
    let _ = shell(&format!("systemctl stop {NAME}.slice 2>/dev/null"));
    let units = shell("systemctl list-units --all --no-legend 'kt-*' 'killicktest*' | grep -v ' not-found ' || true")?;
    let failed = shell("systemctl list-units --failed --no-legend 'kt-*' || true")?;
    // On v1 the slices' directories in hierarchies that systemd does not know stay, empty, as with runc: kubelet looks for
    // its pods' there.
    let systemds = "find /sys/fs/cgroup/systemd /sys/fs/cgroup/unified -name 'killicktest*' 2>/dev/null";
    let slices = match Layout::detect() {
        Layout::V2 => shell("find /sys/fs/cgroup -name 'killicktest*'")?,
        Layout::Hybrid | Layout::V1 => shell(&format!("{systemds} || true"))?,
    };
    let cgroups = shell("find /sys/fs/cgroup -name 'kt-*'")? + &slices;
    let processes = shell("pgrep -f '[s]leep 1000' || true")?;
    let files = shell("ls -d /tmp/systemd-test-* 2>/dev/null || true")?;
    let all = [units, failed, cgroups, processes, files].concat();
    if all.trim().is_empty() { Ok(()) } else { Err(all) }
}
