//! What every command works on: the roots, the clock, the node, the shim's program, and the pods that are there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use killick_pod::spec::Pod;
use killick_pod::status::PodStatus;
use killick_pod::time::Wall;
use killick_pod_dir::{PodDir, Roots, timestamp};
use serde_json::Value;

use crate::output::{Failure, Out, Result};

pub const SHIM: &str = "containerd-shim-killick-v2";
/// The shim's short commands answer within this time, also on a machine that is busy with something else.
const SHIM_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Context {
    pub roots: Roots,
    pub shim: PathBuf,
    pub zone: jiff::tz::TimeZone,
    /// Nanoseconds since the epoch; another one in tests.
    pub clock: fn() -> i128,
}

/// One pod: manifest (with the deletion in its metadata) and status.
#[derive(Debug, Clone)]
pub struct PodView {
    pub dir: PodDir,
    pub pod: Pod,
    pub status: PodStatus,
}

impl PodView {
    pub fn name(&self) -> &str {
        &self.pod.metadata.name
    }

    pub fn kube_namespace(&self) -> &str {
        &self.pod.metadata.namespace
    }

    /// The pod as the API would give it.
    pub fn json(&self) -> Value {
        let mut value = serde_json::to_value(&self.pod).unwrap_or_default();
        let mut status = serde_json::to_value(&self.status).unwrap_or_default();
        if let Some(status) = status.as_object_mut()
            && self.status.qos_class.is_empty()
        {
            status.remove("qosClass");
        }
        value["status"] = status;
        value
    }
}

impl Context {
    pub fn from_env() -> Context {
        let beside = std::env::current_exe().ok().map(|program| program.with_file_name(SHIM));
        let shim = beside.filter(|program| program.is_file()).unwrap_or_else(|| PathBuf::from(SHIM));
        Context { roots: Roots::from_env(), shim, zone: jiff::tz::TimeZone::system(), clock: system_clock }
    }

    pub fn now(&self) -> Wall {
        Wall(self.now_nanos().div_euclid(1_000_000_000) as i64)
    }

    pub fn now_nanos(&self) -> i128 {
        (self.clock)()
    }

    pub fn now_text(&self) -> String {
        timestamp::text(self.now())
    }

    /// What `uname -n` says: the node's name.
    pub fn node_name(&self) -> String {
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Every pod of one namespace, or of all; sorted by namespace and name.
    pub fn pods(&self, kube_namespace: Option<&str>) -> Result<Vec<PodView>> {
        let listed = PodDir::list(&self.roots)?;
        let wanted = listed.into_iter().filter(|listed| {
            kube_namespace.is_none_or(|kube_namespace| listed.pod.metadata.namespace == kube_namespace)
        });
        Ok(wanted.map(|listed| view(listed.dir, listed.pod)).collect())
    }

    pub fn pod(&self, kube_namespace: &str, name: &str) -> Option<PodView> {
        let dir = PodDir::find(&self.roots, kube_namespace, name)?;
        let pod = dir.read_pod().ok()?;
        Some(view(dir, pod))
    }

    /// The named pod, or kubectl's word for its absence.
    pub fn named_pod(&self, kube_namespace: &str, name: &str) -> Result<PodView> {
        self.pod(kube_namespace, name).ok_or_else(|| Failure::not_found("pods", name))
    }

    /// Starts keep and shim of every pod that has lost them (both killed, or the machine was rebooted), and has the
    /// shim clear away cgroups without a pod. What fails is said and does not end the command.
    pub fn revive(&self, out: &mut Out<'_>) -> Result<()> {
        for error in PodDir::sweep(&self.roots, self.now()) {
            out.warn(format!("Warning: clearing away what a crash left: {error}"));
        }
        for listed in PodDir::list(&self.roots)? {
            self.revive_listed(&listed.dir, &listed.pod, out);
        }
        if self.has_orphans() {
            let (report, result) = self.run_shim([OsStr::new("pod"), OsStr::new("gc")]);
            for line in report.lines() {
                out.warn(format!("Warning: {line}"));
            }
            if let Err(failure) = result {
                out.warn(format!("Warning: clearing away what has no pod: {}", failure.text));
            }
        }
        Ok(())
    }

    /// The same for the one pod that a command names: exec must not pay for all the others.
    pub fn revive_named(&self, kube_namespace: &str, name: &str, out: &mut Out<'_>) -> Result<()> {
        match PodDir::find(&self.roots, kube_namespace, name) {
            Some(dir) => {
                if let Ok(pod) = dir.read_pod() {
                    self.revive_listed(&dir, &pod, out);
                }
                Ok(())
            }
            // Without its name it may be one of the boot before.
            None => self.revive(out),
        }
    }

    fn revive_listed(&self, dir: &PodDir, pod: &Pod, out: &mut Out<'_>) {
        if dir.is_kept().unwrap_or(true) {
            return;
        }
        if let Err(failure) = self.revive_one(dir, pod) {
            let name = &pod.metadata.name;
            out.warn(format!("Warning: pod {name} has no supervisor and none could be started: {}", failure.text));
        }
    }

    /// The same for one pod that is being waited for.
    pub fn revive_pod(&self, dir: &PodDir) -> Result<()> {
        match dir.read_pod() {
            Ok(pod) => self.revive_one(dir, &pod),
            // Its manifest is gone already: so is all that could be started.
            Err(_) => Ok(()),
        }
    }

    /// A pod that is removed meanwhile is no failure: it is gone, as somebody wanted.
    fn revive_one(&self, dir: &PodDir, pod: &Pod) -> Result<()> {
        match self.try_revive(dir, pod) {
            Err(_) if dir.is_gone() => Ok(()),
            result => result,
        }
    }

    fn try_revive(&self, dir: &PodDir, pod: &Pod) -> Result<()> {
        if !dir.run_dir().is_dir() && !dir.restore_run_dir(pod)? {
            return Ok(());
        }
        let Some(_guard) = dir.begin_start()? else { return Ok(()) };
        if dir.is_kept()? { Ok(()) } else { self.start(dir) }
    }

    /// Runs `pod start`: keep and shim live when it has ended well. The caller holds the start's guard.
    pub fn start(&self, dir: &PodDir) -> Result<()> {
        self.run_shim([OsStr::new("pod"), OsStr::new("start"), dir.run_dir().as_os_str()]).1
    }

    /// Whether some cgroup or address of this installation belongs to a pod that has no directory. Only a look;
    /// killing and taking back is the shim's.
    fn has_orphans(&self) -> bool {
        let is_orphan = |uid: &str| PodDir::at(&self.roots, uid).is_some_and(|dir| !dir.exists());
        let root = self.roots.cgroup_root();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right.starts_with("cgroup").then(|| left.split(' ').nth(4)).flatten()
        });
        let cgroups = points.flat_map(|point| names_in(&PathBuf::from(point).join(&root)));
        let addresses = names_in(&self.roots.ipam());
        cgroups.into_iter().any(|name| name.strip_prefix("pod").is_some_and(is_orphan))
            || addresses.iter().any(|address| {
                let owner = std::fs::read_to_string(self.roots.ipam().join(address)).unwrap_or_default();
                is_orphan(owner.trim())
            })
    }

    /// One of the shim's short commands: its stdout, and its stderr as the failure. Both are files without a name, not
    /// pipes: keep, which lives on, cannot hold us by them.
    pub fn run_shim<'a>(&self, arguments: impl IntoIterator<Item = &'a OsStr>) -> (String, Result<()>) {
        let mut said = String::new();
        let result = self.run_shim_into(arguments, &mut said);
        (said, result)
    }

    fn run_shim_into<'a>(&self, arguments: impl IntoIterator<Item = &'a OsStr>, said: &mut String) -> Result<()> {
        let program = self.shim.display();
        let scratch = || {
            let file = killick_sys::sealed::scratch(&self.roots.run);
            file.map_err(|error| Failure::error(format!("run {program}: {error}")))
        };
        let cannot = |error: std::io::Error| Failure::error(format!("run {program}: {error}"));
        let (mut stdout, mut stderr) = (scratch()?, scratch()?);
        #[allow(clippy::disallowed_methods, reason = "the CLI is no shim: nothing else runs in it")]
        let mut command = std::process::Command::new(&self.shim);
        // With a group to set (its own) std forks: posix_spawn of the C library gives up where clone3 is EPERM, as old
        // container hosts have it.
        use std::os::unix::process::CommandExt;
        let mut child = command
            .gid(nix::unistd::getgid().as_raw())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().map_err(cannot)?)
            .stderr(stderr.try_clone().map_err(cannot)?)
            .spawn()
            .map_err(cannot)?;
        let deadline = Instant::now() + SHIM_DEADLINE;
        let status = loop {
            match child.try_wait().map_err(cannot)? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Failure::error(format!(
                        "{program} did not answer within {} s",
                        SHIM_DEADLINE.as_secs()
                    )));
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let text = |file: &mut File| {
            let mut text = Vec::new();
            file.rewind().and_then(|()| file.take(1 << 20).read_to_end(&mut text)).map(|_| ())?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        *said = text(&mut stdout).map_err(cannot)?;
        if status.success() {
            return Ok(());
        }
        let why = text(&mut stderr).map_err(cannot)?;
        Err(match why.trim() {
            "" => Failure::error(format!("{program} ended with {status} and said nothing")),
            why => Failure::said(why),
        })
    }

    pub fn new_uid(&self) -> Result<String> {
        let path = "/proc/sys/kernel/random/uuid";
        let text = std::fs::read_to_string(path).map_err(|error| Failure::error(format!("read {path}: {error}")))?;
        Ok(text.trim().to_owned())
    }
}

fn system_clock() -> i128 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(passed) => passed.as_nanos() as i128,
        Err(before) => -(before.duration().as_nanos() as i128),
    }
}

fn names_in(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn view(dir: PodDir, mut pod: Pod) -> PodView {
    // A status that cannot be read is that of a pod whose shim has not spoken yet.
    let file = dir.read_status().unwrap_or_default();
    file.apply_to(&mut pod);
    PodView { dir, pod, status: file.status }
}

/// Pods want root: said once, before anything is touched.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::error("killick must be run as root: it makes namespaces, mounts and cgroups"))
}
