//! What is read from others, as functions of bytes: for the fuzz targets (fuzz/) and their short kin in tests. None may
//! panic, and every refusal is one line.

use crate::bundle::{BundleRequest, plan_text};
use crate::cgroup::Cgroup;
use crate::request::Stdio;
use crate::sandbox::SandboxRecord;
use crate::seccomp::{Kernel, compile};
use crate::state::Record;
use crate::{config, hooks, resources, support};
use killick_sys::facts::Facts;
use killick_sys::fd;
use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde_json::Value;
use std::path::Path;

fn json(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// A config.json up to its plan, which is not run. `cgroup` is an existing one.
pub fn config(bytes: &[u8], bundle: &Path, cgroup: &Cgroup) -> Result<String, String> {
    // As killick-oci tells it.
    planned(bytes, bundle, cgroup).map_err(|why| config::one_line(&why))
}

fn planned(bytes: &[u8], bundle: &Path, cgroup: &Cgroup) -> Result<String, String> {
    let mut value = json(bytes)?;
    support::check(&mut value)?;
    let spec: Spec = config::typed(&value, "")?;
    let linux = spec.linux().as_ref();
    let wanted = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
    for version in [resources::Version::V1, resources::Version::V2] {
        resources::plan(&wanted, |_| version).map_err(|error| error.to_string())?;
    }
    let seccomp = match linux.and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => Some(compile(profile, &Kernel::detect()).map_err(|error| error.to_string())?),
        None => None,
    };
    let state = hooks::state("1.2.1", "fuzz", bundle, &spec);
    let (gate, _other) = fd::pipe().map_err(|error| error.to_string())?;
    let request = BundleRequest {
        id: "fuzz".into(),
        bundle,
        spec: &spec,
        cgroup,
        seccomp,
        stdio: Stdio::null().map_err(|error| error.to_string())?,
        inherited: Vec::new(),
        env: Vec::new(),
        keyring: None,
        no_pivot: false,
        gate: Some(gate),
        state: &state,
    };
    plan_text(&Facts::detect(), request).map_err(|error| error.to_string())
}

/// A seccomp profile up to its filter.
pub fn seccomp(bytes: &[u8]) -> Result<usize, String> {
    let profile: LinuxSeccomp = config::typed(&json(bytes)?, "linux.seccomp")?;
    let filter = compile(&profile, &Kernel::detect()).map_err(|error| error.to_string())?;
    Ok(filter.program.len())
}

/// A process to be added.
pub fn process(bytes: &[u8]) -> Result<(), String> {
    let mut value = json(bytes)?;
    support::check_process(&mut value)?;
    config::typed::<oci_spec::runtime::Process>(&value, "process").map(drop)
}

/// What we kept ourselves: records of containers, sandboxes and cgroups. None leads to a process that is not the one
/// recorded, nor to a cgroup that is not below a root.
pub fn record(bytes: &[u8]) -> Result<(), String> {
    let value = json(bytes)?;
    let record = config::typed::<Record>(&value, "record").map(|record| drop(crate::reopen(record)));
    let sandbox = config::typed::<SandboxRecord>(&value, "record").map(|record| drop(crate::sandbox::reopen(record)));
    let cgroup = config::typed::<Cgroup>(&value, "cgroup").map(|cgroup| {
        assert!(cgroup.dirs().iter().all(|(_, dir)| dir.ends_with(cgroup.path())), "a cgroup outside its root");
        assert!(!cgroup.path().as_os_str().is_empty(), "a hierarchy's root");
    });
    record.or(sandbox).or(cgroup)
}
