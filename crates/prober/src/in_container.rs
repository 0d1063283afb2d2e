//! Commands in a container of ours: `container::exec`, each in a leaf cgroup by which its whole tree is killed.

use crate::exec::{Command, Launcher, Poll, Process};
use killick_container::cgroup::{Cgroup, Kill, Leaf, LeafPool};
use killick_container::{Container, Exec, ExecRequest, Progress, Stdio, exec};
use killick_sys::facts::Facts;
use killick_sys::pidfd::PidFd;
use nix::sys::signal::Signal;
use std::cell::RefCell;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

/// A container's leafs, and what could not be ended in time. One for each container, kept while it runs.
#[derive(Debug)]
pub struct Execs {
    leafs: RefCell<LeafPool>,
    leftovers: RefCell<Vec<Leftover>>,
    /// Tells whether the container's own quota held it back; None if it has no quota.
    cpu_stat: Option<PathBuf>,
}

#[derive(Debug)]
struct Leftover {
    process: Option<PidFd>,
    leaf: Leaf,
    kill: Kill,
}

impl Execs {
    pub fn new(leafs: LeafPool) -> Execs {
        Execs { leafs: RefCell::new(leafs), leftovers: RefCell::new(Vec::new()), cpu_stat: None }
    }

    /// The leafs of a container's cgroup, and its quota.
    pub fn of(cgroup: &Cgroup) -> Execs {
        Execs { cpu_stat: quota_stat(cgroup), ..Execs::new(cgroup.leaf_pool()) }
    }

    fn times_throttled(&self) -> u64 {
        let Some(path) = &self.cpu_stat else { return 0 };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let number = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    /// For execs that are not probes: the same leafs.
    pub fn leafs(&self) -> &RefCell<LeafPool> {
        &self.leafs
    }

    pub fn has_leftovers(&self) -> bool {
        !self.leftovers.borrow().is_empty()
    }

    /// Goes on killing and reaps; each launch does it, and whoever sees `has_leftovers`. Never waits.
    pub fn collect(&self) {
        let mut leftovers = self.leftovers.borrow_mut();
        for mut leftover in std::mem::take(&mut *leftovers) {
            let reaped = match &leftover.process {
                Some(process) => !matches!(process.wait(), Ok(None)),
                None => true,
            };
            if reaped {
                leftover.process = None;
            }
            match leftover.kill.step() {
                Ok(0) if reaped => {
                    drop(leftover.kill);
                    let _ = self.leafs.borrow_mut().release(leftover.leaf);
                }
                // A cgroup that is gone has nothing left to kill.
                Err(_) if reaped => {}
                _ => leftovers.push(leftover),
            }
        }
    }
}

/// `cpu.stat` of a cgroup that has a quota.
fn quota_stat(cgroup: &Cgroup) -> Option<PathBuf> {
    let has = |name: &str| name.is_empty() || name.split(',').any(|controller| controller == "cpu");
    let (_, dir) = cgroup.dirs().into_iter().find(|(name, dir)| has(name) && dir.join("cpu.stat").exists())?;
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let quota = read("cpu.cfs_quota_us").or_else(|| read("cpu.max"))?;
    let limited = !quota.starts_with("-1") && !quota.starts_with("max");
    limited.then(|| dir.join("cpu.stat"))
}

/// Launches into one container.
#[derive(Debug, Clone, Copy)]
pub struct InContainer<'a> {
    pub facts: &'a Facts,
    pub container: &'a Container,
    pub execs: &'a Execs,
}

impl Launcher for InContainer<'_> {
    fn launch(&self, command: Command) -> Result<Box<dyn Process + '_>, String> {
        self.execs.collect();
        killick_sys::spawn::set_undumpable().map_err(|error| error.to_string())?;
        let null = Stdio::null().map_err(|error| format!("open(/dev/null): {error}"))?;
        let stdio = match null {
            Stdio::Streams { stdin, .. } => Stdio::Streams { stdin, stdout: command.stdout, stderr: command.stderr },
            terminal @ Stdio::Terminal { .. } => terminal,
        };
        let throttled_before = self.execs.times_throttled();
        let leaf = self.execs.leafs.borrow_mut().acquire().map_err(|error| error.to_string())?;
        let launched = exec(self.facts, self.container, ExecRequest::new(command.args, stdio, Some(leaf.attach())));
        match launched {
            Ok(exec) => {
                let (stage, execs) = (Stage::Launching(Box::new(exec)), self.execs);
                Ok(Box::new(Running { stage, leaf: Some(leaf), kill: None, execs, throttled_before }))
            }
            Err(error) => {
                let _ = self.execs.leafs.borrow_mut().release(leaf);
                Err(error.to_string())
            }
        }
    }
}

struct Running<'a> {
    stage: Stage,
    /// None when its end was told.
    leaf: Option<Leaf>,
    kill: Option<Kill>,
    execs: &'a Execs,
    throttled_before: u64,
}

enum Stage {
    Launching(Box<Exec>),
    Running(PidFd),
    Ended(Poll),
}

impl Running<'_> {
    fn end(&mut self, poll: Poll) -> Poll {
        // The kill first: dropping it gives the leaf its limit back.
        self.kill = None;
        if let Some(leaf) = self.leaf.take() {
            // A leaf with processes in it goes with the container: what a probe left in the background stays, as it
            // does with other runtimes.
            let _ = self.execs.leafs.borrow_mut().release(leaf);
        }
        self.stage = Stage::Ended(poll.clone());
        poll
    }

    fn step_launch(&mut self) -> Option<Poll> {
        let Stage::Launching(exec) = &mut self.stage else { return None };
        let progress = exec.progress();
        match progress {
            Progress::Pending | Progress::AtGate => Some(Poll::Pending),
            Progress::Failed(error) => Some(self.end(Poll::Failed(error.to_string()))),
            Progress::Running => {
                let launched = std::mem::replace(&mut self.stage, Stage::Ended(Poll::Exited(0)));
                let Stage::Launching(exec) = launched else { return None };
                match exec.into_process() {
                    Ok(process) => {
                        self.stage = Stage::Running(process);
                        None
                    }
                    Err(error) => Some(self.end(Poll::Failed(error.to_string()))),
                }
            }
        }
    }
}

impl Process for Running<'_> {
    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Launching(exec) => Some(exec.channel()),
            Stage::Running(process) => process.as_fd(),
            Stage::Ended(_) => None,
        }
    }

    fn poll(&mut self) -> Poll {
        if let Some(told) = self.step_launch() {
            return told;
        }
        // While a tree is being killed its first process may end before the others.
        let others = match &mut self.kill {
            Some(kill) => kill.step().unwrap_or(0),
            None => 0,
        };
        let exit = match &self.stage {
            Stage::Ended(poll) => return poll.clone(),
            Stage::Launching(_) => return Poll::Pending,
            Stage::Running(process) => match (others, process.peek()) {
                (0, Ok(Some(_))) => process.wait(),
                (_, other) => other.map(|_| None),
            },
        };
        match exit {
            Ok(None) => Poll::Pending,
            Ok(Some(exit)) => self.end(Poll::Exited(exit.code())),
            Err(error) => self.end(Poll::Failed(error.to_string())),
        }
    }

    fn kill(&mut self) {
        if let Some(leaf) = self.leaf.as_ref().filter(|_| self.kill.is_none()) {
            self.kill = Some(leaf.kill());
        }
        if let Stage::Running(process) = &self.stage {
            let _ = process.send_signal(Signal::SIGKILL);
        }
        if let Some(kill) = &mut self.kill {
            let _ = kill.step();
        }
    }

    fn waited_runnable(&self) -> Duration {
        // The kernel counts the time in which a quota held a thread back as waiting, too.
        if self.execs.times_throttled() != self.throttled_before {
            return Duration::ZERO;
        }
        let pids = self.leaf.as_ref().and_then(|leaf| leaf.processes().ok()).unwrap_or_default();
        pids.iter().take(PROCESSES_LOOKED_AT_MAX).filter_map(|pid| longest_wait(*pid)).max().unwrap_or_default()
    }
}

/// A fork bomb's processes are not all asked.
const PROCESSES_LOOKED_AT_MAX: usize = 64;

/// The longest that a thread of the process has waited for a processor since it was born: the second number of
/// `schedstat`, nanoseconds. None where the kernel does not count.
fn longest_wait(pid: i32) -> Option<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let waited = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
    };
    threads.flatten().take(PROCESSES_LOOKED_AT_MAX).filter_map(waited).max()
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Some(leaf) = self.leaf.take() else { return };
        let mut kill = self.kill.take().unwrap_or_else(|| leaf.kill());
        let _ = kill.step();
        // An exec that is still being launched ends with its own drop.
        let process = match std::mem::replace(&mut self.stage, Stage::Ended(Poll::Pending)) {
            Stage::Running(process) => {
                let _ = process.send_signal(Signal::SIGKILL);
                Some(process)
            }
            Stage::Launching(_) | Stage::Ended(_) => None,
        };
        self.execs.leftovers.borrow_mut().push(Leftover { process, leaf, kill });
        self.execs.collect();
    }
}
