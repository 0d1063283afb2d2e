//! Rules that look at more than one field: what the API server refuses, and what Killick refuses by name.
//!
//! They read the tree, not typed values, so a problem in one field does not hide those of another; a field of a
//! wrong type was reported by `schema::check` and is as if it were not there. Texts: kubelet.md §1.1, §8.3, §8.4.

mod container;
mod data;
mod env;
mod metadata;
mod names;
mod pod;
mod probe;
mod security;
#[cfg(test)]
mod tests;
mod volume;

pub use data::{config_map, secret};
pub use pod::pod;

use crate::problems::{Cursor, Report};

/// Adds what a name rule says of the text at `at`; a text that is not there is `required`'s business.
fn check_text(at: &Cursor<'_>, rule: fn(&str) -> Vec<String>, report: &mut Report) {
    if let Some(text) = at.filled_text() {
        for message in rule(text) {
            report.invalid(at, &message);
        }
    }
}

fn check_required_text(at: &Cursor<'_>, rule: fn(&str) -> Vec<String>, report: &mut Report) {
    match at.is_empty() {
        true => report.required(at, ""),
        false => check_text(at, rule, report),
    }
}

fn check_min(at: &Cursor<'_>, min: i64, message: &str, report: &mut Report) {
    if at.int().is_some_and(|value| value < min) {
        report.invalid(at, message);
    }
}

fn check_port(at: &Cursor<'_>, report: &mut Report) {
    if at.int().is_some_and(|value| !(1..=65535).contains(&value)) {
        report.invalid(at, "must be between 1 and 65535, inclusive");
    }
}

fn check_ip(at: &Cursor<'_>, report: &mut Report) {
    if at.text().is_some_and(|text| text.parse::<std::net::IpAddr>().is_err()) {
        report.invalid(at, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

/// `path` must stay below what it is joined to. `may_begin_with_dots`: `..data` is reserved only for files of
/// volumes.
fn check_relative(at: &Cursor<'_>, may_begin_with_dots: bool, report: &mut Report) {
    let Some(path) = at.filled_text() else { return };
    if path.starts_with('/') {
        report.invalid(at, "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        report.invalid(at, "must not contain '..'");
    } else if path.starts_with("..") && !may_begin_with_dots {
        report.invalid(at, "must not start with '..'");
    }
}
