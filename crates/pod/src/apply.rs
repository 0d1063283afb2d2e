//! `killick apply` of a pod that exists: what differs, and whether the API server would let it.

use crate::spec::{Pod, PodSpec};

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
        && old.spec == with_node_of(old, new);
    if is_same { Change::Unchanged } else { Change::Metadata }
}

/// Whoever accepted the pod wrote the node's name into it, as a scheduler does.
fn with_node_of(old: &Pod, new: &Pod) -> PodSpec {
    let mut spec = new.spec.clone();
    spec.node_name = spec.node_name.or_else(|| old.spec.node_name.clone());
    spec
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
    let mut wanted = with_node_of(old, new);
    let containers = wanted.init_containers.iter_mut().chain(&mut wanted.containers);
    for (wanted, old) in containers.zip(old.spec.init_containers.iter().chain(&old.spec.containers)) {
        wanted.image.clone_from(&old.image);
    }
    let deadlines = (old.spec.active_deadline_seconds, wanted.active_deadline_seconds);
    if matches!(deadlines, (None, Some(_))) || matches!(deadlines, (Some(old), Some(new)) if new <= old) {
        wanted.active_deadline_seconds = old.spec.active_deadline_seconds;
    }
    let tolerations = |spec: &PodSpec| -> Vec<serde_json::Value> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Object, parse};

    const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: p, labels: {a: b}}
spec:
  activeDeadlineSeconds: 100
  initContainers: [{name: i, image: 'i:1'}]
  containers: [{name: c, image: 'c:1', command: [x]}]
";

    fn pod(text: &str) -> Pod {
        let Object::Pod(pod) = parse("x", text.as_bytes()).unwrap().remove(0) else { panic!() };
        *pod
    }

    fn compared(from: &str, to: &str) -> Change {
        let mut old = pod(POD);
        old.metadata.uid = "u".to_owned();
        old.metadata.creation_timestamp = "2024-01-01T00:00:00Z".to_owned();
        old.spec.node_name = Some("node1".to_owned());
        assert!(POD.contains(from), "{from}");
        compare(&old, &pod(&POD.replacen(from, to, 1)))
    }

    fn check(from: &str, to: &str, expected: Change) {
        assert_eq!(compared(from, to), expected, "{from} -> {to}");
    }

    fn check_forbidden(from: &str, to: &str, text: &str) {
        let Change::Forbidden(message) = compared(from, to) else { panic!("{from} -> {to}") };
        assert!(message.starts_with("The Pod \"p\" is invalid: spec") && message.contains(text), "{message}");
    }

    #[test]
    fn what_the_api_server_lets_pass_is_told_apart() {
        check("p", "p", Change::Unchanged);
        check("{a: b}", "{a: c}", Change::Metadata);
        check("labels: {a: b}", "annotations: {a: b}", Change::Metadata);
        check("'c:1'", "'c:2'", Change::ImageOf(vec!["c".to_owned()]));
        check("'i:1'", "'i:2'", Change::ImageOf(vec!["i".to_owned()]));
        check("  activeDeadlineSeconds: 100", "  activeDeadlineSeconds: 50", Change::Metadata);
        check("spec:\n", "spec:\n  tolerations: [{key: x, operator: Exists}]\n", Change::Metadata);
    }

    #[test]
    fn what_it_refuses_is_refused_in_its_words_and_names_the_field() {
        let fields = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
                      `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,";
        check_forbidden("[x]", "[z]", fields);
        check_forbidden("[x]", "[z]", "\n  changed: spec.containers[0].command[0]");
        check_forbidden("  activeDeadlineSeconds: 100", "  activeDeadlineSeconds: 200", "spec.activeDeadlineSeconds");
        check_forbidden("  activeDeadlineSeconds: 100\n", "", "changed: spec.activeDeadlineSeconds");
        check_forbidden("spec:\n", "spec:\n  restartPolicy: Never\n", "changed: spec.restartPolicy");
        check_forbidden("spec:\n", "spec:\n  priority: 5\n", "changed: spec.priority");
        check_forbidden("[x]}]", "[x]}, {name: d, image: d}]", "spec.containers: Forbidden: pod updates may not add");
        // Both an image and something else: nothing is done.
        check_forbidden("image: 'c:1', command: [x]", "image: 'c:2', command: [z]", "command");
    }
}
