//! Workers: whatever may wait runs in a child, and its value, error, death or lateness is told.
#![allow(clippy::unwrap_used)]

use killick_sys::spawn::{Worker, worker, worker_with_fds};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_value_comes_back_however_long() {
    let long = "x".repeat(3 << 20);
    assert_eq!(worker(LONG, || Ok(long.clone())).unwrap().wait().unwrap(), long);
    assert_eq!(worker(LONG, || Ok(((), Some(7), ["a"; 2].join("\n")))).unwrap().wait().unwrap().2, "a\na");
}

#[test]
fn an_error_comes_back_as_its_text() {
    let failed: Worker<()> = worker(LONG, || Err("no space left".into())).unwrap();
    assert_eq!(failed.wait().unwrap_err(), "no space left");
}

#[test]
fn descriptors_come_with_the_value() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "by descriptor").unwrap();
    let mut opened = worker_with_fds(LONG, || {
        let fds: Vec<OwnedFd> = (0..20).map(|_| std::fs::File::open(file.path()).unwrap().into()).collect();
        Ok((fds.len(), fds))
    })
    .unwrap();
    assert_eq!(opened.wait_mut().unwrap(), 20);
    let mut text = String::new();
    std::fs::File::from(opened.take_fds().pop().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "by descriptor");
}

#[test]
fn a_death_without_an_answer_is_an_error() {
    let died: Worker<()> = worker(LONG, || {
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        Ok(())
    })
    .unwrap();
    assert_eq!(died.wait().unwrap_err(), "the worker was killed by signal 9");
    let exited: Worker<()> = worker(LONG, || killick_sys::spawn::exit_now(3)).unwrap();
    assert_eq!(exited.wait().unwrap_err(), "the worker ended with exit code 3 and no answer");
}

#[test]
fn lateness_kills_the_worker_and_what_it_started() {
    let (read, write) = killick_sys::fd::pipe().unwrap();
    let late: Worker<()> = worker(Duration::from_millis(50), || {
        // A process of the worker's own: it holds the pipe as long as it lives.
        let _inner: Worker<()> = worker(LONG, || {
            loop {
                nix::unistd::pause();
            }
        })
        .unwrap();
        loop {
            nix::unistd::pause();
        }
    })
    .unwrap();
    drop(write);
    let start = Instant::now();
    assert_eq!(late.wait().unwrap_err(), "the worker did not finish before its deadline");
    let mut bytes = Vec::new();
    std::fs::File::from(read).read_to_end(&mut bytes).unwrap();
    assert!(start.elapsed() < LONG / 2, "the pipe closed because all are dead");
}

#[test]
fn a_dropped_worker_is_killed_and_reaped() {
    let endless: Worker<()> = worker(LONG, || {
        loop {
            nix::unistd::pause();
        }
    })
    .unwrap();
    let pid = endless.pidfd().pid();
    drop(endless);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_worker_starts_with_default_signals() {
    let status = worker(LONG, || std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string()));
    let status = status.unwrap().wait().unwrap();
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
}
