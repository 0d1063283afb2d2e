//! Volumes of the pod and their mounts in a container.

use std::collections::BTreeSet;

use super::names::{config_key, label, subdomain};
use super::{check_relative, check_required_text};
use crate::problems::{Cursor, Report};
use crate::quantity::Quantity;
use crate::schema::{is_volume_source, quantity_text};
use crate::suggest;

/// The names of all volumes, good or not.
pub fn volumes<'a>(spec: &Cursor<'a>, report: &mut Report) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for volume in spec.get("volumes").items() {
        let name = volume.get("name");
        check_required_text(&name, label, report);
        if name.filled_text().is_some_and(|text| !names.insert(text)) {
            report.duplicate(&name);
        }
        let mut sources = volume.entries();
        sources.retain(|(key, _, value)| is_volume_source(key) && value.is_set());
        sources.sort_by_key(|(_, position, _)| *position);
        for (key, position, _) in sources.iter().skip(1) {
            let path = crate::problems::join(&volume.path, key);
            report.add(*position, &path, "Forbidden: may not specify more than 1 volume type");
        }
        empty_dir(&volume.get("emptyDir"), report);
        host_path(&volume.get("hostPath"), report);
        files(&volume.get("configMap"), "name", report);
        files(&volume.get("secret"), "secretName", report);
    }
    names
}

fn empty_dir(source: &Cursor<'_>, report: &mut Report) {
    let (medium, limit) = (source.get("medium"), source.get("sizeLimit"));
    match medium.text() {
        Some(text) if text.starts_with("HugePages") => report.refused(medium.position, &medium.path, "huge pages"),
        Some("" | "Memory") | None => {}
        Some(_) => report.unsupported(&medium, &["", "Memory"]),
    }
    let Some(node) = limit.node() else { return };
    let quantity = Quantity::parse(&quantity_text(&node.value));
    if quantity.is_ok_and(|quantity| quantity.is_negative()) {
        report.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
    } else if medium.text() != Some("Memory") {
        // On disk it would need a watcher that evicts; to accept it would promise one.
        report.refused(limit.position, &limit.path, "sizeLimit without medium: Memory");
    }
}

fn host_path(source: &Cursor<'_>, report: &mut Report) {
    if !source.is_set() {
        return;
    }
    let path = source.get("path");
    if path.is_empty() {
        report.required(&path, "");
    }
    if path.text().is_some_and(|text| text.split('/').any(|part| part == "..")) {
        report.invalid(&path, "must not contain '..'");
    }
}

/// A volume of a ConfigMap's or a Secret's keys.
fn files(source: &Cursor<'_>, name: &str, report: &mut Report) {
    if !source.is_set() {
        return;
    }
    check_required_text(&source.get(name), subdomain, report);
    mode(&source.get("defaultMode"), report);
    for item in source.get("items").items() {
        check_required_text(&item.get("key"), config_key, report);
        let path = item.get("path");
        if path.is_empty() {
            report.required(&path, "");
        }
        check_relative(&path, false, report);
        mode(&item.get("mode"), report);
    }
}

fn mode(mode: &Cursor<'_>, report: &mut Report) {
    if mode.int().is_some_and(|value| !(0..=0o777).contains(&value)) {
        report.invalid(mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

pub fn mounts(container: &Cursor<'_>, volumes: &BTreeSet<&str>, report: &mut Report) {
    let mut paths = BTreeSet::new();
    for mount in container.get("volumeMounts").items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.is_empty() {
            report.required(&name, "");
        } else if let Some(text) = name.text().filter(|text| !volumes.contains(text)) {
            let hint = if report.is_full() { String::new() } else { suggest::hint(text, volumes.iter().copied()) };
            report.not_found(&name, &hint);
        }
        if path.is_empty() {
            report.required(&path, "");
        }
        if path.filled_text().is_some_and(|text| !paths.insert(text)) {
            report.invalid(&path, "must be unique");
        }
        let (sub_path, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        check_relative(&sub_path, true, report);
        check_relative(&expression, true, report);
        if !sub_path.is_empty() && !expression.is_empty() {
            report.invalid(&expression, "subPathExpr and subPath are mutually exclusive");
        }
        propagation(&mount, container, report);
    }
}

fn propagation(mount: &Cursor<'_>, container: &Cursor<'_>, report: &mut Report) {
    let propagation = mount.get("mountPropagation");
    let is_privileged = container.get("securityContext").get("privileged").is_true();
    if propagation.text() == Some("Bidirectional") && !is_privileged {
        report.forbidden(&propagation, "Bidirectional mount propagation is available only to privileged containers");
    }
    let recursive = mount.get("recursiveReadOnly");
    if !matches!(recursive.text(), Some("Enabled" | "IfPossible")) {
        return;
    }
    if !mount.get("readOnly").is_true() {
        report.forbidden(&recursive, "may only be specified when readOnly is true");
    }
    if !matches!(propagation.text(), None | Some("" | "None")) {
        report.forbidden(&recursive, "may only be specified when mountPropagation is None or not specified");
    }
}
