//! `pod start DIR`: makes keep, which makes the shim, and waits until the pod is in its hands.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use killick_pod_dir::{PodDir, Roots, lock};
use killick_supervisor::keep::{LOCK_FD, READY_FD};
use killick_sys::daemon::daemon;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The first shim must have the pod in its hands within this time.
const READY_DEADLINE: Duration = Duration::from_secs(30);
const OOM_SCORE_ADJ: &str = "-998";
/// A log of errors that nobody reads is begun anew at this size.
const SHIM_LOG_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn start(dir: &Path) -> Result<(), String> {
    let roots = Roots::from_env();
    let dir = PodDir::of_run_directory(&roots, dir).ok_or_else(|| format!("{}: no pod's directory", dir.display()))?;
    let pod = match dir.read_pod() {
        Ok(pod) => pod,
        // Removed meanwhile: nothing is left to start.
        Err(_) if dir.is_gone() => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !dir.restore_run_dir(&pod).map_err(|error| error.to_string())? {
        return Ok(());
    }

    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock_file = options.open(dir.lock_path()).map_err(|error| at(&dir.lock_path(), &error))?;
    match lock::take(&lock_file) {
        Ok(()) => {}
        // Somebody else was faster, or it lives: that is what was asked for.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_busy(&error) => return Ok(()),
        Err(error) => return Err(at(&dir.lock_path(), &error)),
    }
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|error| error.to_string())?;
    let log = shim_log(&dir)?;
    let (ready, told) = killick_sys::fd::pipe().map_err(|error| error.to_string())?;
    let shim = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let keep = killick_sys::sealed::sealed("killick-keep", crate::PAUSE).map_err(|error| error.to_string())?;
    // As kubelet's sandboxes: of a pod, its supervisor is the last to go. Where that is refused it goes like others.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let args = [OsString::from("killick-pause"), "keep".into(), dir.run_dir().into(), shim.into()];
    daemon(
        keep.as_fd(),
        &args,
        &[
            (null.as_fd(), 0),
            (log.as_fd(), 1),
            (log.as_fd(), 2),
            (lock_file.as_fd(), LOCK_FD),
            (told.as_fd(), READY_FD),
        ],
    )
    .map_err(|error| error.to_string())?;
    drop(told);
    drop(lock_file);
    wait_until_ready(File::from(ready), &dir)
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

fn shim_log(dir: &PodDir) -> Result<File, String> {
    let path = dir.shim_log();
    let log =
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|error| at(&path, &error))?;
    if log.metadata().is_ok_and(|metadata| metadata.len() > SHIM_LOG_BYTES_MAX) {
        log.set_len(0).map_err(|error| at(&path, &error))?;
    }
    Ok(log)
}

/// The shim's word, "ok" or why not. Its silence is a death: then keep starts another one, or has ended as well.
fn wait_until_ready(mut ready: File, dir: &PodDir) -> Result<(), String> {
    let deadline = Instant::now() + READY_DEADLINE;
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(ready.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(format!("the pod's shim said nothing within {} s", READY_DEADLINE.as_secs())),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(format!("wait for the pod's shim: {errno}")),
        }
        let mut bytes = [0u8; 4096];
        match ready.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&bytes[..count]),
            Err(error) => return Err(format!("wait for the pod's shim: {error}")),
        }
    }
    match String::from_utf8_lossy(&said).trim() {
        "ok" => Ok(()),
        "" if dir.is_kept().unwrap_or(false) => Ok(()),
        "" => Err(format!("the pod's shim ended at once; see {}", dir.shim_log().display())),
        why => Err(why.to_owned()),
    }
}
