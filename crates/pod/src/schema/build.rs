//! From a tree without problems to the JSON of `spec.rs`: known fields only, nulls left out, defaults put in.

use serde_json::{Map, Value as Json};

use super::check::quantity_text;
use super::{Field, Kind, Preset, Table};
use crate::problems::whole;
use crate::quantity::Quantity;
use crate::yaml::{Node, Value};

pub fn build(node: &Node, kind: &Kind) -> Json {
    match (kind, &node.value) {
        (Kind::Object(table), _) => build_object(node, table),
        (Kind::Map(kind), Value::Map(entries)) => {
            let entries = entries.iter().filter(|entry| !entry.value.is_null());
            entries.map(|entry| (entry.key.clone(), build(&entry.value, kind))).collect()
        }
        (Kind::List(kind), Value::List(list)) => list.iter().map(|node| build(node, kind)).collect(),
        // Printed back as the API would: `0.5` is `500m`.
        (Kind::Quantity, value) => {
            Quantity::parse(&quantity_text(value)).map_or(Json::Null, |quantity| quantity.to_string().into())
        }
        (_, value) => plain(value),
    }
}

fn build_object(node: &Node, table: &Table) -> Json {
    let fields = table.fields.iter().filter_map(|field| Some((field.name.to_owned(), build_field(node, field)?)));
    Json::Object(fields.collect::<Map<_, _>>())
}

fn build_field(node: &Node, field: &Field) -> Option<Json> {
    let given = node.get(field.name).map(|entry| &*entry.value).filter(|node| !node.is_null());
    let is_unset = match (given.map(|node| &node.value), field.kind, field.default) {
        (None, _, _) => true,
        // The API cannot tell empty text from none.
        (Some(Value::String(text)), Kind::Text | Kind::Enum(_), _) => text.is_empty(),
        (Some(value), _, Preset::Positive(_)) => whole(value) == Some(0),
        (Some(_), _, _) => false,
    };
    match (given, field.default) {
        (Some(node), _) if !is_unset => Some(build(node, &field.kind)),
        (_, Preset::None) => None,
        (_, Preset::Int(value) | Preset::Positive(value)) => Some(value.into()),
        (_, Preset::Bool(value)) => Some(value.into()),
        (_, Preset::Text(text)) => Some(text.into()),
    }
}

fn plain(value: &Value) -> Json {
    if let Some(number) = whole(value) {
        return i64::try_from(number).map_or_else(|_| Json::from(number as f64), Json::from);
    }
    match value {
        Value::Null | Value::Int(_) => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::String(text) => text.clone().into(),
        Value::List(list) => list.iter().map(|node| plain(&node.value)).collect(),
        Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), plain(&entry.value.value))).collect(),
    }
}
