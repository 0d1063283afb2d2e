//! One container: its name, image, ports, resources.

use std::collections::{BTreeMap, BTreeSet};

use super::names::{label, port_name};
use super::probe::{Role, lifecycle, probes};
use super::{check_ip, check_port, check_required_text, check_text, env, security, volume};
use crate::problems::{Cursor, Report};
use crate::quantity::Quantity;
use crate::schema::quantity_text;

/// What a container's fields may refer to in its pod.
#[derive(Debug)]
pub struct Pod<'a> {
    pub volumes: BTreeSet<&'a str>,
    pub containers: Vec<&'a str>,
    pub host_network: bool,
}

pub fn container(at: &Cursor<'_>, is_init: bool, pod: &Pod<'_>, report: &mut Report) {
    check_required_text(&at.get("name"), label, report);
    image(&at.get("image"), report);
    let role = restart_policy(at, is_init, report);
    ports(at, pod.host_network, report);
    env::env(at, &pod.containers, report);
    resources(&at.get("resources"), report);
    volume::mounts(at, &pod.volumes, report);
    probes(at, role, report);
    lifecycle(at, role, report);
    security::container(at, report);
}

fn image(image: &Cursor<'_>, report: &mut Report) {
    if image.is_empty() {
        report.required(image, "");
    }
    if image.text().is_some_and(|text| text.trim() != text) {
        report.invalid(image, "must not have leading or trailing whitespace");
    }
}

fn restart_policy(container: &Cursor<'_>, is_init: bool, report: &mut Report) -> Role {
    let policy = container.get("restartPolicy");
    match (is_init, policy.filled_text()) {
        (true, Some("Always")) => Role::Sidecar,
        (true, Some("Never" | "OnFailure")) => {
            report.unsupported(&policy, &["Always"]);
            Role::Init
        }
        (true, _) => Role::Init,
        (false, Some(_)) => {
            report.forbidden(&policy, "may not be set for non-init containers");
            Role::Regular
        }
        (false, None) => Role::Regular,
    }
}

fn ports(container: &Cursor<'_>, host_network: bool, report: &mut Report) {
    let mut names = BTreeSet::new();
    for port in container.get("ports").items() {
        let (name, number, host_port) = (port.get("name"), port.get("containerPort"), port.get("hostPort"));
        check_text(&name, port_name, report);
        if name.filled_text().is_some_and(|text| !names.insert(text)) {
            report.duplicate(&name);
        }
        match number.int() {
            Some(0) => report.required(&number, ""),
            None if !number.is_set() => report.required(&number, ""),
            _ => check_port(&number, report),
        }
        check_ip(&port.get("hostIP"), report);
        let Some(host) = host_port.int().filter(|port| *port != 0) else { continue };
        check_port(&host_port, report);
        if !host_network {
            report.refused(host_port.position, &host_port.path, "hostPort without hostNetwork: true");
        } else if number.int().is_some_and(|number| number != host) {
            report.invalid(&number, "must match `hostPort` when `hostNetwork` is set to true");
        }
    }
}

/// With `hostNetwork` each container port is one of the host: no two containers that run at once may have the same.
pub fn host_port_conflicts(containers: &[Cursor<'_>], report: &mut Report) {
    let mut taken = BTreeSet::new();
    for port in containers.iter().flat_map(|container| container.get("ports").items()) {
        let number = port.get("containerPort");
        let Some(value) = number.int().filter(|value| *value > 0) else { continue };
        let ip = port.get("hostIP").text().unwrap_or_default().to_owned();
        let protocol = port.get("protocol").filled_text().unwrap_or("TCP").to_owned();
        let name = format!("{value}/{ip}/{protocol}");
        if !taken.insert((value, ip, protocol)) {
            let path = format!("{}.hostPort", port.path);
            report.add(number.position, &path, format!("Duplicate value: {name:?}"));
        }
    }
}

fn resources(resources: &Cursor<'_>, report: &mut Report) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for (list, is_limit) in [(&limits, true), (&requests, false)] {
        for (name, position, value) in list.entries() {
            resource_name(name, is_limit, position, &value.path, report);
            if quantity(&value).is_some_and(|quantity| quantity.is_negative()) {
                report.invalid(&value, "must be greater than or equal to 0");
            }
        }
    }
    let limits: BTreeMap<&str, Cursor<'_>> =
        limits.entries().into_iter().map(|(name, _, limit)| (name, limit)).collect();
    for (name, _, request) in requests.entries() {
        let Some(limit) = limits.get(name) else { continue };
        if let (Some(request_value), Some(limit)) = (quantity(&request), quantity(limit))
            && request_value > limit
        {
            let value = request_value.to_string();
            let message = format!("Invalid value: {value:?}: must be less than or equal to {name} limit of {limit}");
            report.add(request.position, &request.path, message);
        }
    }
}

fn quantity(at: &Cursor<'_>) -> Option<Quantity> {
    Quantity::parse(&quantity_text(&at.node()?.value)).ok()
}

fn resource_name(name: &str, is_limit: bool, position: crate::yaml::Position, path: &str, report: &mut Report) {
    let what = match name {
        "cpu" | "memory" => return,
        // A request only matters to a scheduler.
        "ephemeral-storage" if !is_limit => return,
        "ephemeral-storage" => "limits of ephemeral storage",
        _ if name.starts_with("hugepages-") => "huge pages",
        _ if name.contains('/') => "extended resources",
        _ => {
            let hint = crate::suggest::hint(name, ["cpu", "memory", "ephemeral-storage"]);
            let message = format!("Invalid value: {name:?}: must be a standard resource for containers{hint}");
            return report.add(position, path, message);
        }
    };
    report.refused(position, path, what);
}
