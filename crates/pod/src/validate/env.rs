//! Environment variables and what they refer to.

use super::names::{config_key, env_name, subdomain};
use super::{check_required_text, check_text};
use crate::env::subscript;
use crate::problems::{Cursor, Report};
use crate::quantity::Quantity;

const SOURCES: &[&str] = &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const ONE_SOURCE: &str = "may not have more than one field specified at a time";

pub fn env(container: &Cursor<'_>, containers: &[&str], report: &mut Report) {
    for variable in container.get("env").items() {
        check_required_text(&variable.get("name"), env_name, report);
        let from = variable.get("valueFrom");
        if from.is_set() {
            value_from(&from, !variable.get("value").is_empty(), containers, report);
        }
    }
    for from in container.get("envFrom").items() {
        env_from(&from, report);
    }
}

fn value_from(from: &Cursor<'_>, has_value: bool, containers: &[&str], report: &mut Report) {
    let given = SOURCES.iter().filter(|name| from.get(name).is_set()).count();
    if given == 0 {
        report.invalid(
            from,
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if has_value {
        report.invalid(from, "may not be specified when `value` is not empty");
    } else if given > 1 {
        report.invalid(from, ONE_SOURCE);
    }
    field_ref(&from.get("fieldRef"), report);
    resource_field_ref(&from.get("resourceFieldRef"), containers, report);
    for name in ["configMapKeyRef", "secretKeyRef"] {
        let reference = from.get(name);
        if reference.is_set() {
            check_required_text(&reference.get("name"), subdomain, report);
            check_required_text(&reference.get("key"), config_key, report);
        }
    }
}

fn field_ref(reference: &Cursor<'_>, report: &mut Report) {
    if !reference.is_set() {
        return;
    }
    let version = reference.get("apiVersion");
    if version.filled_text().is_some_and(|version| version != "v1") {
        report.unsupported(&version, &["v1"]);
    }
    let path = reference.get("fieldPath");
    if path.is_empty() {
        report.required(&path, "");
    }
    let Some(text) = path.filled_text() else { return };
    let has_key = subscript(text, "metadata.labels").is_some() || subscript(text, "metadata.annotations").is_some();
    if !FIELDS.contains(&text) && !has_key {
        let mut known = FIELDS.to_vec();
        known.extend(["metadata.annotations['KEY']", "metadata.labels['KEY']"]);
        known.sort_unstable();
        report.unsupported(&path, &known);
    }
}

fn resource_field_ref(reference: &Cursor<'_>, containers: &[&str], report: &mut Report) {
    if !reference.is_set() {
        return;
    }
    let (resource, container) = (reference.get("resource"), reference.get("containerName"));
    if resource.is_empty() {
        report.required(&resource, "");
    } else if resource.text().is_some_and(|text| !RESOURCES.contains(&text)) {
        report.unsupported(&resource, RESOURCES);
    }
    if container.filled_text().is_some_and(|name| !containers.contains(&name)) {
        report.not_found(&container, "");
    }
    divisor(&reference.get("divisor"), resource.text().unwrap_or_default(), report);
}

fn divisor(divisor: &Cursor<'_>, resource: &str, report: &mut Report) {
    const MEMORY: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let Some(node) = divisor.node() else { return };
    let Ok(quantity) = Quantity::parse(&crate::schema::quantity_text(&node.value)) else { return };
    let is_one_of = |words: &[&str]| words.iter().any(|word| Quantity::parse(word) == Ok(quantity));
    if quantity.is_zero() {
    } else if resource.ends_with(".cpu") && !is_one_of(&["1m", "1"]) {
        report.invalid(divisor, "only divisor's values 1m and 1 are supported with the cpu resource");
    } else if resource.ends_with(".memory") && !is_one_of(&MEMORY) {
        let list = MEMORY.join(", ");
        report.invalid(divisor, &format!("only divisor's values {list} are supported with the memory resource"));
    }
}

fn env_from(from: &Cursor<'_>, report: &mut Report) {
    check_text(&from.get("prefix"), env_name, report);
    let given: Vec<_> =
        ["configMapRef", "secretRef"].map(|name| from.get(name)).into_iter().filter(Cursor::is_set).collect();
    match given.len() {
        0 => report.invalid(from, "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => report.invalid(from, ONE_SOURCE),
    }
    for reference in given {
        check_required_text(&reference.get("name"), subdomain, report);
    }
}
