//! The pod as a whole.

use std::collections::BTreeSet;

use super::container::{Pod, container, host_port_conflicts};
use super::metadata::metadata;
use super::names::{label, subdomain};
use super::{check_ip, check_text, security, volume};
use crate::problems::{Cursor, Report};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

pub fn pod(object: &Cursor<'_>, report: &mut Report) {
    metadata(object, report);
    let spec = object.get("spec");
    if !spec.is_set() {
        report.required(&spec, "");
        return;
    }
    let volumes = volume::volumes(&spec, report);
    containers(&spec, volumes, report);
    deadline(&spec, report);
    namespaces(&spec, report);
    names_and_dns(&spec, report);
    tolerations(&spec, report);
    security::pod(&spec, report);
}

fn containers(spec: &Cursor<'_>, volumes: BTreeSet<&str>, report: &mut Report) {
    let (init, regular) = (spec.get("initContainers").items(), spec.get("containers").items());
    if spec.get("containers").is_empty() {
        report.required(&spec.get("containers"), "");
    }
    let mut names: Vec<_> = init.iter().chain(&regular).map(|container| container.get("name")).collect();
    names.sort_by_key(|name| name.position);
    let mut known = BTreeSet::new();
    for name in &names {
        if name.filled_text().is_some_and(|text| !known.insert(text)) {
            report.duplicate(name);
        }
    }
    let host_network = spec.get("hostNetwork").is_true();
    let pod = Pod { volumes, containers: known.into_iter().collect(), host_network };
    init.iter().for_each(|at| container(at, true, &pod, report));
    regular.iter().for_each(|at| container(at, false, &pod, report));
    if host_network {
        host_port_conflicts(&regular, report);
        init.iter().for_each(|container| host_port_conflicts(std::slice::from_ref(container), report));
    }
}

fn deadline(spec: &Cursor<'_>, report: &mut Report) {
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.int().is_some_and(|value| !(1..=2_147_483_647).contains(&value)) {
        report.invalid(&deadline, "must be between 1 and 2147483647, inclusive");
    }
}

fn namespaces(spec: &Cursor<'_>, report: &mut Report) {
    let share = spec.get("shareProcessNamespace");
    if share.is_true() && spec.get("hostPID").is_true() {
        report.invalid(&share, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    let users = spec.get("hostUsers");
    if users.bool() == Some(false) {
        report.refused(users.position, &users.path, "hostUsers: false");
    }
    let os = spec.get("os").get("name");
    if os.text() == Some("windows") {
        report.refused(os.position, &os.path, "windows");
    }
}

fn names_and_dns(spec: &Cursor<'_>, report: &mut Report) {
    check_text(&spec.get("hostname"), label, report);
    check_text(&spec.get("subdomain"), label, report);
    check_text(&spec.get("nodeName"), subdomain, report);
    let fqdn = spec.get("setHostnameAsFQDN");
    if fqdn.is_true() {
        report.refused(fqdn.position, &fqdn.path, "setHostnameAsFQDN: true");
    }
    for alias in spec.get("hostAliases").items() {
        let ip = alias.get("ip");
        match ip.is_empty() {
            true => report.required(&ip, ""),
            false => check_ip(&ip, report),
        }
        alias.get("hostnames").items().iter().for_each(|name| check_text(name, subdomain, report));
    }
    let config = spec.get("dnsConfig");
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    let count = servers.items().len();
    if spec.get("dnsPolicy").text() == Some("None") && count == 0 && (!servers.is_set() || servers.is_empty()) {
        report.required(&servers, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if count > NAMESERVERS_MAX {
        report.invalid(&servers, &format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    servers.items().iter().for_each(|server| check_ip(server, report));
    if searches.items().len() > SEARCHES_MAX {
        report.invalid(&searches, &format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            report.required(&option.get("name"), "");
        }
    }
}

/// They have no effect on one node, but a wrong one would be refused by a cluster.
fn tolerations(spec: &Cursor<'_>, report: &mut Report) {
    for toleration in spec.get("tolerations").items() {
        let (operator, effect) = (toleration.get("operator"), toleration.get("effect"));
        let is_exists = operator.text() == Some("Exists");
        if toleration.get("key").is_empty() && !is_exists {
            report.invalid(
                &operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != Some("NoExecute") {
            report.invalid(&effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        if is_exists && !toleration.get("value").is_empty() {
            report.invalid(&operator, "value must be empty when `operator` is 'Exists'");
        }
    }
}
