//! A container's (or a pod's) cgroup: made with its limits, entered by the child itself, killed, emptied and removed.
//!
//! One `Cgroup` is the same path in every hierarchy that this host has. The functions named `…_step` never wait: the
//! one loop calls them again. Those that take a deadline block, and are for a worker child and for tests.
//! Nothing here knows pods; `killick/pod<uid>/<container>` is just a path.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use killick_sys::cgroup::{self as files};
pub use killick_sys::cgroup::{Attach, CgroupFileError, Layout};

use killick_sys::launch::LaunchError;

use crate::devices::DeviceError;
use crate::resources::{self, ResourceError, Tolerate, Version, Write};
use crate::systemd::{SystemdError, Unit, properties};

mod delegate;
mod kill;
mod leaf;
mod oom;
mod place;
mod stats;
mod unit;

pub use kill::Kill;
pub use leaf::{Leaf, LeafPool};
pub use oom::{OomNotice, OomWatch};
pub use place::Below;
pub use stats::*;
pub use unit::{LastSeen, UnitStart};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(transparent)]
    File(#[from] CgroupFileError),
    #[error("cgroup path {0:?}: must be relative to the root of the hierarchies, without \"..\" and not empty")]
    Path(PathBuf),
    #[error("no cgroup file system is mounted on this host; mount cgroup2 at /sys/fs/cgroup")]
    NoHierarchy,
    #[error("container's cgroup is not empty: {} process(es) found in {}", .count, .path.display())]
    NotEmpty { path: PathBuf, count: usize },
    #[error("container's cgroup unexpectedly frozen: {}", .0.display())]
    Frozen(PathBuf),
    #[error("cannot enter cgroupv2 {path:?} with domain controllers -- it is in {kind}")]
    Threaded { path: PathBuf, kind: String },
    #[error("cannot set {file} to {value:?}: the {controller} controller is not to be had here ({why})")]
    NoController { file: String, value: String, controller: String, why: &'static str },
    #[error("memory limit {limit} lower than current usage")]
    BelowUsage { limit: i64 },
    #[error(transparent)]
    Resources(#[from] ResourceError),
    #[error(transparent)]
    Devices(#[from] DeviceError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("{what} {}: not done before the deadline; {left} process(es) left", .path.display())]
    Deadline { what: &'static str, path: PathBuf, left: usize },
}

/// Whose birth it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newborn {
    First,
    Added,
}

/// One cgroup in all hierarchies of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    layout: Layout,
    /// Relative to each hierarchy's root: `killick/pod<uid>/web`.
    #[serde(deserialize_with = "recorded_path")]
    path: PathBuf,
    /// Whether the v2 tree holds this cgroup too: always on pure v2, on a hybrid host only where a limit needs it.
    unified: bool,
    /// systemd makes, changes and ends it, over D-Bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
}

/// A record says what is killed and removed: never a hierarchy's root, nor anything outside.
fn recorded_path<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    let is_plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if is_plain && !path.as_os_str().is_empty() {
        Ok(path)
    } else {
        Err(serde::de::Error::custom(format!("{path:?} is no path of a cgroup of ours")))
    }
}

/// v2 controllers that are enabled for children, where the host has them.
const V2_CONTROLLERS: [&str; 8] = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];

/// How often a blocking wait looks: short at first, since a killed process is gone after ~0.1 ms.
const WAIT_FIRST: Duration = Duration::from_micros(100);
const WAIT_LONGEST: Duration = Duration::from_millis(10);

impl Cgroup {
    /// Makes the cgroup with its limits; what was made is removed again when a step fails. Parents are made without
    /// limits where they are missing. The cgroup must hold no process.
    pub fn create(layout: &Layout, path: impl AsRef<Path>, resources: &LinuxResources) -> Result<Cgroup, CgroupError> {
        let mut cgroup = Cgroup::open(layout, path)?;
        let writes = resources::plan(resources, |controller| version_of(layout, controller))?;
        cgroup.unified = layout.is_v2() || writes.iter().any(|w| w.version == Version::V2 && needs(layout, w));
        let mut made = Vec::new();
        let done = cgroup
            .make(&mut made)
            .and_then(|()| cgroup.check_unused())
            .and_then(|()| Ok(crate::devices::apply(&cgroup, resources)?))
            .and_then(|()| cgroup.carry_out(&writes));
        match done {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                for directory in made.iter().rev() {
                    // The first error is the one to tell; what stays is found by the next `stale`.
                    let _ = files::rmdir(directory);
                }
                Err(error)
            }
        }
    }

    /// The cgroup at `path`, made or not: for take-over and for removing what an earlier shim left.
    pub fn open(layout: &Layout, path: impl AsRef<Path>) -> Result<Cgroup, CgroupError> {
        let path = path.as_ref();
        let clean: PathBuf = path.strip_prefix("/").unwrap_or(path).components().collect();
        let plain = clean.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if !plain || clean.as_os_str().is_empty() || path.to_str().is_none_or(|p| p.contains(['\n', '\0'])) {
            return Err(CgroupError::Path(path.to_owned()));
        }
        if layout.v1.is_empty() && layout.unified.is_none() {
            return Err(CgroupError::NoHierarchy);
        }
        let mut cgroup = Cgroup { layout: layout.clone(), path: clean, unified: layout.is_v2(), unit: None };
        cgroup.unified = cgroup.unified || cgroup.unified_dir().is_some_and(|dir| dir.is_dir());
        Ok(cgroup)
    }

    /// Relative to the roots of the hierarchies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The unit of systemd's that it is.
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// Changes limits of a running container. Devices are changed only when `resources` lists some. Warnings: what an old
    /// systemd does not know.
    pub fn set(&self, resources: &LinuxResources) -> Result<Vec<String>, CgroupError> {
        let rounded = self.unit.as_ref().map(|_| properties::rounded(resources));
        let resources = rounded.as_ref().unwrap_or(resources);
        let writes = resources::plan(resources, |controller| version_of(&self.layout, controller))?;
        if let Some(memory) = resources.memory()
            && memory.check_before_update() == Some(true)
            && let Some(limit) = memory.limit().filter(|l| *l > 0)
            && self.memory_usage()?.is_some_and(|usage| usage > limit.unsigned_abs())
        {
            return Err(CgroupError::BelowUsage { limit });
        }
        let warnings = match &self.unit {
            Some(unit) => self.set_unit(unit, resources)?,
            None => Vec::new(),
        };
        if resources.devices().is_some() {
            crate::devices::apply(self, resources)?;
        }
        self.carry_out(&writes)?;
        Ok(warnings)
    }

    /// The cgroup is there: in the hierarchy by which its processes are known.
    pub fn exists(&self) -> bool {
        self.primary().dir.is_dir()
    }

    /// What a child needs to enter by itself: the v1 `tasks` files open, the v2 directory.
    pub fn attach(&self) -> Result<Attach, CgroupError> {
        let mut attach = Attach::default();
        for hierarchy in &self.layout.v1 {
            let tasks = files::open_write(&hierarchy.mount_point.join(&self.path).join("tasks"))?;
            attach.tasks.push(std::sync::Arc::new(tasks));
        }
        if let Some(dir) = self.unified_dir().filter(|_| self.unified) {
            attach.dir = Some(files::open_dir(&dir)?);
            attach.procs = Some(files::open_write(&dir.join("cgroup.procs"))?);
        }
        Ok(attach)
    }

    /// Where the cgroup is: for v1 the base name of each hierarchy's mount (`cpu,cpuacct`) and the directory, for v2 an
    /// empty name. What a container sees below `/sys/fs/cgroup` is made of these.
    pub fn dirs(&self) -> Vec<(String, PathBuf)> {
        let v1 = self.layout.v1.iter().map(|hierarchy| {
            let name = hierarchy.mount_point.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, hierarchy.mount_point.join(&self.path))
        });
        let v2 = self.unified_dir().filter(|_| self.layout.is_v2()).map(|dir| (String::new(), dir));
        v1.chain(v2).collect()
    }

    /// The processes in the cgroup and below it. Zombies are not among them.
    pub fn processes(&self) -> Result<Vec<libc::pid_t>, CgroupError> {
        kill::processes_below(&self.primary().dir)
    }

    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        Ok(self.processes()?.is_empty())
    }

    /// Starts killing everything in the cgroup; see `Kill::step`.
    pub fn kill(&self) -> Kill {
        Kill::new(self.primary())
    }

    /// Sends a signal to every process of the cgroup and below; how many got it. For SIGKILL use `kill`, which no fork
    /// outruns.
    pub fn signal_all(&self, signal: i32) -> Result<usize, CgroupError> {
        kill::signal(&self.primary(), &self.processes()?, signal)
    }

    /// Kills everything in the cgroup and waits until it is empty.
    pub fn kill_all(&self, deadline: Instant) -> Result<(), CgroupError> {
        self.kill().finish(deadline)
    }

    /// Waits until the cgroup holds no process.
    pub fn wait_empty(&self, deadline: Instant) -> Result<(), CgroupError> {
        let left = wait_until(deadline, || Ok(self.processes()?.len()))?;
        if left == 0 { Ok(()) } else { Err(self.late("wait until empty", left)) }
    }

    /// Removes the cgroup and what was made below it. `Ok(false)`: busy, call again (a shared PID namespace's last
    /// processes need ~0.1 ms after they were killed). All hierarchies are tried before the first error is returned.
    pub fn remove_step(&self) -> Result<bool, CgroupError> {
        let mut gone = true;
        let mut first_error = None;
        for dir in self.all_dirs() {
            match remove_tree(&dir, 0) {
                Ok(removed) => gone &= removed,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            None => Ok(gone),
            Some(error) => Err(error.into()),
        }
    }

    /// Removes the cgroup, waiting while it is busy. A unit is stopped first; what systemd leaves is removed even when it
    /// does not answer.
    pub fn remove(&self, deadline: Instant) -> Result<(), CgroupError> {
        let stopped = self.unit.as_ref().map_or(Ok(()), |unit| Cgroup::stop_unit(unit, deadline));
        self.remove_dirs(deadline.max(Instant::now() + unit::FILES_LEAST)).and(stopped)
    }

    fn remove_dirs(&self, deadline: Instant) -> Result<(), CgroupError> {
        let left = wait_until(deadline, || Ok(usize::from(!self.remove_step()?)))?;
        if left == 0 { Ok(()) } else { Err(self.late("remove", self.processes()?.len())) }
    }

    /// Removes the parent if nothing is in it: after the last pod, `killick` itself.
    pub fn remove_parent_if_unused(&self) -> Result<(), CgroupError> {
        let Some(parent) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
        for root in self.roots() {
            files::rmdir(&root.join(parent))?;
        }
        Ok(())
    }

    /// Asks the kernel to freeze the cgroup; `Ok(true)` when every process of it has stopped.
    pub fn freeze_step(&self) -> Result<bool, CgroupError> {
        let (file, value) = self.freezer()?;
        let frozen = if value == Version::V2 { "1" } else { "FROZEN" };
        files::write(&file, frozen)?;
        self.is_frozen()
    }

    /// Freezes, or thaws again and fails when that takes longer than the deadline.
    pub fn freeze(&self, deadline: Instant) -> Result<(), CgroupError> {
        match wait_until(deadline, || Ok(usize::from(!self.freeze_step()?))) {
            Ok(0) => Ok(()),
            failed => {
                let thawed = self.thaw();
                failed?;
                thawed?;
                Err(self.late("freeze", self.processes()?.len()))
            }
        }
    }

    /// Thaws; a cgroup that is not frozen, or gone, is thawed.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        let (file, version) = self.freezer()?;
        let value = if version == Version::V2 { "0" } else { "THAWED" };
        match files::write(&file, value) {
            Err(error) if !matches!(error.errno(), Errno::ENOENT | Errno::ENODEV) => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        let (file, version) = self.freezer()?;
        Ok(match version {
            Version::V1 => files::read_if_present(&file)?.is_some_and(|text| text.trim() == "FROZEN"),
            Version::V2 => files::read_if_present(&file.with_file_name("cgroup.events"))?
                .is_some_and(|text| text.lines().any(|line| line == "frozen 1")),
        })
    }

    /// How many processes of the cgroup the OOM killer has killed since it was made; `None` where the kernel does not
    /// count them (v1 before 4.13) or the controller is missing.
    pub fn oom_kills(&self) -> Result<Option<u64>, CgroupError> {
        let Some((file, _)) = self.oom_file() else { return Ok(None) };
        Ok(files::read_if_present(&file)?.and_then(|text| keyed(&text, "oom_kill")))
    }

    /// Why a process of the cgroup did not come to be, in the words that kubelet's readers know where the OOM killer had
    /// a hand in it. `kills` is what `oom_kills` said before.
    pub fn explain(&self, error: &LaunchError, kills: Option<u64>, who: Newborn) -> String {
        let killed = self.oom_kills().ok().flatten().unwrap_or(0) > kills.unwrap_or(0);
        match (error, who) {
            (LaunchError::Died(_), Newborn::First) if killed => {
                "container init was OOM-killed (memory limit too low?)".to_owned()
            }
            (_, Newborn::Added) if killed => format!("{error} (possibly OOM-killed)"),
            _ => error.to_string(),
        }
    }

    /// Watches for OOM kills; `None` without a memory controller.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>, CgroupError> {
        match self.oom_file() {
            Some((file, version)) => Ok(Some(OomWatch::open(&file, version)?)),
            None => Ok(None),
        }
    }

    /// All counters, in the shape that containerd has for this host's cgroup version.
    pub fn stats(&self) -> Result<Metrics, CgroupError> {
        stats::read(self)
    }

    /// A file of the cgroup in the hierarchy that carries `controller`; None where there is none.
    pub fn file(&self, controller: &str, name: &str) -> Result<Option<String>, CgroupError> {
        match self.dir_of(controller) {
            Some((dir, _)) => Ok(files::read_if_present(&dir.join(name))?),
            None => Ok(None),
        }
    }

    /// Leaf cgroups for execs into this container.
    pub fn leaf_pool(&self) -> LeafPool {
        LeafPool::new(self.clone())
    }

    /// The directory in the hierarchy that carries `controller`, v1 or v2, if this cgroup is there.
    pub(crate) fn dir_of(&self, controller: &str) -> Option<(PathBuf, Version)> {
        if let Some(hierarchy) = self.layout.v1_hierarchy(controller) {
            return Some((hierarchy.mount_point.join(&self.path), Version::V1));
        }
        let on_v2 = self.unified && (controller.is_empty() || self.layout.unified_has(controller));
        self.unified_dir().filter(|_| on_v2).map(|dir| (dir, Version::V2))
    }

    pub(crate) fn unified_dir(&self) -> Option<PathBuf> {
        self.layout.unified.as_ref().map(|u| u.mount_point.join(&self.path))
    }

    /// The hierarchy by which membership is read and processes are killed: v2; else `pids`, whose limit stops forks;
    /// else `freezer`; else whatever comes first.
    fn primary(&self) -> kill::Place {
        let v1 = ["pids", "freezer", "memory"].iter().find_map(|c| self.layout.v1_hierarchy(c));
        match v1.or(self.layout.v1.first()) {
            Some(hierarchy) => kill::Place {
                dir: hierarchy.mount_point.join(&self.path),
                controller: hierarchy.controllers.first().cloned().unwrap_or_default(),
                path: self.path.clone(),
                freezer: self.layout.v1_hierarchy("freezer").map(|f| f.mount_point.join(&self.path)),
            },
            None => kill::Place {
                dir: self.unified_dir().expect("open() refuses a host without any hierarchy"),
                controller: String::new(),
                path: self.path.clone(),
                freezer: None,
            },
        }
    }

    fn roots(&self) -> impl Iterator<Item = &Path> {
        let unified = self.layout.unified.as_ref().filter(|_| self.unified).map(|u| u.mount_point.as_path());
        self.layout.v1.iter().map(|h| h.mount_point.as_path()).chain(unified)
    }

    pub(crate) fn all_dirs(&self) -> Vec<PathBuf> {
        self.roots().map(|root| root.join(&self.path)).collect()
    }

    fn late(&self, what: &'static str, left: usize) -> CgroupError {
        CgroupError::Deadline { what, path: self.path.clone(), left }
    }

    fn freezer(&self) -> Result<(PathBuf, Version), CgroupError> {
        if let Some(hierarchy) = self.layout.v1_hierarchy("freezer") {
            return Ok((hierarchy.mount_point.join(&self.path).join("freezer.state"), Version::V1));
        }
        // On v2 freezing is of every cgroup, not a controller's (5.2).
        match self.unified_dir().filter(|_| self.unified).map(|dir| dir.join("cgroup.freeze")) {
            Some(file) => Ok((file, Version::V2)),
            None => Err(CgroupError::NoController {
                file: "freezer.state".to_owned(),
                value: "FROZEN".to_owned(),
                controller: "freezer".to_owned(),
                why: "not mounted",
            }),
        }
    }

    fn oom_file(&self) -> Option<(PathBuf, Version)> {
        self.dir_of("memory").map(|(dir, version)| match version {
            Version::V1 => (dir.join("memory.oom_control"), version),
            Version::V2 => (dir.join("memory.events"), version),
        })
    }

    fn memory_usage(&self) -> Result<Option<u64>, CgroupError> {
        let Some((dir, version)) = self.dir_of("memory") else { return Ok(None) };
        let file = if version == Version::V1 { "memory.usage_in_bytes" } else { "memory.current" };
        Ok(files::read_if_present(&dir.join(file))?.and_then(|text| text.trim().parse().ok()))
    }

    /// Makes the directories, from the roots down. `made` gets each that was not there before.
    fn make(&self, made: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
        self.make_v1(made)?;
        if let Some(unified) = self.layout.unified.as_ref().filter(|_| self.unified) {
            let wanted: Vec<&str> = V2_CONTROLLERS.into_iter().filter(|c| self.layout.unified_has(c)).collect();
            self.make_below(&unified.mount_point, made, |parent, _, _| enable_controllers(parent, &wanted))?;
        }
        Ok(())
    }

    fn make_v1(&self, made: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
        for hierarchy in &self.layout.v1 {
            let cpuset = hierarchy.has("cpuset");
            // A pod's second container finds all parents made: one call instead of three.
            let leaf = hierarchy.mount_point.join(&self.path);
            if !hierarchy.has("memory") && files::mkdir(&leaf).unwrap_or(false) {
                made.push(leaf.clone());
                if cpuset {
                    inherit_cpuset(&hierarchy.mount_point, &leaf)?;
                }
                continue;
            }
            self.make_below(&hierarchy.mount_point, made, |_, dir, new| {
                if cpuset {
                    inherit_cpuset(&hierarchy.mount_point, dir)?;
                }
                if new && hierarchy.has("memory") {
                    // Before 5.11 a pod's limit counts its containers only with this; later kernels know no other way.
                    let _ = files::write(&dir.join("memory.use_hierarchy"), "1");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// mkdir -p of the path below `root`; `each(parent, dir, is new)` runs for every level.
    fn make_below(
        &self,
        root: &Path,
        made: &mut Vec<PathBuf>,
        mut each: impl FnMut(&Path, &Path, bool) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        // Another shim that takes its last pod away may remove a parent under our feet: start again from the root.
        const TRIES_MAX: u32 = 16;
        let mut tries = 0;
        'again: loop {
            let mut dir = root.to_owned();
            for component in self.path.components() {
                let parent = dir.clone();
                dir.push(component);
                let done = files::mkdir(&dir).map_err(CgroupError::from).and_then(|new| {
                    if new {
                        made.push(dir.clone());
                    }
                    each(&parent, &dir, new)
                });
                match done {
                    Ok(()) => {}
                    Err(CgroupError::File(error)) if error.errno() == Errno::ENOENT && tries < TRIES_MAX => {
                        tries += 1;
                        continue 'again;
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
    }

    /// A cgroup that holds processes, is frozen or threaded is somebody else's.
    fn check_unused(&self) -> Result<(), CgroupError> {
        let primary = self.primary();
        let count = kill::processes_below(&primary.dir)?.len();
        if count > 0 {
            return Err(CgroupError::NotEmpty { path: primary.dir, count });
        }
        if self.freezer().is_ok() && self.is_frozen()? {
            return Err(CgroupError::Frozen(self.path.clone()));
        }
        if let Some(dir) = self.unified_dir().filter(|_| self.unified)
            && let Some(kind) = files::read_if_present(&dir.join("cgroup.type"))?
            && kind.trim() != "domain"
        {
            let kind = if kind.trim() == "domain invalid" { "an invalid state" } else { "threaded mode" };
            return Err(CgroupError::Threaded { path: self.path.clone(), kind: kind.to_owned() });
        }
        Ok(())
    }

    /// Writes in order. A value that the kernel finds invalid beside another one that is still to come (memory and
    /// memory+swap, period and quota, burst and quota) is tried once more after the others.
    fn carry_out(&self, writes: &[Write]) -> Result<(), CgroupError> {
        let mut later: Vec<&Write> = Vec::new();
        for write in writes {
            match self.write_one(write) {
                Err(CgroupError::File(error)) if error.errno() == Errno::EINVAL && !write.controller.is_empty() => {
                    later.push(write);
                }
                done => done?,
            }
        }
        later.into_iter().try_for_each(|write| self.write_one(write))
    }

    fn write_one(&self, write: &Write) -> Result<(), CgroupError> {
        let dir = match write.version {
            Version::V1 => self.layout.v1_hierarchy(write.controller).map(|h| h.mount_point.join(&self.path)),
            Version::V2 => self.unified_dir().filter(|_| self.unified),
        };
        let missing = |why| match (write.tolerate, write.choices.first()) {
            (Tolerate::Missing | Tolerate::Refused, _) | (_, None) => Ok(()),
            (Tolerate::Nothing, Some((file, value))) => Err(CgroupError::NoController {
                file: file.clone(),
                value: value.clone(),
                controller: file.split('.').next().unwrap_or_default().to_owned(),
                why,
            }),
        };
        let Some(dir) = dir else { return missing("no hierarchy carries it") };
        let Some((file, value)) = write.choices.iter().find(|(file, _)| dir.join(file).exists()) else {
            return missing("the kernel has no such file in the cgroup; the controller may not be enabled for it");
        };
        if file.starts_with("cpu.rt_") {
            self.write_to_ancestors(&dir, file, value)?;
        }
        match files::write(&dir.join(file), value) {
            Err(_) if write.tolerate == Tolerate::Refused => Ok(()),
            done => Ok(done?),
        }
    }

    /// Real-time budgets are handed down: a cgroup cannot have what its parent has not.
    fn write_to_ancestors(&self, dir: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
        let mut ancestors: Vec<&Path> = dir.ancestors().skip(1).take(self.path.components().count() - 1).collect();
        ancestors.reverse();
        for ancestor in ancestors {
            let now = files::read_if_present(&ancestor.join(file))?.and_then(|text| text.trim().parse::<i64>().ok());
            if now.is_some_and(|now| value.parse().is_ok_and(|wanted: i64| now < wanted)) {
                files::write(&ancestor.join(file), value)?;
            }
        }
        Ok(())
    }
}

/// Uids of pods that have a cgroup `<root>/pod<uid>` in any hierarchy, sorted. The caller knows which of them have a
/// pod directory; the others are killed and removed with `Cgroup::open`.
pub fn pods_below(layout: &Layout, root: &str) -> Result<Vec<String>, CgroupError> {
    let roots = layout.v1.iter().map(|h| &h.mount_point).chain(layout.unified.iter().map(|u| &u.mount_point));
    let mut uids = BTreeSet::new();
    for mount_point in roots {
        for child in files::children(&mount_point.join(root))? {
            if let Some(uid) = child.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("pod")) {
                uids.insert(uid.to_owned());
            }
        }
    }
    Ok(uids.into_iter().collect())
}

pub(crate) fn version_of(layout: &Layout, controller: &str) -> Version {
    if layout.is_v2() || (layout.v1_hierarchy(controller).is_none() && layout.unified_has(controller)) {
        Version::V2
    } else {
        Version::V1
    }
}

/// Whether a v2 write makes the v2 tree necessary on a hybrid host.
fn needs(layout: &Layout, write: &Write) -> bool {
    write.controller.is_empty() || layout.unified_has(write.controller)
}

/// v1: a cpuset without CPUs or memory nodes takes no process (ENOSPC), and a new one has none: they come from the
/// parent, which may be as new, down from the hierarchy's root.
fn inherit_cpuset(root: &Path, dir: &Path) -> Result<(), CgroupError> {
    for file in ["cpus", "mems"] {
        // Mounted with `noprefix` (as cpuset file systems are) the files have no prefix.
        let names = [format!("cpuset.{file}"), file.to_owned()];
        if let Some(name) = names.iter().find(|name| dir.join(name).exists()) {
            inherit_value(root, dir, name)?;
        }
    }
    Ok(())
}

fn inherit_value(root: &Path, dir: &Path, file: &str) -> Result<String, CgroupError> {
    let value = files::read(&dir.join(file))?.trim().to_owned();
    match dir.parent() {
        Some(parent) if value.is_empty() && dir != root => {
            let inherited = inherit_value(root, parent, file)?;
            files::write(&dir.join(file), &inherited)?;
            Ok(inherited)
        }
        Some(_) | None => Ok(value),
    }
}

/// v2: hands controllers down to the children of `dir`: all at once, else those that go one by one. One that cannot
/// be enabled (EBUSY: the cgroup has processes of its own, EINVAL: real-time processes) is noticed when a limit
/// needs its file.
fn enable_controllers(dir: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let file = dir.join("cgroup.subtree_control");
    let enabled = files::read(&file)?;
    let missing: Vec<String> =
        wanted.iter().filter(|c| !enabled.split_whitespace().any(|e| e == **c)).map(|c| format!("+{c}")).collect();
    if missing.is_empty() || files::write(&file, &missing.join(" ")).is_ok() {
        return Ok(());
    }
    for controller in &missing {
        let _ = files::write(&file, controller);
    }
    Ok(())
}

/// Removes `dir` and the cgroups below it, children first. `Ok(false)`: something in it is busy.
fn remove_tree(dir: &Path, depth: u32) -> Result<bool, CgroupFileError> {
    // Plain rmdir first: most cgroups have no children. A tree deeper than this is somebody's joke: it stays busy.
    const DEPTH_MAX: u32 = 256;
    if files::rmdir(dir)? {
        return Ok(true);
    }
    if depth < DEPTH_MAX {
        for child in files::children(dir)? {
            remove_tree(&child, depth + 1)?;
        }
    }
    files::rmdir(dir)
}

/// Calls `left` until it says 0 or the deadline has passed; the last answer.
fn wait_until(deadline: Instant, mut left: impl FnMut() -> Result<usize, CgroupError>) -> Result<usize, CgroupError> {
    let mut pause = WAIT_FIRST;
    loop {
        let now_left = left()?;
        if now_left == 0 || Instant::now() >= deadline {
            return Ok(now_left);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(WAIT_LONGEST);
    }
}

/// The value of `key` in a file of `key value` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}
