//! Births from a main thread, as the shim makes them. In a static program the thread-local storage of the main thread
//! lies in the heap, which what is born among tracers does not get: the kernel must not look for it there.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::{ExecRequest, PidMode, Ptrace, Stdio};
use killick_sys::pidfd::Exit;
use serde_json::json;
use std::time::{Duration, Instant};

fn main() {
    // What a test harness would be asked: the test's list, or another test's name.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") || words.iter().any(|word| !NAME.contains(word.as_str())) {
        return;
    }
    assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
    let host = Host::new();
    let sandbox = host.sandbox();
    // Long enough at the gate, and often enough preempted, that the kernel would have looked.
    for ptrace in [Ptrace::Possible, Ptrace::Impossible] {
        let mut created =
            host.create_with(&sandbox, PidMode::Sandbox, ptrace, &spec(json!({})), Stdio::null().unwrap()).unwrap();
        assert_eq!(created.wait(soon()), killick_container::Progress::AtGate);
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            nix::sched::sched_yield().unwrap();
        }
        let container = start(created);
        for _ in 0..50 {
            let (output, exit) =
                host.exec(&container, |stdio| ExecRequest::new(args(&["echo", "alive"]), stdio, None)).unwrap();
            assert_eq!((output.as_str(), exit), ("alive\n", Exit::Code(0)));
        }
        end(container.process());
    }
    end_sandbox(sandbox);
    assert!(children().is_empty());
    println!("test {NAME} ... ok");
}

const NAME: &str = "the_main_thread_bears_processes_among_tracers";
