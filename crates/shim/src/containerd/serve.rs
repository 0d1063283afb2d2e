//! The server: one thread, one loop, one socket that it was given.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use killick_sys::daemon::inherited;
use tokio::sync::Semaphore;

use super::command_line::CommandLine;
use super::log::Log;
use super::shim::Shim;
use super::ttrpc;

/// Where `start` has put the listening socket.
pub const LISTENER_FD: i32 = 3;
/// Large requests that are read at the same time (a spec of 4 MiB is a rare thing, and memory is small).
const LARGE_MAX: usize = 2;
/// Connections at a time; containerd has one for each container.
const CONNECTIONS_MAX: usize = 1024;
const FLUSH_DEADLINE: Duration = Duration::from_secs(3);
/// Between two tries to accept, when there are no descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

pub fn serve(command_line: CommandLine) -> Result<(), String> {
    // Before anything is opened: the number is `start`'s gift.
    let listener = inherited(LISTENER_FD).ok_or("the server is started by `start`; by hand it has no socket")?;
    let log = Rc::new(Log::open(&command_line.bundle, command_line.debug));
    let done = prepare(command_line, &log, listener);
    if let Err(error) = &done {
        log.error(error);
    }
    done
}

fn prepare(command_line: CommandLine, log: &Rc<Log>, listener: OwnedFd) -> Result<(), String> {
    killick_sys::spawn::set_undumpable().map_err(|error| error.to_string())?;
    if !killick_sys::selfexe::is_protected().map_err(|error| error.to_string())? {
        return Err("the server runs from a file that a container could write to".into());
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::sys::prctl::set_name(c"killick-shim").map_err(|errno| format!("prctl(PR_SET_NAME): {errno}"))?;
    let listener = UnixListener::from(listener);
    let socket = listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
    let socket = socket.ok_or("the socket has no name")?;
    let shim = Rc::new(Shim::new(command_line, Rc::clone(log), socket, crate::PAUSE)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, live(shim, listener))
}

async fn live(shim: Rc<Shim>, listener: UnixListener) -> Result<(), String> {
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(|error| error.to_string())?;
    let daemon = std::env::var_os("TTRPC_ADDRESS").filter(|address| !address.is_empty()).map(PathBuf::from);
    tokio::task::spawn_local(Rc::clone(&shim.events).send_all(daemon));
    let accepting = tokio::task::spawn_local(accept(Rc::clone(&shim), listener));
    shim.stop.notified().await;
    accepting.abort();
    shim.events.flush(FLUSH_DEADLINE).await;
    // Gone already: somebody cleaned up.
    let _ = std::fs::remove_file(&shim.socket);
    Ok(())
}

async fn accept(shim: Rc<Shim>, listener: tokio::net::UnixListener) {
    let large = Rc::new(Semaphore::new(LARGE_MAX));
    let places = Rc::new(std::cell::Cell::new(0));
    let own = nix::unistd::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        // Nobody else has business here, whatever the socket's mode became.
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own) || places.get() >= CONNECTIONS_MAX {
            continue;
        }
        places.set(places.get() + 1);
        let (shim, large, places) = (Rc::clone(&shim), Rc::clone(&large), Rc::clone(&places));
        tokio::task::spawn_local(async move {
            if let Err(error) = ttrpc::serve(stream, Rc::clone(&shim), large).await {
                shim.log.debug(&format!("connection: {error}"));
            }
            places.set(places.get() - 1);
        });
    }
}
