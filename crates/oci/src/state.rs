//! A container's state directory: made atomically (its existence is the id's lock), written whole, asked of the kernel.

use crate::log::plain;
use killick_container::cgroup::Cgroup;
use killick_container::{Container, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub const DEFAULT_ROOT: &str = "/run/killick-oci";
const VERSION: u32 = 1;
/// A state file is a configuration and little more.
const STATE_BYTES_MAX: u64 = 16 << 20;

/// Where all states are.
#[derive(Debug, Clone)]
pub struct Root {
    pub path: PathBuf,
    pub is_default: bool,
}

impl Root {
    pub fn new(given: Option<&str>) -> Result<Self, String> {
        let path = std::path::absolute(given.unwrap_or(DEFAULT_ROOT)).map_err(|error| format!("--root: {error}"))?;
        if path == Path::new("/") {
            return Err("Option --root argument should not be set to /".into());
        }
        Ok(Root { path, is_default: given.is_none() })
    }

    /// The directory of a container with a valid id.
    pub fn dir(&self, id: &str) -> Result<PathBuf, String> {
        check_id(id)?;
        Ok(self.path.join(id))
    }

    /// A new container's directory.
    pub fn make(&self, id: &str) -> Result<PathBuf, String> {
        let dir = self.dir(id)?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| format!("mkdir {}: {}", self.path.display(), plain(&error)))?;
        match fs::DirBuilder::new().mode(0o711).create(&dir) {
            Ok(()) => Ok(dir),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err("container with given ID already exists".into())
            }
            Err(error) => Err(format!("mkdir {}: {}", dir.display(), plain(&error))),
        }
    }

    pub fn load(&self, id: &str) -> Result<State, String> {
        State::read(self.dir(id)?)
    }

    /// Ids of all containers, sorted.
    pub fn ids(&self) -> Result<Vec<String>, String> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_default => return Ok(Vec::new()),
            Err(error) => return Err(format!("open {}: {}", self.path.display(), plain(&error))),
        };
        let names = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut ids: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        ids.retain(|id| check_id(id).is_ok());
        ids.sort();
        Ok(ids)
    }
}

pub fn check_id(id: &str) -> Result<(), String> {
    if id.is_empty() {
        return Err("container id cannot be empty".into());
    }
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
    if !plain || id.starts_with('.') || id.len() > 255 {
        return Err(format!("invalid container ID format: {id:?}"));
    }
    Ok(())
}

/// state.json, and where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    version: u32,
    #[serde(skip)]
    pub dir: PathBuf,
    pub id: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    pub owner: u32,
    /// create has not finished.
    pub creating: bool,
    /// Processes keep the session keyring of whoever starts them.
    pub no_new_keyring: bool,
    pub record: Record,
    pub cgroup: Cgroup,
    /// cadvisor and its like read this.
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// A PID namespace of its own: with its first process all others die.
    pub private_pid: bool,
    /// The configuration as it was accepted.
    pub config: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn word(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// What a new state is made of.
#[derive(Debug)]
pub struct New {
    pub dir: PathBuf,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub record: Record,
    pub cgroup: Cgroup,
    pub private_pid: bool,
    pub config: Value,
}

impl State {
    pub fn new(id: &str, new: New) -> Self {
        let New { dir, bundle, rootfs, record, cgroup, private_pid, config } = new;
        let owner = fs::metadata(&dir).map_or(0, |metadata| metadata.uid());
        let cgroup_paths = cgroup.dirs().into_iter().collect();
        let (id, created) = (id.to_owned(), jiff::Timestamp::now().to_string());
        State {
            version: VERSION,
            dir,
            id,
            bundle,
            rootfs,
            created,
            owner,
            creating: true,
            no_new_keyring: false,
            record,
            cgroup,
            cgroup_paths,
            private_pid,
            config,
        }
    }

    fn read(dir: PathBuf) -> Result<Self, String> {
        let path = dir.join("state.json");
        let text = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > STATE_BYTES_MAX => {
                return Err(format!("{}: larger than {STATE_BYTES_MAX} bytes", path.display()));
            }
            Ok(_) => fs::read(&path),
            Err(error) => Err(error),
        };
        let text = text.map_err(|error| match error.kind() {
            ErrorKind::NotFound => "container does not exist".to_owned(),
            _ => format!("open {}: {}", path.display(), plain(&error)),
        })?;
        let state: State = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if state.version != VERSION {
            return Err(format!("{}: written by another version of killick-oci ({})", path.display(), state.version));
        }
        Ok(State { dir, ..state })
    }

    /// Whole, by rename: a reader sees the old or the new one.
    pub fn write(&self) -> Result<(), String> {
        let (path, new) = (self.dir.join("state.json"), self.dir.join(".state.json"));
        let text = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        // Environments are nobody else's business.
        let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        open.and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| format!("write {}: {}", path.display(), plain(&error)))
    }

    /// Where the first process waits for start.
    pub fn gate(&self) -> PathBuf {
        self.dir.join("start.sock")
    }

    /// The first process, while there is one (a zombie that nobody has reaped counts as gone).
    pub fn container(&self) -> Result<Option<Container>, String> {
        let found = killick_container::reopen(self.record.clone()).map_err(|error| error.to_string())?;
        Ok(found.filter(|container| container.process().is_running()))
    }

    /// Nothing of this is stored: it is what the kernel says now.
    pub fn status(&self) -> Result<Status, String> {
        if self.container()?.is_none() {
            return Ok(Status::Stopped);
        }
        if self.cgroup.is_frozen().unwrap_or(false) {
            return Ok(Status::Paused);
        }
        Ok(match (self.creating, self.gate().exists()) {
            (true, _) => Status::Creating,
            (false, true) => Status::Created,
            (false, false) => Status::Running,
        })
    }

    /// What `state` prints, and `list` with the owner.
    pub fn describe(&self) -> Result<Value, String> {
        let status = self.status()?;
        let pid = if status == Status::Stopped { 0 } else { self.record.pid };
        let mut state = json!({
            "ociVersion": killick_container::features::SPEC_VERSION,
            "id": self.id,
            "pid": pid,
            "status": status.word(),
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
        });
        if let Some(annotations) =
            self.config.get("annotations").filter(|all| all.as_object().is_some_and(|all| !all.is_empty()))
        {
            state["annotations"] = annotations.clone();
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_plain_file_name() {
        for (id, valid) in [
            ("a", true),
            ("A-b_c+d.9", true),
            ("..x", false),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("ä", false),
        ] {
            assert_eq!(check_id(id).is_ok(), valid, "{id:?}");
        }
    }
}
