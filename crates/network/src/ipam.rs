//! Who has which address: one file for each, made with O_EXCL, its content the pod's uid; a lock; and a state file
//! that remembers what the host was like before the first pod.

use crate::settings::{Settings, Subnet};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Another set-up holds the lock for some milliseconds; one that hangs is killed by its own deadline.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20);
const LOCK_RETRY: Duration = Duration::from_millis(2);
const STATE_VERSION: u32 = 1;
/// A uid is 36 bytes; anything longer is not ours.
const UID_BYTES_MAX: u64 = 256;

/// The directory, locked.
#[derive(Debug)]
pub(crate) struct Ipam {
    dir: PathBuf,
    subnet: Subnet,
    _lock: Flock<File>,
}

/// What must be given back with the last pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    pub(crate) bridge: String,
    pub(crate) subnet: Subnet,
    /// We turned forwarding on: it was off.
    pub(crate) forwarding_was_off: bool,
    /// Offset of the address given last: the next pod gets the one after it, so that an address rests between pods.
    pub(crate) last: Option<u32>,
    /// What this host could not do, for every pod's events.
    pub(crate) warnings: Vec<String>,
}

impl State {
    pub(crate) fn new(settings: &Settings) -> State {
        State {
            version: STATE_VERSION,
            bridge: settings.bridge.clone(),
            subnet: settings.subnet,
            forwarding_was_off: false,
            last: None,
            warnings: Vec::new(),
        }
    }
}

impl Ipam {
    pub(crate) fn lock(settings: &Settings) -> Result<Ipam, String> {
        let dir = &settings.ipam;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| at(dir, &error))?;
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| at(&path, &error))?;
        let give_up = Instant::now() + LOCK_WAIT_MAX;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Ipam { dir: dir.clone(), subnet: settings.subnet, _lock: lock }),
                Err((again, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR)) if Instant::now() < give_up => {
                    file = again;
                    std::thread::sleep(LOCK_RETRY);
                }
                Err((_, errno)) => return Err(format!("lock {}: {errno}", path.display())),
            }
        }
    }

    /// None: no pod has been set up since boot, or the file is not one of ours.
    pub(crate) fn state(&self) -> Option<State> {
        let bytes = std::fs::read(self.state_path()).ok()?;
        serde_json::from_slice::<State>(&bytes).ok().filter(|state| state.version == STATE_VERSION)
    }

    /// Written whole; the directory dies with the boot, so no fsync.
    pub(crate) fn write_state(&self, state: &State) -> Result<(), String> {
        let (path, new) = (self.state_path(), self.dir.join("state.new"));
        let bytes = serde_json::to_vec(state).map_err(|error| error.to_string())?;
        std::fs::write(&new, bytes).map_err(|error| at(&new, &error))?;
        std::fs::rename(&new, &path).map_err(|error| at(&path, &error))
    }

    pub(crate) fn remove_state(&self) -> Result<(), String> {
        remove(&self.dir.join("state.new"))?;
        remove(&self.state_path())
    }

    /// Every address given out, with its pod. A file without a uid is left from a crash: its owner is "".
    pub(crate) fn given(&self) -> Result<Vec<(Ipv4Addr, String)>, String> {
        let mut given = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|error| at(&self.dir, &error))? {
            let entry = entry.map_err(|error| at(&self.dir, &error))?;
            let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse::<Ipv4Addr>().ok()) else { continue };
            given.push((ip, read_owner(&entry.path())));
        }
        given.sort();
        Ok(given)
    }

    /// The next free address after the last one given.
    pub(crate) fn give(&self, uid: &str, state: &mut State) -> Result<Ipv4Addr, String> {
        let first = state.last.map_or(0, |last| last.wrapping_add(1));
        for offset in 0..self.subnet.pod_addresses() {
            let ip = self.subnet.pod_address(first.wrapping_add(offset));
            let path = self.dir.join(ip.to_string());
            match OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    if let Err(error) = file.write_all(uid.as_bytes()) {
                        let _ = std::fs::remove_file(&path);
                        return Err(at(&path, &error));
                    }
                    state.last = self.subnet.pod_index(ip);
                    return Ok(ip);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(at(&path, &error)),
            }
        }
        Err(format!("no free address in {}: all {} are given to pods", self.subnet, self.subnet.pod_addresses()))
    }

    pub(crate) fn take_back(&self, ip: Ipv4Addr) -> Result<(), String> {
        remove(&self.dir.join(ip.to_string()))
    }

    fn state_path(&self) -> PathBuf {
        self.dir.join("state")
    }
}

fn read_owner(path: &Path) -> String {
    use std::io::Read;
    let mut owner = String::new();
    let read = File::open(path).and_then(|file| file.take(UID_BYTES_MAX).read_to_string(&mut owner));
    if read.is_ok() { owner } else { String::new() }
}

fn remove(path: &Path) -> Result<(), String> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(path, &error)),
        _ => Ok(()),
    }
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
