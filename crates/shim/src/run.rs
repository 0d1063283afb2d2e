//! `pod run DIR`: the shim itself, as keep starts it.

use std::path::Path;

use killick_pod_dir::{PodDir, Roots};
use killick_supervisor::host::Host;
use killick_supervisor::keep::{Keep, LOCK_FD, READY_FD, SOCKET_FD};
use killick_supervisor::run::Setup;
use killick_sys::daemon::inherited;

pub(crate) fn run(dir: &Path) -> Result<(), String> {
    let roots = Roots::from_env();
    run_from_a_safe_place(&roots)?;
    // Before anything is opened: these numbers are keep's gifts (crates/pause).
    let (socket, lock, ready) = (inherited(SOCKET_FD), inherited(LOCK_FD), inherited(READY_FD));
    killick_sys::spawn::set_undumpable().map_err(|error| error.to_string())?;
    let dir = PodDir::of_run_directory(&roots, dir).ok_or_else(|| format!("{}: no pod's directory", dir.display()))?;
    let (Some(socket), Some(lock)) = (socket, lock) else {
        return Err("`pod run` is started by keep; to start a pod use `pod start`".to_owned());
    };
    let host = Host::detect(roots, dir)?;
    killick_supervisor::run::run(Setup { host, pause: crate::PAUSE, keep: Keep::new(socket)?, lock, ready })
}

/// Processes with this program's file as their executable are born beside containers: none of them may lead to the file
/// on the host's disk (CVE-2019-5736).
fn run_from_a_safe_place(roots: &Roots) -> Result<(), String> {
    let empty = roots.bin().join("empty");
    std::fs::create_dir_all(&empty).map_err(|error| format!("{}: {error}", empty.display()))?;
    killick_sys::selfexe::ensure_protected(&empty).map_err(|error| error.to_string())?;
    nix::sys::prctl::set_name(c"killick-shim").map_err(|errno| format!("prctl(PR_SET_NAME): {errno}"))
}
