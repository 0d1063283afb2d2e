//! Ends: of one process, and of everything in a cgroup. Each wait has a limit.

use std::time::Duration;

use killick_container::cgroup::Cgroup;
use killick_pod_dir::PodDir;
use killick_sys::pidfd::PidFd;
use tokio::time::{Instant, sleep, timeout};

use crate::wait::ended;

/// A killed process that is still there after this time hangs in the kernel.
const END_DEADLINE: Duration = Duration::from_secs(10);
const EMPTY_DEADLINE: Duration = Duration::from_secs(10);
/// keep writes the exit of a process before it reaps it; it is asked again so often until then.
const EXITS_TRIES: u32 = 200;
const LOOK_FIRST: Duration = Duration::from_micros(200);
const LOOK_LONGEST: Duration = Duration::from_millis(20);

/// How a process ended, as far as it can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// 0–255; a death by signal is 128 + signal.
    Code(i32),
    Unknown,
}

/// Waits for the end (bounded) and reaps the process if it is our child.
pub async fn wait_for_end(process: &PidFd) {
    if timeout(END_DEADLINE, ended(process)).await.is_ok() {
        let _ = process.wait();
    }
}

/// Whether the process is on its way out. The init of a PID namespace stays in the middle of its exit until every
/// process of the namespace is reaped, the containers among them: only the flag tells that it is dying.
pub fn is_dying(process: &PidFd) -> bool {
    const PF_EXITING: u64 = 0x4;
    let stat = std::fs::read(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
    let after = stat.iter().rposition(|byte| *byte == b')').map_or(0, |end| end + 1);
    let text = String::from_utf8_lossy(&stat[after.min(stat.len())..]).into_owned();
    // Field 9, counted from field 3 on.
    let flags = text.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse::<u64>().ok());
    !process.is_running() || flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// The exit of a process that has ended: from our own wait; after a take-over from keep's `exits`; then from the
/// kernel, which knows it if the pidfd was open before the reaping.
pub async fn learn_exit(dir: &PodDir, process: &PidFd) -> End {
    if let Ok(Some(exit)) = process.wait() {
        return End::Code(exit.code());
    }
    for _ in 0..EXITS_TRIES {
        if let Some(code) = recorded_exit(dir, process.pid(), process.start_time()) {
            return End::Code(code);
        }
        if let Some(exit) = process.exit_after_reaping() {
            return End::Code(exit.code());
        }
        if killick_sys::pidfd::start_time(process.pid()).ok() != Some(process.start_time()) {
            // Reaped: whoever did it had written the line before.
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    if let Some(code) = recorded_exit(dir, process.pid(), process.start_time()) {
        return End::Code(code);
    }
    match process.exit_after_reaping() {
        Some(exit) => End::Code(exit.code()),
        None => End::Unknown,
    }
}

/// What keep wrote down of a process that it reaped.
pub fn recorded_exit(dir: &PodDir, pid: i32, start_time: u64) -> Option<i32> {
    let exits = dir.exits().unwrap_or_default();
    let exit = exits.iter().rev().find(|exit| exit.pid == pid && exit.start_time == start_time);
    exit.map(killick_pod_dir::exits::Exit::code)
}

/// Kills everything in the cgroup and waits until it is empty.
pub async fn empty_cgroup(cgroup: &Cgroup) -> Result<(), String> {
    let mut kill = cgroup.kill();
    let path = cgroup.path().display().to_string();
    until_zero(&format!("kill the processes of cgroup {path}"), || kill.step().map_err(|error| error.to_string())).await
}

/// Removes an empty cgroup, waiting while the kernel finds it busy.
pub async fn remove_cgroup(cgroup: &Cgroup) -> Result<(), String> {
    let path = cgroup.path().display().to_string();
    let step = || cgroup.remove_step().map(|gone| usize::from(!gone)).map_err(|error| error.to_string());
    until_zero(&format!("remove cgroup {path}"), step).await
}

/// Calls `left` until it says 0.
pub async fn until_zero(what: &str, mut left: impl FnMut() -> Result<usize, String>) -> Result<(), String> {
    let deadline = Instant::now() + EMPTY_DEADLINE;
    let mut pause = LOOK_FIRST;
    loop {
        match left()? {
            0 => return Ok(()),
            count if Instant::now() >= deadline => {
                return Err(format!("{what}: {count} left after {} s", EMPTY_DEADLINE.as_secs()));
            }
            _ => sleep(pause).await,
        }
        pause = (pause * 2).min(LOOK_LONGEST);
    }
}
