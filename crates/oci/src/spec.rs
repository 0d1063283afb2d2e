//! spec: a configuration to begin with, as runc writes it.

use crate::args::{Command, Flag, HELP, Parsed};
use crate::log::plain;
use crate::{Context, Done};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

pub fn command() -> Command {
    Command {
        name: "spec",
        usage: "",
        positional: (0, 0),
        about: "write a config.json to begin with",
        flags: const {
            &[
                Flag::value(&["bundle", "b"], "DIR", "where (default: the working directory)"),
                Flag::switch(
                    &["rootless"],
                    "for a user without rights: a user namespace, no limits, the host's network",
                ),
                HELP,
            ]
        },
        stops: false,
        run,
    }
}

fn run(_: &Context, parsed: &Parsed, _: &[String]) -> Done {
    let mut config = default();
    if parsed.has("rootless") {
        make_rootless(&mut config);
    }
    let path = Path::new(parsed.one("bundle").unwrap_or(".")).join("config.json");
    let text = serde_json::to_string_pretty(&config).map_err(|error| error.to_string())? + "\n";
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err("File config.json exists. Remove it first".into());
        }
        Err(error) => return Err(format!("open {}: {}", path.display(), plain(&error)).into()),
    };
    file.write_all(text.as_bytes()).map_err(|error| format!("write {}: {}", path.display(), plain(&error)))?;
    Ok(0)
}

/// As runc's: what a user alone may not do is left out.
fn make_rootless(config: &mut Value) {
    let own = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    config["linux"]["uidMappings"] = own(nix::unistd::geteuid().as_raw());
    config["linux"]["gidMappings"] = own(nix::unistd::getegid().as_raw());
    if let Some(linux) = config["linux"].as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/sys")));
        for options in mounts.iter_mut().filter_map(|mount| mount.get_mut("options").and_then(Value::as_array_mut)) {
            let names_an_id = |option: &Value| {
                option.as_str().is_some_and(|text| text.starts_with("gid=") || text.starts_with("uid="))
            };
            options.retain(|option| !names_an_id(option));
        }
        mounts.push(json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}));
    }
}

pub fn default() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": killick_container::features::SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "killick",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
