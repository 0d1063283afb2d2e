//! Valid configurations, profiles and records, changed at random (the same in every run): nothing panics, and a refusal
//! is one line that names what is wrong. The long run is fuzz/'s; KILLICK_FUZZ_ROUNDS makes this one longer.
#![allow(clippy::unwrap_used)]

mod common;

use common::isolated;
use killick_container::cgroup::{Cgroup, Layout};
use killick_container::hostile;
use killick_sys::caps::CapSet;
use serde_json::{Value, json};
use std::time::Instant;

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

fn pointers(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                pointers(value, &format!("{here}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                pointers(value, &format!("{here}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn nasty(random: &mut Random) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    match random.below(26) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(0),
        4 => json!(4_294_967_296_u64),
        5 => json!(u64::MAX),
        6 => json!(i64::MIN),
        7 => json!(1.5),
        8 => text(""),
        9 => text("a\u{0}b"),
        10 => text("/proc/../proc/sys"),
        11 => text("../../../etc"),
        12 => text("a\nb: c"),
        13 => text(&"x".repeat(70_000)),
        14 => json!([]),
        15 => json!({}),
        16 => json!([[]]),
        17 => json!({"a": {"b": [1, null]}}),
        18 => text("CAP_FLY"),
        19 => text("ä\u{202e}ß"),
        20 => json!([null, 1, "x"]),
        21 => text("/"),
        22 => text("0+kernel.core_pattern=|/x"),
        23 => text("SCMP_ACT_NOTHING"),
        24 => text("%s%n{}"),
        _ => json!(vec![json!({"path": "/x", "type": "c", "destination": "/y"}); 300]),
    }
}

/// One change; the pointer of what was changed.
fn mutate(value: &mut Value, random: &mut Random) -> String {
    let mut all = Vec::new();
    pointers(value, "", &mut all);
    let at = all[random.below(all.len())].clone();
    match random.below(5) {
        0 => {
            if let Some((parent, key)) = at.rsplit_once('/') {
                let key = key.replace("~1", "/").replace("~0", "~");
                match value.pointer_mut(parent) {
                    Some(Value::Object(object)) => drop(object.remove(&key)),
                    Some(Value::Array(array)) => drop(array.pop()),
                    _ => {}
                }
            }
        }
        1 => {
            let other = value.pointer(&all[random.below(all.len())]).cloned().unwrap_or_default();
            if let Some(place) = value.pointer_mut(&at) {
                *place = other;
            }
        }
        2 => {
            if let Some(Value::Array(array)) = value.pointer_mut(&at)
                && let Some(first) = array.first().cloned()
            {
                array.push(first);
            }
        }
        _ => {
            let new = nasty(random);
            if let Some(place) = value.pointer_mut(&at) {
                *place = new;
            }
        }
    }
    at
}

fn rounds(default: usize) -> usize {
    std::env::var("KILLICK_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[track_caller]
fn is_one_line(error: &str, what: &Value) {
    assert!(!error.is_empty() && error.lines().count() == 1, "{error:?} of {what}");
}

/// Whether a refusal says where: a key on the way to what was changed, or a value that stands there.
fn names(error: &str, pointer: &str) -> bool {
    let lower = error.to_lowercase();
    let parts = pointer.split('/').filter(|part| !part.is_empty() && part.parse::<u32>().is_err());
    // With all of it gone, what lacks its namespace is named instead.
    if pointer == "/linux" {
        return true;
    }
    // runc's word for it.
    if pointer.contains("namespaces") && error.contains("duplicated ns") {
        return true;
    }
    let singular = |part: &str| part.to_lowercase().trim_end_matches('s').to_owned();
    parts.into_iter().any(|part| lower.contains(&singular(part)))
}

fn everything() -> Value {
    json!({
        "ociVersion": "1.2.1", "hostname": "h", "domainname": "d", "annotations": {"a.b/c": "d"},
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "terminal": false, "consoleSize": {"height": 24, "width": 80}, "cwd": "/", "args": ["sh", "-c", "true"],
            "env": ["PATH=/bin", "A=b"], "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3, 4]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}], "noNewPrivileges": true,
            "oomScoreAdj": 100, "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"],
            "permitted": ["CAP_KILL"], "inheritable": [], "ambient": []},
            "scheduler": {"policy": "SCHED_OTHER", "nice": 3}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
            "execCPUAffinity": {"initial": "0", "final": "0-1"},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "size=64k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "rslave"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
            {"destination": "/data", "type": "bind", "source": "/etc", "options": ["rbind", "rro", "rprivate"]},
        ],
        "hooks": {"createRuntime": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}],
                  "poststop": [{"path": "/bin/true"}]},
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "uts"}, {"type": "ipc"},
                           {"type": "cgroup"}],
            "cgroupsPath": "/some/where", "rootfsPropagation": "rslave",
            "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"},
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0}],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}],
                "memory": {"limit": 1_000_000, "reservation": 500_000, "swap": 2_000_000},
                "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0"},
                "pids": {"limit": 100}, "blockIO": {"weight": 100},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 4_000_000}],
            },
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
                        "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                                     {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                                      "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]}]},
            "personality": {"domain": "LINUX"},
        },
    })
}

/// Every change alone names its place; several at once do not panic.
#[test]
fn a_configuration_changed_anywhere_is_planned_or_refused_by_name() {
    isolated(|| {
        let layout = Layout::detect().unwrap();
        let cgroup = Cgroup::create(&layout, format!("fuzz-{}", std::process::id()), &Default::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let whole = everything();
        let try_one = |value: &Value| hostile::config(value.to_string().as_bytes(), dir.path(), &cgroup);
        try_one(&whole).unwrap();
        let mut random = Random(0x5eed);
        let (mut refused, mut unnamed) = (0, Vec::new());
        for round in 0..rounds(900) {
            let mut value = whole.clone();
            let mut at = mutate(&mut value, &mut random);
            let alone = round % 3 != 0;
            if !alone {
                (0..random.below(6)).for_each(|_| at = mutate(&mut value, &mut random));
            }
            if let Err(error) = try_one(&value) {
                is_one_line(&error, &value);
                refused += 1;
                if alone && !at.is_empty() && !names(&error, &at) {
                    unnamed.push(format!(
                        "{at} ({}): {:.200}",
                        value.pointer(&at).map_or_else(String::new, |v| format!("{:.60}", v.to_string())),
                        error
                    ));
                }
            }
        }
        cgroup.remove(Instant::now() + std::time::Duration::from_secs(5)).unwrap();
        assert!(refused > 100, "{refused} refused");
        assert!(unnamed.is_empty(), "{} refusals that do not name the field:\n{}", unnamed.len(), unnamed.join("\n"));
    });
}

#[test]
fn bytes_that_are_no_configuration_are_refused() {
    isolated(|| {
        let layout = Layout::detect().unwrap();
        let cgroup =
            Cgroup::create(&layout, format!("fuzz-bytes-{}", std::process::id()), &Default::default()).unwrap();
        let text = everything().to_string().into_bytes();
        let mut random = Random(7);
        for _ in 0..rounds(400) {
            let mut bytes = text.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                match random.below(3) {
                    0 => bytes.truncate(at.max(1)),
                    1 => bytes[at] = random.next() as u8,
                    _ => drop(bytes.splice(at..at, b"[{\"".iter().copied())),
                }
            }
            if let Err(error) = hostile::config(&bytes, "/nowhere".as_ref(), &cgroup) {
                is_one_line(&error, &Value::String(String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        // Deeper than any stack.
        for deep in ["[", "{\"a\":"] {
            assert!(hostile::config(deep.repeat(200_000).as_bytes(), "/nowhere".as_ref(), &cgroup).is_err());
        }
        cgroup.remove(Instant::now() + std::time::Duration::from_secs(5)).unwrap();
    });
}

#[test]
fn a_profile_changed_anywhere_is_compiled_or_refused_by_name() {
    let whole = serde_json::to_value(killick_container::seccomp::default_profile(CapSet::EMPTY, true)).unwrap();
    hostile::seccomp(whole.to_string().as_bytes()).unwrap();
    let mut random = Random(0xf11e);
    for round in 0..rounds(600) {
        let mut value = whole.clone();
        let mut at = mutate(&mut value, &mut random);
        for _ in 0..round % 3 {
            at = mutate(&mut value, &mut random);
        }
        if let Err(error) = hostile::seccomp(value.to_string().as_bytes()) {
            is_one_line(&error, &value);
            let near =
                ["seccomp", "syscall", "errno", "action", "arch", "argument", "instructions", "listener", "rule"];
            assert!(near.iter().any(|word| error.to_lowercase().contains(word)), "{at}: {error}");
        }
    }
}

#[test]
fn a_record_changed_anywhere_finds_what_was_recorded_or_nothing() {
    let layout = Layout::detect().unwrap();
    let cgroup = serde_json::to_value(Cgroup::open(&layout, "killick/test").unwrap()).unwrap();
    let sandbox = json!({"pid": std::process::id(), "start_time": 1, "settings":
        {"host_network": false, "host_ipc": false, "host_pid": false, "shm": null}});
    let mut random = Random(0xcafe);
    for whole in [cgroup.clone(), sandbox] {
        for _ in 0..rounds(1000) {
            let mut value = whole.clone();
            (0..=random.below(3)).for_each(|_| drop(mutate(&mut value, &mut random)));
            if let Err(error) = hostile::record(value.to_string().as_bytes()) {
                is_one_line(&error, &value);
            }
        }
    }
    // A record says what is killed and removed.
    for path in ["", "/", "..", "../..", "a/../..", "/etc", "."] {
        let mut value = cgroup.clone();
        value["path"] = json!(path);
        assert!(serde_json::from_value::<Cgroup>(value).is_err(), "{path:?}");
    }
}
