//! The world of the tests: a network namespace with an uplink, state directories, the imported images, and the
//! commands that every test types.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::refuse::Refusal;

pub const BUSYBOX: &str = "registry.cn-beijing.aliyuncs.com/google_registry/busybox:1.24";
pub const NGINX: &str = "registry.cn-beijing.aliyuncs.com/google_registry/nginx:1.17";
/// What the host outside our network namespace answers on port 80 of `OUTSIDE`.
pub const OUTSIDE: &str = "198.51.100.1";

/// No command of a test takes so long; one that hangs must not hold the others.
const COMMAND_DEADLINE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Place {
    Host,
    Guest,
}

#[derive(Debug)]
pub struct World {
    pub place: Place,
    pub killick: PathBuf,
    pub shim: PathBuf,
    /// The static program of `inside/inside.c`, to be mounted into containers.
    pub inside: PathBuf,
    /// Where the demo images' archives are.
    images: PathBuf,
    /// An unpacked containerd (scripts/containerd).
    pub containerd: Option<PathBuf>,
    pub directory: PathBuf,
    /// The program under test lives on an imitated old kernel; the tests themselves do not.
    refusal: Option<Refusal>,
    outside: Child,
    /// Clean-up that failed: shown at the end, since a guard cannot fail its test.
    complaints: Mutex<Vec<String>>,
}

/// What a command printed.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub fn set_up(
        place: Place,
        bin: &str,
        images: &str,
        containerd: Option<PathBuf>,
        refusal: Option<Refusal>,
    ) -> Result<World, String> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("unshare(CLONE_NEWNET): {errno}; run it as root"))?;
        // The machine beyond the uplink: a namespace that a sleeping child holds, with a web server.
        let directory = std::env::temp_dir().join(format!("killick-rt.{}", std::process::id()));
        let web = directory.join("outside");
        fs::create_dir_all(&web).map_err(|error| format!("{}: {error}", web.display()))?;
        fs::write(web.join("index.html"), "outside\n").map_err(|error| format!("{}: {error}", web.display()))?;
        let serve = format!(
            "until ip -4 addr show up0 2>/dev/null | grep -q inet; do sleep 0.1; done; exec busybox httpd -f -p {OUTSIDE}:80 -h {}",
            web.display()
        );
        let outside = Command::new("unshare")
            .args(["-n", "sh", "-c", &serve])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let pid = outside.id().to_string();
        // The child has left our namespace when its own has no uplink yet; it is asked by its namespace's inode.
        let ours = fs::read_link("/proc/self/ns/net").ok();
        while fs::read_link(format!("/proc/{pid}/ns/net")).ok() == ours {
            std::thread::sleep(Duration::from_millis(10));
        }
        let bin = PathBuf::from(bin);
        let world = World {
            place,
            killick: bin.join("killick"),
            shim: bin.join("containerd-shim-killick-v2"),
            inside: Path::new(images).parent().unwrap_or(Path::new("/")).join("inside"),
            images: images.into(),
            containerd,
            directory,
            refusal,
            outside,
            complaints: Mutex::new(Vec::new()),
        };
        for line in [
            "/bin/ip link set lo up",
            "/bin/ip link add eth0 type veth peer name up0",
            &format!("/bin/ip link set up0 netns {pid}"),
            "/bin/ip addr add 198.51.100.2/24 dev eth0",
            "/bin/ip link set eth0 up",
            &format!("nsenter -n -t {pid} /bin/ip link set lo up"),
            &format!("nsenter -n -t {pid} /bin/ip addr add 198.51.100.1/24 dev up0"),
            &format!("nsenter -n -t {pid} /bin/ip link set up0 up"),
            "/bin/ip route add default via 198.51.100.1",
        ] {
            world.shell(line)?;
        }
        let mut archives: Vec<_> = fs::read_dir(images)
            .map_err(|error| format!("{images}: {error}"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ending| ending == "tar"))
            .collect();
        archives.sort();
        for archive in archives {
            let output = world.killick(&["image", "import", &archive.display().to_string()]);
            if output.code != 0 {
                return Err(format!("image import {}: {}{}", archive.display(), output.stdout, output.stderr));
            }
        }
        Ok(world)
    }

    /// Ends the world and says what is left behind.
    pub fn tear_down(mut self) -> Result<(), String> {
        let mut left = Vec::new();
        let pods = self.killick(&["get", "pods", "-A", "-o", "name"]);
        if !pods.stdout.trim().is_empty() {
            left.push(format!("pods: {}", pods.stdout));
        }
        let run = self.directory.display().to_string();
        // Links and namespaces go asynchronously.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            left.truncate(usize::from(!pods.stdout.trim().is_empty()));
            let outside = format!("{} ", self.outside.id());
            for process in processes(&run).into_iter().filter(|process| !process.starts_with(&outside)) {
                left.push(format!("process: {process}"));
            }
            let links = self.shell("/bin/ip -o link").unwrap_or_default();
            left.extend(
                links
                    .lines()
                    .filter(|line| !line.contains(": lo:") && !line.contains(": eth0"))
                    .map(|line| format!("link: {line}")),
            );
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            left.extend(mounts.lines().filter(|line| line.contains(&run)).map(|line| format!("mount: {line}")));
            for path in ["run/pods", "run/names", "run/ipam", "run/netns", "root/pods", "logs"] {
                // Lock files stay: whoever removed one could remove another's.
                let entries = fs::read_dir(self.directory.join(path)).into_iter().flatten().flatten();
                for entry in entries.filter(|entry| entry.file_name() != "lock") {
                    left.push(format!("file: {}", entry.path().display()));
                }
            }
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        let _ = fs::remove_dir_all(&self.directory);
        left.append(&mut self.complaints.lock().expect("the tests have ended"));
        if left.is_empty() { Ok(()) } else { Err(format!("left behind:\n{}", left.join("\n"))) }
    }

    pub fn shell(&self, line: &str) -> Result<String, String> {
        let output = run(Command::new("sh").args(["-c", line]), None);
        if output.code != 0 { Err(format!("{line}: {}{}", output.stdout, output.stderr)) } else { Ok(output.stdout) }
    }

    /// Whether the program under test lives on an imitated kernel that is older than this one.
    pub fn is_before(&self, kernel: (u32, u32)) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.kernel < kernel)
    }

    /// What /proc/PID/status says of a process without a filter of its own: the imitation is one.
    pub fn no_filter(&self) -> &'static str {
        if self.refusal.is_some() { "Seccomp:\t2" } else { "Seccomp:\t0" }
    }

    /// What starts a program of ours: its path, or what imitates an old kernel for it.
    pub fn words(&self, program: &Path) -> Vec<String> {
        let program = program.display().to_string();
        match &self.refusal {
            None => vec![program],
            Some(refusal) => [own_program()].into_iter().chain(refusal.arguments()).chain([program]).collect(),
        }
    }

    /// `killick` as a command with the world's directories, for tests that pipe or signal it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut words = self.words(&self.killick);
        let mut command = Command::new(words.remove(0));
        command
            .args(words)
            .args(arguments)
            .env("KILLICK_RUN", self.directory.join("run"))
            .env("KILLICK_ROOT", self.directory.join("root"))
            .env("KILLICK_LOGS", self.directory.join("logs"));
        command
    }

    /// Runs `killick` with these arguments and no input.
    pub fn killick(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments), None)
    }

    pub fn killick_with_input(&self, arguments: &[&str], input: &str) -> Output {
        run(&mut self.command(arguments), Some(input))
    }

    /// Runs `killick` and wants exit code 0; gives stdout.
    pub fn ok(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.killick(arguments);
        if output.code != 0 {
            return Err(format!(
                "killick {}: exit code {}\n{}{}",
                arguments.join(" "),
                output.code,
                output.stdout,
                output.stderr
            ));
        }
        Ok(output.stdout)
    }

    /// Applies one pod; it is deleted, and its shim's thread count checked, when the guard goes.
    pub fn apply<'a>(&'a self, name: &str, yaml: &str) -> Result<Pod<'a>, String> {
        let output = self.killick_with_input(&["apply", "-f", "-"], yaml);
        let pod = Pod { world: self, name: name.to_string() };
        if output.code != 0 || !output.stdout.contains(&format!("pod/{name} created")) {
            return Err(format!("apply: exit code {}\n{}{}", output.code, output.stdout, output.stderr));
        }
        Ok(pod)
    }
}

/// A pod of a test.
#[derive(Debug)]
pub struct Pod<'a> {
    pub world: &'a World,
    pub name: String,
}

impl Pod<'_> {
    pub fn object(&self) -> Result<Value, String> {
        let text = self.world.ok(&["get", "pod", &self.name, "-o", "json"])?;
        serde_json::from_str(&text).map_err(|error| format!("get -o json: {error}\n{text}"))
    }

    /// A value of the object by JSON pointer; null when it is absent.
    pub fn value(&self, pointer: &str) -> Result<Value, String> {
        Ok(self.object()?.pointer(pointer).cloned().unwrap_or(Value::Null))
    }

    pub fn uid(&self) -> Result<String, String> {
        Ok(self.value("/metadata/uid")?.as_str().unwrap_or_default().to_string())
    }

    pub fn restarts(&self) -> Result<u64, String> {
        Ok(self.value("/status/containerStatuses/0/restartCount")?.as_u64().unwrap_or(0))
    }

    pub fn ready(&self) -> Result<bool, String> {
        Ok(self.value("/status/containerStatuses/0/ready")? == Value::Bool(true))
    }

    /// The columns of `get pods`: NAME READY STATUS RESTARTS AGE.
    pub fn row(&self) -> Result<Vec<String>, String> {
        let text = self.world.ok(&["get", "pod", &self.name, "--no-headers"])?;
        Ok(text.split_whitespace().map(str::to_string).collect())
    }

    pub fn status_word(&self) -> Result<String, String> {
        Ok(self.row()?.get(2).cloned().unwrap_or_default())
    }

    pub fn describe(&self) -> Result<String, String> {
        self.world.ok(&["describe", "pod", &self.name])
    }

    /// Runs a shell line in the pod's first container and wants exit code 0.
    pub fn shell(&self, line: &str) -> Result<String, String> {
        self.world.ok(&["exec", "-q", &self.name, "--", "sh", "-c", line])
    }

    pub fn shell_in(&self, container: &str, line: &str) -> Result<String, String> {
        self.world.ok(&["exec", "-q", &self.name, "-c", container, "--", "sh", "-c", line])
    }

    /// Waits until the condition holds, or says what was seen last.
    pub fn wait(
        &self,
        seconds: u64,
        what: &str,
        mut holds: impl FnMut(&Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(self.world.patience(seconds));
        let mut last = String::new();
        while Instant::now() < deadline {
            match holds(self) {
                Ok(true) => return Ok(()),
                Ok(false) => last.clear(),
                Err(error) => last = error,
            }
            std::thread::sleep(Duration::from_millis(150));
        }
        Err(format!(
            "{what}: not within {seconds} s {last}\n{}\n{}",
            self.row().unwrap_or_default().join(" "),
            self.describe().unwrap_or_default()
        ))
    }

    pub fn wait_running(&self) -> Result<(), String> {
        self.wait(20, "every container runs", |pod| {
            let object = pod.object()?;
            let statuses =
                object.pointer("/status/containerStatuses").and_then(Value::as_array).cloned().unwrap_or_default();
            Ok(!statuses.is_empty() && statuses.iter().all(|status| status.pointer("/state/running").is_some()))
        })
    }

    pub fn wait_event(&self, seconds: u64, text: &str) -> Result<(), String> {
        self.wait(seconds, &format!("the event {text:?}"), |pod| Ok(squeezed(&pod.describe()?).contains(text)))
    }

    /// The pid of the pod's shim, found by its argument, the pod's directory.
    pub fn shim_pid(&self) -> Result<u32, String> {
        self.process("run")
    }

    pub fn keep_pid(&self) -> Result<u32, String> {
        self.process("keep")
    }

    fn process(&self, word: &str) -> Result<u32, String> {
        let uid = self.uid()?;
        for entry in fs::read_dir("/proc").map_err(|error| error.to_string())?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<_> =
                line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            if words.iter().any(|part| part == word) && words.iter().any(|part| part.contains(&uid)) {
                return Ok(pid);
            }
        }
        Err(format!("no process {word} of pod {uid}"))
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if let Ok(pid) = self.shim_pid()
            && let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status"))
            && !status.contains("Threads:\t1\n")
        {
            let complaint = format!("the shim of pod {} has more than one thread:\n{status}", self.name);
            self.world.complain(complaint);
        }
        let start = Instant::now();
        let output = self.world.killick(&["delete", "pod", &self.name, "--ignore-not-found", "--now"]);
        if output.code != 0 || start.elapsed() > Duration::from_secs(self.world.patience(30)) {
            let complaint = format!("delete pod {}: {:?} after {:?}", self.name, output, start.elapsed());
            self.world.complain(complaint);
        }
    }
}

impl World {
    /// The emulated machine is several times slower than a real one.
    pub fn patience(&self, seconds: u64) -> u64 {
        match self.place {
            Place::Host => seconds,
            Place::Guest => seconds * 3,
        }
    }

    /// A pod of one busybox container that runs a shell line, with more lines for the container.
    pub fn busybox(&self, name: &str, line: &str, more: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: main\n    image: {BUSYBOX}\n    command: [sh, -c, {line:?}]\n{}",
            indent(more, 4)
        )
    }

    /// The archive of a demo image.
    pub fn image_archive(&self, name: &str) -> PathBuf {
        self.images.join(format!("{name}.tar"))
    }

    /// What a guard could not clean up: it fails the suite.
    pub fn complain(&self, complaint: String) {
        self.complaints.lock().expect("nobody panics with it").push(complaint);
    }

    /// Lines for a container that mount the test program at /inside.
    pub fn inside_volume(&self) -> String {
        format!(
            "  volumes:\n  - name: inside\n    hostPath: {{path: {:?}, type: File}}\n",
            self.inside.display().to_string()
        )
    }
}

pub const INSIDE_MOUNT: &str = "volumeMounts:\n- {name: inside, mountPath: /inside, readOnly: true}";

pub fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

/// A text with each run of white space as one space, so that tables can be searched.
pub fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn run(command: &mut Command, input: Option<&str>) -> Output {
    use std::io::Write;
    command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Output { code: -1, stdout: String::new(), stderr: format!("{command:?}: {error}") },
    };
    let pipe = child.stdin.take();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let ended = AtomicBool::new(false);
    let finished = std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + COMMAND_DEADLINE;
            while !ended.load(Ordering::Relaxed) {
                if Instant::now() > deadline {
                    // Not reaped before `ended` is set: the pid is still the child's.
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Written beside the reading: a large input would otherwise wait for ever for a large output.
        scope.spawn(|| {
            if let (Some(mut pipe), Some(text)) = (pipe, input) {
                let _ = pipe.write_all(text.as_bytes());
            }
        });
        let output = child.wait_with_output();
        ended.store(true, Ordering::Relaxed);
        output
    });
    match finished {
        Ok(output) => Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        },
        Err(error) => Output { code: -1, stdout: String::new(), stderr: error.to_string() },
    }
}

/// Processes that carry a text in their command line or in the path of their cgroup.
fn processes(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if pid == std::process::id() {
            continue;
        }
        let line =
            String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default()).replace('\0', " ");
        if line.contains(text) {
            found.push(format!("{pid} {line}"));
        }
    }
    found
}

/// Fails with a message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

/// Both are shown when they differ.
#[macro_export]
macro_rules! ensure_eq {
    ($found:expr, $wanted:expr) => {
        $crate::ensure_eq!($found, $wanted, "")
    };
    ($found:expr, $wanted:expr, $($message:tt)+) => {{
        let (found, wanted) = ($found, $wanted);
        if found != wanted {
            return Err(format!("{found:?} is not {wanted:?} ({}) {}", stringify!($found), format!($($message)+)));
        }
    }};
}

/// Not by /proc/self: the shells of the tests use it too.
fn own_program() -> String {
    std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default()
}
