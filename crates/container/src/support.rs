//! What of a config.json is honoured: everything else is refused by name before anything is made, never ignored.
//! docs/oci-support.md is this file for people; a test compares them.

use crate::id_maps;
use killick_sys::lsm::{has_apparmor, has_selinux};
use serde_json::{Map, Value};

/// A field that is refused when it is present, not null and not empty; and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// `process.scheduler`; `[]` is every element.
    pub field: &'static str,
    pub why: &'static str,
}

const fn refused(field: &'static str, why: &'static str) -> Refused {
    Refused { field, why }
}

pub const REFUSED: &[Refused] = &[refused("linux.personality.flags", "no flag is known")];

const NAMESPACES: [&str; 8] = ["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"];
const HOOKS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
/// System V IPC and POSIX queues: of the IPC namespace.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses what is invalid or not honoured, with one line that names field and value. Leaves out of `config` what the
/// specification lets a runtime ignore, and returns what is to be said of that.
pub fn check(config: &mut Value) -> Result<Vec<String>, String> {
    if !config.is_object() {
        return Err("config.json must be an object".into());
    }
    remove_nulls(config);
    let mut warnings = Vec::new();
    // Other platforms' business, whatever stands there.
    if let Some(object) = config.as_object_mut() {
        object.retain(|name, _| !["windows", "solaris", "vm", "zos", "freebsd"].contains(&name.as_str()));
    }
    crate::shape::check(config)?;
    version(config)?;
    if config.get("root").is_none() {
        return Err("root must be specified".into());
    }
    if config["root"].get("path").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("root.path must be specified".into());
    }
    for refused in REFUSED {
        let path: Vec<&str> = refused.field.split('.').collect();
        if has(config, &path) {
            return Err(format!("{}: {}", refused.field, refused.why));
        }
    }
    if let Some(process) = config.get_mut("process") {
        warnings.extend(check_process(process)?);
    }
    label(config, "/linux/mountLabel", "linux.mountLabel", &mut warnings);
    let namespaces = namespaces(config)?;
    names(config, &namespaces)?;
    let listed = |kind: &str| namespaces.iter().find(|(name, _)| name == kind).map(|(_, path)| path.as_deref());
    id_maps::check_user(config, listed("user"))?;
    id_maps::check_time(config, listed("time"))?;
    without_mount_namespace(config, listed("mount"))?;
    mounts(config, listed("user").is_some())?;
    sysctls(config, &namespaces)?;
    hooks(config)?;
    seccomp(config)?;
    crate::net_devices::check(config, namespaces.iter().any(|(name, _)| name == "network"))?;
    warnings.extend(crate::options::warnings(config));
    if config.pointer("/linux/intelRdt").is_some() && crate::rdt::mounted().is_none() {
        return Err("linux.intelRdt: this host has no resctrl file system".into());
    }
    Ok(warnings)
}

/// The same for a `process` object by itself (`exec --process`).
pub fn check_process(process: &mut Value) -> Result<Vec<String>, String> {
    remove_nulls(process);
    let mut warnings = Vec::new();
    crate::shape::check_process(process)?;
    let Some(object) = process.as_object_mut() else { return Err("process must be an object".into()) };
    for refused in REFUSED {
        if let Some(field) = refused.field.strip_prefix("process.")
            && object.contains_key(field)
        {
            return Err(format!("{}: {}", refused.field, refused.why));
        }
    }
    match object.get("cwd").and_then(Value::as_str) {
        None | Some("") => return Err("Cwd property must not be empty".into()),
        Some(cwd) if !cwd.starts_with('/') => return Err(format!("Cwd must be an absolute path: {cwd:?}")),
        Some(_) => {}
    }
    object.entry("user").or_insert_with(|| Value::Object(Map::new()));
    let mut unknown = Vec::new();
    if let Some(sets) = object.get_mut("capabilities").and_then(Value::as_object_mut) {
        for names in sets.values_mut().filter_map(Value::as_array_mut) {
            names.retain(|name| {
                let known = name.as_str().is_some_and(|name| killick_sys::caps::number(name).is_some());
                if !known {
                    unknown.push(name.as_str().unwrap_or_default().to_owned());
                }
                known
            });
        }
    }
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        warnings.push(format!("ignoring unknown or unavailable capabilities: {unknown:?}"));
    }
    label(process, "/selinuxLabel", "process.selinuxLabel", &mut warnings);
    let profile = process.get("apparmorProfile").and_then(Value::as_str).unwrap_or_default().to_owned();
    if !profile.is_empty() && !has_apparmor() {
        warnings.push(format!("process.apparmorProfile {profile:?} is ignored: this kernel has no AppArmor"));
    }
    Ok(warnings)
}

fn label(value: &Value, pointer: &str, field: &str, warnings: &mut Vec<String>) {
    let found = value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if !found.is_empty() && !has_selinux() {
        warnings.push(format!("{field} {found:?} is ignored: SELinux is off"));
    }
}

/// A null is an absent property.
pub(crate) fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, value| !value.is_null());
            object.values_mut().for_each(remove_nulls);
        }
        Value::Array(array) => array.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

fn has(value: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return match value {
            Value::Object(object) => !object.is_empty(),
            Value::Array(array) => !array.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        };
    };
    match first.strip_suffix("[]") {
        Some(name) => value.get(name).and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| has(one, rest))),
        None => value.get(first).is_some_and(|value| has(value, rest)),
    }
}

/// Semantic version of major 1, with or without a suffix.
fn version(config: &Value) -> Result<(), String> {
    let Some(version) = config.get("ociVersion").and_then(Value::as_str).filter(|version| !version.is_empty()) else {
        return Err("ociVersion must be specified".into());
    };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    let numbers = parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    if parts.len() != 3 || !numbers {
        return Err(format!("ociVersion {version:?} is no semantic version"));
    }
    if parts[0] != "1" {
        return Err(format!("unknown version specified: ociVersion {version:?}; versions 1.x are understood"));
    }
    Ok(())
}

/// Type and whether it is joined.
type Namespaces = Vec<(String, Option<String>)>;

fn namespaces(config: &Value) -> Result<Namespaces, String> {
    let mut found: Namespaces = Vec::new();
    let listed = config.pointer("/linux/namespaces").and_then(Value::as_array);
    for namespace in listed.into_iter().flatten() {
        let name = namespace.get("type").and_then(Value::as_str).unwrap_or_default();
        let path = namespace.get("path").and_then(Value::as_str).filter(|path| !path.is_empty());
        if !NAMESPACES.contains(&name) {
            return Err(format!("namespace {name:?} does not exist"));
        }
        if found.iter().any(|(other, _)| other == name) {
            return Err(format!("malformed spec file: duplicated ns {name:?}"));
        }
        match (name, path) {
            (_, Some(path)) if !path.starts_with('/') => {
                return Err(format!("namespace path {path:?} is not an absolute path"));
            }
            _ => {}
        }
        found.push((name.to_owned(), path.map(str::to_owned)));
    }
    Ok(found)
}

/// In the caller's own mount namespace nothing can be mounted: it would stay on the host.
fn without_mount_namespace(config: &Value, mount: Option<Option<&str>>) -> Result<(), String> {
    let is_own = match mount {
        None => true,
        Some(None) => false,
        Some(Some(path)) => is_own_namespace(path, killick_sys::ns::NamespaceKind::Mount),
    };
    if !is_own {
        return Ok(());
    }
    for field in ["linux.maskedPaths", "linux.readonlyPaths"] {
        if has(config, &field.split('.').collect::<Vec<_>>()) {
            return Err(format!("{field}: unable to restrict sys entries without a private MNT namespace"));
        }
    }
    for field in ["mounts", "linux.rootfsPropagation"] {
        if has(config, &field.split('.').collect::<Vec<_>>()) {
            return Err(format!("{field}: unable to mount without a private MNT namespace: it would stay on the host"));
        }
    }
    if config.pointer("/root/readonly") == Some(&Value::Bool(true)) {
        return Err("root.readonly: unable to remount the root without a private MNT namespace".into());
    }
    Ok(())
}

fn names(config: &Value, namespaces: &Namespaces) -> Result<(), String> {
    for field in ["hostname", "domainname"] {
        let is_set = config.get(field).and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        if is_set && !namespaces.iter().any(|(name, _)| name == "uts") {
            return Err(format!("unable to set {field} without a private UTS namespace"));
        }
    }
    Ok(())
}

fn mounts(config: &Value, has_user_namespace: bool) -> Result<(), String> {
    for mount in config.get("mounts").and_then(Value::as_array).into_iter().flatten() {
        let destination = mount.get("destination").and_then(Value::as_str).unwrap_or_default();
        if destination.is_empty() {
            return Err("mounts: a mount without a destination".into());
        }
        id_maps::check_mount(mount, has_user_namespace)?;
        for option in mount.get("options").and_then(Value::as_array).into_iter().flatten() {
            let option = option.as_str().unwrap_or_default();
            let name = option.split('=').next().unwrap_or_default();
            let is_tmpfs = mount.get("type").and_then(Value::as_str) == Some("tmpfs");
            if name == "tmpcopyup" && !is_tmpfs {
                return Err(format!("mount {destination}: option {option:?} is of tmpfs only"));
            }
        }
    }
    Ok(())
}

fn sysctls(config: &Value, namespaces: &Namespaces) -> Result<(), String> {
    let own = |kind: &str| namespaces.iter().find(|(name, _)| name == kind);
    for (key, _) in config.pointer("/linux/sysctl").and_then(Value::as_object).into_iter().flatten() {
        let name = dotted(key);
        let allowed = if IPC_SYSCTLS.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            own("ipc").is_some()
        } else if name.starts_with("net.") {
            match own("network") {
                Some((_, Some(path))) => !is_own_namespace(path, killick_sys::ns::NamespaceKind::Network),
                Some((_, None)) => true,
                None => false,
            }
        } else if name == "kernel.domainname" {
            own("uts").is_some()
        } else if name == "kernel.hostname" && own("uts").is_some() {
            return Err(format!("sysctl {key:?} is not allowed as it conflicts with the OCI \"hostname\" field"));
        } else {
            false
        };
        if !allowed {
            return Err(format!("sysctl {key:?} is not in a separate kernel namespace"));
        }
    }
    Ok(())
}

/// A profile without a default action and without rules is none (the engines' way of saying "unconfined").
fn seccomp(config: &mut Value) -> Result<(), String> {
    let Some(linux) = config.get_mut("linux").and_then(Value::as_object_mut) else { return Ok(()) };
    let Some(profile) = linux.get("seccomp") else { return Ok(()) };
    let text = |field: &str| profile.get(field).and_then(Value::as_str).unwrap_or_default();
    let has_rules = profile.get("syscalls").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    let has_default = profile.get("defaultAction").is_some_and(|action| action.as_str() != Some(""));
    if !text("listenerMetadata").is_empty() && text("listenerPath").is_empty() {
        return Err(format!("linux.seccomp.listenerMetadata {:?}: without a listenerPath", text("listenerMetadata")));
    }
    match (has_default, has_rules) {
        (true, _) => {}
        (false, true) => return Err("linux.seccomp.defaultAction: must be specified".into()),
        (false, false) => drop(linux.remove("seccomp")),
    }
    Ok(())
}

/// A name whose first separator is a slash may have dots in its parts.
fn dotted(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'/' => key
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    }
}

fn is_own_namespace(path: &str, kind: killick_sys::ns::NamespaceKind) -> bool {
    use std::os::fd::AsFd;
    std::fs::File::open(path).is_ok_and(|file| crate::bundle::is_own_namespace(file.as_fd(), kind).unwrap_or(true))
}

fn hooks(config: &Value) -> Result<(), String> {
    for kind in HOOKS {
        let listed = config.pointer(&format!("/hooks/{kind}")).and_then(Value::as_array);
        for hook in listed.into_iter().flatten() {
            let path = hook.get("path").and_then(Value::as_str).unwrap_or_default();
            if !path.starts_with('/') {
                return Err(format!("hooks.{kind}: path {path:?} is not absolute"));
            }
            if hook.get("timeout").is_some_and(|timeout| timeout.as_i64().is_none_or(|timeout| timeout <= 0)) {
                return Err(format!("hooks.{kind}: timeout {} is not greater than zero", hook["timeout"]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["true"]},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "uts"}, {"type": "ipc"}]}
        })
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn check_with(change: Value) -> Result<Vec<String>, String> {
        let mut config = base();
        merge(&mut config, change);
        check(&mut config)
    }

    #[test]
    fn what_is_invalid_or_not_honoured_is_refused_by_name() {
        assert_eq!(check_with(json!({})), Ok(Vec::new()));
        let long = "unable to set hostname without a private UTS namespace";
        for (change, expected) in [
            (json!({"ociVersion": ""}), "ociVersion must be specified"),
            (json!({"ociVersion": "abc"}), "ociVersion \"abc\" is no semantic version"),
            (
                json!({"ociVersion": "2.0.0"}),
                "unknown version specified: ociVersion \"2.0.0\"; versions 1.x are understood",
            ),
            (json!({"root": null}), "root must be specified"),
            (json!({"process": {"cwd": ""}}), "Cwd property must not be empty"),
            (json!({"process": {"cwd": "a"}}), "Cwd must be an absolute path: \"a\""),
            (
                json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "mount"}]}}),
                "malformed spec file: duplicated ns \"mount\"",
            ),
            (
                json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "space"}]}}),
                "namespace \"space\" does not exist",
            ),
            (
                json!({"linux": {"namespaces": [{"type": "mount"}, {"type": "pid", "path": "proc/1"}]}}),
                "namespace path \"proc/1\" is not an absolute path",
            ),
            (
                json!({"linux": {"namespaces": [], "maskedPaths": ["/proc/kcore"]}}),
                "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace",
            ),
            (
                json!({"linux": {"namespaces": []}, "mounts": [{"destination": "/t"}]}),
                "mounts: unable to mount without a private MNT namespace: it would stay on the host",
            ),
            (
                json!({"linux": {"namespaces": [{"type": "mount", "path": "/proc/self/ns/mnt"}]}, "root": {"readonly": true}}),
                "root.readonly: unable to remount the root without a private MNT namespace",
            ),
            (json!({"hostname": "h", "linux": {"namespaces": [{"type": "mount"}]}}), long),
            (
                json!({"mounts": [{"destination": "/t", "type": "tmpfs", "options": ["idmap"]}]}),
                "mount /t: id-mapped mounts are only supported for bind mounts",
            ),
            (
                json!({"mounts": [{"destination": "/t", "type": "bind", "options": ["ridmap"]}]}),
                "mount /t: option \"idmap\" without uidMappings and gidMappings takes those of the container's user \
                 namespace, and it has none",
            ),
            (
                json!({"linux": {"sysctl": {"kernel.pid_max": "1"}}}),
                "sysctl \"kernel.pid_max\" is not in a separate kernel namespace",
            ),
            (
                json!({"linux": {"sysctl": {"kernel.hostname": "x"}}}),
                "sysctl \"kernel.hostname\" is not allowed as it conflicts with the OCI \"hostname\" field",
            ),
            (json!({"hooks": {"poststop": [{"path": "x"}]}}), "hooks.poststop: path \"x\" is not absolute"),
            (
                json!({"hooks": {"poststop": [{"path": "/x", "timeout": 0}]}}),
                "hooks.poststop: timeout 0 is not greater than zero",
            ),
        ] {
            assert_eq!(check_with(change), Err(expected.to_owned()));
        }
        let net = json!({"linux": {"sysctl": {"net/ipv4/conf/eth0.100/forwarding": "1", "kernel.sem": "1 2 3 4"}}});
        assert_eq!(check_with(net), Ok(Vec::new()));
    }

    #[test]
    fn an_unknown_capability_is_left_out_with_a_warning() {
        let mut config = base();
        merge(&mut config, json!({"process": {"capabilities": {"bounding": ["CAP_NET_RAW", "CAP_FLY"]}}}));
        let warnings = check(&mut config).unwrap();
        assert_eq!(warnings, ["ignoring unknown or unavailable capabilities: [\"CAP_FLY\"]"]);
        assert_eq!(config["process"]["capabilities"]["bounding"], json!(["CAP_NET_RAW"]));
    }
}
