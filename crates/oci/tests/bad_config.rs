//! Every invalid config.json: one line that names field and value, exit code 1, in the log's format, and nothing left.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

mod common;

use common::{Bundle, merge, output};
use serde_json::{Value, json};
use std::fs;

/// What is changed in a good configuration, and the words of the one line.
fn table() -> Vec<(Value, &'static str)> {
    let mut table = vec![
        // ---- top level
        (json!({"ociVersion": null}), "ociVersion must be specified"),
        (json!({"ociVersion": ""}), "ociVersion must be specified"),
        (json!({"ociVersion": 1}), "ociVersion: 1 is not a string"),
        (json!({"ociVersion": "1.0"}), "ociVersion \"1.0\" is no semantic version"),
        (json!({"ociVersion": "1.0.x"}), "ociVersion \"1.0.x\" is no semantic version"),
        (json!({"ociVersion": "2.0.0"}), "unknown version specified: ociVersion \"2.0.0\""),
        (json!({"root": null}), "root must be specified"),
        (json!({"root": "rootfs"}), "root: \"rootfs\" is not an object"),
        (json!({"root": {"path": null}}), "root.path must be specified"),
        (json!({"root": {"path": ""}}), "root.path must be specified"),
        (json!({"root": {"path": ["rootfs"]}}), "root.path: [\"rootfs\"] is not a string"),
        (json!({"root": {"path": "missing"}}), "missing: no such file or directory"),
        (json!({"root": {"path": "config.json"}}), "config.json: not a directory"),
        (json!({"root": {"path": "/no/such/root"}}), "/no/such/root: no such file or directory"),
        (json!({"root": {"readonly": "yes"}}), "root.readonly: \"yes\" is not true or false"),
        (json!({"hostname": 5}), "hostname: 5 is not a string"),
        (json!({"hostname": "a".repeat(65)}), "longer than 64 bytes"),
        (json!({"domainname": "a".repeat(65)}), "longer than 64 bytes"),
        (
            json!({"linux": {"namespaces": [{"type": "mount"}]}}),
            "unable to set hostname without a private UTS namespace",
        ),
        (json!({"annotations": []}), "annotations: [] is not an object"),
        (json!({"annotations": {"": "x"}}), "annotations: a key is empty"),
        (json!({"annotations": {"a": 1}}), "annotations[\"a\"]: 1 is not a string"),
        // ---- process
        (json!({"process": []}), "process: [] is not an object"),
        (json!({"process": {"args": []}}), "args must not be empty"),
        (json!({"process": {"args": "sh"}}), "process.args: \"sh\" is not an array"),
        (json!({"process": {"args": ["sh", 1]}}), "process.args[1]: 1 is not a string"),
        (json!({"process": {"args": ["sh\0"]}}), "has a NUL byte"),
        (json!({"process": {"args": ["nothing"]}}), "exec: \"nothing\": executable file not found in $PATH"),
        (json!({"process": {"cwd": null}}), "Cwd property must not be empty"),
        (json!({"process": {"cwd": ""}}), "Cwd property must not be empty"),
        (json!({"process": {"cwd": "tmp"}}), "Cwd must be an absolute path: \"tmp\""),
        (json!({"process": {"cwd": 1}}), "process.cwd: 1 is not a string"),
        (json!({"process": {"env": ["NOVALUE"]}}), "invalid environment variable \"NOVALUE\""),
        (json!({"process": {"env": ["=x"]}}), "invalid environment variable \"=x\""),
        (json!({"process": {"env": ["A=\0"]}}), "\"A\" has a NUL byte"),
        (json!({"process": {"env": {"A": "B"}}}), "process.env: {\"A\":\"B\"} is not an array"),
        (json!({"process": {"terminal": "yes"}}), "process.terminal: invalid type: string \"yes\""),
        (
            json!({"process": {"consoleSize": {"height": -1, "width": 5}}}),
            "process.consoleSize.height: invalid value: integer `-1`",
        ),
        (json!({"process": {"user": {"uid": -1}}}), "process.user.uid: -1 is no integer from 0"),
        (json!({"process": {"user": {"uid": 4294967295u32}}}), "process.user.uid: 4294967295 is no integer from 0"),
        (json!({"process": {"user": {"gid": "staff"}}}), "process.user.gid: \"staff\" is no integer from 0"),
        (json!({"process": {"user": {"umask": 4096}}}), "process.user.umask: 4096 is no integer from 0 to 4095"),
        (
            json!({"process": {"user": {"additionalGids": ["x"]}}}),
            "process.user.additionalGids[0]: invalid type: string \"x\"",
        ),
        (
            json!({"process": {"capabilities": {"bounding": "CAP_KILL"}}}),
            "process.capabilities[\"bounding\"]: \"CAP_KILL\" is not an array",
        ),
        (
            json!({"process": {"capabilities": {"bounding": [5]}}}),
            "process.capabilities[\"bounding\"][0]: 5 is not a string",
        ),
        (json!({"process": {"noNewPrivileges": 1}}), "process.noNewPrivileges: invalid type: integer `1`"),
        (json!({"process": {"oomScoreAdj": 1001}}), "process.oomScoreAdj: 1001 is no integer from -1000 to 1000"),
        (json!({"process": {"oomScoreAdj": "low"}}), "process.oomScoreAdj: \"low\" is no integer"),
        (
            json!({"process": {"rlimits": [{"type": "RLIMIT_FANCY", "soft": 1, "hard": 1}]}}),
            "process.rlimits[0].type: unknown variant `RLIMIT_FANCY`",
        ),
        (
            json!({"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": -1, "hard": 1}]}}),
            "process.rlimits[0].soft: invalid value: integer `-1`",
        ),
        (
            json!({"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]}}),
            "prlimit64(RLIMIT_CORE, 2, 1): EINVAL",
        ),
        (
            json!({"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_CORE", "soft": 2, "hard": 2}]}}),
            "rlimit RLIMIT_CORE is given twice",
        ),
        (
            json!({"process": {"scheduler": {"policy": "SCHED_FAST"}}}),
            "process.scheduler.policy: unknown variant `SCHED_FAST`",
        ),
        (
            json!({"process": {"scheduler": {"policy": "SCHED_FIFO", "nice": 3}}}),
            "process.scheduler.nice: 3 is invalid here",
        ),
        (
            json!({"process": {"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}}),
            "process.scheduler.nice: 20 is invalid here",
        ),
        (
            json!({"process": {"scheduler": {"policy": "SCHED_OTHER", "priority": 1}}}),
            "process.scheduler.priority: 1 is invalid here",
        ),
        (
            json!({"process": {"scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}}}),
            "process.scheduler.flags[0]: unknown variant `SCHED_FLAG_X`",
        ),
        (
            json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}}),
            "process.ioPriority: priority 8 is not in 0 to 7",
        ),
        (
            json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_X", "priority": 1}}}),
            "process.ioPriority.class: unknown variant `IOPRIO_CLASS_X`",
        ),
        // ---- namespaces and names
        (json!({"linux": {"namespaces": [{"type": "planet"}]}}), "namespace \"planet\" does not exist"),
        (
            json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]}}),
            "duplicated ns \"pid\"",
        ),
        (
            json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "uts", "path": "ns/uts"}]}}),
            "namespace path \"ns/uts\" is not an absolute path",
        ),
        (json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "uts", "path": "/no/such/ns"}]}}), "/no/such/ns"),
        (json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "uts", "path": "/proc/self/ns/ipc"}]}}), "EINVAL"),
        (json!({"linux": {"namespaces": {"type": "mount"}}}), "linux.namespaces: {\"type\":\"mount\"} is not an array"),
        (json!({"linux": {"timeOffsets": {"boottime": {"secs": 1}}}}), "linux.timeOffsets"),
        (json!({"linux": {"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}}), "linux.uidMappings"),
        // ---- mounts
        (json!({"mounts": [{"type": "tmpfs", "source": "x"}]}), "mounts: a mount without a destination"),
        (json!({"mounts": [{"destination": 5}]}), "mounts[0].destination: 5 is not a string"),
        (
            json!({"mounts": [{"destination": "/t", "type": "tmpfs", "options": "ro"}]}),
            "mounts[0].options: \"ro\" is not an array",
        ),
        (
            json!({"mounts": [{"destination": "/t", "type": "bind", "options": ["bind"]}]}),
            "mount /t: a bind mount without a source",
        ),
        (
            json!({"mounts": [{"destination": "/t", "type": "bind", "source": "/no/such", "options": ["bind"]}]}),
            "/no/such",
        ),
        (json!({"mounts": [{"destination": "/t", "type": "nofs", "source": "x"}]}), "nofs"),
        (json!({"mounts": [{"destination": "/t", "type": "tmpfs", "source": "x", "options": ["size=much"]}]}), "size"),
        (
            json!({"mounts": [{"destination": "/t", "type": "tmpfs", "source": "x", "options": ["nosuchoption=5"]}]}),
            "nosuchoption",
        ),
        (
            json!({"mounts": [{"destination": "/proc/sys", "type": "tmpfs", "source": "x"}]}),
            "\"/proc/sys\" cannot be mounted because it is inside /proc",
        ),
        (
            json!({"mounts": [{"destination": "/t", "type": "proc", "source": "proc", "options": ["tmpcopyup"]}]}),
            "tmpcopyup",
        ),
        // ---- devices and cgroups
        (
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]}}),
            "linux.devices[0].type: unknown variant `z`",
        ),
        (
            json!({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": -1, "minor": 3}]}}),
            "device /dev/x: number -1 out of range",
        ),
        (json!({"linux": {"devices": [{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]}}), "/etc/passwd"),
        (json!({"linux": {"cgroupsPath": 7}}), "linux.cgroupsPath: 7 is not a string"),
        (json!({"linux": {"resources": {"memory": {"limit": -5}}}}), "invalid memory value: -5"),
        (
            json!({"linux": {"resources": {"memory": {"limit": "1G"}}}}),
            "linux.resources.memory.limit: invalid type: string \"1G\"",
        ),
        (json!({"linux": {"resources": {"memory": {"swap": 5000}}}}), "unable to set swap limit without memory limit"),
        (
            json!({"linux": {"resources": {"memory": {"limit": 90000000, "swap": 5000}}}}),
            "memory+swap limit should be >= memory limit",
        ),
        (json!({"linux": {"resources": {"memory": {"swappiness": 101}}}}), "101"),
        (json!({"linux": {"resources": {"cpu": {"cpus": "0-9999"}}}}), "0-9999"),
        (
            json!({"linux": {"resources": {"cpu": {"shares": -1}}}}),
            "linux.resources.cpu.shares: invalid value: integer `-1`",
        ),
        (
            json!({"linux": {"resources": {"pids": {"limit": "many"}}}}),
            "linux.resources.pids.limit: invalid type: string \"many\"",
        ),
        (
            json!({"linux": {"resources": {"blockIO": {"weight": 70000}}}}),
            "linux.resources.blockIO.weight: invalid value: integer `70000`",
        ),
        (
            json!({"linux": {"resources": {"hugepageLimits": [{"pageSize": "2mb", "limit": 1}]}}}),
            "invalid page size \"2mb\"",
        ),
        (json!({"linux": {"resources": {"unified": {"memory/high": "1"}}}}), "unified"),
        (json!({"linux": {"resources": {"unified": {"nodot": "1"}}}}), "unified"),
        (
            json!({"linux": {"resources": {"devices": [{"allow": true, "type": "z", "access": "rwm"}]}}}),
            "linux.resources.devices[0].type: unknown variant `z`",
        ),
        (json!({"linux": {"resources": {"devices": [{"allow": true, "type": "c", "access": "rwx"}]}}}), "rwx"),
        (
            json!({"linux": {"sysctl": {"vm.swappiness": "1"}}}),
            "sysctl \"vm.swappiness\" is not in a separate kernel namespace",
        ),
        (
            json!({"linux": {"sysctl": {"kernel.hostname": "x"}}}),
            "sysctl \"kernel.hostname\" is not allowed as it conflicts",
        ),
        (json!({"linux": {"sysctl": {"net.no.such": "1"}}}), "/proc/sys/net/no/such"),
        (
            json!({"linux": {"sysctl": {"net.ipv4.ip_forward": 1}}}),
            "linux.sysctl[\"net.ipv4.ip_forward\"]: 1 is not a string",
        ),
        (json!({"linux": {"sysctl": {"kernel.shmmax": "x"}}}), "kernel/shmmax"),
        // ---- the rest of linux
        (json!({"linux": {"rootfsPropagation": "upwards"}}), "rootfsPropagation=upwards is not supported"),
        (json!({"linux": {"maskedPaths": "/proc/kcore"}}), "linux.maskedPaths: invalid type: string \"/proc/kcore\""),
        (json!({"linux": {"personality": {"domain": "PLAN9"}}}), "linux.personality.domain: unknown variant `PLAN9`"),
        (
            json!({"linux": {"personality": {"domain": "LINUX", "flags": ["X"]}}}),
            "linux.personality.flags: no flag is known",
        ),
        (
            json!({"linux": {"memoryPolicy": {"mode": "MPOL_FAR"}}}),
            "linux.memoryPolicy.mode: unknown variant `MPOL_FAR`",
        ),
        (
            json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND"}}}),
            "linux.memoryPolicy: memory policy mode requires at least one node but got 0: MPOL_BIND",
        ),
        (
            json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "x"}}}),
            "linux.memoryPolicy: nodes \"x\" is no list of nodes",
        ),
        (json!({"linux": {"netDevices": {"a/b": {}}}}), "linux.netDevices: invalid device name \"a/b\""),
        (json!({"linux": {"netDevices": ["eth0"]}}), "linux.netDevices: [\"eth0\"] is not an object"),
        // ---- seccomp
        (
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_SING"}}}),
            "linux.seccomp.defaultAction: unknown variant `SCMP_ACT_SING`",
        ),
        (
            json!({"linux": {"seccomp": {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}}}),
            "linux.seccomp.defaultAction: must be specified",
        ),
        (
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}}}),
            "linux.seccomp.architectures[0]: unknown variant `SCMP_ARCH_PDP11`",
        ),
        (
            json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}}}),
            "linux.seccomp.flags[0]: unknown variant `SECCOMP_FILTER_FLAG_X`",
        ),
        // ---- hooks
        (json!({"hooks": {"prestart": [{"path": "bin/x"}]}}), "hooks.prestart: path \"bin/x\" is not absolute"),
        (
            json!({"hooks": {"poststop": [{"path": "/bin/x", "timeout": 0}]}}),
            "hooks.poststop: timeout 0 is not greater than zero",
        ),
        (json!({"hooks": {"createRuntime": {}}}), "hooks[\"createRuntime\"]: {} is not an array"),
    ];
    let rule = |rule: Value| json!({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}}});
    table.extend([
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_X"})), "linux.seccomp.syscalls[0].action: unknown variant `SCMP_ACT_X`"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 65536})), "errnoRet 65536 is larger than 65535"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_KILL", "errnoRet": 1})), "errnoRet 1 with SCMP_ACT_KILL"),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
            "argument index 6 of \"read\"",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_X"}]})),
            "linux.seccomp.syscalls[0].args[0].op: unknown variant `SCMP_CMP_X`",
        ),
    ]);
    table
}

#[test]
fn every_invalid_configuration_is_one_line_and_leaves_nothing() {
    let bundle = Bundle::new(json!({}));
    let (path, good) = (bundle.path().to_str().unwrap(), bundle.config());
    let mut wrong = Vec::new();
    for (change, words) in table() {
        let mut config = good.clone();
        merge(&mut config, change.clone());
        bundle.configure(&config);
        let failed = bundle.quiet(&["create", "-b", path, &bundle.id]);
        let one_line = failed.err.lines().count() == 1;
        let grammar = failed.err.starts_with("killick-oci create failed: ");
        if failed.code != 1 || !one_line || !grammar || !failed.err.contains(words) {
            wrong.push(format!("{change}: wanted {words:?} in {failed:?}"));
        }
        if failed.code == 0 {
            bundle.oci(&["delete", "--force", &bundle.id]).ok();
        }
        bundle.assert_gone();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_the_specification_lets_pass_passes() {
    for (change, warning) in [
        (
            json!({"process": {"capabilities": {"bounding": ["CAP_FLY"]}}}),
            "ignoring unknown or unavailable capabilities: [\"CAP_FLY\"]\n",
        ),
        (json!({"unknown": {"deep": [1]}, "linux": {"unknown": 1}, "process": {"unknown": true}}), ""),
        (json!({"windows": {"layerFolders": ["x"]}, "solaris": {}, "vm": {}}), ""),
        (json!({"annotations": {"x": ""}, "hostname": ""}), ""),
        (json!({"ociVersion": "1.9.7-rc.1+dev"}), ""),
    ] {
        let bundle = Bundle::new(change.clone());
        let created = bundle.quiet(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
        assert_eq!((created.code, created.err.as_str()), (0, warning), "{change}");
    }
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let bundle = Bundle::new(json!({}));
    let (path, file) = (bundle.path().to_str().unwrap().to_owned(), bundle.path().join("config.json"));
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for (text, words) in [
        (&b""[..], "EOF while parsing"),
        (b"{\"ociVersion\": ", "EOF while parsing"),
        (b"[]", "config.json must be an object"),
        (b"null", "config.json must be an object"),
        (b"\xff\xfe", "expected value"),
        (deep.as_bytes(), "recursion limit exceeded"),
    ] {
        fs::write(&file, text).unwrap();
        let failed = bundle.quiet(&["create", "-b", &path, &bundle.id]);
        assert_eq!((failed.code, failed.err.lines().count()), (1, 1), "{failed:?}");
        failed.fails(words);
    }
    fs::File::create(&file).unwrap().set_len((16 << 20) + 1).unwrap();
    bundle.quiet(&["create", "-b", &path, &bundle.id]).fails("larger than 16777216 bytes");
    fs::remove_file(&file).unwrap();
    bundle.quiet(&["create", "-b", &path, &bundle.id]).fails("config.json not found");
    bundle
        .quiet(&["create", "-b", "/no/such/bundle", &bundle.id])
        .fails("bundle /no/such/bundle: no such file or directory");
    for id in ["", "a/b", "..", ".", "a b", "ä", &"x".repeat(300)] {
        let failed = bundle.quiet(&["create", "-b", &path, id]);
        assert_eq!((failed.code, failed.err.lines().count()), (1, 1), "{failed:?}");
        assert!(
            failed.err.contains("container id cannot be empty") || failed.err.contains(&format!("{id:?}")),
            "{failed:?}"
        );
    }
    bundle.assert_gone();
}

#[test]
fn both_log_formats_say_the_same() {
    let bundle = Bundle::new(json!({"process": {"oomScoreAdj": 5000}}));
    let (path, log) = (bundle.path().to_str().unwrap(), bundle.path().join("log"));
    let message = "killick-oci create failed: process.oomScoreAdj: 5000 is no integer from -1000 to 1000";
    let run = |format: &str| {
        let mut command = bundle.command(&["--log-format", format, "--log"]);
        command.arg(&log).args(["create", "-b", path, &bundle.id]);
        let failed = output(command);
        assert_eq!((failed.code, failed.err.as_str()), (1, format!("{message}\n").as_str()));
        let line = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        assert_eq!(line.lines().count(), 1);
        line
    };
    let record: Value = serde_json::from_str(&run("json")).unwrap();
    assert_eq!((&record["level"], &record["msg"]), (&json!("error"), &json!(message)));
    let text = run("text");
    assert!(text.starts_with("time=\"") && text.ends_with(&format!("level=error msg=\"{message}\"\n")), "{text}");
    let failed = bundle.oci(&["create", "-b", path, &bundle.id]);
    assert!(failed.err.ends_with(&format!("level=error msg=\"{message}\"\n")), "{failed:?}");
}
