//! ConfigMaps and Secrets as `get` shows them.

use std::collections::BTreeMap;

use killick_pod::spec::DataKind;
use killick_pod::time::Wall;
use killick_pod_dir::base64;
use killick_pod_dir::objects::{ObjectStore, StoredObject};
use serde_json::{Value, json};

use super::{GetOptions, label_cells, label_headings, named};
use crate::context::Context;
use crate::duration;
use crate::output::{Failure, Result};
use crate::print::Format;
use crate::resource::{Resource, Wanted};
use crate::select;

pub(super) fn select_objects(
    context: &Context,
    wanted: &Wanted,
    options: &GetOptions,
) -> Result<(Vec<StoredObject>, Vec<Failure>)> {
    let kind = if wanted.resource == Resource::Secret { DataKind::Secret } else { DataKind::ConfigMap };
    let store = ObjectStore::new(&context.roots);
    let mut missing = Vec::new();
    let mut objects = Vec::new();
    if wanted.names.is_empty() {
        objects = store.list(kind)?;
        let kube_namespace = options.kube_namespace.as_deref();
        objects.retain(|stored| kube_namespace.is_none_or(|kube_namespace| stored.object.namespace == kube_namespace));
        // Objects carry no labels: a selector that asks for one finds none.
        objects.retain(|_| options.labels.matches(&BTreeMap::new()));
    }
    for name in &wanted.names {
        let kube_namespace = options.kube_namespace.as_deref().unwrap_or("default");
        match store.read(kind, kube_namespace, name)? {
            Some(stored) => objects.push(stored),
            None if options.ignore_not_found => {}
            None => missing.push(Failure::not_found(wanted.resource.plural(), name)),
        }
    }
    if let Some(path) = &options.sort_by {
        select::sort_by(&mut objects, path, object_json)?;
    }
    Ok((objects, missing))
}

pub(super) fn object_headings(resource: Resource, options: &GetOptions) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.headings();
    }
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push("NAMESPACE");
    }
    match resource {
        Resource::Secret => cells.extend(["NAME", "TYPE", "DATA", "AGE"]),
        _ => cells.extend(["NAME", "DATA", "AGE"]),
    }
    let mut cells: Vec<String> = cells.into_iter().map(str::to_owned).collect();
    cells.extend(label_headings(options));
    cells
}

pub(super) fn object_cells(stored: &StoredObject, options: &GetOptions, show_kind: bool, now: Wall) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.cells(&object_json(stored));
    }
    let object = &stored.object;
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push(object.namespace.clone());
    }
    let resource = match object.kind {
        DataKind::Secret => Resource::Secret,
        DataKind::ConfigMap => Resource::ConfigMap,
    };
    cells.push(named(resource, &object.name, show_kind));
    if object.kind == DataKind::Secret {
        cells.push("Opaque".to_owned());
    }
    cells.push((object.data.len() + object.binary_data.len()).to_string());
    cells.push(duration::since(&stored.creation_timestamp, now));
    cells.extend(label_cells(&BTreeMap::new(), options));
    cells
}

pub(super) fn object_json(stored: &StoredObject) -> Value {
    let object = &stored.object;
    let coded = |data: &BTreeMap<String, Vec<u8>>| -> Value {
        data.iter().map(|(key, value)| (key.clone(), json!(base64::encode(value)))).collect()
    };
    let mut value = json!({
        "apiVersion": "v1",
        "metadata": {"name": object.name, "namespace": object.namespace, "uid": stored.uid,
                     "creationTimestamp": stored.creation_timestamp},
    });
    match object.kind {
        DataKind::Secret => {
            value["kind"] = json!("Secret");
            value["type"] = json!("Opaque");
            value["data"] = coded(&object.data);
        }
        DataKind::ConfigMap => {
            value["kind"] = json!("ConfigMap");
            value["data"] =
                object.data.iter().map(|(key, value)| (key.clone(), json!(String::from_utf8_lossy(value)))).collect();
            if !object.binary_data.is_empty() {
                value["binaryData"] = coded(&object.binary_data);
            }
        }
    }
    if object.data.is_empty() {
        value.as_object_mut().map(|map| map.remove("data"));
    }
    if object.immutable {
        value["immutable"] = json!(true);
    }
    value
}
