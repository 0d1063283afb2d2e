//! Probes and lifecycle hooks: one handler each, and ports that exist.

use super::names::{http_header, port_name};
use super::{check_min, check_port, check_text};
use crate::problems::{Cursor, Report};
use crate::suggest;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const PROBE_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";

/// Which of the pod's lists a container is in, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Regular,
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
}

pub fn probes(container: &Cursor<'_>, role: Role, report: &mut Report) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if !probe.is_set() {
            continue;
        }
        if role == Role::Init {
            report.forbidden(&probe, NOT_FOR_INIT);
            continue;
        }
        handlers(&probe, PROBE_HANDLERS, container, report);
        for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            check_min(&probe.get(field), 0, NOT_NEGATIVE, report);
        }
        let success = probe.get("successThreshold");
        if name != "readinessProbe" && success.int().is_some_and(|value| value > 1) {
            report.invalid(&success, "must be 1");
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        match name {
            "readinessProbe" if grace.is_set() => report.invalid(&grace, "must not be set for readinessProbes"),
            _ => check_min(&grace, 1, "must be greater than 0", report),
        }
    }
}

pub fn lifecycle(container: &Cursor<'_>, role: Role, report: &mut Report) {
    let lifecycle = container.get("lifecycle");
    if lifecycle.is_empty() {
        return;
    }
    if role == Role::Init {
        report.forbidden(&lifecycle, NOT_FOR_INIT);
        return;
    }
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.get(hook);
        if hook.is_set() {
            handlers(&hook, HOOK_HANDLERS, container, report);
        }
    }
}

fn handlers(owner: &Cursor<'_>, names: &[&str], container: &Cursor<'_>, report: &mut Report) {
    let mut given: Vec<_> = names.iter().map(|name| owner.get(name)).filter(Cursor::is_set).collect();
    given.sort_by_key(|handler| handler.position);
    // A misspelt handler was reported as an unknown field; that it is missing as well would be noise.
    let is_misspelt = owner
        .entries()
        .iter()
        .any(|(key, ..)| !names.contains(key) && suggest::nearest(key, names.iter().copied()).is_some());
    if given.is_empty() && !is_misspelt {
        report.required(owner, "must specify a handler type");
    }
    for handler in given.iter().skip(1) {
        report.forbidden(handler, "may not specify more than 1 handler type");
    }
    exec(&owner.get("exec"), report);
    http_get(&owner.get("httpGet"), container, report);
    let tcp = owner.get("tcpSocket");
    if tcp.is_set() {
        port(&tcp.get("port"), container, report);
    }
    let sleep = owner.get("sleep");
    if sleep.is_set() && !sleep.get("seconds").is_set() {
        report.required(&sleep.get("seconds"), "");
    }
    check_min(&sleep.get("seconds"), 0, NOT_NEGATIVE, report);
}

fn exec(exec: &Cursor<'_>, report: &mut Report) {
    let command = exec.get("command");
    if exec.is_set() && command.is_empty() {
        report.required(&command, "");
    }
}

fn http_get(get: &Cursor<'_>, container: &Cursor<'_>, report: &mut Report) {
    if !get.is_set() {
        return;
    }
    port(&get.get("port"), container, report);
    for header in get.get("httpHeaders").items() {
        check_text(&header.get("name"), http_header, report);
    }
}

/// A number, or the name of one of *this* container's ports.
fn port(at: &Cursor<'_>, container: &Cursor<'_>, report: &mut Report) {
    if !at.is_set() {
        report.required(at, "");
    }
    check_port(at, report);
    let Some(name) = at.text() else { return };
    let messages = port_name(name);
    if !messages.is_empty() {
        messages.iter().for_each(|message| report.invalid(at, message));
        return;
    }
    let ports = container.get("ports").items();
    let names: Vec<&str> = ports.iter().filter_map(|port| port.get("name").text()).collect();
    if !names.contains(&name) {
        let known = match names.is_empty() {
            true => "it has no named ports".to_owned(),
            false => {
                let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
                format!("it has: {}", names.join(", "))
            }
        };
        report.add(at.position, &at.path, format!("no port named {name:?} in this container; {known}"));
    }
}
