//! One container of the plan: what runs, with which rights and mounts, and its probes in words.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::timetable::HORIZON;
use crate::spec::{
    Container, Handler, MountPropagation, Pod, Port, Probe, ProbeKind, Scheme, SeccompKind, VolumeMount,
};

pub(super) fn container(out: &mut String, pod: &Pod, container: &Container, is_init: bool) -> std::fmt::Result {
    let kind = match (is_init, container.is_sidecar()) {
        (false, _) => "Container",
        (true, false) => "Init container",
        (true, true) => "Sidecar",
    };
    writeln!(out, "\n{kind} {}", container.name)?;
    writeln!(out, "  image   {} (pull policy {:?})", container.image, container.image_pull_policy)?;
    writeln!(out, "  runs    {}", runs(container))?;
    writeln!(out, "  user    {}", user(pod, container))?;
    writeln!(out, "  rights  {}", rights(pod, container))?;
    for (index, line) in mounts(pod, container).iter().enumerate() {
        writeln!(out, "  {:6}  {line}", if index == 0 { "mounts" } else { "" })?;
    }
    Ok(())
}

/// Quoted: a word may hold spaces and line ends.
fn words(words: &[String]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ")
}

fn runs(container: &Container) -> String {
    match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => "the image's ENTRYPOINT and CMD".to_owned(),
        (true, false) => format!("the image's ENTRYPOINT, if any, and {}", words(&container.args)),
        (false, _) => words(&[container.command.as_slice(), &container.args].concat()),
    }
}

fn user(pod: &Pod, container: &Container) -> String {
    let (own, common) = (&container.security_context, &pod.spec.security_context);
    let user = own.run_as_user.or(common.run_as_user);
    let group = own.run_as_group.or(common.run_as_group);
    let mut text = user.map_or("the image's".to_owned(), |user| user.to_string());
    if let Some(group) = group {
        text += &format!(", group {group}");
    }
    let groups: Vec<_> = common.supplemental_groups.iter().chain(&common.fs_group).map(u32::to_string).collect();
    if !groups.is_empty() {
        text += &format!(", also groups {}", groups.join(" "));
    }
    if own.run_as_non_root.or(common.run_as_non_root) == Some(true) {
        text += ", refused if root";
    }
    text
}

fn rights(pod: &Pod, container: &Container) -> String {
    let context = &container.security_context;
    if context.privileged == Some(true) {
        return "privileged: all capabilities, all devices, no seccomp".to_owned();
    }
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let changes = capabilities.drop.iter().map(|name| format!("-{name}"));
    let changes: Vec<_> = changes.chain(capabilities.add.iter().map(|name| format!("+{name}"))).collect();
    let profile = context.seccomp_profile.as_ref().or(pod.spec.security_context.seccomp_profile.as_ref());
    let seccomp = match profile.map(|profile| profile.kind) {
        None | Some(SeccompKind::RuntimeDefault) => "RuntimeDefault",
        Some(SeccompKind::Unconfined) => "Unconfined",
        Some(SeccompKind::Localhost) => "Localhost",
    };
    let mut parts = vec![match changes.is_empty() {
        true => "default capabilities".to_owned(),
        false => format!("default capabilities {}", changes.join(" ")),
    }];
    parts.push(format!("seccomp {seccomp}"));
    if context.allow_privilege_escalation == Some(false) {
        parts.push("no_new_privs".to_owned());
    }
    if context.read_only_root_filesystem == Some(true) {
        parts.push("read-only root".to_owned());
    }
    parts.join(", ")
}

/// The defaults of containerd's CRI, then what the pod asks for; a volume on a default's place replaces it.
fn mounts(pod: &Pod, container: &Container) -> Vec<String> {
    let access = if container.security_context.privileged == Some(true) { "rw" } else { "ro" };
    let shm = if pod.spec.host_ipc { "the host's" } else { "tmpfs of the pod, 64 MiB" };
    let defaults = [
        ("/proc", "proc".to_owned()),
        ("/dev", "tmpfs with the default devices".to_owned()),
        ("/dev/pts", "devpts".to_owned()),
        ("/dev/mqueue", "mqueue".to_owned()),
        ("/dev/shm", shm.to_owned()),
        ("/sys", format!("sysfs, {access}")),
        ("/sys/fs/cgroup", format!("cgroup, {access}")),
        ("/etc/hosts", "file of the pod".to_owned()),
        ("/etc/hostname", "file of the pod".to_owned()),
        ("/etc/resolv.conf", "file of the pod".to_owned()),
        (container.termination_message_path.as_str(), "file of this attempt".to_owned()),
    ];
    let taken: BTreeSet<&str> = container.volume_mounts.iter().map(|mount| mount.mount_path.as_str()).collect();
    let mut rows: Vec<(String, String)> = vec![("/".to_owned(), "overlay of the image's layers".to_owned())];
    rows.extend(
        defaults.into_iter().filter(|(path, _)| !taken.contains(path)).map(|(path, what)| (path.to_owned(), what)),
    );
    rows.extend(container.volume_mounts.iter().map(|mount| (mount.mount_path.clone(), mount_text(mount))));
    let width = super::width(rows.iter().map(|(path, _)| path.as_str()));
    rows.iter().map(|(path, what)| format!("{path:width$}  {what}")).collect()
}

fn mount_text(mount: &VolumeMount) -> String {
    let path = mount.sub_path.as_ref().or(mount.sub_path_expr.as_ref());
    let mut text = match path {
        Some(path) => format!("volume {}, {path} in it", mount.name),
        None => format!("volume {}", mount.name),
    };
    if mount.read_only {
        text += ", read-only";
    }
    match mount.mount_propagation {
        None | Some(MountPropagation::None) => {}
        Some(MountPropagation::HostToContainer) => text += ", rslave",
        Some(MountPropagation::Bidirectional) => text += ", rshared",
    }
    text
}

pub(super) fn probe_text(kind: ProbeKind, probe: &Probe) -> String {
    let port = |port: &Port| match port {
        Port::Number(number) => number.to_string(),
        Port::Name(name) => name.clone(),
    };
    let host = |host: &Option<String>| host.clone().unwrap_or_else(|| "POD-IP".to_owned());
    let handler = match &probe.handler {
        Handler::Exec(exec) => format!("exec {}", words(&exec.command)),
        Handler::HttpGet(get) => {
            let scheme = match get.scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            format!("{scheme}://{}:{}/{}", host(&get.host), port(&get.port), get.path.trim_start_matches('/'))
        }
        Handler::TcpSocket(socket) => format!("tcp {}:{}", host(&socket.host), port(&socket.port)),
        Handler::Sleep(sleep) => format!("sleep {} s", sleep.seconds),
    };
    let kind = match kind {
        ProbeKind::Startup => "startup",
        ProbeKind::Readiness => "readiness",
        ProbeKind::Liveness => "liveness",
    };
    format!("{kind:9}  {handler}")
}

pub(super) fn times_text(kind: ProbeKind, probe: &Probe, times: &[Duration]) -> String {
    let when: Vec<String> = times.iter().map(|time| seconds(*time)).collect();
    let when = match (when.is_empty(), kind) {
        (true, _) => format!("not in the first {} s", HORIZON.as_secs()),
        // A startup probe that succeeded is over.
        (false, ProbeKind::Startup) => {
            format!("at {} until it succeeds, every {} s", when.join(", "), probe.period_seconds)
        }
        (false, _) => format!("at {}, then every {} s", when.join(", "), probe.period_seconds),
    };
    let failures = match (kind, probe.failure_threshold) {
        (ProbeKind::Startup | ProbeKind::Liveness, 1) => "1 failure kills the container".to_owned(),
        (ProbeKind::Startup | ProbeKind::Liveness, count) => format!("{count} failures kill the container"),
        (ProbeKind::Readiness, 1) => "1 failure makes it not ready".to_owned(),
        (ProbeKind::Readiness, count) => format!("{count} failures make it not ready"),
    };
    format!("{when}; timeout {} s; {failures}", probe.timeout_seconds)
}

fn seconds(time: Duration) -> String {
    let text = format!("{:.2}", time.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
