//! The executable of a process that enters a container cannot be written to.
#![allow(clippy::unwrap_used)]

use killick_sys::error::Error;
use killick_sys::fd::pipe;
use killick_sys::{selfexe, spawn};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// Runs this test program from `program` and looks at it while it runs.
fn check(open: impl Fn() -> Result<OwnedFd, Error>) {
    assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
    let program = open().unwrap();
    let (read, write) = pipe().unwrap();
    let worker = spawn::worker(Duration::from_secs(20), || {
        killick_sys::fd::set_cloexec(write.as_fd(), false).map_err(|error| error.to_string())?;
        let args = ["selfexe", "--exact", "what_is_run_says_whether_it_is_protected", "--nocapture"];
        let env = format!("KILLICK_TEST_REPORT={}", write.as_raw_fd());
        match selfexe::execute(program.as_fd(), args.map(|arg| arg.into()), [env.into_bytes()]) {
            Err(error) => Err::<(), _>(error.to_string()),
        }
    })
    .unwrap();
    drop(write);
    let mut report = String::new();
    std::fs::File::from(read).read_to_string(&mut report).unwrap();
    assert_eq!(report, "protected, and not to be opened for writing");
    drop(worker);
}

#[test]
fn through_an_overlay_without_an_upper_layer() {
    let empty = tempfile::tempdir().unwrap();
    if selfexe::open_overlay(empty.path()).is_err_and(|error| error.is_refused()) {
        println!("not here: this kernel has no fsopen (5.2); the next test is for it");
        return;
    }
    check(|| selfexe::open_overlay(empty.path()));
}

#[test]
fn through_an_overlay_of_a_mount_namespace_that_has_ended() {
    let empty = tempfile::tempdir().unwrap();
    check(|| selfexe::open_classic_overlay(empty.path()));
}

#[test]
fn from_a_copy_in_memory() {
    check(selfexe::open_copy);
}

#[test]
fn from_a_read_only_tmpfs_that_is_mounted_nowhere() {
    check(selfexe::open_tmpfs_copy);
}

#[test]
fn what_is_run_says_whether_it_is_protected() {
    let Ok(report) = std::env::var("KILLICK_TEST_REPORT") else {
        assert!(!selfexe::is_protected().unwrap(), "started as it is");
        return;
    };
    let protected = if selfexe::is_protected().unwrap() { "protected" } else { "not protected" };
    let writable = match std::fs::OpenOptions::new().write(true).open("/proc/self/exe") {
        Ok(_) => "open for writing",
        Err(_) => "not to be opened for writing",
    };
    std::fs::write(format!("/proc/self/fd/{report}"), format!("{protected}, and {writable}")).unwrap();
}
