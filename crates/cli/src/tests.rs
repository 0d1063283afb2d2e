//! Commands against pod directories written by hand and a shim that is played by the test.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use killick_pod::event::Record;
use killick_pod::manifest::Object;
use killick_pod::spec::{DataKind, DataObject, Pod};
use killick_pod::time::Wall;
use killick_pod_dir::control::{Connection, Listener, Refusal, Request, Response, may_enter_a_container};
use killick_pod_dir::log::{LineSplitter, LogFile, Stream};
use killick_pod_dir::objects::ObjectStore;
use killick_pod_dir::{PodDir, Roots, StatusFile, lock};
use serde_json::{Value, json};

use crate::apply::{ApplyOptions, apply_objects};
use crate::context::Context;
use crate::delete::{DeleteOptions, Grace, delete};
use crate::exec::{ExecOptions, exec};
use crate::get::{GetOptions, get};
use crate::logs::{LogOptions, logs};
use crate::output::{Failure, Out, Result};
use crate::print::Format;
use crate::probes::probes;
use crate::resource::parse_arguments;
use crate::source::Sourced;
use crate::testing::pod;

const NOW: i128 = 1_704_164_645_000_000_000;

struct World {
    scratch: tempfile::TempDir,
    context: Context,
}

/// A pod whose keep lives (the test holds its lock) and whose shim is the test.
struct Kept {
    dir: PodDir,
    pod: Pod,
    listener: Listener,
    #[expect(dead_code, reason = "held, not read")]
    lock: File,
}

impl World {
    /// `script` is what the shim's program does.
    fn new(script: &str) -> World {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let shim = at("shim");
        fs::write(&shim, format!("#!/bin/sh\necho \"$@\" >> {}\n{script}\n", at("calls").display())).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        let roots = Roots { run: at("run"), root: at("root"), logs: at("logs") };
        World { context: Context { roots, shim, zone: jiff::tz::TimeZone::UTC, clock: || NOW }, scratch }
    }

    fn pod(&self, name: &str, spec: Value) -> Pod {
        let mut pod = pod(name, spec);
        pod.metadata.uid = self.context.new_uid().unwrap();
        pod.metadata.creation_timestamp = self.context.now_text();
        pod
    }

    fn keep(&self, pod: Pod, status: Value) -> Kept {
        let dir = PodDir::create(&self.context.roots, &pod).unwrap();
        let lock_file = File::create(dir.lock_path()).unwrap();
        lock::take(&lock_file).unwrap();
        dir.write_status(&StatusFile::new(serde_json::from_value(status).unwrap())).unwrap();
        let listener = Listener::bind(&dir.control_socket()).unwrap();
        Kept { dir, pod, listener, lock: lock_file }
    }

    fn web(&self) -> Kept {
        let mut pod = self.pod("web", json!({"containers": [{"name": "app", "image": "i:1"}]}));
        pod.metadata.labels = [("tier".to_owned(), "front".to_owned())].into();
        self.keep(
            pod,
            json!({"phase": "Running", "podIP": "10.88.0.2", "podIPs": [{"ip": "10.88.0.2"}], "qosClass": "BestEffort",
                   "containerStatuses": [{"name": "app", "ready": true, "started": true,
                                          "state": {"running": {"startedAt": "2024-01-02T03:04:00Z"}}}]}),
        )
    }

    /// What the command printed on its two streams, and how it ended.
    fn run(&self, command: impl FnOnce(&Context, &mut Out<'_>) -> Result<()>) -> (String, String, Result<()>) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let result = command(&self.context, &mut Out { stdout: &mut stdout, stderr: &mut stderr });
        (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap(), result)
    }

    fn get(&self, words: &[&str], change: impl FnOnce(&mut GetOptions)) -> (String, String, Result<()>) {
        let mut options =
            GetOptions { kube_namespace: Some("default".into()), headings: true, ..GetOptions::default() };
        change(&mut options);
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        self.run(|context, out| get(context, &parse_arguments(&words)?, &options, out))
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.scratch.path().join("calls")).unwrap_or_default()
    }

    fn apply(&self, objects: Vec<Object>) -> (String, String, Result<()>) {
        let sourced: Vec<Sourced> =
            objects.into_iter().map(|object| Sourced { file: "pod.yaml".into(), object }).collect();
        self.run(|context, out| apply_objects(context, &sourced, &ApplyOptions::default(), out))
    }

    /// Files below the roots that are no directories.
    fn files(&self) -> Vec<String> {
        fn walk(path: &std::path::Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    walk(&entry.path(), found);
                } else {
                    found.push(entry.path().display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        for root in ["run", "root", "logs"] {
            walk(&self.scratch.path().join(root), &mut found);
        }
        found
    }
}

impl Kept {
    /// Waits for the next request.
    fn request(&self) -> (Connection, Request, Vec<std::os::fd::OwnedFd>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.listener.accept() {
                Ok(connection) => {
                    let (request, fds) = connection.receive_within(Duration::from_secs(10)).unwrap();
                    return (connection, request, fds);
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    assert!(Instant::now() < deadline, "no request came");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

fn text<T>(result: &std::result::Result<T, Failure>) -> &str {
    result.as_ref().err().map(|failure| failure.text.as_str()).unwrap_or_default()
}

#[test]
fn get_prints_pods_as_kubectl_does() {
    let world = World::new("exit 0");
    let _web = world.web();
    let mut other = world.pod("db", json!({"containers": [{"name": "app", "image": "i:1"}]}));
    other.metadata.namespace = "data".into();
    let _other = world.keep(other, json!({"phase": "Pending"}));

    let (table, _, result) = world.get(&["pods"], |_| {});
    assert_eq!(table, "NAME   READY   STATUS    RESTARTS   AGE\nweb    1/1     Running   0          0s\n");
    assert_eq!(result, Ok(()));
    let (wide, ..) = world.get(&["po", "web"], |options| options.format = Format::Wide);
    assert_eq!(
        wide,
        "NAME   READY   STATUS    RESTARTS   AGE   IP          NODE     NOMINATED NODE   READINESS GATES\n\
         web    1/1     Running   0          0s    10.88.0.2   node-1   <none>           <none>\n"
    );
    let (all, ..) = world.get(&["pods"], |options| {
        options.kube_namespace = None;
        options.show_labels = true;
    });
    assert_eq!(
        all,
        "NAMESPACE   NAME   READY   STATUS    RESTARTS   AGE   LABELS\n\
         data        db     0/1     Pending   0          0s    <none>\n\
         default     web    1/1     Running   0          0s    tier=front\n"
    );
    let (bare, ..) = world.get(&["pods"], |options| options.headings = false);
    assert_eq!(bare, "web   1/1   Running   0     0s\n");
    let (names, ..) = world.get(&["pods"], |options| options.format = Format::Name);
    assert_eq!(names, "pod/web\n");
    let (yaml, ..) = world.get(&["pod/web"], |options| options.format = Format::Yaml);
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: \"20"), "{yaml}");
    assert!(yaml.contains("\nstatus:\n") && yaml.contains("  podIPs:\n  - ip: 10.88.0.2\n"), "{yaml}");
    let (list, ..) = world.get(&["pods"], |options| options.format = Format::Json);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().map(Vec::len)), (Some("List"), Some(1)));
    let (ip, ..) = world.get(&["pod", "web"], |options| {
        options.format = Format::parse("jsonpath={.status.podIP}").unwrap();
    });
    assert_eq!(ip, "10.88.0.2");
    let (columns, ..) = world.get(&["pods"], |options| {
        options.format = Format::parse("custom-columns=POD:.metadata.name,X:.spec.x").unwrap();
    });
    assert_eq!(columns, "POD   X\nweb   <none>\n");
    let (table, _, result) = world.get(&["pods", "web", "absent"], |_| {});
    assert!(table.starts_with("NAME "));
    assert_eq!(text(&result), "Error from server (NotFound): pods \"absent\" not found");
    let (_, said, result) = world.get(&["pods"], |options| options.kube_namespace = Some("empty".into()));
    assert_eq!((said.as_str(), result), ("No resources found in empty namespace.\n", Ok(())));
    let (_, said, _) = world.get(&["cm"], |options| options.kube_namespace = None);
    assert_eq!(said, "No resources found\n");
}

#[test]
fn get_prints_events_configmaps_and_secrets() {
    let world = World::new("exit 0");
    let web = world.web();
    let now = world.context.now();
    let mut log = web.dir.event_log("web", "node-1");
    let record = |reason: &str, message: &str, path: &str| Record {
        warning: reason == "Unhealthy",
        reason: reason.into(),
        message: message.into(),
        field_path: path.into(),
        component: "kubelet".into(),
    };
    log.record(&record("Started", "Container started", "spec.containers{app}"), Wall(now.0 - 30)).unwrap();
    for second in [20, 5] {
        log.record(&record("Unhealthy", "Liveness probe failed: no\n", "spec.containers{app}"), Wall(now.0 - second))
            .unwrap();
    }
    let (events, ..) = world.get(&["events"], |_| {});
    assert_eq!(
        events,
        "LAST SEEN   TYPE      REASON      OBJECT    MESSAGE\n\
         30s         Normal    Started     pod/web   Container started\n\
         5s          Warning   Unhealthy   pod/web   Liveness probe failed: no\n"
    );
    let (counted, ..) = world.run(|context, out| {
        crate::get::events(context, Some("default"), Some("web"), &["Warning".to_owned()], false, true, out)
    });
    assert_eq!(
        counted,
        "LAST SEEN          TYPE      REASON      OBJECT    MESSAGE\n\
         5s (x2 over 20s)   Warning   Unhealthy   Pod/web   Liveness probe failed: no\n"
    );

    let store = ObjectStore::new(&world.context.roots);
    for kind in [DataKind::ConfigMap, DataKind::Secret] {
        let data = [("a".to_owned(), b"x\ny\n".to_vec())].into();
        let object = DataObject { kind, name: "o".into(), namespace: "default".into(), data, ..DataObject::default() };
        store.put(&object, "u", &world.context.now_text()).unwrap();
    }
    let (both, ..) = world.get(&["cm,secrets"], |_| {});
    assert_eq!(
        both,
        "NAME          DATA   AGE\nconfigmap/o   1      0s\n\nNAME       TYPE     DATA   AGE\nsecret/o   Opaque   1      0s\n"
    );
    let (yaml, ..) = world.get(&["cm", "o"], |options| options.format = Format::Yaml);
    assert!(yaml.starts_with("apiVersion: v1\ndata:\n  a: |\n    x\n    y\nkind: ConfigMap\n"), "{yaml}");
    let (yaml, ..) = world.get(&["secret", "o"], |options| options.format = Format::Yaml);
    assert!(yaml.starts_with("apiVersion: v1\ndata:\n  a: eAp5Cg==\nkind: Secret\n"), "{yaml}");
}

#[test]
fn a_pod_that_lost_its_keep_is_started_again_and_the_others_are_not() {
    let world = World::new("exit 0");
    let _web = world.web();
    let dead = world.pod("dead", json!({"containers": [{"name": "app", "image": "i:1"}]}));
    let dead = PodDir::create(&world.context.roots, &dead).unwrap();
    let (table, said, _) = world.get(&["pods"], |_| {});
    assert_eq!(table.lines().count(), 3);
    assert_eq!(said, "");
    assert_eq!(world.calls(), format!("pod start {}\n", dead.run_dir().display()));
    // After a reboot the run directory and the names are gone.
    fs::remove_dir_all(dead.run_dir()).unwrap();
    fs::remove_file(world.context.roots.names().join("default_dead")).unwrap();
    let _ = world.get(&["pods"], |_| {});
    assert!(dead.run_dir().is_dir() && PodDir::find(&world.context.roots, "default", "dead") == Some(dead));
    // While somebody else starts it, nobody interferes.
    let failing = World::new("echo no cgroup here >&2; exit 1");
    let pod = failing.pod("dead", json!({"containers": []}));
    let dir = PodDir::create(&failing.context.roots, &pod).unwrap();
    let guard = dir.begin_start().unwrap().unwrap();
    let _ = failing.get(&["pods"], |_| {});
    assert_eq!(failing.calls(), "");
    drop(guard);
    let (_, said, result) = failing.get(&["pods"], |_| {});
    assert_eq!(said, "Warning: pod dead has no supervisor and none could be started: no cgroup here\n");
    assert_eq!(result, Ok(()));
}

#[test]
fn apply_makes_a_pod_says_unchanged_and_passes_a_change_on() {
    let world = World::new("exit 0");
    let manifest = |image: &str| pod("web", json!({"containers": [{"name": "app", "image": image}]}));
    let (said, _, result) = world.apply(vec![
        Object::Pod(Box::new(manifest("i:1"))),
        Object::Data(DataObject { name: "c".into(), namespace: "default".into(), ..DataObject::default() }),
    ]);
    assert_eq!((said.as_str(), result), ("pod/web created\nconfigmap/c created\n", Ok(())));
    let view = world.context.pod("default", "web").unwrap();
    assert_eq!(world.calls(), format!("pod start {}\n", view.dir.run_dir().display()));
    assert_eq!(view.pod.spec.node_name.as_deref(), Some(world.context.node_name().as_str()));
    assert_eq!(view.pod.metadata.uid.len(), 36);
    let (said, ..) = world.apply(vec![Object::Pod(Box::new(manifest("i:1")))]);
    assert_eq!(said, "pod/web unchanged\n");

    let lock_file = File::create(view.dir.lock_path()).unwrap();
    lock::take(&lock_file).unwrap();
    let listener = Listener::bind(&view.dir.control_socket()).unwrap();
    let kept = Kept { dir: view.dir.clone(), pod: view.pod.clone(), listener, lock: lock_file };
    let (said, ..) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (connection, request, _) = kept.request();
            let Request::UpdatePod { staged } = request else { panic!("{request:?}") };
            let changed = kept.dir.read_staged(&staged).unwrap();
            assert_eq!(changed.spec.containers[0].image, "i:2");
            assert_eq!(changed.metadata.uid, kept.pod.metadata.uid);
            kept.dir.accept_staged(&staged).unwrap();
            connection.send(&Response::Accepted, &[]).unwrap();
        });
        world.apply(vec![Object::Pod(Box::new(manifest("i:2")))])
    });
    assert_eq!(said, "pod/web configured\n");

    let mut forbidden = manifest("i:2");
    forbidden.spec.host_network = true;
    let (said, _, result) = world.apply(vec![Object::Pod(Box::new(forbidden))]);
    assert_eq!(said, "");
    assert!(
        text(&result)
            .starts_with("The Pod \"web\" is invalid: spec: Forbidden: pod updates may not change fields other than"),
        "{result:?}"
    );
}

#[test]
fn a_pod_that_cannot_be_started_leaves_nothing_and_says_why() {
    let world = World::new("echo the subnet 10.88.0.0/16 overlaps the route of eth0 >&2; exit 1");
    let (said, _, result) = world.apply(vec![Object::Pod(Box::new(pod("web", json!({"containers": []}))))]);
    assert_eq!(said, "");
    assert_eq!(
        text(&result),
        "Error from server (InternalError): error when creating \"pod.yaml\": the subnet 10.88.0.0/16 overlaps the \
         route of eth0"
    );
    assert_eq!(world.files(), Vec::<String>::new());
    assert!(world.context.pods(None).unwrap().is_empty());
    let world = World::new("exit 0");
    let missing = Context { shim: "/nosuch/shim".into(), ..world.context.clone() };
    let world = World { context: missing, ..world };
    let (_, _, result) = world.apply(vec![Object::Pod(Box::new(pod("web", json!({"containers": []}))))]);
    assert!(text(&result).ends_with("run /nosuch/shim: No such file or directory (os error 2)"), "{result:?}");
    assert_eq!(world.files(), Vec::<String>::new());
}

fn delete_web(world: &World, options: &DeleteOptions) -> (String, String, Result<()>) {
    let words = ["pod".to_owned(), "web".to_owned()];
    world.run(|context, out| delete(context, &parse_arguments(&words)?, options, &mut std::io::empty(), out))
}

#[test]
fn delete_asks_the_shim_and_waits_until_the_pod_is_gone() {
    let world = World::new("exit 0");
    let web = world.web();
    let options = DeleteOptions { wait: true, grace: Grace::Seconds(5), ..DeleteOptions::default() };
    let (said, _, result) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (connection, request, _) = web.request();
            assert_eq!(request, Request::Delete { grace_seconds: Some(5), force: false });
            connection.send(&Response::Accepted, &[]).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(web.dir.remove(&web.pod).len(), 0);
        });
        delete_web(&world, &options)
    });
    assert_eq!((said.as_str(), result), ("pod \"web\" deleted from default namespace\n", Ok(())));
    assert!(!web.dir.exists());
    let (_, _, result) = delete_web(&world, &options);
    assert_eq!(text(&result), "Error from server (NotFound): pods \"web\" not found");
    let (said, _, result) = delete_web(&world, &DeleteOptions { ignore_not_found: true, ..options });
    assert_eq!((said.as_str(), result), ("", Ok(())));
}

#[test]
fn delete_by_force_warns_and_without_wait_returns_at_once() {
    let world = World::new("exit 0");
    let web = world.web();
    let options = DeleteOptions { grace: Grace::Force, ..DeleteOptions::default() };
    let (said, warned, result) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (connection, request, _) = web.request();
            assert_eq!(request, Request::Delete { grace_seconds: Some(0), force: true });
            connection.send(&Response::Accepted, &[]).unwrap();
        });
        delete_web(&world, &options)
    });
    assert_eq!((said.as_str(), result), ("pod \"web\" force deleted from default namespace\n", Ok(())));
    assert_eq!(
        warned,
        "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. \
         The resource may continue to run on the cluster indefinitely.\n"
    );
}

fn exec_options(command: &[&str]) -> ExecOptions {
    ExecOptions {
        kube_namespace: "default".into(),
        pod: "web".into(),
        container: None,
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        stdin: false,
        tty: false,
        quiet: false,
    }
}

/// The shim's part of an exec: runs the command on the host with the descriptors that came.
fn serve_exec(kept: &Kept) {
    let (connection, request, mut fds) = kept.request();
    let Request::Exec { container, args, stdin, tty } = request else { panic!("{request:?}") };
    assert_eq!((container.as_str(), stdin, tty), ("app", false, None));
    assert_eq!(fds.len(), 2);
    assert!(fds.iter().all(|fd| may_enter_a_container(std::os::fd::AsFd::as_fd(fd))));
    let (stderr, stdout) = (fds.pop().unwrap(), fds.pop().unwrap());
    #[allow(clippy::disallowed_methods, reason = "a test that plays the shim")]
    let mut command = std::process::Command::new(&args[0]);
    command.args(&args[1..]).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    match command.spawn() {
        Ok(mut child) => {
            drop(command);
            connection.send(&Response::Started, &[]).unwrap();
            let code = child.wait().unwrap().code().unwrap_or(137);
            connection.send(&Response::Exited { code }, &[]).unwrap();
        }
        Err(_) => {
            let message = format!("exec: \"{}\": executable file not found in $PATH", args[0]);
            connection.send(&Response::Refused { reason: Refusal::CannotStart, message }, &[]).unwrap();
        }
    }
}

#[test]
fn exec_carries_both_streams_and_the_exit_code() {
    let world = World::new("exit 0");
    let web = world.web();
    let run = |command: &[&str]| {
        std::thread::scope(|scope| {
            scope.spawn(|| serve_exec(&web));
            world.run(|context, out| exec(context, &exec_options(command), out))
        })
    };
    let (stdout, stderr, result) = run(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(result, Err(Failure { text: "command terminated with exit code 7".into(), code: 7 }));
    // More than a pipe holds.
    let (stdout, _, result) = run(&["sh", "-c", "head -c 1000000 /dev/zero"]);
    assert_eq!((stdout.len(), result), (1_000_000, Ok(())));
    // What lives on with the pipe in its hands does not hold us.
    let start = Instant::now();
    let (stdout, ..) = run(&["sh", "-c", "sleep 5 & echo started"]);
    assert_eq!(stdout, "started\n");
    assert!(start.elapsed() < Duration::from_secs(4));
    let (_, _, result) = run(&["/nosuch"]);
    assert_eq!(
        text(&result),
        "error: Internal error occurred: error executing command in container: failed to exec in container: exec: \
         \"/nosuch\": executable file not found in $PATH: unknown"
    );
}

#[test]
fn exec_on_a_terminal_shows_what_comes_from_the_master_that_the_shim_sent() {
    let world = World::new("exit 0");
    let web = world.web();
    let options = ExecOptions { tty: true, ..exec_options(&["sh", "-c", "test -t 1 && echo terminal; exit 3"]) };
    let (stdout, _, result) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (connection, request, fds) = web.request();
            let Request::Exec { args, tty: Some(_), .. } = request else { panic!("{request:?}") };
            assert_eq!(fds.len(), 0);
            let pty = nix::pty::openpty(None, None).unwrap();
            #[allow(clippy::disallowed_methods, reason = "a test that plays the shim")]
            let mut command = std::process::Command::new(&args[0]);
            command.args(&args[1..]).stdin(Stdio::null()).stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
            let mut child = command.spawn().unwrap();
            drop(command);
            connection.send(&Response::Started, &[std::os::fd::AsFd::as_fd(&pty.master)]).unwrap();
            drop(pty.master);
            let code = child.wait().unwrap().code().unwrap();
            connection.send(&Response::Exited { code }, &[]).unwrap();
        });
        world.run(|context, out| exec(context, &options, out))
    });
    assert_eq!(stdout, "terminal\r\n");
    assert_eq!(result, Err(Failure { text: "command terminated with exit code 3".into(), code: 3 }));
}

#[test]
fn wait_ends_with_the_condition_or_the_time() {
    let world = World::new("exit 0");
    let web = world.web();
    let wait_for = |text: &str, timeout: u64| {
        let options = crate::wait::WaitOptions {
            kube_namespace: "default".into(),
            condition: crate::wait::For::parse(text).unwrap(),
            timeout: Some(Duration::from_millis(timeout)),
            labels: crate::select::LabelSelector::default(),
            all: false,
        };
        let wanted = parse_arguments(&["pod/web".to_owned()]).unwrap();
        world.run(|context, out| crate::wait::wait(context, &wanted, &options, out))
    };
    let (said, ..) = wait_for("jsonpath={.status.phase}=Running", 0);
    assert_eq!(said, "pod/web condition met\n");
    let (_, _, result) = wait_for("condition=Ready", 0);
    assert_eq!(text(&result), "error: condition not met for pods/web");
    let (_, _, result) = wait_for("condition=Ready", 100);
    assert_eq!(text(&result), "error: timed out waiting for the condition on pods/web");
    assert_eq!(web.dir.remove(&web.pod).len(), 0);
    assert_eq!(wait_for("delete", 0).0, "pod/web deleted\n");
    let (_, _, result) = wait_for("condition=Ready", 100);
    assert_eq!(text(&result), "Error from server (NotFound): pods \"web\" not found");
}

#[test]
fn exec_says_what_is_wrong_in_kubectls_words() {
    let world = World::new("exit 0");
    let over = world.pod("over", json!({"containers": [{"name": "app", "image": "i"}]}));
    let _over = world.keep(over, json!({"phase": "Succeeded"}));
    let options = ExecOptions { pod: "over".into(), ..exec_options(&["ls"]) };
    let (_, _, result) = world.run(|context, out| exec(context, &options, out));
    assert_eq!(text(&result), "error: cannot exec into a container in a completed pod; current phase is Succeeded");
    let (_, _, result) = world.run(|context, out| exec(context, &exec_options(&["ls"]), out));
    assert_eq!(text(&result), "Error from server (NotFound): pods \"web\" not found");
}

#[test]
fn logs_are_read_from_the_newest_run_and_end_with_it() {
    let world = World::new("exit 0");
    let web = world.web();
    let directory = web.dir.log_dir(&web.pod).join("app");
    let mut log = LogFile::open(&directory, 0).unwrap();
    let mut splitter = LineSplitter::new(Stream::Stdout);
    let mut write = |text: &str| {
        let mut records = Vec::new();
        let now = world.context.now_nanos();
        splitter.feed(text.as_bytes(), now, &mut records);
        log.write(&records, now).unwrap();
    };
    write("one\ntwo\n");
    let options = LogOptions { kube_namespace: "default".into(), pod: Some("web".into()), ..LogOptions::default() };
    let read = |options: &LogOptions| world.run(|context, out| logs(context, options, out));
    assert_eq!(read(&options).0, "one\ntwo\n");
    let tail = LogOptions { tail: Some(1), prefix: true, ..options.clone() };
    assert_eq!(read(&tail).0, "[pod/web/app] two\n");
    assert_eq!(read(&LogOptions { limit_bytes: Some(5), ..options.clone() }).0, "one\nt");
    let stamped = read(&LogOptions { timestamps: true, tail: Some(1), ..options.clone() }).0;
    assert!(stamped.starts_with("20") && stamped.ends_with("Z two\n"), "{stamped}");
    let (_, _, result) = read(&LogOptions { previous: true, ..options.clone() });
    assert_eq!(
        text(&result),
        "Error from server (BadRequest): previous terminated container \"app\" in pod \"web\" not found"
    );
    let (_, _, result) = read(&LogOptions { pod: Some("x".into()), ..options.clone() });
    assert_eq!(text(&result), "error: error from server (NotFound): pods \"x\" not found in namespace \"default\"");
    // Following ends when the container has ended and all is read.
    let followed = std::thread::scope(|scope| {
        let followed = scope.spawn(|| read(&LogOptions { follow: true, requests_max: 5, ..options.clone() }).0);
        std::thread::sleep(Duration::from_millis(150));
        write("three\n");
        let ended = json!({"phase": "Failed", "containerStatuses": [
            {"name": "app", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
        web.dir.write_status(&StatusFile::new(serde_json::from_value(ended).unwrap())).unwrap();
        followed.join().unwrap()
    });
    assert_eq!(followed, "one\ntwo\nthree\n");
}

#[test]
fn probes_are_shown_as_they_were_recorded() {
    let world = World::new("exit 0");
    let web = world.web();
    let line = "{\"time\":\"2024-01-02T03:04:05.123456789Z\",\"container\":\"app\",\"attempt\":0,\"kind\":\"Liveness\",\
                \"outcome\":\"Failure\",\"message\":\"no\\n\",\"duration_ms\":12}\n";
    File::create(web.dir.record_path()).unwrap().write_all(line.as_bytes()).unwrap();
    let (table, ..) = world.run(|context, out| probes(context, "default", "web", None, false, true, out));
    assert_eq!(
        table,
        "TIME                      CONTAINER   PROBE      RESULT    TOOK   MESSAGE\n\
         2024-01-02 03:04:05.123   app         liveness   Failure   12ms   no\n"
    );
}

#[test]
fn a_plan_is_made_from_the_hosts_facts_and_touches_nothing() {
    let world = World::new("echo '{\"kernel\": \"6.1.0\", \"machine\": \"x86_64\", \"calls\": {\"pidfd\": true}}'");
    let file = world.scratch.path().join("pod.yaml");
    fs::write(&file, include_str!("../../../examples/livenessProbe-tcp.yaml")).unwrap();
    let files = crate::source::Files { names: vec![file.display().to_string()], recursive: false };
    let (text, said, result) =
        world.run(|context, out| crate::plan::plan(context, &files, None, &mut std::io::empty(), out));
    assert_eq!((said.as_str(), result), ("", Ok(())));
    assert!(text.starts_with("Pod default/liveness-tcp-pod\n"), "{text}");
    for part in ["6.1.0 x86_64", "pidfd", "at 6, 9, 12, then every 3 s", &world.context.roots.cgroup_root()] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert_eq!(world.files(), Vec::<String>::new());
    assert_eq!(world.calls(), "pod facts\n");
}

#[test]
fn every_problem_of_every_file_is_reported_and_nothing_is_made() {
    let world = World::new("exit 0");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}\n";
    let bad = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {restartPolicy: Nerver, containers: []}\n";
    let directory = world.scratch.path().join("manifests");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.yaml"), good).unwrap();
    fs::write(directory.join("b.yml"), bad).unwrap();
    fs::write(directory.join("c.txt"), "not read").unwrap();
    let mut options = ApplyOptions::default();
    options.files.names = vec![directory.display().to_string()];
    let apply = |options: &ApplyOptions, text: &str| {
        world.run(|context, out| crate::apply::apply(context, options, &mut text.as_bytes(), out))
    };
    let (said, _, result) = apply(&options, "");
    assert_eq!(said, "");
    let report = text(&result).to_owned();
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(lines.len(), 2, "{report}");
    assert!(lines.iter().all(|line| line.contains("/manifests/b.yml:4:")), "{report}");
    assert!(report.contains("did you mean \"Never\"?"), "{report}");
    assert_eq!(world.files(), Vec::<String>::new());

    options.files.names = vec!["-".into()];
    let (said, _, result) = apply(&options, good);
    assert_eq!((said.as_str(), result), ("configmap/c created\n", Ok(())));
    options.kube_namespace = Some("other".into());
    let (_, _, result) = apply(&options, &good.replace("{name: c}", "{name: c, namespace: mine}"));
    assert_eq!(
        text(&result),
        "error: the namespace from the provided object \"mine\" does not match the namespace \"other\". You must pass \
         '--namespace=mine' to perform this operation."
    );
    let (_, _, result) = apply(&options, "");
    assert_eq!(text(&result), "error: no objects passed to apply");
    let (said, ..) = apply(&options, good);
    assert_eq!(said, "configmap/c created\n");
    options.files.names = vec!["/nosuch.yaml".into()];
    assert_eq!(text(&apply(&options, "").2), "error: the path \"/nosuch.yaml\" does not exist");
    options.files.names.clear();
    assert_eq!(text(&apply(&options, "").2), "error: must specify one of -f and -k");
}

/// What `get -o yaml` prints can be applied again, whatever strings it holds.
#[test]
fn yaml_that_is_printed_is_read_back_as_it_was() {
    const PIECES: [&str; 40] = [
        "",
        " ",
        "  ",
        "\n",
        "\t",
        "a",
        "true",
        "No",
        "~",
        "null",
        "0",
        "0644",
        "1e3",
        ".5",
        "1:30",
        "-",
        "- ",
        "?",
        ": ",
        ":",
        " #",
        "#",
        "'",
        "\"",
        "\\",
        "|",
        ">",
        "%",
        "@",
        "`",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a",
        "*a",
        "!t",
        "é\u{1F600}",
        "---",
    ];
    // A fixed linear congruence: the same strings each time.
    let mut state = 7u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for _ in 0..800 {
        let value: String = (0..1 + next(5)).map(|_| PIECES[next(PIECES.len())]).collect();
        let spec = json!({"containers": [{"name": "a", "image": "i:1", "env": [{"name": "V", "value": value}]}]});
        let yaml = crate::yaml_out::document(&serde_json::to_value(pod("web", spec)).unwrap());
        let objects = killick_pod::manifest::parse("x", yaml.as_bytes()).unwrap_or_else(|problems| {
            panic!("{value:?}: {problems:?}\n{yaml}");
        });
        let [Object::Pod(read)] = objects.as_slice() else { panic!("{objects:?}") };
        assert_eq!(read.spec.containers[0].env[0].value.as_deref().unwrap_or_default(), value, "\n{yaml}");
    }
}
