//! An attacker for tests: a process of the pod with CAP_SYS_PTRACE and nothing else, that stops every new process as soon
//! as it has a number, and looks at all that the kernel shows of it.
#![allow(dead_code, clippy::unwrap_used)]

use killick_sys::caps::{self, CapSet, CapSets};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// What the attacker saw of the processes that it stopped as early as it could.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    pub seized: u32,
    /// Capabilities beyond those of the container, of any process at any time.
    pub beyond: u64,
    /// Whether the memory of one held the secret of the runtime.
    pub secret: bool,
    /// Descriptors, directories and variables of the host.
    pub host: Vec<String>,
}

impl Seen {
    #[track_caller]
    pub fn assert_nothing(&self, at_least: u32, of: u32) {
        assert_eq!(
            (self.beyond, self.secret, self.host.as_slice()),
            (0, false, [].as_slice()),
            "{self:?} in {of} execs"
        );
        assert!(self.seized >= at_least, "{self:?} in {of} execs");
    }
}

/// How many processes are made meanwhile; 10,000 in `scripts/test --all`.
pub fn execs(default: u32) -> u32 {
    std::env::var("KILLICK_TRACED_EXECS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// At most this long; a busy machine gives the attacker few chances a second.
pub fn limit(execs: u32) -> Duration {
    Duration::from_secs(90 + u64::from(execs) / 5)
}

/// What is noted of the host.
const HOST_MAX: usize = 8;
/// In every environment that cargo runs tests in, and in no container's.
const VARIABLE: &[u8] = b"CARGO_MANIFEST_DIR=/";

/// Device and inode of a container's root, which is all that its processes have of the file system.
pub fn identity(path: &str) -> (u64, u64) {
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

/// Until it has seen enough. To be run in a process born in the pod's PID namespace, with a mount namespace of its own.
pub fn attack(limit: Duration, enough: impl Fn(&Seen) -> bool, roots: &[(u64, u64)], secret: &[u8]) -> Seen {
    // Its own view of the pod: a procfs of the pod's PID namespace.
    killick_sys::mount::mount("proc", "/proc".as_ref(), "proc", 0, "").unwrap();
    caps::drop_bounding(caps::bounding().difference(CapSet(ALLOWED))).unwrap();
    caps::set(&CapSets::container(CapSet(ALLOWED))).unwrap();
    let own = std::process::id() as i32;
    let mut next = own + 1;
    let mut seen = Seen::default();
    let end = std::time::Instant::now() + limit;
    while std::time::Instant::now() < end && !enough(&seen) {
        let pid = Pid::from_raw(next);
        match ptrace::seize(pid, ptrace::Options::empty()) {
            Ok(()) => {
                seen.seized += 1;
                look(pid, roots, secret, &mut seen);
                next += 1;
            }
            Err(Errno::ESRCH) => {
                // Gone before we came, or not there yet.
                let newest = newest_pid();
                if newest > next {
                    next += 1;
                }
            }
            Err(_) => next += 1,
        }
        while waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)).is_ok_and(|status| status.pid().is_some())
        {
        }
    }
    seen
}

/// CAP_SYS_PTRACE.
const ALLOWED: u64 = 1 << 19;

fn look(pid: Pid, roots: &[(u64, u64)], secret: &[u8], seen: &mut Seen) {
    let stopped = ptrace::interrupt(pid).is_ok() && waitpid(pid, Some(WaitPidFlag::__WALL)).is_ok();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    for field in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
        let sets = status.lines().filter_map(|line| line.strip_prefix(field));
        for set in sets.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()) {
            seen.beyond |= set & !ALLOWED;
        }
    }
    seen.secret |= has_in_memory(pid, &[secret, VARIABLE]);
    look_at_files(pid, roots, seen);
    if stopped {
        let _ = ptrace::detach(pid, None);
    }
}

/// Its directories, its descriptors and its environment.
fn look_at_files(pid: Pid, roots: &[(u64, u64)], seen: &mut Seen) {
    let mut of_host = |what: String| {
        if seen.host.len() < HOST_MAX {
            seen.host.push(what);
        }
    };
    let is_root = |path: &str| std::fs::metadata(path).is_ok_and(|found| roots.contains(&(found.dev(), found.ino())));
    for name in ["cwd", "root"] {
        let path = format!("/proc/{pid}/{name}");
        // A process that has ended has neither.
        if std::fs::metadata(&path).is_ok() && !is_root(&path) {
            of_host(format!("{name} {:?}", std::fs::read_link(&path)));
        }
    }
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let is_ours = ["socket:", "pipe:", "/dev/null", "/dev/pts/"].iter().any(|start| target.starts_with(start));
        let path = entry.path();
        if !is_ours && !is_root(&path.to_string_lossy()) {
            of_host(format!("fd {} {target}", path.display()));
        }
    }
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    if environment.windows(VARIABLE.len()).any(|window| window == VARIABLE) {
        of_host("environ".into());
    }
}

fn has_in_memory(pid: Pid, secrets: &[&[u8]]) -> bool {
    use std::os::unix::fs::FileExt;
    let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { return false };
    let Ok(memory) = std::fs::File::open(format!("/proc/{pid}/mem")) else { return false };
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let range = line.split(' ').next().unwrap_or_default().split_once('-');
        let Some((start, end)) = range else { continue };
        let (Ok(start), Ok(end)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16)) else { continue };
        let mut bytes = vec![0; (end - start).min(8 << 20) as usize];
        let length = memory.read_at(&mut bytes, start).unwrap_or(0);
        if secrets.iter().any(|secret| bytes[..length].windows(secret.len()).any(|window| window == *secret)) {
            return true;
        }
    }
    false
}

fn newest_pid() -> i32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().last().and_then(|pid| pid.parse().ok()).unwrap_or(0)
}
