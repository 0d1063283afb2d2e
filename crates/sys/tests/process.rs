//! Processes, namespaces and descriptors against the real kernel.
#![allow(clippy::unwrap_used)]

use killick_sys::fd;
use killick_sys::ns::{self, NamespaceKind};
use killick_sys::pidfd::{Exit, PidFd};
use killick_sys::spawn::{Worker, worker};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

fn root() {
    assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
}

fn sleeper() -> Worker<()> {
    worker(LONG, || {
        loop {
            nix::unistd::pause();
        }
    })
    .unwrap()
}

#[test]
fn a_pidfd_signals_and_waits_for_its_process_only() {
    let child = sleeper();
    let process = PidFd::open(child.pidfd().pid()).unwrap();
    assert!(process.is_running());
    assert_eq!(process.wait().unwrap(), None);
    assert!(process.send_signal(Signal::SIGTERM).unwrap());
    assert_eq!(child.pidfd().wait_blocking().unwrap(), Exit::Signal { signal: 15, core: false });
    assert!(!process.send_signal(Signal::SIGTERM).unwrap(), "it has ended");
    assert_eq!(process.wait().unwrap_err().errno(), Errno::ECHILD);
    assert!(!process.is_running());
}

#[test]
fn a_zombie_is_peeked_at_and_stays() {
    let child = sleeper();
    child.pidfd().send_signal(Signal::SIGKILL).unwrap();
    let expected = Exit::Signal { signal: 9, core: false };
    while child.pidfd().peek().unwrap().is_none() {
        std::thread::yield_now();
    }
    assert_eq!(child.pidfd().peek().unwrap(), Some(expected));
    assert!(!child.pidfd().is_running(), "a zombie does not run");
    assert_eq!(child.pidfd().wait().unwrap(), Some(expected));
}

#[test]
fn an_exit_that_somebody_else_reaped_is_still_to_be_had() {
    let child: Worker<()> = worker(LONG, || killick_sys::spawn::exit_now(42)).unwrap();
    let watched = child.pidfd().try_clone().unwrap();
    assert_eq!(watched.exit_after_reaping(), None);
    child.pidfd().wait_blocking().unwrap();
    // PIDFD_INFO_EXIT is of 6.15; an older kernel, or one without pidfds, must say that it does not know.
    let told = watched.exit_after_reaping();
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut version = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let is_new = (version.next(), version.next()) >= (Some(6), Some(15)) && watched.as_fd().is_some();
    assert_eq!(told, is_new.then_some(Exit::Code(42)), "on {release}");
}

#[test]
fn a_recycled_pid_is_not_the_recorded_process() {
    let child = sleeper();
    let (pid, start) = (child.pidfd().pid(), child.pidfd().start_time());
    assert!(PidFd::open_verified(pid, start).is_ok());
    assert_eq!(PidFd::open_verified(pid, start + 1).unwrap_err().errno(), Errno::ESRCH);
}

#[test]
fn a_visit_to_a_network_namespace_ends_at_home() {
    root();
    let away = worker(LONG, || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(|errno| errno.to_string())?;
        let elsewhere = ns::open_own(NamespaceKind::Network).map_err(|error| error.to_string())?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(|errno| errno.to_string())?;
        let own = || ns::identity(ns::open_own(NamespaceKind::Network).unwrap().as_fd()).unwrap();
        let home = own();
        let there = ns::with_netns(elsewhere.as_fd(), own).map_err(|error| error.to_string())?;
        Ok((there == ns::identity(elsewhere.as_fd()).unwrap(), own() == home, there != home))
    });
    assert_eq!(away.unwrap().wait().unwrap(), (true, true, true));
}

#[test]
fn messages_keep_their_borders_and_carry_descriptors() {
    let (one, other) = fd::seqpacket_pair().unwrap();
    let file = tempfile::tempfile().unwrap();
    fd::send_message(one.as_fd(), b"first", &[file.as_fd(), file.as_fd()]).unwrap();
    fd::send_message(one.as_fd(), b"second", &[]).unwrap();
    let message = fd::receive_message(other.as_fd(), 100).unwrap();
    assert_eq!((message.bytes.as_slice(), message.fds.len()), (&b"first"[..], 2));
    assert_eq!(fd::receive_message(other.as_fd(), 3).unwrap_err().errno(), Errno::EMSGSIZE);
    drop(one);
    assert!(fd::receive_message(other.as_fd(), 100).unwrap().is_end());
}

#[test]
fn a_child_keeps_the_descriptors_it_names_and_no_others() {
    let kept = std::fs::File::open("/dev/null").unwrap();
    let kept = (kept.as_raw_fd(), kept);
    let (ours, theirs) = fd::pipe().unwrap();
    let said = theirs.as_raw_fd();
    let worker = worker(LONG, || {
        let answer: Vec<i32> = open_descriptors();
        let highest = answer.iter().copied().max().unwrap();
        // A copy far up, so that there is a gap to close.
        let far = nix::fcntl::fcntl(&kept.1, nix::fcntl::FcntlArg::F_DUPFD(highest + 50)).unwrap();
        fd::close_all_except(&[0, 1, 2, kept.0, far, said]).unwrap();
        let left = open_descriptors();
        let right = left.contains(&kept.0) && left.contains(&far) && left.len() <= 7;
        // The answer's own socket was closed with the others: the parent may already be ending us.
        let _ = nix::unistd::write(&theirs, if right { b"right" } else { b"wrong" });
        killick_sys::spawn::exit_now(0);
        #[allow(unreachable_code, reason = "the closure's type")]
        Ok::<(), String>(())
    })
    .unwrap();
    drop(theirs);
    let mut text = String::new();
    std::fs::File::from(ours).read_to_string(&mut text).unwrap();
    assert_eq!(text, "right");
    assert!(worker.wait().is_err());
}

fn open_descriptors() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[test]
fn a_sealed_program_cannot_be_changed_in_either_way() {
    use std::io::Write;
    let program = b"#!/bin/false";
    for open in [killick_sys::sealed::sealed, killick_sys::sealed::sealed_tmpfs] {
        let sealed = open("test", program).unwrap();
        assert!(killick_sys::sealed::is_sealed(sealed.as_fd()).unwrap());
        let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        let opened = std::fs::OpenOptions::new().write(true).open(&path);
        let written = opened.and_then(|mut file| file.write_all(b"x"));
        assert!(written.is_err());
        // Nor can root make it writable again: as a mount, or as a file system.
        for flags in [libc::MS_REMOUNT, libc::MS_REMOUNT | libc::MS_BIND] {
            assert!(killick_sys::mount::change(path.as_ref(), flags).is_err());
        }
        assert_eq!(std::fs::read(&path).unwrap(), program);
    }
}
