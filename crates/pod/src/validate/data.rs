//! ConfigMap and Secret.

use super::metadata::metadata;
use super::names::config_key;
use crate::base64;
use crate::problems::{Cursor, Report};

/// Bytes of all values of one object together.
pub const DATA_MAX: usize = 1 << 20;

pub fn config_map(object: &Cursor<'_>, report: &mut Report) {
    metadata(object, report);
    let (data, binary) = (object.get("data"), object.get("binaryData"));
    let bytes = keys(&data, report) + keys(&binary, report) + decoded(&binary, report);
    let mut known: Vec<_> = binary.entries().into_iter().map(|(key, ..)| key).collect();
    known.sort_unstable();
    for (key, position, value) in data.entries() {
        if known.binary_search(&key).is_ok() {
            report.add(
                position,
                &value.path,
                format!("Invalid value: {key:?}: duplicate of key present in binaryData"),
            );
        }
    }
    too_big(object, bytes + plain(&data), report);
}

pub fn secret(object: &Cursor<'_>, report: &mut Report) {
    metadata(object, report);
    let (data, text) = (object.get("data"), object.get("stringData"));
    let bytes = keys(&data, report) + keys(&text, report) + decoded(&data, report) + plain(&text);
    too_big(object, bytes, report);
}

fn too_big(object: &Cursor<'_>, bytes: usize, report: &mut Report) {
    if bytes > DATA_MAX {
        report.add(object.position, "", format!("Too long: may not be more than {DATA_MAX} bytes"));
    }
}

fn keys(map: &Cursor<'_>, report: &mut Report) -> usize {
    let entries = map.entries();
    for (key, position, value) in &entries {
        for message in config_key(key) {
            report.add(*position, &value.path, format!("Invalid value: {key:?}: {message}"));
        }
    }
    entries.iter().map(|(key, ..)| key.len()).sum()
}

fn plain(map: &Cursor<'_>) -> usize {
    map.entries().iter().filter_map(|(.., value)| value.text()).map(str::len).sum()
}

fn decoded(map: &Cursor<'_>, report: &mut Report) -> usize {
    let mut bytes = 0;
    for (_, _, value) in map.entries() {
        match value.text().map(base64::decode) {
            None => {}
            Some(Some(decoded)) => bytes += decoded.len(),
            // The text may be a secret: it is not repeated.
            Some(None) => report.add(
                value.position,
                &value.path,
                "Invalid value: must be base64; plain text belongs into stringData (Secret) or data (ConfigMap)",
            ),
        }
    }
    bytes
}
