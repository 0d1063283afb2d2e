//! Leaf cgroups for execs: what an exec has started is killed whole, whatever it has done with fork and setsid.
//!
//! v2: a child of the container's cgroup without controllers; it works also where the container has delegated and
//! its own cgroup answers EBUSY. v1: a child in the `pids` hierarchy, else in `freezer`; the other hierarchies are the
//! container's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use killick_sys::cgroup as files;

use super::kill::Place;
use super::{Attach, Cgroup, CgroupError, Kill, inherit_cpuset, remove_tree, wait_until};

/// Leafs of one container, made on demand and used again.
#[derive(Debug)]
pub struct LeafPool {
    cgroup: Cgroup,
    /// v1: the container's `tasks` in every hierarchy but the leafs', opened once.
    shared: Option<Vec<Arc<std::os::fd::OwnedFd>>>,
    free: Vec<Leaf>,
    made: u32,
}

/// One leaf. Give it back with `LeafPool::release` when it is empty.
#[derive(Debug)]
pub struct Leaf {
    place: Place,
    attach: Attach,
    /// `cgroup.kill` may have been written. Kernels with `kill_seq` (6.14, and the stable ones that took it: 6.1.176,
    /// 6.12.117) compare the parent's own cgroup with the new one at `CLONE_INTO_CGROUP`, so that whatever is born in
    /// a cgroup that was ever killed is killed at once.
    killed: AtomicBool,
}

/// Free leafs that are kept: probes run one after another, so few are ever needed at once.
const FREE_MAX: usize = 4;

impl LeafPool {
    pub(super) fn new(cgroup: Cgroup) -> LeafPool {
        LeafPool { cgroup, shared: None, free: Vec::new(), made: 0 }
    }

    /// A free leaf, or a new one.
    pub fn acquire(&mut self) -> Result<Leaf, CgroupError> {
        if let Some(leaf) = self.free.pop() {
            return Ok(leaf);
        }
        loop {
            let place = self.place(self.made);
            self.made += 1;
            // One that an earlier shim left may still hold processes, or a pids.max of 0: it is passed over, or made
            // new.
            let is_new = files::mkdir(&place.dir)? || (remove_tree(&place.dir, 0)? && files::mkdir(&place.dir)?);
            if !is_new {
                continue;
            }
            let attach = match self.attach(&place) {
                Ok(attach) => attach,
                Err(error) => {
                    let _ = files::rmdir(&place.dir);
                    return Err(error);
                }
            };
            return Ok(Leaf { place, attach, killed: AtomicBool::new(false) });
        }
    }

    /// Takes an empty leaf back; one that was killed on v2 is removed instead. One that still holds processes (they could not be killed) is not used again: it goes
    /// with the container.
    pub fn release(&mut self, leaf: Leaf) -> Result<(), CgroupError> {
        if !leaf.is_empty()? {
            return Ok(());
        }
        // An exec that may write to its cgroup can have made children.
        for child in files::children(&leaf.place.dir)? {
            remove_tree(&child, 0)?;
        }
        let can_be_born_in = !leaf.killed.load(Ordering::Relaxed) || !leaf.place.controller.is_empty();
        if can_be_born_in && self.free.len() < FREE_MAX {
            self.free.push(leaf);
        } else {
            files::rmdir(&leaf.place.dir)?;
        }
        Ok(())
    }

    /// Removes the free leafs, before the container's cgroup is removed or frozen for good.
    pub fn clear(&mut self) -> Result<(), CgroupError> {
        for leaf in self.free.drain(..) {
            files::rmdir(&leaf.place.dir)?;
        }
        self.shared = None;
        Ok(())
    }

    fn place(&self, number: u32) -> Place {
        let base = self.cgroup.primary();
        let name = format!("killick-exec-{number}");
        Place {
            dir: base.dir.join(&name),
            path: base.path.join(&name),
            freezer: base.freezer.filter(|_| base.controller == "freezer").map(|dir| dir.join(&name)),
            controller: base.controller,
        }
    }

    fn attach(&mut self, place: &Place) -> Result<Attach, CgroupError> {
        if place.controller.is_empty() {
            return Ok(Attach {
                tasks: Vec::new(),
                dir: Some(files::open_dir(&place.dir)?),
                procs: Some(files::open_write(&place.dir.join("cgroup.procs"))?),
            });
        }
        let leafs = self.cgroup.layout.v1_hierarchy(&place.controller);
        if let Some(hierarchy) = leafs.filter(|h| h.has("cpuset")) {
            inherit_cpuset(&hierarchy.mount_point, &place.dir)?;
        }
        if self.shared.is_none() {
            let others = self.cgroup.layout.v1.iter().filter(|h| !h.has(&place.controller));
            let opened = others.map(|h| -> Result<_, CgroupError> {
                let tasks: PathBuf = h.mount_point.join(&self.cgroup.path).join("tasks");
                Ok(Arc::new(files::open_write(&tasks)?))
            });
            self.shared = Some(opened.collect::<Result<_, _>>()?);
        }
        let own = Arc::new(files::open_write(&place.dir.join("tasks"))?);
        let shared = self.shared.iter().flatten().cloned();
        let mut attach = Attach { tasks: shared.chain([own]).collect(), dir: None, procs: None };
        // A hybrid host where a limit of the container is on v2: the exec belongs under it as well.
        if let Some(dir) = self.cgroup.unified_dir().filter(|_| self.cgroup.unified) {
            attach.dir = Some(files::open_dir(&dir)?);
            attach.procs = Some(files::open_write(&dir.join("cgroup.procs"))?);
        }
        Ok(attach)
    }
}

impl Leaf {
    /// What the exec's child enters: this leaf, and the container's cgroup in the other hierarchies.
    pub fn attach(&self) -> &Attach {
        &self.attach
    }

    pub fn processes(&self) -> Result<Vec<libc::pid_t>, CgroupError> {
        super::kill::processes_below(&self.place.dir)
    }

    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        Ok(self.processes()?.is_empty())
    }

    /// Starts killing everything that the exec has left.
    pub fn kill(&self) -> Kill {
        self.killed.store(true, Ordering::Relaxed);
        Kill::new(self.place.clone())
    }

    /// Kills everything that the exec has left and waits until it is gone.
    pub fn kill_all(&self, deadline: Instant) -> Result<(), CgroupError> {
        self.kill().finish(deadline)
    }

    pub fn wait_empty(&self, deadline: Instant) -> Result<(), CgroupError> {
        let left = wait_until(deadline, || Ok(self.processes()?.len()))?;
        if left == 0 {
            return Ok(());
        }
        Err(CgroupError::Deadline { what: "wait until empty", path: self.place.path.clone(), left })
    }
}
