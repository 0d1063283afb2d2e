//! A bundle is read: config.json checked whole, paths made absolute.

use killick_sys::error::plain;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde_json::Value;
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
        let warnings = crate::support::check(&mut config)?;
        let spec: Spec = serde_json::from_value(config.clone()).map_err(|error| format!("config.json: {error}"))?;
        let rootfs = spec.root().as_ref().map(|root| path.join(root.path())).unwrap_or_default();
        let rootfs = fs::canonicalize(&rootfs)
            .map_err(|error| format!("invalid rootfs: stat {}: {}", rootfs.display(), plain(&error)))?;
        if !rootfs.is_dir() {
            return Err(format!("invalid rootfs: {}: not a directory", rootfs.display()));
        }
        Ok(Bundle { path, rootfs, config, spec, warnings })
    }
}

/// A PID namespace of its own: with its first process all others die.
pub fn has_own_pid_namespace(spec: &Spec) -> bool {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    listed.into_iter().flatten().any(|namespace| {
        let joined = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        namespace.typ() == LinuxNamespaceType::Pid && !joined
    })
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
