//! Killick below a real containerd: its own daemon for each test, driven by `ctr`, through the CRI, and by a client of
//! the shim's own protocol.

mod cri;
mod hostile;
mod life;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::{Output, World, run};
use crate::{Needs, Test, test};

/// The archive's name for it (scripts/demo-images).
pub const IMAGE: &str = "killick.local/busybox:1";
const PAUSE_IMAGE: &str = "example.test/pause:1";
const RUNTIME: &str = "io.containerd.killick.v2";
/// containerd's defaults: 100 s for a shim; no test waits so long.
const START_DEADLINE: Duration = Duration::from_secs(30);

pub fn tests() -> Vec<Test> {
    let mut tests = life::tests();
    tests.extend(hostile::tests());
    tests.into_iter().map(|test| test.on(Needs::Containerd)).collect()
}

/// A containerd with directories, a socket and a cgroup of its own.
#[derive(Debug)]
pub struct Daemon<'a> {
    world: &'a World,
    root: PathBuf,
    dir: PathBuf,
    name: String,
    child: Option<Child>,
}

impl<'a> Daemon<'a> {
    pub fn start(world: &'a World, name: &str) -> Result<Daemon<'a>, String> {
        let root = world.containerd.clone().ok_or("no containerd was given")?;
        let dir = world.directory.join(name);
        let text = |error: std::io::Error| format!("{}: {error}", dir.display());
        for sub in ["cni/bin", "cni/conf", "bin"] {
            fs::create_dir_all(dir.join(sub)).map_err(text)?;
        }
        // In the daemon's PATH, where every version finds it.
        std::os::unix::fs::symlink(&world.shim, dir.join("bin/containerd-shim-killick-v2")).map_err(text)?;
        for plugin in ["loopback", "bridge", "host-local"] {
            fs::copy(root.join("usr/lib/cni").join(plugin), dir.join("cni/bin").join(plugin)).map_err(text)?;
        }
        let (number, bridge) = (number(name), bridge(name));
        let network = format!(
            r#"{{"cniVersion":"0.4.0","name":"{name}","plugins":[{{"type":"bridge","bridge":"{bridge}","isGateway":true,
            "ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.91.{number}.0/24"}}]]}}}}]}}"#,
            dir.join("ipam").display()
        );
        fs::write(dir.join("cni/conf/10-test.conflist"), network).map_err(text)?;
        fs::write(dir.join("config.toml"), config(&dir)).map_err(text)?;
        let mut daemon = Daemon { world, root, dir, name: name.to_owned(), child: None };
        daemon.run()?;
        for namespace in ["default", "k8s.io"] {
            daemon.ctr(&["-n", namespace, "image", "import", &world.image_archive("busybox").display().to_string()])?;
        }
        daemon.ctr(&["-n", "k8s.io", "image", "tag", IMAGE, PAUSE_IMAGE])?;
        Ok(daemon)
    }

    /// Starts the daemon, or starts it again.
    pub fn run(&mut self) -> Result<(), String> {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log()).map_err(|e| e.to_string())?;
        let bin = self.root.join("usr/bin");
        let path = format!(
            "{}:{}:{}",
            self.dir.join("bin").display(),
            bin.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let child = Command::new(bin.join("containerd"))
            .arg("-c")
            .arg(self.dir.join("config.toml"))
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("containerd: {error}"))?;
        self.child = Some(child);
        let deadline = Instant::now() + START_DEADLINE;
        while self.try_ctr(&["version"]).code != 0 {
            if Instant::now() > deadline {
                return Err(format!("containerd does not answer:\n{}", self.log_tail()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the daemon and nothing else: its shims live on.
    pub fn stop(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
        let _ = child.wait();
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("c.sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub fn bundle(&self, namespace: &str, id: &str) -> PathBuf {
        self.dir.join("state/io.containerd.runtime.v2.task").join(namespace).join(id)
    }

    pub fn try_ctr(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.root.join("usr/bin/ctr"));
        run(command.arg("-a").arg(self.socket()).args(arguments), Some(""))
    }

    pub fn ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.try_ctr(arguments);
        match output.code {
            0 => Ok(output.stdout),
            code => Err(format!(
                "ctr {}: exit {code}\n{}{}\ncontainerd:\n{}",
                arguments.join(" "),
                output.stdout,
                output.stderr,
                self.log_tail()
            )),
        }
    }

    /// `ctr run -d`, in a cgroup of this test's own.
    pub fn run_detached(&self, id: &str, line: &str) -> Result<(), String> {
        let cgroup = format!("{}/{id}", self.cgroup());
        let flags = ["run", "-d", "--runtime", RUNTIME, "--cgroup", &cgroup, IMAGE, id, "sh", "-c", line];
        self.ctr(&flags).map(drop)
    }

    /// `ctr run --rm` of one shell line.
    pub fn run_once(&self, id: &str, line: &str) -> Output {
        let cgroup = format!("{}/{id}", self.cgroup());
        self.try_ctr(&["run", "--rm", "--runtime", RUNTIME, "--cgroup", &cgroup, IMAGE, id, "sh", "-c", line])
    }

    pub fn cgroup(&self) -> String {
        format!("/killick-rt-{}-{}", std::process::id(), self.name)
    }

    /// Directories of the test's own cgroup, in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let name = self.cgroup();
        let name = name.trim_start_matches('/');
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        hierarchies
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .map(|dir| dir.join(name))
            .filter(|dir| dir.is_dir())
            .collect()
    }

    /// What a removed container may not leave: processes, cgroups, mounts below the bundle.
    pub fn left_of(&self, id: &str) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&format!("/{id}/"))).map(str::to_owned));
        for dir in self.cgroups() {
            left.extend(find(&dir, id));
        }
        let here = self.dir.display().to_string();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if words.contains("-bundle") && words.contains(&here) && words.contains(id) {
                left.push(words);
            }
        }
        left
    }

    /// The pid of the shim that serves this container.
    pub fn shim_of(&self, namespace: &str, id: &str) -> Result<u32, String> {
        let bundle = self.bundle(namespace, id).display().to_string();
        let here = self.dir.display().to_string();
        let processes = fs::read_dir("/proc").map_err(|error| error.to_string())?;
        for process in processes.flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            if words.starts_with("containerd-shim-killick-v2") && words.contains(&here) && words.contains(&bundle) {
                return Ok(pid);
            }
        }
        Err(format!("no shim with the bundle {bundle}"))
    }

    /// The shim's socket, from the file that it wrote.
    pub fn shim_socket(&self, namespace: &str, id: &str) -> Result<PathBuf, String> {
        let file = self.bundle(namespace, id).join("address");
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(PathBuf::from(text.trim_start_matches("unix://")))
    }
}

/// Tests that run beside each other have networks of their own.
fn number(name: &str) -> u8 {
    u8::try_from(name.bytes().map(u32::from).sum::<u32>() % 200).unwrap_or(0)
}

fn bridge(name: &str) -> String {
    format!("kc{}", number(name))
}

fn find(dir: &Path, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name().to_string_lossy().contains(id) {
            found.push(entry.path().display().to_string());
        }
        found.extend(find(&entry.path(), id));
    }
    found
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if self.child.is_none() {
            let _ = self.run();
        }
        // Of tests that have failed; the others have removed theirs.
        if let Ok(mut cri) = cri::Cri::connect(&self.socket()) {
            let left: cri::ListPodSandboxResponse = cri.call("ListPodSandbox", cri::Empty {}).unwrap_or_default();
            for pod in left.items {
                let _ = cri.call::<_, cri::Empty>("StopPodSandbox", pod.clone());
                let _ = cri.call::<_, cri::Empty>("RemovePodSandbox", pod);
            }
        }
        for namespace in ["k8s.io", "default"] {
            let tasks = self.try_ctr(&["-n", namespace, "task", "ls", "-q"]).stdout;
            for id in tasks.split_whitespace() {
                self.try_ctr(&["-n", namespace, "task", "rm", "-f", id]);
            }
            let containers = self.try_ctr(&["-n", namespace, "container", "ls", "-q"]).stdout;
            for id in containers.split_whitespace() {
                self.try_ctr(&["-n", namespace, "container", "rm", id]);
            }
        }
        self.stop("-TERM");
        // The bridge stays when its last pod goes.
        let _ = Command::new("/bin/ip").args(["link", "del", &bridge(&self.name)]).stderr(Stdio::null()).status();
        for dir in self.cgroups() {
            remove_cgroups(&dir);
            if dir.exists() {
                self.world.complain(format!("{} is left", dir.display()));
            }
        }
        for file in ["root", "state", "ipam"] {
            let _ = fs::remove_dir_all(self.dir.join(file));
        }
    }
}

fn remove_cgroups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        remove_cgroups(&entry.path());
    }
    let _ = fs::remove_dir(dir);
}

/// containerd 1.6 and 1.7.
fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
oom_score = 0
[grpc]
  address = "{dir}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/cni/bin"
    conf_dir = "{dir}/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "killick"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.killick]
      runtime_type = "{RUNTIME}"
"#
    )
}

/// Asks until it is so.
pub fn until(what: &str, seconds: u64, mut so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if so()? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("not within {seconds} s: {what}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn named(name: &'static str, run: crate::Run) -> Test {
    test(name, run)
}
