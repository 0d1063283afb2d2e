//! A cgroup that is a unit of systemd's (`crate::systemd`): what systemd makes, and what is left to the files.
//!
//! A scope needs its process: the child is born outside and waits at its first gate while `start_unit` runs. Everything here blocks, at most `systemd::DEADLINE`; for commands and workers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use killick_sys::cgroup as files;

use super::{Cgroup, CgroupError, Layout, needs, version_of};
use crate::devices::DeviceError;
use crate::resources::{self, Version};
use crate::systemd::annotations;
use crate::systemd::properties::{self, Host, Property};
use crate::systemd::{self, Manager, Start, SystemdError, Unit};

/// What a unit is started with.
#[derive(Debug)]
pub struct UnitStart<'a> {
    /// The first process, which waits at its first gate; None for a slice.
    pub pid: Option<i32>,
    pub description: String,
    pub resources: &'a LinuxResources,
    /// Of the container: those named `org.systemd.property.…` are the unit's.
    pub annotations: &'a std::collections::HashMap<String, String>,
}

/// How often a directory is made again that systemd has taken away.
const TRIES_MAX: u32 = 16;
const SYSTEMDS_OWN: &str = "name=systemd";

impl Cgroup {
    /// The cgroup that a unit will have, made or not.
    pub fn open_unit(layout: &Layout, unit: &Unit) -> Result<Cgroup, CgroupError> {
        let path = unit.cgroup_path();
        if path.as_os_str().is_empty() {
            return Err(CgroupError::Path(PathBuf::from(&unit.name)));
        }
        let mut cgroup = Cgroup::open(layout, path)?;
        cgroup.unit = Some(unit.clone());
        Ok(cgroup)
    }

    /// Before the birth of a scope's first process: what can be refused is refused. `start_unit` makes it.
    pub fn prepare_unit(layout: &Layout, unit: &Unit, start: &UnitStart<'_>) -> Result<Cgroup, CgroupError> {
        let cgroup = Cgroup::open_unit(layout, unit)?;
        annotations::properties(start.annotations).map_err(SystemdError::from)?;
        resources::plan(start.resources, |controller| version_of(layout, controller))?;
        if let Some(devices) = start.resources.devices() {
            crate::devices::parse(devices)?;
        }
        cgroup.check_unused()?;
        Ok(cgroup)
    }

    /// A slice, which systemd makes empty: made with its limits, to be entered as any other cgroup.
    pub fn create_slice(
        layout: &Layout,
        unit: &Unit,
        start: &UnitStart<'_>,
    ) -> Result<(Cgroup, Vec<String>), CgroupError> {
        let mut cgroup = Cgroup::prepare_unit(layout, unit, start)?;
        // A slice that was there is not ours to stop.
        let existed = cgroup.exists();
        let done = cgroup.start_unit(start, Instant::now() + systemd::DEADLINE);
        match done.and_then(|warnings| cgroup.check_unused().map(|()| warnings)) {
            Ok(warnings) => Ok((cgroup, warnings)),
            Err(error) => {
                if !existed {
                    // The first error is the one to tell.
                    let _ = cgroup.remove(Instant::now() + systemd::DEADLINE);
                }
                Err(error)
            }
        }
    }

    /// Has systemd make the unit, and writes what systemd cannot say. Warnings: what this systemd does not know.
    pub fn start_unit(&mut self, start: &UnitStart<'_>, deadline: Instant) -> Result<Vec<String>, CgroupError> {
        let Some(unit) = self.unit.clone() else { return Ok(Vec::new()) };
        let resources = properties::rounded(start.resources);
        let annotated = annotations::properties(start.annotations).map_err(SystemdError::from)?;
        let writes = resources::plan(&resources, |controller| version_of(&self.layout, controller))?;
        let mut manager = Manager::connect(&unit.address, deadline)?;
        manager.ask_version(deadline)?;
        let mut wanted = self.properties(&resources, &manager);
        wanted.extend(oom_policy(&resources));
        let request = Start {
            unit: &unit,
            pid: start.pid,
            description: start.description.clone(),
            is_v2: version_of(&self.layout, "io") == Version::V2 && self.layout.v1_hierarchy("blkio").is_none(),
            annotated,
            resources: wanted,
        };
        let warnings = manager.start(request, deadline)?;
        if let Some(pid) = start.pid.filter(|_| !unit.is_slice())
            && let Err(misplaced) = self.check_place(&unit, pid)
        {
            // The place is the error to tell, whatever systemd says to a second try.
            manager.attach(&unit, pid, deadline).map_err(|_| misplaced)?;
            self.check_place(&unit, pid)?;
        }
        // Without processes systemd does not make a cgroup in every hierarchy; with them, where it has controllers.
        let here = self.unified_dir().is_some_and(|dir| dir.is_dir());
        let needed = writes.iter().any(|write| write.version == Version::V2 && needs(&self.layout, write));
        self.unified = self.layout.is_v2() || here || needed;
        let mut tries = 0;
        loop {
            let entered = self
                .make(&mut Vec::new())
                .and_then(|()| Ok(crate::devices::apply(self, &resources)?))
                .and_then(|()| start.pid.map_or(Ok(()), |pid| self.enter_beside_unit(pid)));
            match entered {
                Err(error) if is_gone(&error) && tries < TRIES_MAX => tries += 1,
                other => break other?,
            }
        }
        self.carry_out(&writes)?;
        Ok(warnings)
    }

    /// It is a scope: made with the process that is to be in it.
    pub fn awaits_process(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| !unit.is_slice())
    }

    /// A process enters every v1 hierarchy in which systemd has not put it. This is the one place where a parent writes a
    /// pid: an empty directory that the child could open beforehand is one that systemd removes at any time (it trims
    /// hierarchies in which a unit, or one of its slices, has no controller).
    fn enter_beside_unit(&self, pid: i32) -> Result<(), CgroupError> {
        let membership = files::read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let place = format!("/{}", self.path.display());
        for hierarchy in self.layout.v1.iter().filter(|hierarchy| !hierarchy.has(SYSTEMDS_OWN)) {
            let is_this = |line: &&str| {
                line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| hierarchy.has(name)))
            };
            if membership.lines().find(is_this).is_some_and(|line| line.ends_with(&place)) {
                continue;
            }
            files::write(&hierarchy.mount_point.join(&self.path).join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// The unit's properties, before the files are written.
    pub(super) fn set_unit(&self, unit: &Unit, resources: &LinuxResources) -> Result<Vec<String>, CgroupError> {
        let deadline = Instant::now() + systemd::DEADLINE;
        let mut manager = Manager::connect(&unit.address, deadline)?;
        manager.ask_version(deadline)?;
        let wanted = self.properties(resources, &manager);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        // On v1 systemd writes "deny all" before the new list: a running program would fail in between.
        let is_v1 = matches!(self.dir_of("devices"), Some((_, Version::V1)));
        let freeze = resources.devices().is_some() && is_v1 && !self.is_frozen()?;
        if freeze {
            self.freeze(deadline)?;
        }
        let set = manager.set(unit, wanted, deadline);
        if freeze {
            self.thaw()?;
        }
        Ok(set?)
    }

    /// Ends the unit; its cgroup goes with it, or is removed by the caller.
    pub(super) fn stop_unit(unit: &Unit, deadline: Instant) -> Result<(), CgroupError> {
        // The files have their own time, whatever systemd does.
        let deadline = deadline.min(Instant::now() + systemd::DEADLINE);
        Manager::connect(&unit.address, deadline)?.stop(unit, deadline)?;
        Ok(())
    }

    fn properties(&self, resources: &LinuxResources, manager: &Manager) -> Vec<Property> {
        let host = Host {
            version_of: &|controller| version_of(&self.layout, controller),
            systemd: manager.version(),
            driver: &systemd::driver_name,
        };
        properties::of_resources(resources, &host)
    }

    /// systemd may be in another PID namespace, or have the unit elsewhere: then the limits would be nobody's.
    fn check_place(&self, unit: &Unit, pid: i32) -> Result<(), CgroupError> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = files::read(&path)?;
        let wanted = format!("/{}", self.path.display());
        let hierarchy = match self.layout.is_v2() {
            true => "",
            false if self.layout.v1_hierarchy(SYSTEMDS_OWN).is_some() => SYSTEMDS_OWN,
            // Nothing of systemd's is mounted in our sight.
            false => return Ok(()),
        };
        let lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let found = lines.filter(|(controllers, _)| *controllers == hierarchy).map(|(_, at)| at).next();
        match found {
            // Our own view of the hierarchy may begin below its root.
            Some(at) if at.ends_with(&wanted) => Ok(()),
            other => {
                let (unit, found) = (unit.name.clone(), other.unwrap_or_default().to_owned());
                Err(SystemdError::Misplaced { unit, pid, found, wanted }.into())
            }
        }
    }
}

/// What was made a moment ago is there no more.
fn is_gone(error: &CgroupError) -> bool {
    match error {
        CgroupError::File(error) | CgroupError::Devices(DeviceError::File(error)) => {
            matches!(error.errno(), Errno::ENOENT | Errno::ENODEV)
        }
        _ => false,
    }
}

/// `memory.oom.group` as systemd says it (253): it can be told only when the unit starts.
fn oom_policy(resources: &LinuxResources) -> Option<Property> {
    let group = resources.unified().as_ref()?.get("memory.oom.group")?;
    let policy = if group.trim() == "1" { "kill" } else { "continue" };
    Some(("OOMPolicy".to_owned(), systemd::wire::Value::text(policy)))
}

/// Counters that outlive their cgroup: a scope goes with its last process, before anybody asks how it was.
#[derive(Debug, Default)]
pub struct LastSeen {
    metrics: Option<super::Metrics>,
    oom_kills: Option<u64>,
}

impl LastSeen {
    /// The counters now; those read last when the cgroup has gone.
    pub fn stats(&mut self, cgroup: &Cgroup) -> Result<super::Metrics, CgroupError> {
        let now = cgroup.stats()?;
        // Looked at after the reading: what was there then was there before.
        if cgroup.exists() || self.metrics.is_none() {
            self.metrics = Some(now.clone());
            return Ok(now);
        }
        Ok(self.metrics.clone().unwrap_or(now))
    }

    /// As `Cgroup::oom_kills`, and after the cgroup's end what it was when it was read last.
    pub fn oom_kills(&mut self, cgroup: &Cgroup) -> Result<Option<u64>, CgroupError> {
        self.oom_kills = cgroup.oom_kills()?.or(self.oom_kills);
        Ok(self.oom_kills)
    }
}

/// What is left for the files when systemd has taken all of the time.
pub(super) const FILES_LEAST: Duration = Duration::from_secs(1);
