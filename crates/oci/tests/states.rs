//! The state machine as a table (oci.md §2): each operation in each state, with exit code, exact text and what the
//! container is afterwards. `runc_says_the_same` runs the rows that are runc's too over the runc of this machine.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, Output, PROGRAM, until};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A runtime, and a bundle of its own.
struct Runtime {
    program: String,
    /// The first word of its errors.
    name: &'static str,
    bundle: Bundle,
    /// A create that is under way; it goes on when the file is there.
    creating: Option<Child>,
    rounds: u32,
}

impl Runtime {
    fn new(program: &str, name: &'static str) -> Self {
        let bundle = Bundle::new(json!({}));
        Runtime { program: program.into(), name, bundle, creating: None, rounds: 0 }
    }

    fn command(&self, words: &[&str], log: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.bundle.states()).arg("--log-format=json").arg("--log").arg(log).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The last error of its log, without its time.
    fn run(&mut self, words: &[&str]) -> (i32, String) {
        self.rounds += 1;
        let log = self.bundle.path().join(format!("states-log-{}", self.rounds));
        let status = self.command(words, &log).status().unwrap();
        let text = fs::read_to_string(&log).unwrap_or_default();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut errors = records.filter(|record| record["level"] == "error");
        let last = errors.next_back().map(|record| record["msg"].as_str().unwrap().to_owned());
        (status.code().unwrap_or(-1), last.unwrap_or_default())
    }

    #[track_caller]
    fn ok(&mut self, words: &[&str]) {
        assert_eq!(self.run(words), (0, String::new()), "{words:?}");
    }

    fn status(&self) -> String {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.bundle.states()).args(["state", &self.bundle.id]).stdin(Stdio::null());
        let Output { code, out, .. } = common::output(command);
        if code != 0 {
            return "none".into();
        }
        serde_json::from_str::<Value>(&out).unwrap()["status"].as_str().unwrap().to_owned()
    }

    /// From nothing to the state.
    fn bring_to(&mut self, state: &str) {
        let (id, path) = (self.bundle.id.clone(), self.bundle.path().to_str().unwrap().to_owned());
        let dir = self.bundle.states().join(&id);
        match state {
            "none" => {}
            // What an early death of create leaves.
            "aborted" => fs::create_dir_all(&dir).unwrap(),
            "creating" => {
                let (gate, here) = (self.bundle.path().join("go-on"), self.bundle.path().join("is-here"));
                let wait = format!("touch {}; while [ ! -e {} ]; do sleep 0.02; done", here.display(), gate.display());
                let mut config = self.bundle.config();
                config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", wait]}]});
                self.bundle.configure(&config);
                let log = self.bundle.path().join("creating-log");
                self.creating = Some(self.command(&["create", "-b", &path, &id], &log).spawn().unwrap());
                until("create runs its hook", || here.exists());
                fs::remove_file(here).unwrap();
            }
            "created" => self.ok(&["create", "-b", &path, &id]),
            "running" => {
                self.bring_to("created");
                self.ok(&["start", &id]);
            }
            "paused" => {
                self.bring_to("running");
                self.ok(&["pause", &id]);
            }
            "stopped" => {
                self.bring_to("running");
                self.ok(&["kill", &id, "KILL"]);
                until("it has stopped", || self.status() == "stopped");
            }
            "stopped in create" => {
                self.bring_to("created");
                self.ok(&["kill", &id, "KILL"]);
                until("it has stopped", || self.status() == "stopped");
            }
            other => panic!("{other}"),
        }
    }

    /// Nothing is left, whatever the state was.
    fn clear(&mut self) {
        let id = self.bundle.id.clone();
        if let Some(mut creating) = self.creating.take() {
            fs::write(self.bundle.path().join("go-on"), "").unwrap();
            creating.wait().unwrap();
            fs::remove_file(self.bundle.path().join("go-on")).unwrap();
            let mut config = self.bundle.config();
            config.as_object_mut().unwrap().remove("hooks");
            self.bundle.configure(&config);
        }
        if self.status() == "paused" {
            self.ok(&["resume", &id]);
        }
        self.ok(&["delete", "--force", &id]);
        self.bundle.assert_gone();
    }

    /// One row: the words with ID and BUNDLE replaced; what must come of it, with RT for the runtime's name.
    fn check(&mut self, row: &Row) {
        let Row { state, operation, expected, after } = *row;
        let (code, text) = expected;
        self.bring_to(state);
        let (id, path) = (self.bundle.id.clone(), self.bundle.path().to_str().unwrap().to_owned());
        let words = operation.split(' ').map(|word| match word {
            "ID" => id.as_str(),
            "BUNDLE" => path.as_str(),
            word => word,
        });
        let got = self.run(&words.collect::<Vec<_>>());
        let text = text.replacen("RT", self.name, 1).replace('@', &id);
        assert_eq!(got, (code, text), "{operation} of one that is {state}");
        if after != "?" {
            // A signal needs its time.
            until(&format!("after {operation} one that was {state} is {after}"), || self.status() == after);
        }
        self.clear();
    }
}

#[derive(Clone, Copy)]
struct Row {
    state: &'static str,
    operation: &'static str,
    expected: (i32, &'static str),
    after: &'static str,
}

const OK: (i32, &str) = (0, "");
const UNKNOWN: (i32, &str) = (1, "container does not exist");
const NOT_RUNNING: (i32, &str) = (1, "container not running");
const NOT_PAUSED: (i32, &str) = (1, "container not paused");
const EXISTS: (i32, &str) = (1, "RT create failed: container with given ID already exists");
const RUN_EXISTS: (i32, &str) = (1, "RT run failed: container with given ID already exists");

const fn row(state: &'static str, operation: &'static str, expected: (i32, &'static str), after: &'static str) -> Row {
    Row { state, operation, expected, after }
}

/// Where runc (1.1.5 and later) does what the specification says, to the letter.
const LIKE_RUNC: &[Row] = &[
    row("none", "create -b BUNDLE ID", OK, "created"),
    row("none", "run -d -b BUNDLE ID", OK, "running"),
    row("none", "start ID", UNKNOWN, "none"),
    row("none", "state ID", UNKNOWN, "none"),
    row("none", "kill ID TERM", UNKNOWN, "none"),
    row("none", "kill --all ID KILL", UNKNOWN, "none"),
    row("none", "delete ID", UNKNOWN, "none"),
    row("none", "delete --force ID", OK, "none"),
    row("none", "delete -f ID", OK, "none"),
    row("none", "exec ID true", (255, "exec failed: container does not exist"), "none"),
    row("none", "pause ID", UNKNOWN, "none"),
    row("none", "resume ID", UNKNOWN, "none"),
    row("none", "update --pids-limit 50 ID", UNKNOWN, "none"),
    row("none", "ps -f json ID", UNKNOWN, "none"),
    row("none", "events --stats ID", UNKNOWN, "none"),
    row("aborted", "create -b BUNDLE ID", EXISTS, "none"),
    row("aborted", "start ID", UNKNOWN, "none"),
    row("aborted", "state ID", UNKNOWN, "none"),
    row("aborted", "kill ID KILL", UNKNOWN, "none"),
    row("aborted", "kill --all ID KILL", UNKNOWN, "none"),
    row("aborted", "delete ID", UNKNOWN, "none"),
    row("aborted", "delete -f ID", OK, "none"),
    row("aborted", "exec ID true", (255, "exec failed: container does not exist"), "none"),
    row("aborted", "pause ID", UNKNOWN, "none"),
    row("aborted", "resume ID", UNKNOWN, "none"),
    row("aborted", "update --pids-limit 50 ID", UNKNOWN, "none"),
    row("aborted", "ps -f json ID", UNKNOWN, "none"),
    row("aborted", "events --stats ID", UNKNOWN, "none"),
    row("creating", "create -b BUNDLE ID", EXISTS, "?"),
    row("created", "create -b BUNDLE ID", EXISTS, "created"),
    row("created", "run -b BUNDLE ID", RUN_EXISTS, "created"),
    row("created", "start ID", OK, "running"),
    row("created", "state ID", OK, "created"),
    row("created", "kill ID KILL", OK, "stopped"),
    row("created", "kill ID", OK, "stopped"),
    row("created", "kill --all ID KILL", OK, "stopped"),
    row("created", "kill -a ID 9", OK, "stopped"),
    row("created", "delete ID", OK, "none"),
    row("created", "delete --force ID", OK, "none"),
    row("created", "exec ID true", OK, "created"),
    row("created", "pause ID", OK, "paused"),
    row("created", "resume ID", NOT_PAUSED, "created"),
    row("created", "update --pids-limit 50 ID", OK, "created"),
    row("created", "ps -f json ID", OK, "created"),
    row("created", "events --stats ID", OK, "created"),
    row("running", "create -b BUNDLE ID", EXISTS, "running"),
    row("running", "start ID", (1, "cannot start an already running container"), "running"),
    row("running", "state ID", OK, "running"),
    row("running", "kill ID USR1", OK, "running"),
    row("running", "kill ID KILL", OK, "stopped"),
    row("running", "kill ID SIGKILL", OK, "stopped"),
    row("running", "kill ID 9", OK, "stopped"),
    row("running", "kill --all ID KILL", OK, "stopped"),
    row("running", "delete ID", (1, "cannot delete container @ that is not stopped: running"), "running"),
    row("running", "delete --force ID", OK, "none"),
    row("running", "exec ID true", OK, "running"),
    row("running", "exec ID false", (1, ""), "running"),
    row("running", "pause ID", OK, "paused"),
    row("running", "resume ID", NOT_PAUSED, "running"),
    row("running", "update --pids-limit 50 ID", OK, "running"),
    row("running", "ps -f json ID", OK, "running"),
    row("running", "events --stats ID", OK, "running"),
    row("paused", "create -b BUNDLE ID", EXISTS, "paused"),
    row("paused", "start ID", (1, "cannot start a container in the paused state"), "paused"),
    row("paused", "state ID", OK, "paused"),
    row("paused", "kill ID USR1", OK, "paused"),
    row("paused", "kill ID KILL", OK, "stopped"),
    row("paused", "kill --all ID KILL", OK, "stopped"),
    row("paused", "delete ID", (1, "cannot delete container @ that is not stopped: paused"), "paused"),
    row("paused", "delete --force ID", OK, "none"),
    row(
        "paused",
        "exec ID true",
        (255, "exec failed: cannot exec in a paused container (use --ignore-paused to override)"),
        "paused",
    ),
    row("paused", "pause ID", NOT_RUNNING, "paused"),
    row("paused", "resume ID", OK, "running"),
    row("paused", "update --pids-limit 50 ID", OK, "paused"),
    row("paused", "ps -f json ID", OK, "paused"),
    row("paused", "events --stats ID", OK, "paused"),
    row("stopped", "create -b BUNDLE ID", EXISTS, "stopped"),
    row("stopped", "start ID", (1, "cannot start a container that has stopped"), "stopped"),
    row("stopped", "state ID", OK, "stopped"),
    row("stopped", "kill ID TERM", NOT_RUNNING, "stopped"),
    row("stopped", "kill ID KILL", NOT_RUNNING, "stopped"),
    row("stopped", "kill --all ID KILL", OK, "stopped"),
    row("stopped", "kill --all ID TERM", OK, "stopped"),
    row("stopped", "delete ID", OK, "none"),
    row("stopped", "delete --force ID", OK, "none"),
    row("stopped", "exec ID true", (255, "exec failed: cannot exec in a stopped container"), "stopped"),
    row("stopped", "pause ID", NOT_RUNNING, "stopped"),
    row("stopped", "resume ID", NOT_PAUSED, "stopped"),
    row("stopped", "update --pids-limit 50 ID", NOT_RUNNING, "stopped"),
    row("stopped", "ps -f json ID", OK, "stopped"),
    row("stopped", "events --stats ID", (1, "container with id @ is not running"), "stopped"),
    row("stopped in create", "start ID", (1, "cannot start a container that has stopped"), "stopped"),
    row("stopped in create", "kill ID TERM", NOT_RUNNING, "stopped"),
    row("stopped in create", "delete ID", OK, "none"),
    row("stopped in create", "exec ID true", (255, "exec failed: cannot exec in a stopped container"), "stopped"),
];

/// Where runc does not: it does not know a container that is being created, and finds KILL's number only.
const OUR_OWN: &[Row] = &[
    row("creating", "start ID", (1, "cannot start a container that is being created"), "creating"),
    row("creating", "state ID", OK, "creating"),
    row("creating", "kill ID KILL", NOT_RUNNING, "creating"),
    row("creating", "delete ID", (1, "cannot delete container @ that is not stopped: creating"), "creating"),
    row("creating", "delete --force ID", OK, "none"),
    row("creating", "exec ID true", (255, "exec failed: cannot exec in a container that is being created"), "creating"),
    row("creating", "pause ID", NOT_RUNNING, "creating"),
    row("creating", "resume ID", NOT_PAUSED, "creating"),
    row("creating", "update --pids-limit 50 ID", NOT_RUNNING, "creating"),
    row("creating", "ps -f json ID", OK, "creating"),
    row("running", "kill ID SIGNONE", (1, "unknown signal \"SIGNONE\""), "running"),
    row("running", "kill ID rtmin+3", OK, "running"),
    row(
        "running",
        "checkpoint --image-path /x ID",
        (1, "checkpoint is not supported by killick-oci (it would need criu)"),
        "running",
    ),
    row(
        "none",
        "restore --image-path /x ID",
        (1, "restore is not supported by killick-oci (it would need criu)"),
        "none",
    ),
];

#[test]
fn each_operation_in_each_state_does_what_the_specification_says() {
    let mut ours = Runtime::new(PROGRAM, "killick-oci");
    LIKE_RUNC.iter().chain(OUR_OWN).for_each(|row| ours.check(row));
}

#[test]
fn runc_says_the_same() {
    if !common::compares("runc_says_the_same") {
        return;
    }
    let mut runc = Runtime::new("runc", "runc");
    LIKE_RUNC.iter().for_each(|row| runc.check(row));
}

#[test]
fn what_is_left_of_a_damaged_container_is_removed_by_force() {
    let bundle = Bundle::new(json!({}));
    bundle.create();
    bundle.start();
    let state = bundle.states().join(&bundle.id).join("state.json");
    let kept = fs::read(&state).unwrap();
    for damage in [&b""[..], b"{", b"[]", b"{\"version\":1}", &kept[..kept.len() / 2]] {
        fs::write(&state, damage).unwrap();
        for words in [&["state"][..], &["start"], &["kill"], &["delete"], &["exec"], &["pause"], &["ps"]] {
            let mut words = words.to_vec();
            words.push(&bundle.id);
            if words[0] == "exec" {
                words.push("true");
            }
            let failed = bundle.oci(&words);
            assert!(failed.code != 0 && failed.err.contains("state.json"), "{words:?}: {failed:?}");
        }
        assert!(bundle.oci(&["list", "-q"]).ok().is_empty());
    }
    bundle.oci(&["delete", "--force", &bundle.id]).ok();
    bundle.assert_gone();
    // Half-deleted: cgroup and process have gone, the state has not.
    bundle.create();
    bundle.oci(&["kill", &bundle.id, "9"]).ok();
    bundle.wait_for("stopped");
    for dir in bundle.cgroup_dirs() {
        until("the cgroup is empty", || fs::remove_dir(&dir).is_ok());
    }
    bundle.oci(&["kill", "--all", &bundle.id, "9"]).ok();
    bundle.oci(&["ps", &bundle.id]).ok();
    bundle.oci(&["delete", &bundle.id]).ok();
    bundle.assert_gone();
}

#[test]
fn of_operations_at_once_none_does_half_and_one_wins() {
    let bundle = Bundle::new(json!({}));
    let (path, id) = (bundle.path().to_str().unwrap(), bundle.id.as_str());
    let at_once = |words: &[&str]| {
        let spawn = |_| bundle.command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let children: Vec<Child> = (0..4).map(spawn).collect();
        let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
        outputs
            .map(|output| (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
            .collect::<Vec<_>>()
    };
    let won = |outputs: &[(bool, String)]| outputs.iter().filter(|(won, _)| *won).count();
    for _ in 0..5 {
        bundle.quiet(&["create", "-b", path, id]).ok();
        let started = at_once(&["start", id]);
        assert_eq!(won(&started), 1, "{started:?}");
        assert!(
            started.iter().all(|(won, text)| *won || text.contains("cannot start an already running container")),
            "{started:?}"
        );
        let killed = at_once(&["kill", id, "KILL"]);
        assert!(won(&killed) >= 1, "{killed:?}");
        bundle.wait_for("stopped");
        let deleted = at_once(&["delete", id]);
        assert!(won(&deleted) >= 1, "{deleted:?}");
        bundle.assert_gone();
        bundle.quiet(&["create", "-b", path, id]).ok();
        let forced = at_once(&["delete", "--force", id]);
        assert_eq!(won(&forced), 4, "{forced:?}");
        bundle.assert_gone();
    }
}
