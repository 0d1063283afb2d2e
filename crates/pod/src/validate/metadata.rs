//! `metadata` of every object.

use super::names::{label, label_value, qualified_name, subdomain};
use super::{check_required_text, check_text};
use crate::problems::{Cursor, Report};

/// Bytes of all annotations together.
const ANNOTATIONS_MAX: usize = 256 << 10;

pub fn metadata(object: &Cursor<'_>, report: &mut Report) {
    let metadata = object.get("metadata");
    check_required_text(&metadata.get("name"), subdomain, report);
    check_text(&metadata.get("namespace"), label, report);
    labels(&metadata.get("labels"), report);
    let annotations = metadata.get("annotations");
    let mut bytes = 0;
    for (key, position, value) in annotations.entries() {
        bytes += key.len() + value.text().map_or(0, str::len);
        for message in qualified_name(&key.to_lowercase()) {
            report.add(position, &annotations.path, format!("Invalid value: {key:?}: {message}"));
        }
    }
    if bytes > ANNOTATIONS_MAX {
        report.add(
            annotations.position,
            &annotations.path,
            format!("Too long: may not be more than {ANNOTATIONS_MAX} bytes"),
        );
    }
}

fn labels(labels: &Cursor<'_>, report: &mut Report) {
    for (key, position, value) in labels.entries() {
        for message in qualified_name(key) {
            report.add(position, &labels.path, format!("Invalid value: {key:?}: {message}"));
        }
        for message in value.text().map(label_value).unwrap_or_default() {
            report.add(value.position, &labels.path, format!("Invalid value: {}: {message}", value.shown()));
        }
    }
}
