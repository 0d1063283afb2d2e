//! A second installation beside the tests' common one: directories and a network namespace of its own, for tests that
//! fill the disk, change routes or take everything away as a reboot does.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::world::{Output, World, run};

#[derive(Debug)]
pub struct Apart<'a> {
    world: &'a World,
    pub directory: PathBuf,
    /// Holds the network namespace.
    holder: Child,
}

impl<'a> Apart<'a> {
    pub fn new(world: &'a World, name: &str) -> Result<Apart<'a>, String> {
        let directory = world.directory.join(format!("apart-{name}"));
        std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        Ok(Apart { world, directory, holder: namespace()? })
    }

    /// The archive of the demonstration image.
    pub fn busybox_archive(&self) -> PathBuf {
        self.world.inside.parent().unwrap_or(Path::new("/")).join("images/busybox.tar")
    }

    pub fn import_busybox(&self) -> Result<(), String> {
        let archive = self.busybox_archive();
        self.ok(&["image", "import", &archive.display().to_string()], None).map(drop)
    }

    pub fn run(&self, arguments: &[&str], input: Option<&str>) -> Output {
        run(&mut self.command(arguments), input)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-n", "-t", &self.holder.id().to_string()])
            .args(self.world.words(&self.world.killick))
            .args(arguments)
            .env("KILLICK_RUN", self.directory.join("run"))
            .env("KILLICK_ROOT", self.directory.join("root"))
            .env("KILLICK_LOGS", self.directory.join("logs"));
        command
    }

    pub fn ok(&self, arguments: &[&str], input: Option<&str>) -> Result<String, String> {
        let output = self.run(arguments, input);
        if output.code == 0 { Ok(output.stdout) } else { Err(format!("killick {}: {output:?}", arguments.join(" "))) }
    }

    /// A shell line in the network namespace.
    pub fn shell(&self, line: &str) -> Result<String, String> {
        self.world.shell(&format!("nsenter -n -t {} sh -c '{line}'", self.holder.id()))
    }

    pub fn wait(&self, seconds: u64, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(self.world.patience(seconds));
        while std::time::Instant::now() < deadline {
            if holds(self) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let pods = self.run(&["get", "pods", "-A"], None);
        let events = self.run(&["get", "events", "-A"], None);
        Err(format!("{what}: not within {seconds} s\n{}{}\n{}", pods.stdout, pods.stderr, events.stdout))
    }

    /// The network namespace of the next boot: empty.
    pub fn new_network(&mut self) -> Result<(), String> {
        self.end_holder();
        self.holder = namespace()?;
        Ok(())
    }

    fn end_holder(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Drop for Apart<'_> {
    fn drop(&mut self) {
        let pods = self.run(&["get", "pods", "-o", "name"], None);
        for pod in pods.stdout.lines() {
            self.run(&["delete", pod, "--now"], None);
        }
        self.end_holder();
    }
}

fn namespace() -> Result<Child, String> {
    let ours = std::fs::read_link("/proc/self/ns/net").ok();
    let holder = Command::new("unshare")
        .args(["-n", "sh", "-c", "ip link set lo up; exec sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("unshare: {error}"))?;
    while std::fs::read_link(format!("/proc/{}/ns/net", holder.id())).ok() == ours {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(holder)
}
