//! `killick apply` of a pod that exists: what differs, and whether the API server would let it.

use crate::spec::Pod;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Unchanged,
    /// Labels, annotations, `activeDeadlineSeconds`, tolerations: nothing is restarted.
    Metadata,
    /// These containers have a new image and are restarted; the rest may differ as in `Metadata`.
    ImageOf(Vec<String>),
    /// The API server's message.
    Forbidden(String),
}

/// Compares what runs with what was applied. What the acceptance fills in (uid, timestamps) does not count.
pub fn compare(old: &Pod, new: &Pod) -> Change {
    const ALLOWED: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
         `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` \
         (allow it to be set to 1 if it was previously negative)";
    let name = &new.metadata.name;
    let forbidden =
        |path: &str, what: &str| Change::Forbidden(format!("The Pod \"{name}\" is invalid: {path}: Forbidden: {what}"));
    for (path, old, new) in [
        ("spec.containers", &old.spec.containers, &new.spec.containers),
        ("spec.initContainers", &old.spec.init_containers, &new.spec.init_containers),
    ] {
        if old.len() != new.len() {
            return forbidden(path, "pod updates may not add or remove containers");
        }
    }
    let changed = images_changed(old, new);
    if let Some(field) = first_fixed_difference(old, new) {
        return forbidden(
            "spec",
            &format!("pod updates may not change fields other than {ALLOWED}\n  changed: {field}"),
        );
    }
    if !changed.is_empty() {
        return Change::ImageOf(changed);
    }
    let is_same = old.metadata.labels == new.metadata.labels
        && old.metadata.annotations == new.metadata.annotations
        && old.spec == new.spec;
    if is_same { Change::Unchanged } else { Change::Metadata }
}

fn images_changed(old: &Pod, new: &Pod) -> Vec<String> {
    let pairs = old.spec.init_containers.iter().zip(&new.spec.init_containers);
    pairs
        .chain(old.spec.containers.iter().zip(&new.spec.containers))
        .filter(|(old, new)| old.image != new.image)
        .map(|(_, new)| new.name.clone())
        .collect()
}

/// A path of the spec, in the order of its keys, that differs and may not.
fn first_fixed_difference(old: &Pod, new: &Pod) -> Option<String> {
    let mut wanted = new.spec.clone();
    let containers = wanted.init_containers.iter_mut().chain(&mut wanted.containers);
    for (wanted, old) in containers.zip(old.spec.init_containers.iter().chain(&old.spec.containers)) {
        wanted.image.clone_from(&old.image);
    }
    let deadlines = (old.spec.active_deadline_seconds, wanted.active_deadline_seconds);
    if matches!(deadlines, (None, Some(_))) || matches!(deadlines, (Some(old), Some(new)) if new <= old) {
        wanted.active_deadline_seconds = old.spec.active_deadline_seconds;
    }
    let tolerations = |spec: &crate::spec::PodSpec| -> Vec<serde_json::Value> {
        spec.passthrough.get("tolerations").and_then(|list| list.as_array().cloned()).unwrap_or_default()
    };
    let (before, after) = (tolerations(&old.spec), tolerations(&wanted));
    if before.iter().all(|toleration| after.contains(toleration)) {
        match old.spec.passthrough.get("tolerations") {
            Some(list) => wanted.passthrough.insert("tolerations".to_owned(), list.clone()),
            None => wanted.passthrough.remove("tolerations"),
        };
    }
    let value = |spec| serde_json::to_value(spec).unwrap_or_default();
    difference("spec", &value(&old.spec), &value(&wanted))
}

fn difference(path: &str, old: &serde_json::Value, new: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
            keys.into_iter().find_map(|key| {
                let path = format!("{path}.{key}");
                difference(&path, old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null))
            })
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            let mut pairs = old.iter().zip(new).enumerate();
            pairs.find_map(|(index, (old, new))| difference(&format!("{path}[{index}]"), old, new))
        }
        _ => (old != new).then(|| path.to_owned()),
    }
}
