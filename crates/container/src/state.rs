//! A container that lives: what the next exec, a kill and a restarted shim need to know of it.

use crate::attributes::Attributes;
use crate::labels::Labels;
use crate::rdt::Rdt;
use crate::seccomp::listener::Listener;
use killick_sys::caps::CapSets;
use killick_sys::error::Error;
use killick_sys::launch::{Ids, UserQuery, Who};
use killick_sys::pidfd::PidFd;
use killick_sys::seccomp::Filter;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the first process was set up, for those that follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) env: Vec<String>,
    /// Looked up for the first process, because `env` has no HOME.
    pub(crate) home: Option<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: SavedUser,
    pub(crate) umask: u32,
    pub(crate) capabilities: CapSets,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Option<Filter>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) oom_score_adj: Option<i32>,
    /// Execs are born outside and step in without rights.
    pub(crate) born_outside: bool,
    /// Of its own, or shared with a sandbox; false for the host's.
    pub(crate) pid_namespace: bool,
    /// The maps of its user namespace.
    #[serde(default)]
    pub(crate) user_namespace: Option<killick_sys::userns::Maps>,
    #[serde(default)]
    pub(crate) time_namespace: bool,
    /// Its mount namespace is not its own: the root is known by its first process.
    #[serde(default)]
    pub(crate) chroot: bool,
    /// Of every process of the container.
    #[serde(default)]
    pub(crate) attributes: Attributes,
    #[serde(default)]
    pub(crate) rdt: Option<Rdt>,
    #[serde(default)]
    pub(crate) labels: Labels,
    /// Who answers for the filter.
    #[serde(default)]
    pub(crate) listener: Option<Listener>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rlimit {
    pub(crate) resource: u32,
    pub(crate) name: String,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// `Who`, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SavedUser {
    Ids(Ids),
    Query { user: String, gid: Option<u32>, extra_groups: Vec<u32>, image_groups: bool },
}

impl SavedUser {
    pub(crate) fn from_query(query: UserQuery) -> Self {
        let UserQuery { user, gid, extra_groups, image_groups } = query;
        SavedUser::Query { user, gid, extra_groups, image_groups }
    }

    pub(crate) fn who(&self) -> Who {
        match self.clone() {
            SavedUser::Ids(ids) => Who::Ids(ids),
            SavedUser::Query { user, gid, extra_groups, image_groups } => {
                Who::Query(UserQuery { user, gid, extra_groups, image_groups })
            }
        }
    }
}

/// A container by its first process.
#[derive(Debug)]
pub struct Container {
    pub(crate) id: String,
    pub(crate) process: PidFd,
    pub(crate) settings: Settings,
}

/// What a restarted shim reads to find its container again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub pid: i32,
    pub start_time: u64,
    settings: Settings,
}

impl Container {
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub fn start_time(&self) -> u64 {
        self.process.start_time()
    }

    /// Signals and the exit go by this.
    pub fn process(&self) -> &PidFd {
        &self.process
    }

    pub fn record(&self) -> Record {
        Record::new(&self.id, &self.process, &self.settings)
    }
}

impl Record {
    pub(crate) fn new(id: &str, process: &PidFd, settings: &Settings) -> Self {
        let (pid, start_time) = (process.pid(), process.start_time());
        Self { id: id.to_owned(), pid, start_time, settings: settings.clone() }
    }
}

impl Record {
    /// Its place in resctrl, which goes with the container.
    pub fn rdt(&self) -> Option<&Rdt> {
        self.settings.rdt.as_ref()
    }
}

/// Finds a recorded container; None when its first process is gone (a zombie still counts: its exit is to be had).
pub fn reopen(record: Record) -> Result<Option<Container>, Error> {
    match PidFd::open_verified(record.pid, record.start_time) {
        Ok(process) => Ok(Some(Container { id: record.id, process, settings: record.settings })),
        Err(error) if error.errno() == nix::errno::Errno::ESRCH => Ok(None),
        Err(error) => Err(error),
    }
}
