//! A bundle is read: config.json checked whole, paths made absolute.

use crate::cgroup::{Layout, version_of};
use crate::resources::{self, Version};
use killick_sys::error::plain;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// No configuration is longer.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug)]
pub struct Bundle {
    pub path: PathBuf,
    pub rootfs: PathBuf,
    pub config: Value,
    pub spec: Spec,
    pub warnings: Vec<String>,
}

impl Bundle {
    /// `config_file`: the configuration is not the bundle's own.
    pub fn read(given: &str, config_file: Option<&str>) -> Result<Self, String> {
        let path = fs::canonicalize(given).map_err(|error| format!("bundle {given}: {}", plain(&error)))?;
        let file = config_file.map_or_else(|| path.join("config.json"), PathBuf::from);
        let mut config = read_json(&file).map_err(|why| match file.exists() {
            true => why,
            false => format!("JSON specification file {} not found: no such file or directory", file.display()),
        })?;
        let mut warnings = crate::support::check(&mut config)?;
        let spec: Spec = typed(&config, "")?;
        warnings.extend(ignored(&spec));
        let rootfs = spec.root().as_ref().map(|root| path.join(root.path())).unwrap_or_default();
        let rootfs = fs::canonicalize(&rootfs)
            .map_err(|error| format!("invalid rootfs: stat {}: {}", rootfs.display(), plain(&error)))?;
        if !rootfs.is_dir() {
            return Err(format!("invalid rootfs: {}: not a directory", rootfs.display()));
        }
        Ok(Bundle { path, rootfs, config, spec, warnings })
    }
}

/// An error quotes what others wrote, with line ends and all: what is told is one line.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Limits that this host's cgroups do not have and nobody misses: said, and not done (as runc; crun refuses some).
fn ignored(spec: &Spec) -> Option<String> {
    let resources = spec.linux().as_ref()?.resources().as_ref()?;
    let layout = std::cell::OnceCell::new();
    let version = |controller: &str| match layout.get_or_init(|| Layout::detect().ok()) {
        Some(layout) => version_of(layout, controller),
        None => Version::V1,
    };
    let names = resources::ignored(resources, version);
    (!names.is_empty()).then(|| format!("linux.resources: cgroup v2 has no {}: ignored", names.join(", ")))
}

/// JSON as what it is meant to be; the error names the field (below `prefix`) and what is wrong with it.
pub fn typed<T: serde::de::DeserializeOwned>(json: &Value, prefix: &str) -> Result<T, String> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let path = error.path().to_string();
        let dot = if prefix.is_empty() || path == "." { "" } else { "." };
        let path = if path == "." { "" } else { path.as_str() };
        format!("{prefix}{dot}{path}: {}", error.inner())
    })
}

/// A PID namespace of its own: with its first process all others die.
pub fn has_own_pid_namespace(spec: &Spec) -> bool {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    listed.into_iter().flatten().any(|namespace| {
        let joined = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        namespace.typ() == LinuxNamespaceType::Pid && !joined
    })
}

/// Of a container's own process, for one that is added: what it does not say itself.
const INHERITED: [&str; 7] =
    ["capabilities", "apparmorProfile", "selinuxLabel", "oomScoreAdj", "scheduler", "ioPriority", "execCPUAffinity"];

/// A `process` that is added to the container of `config`, as runc completes it (oci.md §4.1).
pub fn complete_process(process: &mut Value, config: &Value) {
    let Some(first) = config.get("process").and_then(Value::as_object) else { return };
    let Some(added) = process.as_object_mut() else { return };
    added.retain(|_, value| !value.is_null());
    for key in INHERITED {
        if let Some(value) = first.get(key).filter(|_| !added.contains_key(key)) {
            added.insert(key.to_owned(), value.clone());
        }
    }
    let has_rlimits = added.get("rlimits").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
    if let Some(rlimits) = first.get("rlimits").filter(|_| !has_rlimits) {
        added.insert("rlimits".to_owned(), rlimits.clone());
    }
    if let Some(umask) = first.get("user").and_then(|user| user.get("umask"))
        && let Some(user) = added.entry("user").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
    {
        user.entry("umask").or_insert_with(|| umask.clone());
    }
}

/// A file of a caller's, with a limit to its size.
pub fn read_json(path: &Path) -> Result<Value, String> {
    let length = fs::metadata(path).map(|metadata| metadata.len());
    let length = length.map_err(|error| format!("open {}: {}", path.display(), plain(&error)))?;
    if length > CONFIG_BYTES_MAX {
        return Err(format!("{}: larger than {CONFIG_BYTES_MAX} bytes", path.display()));
    }
    let text = fs::read(path).map_err(|error| format!("open {}: {}", path.display(), plain(&error)))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_added_process_takes_over_what_it_does_not_say() {
        let config = json!({"process": {
            "args": ["init"], "cwd": "/srv", "env": ["A=1"], "oomScoreAdj": 5, "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL"]}, "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}],
            "user": {"uid": 7, "gid": 7, "umask": 63}}});
        let mut process = json!({"args": ["sh"], "cwd": "/", "capabilities": null, "rlimits": []});
        complete_process(&mut process, &config);
        assert_eq!(
            process,
            json!({
                "args": ["sh"], "cwd": "/", "oomScoreAdj": 5, "capabilities": {"bounding": ["CAP_KILL"]},
                "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}], "user": {"umask": 63}})
        );
        let own = json!({"args": ["sh"], "cwd": "/", "capabilities": {}, "oomScoreAdj": 0, "user": {"umask": 18},
            "rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]});
        let mut process = own.clone();
        complete_process(&mut process, &config);
        assert_eq!(process, own);
    }
}
