//! `-o`: which form an answer has.

use serde_json::{Value, json};

use crate::output::{Failure, Out, Result};
use crate::yaml_out;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

impl Format {
    pub fn parse(text: &str) -> Result<Format> {
        match text {
            "" => Ok(Format::Table),
            "wide" => Ok(Format::Wide),
            "json" => Ok(Format::Json),
            "yaml" => Ok(Format::Yaml),
            "name" => Ok(Format::Name),
            _ => Err(Failure::error(format!(
                "unable to match a printer suitable for the output format \"{text}\", allowed formats are: \
                 json,name,wide,yaml"
            ))),
        }
    }
}

/// The objects as one document: bare when exactly one was asked for by name, else a List.
pub fn objects(objects: Vec<Value>, bare: bool, format: Format, out: &mut Out<'_>) -> Result<()> {
    let value = match <[Value; 1]>::try_from(objects) {
        Ok([object]) if bare => object,
        Ok([object]) => list(vec![object]),
        Err(objects) => list(objects),
    };
    match format {
        Format::Json => out.print(&json_text(&value)),
        _ => out.print(&yaml_out::document(&value)),
    }
}

fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
}

/// JSON with kubectl's indent of four.
pub fn json_text(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // A Value always serialises.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    bytes.push(b'\n');
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_named_object_is_bare_and_all_others_are_a_list() {
        let print = |values: Vec<Value>, bare: bool, format: Format| {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            objects(values, bare, format, &mut Out { stdout: &mut stdout, stderr: &mut stderr }).unwrap();
            String::from_utf8(stdout).unwrap()
        };
        assert_eq!(print(vec![json!({"b": 1, "a": {}})], true, Format::Json), "{\n    \"a\": {},\n    \"b\": 1\n}\n");
        assert_eq!(print(vec![json!({"b": 1, "a": {}})], true, Format::Yaml), "a: {}\nb: 1\n");
        assert_eq!(
            print(vec![json!({"a": 1})], false, Format::Yaml),
            "apiVersion: v1\nitems:\n- a: 1\nkind: List\nmetadata:\n  resourceVersion: \"\"\n"
        );
        assert_eq!(
            print(vec![], true, Format::Yaml),
            "apiVersion: v1\nitems: []\nkind: List\nmetadata:\n  resourceVersion: \"\"\n"
        );
    }

    #[test]
    fn an_unknown_format_is_named() {
        let failure = Format::parse("pdf").unwrap_err();
        assert!(failure.text.starts_with(
            "error: unable to match a printer suitable for the output format \"pdf\", allowed formats are: "
        ));
    }
}
