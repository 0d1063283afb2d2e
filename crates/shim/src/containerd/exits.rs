//! The ends of processes, told once and in order.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use killick_container::cgroup::OomWatch;
use killick_supervisor::reap;
use killick_supervisor::wait::ended;
use killick_sys::pidfd::PidFd;
use nix::poll::PollFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clock;
use super::proto::{TaskExit, TaskOf};
use super::shim::Shim;
use super::task::{Busy, Exit, Frozen, Phase, Process, Task};

/// The code of a process whose end nobody saw.
const UNSEEN: u32 = 255;

/// Waits for the first process; with it the container ends, and its exit is the last that is told.
pub fn watch_first(shim: &Rc<Shim>, task: &Rc<Task>) {
    let (shim, task) = (Rc::clone(shim), Rc::clone(task));
    let Some(process) = task.first.pidfd.borrow().clone() else { return };
    tokio::task::spawn_local(async move {
        let exit = end_of(&process).await;
        // A start that is under way learns of it by itself.
        if task.first.phase.get() == Phase::Created {
            task.birth.borrow_mut().take();
            task.first.told.send_replace(true);
        }
        task.first.phase.set(Phase::Stopped);
        if task.frozen.replace(Frozen::No) != Frozen::No
            && let Err(error) = task.cgroup.thaw()
        {
            shim.log.warn(&format!("{}: {error}", task.id));
        }
        // In a PID namespace that it shares nothing else would end the others.
        if !task.private_pid
            && let Err(error) = reap::empty_cgroup(&task.cgroup).await
        {
            shim.log.warn(&format!("{}: {error}", task.id));
        }
        let mut told = task.first.told.subscribe();
        let _ = told.wait_for(|told| *told).await;
        tell_oom(&shim, &task);
        let mut busy = task.busy.subscribe();
        let _ = busy.wait_for(|count| *count == 0).await;
        task.first.pidfd.borrow_mut().take();
        tell(&shim, &task, &task.first, exit);
    });
}

/// Waits for an exec. `busy` goes when its exit is told.
pub fn watch_exec(shim: &Rc<Shim>, task: &Rc<Task>, exec: &Rc<Process>, process: Rc<PidFd>, busy: Busy) {
    let (shim, task, exec) = (Rc::clone(shim), Rc::clone(task), Rc::clone(exec));
    tokio::task::spawn_local(async move {
        let exit = end_of(&process).await;
        exec.pidfd.borrow_mut().take();
        if let Some(leaf) = exec.leaf.borrow_mut().take().and_then(Rc::into_inner)
            && let Err(error) = task.leafs.borrow_mut().release(leaf)
        {
            shim.log.debug(&format!("{} {}: {error}", task.id, exec.exec_id));
        }
        exec.phase.set(Phase::Stopped);
        let mut told = exec.told.subscribe();
        let _ = told.wait_for(|told| *told).await;
        tell(&shim, &task, &exec, exit);
        drop(busy);
    });
}

async fn end_of(process: &PidFd) -> Exit {
    ended(process).await;
    let code = match process.wait() {
        Ok(Some(exit)) => u32::try_from(exit.code()).unwrap_or(UNSEEN),
        // Reaped by the birth that failed.
        Ok(None) | Err(_) => {
            process.exit_after_reaping().map_or(137, |exit| u32::try_from(exit.code()).unwrap_or(UNSEEN))
        }
    };
    Exit { status: code, at: clock::now() }
}

fn tell(shim: &Shim, task: &Task, process: &Process, exit: Exit) {
    let event = TaskExit {
        container_id: task.id.clone(),
        id: if process.exec_id.is_empty() { task.id.clone() } else { process.exec_id.clone() },
        pid: process.pid.get(),
        exit_status: exit.status,
        exited_at: Some(exit.at),
    };
    // Whoever waits finds it stopped.
    process.exit.send_replace(Some(exit));
    shim.events.publish("/tasks/exit", "TaskExit", &event);
}

#[derive(Debug)]
struct Raw(OwnedFd);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Tells when the OOM killer has been at work, until the cgroup is gone.
pub fn watch_oom(shim: &Rc<Shim>, task: &Rc<Task>) {
    let watch = match task.cgroup.watch_oom() {
        Ok(Some(watch)) => watch,
        Ok(None) => return,
        Err(error) => {
            shim.log.debug(&format!("{}: {error}", task.id));
            return;
        }
    };
    let interest = if watch.interest().contains(PollFlags::POLLPRI) { Interest::PRIORITY } else { Interest::READABLE };
    let Ok(fd) = watch.try_clone_fd().and_then(|fd| AsyncFd::with_interest(Raw(fd), interest)) else { return };
    *task.oom.borrow_mut() = Some(watch);
    let (shim, task) = (Rc::clone(shim), Rc::downgrade(task));
    tokio::task::spawn_local(async move {
        while let Ok(mut ready) = fd.ready(interest).await {
            ready.clear_ready();
            let Some(task) = task.upgrade() else { return };
            if tell_oom(&shim, &task) {
                return;
            }
        }
    });
}

/// Whether the cgroup is gone.
fn tell_oom(shim: &Shim, task: &Task) -> bool {
    let Some(notice) = task.oom.borrow_mut().as_mut().map(OomWatch::read) else { return true };
    let Ok(notice) = notice else { return true };
    if notice.kills > 0 {
        shim.events.publish("/tasks/oom", "TaskOOM", &TaskOf { container_id: task.id.clone() });
    }
    notice.gone
}
