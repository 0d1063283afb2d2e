//! A container's environment from all its sources, and the texts when one is missing (kubelet.md §6.2).
//!
//! What the image sets, `HOSTNAME` and `PATH` are below all of this; whoever makes the container adds them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::expand::expand;
use crate::machine::NodeInfo;
use crate::quantity::Quantity;
use crate::spec::{
    Container, DataKind, DataObject, EnvFrom, EnvVarSource, FieldRef, KeyRef, ObjectRef, Pod, ResourceFieldRef,
};

/// Where ConfigMaps and Secrets are looked up, by namespace and name. Any such closure is one.
pub trait Objects {
    fn get(&self, kind: DataKind, namespace: &str, name: &str) -> Option<DataObject>;
}

impl<F: Fn(DataKind, &str, &str) -> Option<DataObject>> Objects for F {
    fn get(&self, kind: DataKind, namespace: &str, name: &str) -> Option<DataObject> {
        self(kind, namespace, name)
    }
}

/// What a variable may refer to outside its container.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    pub pod: &'a Pod,
    pub objects: &'a dyn Objects,
    pub node: &'a NodeInfo,
    /// CPUs of the node: what `limits.cpu` is without a limit.
    pub node_cpus: u32,
    pub pod_ip: Option<IpAddr>,
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("pod", &self.pod.metadata.name).field("node", &self.node).finish()
    }
}

/// The variables in the order of their first appearance. The error is the text of a `CreateContainerConfigError`.
pub fn resolve_env(container: &Container, sources: &Sources<'_>) -> Result<Vec<(String, String)>, String> {
    let mut result = Variables::default();
    for from in &container.env_from {
        add_all(&mut result, from, sources)?;
    }
    for variable in &container.env {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(source)) => value_from(source, container, sources)?,
            (Some(text), None) => Some(expand(text, |name| result.get(name).map(str::to_owned))),
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            result.set(&variable.name, value);
        }
    }
    Ok(result.list)
}

#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|index| self.list[*index].1.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(index) => self.list[*index].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }
}

fn add_all(result: &mut Variables, from: &EnvFrom, sources: &Sources<'_>) -> Result<(), String> {
    let references = [(DataKind::ConfigMap, &from.config_map_ref), (DataKind::Secret, &from.secret_ref)];
    for (kind, reference) in references {
        let Some(ObjectRef { name, optional }) = reference else { continue };
        let Some(object) = sources.objects.get(kind, &sources.pod.metadata.namespace, name) else {
            if *optional == Some(true) {
                continue;
            }
            return Err(not_found(kind, name));
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in &object.data {
            // A key that is no name for a variable (`=`, not printable) is left out, as kubelet does.
            if is_env_name(key) {
                result.set(&format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    Ok(())
}

/// `None`: an optional object or key is not there, so the variable is not set at all.
fn value_from(source: &EnvVarSource, container: &Container, sources: &Sources<'_>) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        field_value(field, sources).map(Some)
    } else if let Some(resource) = &source.resource_field_ref {
        resource_value(resource, container, sources).map(Some)
    } else if let Some(key) = &source.config_map_key_ref {
        key_value(DataKind::ConfigMap, key, sources)
    } else if let Some(key) = &source.secret_key_ref {
        key_value(DataKind::Secret, key, sources)
    } else {
        Ok(Some(String::new()))
    }
}

fn key_value(kind: DataKind, reference: &KeyRef, sources: &Sources<'_>) -> Result<Option<String>, String> {
    let namespace = &sources.pod.metadata.namespace;
    let optional = reference.optional == Some(true);
    let KeyRef { name, key, .. } = reference;
    match sources.objects.get(kind, namespace, name) {
        None if optional => Ok(None),
        None => Err(not_found(kind, name)),
        Some(object) => match object.data.get(key) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if optional => Ok(None),
            None => {
                let kind = match kind {
                    DataKind::ConfigMap => "ConfigMap",
                    DataKind::Secret => "Secret",
                };
                Err(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
            }
        },
    }
}

/// `configmap "x" not found`
pub fn not_found(kind: DataKind, name: &str) -> String {
    match kind {
        DataKind::ConfigMap => format!("configmap \"{name}\" not found"),
        DataKind::Secret => format!("secret \"{name}\" not found"),
    }
}

fn field_value(field: &FieldRef, sources: &Sources<'_>) -> Result<String, String> {
    let (metadata, spec) = (&sources.pod.metadata, &sources.pod.spec);
    let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let value = match field.field_path.as_str() {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => sources.node.name.clone(),
        "spec.serviceAccountName" => {
            let name = spec.passthrough.get("serviceAccountName").and_then(serde_json::Value::as_str);
            name.unwrap_or("default").to_owned()
        }
        "status.hostIP" | "status.hostIPs" => text(sources.node.ip),
        "status.podIP" | "status.podIPs" => text(sources.pod_ip),
        path => {
            let labels = subscript(path, "metadata.labels").map(|key| metadata.labels.get(key));
            let annotations = || subscript(path, "metadata.annotations").map(|key| metadata.annotations.get(key));
            let Some(value) = labels.or_else(annotations) else {
                return Err(format!("unsupported fieldPath: {path}"));
            };
            value.cloned().unwrap_or_default()
        }
    };
    Ok(value)
}

/// The key of `path['key']`.
pub(crate) fn subscript<'a>(text: &'a str, path: &str) -> Option<&'a str> {
    text.strip_prefix(path)?.strip_prefix("['")?.strip_suffix("']")
}

fn resource_value(
    reference: &ResourceFieldRef,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<String, String> {
    let spec = &sources.pod.spec;
    let container = match &reference.container_name {
        None => container,
        Some(name) => spec
            .init_containers
            .iter()
            .chain(&spec.containers)
            .find(|container| container.name == *name)
            .ok_or_else(|| format!("container {name} not found"))?,
    };
    let divisor = reference.divisor.as_deref().and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO);
    let memory = i64::try_from(sources.node.memory_bytes).unwrap_or(i64::MAX);
    let quantity = match reference.resource.as_str() {
        "limits.cpu" => container.resources.limit("cpu").unwrap_or(Quantity::from_value(i64::from(sources.node_cpus))),
        "limits.memory" => container.resources.limit("memory").unwrap_or(Quantity::from_value(memory)),
        "requests.cpu" => container.resources.request("cpu").unwrap_or(Quantity::ZERO),
        "requests.memory" => container.resources.request("memory").unwrap_or(Quantity::ZERO),
        other => return Err(format!("unsupported container resource : {other}")),
    };
    Ok(quantity.div_ceil(&divisor).to_string())
}

/// Any printable ASCII but `=` (kubelet.md §8.3, "env var, relaxed").
pub(crate) fn is_env_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

#[cfg(test)]
mod tests;
