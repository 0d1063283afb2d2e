//! Killing everything in a cgroup so that nothing can fork its way out.
//!
//! v2: `cgroup.kill` (5.14), else freeze, SIGKILL, thaw. v1: `pids.max` 0, so that forks fail, SIGKILL until empty,
//! then the old limit again; without the pids controller freeze, SIGKILL, thaw. A plain loop of SIGKILLs loses
//! against fork and setsid.

use std::path::{Path, PathBuf};
use std::time::Instant;

use killick_sys::cgroup as files;
use nix::errno::Errno;

use super::{CgroupError, wait_until};

/// A cgroup in the one hierarchy in which it is killed.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    /// A controller of the hierarchy, as `/proc/<pid>/cgroup` names it; empty on v2.
    pub(super) controller: String,
    /// Relative to the hierarchy's root.
    pub(super) path: PathBuf,
    /// v1: the same cgroup in the freezer hierarchy.
    pub(super) freezer: Option<PathBuf>,
}

/// A kill under way. Call `step` until it says 0; dropping it puts a changed `pids.max` back and thaws.
#[derive(Debug)]
pub struct Kill {
    place: Place,
    pids_max_before: Option<String>,
    thaw: bool,
    /// `cgroup.kill`; a test names a file that no kernel has, to get what kernels before 5.14 get.
    kill_file: &'static str,
}

impl Kill {
    pub(super) fn new(place: Place) -> Kill {
        Kill { place, pids_max_before: None, thaw: false, kill_file: "cgroup.kill" }
    }

    /// Sends SIGKILL to whatever is in the cgroup or below it and says how many processes it has found. Never waits:
    /// a killed process is gone after ~0.1 ms, one in an uninterruptible call when that returns.
    pub fn step(&mut self) -> Result<usize, CgroupError> {
        let step = if self.place.controller.is_empty() { self.step_v2() } else { self.step_v1() };
        match step {
            // systemd removes a scope when its last process ends, while we look at it.
            Err(CgroupError::File(error))
                if matches!(error.errno(), Errno::ENOENT | Errno::ENODEV) && !self.place.dir.exists() =>
            {
                Ok(0)
            }
            other => other,
        }
    }

    /// Steps until the cgroup is empty.
    pub fn finish(mut self, deadline: Instant) -> Result<(), CgroupError> {
        let left = wait_until(deadline, || self.step())?;
        if left == 0 {
            return Ok(());
        }
        Err(CgroupError::Deadline { what: "kill", path: self.place.path.clone(), left })
    }

    fn step_v2(&mut self) -> Result<usize, CgroupError> {
        let left = processes_below(&self.place.dir)?;
        if left.is_empty() {
            return Ok(0);
        }
        match files::write(&self.place.dir.join(self.kill_file), "1") {
            Ok(()) => return Ok(left.len()),
            Err(error) if error.errno() == Errno::ENOENT => {}
            Err(error) => return Err(error.into()),
        }
        let freeze = self.place.dir.join("cgroup.freeze");
        if freeze.exists() {
            files::write(&freeze, "1")?;
            self.thaw = true;
        }
        // A frozen process of v2 dies of SIGKILL without being thawed.
        signal(&self.place, &left, libc::SIGKILL).map(|_| left.len())
    }

    fn step_v1(&mut self) -> Result<usize, CgroupError> {
        let pids_max = self.place.dir.join("pids.max");
        let has_pids_max = pids_max.exists();
        let left = processes_below(&self.place.dir)?;
        if left.is_empty() {
            return Ok(0);
        }
        if has_pids_max && self.pids_max_before.is_none() {
            self.pids_max_before = Some(files::read(&pids_max)?.trim().to_owned());
            files::write(&pids_max, "0")?;
        }
        let state = self.place.freezer.as_ref().map(|dir| dir.join("freezer.state")).filter(|file| file.exists());
        if let Some(state) = &state
            && !has_pids_max
        {
            files::write(state, "FROZEN")?;
            self.thaw = true;
        }
        let found = processes_below(&self.place.dir)?;
        signal(&self.place, &found, libc::SIGKILL)?;
        // A frozen process of v1 dies only when it thaws, whoever froze it.
        if let Some(state) = &state {
            match files::write(state, "THAWED") {
                Err(error) if error.errno() != Errno::ENOENT => return Err(error.into()),
                Ok(()) | Err(_) => self.thaw = false,
            }
        }
        Ok(found.len())
    }
}

impl Drop for Kill {
    fn drop(&mut self) {
        if let Some(before) = &self.pids_max_before {
            let _ = files::write(&self.place.dir.join("pids.max"), before);
        }
        if self.thaw {
            let _ = files::write(&self.place.dir.join("cgroup.freeze"), "0");
            if let Some(freezer) = &self.place.freezer {
                let _ = files::write(&freezer.join("freezer.state"), "THAWED");
            }
        }
    }
}

/// Signals each that is still a member; how many there were.
pub(super) fn signal(place: &Place, pids: &[libc::pid_t], signal: libc::c_int) -> Result<usize, CgroupError> {
    let path = format!("/{}", place.path.display());
    let mut sent = 0;
    for pid in pids {
        match files::signal_member(*pid, &place.controller, &path, signal) {
            Ok(was_there) => sent += usize::from(was_there),
            Err(source) => {
                let path = PathBuf::from(format!("/proc/{pid}"));
                return Err(files::CgroupFileError { call: "kill", path, value: None, source }.into());
            }
        }
    }
    Ok(sent)
}

/// The processes of a cgroup and of all below it.
pub(super) fn processes_below(dir: &Path) -> Result<Vec<libc::pid_t>, CgroupError> {
    const CGROUPS_MAX: usize = 100_000;
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(dir) = open.pop() {
        match files::processes(&dir) {
            Ok(pids) => found.extend(pids),
            // A threaded v2 cgroup lists its processes in the domain above it.
            Err(error) if error.errno() == Errno::EOPNOTSUPP => {}
            Err(error) => return Err(error.into()),
        }
        seen += 1;
        if seen < CGROUPS_MAX {
            open.extend(files::children(&dir)?);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Cgroup, Layout};
    use std::time::Duration;

    #[test]
    fn a_cgroup_that_goes_while_it_is_killed_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        for controller in ["pids", ""] {
            let gone = dir.path().join("gone");
            let place =
                Place { dir: gone, controller: controller.to_owned(), path: PathBuf::from("gone"), freezer: None };
            let mut kill = Kill::new(place);
            assert_eq!(kill.step().unwrap(), 0, "{controller:?}");
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a process to kill")]
    fn without_cgroup_kill_a_v2_cgroup_is_frozen_and_killed() {
        let mut layout = Layout::detect().unwrap();
        layout.v1.clear();
        let Some(unified) = &mut layout.unified else {
            eprintln!("not tested: no v2 tree is mounted on this host");
            return;
        };
        unified.controllers.clear();
        let path = format!("killick-test-freezekill-{}", std::process::id());
        let cgroup = Cgroup::create(&layout, &path, &serde_json::from_str("{}").unwrap()).unwrap();
        let procs = cgroup.unified_dir().unwrap().join("cgroup.procs");
        let script = format!("echo 0 > {}; while :; do (setsid sleep 30 &); done", procs.display());
        let mut child = std::process::Command::new("/bin/sh").arg("-c").arg(script).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while cgroup.processes().unwrap().len() < 20 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut kill = cgroup.kill();
        kill.kill_file = "cgroup.no-such-file";
        let killed = kill.finish(deadline);
        let thawed = !cgroup.is_frozen().unwrap();
        child.wait().unwrap();
        cgroup.kill_all(deadline).unwrap();
        cgroup.remove(deadline).unwrap();
        killed.unwrap();
        assert!(thawed);
    }
}
