//! A process that cannot be confused with another: a pidfd, or pid with start time where the kernel has none.

use crate::error::{Context, Error, Result, check};
use crate::fd::own;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal { signal: i32, core: bool },
}

impl Exit {
    /// The shell's number: the exit code, or 128 plus the signal.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal { signal, .. } => 128 + signal,
        }
    }

    /// From a `wait(2)` status word.
    pub fn from_wait_status(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Exit::Code(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Exit::Signal { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) })
        } else {
            None
        }
    }
}

/// How long a killed process may sleep in the kernel before it is left alone. The end of a mount namespace sleeps too,
/// for as long as a grace period takes.
const REAP_STUCK_WAIT: Duration = Duration::from_secs(1);
/// How long any killed process is waited for.
const REAP_WAIT: Duration = Duration::from_secs(5);

/// One process. Signals and waits go by pidfd; on kernels without pidfds (before 5.3) the pid is compared with
/// its start time before each signal, and the owner learns of exits by SIGCHLD and `wait`.
#[derive(Debug)]
pub struct PidFd {
    fd: Option<OwnedFd>,
    pid: i32,
    /// Asked when it is wanted, by which time the process must not be reaped; at once where it stands for the pidfd.
    start_time: OnceLock<u64>,
}

impl PidFd {
    /// A copy of one of its descriptors (`pidfd_getfd`, 5.6); EBADF when it has none of that number.
    pub fn get_fd(&self, number: RawFd) -> Result<OwnedFd> {
        let call = || format!("pidfd_getfd({}, {number})", self.pid);
        let pidfd = self.fd.as_ref().ok_or_else(|| Error::new(call(), Errno::ENOSYS))?;
        pidfd_getfd(pidfd.as_fd(), number)
    }

    /// Opens a process by number. ESRCH: there is none. The caller makes sure that the number is still the one it
    /// means (it is the unreaped parent's right, or it compares `start_time` after opening: `open_verified`).
    pub fn open(pid: i32) -> Result<Self> {
        let fd = match pidfd_open(pid) {
            Ok(fd) => Some(fd),
            Err(error) if error.is_refused() => {
                // What a pidfd refuses by itself.
                if !is_process(pid) {
                    return Err(Error::new(format!("open(/proc/{pid}/status)"), Errno::ESRCH));
                }
                None
            }
            Err(error) => return Err(error),
        };
        let start_time = OnceLock::from(start_time(pid)?);
        Ok(Self { fd, pid, start_time })
    }

    /// Opens a process only if it is the one that was recorded.
    pub fn open_verified(pid: i32, expected_start_time: u64) -> Result<Self> {
        let opened = Self::open(pid)?;
        if opened.start_time() == expected_start_time {
            Ok(opened)
        } else {
            Err(Error::new(format!("pidfd_open({pid}) with start time {expected_start_time}"), Errno::ESRCH))
        }
    }

    /// A child just born: `fd` from CLONE_PIDFD, or None to try pidfd_open.
    pub(crate) fn adopt(pid: i32, fd: Option<OwnedFd>) -> Self {
        let fd = fd.or_else(|| pidfd_open(pid).ok());
        let adopted = Self { fd, pid, start_time: OnceLock::new() };
        if adopted.fd.is_none() {
            adopted.start_time();
        }
        adopted
    }

    pub fn try_clone(&self) -> Result<Self> {
        let fd = match &self.fd {
            Some(fd) => Some(fd.try_clone().call(|| format!("fcntl({}, F_DUPFD_CLOEXEC)", fd.as_raw_fd()))?),
            None => None,
        };
        Ok(Self { fd, pid: self.pid, start_time: self.start_time.clone() })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Field 22 of /proc/PID/stat: clock ticks since boot; 0: first asked when the process was gone. A zombie still
    /// has it.
    pub fn start_time(&self) -> u64 {
        *self.start_time.get_or_init(|| start_time(self.pid).unwrap_or(0))
    }

    /// Readable once the process has ended. None on kernels without pidfds: then call `wait` on SIGCHLD.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Ok(false): it has ended already.
    pub fn send_signal(&self, signal: Signal) -> Result<bool> {
        self.send_raw_signal(signal as i32)
    }

    /// For numbers that have no name, as SIGRTMIN+3.
    #[allow(unsafe_code)]
    pub fn send_raw_signal(&self, signal: i32) -> Result<bool> {
        let sent = match &self.fd {
            Some(fd) => {
                let info = std::ptr::null::<libc::siginfo_t>();
                // SAFETY: a null siginfo asks for kill(2)'s; the descriptor is ours and open.
                let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal, info, 0) };
                check(sent, || format!("pidfd_send_signal({}, {signal})", self.pid))
            }
            None => self.kill_verified(signal),
        };
        match sent {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Errno::ESRCH => Ok(false),
            // Missing, or refused by a filter; a process that is not ours to signal is refused once more.
            Err(error) if error.is_refused() => {
                self.kill_verified(signal).map(|_| true).or_else(|error| match error.errno() {
                    Errno::ESRCH => Ok(false),
                    _ => Err(error),
                })
            }
            Err(error) => Err(error),
        }
    }

    #[allow(unsafe_code)]
    fn kill_verified(&self, signal: i32) -> Result<libc::c_long> {
        if start_time(self.pid)? != self.start_time() {
            return Err(Error::new(format!("kill({}, {signal})", self.pid), Errno::ESRCH));
        }
        // SAFETY: kill(2) touches no memory of ours.
        let sent = unsafe { libc::kill(self.pid, signal) };
        check(libc::c_long::from(sent), || format!("kill({}, {signal})", self.pid))
    }

    /// The exit of a child, reaping it; None while it runs. ECHILD: not our child, or reaped before.
    pub fn wait(&self) -> Result<Option<Exit>> {
        self.wait_with(libc::WNOHANG)
    }

    /// As `wait`, but the zombie stays.
    pub fn peek(&self) -> Result<Option<Exit>> {
        self.wait_with(libc::WNOHANG | libc::WNOWAIT)
    }

    /// After a SIGKILL: reaps the child. One that sleeps in a disk or a network file system cannot be killed until that
    /// answers, and nobody may wait for it: it stays as a zombie until we end. Any other is gone in ~0.1 ms, or when a
    /// busy machine lets it.
    pub(crate) fn reap_soon(&self) -> Result<Option<Exit>> {
        let start = Instant::now();
        loop {
            if let Some(exit) = self.wait()? {
                return Ok(Some(exit));
            }
            let waited = start.elapsed();
            let is_stuck = waited >= REAP_STUCK_WAIT && proc_stat(self.pid).is_ok_and(|(state, _)| state == 'D');
            if is_stuck || waited >= REAP_WAIT {
                return Ok(None);
            }
            match self.as_fd() {
                Some(fd) => crate::spawn::wait_readable(fd, Instant::now() + Duration::from_millis(50))?,
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Blocks until the child has ended, and reaps it. For workers, tools and tests: the shim's loop polls.
    pub fn wait_blocking(&self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.wait_with(0)? {
                return Ok(exit);
            }
        }
    }

    #[allow(unsafe_code)]
    fn wait_with(&self, options: i32) -> Result<Option<Exit>> {
        // SAFETY: siginfo_t is plain data for which all-zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        loop {
            let pid = self.pid as libc::id_t;
            // SAFETY: info lives across the call. The pid cannot have been reused: an unreaped child keeps it.
            let waited = unsafe { libc::waitid(libc::P_PID, pid, &mut info, options | libc::WEXITED) };
            match check(libc::c_long::from(waited), || format!("waitid(P_PID, {pid})")) {
                Ok(_) => break,
                Err(error) if error.errno() == Errno::EINTR => continue,
                Err(error) => return Err(error),
            }
        }
        // SAFETY: waitid filled the child's part, or left the zeroes.
        let pid = unsafe { info.si_pid() };
        if pid == 0 {
            return Ok(None);
        }
        // SAFETY: as above.
        let status = unsafe { info.si_status() };
        Ok(Some(match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            libc::CLD_DUMPED => Exit::Signal { signal: status, core: true },
            _ => Exit::Signal { signal: status, core: false },
        }))
    }

    /// Whether it still runs (a zombie does not). For processes that are not our children, too.
    pub fn is_running(&self) -> bool {
        if let Some(fd) = self.as_fd() {
            use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
            return poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0);
        }
        match proc_stat(self.pid) {
            Ok((state, start)) => start == self.start_time() && state != 'Z' && state != 'X',
            Err(_) => false,
        }
    }

    /// Blocks until it has ended, or for so long; for processes that are not our children. Without pidfds it is just
    /// the time.
    pub fn wait_gone(&self, at_most: std::time::Duration) -> Result<()> {
        let Some(fd) = self.as_fd() else {
            std::thread::sleep(at_most);
            return Ok(());
        };
        crate::spawn::wait_readable(fd, std::time::Instant::now() + at_most)
    }

    /// The exit of a process that somebody else reaped, from PIDFD_GET_INFO (6.15); None where the kernel cannot
    /// tell. Ask after POLLHUP: POLLIN alone is a zombie, whose exit is not written yet.
    #[allow(unsafe_code)]
    pub fn exit_after_reaping(&self) -> Option<Exit> {
        /// `struct pidfd_info` of linux/pidfd.h as of 6.15; larger kernels accept the shorter one.
        #[repr(C)]
        #[derive(Default)]
        struct PidfdInfo {
            mask: u64,
            cgroupid: u64,
            pids: [u32; 3],
            ids: [u32; 8],
            exit_code: i32,
            coredump_mask: u32,
            spare: u32,
        }
        const PIDFD_INFO_EXIT: u64 = 1 << 3;
        let size = size_of::<PidfdInfo>() as u64;
        // _IOWR(0xFF, 11, struct pidfd_info)
        let request = (3u64 << 30) | (size << 16) | (0xFF << 8) | 11;
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
        let fd = self.fd.as_ref()?.as_raw_fd();
        // SAFETY: the kernel writes at most the size encoded in the request, which is the structure's.
        let answered = unsafe { libc::ioctl(fd, request as libc::Ioctl, &mut info) };
        if answered != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
            return None;
        }
        Exit::from_wait_status(info.exit_code)
    }
}

#[allow(unsafe_code)]
fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: RawFd) -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let got = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    check(got, || format!("pidfd_getfd({number})")).map(|fd| own(fd as RawFd))
}

#[allow(unsafe_code)]
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match check(opened, || format!("pidfd_open({pid}, 0)")) {
        // A number without a process behind it: of a process that is just being reaped, or of a thread. Since 6.16 the
        // kernel says ENOENT for it.
        Err(error) if matches!(error.errno(), Errno::EINVAL | Errno::ENOENT) => {
            Err(Error::new(error.call(), Errno::ESRCH))
        }
        opened => opened.map(|fd| own(fd as RawFd)),
    }
}

/// Not a thread, whose directory /proc has too.
fn is_process(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let leader = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    leader.is_some_and(|leader| leader.trim().parse() == Ok(pid))
}

/// Field 22 of /proc/PID/stat. ESRCH when there is no such process.
pub fn start_time(pid: i32) -> Result<u64> {
    proc_stat(pid).map(|(_, start)| start)
}

fn proc_stat(pid: i32) -> Result<(char, u64)> {
    let gone = || Error::new(format!("open(/proc/{pid}/stat)"), Errno::ESRCH);
    // One read: the kernel gives the whole line, which has at most 52 numbers.
    let mut buffer = [0u8; 2048];
    let mut file = std::fs::File::open(format!("/proc/{pid}/stat")).map_err(|_| gone())?;
    let length = std::io::Read::read(&mut file, &mut buffer).map_err(|_| gone())?;
    let text = &buffer[..length];
    // The command's name may hold anything, also ')' and line feeds; what follows the last ')' cannot.
    let after = text.iter().rposition(|byte| *byte == b')').ok_or_else(gone)?;
    let rest = std::str::from_utf8(&text[after + 1..]).map_err(|_| gone())?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().and_then(|state| state.chars().next()).ok_or_else(gone)?;
    let start = fields.nth(18).and_then(|start| start.parse().ok()).ok_or_else(gone)?;
    Ok((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_no_process_is_nobody() {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| PidFd::open(nix::unistd::gettid().as_raw()).unwrap_err().errno());
            assert_eq!(thread.join().unwrap(), Errno::ESRCH);
        });
    }
}
