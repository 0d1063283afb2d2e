//! `pod run DIR`: the shim itself, as keep starts it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use killick_pod_dir::{PodDir, Roots};
use killick_supervisor::host::Host;
use killick_supervisor::keep::{Keep, LOCK_FD, READY_FD, SOCKET_FD};
use killick_supervisor::run::Setup;
use killick_sys::daemon::inherited;

pub(crate) fn run(dir: &Path) -> Result<(), String> {
    let roots = Roots::from_env();
    let protected = run_from_a_safe_place(&roots);
    // Before anything is opened: these numbers are keep's gifts (crates/pause).
    let (socket, lock) = (inherited(SOCKET_FD), inherited(LOCK_FD));
    let mut ready = inherited(READY_FD).map(File::from);
    let prepared = protected.and_then(|()| prepare(roots, dir, socket));
    match (prepared, lock) {
        (Ok((host, keep)), Some(lock)) => {
            let ready = ready.map(OwnedFd::from);
            killick_supervisor::run::run(Setup { host, pause: crate::PAUSE, keep, lock, ready })
        }
        (Ok(_), None) => Err(NOT_BY_HAND.to_owned()),
        (Err(error), _) => {
            if let Some(ready) = &mut ready {
                // Whoever waited has gone: then nobody needs the answer.
                let _ = ready.write_all(error.as_bytes());
            }
            Err(error)
        }
    }
}

const NOT_BY_HAND: &str = "`pod run` is started by keep; to start a pod use `pod start`";

fn prepare(roots: Roots, dir: &Path, socket: Option<OwnedFd>) -> Result<(Host, Keep), String> {
    killick_sys::spawn::set_undumpable().map_err(|error| error.to_string())?;
    // Logs are for everybody to read, whatever the mask of who typed the command.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let dir = PodDir::of_run_directory(&roots, dir).ok_or_else(|| format!("{}: no pod's directory", dir.display()))?;
    let keep = Keep::new(socket.ok_or(NOT_BY_HAND)?)?;
    Ok((Host::detect(roots, dir)?, keep))
}

/// Processes with this program's file as their executable are born beside containers: none of them may lead to the file
/// on the host's disk (CVE-2019-5736).
fn run_from_a_safe_place(roots: &Roots) -> Result<(), String> {
    let empty = roots.bin().join("empty");
    std::fs::create_dir_all(&empty).map_err(|error| format!("{}: {error}", empty.display()))?;
    killick_sys::selfexe::ensure_protected(&empty).map_err(|error| error.to_string())?;
    nix::sys::prctl::set_name(c"killick-shim").map_err(|errno| format!("prctl(PR_SET_NAME): {errno}"))
}
