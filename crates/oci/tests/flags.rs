//! Every flag that podman, conmon, CRI-O, containerd and docker use (oci.md §8), in every form that runc's parser reads.
//! Nothing is made here: what is understood ends with "does not exist".
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{PROGRAM, output};
use serde_json::Value;
use std::process::{Command, Stdio};

fn oci(words: &[&str]) -> common::Output {
    let mut command = Command::new(PROGRAM);
    command.args(["--root", "/run/killick-oci-no-such"]).args(words).stdin(Stdio::null());
    output(command)
}

/// What each command takes: a name without a value is a switch.
const FLAGS: &[(&str, &str)] = &[
    (
        "create",
        "bundle=/no/such b=/no/such config=/no/c console-socket=/no/s pidfd-socket=/no/s pid-file=/no/p no-pivot \
         no-new-keyring preserve-fds=2",
    ),
    (
        "run",
        "bundle=/no/such b=/no/such console-socket=/no/s pidfd-socket=/no/s pid-file=/no/p no-pivot no-new-keyring \
         preserve-fds=2 detach d keep no-subreaper",
    ),
    ("start", ""),
    (
        "exec",
        "console-socket=/no/s pidfd-socket=/no/s cwd=/ env=A=1 e=A=1 tty t user=1:2 u=1 additional-gids=3 g=3 \
         process=/no/p p=/no/p detach d pid-file=/no/p process-label=l apparmor=a no-new-privs cap=CAP_KILL c=CAP_KILL \
         preserve-fds=1 cgroup=a:b ignore-paused no-subreaper",
    ),
    ("kill", "all a"),
    ("delete", "force f"),
    ("state", ""),
    ("ps", "format=json f=json"),
    ("events", "interval=5s stats"),
    (
        "update",
        "resources=/no/r r=/no/r blkio-weight=10 cpu-period=1000 cpu-quota=1000 cpu-burst=1 cpu-share=2 cpu-rt-period=1 \
         cpu-rt-runtime=1 cpuset-cpus=0 cpuset-mems=0 cpu-idle=1 kernel-memory=1 kernel-memory-tcp=1 memory=1m \
         memory-reservation=1m memory-swap=-1 pids-limit=5",
    ),
    ("pause", ""),
    ("resume", ""),
];

/// `-f`, `--flag`, `--flag=value` and so on.
fn forms(flag: &str) -> Vec<Vec<String>> {
    let words = |text: &[String]| text.to_vec();
    match flag.split_once('=') {
        None => ["", "=true"]
            .iter()
            .flat_map(|end| [vec![format!("-{flag}{end}")], vec![format!("--{flag}{end}")]])
            .collect(),
        Some((name, value)) => vec![
            words(&[format!("--{name}={value}")]),
            words(&[format!("-{name}={value}")]),
            words(&[format!("--{name}"), value.to_owned()]),
            words(&[format!("-{name}"), value.to_owned()]),
        ],
    }
}

#[test]
fn every_flag_is_understood_in_every_form() {
    for (command, flags) in FLAGS {
        let stops = matches!(*command, "exec" | "kill" | "ps");
        for flag in flags.split_whitespace() {
            for form in forms(flag) {
                let flag: Vec<&str> = form.iter().map(String::as_str).collect();
                let end: &[&str] = if *command == "exec" { &["id", "true"] } else { &["id"] };
                let bundle: &[&str] = if matches!(*command, "create" | "run") { &["-b", "/no/such"] } else { &[] };
                let before = [&[*command][..], bundle, &flag, end].concat();
                let after = [&[*command][..], bundle, end, &flag].concat();
                for words in [Some(before), Some(after).filter(|_| !stops)].into_iter().flatten() {
                    let told = oci(&words);
                    assert!(!told.out.contains("Incorrect Usage"), "{words:?}: {told:?}");
                    let known = ["container does not exist", "no such file or directory"];
                    // delete --force of what is not there is no error.
                    let forced = *command == "delete" && told.code == 0;
                    assert!(
                        forced || told.code != 0 && known.iter().any(|text| told.err.contains(text)),
                        "{words:?}: {told:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn global_flags_are_understood_in_every_form() {
    for flag in [
        "root=/run/killick-oci-no-such",
        "log=/dev/null",
        "log-format=json",
        "log-format=text",
        "log-level=debug",
        "debug",
        "cgroup-manager=cgroupfs",
        "rootless=auto",
        "rootless=false",
        "rootless=true",
        "criu=/no/criu",
    ] {
        for form in forms(flag) {
            let words: Vec<&str> = form.iter().map(String::as_str).chain(["state", "id"]).collect();
            let told = oci(&words);
            assert!(told.code == 1 && told.err.contains("container does not exist"), "{words:?}: {told:?}");
        }
    }
}

#[test]
fn what_follows_the_command_of_an_exec_is_its_own() {
    for words in [
        &["exec", "id", "sh", "-c", "--cgroup"][..],
        &["exec", "--", "id", "-x"],
        &["kill", "id", "-9"],
        &["ps", "id", "-e"],
    ] {
        let told = oci(words);
        assert!(told.err.contains("container does not exist"), "{words:?}: {told:?}");
    }
}

#[test]
fn a_usage_error_is_in_the_log_too_and_its_code_is_1() {
    let dir = tempfile::tempdir().unwrap();
    for (words, text) in [
        (&["create"][..], "killick-oci: \"create\" requires exactly 1 argument(s)"),
        (&["state", "a", "b"], "killick-oci: \"state\" requires exactly 1 argument(s)"),
        (&["exec"], "killick-oci: \"exec\" requires a minimum of 1 argument(s)"),
        (&["kill", "a", "9", "9"], "killick-oci: \"kill\" requires a maximum of 2 argument(s)"),
        (&["create", "--wrong", "x"], "flag provided but not defined: -wrong"),
        (&["create", "x", "--bundle"], "flag needs an argument: -bundle"),
        (&["events", "--stats=perhaps", "x"], "invalid boolean value \"perhaps\" for -stats"),
        (&["fly"], "No help topic for 'fly'"),
    ] {
        let log = dir.path().join("log");
        let _ = std::fs::remove_file(&log);
        let words = [&["--log-format", "json", "--log", log.to_str().unwrap()], words].concat();
        let told = oci(&words);
        assert_eq!((told.code, told.err.trim_end()), (1, text), "{words:?}");
        let record: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim_end()).unwrap();
        assert_eq!((&record["level"], &record["msg"]), (&"error".into(), &text.into()));
    }
    // No log file: one line of text.
    let told = oci(&["state", "x"]);
    assert!(
        told.err.starts_with("time=\"") && told.err.contains("level=error msg=\"container does not exist\""),
        "{told:?}"
    );
    assert_eq!((told.err.lines().count(), told.code), (1, 1));
}

#[test]
fn help_and_version_are_told_and_checkpoint_is_not_offered() {
    for words in
        [&["--help"][..], &["-h"], &["help"], &[], &["create", "--help"], &["exec", "-h"], &["events", "--help"]]
    {
        let told = oci(words);
        assert!(told.code == 0 && told.out.contains("USAGE"), "{words:?}: {told:?}");
    }
    for words in [&["--version"][..], &["-v"]] {
        let text = oci(words).ok();
        let lines: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
        assert_eq!(lines, ["killick-oci", "commit:", "spec:"]);
        assert!(text.starts_with("killick-oci version "), "{text}");
    }
    // CRI-O asks for the help and takes 0 for support.
    for command in ["checkpoint", "restore"] {
        for words in
            [&[command, "--help"][..], &[command, "--image-path", "/x", "--work-path=/y", "--leave-running", "id"]]
        {
            let told = oci(words);
            assert_eq!(told.code, 1);
            assert!(told.err.contains(&format!("{command} is not supported by killick-oci")), "{told:?}");
        }
    }
}

/// The flags that a command's help names.
fn flags_of(program: &str, command: &str) -> Vec<String> {
    let mut asked = Command::new(program);
    asked.args([command, "--help"]).stdin(Stdio::null());
    let help = output(asked).out;
    let mut flags = Vec::new();
    let listed = help.lines().filter(|line| line.trim_start().starts_with('-'));
    for word in listed.flat_map(|line| line.trim_start().split(['=', '[']).next().unwrap_or_default().split([' ', ',']))
    {
        let name = word.trim_start_matches('-');
        if word.starts_with('-') && !name.is_empty() && !matches!(name, "?" | "usage" | "version" | "V" | "help" | "h")
        {
            flags.push(word.to_owned());
        }
    }
    flags
}

#[test]
fn no_flag_of_runcs_or_cruns_is_missing() {
    if !common::compares("no_flag_of_runcs_or_cruns_is_missing") {
        return;
    }
    for program in ["runc", "crun"] {
        for (command, _) in FLAGS {
            let theirs = flags_of(program, command);
            let mut asked = Command::new(PROGRAM);
            asked.args([command, "--help"]);
            let ours = output(asked).ok();
            for flag in theirs {
                // crun's help of a command names its global flags as well.
                let global = [
                    "--cgroup-manager",
                    "--debug",
                    "--log",
                    "--log-format",
                    "--root",
                    "--rootless",
                    "--systemd-cgroup",
                    "-v",
                ];
                // Killing and deleting by pattern is crun's alone, and nobody calls it.
                if global.contains(&flag.as_str()) || matches!(flag.as_str(), "-r" | "--regex") && *command != "update"
                {
                    continue;
                }
                let has = ours.split([' ', ',', '\n']).any(|word| word == flag);
                assert!(has, "{program} {command} {flag}");
            }
        }
    }
}
