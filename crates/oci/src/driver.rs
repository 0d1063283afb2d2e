//! Where a container's cgroup is, and who makes it: the files, or systemd (`--systemd-cgroup`, `cgroupsPath`'s form).

use crate::Context;
use killick_container::cgroup::{Cgroup, CgroupError, Layout, UnitStart};
use killick_container::systemd::{self, SystemdError};
use oci_spec::runtime::Spec;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The cgroup of a container without a state yet.
pub const PLANNED_CGROUP: &str = "cgroup.json";

/// `cgroupsPath` from the root of the hierarchies, absolute or not, or as a unit; without one, the id. A scope is only
/// prepared: systemd makes it with the process that is to be in it (`start_unit`).
pub fn make(
    context: &Context,
    spec: &Spec,
    id: &str,
    dir: &Path,
    unit_start: &UnitStart<'_>,
) -> Result<Cgroup, String> {
    let layout = Layout::detect().map_err(|error| error.to_string())?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let text = path.as_ref().map(|path| path.to_string_lossy());
    let unit = systemd::choose(context.driver, text.as_deref(), id).map_err(|error| error.to_string())?;
    if let Some(unit) = unit {
        let planned = Cgroup::open_unit(&layout, &unit).map_err(|error| error.to_string())?;
        plan(dir, &planned)?;
        if !unit.is_slice() {
            return Cgroup::prepare_unit(&layout, &unit, unit_start).map_err(|error| error.to_string());
        }
        let made = Cgroup::create_slice(&layout, &unit, unit_start).map_err(|error| error.to_string());
        return made.map(|(cgroup, warnings)| {
            warnings.iter().for_each(|warning| context.log.warn(warning));
            cgroup
        });
    }
    let path = path.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from(id));
    let path = cleaned(&path);
    plan(dir, &Cgroup::open(&layout, &path).map_err(|error| error.to_string())?)?;
    Cgroup::create(&layout, &path, unit_start.resources).map_err(|error| error.to_string())
}

/// Before it is made: a killed create must not leave one that nobody finds. One that is there already is not ours to
/// remove.
fn plan(dir: &Path, planned: &Cgroup) -> Result<(), String> {
    if planned.dirs().iter().any(|(_, dir)| dir.exists()) {
        return Ok(());
    }
    let text = serde_json::to_vec(planned).map_err(|error| error.to_string())?;
    fs::write(dir.join(PLANNED_CGROUP), text).map_err(|error| format!("write {PLANNED_CGROUP}: {error}"))
}

/// Whose the unit is that stands where ours failed to start.
#[derive(Debug)]
pub enum Failed {
    Ours(String),
    Foreign(String),
}

/// Has systemd take the process at its first gate into its scope.
pub fn start_unit(context: &Context, cgroup: &mut Cgroup, start: &UnitStart<'_>) -> Result<(), Failed> {
    let words = |error: &CgroupError| format!("unable to apply cgroup configuration: {error}");
    match cgroup.start_unit(start, Instant::now() + systemd::DEADLINE) {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| context.log.warn(warning));
            Ok(())
        }
        Err(error @ CgroupError::Systemd(SystemdError::Exists(_))) => Err(Failed::Foreign(words(&error))),
        Err(error) => Err(Failed::Ours(words(&error))),
    }
}

/// Without `..`: nothing leads out of the hierarchies.
fn cleaned(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::RootDir | std::path::Component::CurDir | std::path::Component::Prefix(_) => {}
        }
    }
    clean
}
