//! `pod run DIR`: the shim itself, as keep starts it.

use std::path::Path;

use killick_pod_dir::{PodDir, Roots};
use killick_supervisor::host::Host;
use killick_supervisor::keep::{Keep, LOCK_FD, READY_FD, SOCKET_FD};
use killick_supervisor::run::Setup;
use killick_sys::daemon::inherited;

pub(crate) fn run(dir: &Path) -> Result<(), String> {
    // Before anything is opened: these numbers are keep's gifts (crates/pause).
    let (socket, lock, ready) = (inherited(SOCKET_FD), inherited(LOCK_FD), inherited(READY_FD));
    killick_sys::spawn::set_undumpable().map_err(|error| error.to_string())?;
    let roots = Roots::from_env();
    let dir = PodDir::of_run_directory(&roots, dir).ok_or_else(|| format!("{}: no pod's directory", dir.display()))?;
    let (Some(socket), Some(lock)) = (socket, lock) else {
        return Err("`pod run` is started by keep; to start a pod use `pod start`".to_owned());
    };
    let host = Host::detect(roots, dir)?;
    killick_supervisor::run::run(Setup { host, pause: crate::PAUSE, keep: Keep::new(socket)?, lock, ready })
}
