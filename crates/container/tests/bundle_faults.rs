//! Births of bundles and of execs that fail half-way leave nothing, wherever they fail: every shape of plan.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use killick_container::bundle::{self, BundleRequest};
use killick_container::cgroup::{Cgroup, Layout};
use killick_container::{Container, ExecRequest, LaunchError, PidMode, Progress, Ptrace, Stdio, exec_with};
use killick_sys::facts::Facts;
use killick_sys::launch::{Plan, gate_listen};
use killick_sys::pidfd::Exit;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// How a bundle's plan differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    OwnPid,
    HostPid,
    /// The sandbox's PID namespace by its path: prepared outside.
    JoinedPid,
    Hooks,
    Terminal,
    /// Two processes: the one that prepares ends, the other goes on inside.
    User,
    /// The same without a user namespace.
    Time,
}

struct Bundles {
    host: Host,
    layout: Layout,
    shape: Shape,
    spec: Spec,
}

impl Bundles {
    fn new(host: Host, shape: Shape, sandbox_pid: i32) -> Self {
        let pid = match shape {
            Shape::HostPid => None,
            Shape::JoinedPid => Some(json!({"type": "pid", "path": format!("/proc/{sandbox_pid}/ns/pid")})),
            Shape::OwnPid | Shape::Hooks | Shape::Terminal | Shape::User | Shape::Time => Some(json!({"type": "pid"})),
        };
        let others = ["mount", "network", "ipc", "uts", "cgroup"].map(|kind| json!({"type": kind}));
        let more = match shape {
            Shape::User => vec!["user", "time"],
            Shape::Time => vec!["time"],
            _ => Vec::new(),
        };
        let more = more.into_iter().map(|kind| json!({"type": kind}));
        let namespaces: Vec<Value> = others.into_iter().chain(pid).chain(more).collect();
        let volume = host.fresh("volume");
        let more = json!([{"destination": "/data", "source": volume, "options": ["rbind", "ro"]}]);
        let mut changes = json!({
            "root": {"path": "layer", "readonly": true}, "hostname": "bundle",
            "process": {"args": ["true"], "terminal": shape == Shape::Terminal},
            "mounts": with_mounts(more), "linux": {"namespaces": namespaces, "sysctl": {"net.ipv4.ip_forward": "1"}},
        });
        if shape == Shape::Hooks {
            let hook = json!([{"path": "/bin/true"}]);
            changes["hooks"] =
                json!({"prestart": hook, "createContainer": hook, "startContainer": [{"path": "/bin/true"}]});
        }
        if shape == Shape::User {
            let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
            changes["linux"]["uidMappings"] = map.clone();
            changes["linux"]["gidMappings"] = map;
            let layer = host.layer();
            for path in std::fs::read_dir(&layer).unwrap().map(|entry| entry.unwrap().path()).chain([layer]) {
                std::os::unix::fs::lchown(&path, Some(100_000), Some(100_000)).unwrap();
            }
        }
        if matches!(shape, Shape::User | Shape::Time) {
            changes["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 7}});
        }
        let spec = spec(changes);
        Bundles { host, layout: Layout::detect().unwrap(), shape, spec }
    }

    fn stdio(&self) -> Stdio {
        match self.shape {
            Shape::Terminal => Stdio::Terminal { rows: 24, columns: 80 },
            _ => Stdio::null().unwrap(),
        }
    }

    /// A whole life until the program runs. Undoes the cgroup itself, as the commands do.
    fn life(&self, change: impl FnOnce(&mut Plan)) -> Result<Exit, LaunchError> {
        let dir = self.host.fresh("state");
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let path = format!("faults-{}-{name}", std::process::id());
        let cgroup = Cgroup::create(&self.layout, &path, &Default::default()).unwrap();
        let gate = dir.join("start.sock");
        let request = BundleRequest {
            id: name,
            bundle: self.host.dir.path(),
            spec: &self.spec,
            cgroup: &cgroup,
            seccomp: None,
            stdio: self.stdio(),
            inherited: Vec::new(),
            env: Vec::new(),
            keyring: Some("_ses.test".into()),
            no_pivot: false,
            gate: Some(gate_listen(&gate).unwrap()),
            state: &serde_json::Map::new(),
        };
        let lived = bundle::create_with(&self.host.facts, request, change).and_then(|mut birth| {
            birth.at_gate(|_| Ok(()))?;
            // As the caller does: the process hangs up without it.
            let _terminal = birth.take_terminal();
            let container = birth.into_container()?;
            // A process that told its failure is reaped by whoever heard it.
            let started = bundle::start(&container, &gate, soon());
            let exit = container.process().wait_blocking();
            started.map(|()| exit.unwrap())
        });
        cgroup.kill_all(soon()).unwrap();
        cgroup.remove(soon()).unwrap();
        assert!(cgroup.dirs().iter().all(|(_, dir)| !dir.exists()));
        lived
    }
}

fn check(shape: Shape, facts: Facts) {
    let host = Host::with(facts);
    let sandbox = host.sandbox();
    let bundles = Bundles::new(host, shape, sandbox.pid());
    assert_eq!(bundles.life(|_| {}).unwrap(), Exit::Code(0), "{shape:?}");
    let (fds, before) = (open_fds(), mounts());
    let (mut step, mut count) = (0, usize::MAX);
    while step < count {
        let lived = bundles.life(|plan| {
            count = plan.steps().len();
            plan.fail_at(step);
        });
        assert!(lived.is_err(), "{shape:?}, step {step}: {lived:?}");
        assert_eq!(children().len(), 1, "{shape:?}, step {step}: only pause is left");
        assert_eq!(mounts_since(&before), Vec::<String>::new(), "{shape:?}, step {step}");
        assert_eq!(open_fds(), fds, "{shape:?}, step {step}");
        step += 1;
    }
    assert!(count > 40, "{count} steps");
    end_sandbox(sandbox);
}

#[test]
fn a_bundle_that_fails_at_any_step_leaves_nothing() {
    for shape in [Shape::OwnPid, Shape::HostPid] {
        isolated(|| check(shape, Facts::detect()));
        isolated(|| check(shape, Facts { detached_mounts: false, ..Facts::detect() }));
    }
}

#[test]
fn a_bundle_in_anothers_pid_namespace_that_fails_at_any_step_leaves_nothing() {
    isolated(|| check(Shape::JoinedPid, Facts::detect()));
    // Classic mounts: born inside, where nobody may trace (busybox as pause has every capability here: refused).
    isolated(|| {
        let host = Host::with(Facts { detached_mounts: false, ..Facts::detect() });
        let sandbox = host.sandbox();
        let bundles = Bundles::new(host, Shape::JoinedPid, sandbox.pid());
        assert_eq!(bundles.life(|_| {}).unwrap(), Exit::Code(0), "pause has no rights");
        end_sandbox(sandbox);
    });
}

#[test]
fn a_bundle_with_hooks_or_a_terminal_that_fails_at_any_step_leaves_nothing() {
    for shape in [Shape::Hooks, Shape::Terminal] {
        isolated(|| check(shape, Facts::detect()));
    }
}

#[test]
fn a_bundle_in_a_user_or_time_namespace_that_fails_at_any_step_leaves_nothing() {
    for shape in [Shape::User, Shape::Time] {
        isolated(|| check(shape, Facts::detect()));
    }
}

fn fail_exec_at(host: &Host, container: &Container, terminal: bool, step: usize, count: &mut usize) {
    let stdio = match terminal {
        true => Stdio::Terminal { rows: 24, columns: 80 },
        false => Stdio::null().unwrap(),
    };
    let request = ExecRequest::new(args(&["true"]), stdio, None);
    let mut added = exec_with(&host.facts, container, request, |plan| {
        *count = plan.steps().len();
        plan.fail_at(step);
    })
    .unwrap();
    let progress = added.wait(soon());
    assert!(matches!(progress, Progress::Failed(_)), "step {step}: {progress:?}");
}

#[test]
fn an_exec_that_fails_at_any_step_leaves_nothing() {
    for facts in [Facts::detect(), Facts { setns_by_pidfd: false, ..Facts::detect() }] {
        for (pid, ptrace) in [
            (PidMode::Sandbox, Ptrace::Impossible),
            (PidMode::Sandbox, Ptrace::Possible),
            (PidMode::Own, Ptrace::Possible),
            (PidMode::Host, Ptrace::Impossible),
        ] {
            isolated(|| {
                let host = Host::with(facts);
                let sandbox = host.sandbox();
                let spec = spec(json!({"process": {"noNewPrivileges": true}}));
                let created = host.create_with(&sandbox, pid, ptrace, &spec, Stdio::null().unwrap());
                let container = start(created.unwrap());
                for terminal in [false, true] {
                    let fds = open_fds();
                    let (mut step, mut count) = (0, usize::MAX);
                    while step < count {
                        fail_exec_at(&host, &container, terminal, step, &mut count);
                        assert_eq!(children().len(), 2, "{pid:?} {ptrace:?} step {step}: pause and the container");
                        assert_eq!(open_fds(), fds, "{pid:?} {ptrace:?} step {step}");
                        step += 1;
                    }
                    assert!(count > 14, "{count} steps");
                }
                end(container.process());
                end_sandbox(sandbox);
            });
        }
    }
}
