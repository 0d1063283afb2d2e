//! `-o`: which form an answer has.

use serde_json::{Value, json};

use crate::jsonpath::{Columns, Template};
use crate::output::{Failure, Out, Result};
use crate::yaml_out;

#[derive(Debug, Clone, PartialEq, Default)]
pub enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
    Name,
    JsonPath(Template),
    Columns(Columns),
}

impl Format {
    /// Whether whole objects are printed, not lines of a table.
    pub fn is_document(&self) -> bool {
        matches!(self, Format::Json | Format::Yaml | Format::JsonPath(_))
    }

    pub fn parse(text: &str) -> Result<Format> {
        let template = |text: &str| match text.is_empty() {
            true => Err(Failure::error("template format specified but no template given")),
            false => Template::parse(text).map(Format::JsonPath),
        };
        if let Some(text) = text.strip_prefix("jsonpath=") {
            return template(text);
        }
        if let Some(path) = text.strip_prefix("jsonpath-file=") {
            return template(&read(path)?);
        }
        if let Some(text) = text.strip_prefix("custom-columns=") {
            return Columns::parse(text).map(Format::Columns);
        }
        match text {
            "jsonpath" => template(""),
            "custom-columns" => Err(Failure::error("custom-columns format specified but no custom columns given")),
            "" => Ok(Format::Table),
            "wide" => Ok(Format::Wide),
            "json" => Ok(Format::Json),
            "yaml" => Ok(Format::Yaml),
            "name" => Ok(Format::Name),
            _ => Err(Failure::error(format!(
                "unable to match a printer suitable for the output format \"{text}\", allowed formats are: \
                 custom-columns,json,jsonpath,jsonpath-file,name,wide,yaml"
            ))),
        }
    }
}

/// The objects as one document: bare when exactly one was asked for by name, else a List.
pub fn objects(objects: Vec<Value>, bare: bool, format: &Format, out: &mut Out<'_>) -> Result<()> {
    let value = match <[Value; 1]>::try_from(objects) {
        Ok([object]) if bare => object,
        Ok([object]) => list(vec![object]),
        Err(objects) => list(objects),
    };
    match format {
        Format::Json => out.print(&json_text(&value)),
        Format::JsonPath(template) => out.print(&template.render(&value)),
        _ => out.print(&yaml_out::document(&value)),
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Failure::error(format!("error reading --template {path}, {error}")))
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
        let print = |values: Vec<Value>, bare: bool, format: &Format| {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            objects(values, bare, format, &mut Out { stdout: &mut stdout, stderr: &mut stderr }).unwrap();
            String::from_utf8(stdout).unwrap()
        };
        assert_eq!(print(vec![json!({"b": 1, "a": {}})], true, &Format::Json), "{\n    \"a\": {},\n    \"b\": 1\n}\n");
        assert_eq!(print(vec![json!({"b": 1, "a": {}})], true, &Format::Yaml), "a: {}\nb: 1\n");
        assert_eq!(
            print(vec![json!({"a": 1})], false, &Format::Yaml),
            "apiVersion: v1\nitems:\n- a: 1\nkind: List\nmetadata:\n  resourceVersion: \"\"\n"
        );
        assert_eq!(
            print(vec![], true, &Format::Yaml),
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
