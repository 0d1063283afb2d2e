//! Users, rights and kernel settings.

use std::collections::BTreeSet;

use super::names::sysctl;
use crate::problems::{Cursor, Report};
use crate::suggest;

const ID_MAX: i64 = 2_147_483_647;
const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";

/// Without `CAP_`, by number (capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Sysctls that belong to a namespace of the pod and harm nobody else: `true` those of the network.
const SAFE_SYSCTLS: [(&str, bool); 12] = [
    ("kernel.shm_rmid_forced", false),
    ("net.ipv4.ip_local_port_range", true),
    ("net.ipv4.tcp_syncookies", true),
    ("net.ipv4.ping_group_range", true),
    ("net.ipv4.ip_unprivileged_port_start", true),
    ("net.ipv4.ip_local_reserved_ports", true),
    ("net.ipv4.tcp_keepalive_time", true),
    ("net.ipv4.tcp_fin_timeout", true),
    ("net.ipv4.tcp_keepalive_intvl", true),
    ("net.ipv4.tcp_keepalive_probes", true),
    ("net.ipv4.tcp_rmem", true),
    ("net.ipv4.tcp_wmem", true),
];

pub fn pod(spec: &Cursor<'_>, report: &mut Report) {
    let context = spec.get("securityContext");
    ids(&context, &["runAsUser", "runAsGroup", "fsGroup"], report);
    for group in context.get("supplementalGroups").items() {
        id(&group, report);
    }
    let policy = context.get("supplementalGroupsPolicy");
    if policy.text() == Some("Strict") {
        report.refused(policy.position, &policy.path, "supplementalGroupsPolicy: Strict");
    }
    profiles(&context, report);
    sysctls(&context.get("sysctls"), spec, report);
}

pub fn container(container: &Cursor<'_>, report: &mut Report) {
    let context = container.get("securityContext");
    ids(&context, &["runAsUser", "runAsGroup"], report);
    profiles(&context, report);
    let capabilities = context.get("capabilities");
    for name in [capabilities.get("add"), capabilities.get("drop")].iter().flat_map(Cursor::items) {
        capability(&name, report);
    }
    let proc_mount = context.get("procMount");
    if proc_mount.text() == Some("Unmasked") {
        report.refused(proc_mount.position, &proc_mount.path, "procMount: Unmasked, which needs hostUsers: false");
    }
    let escalation = context.get("allowPrivilegeEscalation");
    if escalation.bool() != Some(false) {
        return;
    }
    if context.get("privileged").is_true() {
        report.invalid(&escalation, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    if capabilities.get("add").items().iter().any(|name| name.text() == Some("SYS_ADMIN")) {
        report.invalid(
            &escalation,
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        );
    }
}

fn ids(context: &Cursor<'_>, names: &[&str], report: &mut Report) {
    for name in names {
        id(&context.get(name), report);
    }
}

fn id(at: &Cursor<'_>, report: &mut Report) {
    if at.int().is_some_and(|value| !(0..=ID_MAX).contains(&value)) {
        report.invalid(at, ID_RANGE);
    }
}

fn capability(name: &Cursor<'_>, report: &mut Report) {
    let Some(text) = name.text() else { return };
    let upper = text.to_ascii_uppercase();
    if upper != "ALL" && !CAPABILITIES.contains(&upper.as_str()) {
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let hint = suggest::hint(bare, CAPABILITIES);
        report.invalid(name, &format!("unknown capability; names are those of capabilities(7) without CAP_{hint}"));
    }
}

fn profiles(context: &Cursor<'_>, report: &mut Report) {
    for (name, what) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let profile = context.get(name);
        let (kind, file) = (profile.get("type"), profile.get("localhostProfile"));
        if profile.is_set() && kind.is_empty() {
            report.required(&kind, "type is required when specifying a profile");
        }
        if kind.text() == Some("Localhost") {
            report.refused(kind.position, &kind.path, &format!("{what} profiles of type Localhost"));
        } else if file.is_set() {
            report.invalid(&file, &format!("can only be set when {what} type is Localhost"));
        }
    }
}

fn sysctls(list: &Cursor<'_>, spec: &Cursor<'_>, report: &mut Report) {
    let mut names = BTreeSet::new();
    for item in list.items() {
        let name = item.get("name");
        let Some(text) = name.filled_text() else {
            report.required(&name, "");
            continue;
        };
        let dotted = text.replace('/', ".");
        let messages = sysctl(text);
        messages.iter().for_each(|message| report.invalid(&name, message));
        if !names.insert(dotted.clone()) {
            report.duplicate(&name);
        }
        let message = match SAFE_SYSCTLS.iter().find(|(safe, _)| *safe == dotted) {
            Some((_, true)) if spec.get("hostNetwork").is_true() => "not allowed with host Net enabled",
            Some((_, false)) if spec.get("hostIPC").is_true() => "not allowed with host IPC enabled",
            Some(_) => continue,
            None => "not allowlisted",
        };
        if messages.is_empty() {
            report.forbidden(&name, &format!("forbidden sysctl: {text:?} {message}"));
        }
    }
}
