//! exec probes and hooks in a real container: a command, its output, its whole tree. Needs root.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../container/tests/common/mod.rs"]
mod containers;

use common::*;
use containers::{Host, end_sandbox, isolated};
use killick_container::Container;
use killick_container::cgroup::{Cgroup, Layout};
use killick_pod::event::Outcome;
use killick_prober::exec::{Command, Launcher, Process};
use killick_prober::{Execs, InContainer, Place, hook, probe, probe_measured};
use oci_spec::runtime::LinuxResources;
use serde_json::json;
use std::future::Future;
use std::time::{Duration, Instant};

/// A container that sleeps, with leafs for execs.
struct Running<'a> {
    host: &'a Host,
    container: Container,
    execs: Execs,
    cgroup: &'a Cgroup,
    spec: killick_pod::spec::Container,
}

impl Running<'_> {
    fn launcher(&self) -> InContainer<'_> {
        InContainer { facts: &self.host.facts, container: &self.container, execs: &self.execs }
    }

    async fn probe(&self, command: &[&str], timeout: Duration) -> Outcome {
        let launcher = self.launcher();
        probe(&handler_of(exec(command)), place(&self.spec, &launcher), timeout).await
    }

    async fn sh(&self, script: &str) -> Outcome {
        self.probe(&["sh", "-c", script], LONG).await
    }

    fn processes(&self) -> usize {
        self.cgroup.processes().unwrap().len()
    }
}

fn place<'a>(spec: &'a killick_pod::spec::Container, launcher: &'a dyn Launcher) -> Place<'a> {
    Place { netns: None, pod_ip: None, container: spec, hosts: "", resolv_conf: "", launcher }
}

fn with_container<F: Future<Output = ()>>(test: impl FnOnce(&'static Running<'static>) -> F) {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        let spec = containers::spec(json!({"process": {"args": ["sleep", "1000"]}}));
        let container = host.started(&sandbox, &spec);
        let name = format!("killick-test-prober-{}", std::process::id());
        let cgroup = Cgroup::create(&Layout::detect().unwrap(), &name, &LinuxResources::default()).unwrap();
        // Leaked: the futures of a test want 'static, and the child ends soon.
        let host: &'static Host = Box::leak(Box::new(host));
        let cgroup: &'static Cgroup = Box::leak(Box::new(cgroup));
        let running: &'static Running<'static> = Box::leak(Box::new(Running {
            host,
            container,
            execs: Execs::new(cgroup.leaf_pool()),
            cgroup,
            spec: common::container(json!([])),
        }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(running));
        drop(runtime);
        let soon = Instant::now() + LONG;
        while running.execs.has_leftovers() && Instant::now() < soon {
            running.execs.collect();
            std::thread::sleep(Duration::from_millis(2));
        }
        running.execs.leafs().borrow_mut().clear().unwrap();
        cgroup.kill_all(soon).unwrap();
        cgroup.remove(soon).unwrap();
        running.container.process().send_signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        running.container.process().wait_blocking().unwrap();
        end_sandbox(sandbox);
        std::fs::remove_dir_all(host.dir.path()).unwrap();
    });
}

#[test]
fn exit_codes_decide_and_both_streams_are_told() {
    with_container(|running| async move {
        assert_eq!(running.probe(&["true"], LONG).await, Outcome::Success);
        assert_eq!(running.sh("echo never shown").await, Outcome::Success);
        assert_eq!(running.sh("exit 3").await, failure(""));
        assert_eq!(running.sh("echo err >&2; echo out; exit 1").await, failure("out\nerr\n"));
        assert_eq!(
            running.probe(&["cat", "/tmp/healthy"], LONG).await,
            failure("cat: can't open '/tmp/healthy': No such file or directory\n")
        );
        assert_eq!(running.sh("kill -9 $$$$").await, failure(""));
    });
}

#[test]
fn only_literal_variables_are_put_in() {
    with_container(|running| async move {
        assert_eq!(
            running.probe(&["sh", "-c", "echo $(LITERAL) '$(OTHER)' '$$(LITERAL)'; false"], LONG).await,
            failure("yes $(OTHER) $(LITERAL)\n")
        );
    });
}

#[test]
fn a_command_that_cannot_run_is_unknown() {
    with_container(|running| async move {
        for (command, text) in [
            ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
            ("foo", "exec: \"foo\": executable file not found in $PATH"),
            ("/etc/not-executable", "exec: \"/etc/not-executable\": permission denied"),
        ] {
            assert_eq!(
                running.probe(&[command], LONG).await,
                Outcome::Unknown(format!("failed to exec in container: {text}"))
            );
        }
    });
}

#[test]
fn a_container_that_is_gone_is_unknown() {
    with_container(|running| async move {
        running.container.process().send_signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        while running.container.process().peek().unwrap().is_none() {}
        let outcome = running.probe(&["true"], LONG).await;
        assert_eq!(outcome, Outcome::Unknown("failed to exec in container: container not running".into()));
    });
}

#[test]
fn a_deadline_ends_the_whole_tree() {
    with_container(|running| async move {
        let began = Instant::now();
        let timeout = Duration::from_secs(1);
        assert_eq!(
            running.probe(&["sh", "-c", "sleep 10"], timeout).await,
            failure("command timed out: \"sh -c sleep 10\" timed out after 1s")
        );
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(running.processes(), 0);
        // Children that left their session, ignore signals and go on forking.
        let wild = "trap '' TERM INT HUP; (while :; do sh -c 'sleep 5' & done) & sleep 60";
        assert_eq!(
            running.probe(&["sh", "-c", wild], Duration::from_millis(300)).await,
            failure(format!("command timed out: \"sh -c {wild}\" timed out after 300ms"))
        );
        assert_eq!(running.processes(), 0);
        assert!(!running.execs.has_leftovers());
        // And the leaf serves again.
        assert_eq!(running.probe(&["true"], LONG).await, Outcome::Success);
    });
}

/// Limits that leave a cgroup next to nothing.
fn with_quota(quota: i64) -> LinuxResources {
    serde_json::from_value(json!({"cpu": {"quota": quota, "period": 100_000}})).unwrap()
}

#[test]
fn a_command_that_waited_for_a_processor_tells_how_long() {
    with_container(|running| async move {
        // Twenty that never rest share this host's few processors.
        let busy = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do (while :; do :; done) & done; wait";
        let launcher = running.launcher();
        let handler = handler_of(exec(&["sh", "-c", busy]));
        let probed = probe_measured(&handler, place(&running.spec, &launcher), Duration::from_millis(600)).await;
        assert!(probed.waited_runnable > Duration::from_millis(100), "{probed:?}");
        // A command that sleeps waits for nothing but its time.
        let handler = handler_of(exec(&["sleep", "10"]));
        let probed = probe_measured(&handler, place(&running.spec, &launcher), Duration::from_millis(600)).await;
        assert!(probed.waited_runnable < Duration::from_millis(300), "{probed:?}");
    });
}

#[test]
fn what_a_quota_held_back_does_not_count_as_waiting() {
    with_container(|running| async move {
        running.cgroup.set(&with_quota(2_000)).unwrap();
        let execs = Execs::of(running.cgroup);
        let launcher = InContainer { execs: &execs, ..running.launcher() };
        let handler = handler_of(exec(&["sh", "-c", "while :; do :; done"]));
        let probed = probe_measured(&handler, place(&running.spec, &launcher), Duration::from_millis(600)).await;
        assert_eq!(probed.waited_runnable, Duration::ZERO, "{probed:?}");
        running.cgroup.set(&with_quota(-1)).unwrap();
        execs.leafs().borrow_mut().clear().unwrap();
    });
}

#[test]
fn a_grandchild_that_keeps_the_pipe_is_not_waited_for() {
    with_container(|running| async move {
        let began = Instant::now();
        assert_eq!(running.sh("echo said; sleep 30 & exit 1").await, failure("said\n"));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    });
}

#[test]
fn output_is_cut_at_10_kib_and_the_rest_thrown_away() {
    with_container(|running| async move {
        let outcome = running.sh("head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2; exit 1").await;
        assert_eq!(outcome, failure("x".repeat(10 * 1024)));
        let outcome = running.sh("echo out; head -c 20000 /dev/zero | tr '\\0' y >&2; exit 1").await;
        assert_eq!(outcome, failure(format!("out\n{}", "y".repeat(10 * 1024 - 4))));
    });
}

#[test]
fn a_probe_that_is_dropped_leaves_nothing() {
    with_container(|running| async move {
        let _ = tokio::time::timeout(SHORT, running.probe(&["sh", "-c", "sleep 50 & sleep 60"], LONG)).await;
        let soon = Instant::now() + LONG;
        while running.execs.has_leftovers() && Instant::now() < soon {
            tokio::time::sleep(Duration::from_millis(2)).await;
            running.execs.collect();
        }
        assert_eq!((running.processes(), running.execs.has_leftovers()), (0, false));
    });
}

#[test]
fn hooks_tell_what_kubelets_status_tells() {
    with_container(|running| async move {
        let launcher = running.launcher();
        let run = |handler, timeout| {
            let launcher = &launcher;
            async move { hook(&handler_of(handler), place(&running.spec, launcher), "p_default(uid)", timeout).await }
        };
        let whose = "for Container \"web\" in Pod \"p_default(uid)\" failed - error:";
        assert_eq!(run(exec(&["true"]), None).await, Ok(None));
        assert_eq!(
            run(exec(&["/bin/sh", "-c", "exit 1"]), None).await,
            Err(format!(
                "Exec lifecycle hook ([/bin/sh -c exit 1]) {whose} command '/bin/sh -c exit 1' exited with 1: , message: \"\""
            ))
        );
        assert_eq!(
            run(exec(&["foo"]), None).await,
            Err(format!(
                "Exec lifecycle hook ([foo]) {whose} failed to exec in container: \
                 exec: \"foo\": executable file not found in $PATH, message: \"\""
            ))
        );
        assert_eq!(
            run(exec(&["sleep", "20"]), Some(SHORT)).await,
            Err(format!(
                "Exec lifecycle hook ([sleep 20]) {whose} command \"sleep 20\" timed out after 150ms, message: \"\""
            ))
        );
    });
}

struct Broken;

impl Launcher for Broken {
    fn launch(&self, _: Command) -> Result<Box<dyn Process + '_>, String> {
        Err("no space left on device".into())
    }
}

#[tokio::test]
async fn a_launcher_that_fails_is_unknown() {
    let spec = common::container(json!([]));
    let outcome = probe(&handler_of(exec(&["true"])), place(&spec, &Broken), LONG).await;
    assert_eq!(outcome, Outcome::Unknown("failed to exec in container: no space left on device".into()));
}
