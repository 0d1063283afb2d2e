//! A tree against the table: everything that can be said about one field by itself.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Kind, Support, Table};
use crate::problems::{Cursor, Report, join, shown, whole};
use crate::quantity::Quantity;
use crate::suggest;
use crate::yaml::{Entry, Node, Value, float_text};

/// Adds to the report what is wrong with `node` as a `kind` at `path`. Null is as if it were not there.
pub fn check(node: &Node, kind: &Kind, path: &str, report: &mut Report) {
    if node.is_null() {
        return;
    }
    match (kind, &node.value) {
        (Kind::Any, _) => check_any(node, path, report),
        (Kind::Object(table), Value::Map(entries)) => check_object(entries, table, path, report),
        (Kind::Map(kind), Value::Map(entries)) => {
            check_duplicates(entries, path, report);
            for entry in entries {
                check(&entry.value, kind, &format!("{path}[{}]", entry.key), report);
            }
        }
        (Kind::List(kind), Value::List(list)) => check_list(list, kind, path, report),
        (Kind::Text, Value::String(_)) | (Kind::Bool, Value::Bool(_)) | (Kind::IntOrText, Value::String(_)) => {}
        (Kind::Enum(words), Value::String(text)) => {
            if !text.is_empty() && !words.contains(&text.as_str()) {
                report.unsupported(&Cursor::new(node, path), words);
            }
        }
        (Kind::Int32 | Kind::IntOrText, value) if whole(value).is_some() => {
            check_range(node, (i32::MIN.into(), i32::MAX.into()), path, report);
        }
        (Kind::Int64, value) if whole(value).is_some() => {
            check_range(node, (i64::MIN.into(), i64::MAX.into()), path, report);
        }
        (Kind::Quantity, Value::String(_) | Value::Int(_) | Value::Float(_)) => {
            if let Err(error) = Quantity::parse(&quantity_text(&node.value)) {
                report.invalid(&Cursor::new(node, path), &error.to_string());
            }
        }
        (
            Kind::Text
            | Kind::Bool
            | Kind::Int32
            | Kind::Int64
            | Kind::IntOrText
            | Kind::Quantity
            | Kind::Enum(_)
            | Kind::Object(_)
            | Kind::List(_)
            | Kind::Map(_),
            _,
        ) => wrong_type(node, kind, path, report),
    }
}

/// A quantity may be written as a number.
pub fn quantity_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => float_text(*value).replace("e+", "e"),
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => String::new(),
    }
}

fn check_object(entries: &[Entry], table: &Table, path: &str, report: &mut Report) {
    check_duplicates(entries, path, report);
    for entry in entries {
        let place = join(path, &entry.key);
        let Some(field) = table.field(&entry.key) else {
            let hint = if report.is_full() { String::new() } else { field_hint(&entry.key, table) };
            report.add(entry.position, &place, format!("unknown field {:?}{hint}", entry.key));
            continue;
        };
        match field.support {
            // `null`, `[]` and `""` ask for nothing.
            Support::Refused(_) if asks_for_nothing(&entry.value) => {}
            Support::Refused(what) => report.refused(entry.position, &place, what),
            Support::Honoured | Support::NoEffect => check(&entry.value, &field.kind, &place, report),
        }
    }
}

fn field_hint(key: &str, table: &Table) -> String {
    let hint = suggest::hint(key, table.names());
    match super::place_of(key) {
        Some(place) if hint.is_empty() => format!("; in a pod it belongs to {place}"),
        Some(_) | None => hint,
    }
}

fn asks_for_nothing(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Map(_) => false,
    }
}

fn check_list(list: &[Rc<Node>], kind: &Kind, path: &str, report: &mut Report) {
    for (index, node) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match node.is_null() {
            true => wrong_type(node, kind, &path, report),
            false => check(node, kind, &path, report),
        }
    }
}

fn check_any(node: &Node, path: &str, report: &mut Report) {
    match &node.value {
        Value::Map(entries) => {
            check_duplicates(entries, path, report);
            for entry in entries {
                check_any(&entry.value, &join(path, &entry.key), report);
            }
        }
        Value::List(list) => {
            for (index, node) in list.iter().enumerate() {
                check_any(node, &format!("{path}[{index}]"), report);
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => {}
    }
}

fn check_duplicates(entries: &[Entry], path: &str, report: &mut Report) {
    let mut first = BTreeMap::new();
    for entry in entries {
        match first.get(entry.key.as_str()) {
            None => {
                first.insert(entry.key.as_str(), entry.position.line);
            }
            Some(line) => {
                let message = format!("duplicate field {:?}, already set in line {line}", entry.key);
                report.add(entry.position, &join(path, &entry.key), message);
            }
        }
    }
}

fn check_range(node: &Node, (min, max): (i128, i128), path: &str, report: &mut Report) {
    if whole(&node.value).is_some_and(|value| value < min || value > max) {
        report.invalid(&Cursor::new(node, path), &format!("must be between {min} and {max}"));
    }
}

fn wrong_type(node: &Node, kind: &Kind, path: &str, report: &mut Report) {
    let wanted = match kind {
        Kind::Text | Kind::Enum(_) => "a string",
        Kind::Bool => "true or false",
        Kind::Int32 | Kind::Int64 => "a whole number",
        Kind::IntOrText => "a whole number or a string",
        Kind::Quantity => "a quantity",
        Kind::Object(_) | Kind::Map(_) => "a map",
        Kind::List(_) => "a list",
        Kind::Any => "anything",
    };
    let given = match &node.value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Int(_) | Value::Float(_) => "a number",
        Value::String(_) => "a string",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
    };
    let advice = match (kind, &node.value) {
        (Kind::Text | Kind::Enum(_), Value::Bool(_) | Value::Int(_) | Value::Float(_)) => {
            let written = if node.source.is_empty() { shown(&node.value) } else { node.source.clone() };
            format!("; write {written:?} in quotes")
        }
        (Kind::Int32 | Kind::Int64 | Kind::Bool, Value::String(text)) if is_scalar_of(kind, text) => {
            "; write it without quotes".to_owned()
        }
        (Kind::List(_), _) => "; begin each element with \"- \"".to_owned(),
        _ => String::new(),
    };
    let value = match &node.value {
        Value::List(_) | Value::Map(_) | Value::Null => String::new(),
        value => format!("Invalid value: {}: ", shown(value)),
    };
    report.add(node.position, path, format!("{value}must be {wanted}, not {given}{advice}"));
}

fn is_scalar_of(kind: &Kind, text: &str) -> bool {
    match kind {
        Kind::Bool => matches!(text, "true" | "false"),
        _ => text.parse::<i64>().is_ok(),
    }
}
