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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests start processes")]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use killick_pod_dir::Roots;

    use super::*;

    fn check(test: impl AsyncFnOnce(PodDir)) {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let roots = Roots { run: at("run"), root: at("root"), logs: at("logs") };
        let dir = PodDir::at(&roots, "0d7ac1f2-5f0e-4a53-8f3b-3a1f2b3c4d5e").unwrap();
        std::fs::create_dir_all(dir.run_dir()).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test(dir));
    }

    /// A shell that waits for a byte before it runs the line.
    fn shell(line: &str) -> (Child, PidFd) {
        let script = format!("read x; {line}");
        let child = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
        let process = PidFd::open(child.id() as i32).unwrap();
        (child, process)
    }

    fn go(child: &mut Child) {
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    #[test]
    fn our_own_childs_exit_is_learned_and_the_child_reaped() {
        check(async |dir| {
            for (line, code) in [("exit 42", 42), ("kill -9 $$", 137)] {
                let (mut child, process) = shell(line);
                go(&mut child);
                ended(&process).await;
                assert_eq!(learn_exit(&dir, &process).await, End::Code(code));
                assert!(killick_sys::pidfd::start_time(process.pid()).is_err(), "a zombie is left");
            }
        });
    }

    #[test]
    fn what_keep_reaped_is_found_in_exits_also_after_its_file_was_put_aside() {
        check(async |dir| {
            let (mut child, process) = shell("exit 3");
            let line = format!("{} {} {}\n", process.pid(), process.start_time(), 42 << 8);
            std::fs::write(dir.exits_path(), format!("1 1 256\n{line}7 7 9\n")).unwrap();
            go(&mut child);
            child.wait().unwrap();
            ended(&process).await;
            assert_eq!(learn_exit(&dir, &process).await, End::Code(42));
            assert_eq!(recorded_exit(&dir, process.pid(), process.start_time() + 1), None);
        });
    }

    #[test]
    fn a_process_on_its_way_out_is_told_from_one_that_runs() {
        let (mut child, process) = shell("exit 0");
        assert!(!is_dying(&process));
        go(&mut child);
        while process.is_running() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(is_dying(&process), "a zombie");
        child.wait().unwrap();
        assert!(is_dying(&process), "gone");
    }
}
