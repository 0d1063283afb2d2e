//! A container as containerd knows it: its first process, its execs, and what each of them has come to.
//!
//! Everything here is one thread's: a `Cell` is a state, and nothing is borrowed across an await. An exit is told once:
//! after the start of the same process, and a first process's after the exits of all its execs (containerd-shim.md
//! §1.9).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use killick_container::Container;
use killick_container::bundle::BundleBirth;
use killick_container::cgroup::{Cgroup, LastSeen, Leaf, LeafPool, OomWatch};
use killick_sys::pidfd::PidFd;
use oci_spec::runtime::{Process as OciProcess, Spec};
use serde_json::Value;
use tokio::sync::watch;

use super::io::{Io, Names};
use super::proto::{TaskStatus, Timestamp};

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// At its gate; an exec: only written down.
    Created,
    /// Being started.
    Starting,
    Running,
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub status: u32,
    pub at: Timestamp,
}

#[derive(Debug)]
pub struct Process {
    /// Empty: the container's first.
    pub exec_id: String,
    pub names: Names,
    pub pid: Cell<u32>,
    pub phase: Cell<Phase>,
    pub exit: watch::Sender<Option<Exit>>,
    /// Its start event is in the queue, or there will be none.
    pub told: watch::Sender<bool>,
    pub io: RefCell<Option<Rc<Io>>>,
    /// Asked for before there were streams.
    pub stdin_closed: Cell<bool>,
    pub size: Cell<Option<(u32, u32)>>,
    /// By which signals go; from its birth to its end.
    pub pidfd: RefCell<Option<Rc<PidFd>>>,
    /// An exec's, until it is started.
    pub spec: RefCell<Option<OciProcess>>,
    pub leaf: RefCell<Option<Rc<Leaf>>>,
}

impl Process {
    pub fn new(exec_id: &str, names: Names) -> Process {
        Process {
            exec_id: exec_id.to_owned(),
            names,
            pid: Cell::new(0),
            phase: Cell::new(Phase::Created),
            exit: watch::Sender::new(None),
            told: watch::Sender::new(false),
            io: RefCell::default(),
            stdin_closed: Cell::new(false),
            size: Cell::new(None),
            pidfd: RefCell::default(),
            spec: RefCell::default(),
            leaf: RefCell::default(),
        }
    }

    pub fn exited(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Its end; at once when it was long ago.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await {
            Ok(found) => found.unwrap_or(Exit { status: 255, at: super::clock::now() }),
            Err(_) => Exit { status: 255, at: super::clock::now() },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    No,
    Pausing,
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Container,
    /// pause, which holds the pod's namespaces. It has no files, and nothing is executed in it.
    Sandbox,
}

#[derive(Debug)]
pub struct Task {
    pub id: String,
    pub bundle: PathBuf,
    pub kind: Kind,
    pub cgroup: Cgroup,
    /// The kernel ends all others with its first process.
    pub private_pid: bool,
    pub first: Rc<Process>,
    pub execs: RefCell<BTreeMap<String, Rc<Process>>>,
    pub frozen: Cell<Frozen>,
    /// Execs that are being started or whose exit is not told yet.
    pub busy: watch::Sender<usize>,
    pub leafs: RefCell<LeafPool>,
    /// At its gate.
    pub birth: RefCell<Option<BundleBirth>>,
    /// Past it.
    pub container: RefCell<Option<Rc<Container>>>,
    /// `{"linux": {"resources": …}}` as they are now.
    pub config: RefCell<Value>,
    /// Kept only where hooks remain to be run.
    pub spec: Option<Box<Spec>>,
    pub keyring: Option<String>,
    /// The caller's mounts are on its root.
    pub has_mounts: bool,
    pub deleting: Cell<bool>,
    /// Asked once more when the container ends: its notice may come later than the end.
    pub oom: RefCell<Option<OomWatch>>,
    /// systemd's scope goes with its last process, and its counters with it.
    pub seen: RefCell<LastSeen>,
}

impl Task {
    /// What State says, of the container or of an exec: a container that is frozen freezes them all.
    pub fn status_of(&self, process: &Process) -> TaskStatus {
        match (process.phase.get(), self.frozen.get()) {
            (Phase::Stopped, _) => TaskStatus::Stopped,
            (_, Frozen::Paused) => TaskStatus::Paused,
            (_, Frozen::Pausing) => TaskStatus::Pausing,
            (Phase::Created | Phase::Starting, Frozen::No) => TaskStatus::Created,
            (Phase::Running, Frozen::No) => TaskStatus::Running,
        }
    }

    /// Whether an exec may begin now, and if not, why.
    pub fn may_exec(&self) -> Result<(), String> {
        match (self.kind, self.first.phase.get(), self.frozen.get()) {
            (Kind::Sandbox, _, _) => Err("nothing is executed in a pod's sandbox".into()),
            (_, Phase::Created | Phase::Starting, _) => Err("cannot exec in a created container".into()),
            (_, Phase::Stopped, _) => Err("cannot exec in a stopped container".into()),
            (_, _, Frozen::Paused | Frozen::Pausing) => Err("cannot exec in a paused container".into()),
            (Kind::Container, Phase::Running, Frozen::No) => Ok(()),
        }
    }
}

/// Counts an exec from before its birth until its exit is told.
#[derive(Debug)]
pub struct Busy(Rc<Task>);

impl Busy {
    pub fn new(task: &Rc<Task>) -> Busy {
        task.busy.send_modify(|count| *count += 1);
        Busy(Rc::clone(task))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|count| *count -= 1);
    }
}
