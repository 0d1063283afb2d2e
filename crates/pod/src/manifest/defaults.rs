//! Defaults that depend on another field, or that the API server's admission adds (kubelet.md §8.5).

use serde_json::{Value, json};

use crate::quantity::Quantity;
use crate::spec::{Container, ImagePullPolicy, Metadata, Pod, Resources};

/// What the types need before they can be made: a pull policy for each container, a source for each volume.
pub fn prepare(pod: &mut Value) {
    let spec = &mut pod["spec"];
    for list in ["initContainers", "containers"] {
        for container in elements(spec, list) {
            let policy = pull_policy(container["image"].as_str().unwrap_or_default());
            if let Some(fields) = container.as_object_mut() {
                fields.entry("imagePullPolicy").or_insert_with(|| json!(policy));
            }
        }
    }
    for volume in elements(spec, "volumes") {
        if let Some(fields) = volume.as_object_mut().filter(|fields| fields.len() == 1) {
            fields.insert("emptyDir".to_owned(), json!({}));
        }
    }
}

fn elements<'a>(spec: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

pub fn complete(mut pod: Pod, namespace: &str) -> Pod {
    let namespace = if pod.metadata.namespace.is_empty() { namespace.to_owned() } else { pod.metadata.namespace };
    // The rest is not the manifest's to say.
    pod.metadata = Metadata {
        name: pod.metadata.name,
        namespace,
        labels: pod.metadata.labels,
        annotations: pod.metadata.annotations,
        ..Metadata::default()
    };
    if pod.spec.termination_grace_period_seconds < 0 {
        pod.spec.termination_grace_period_seconds = 1;
    }
    let host_network = pod.spec.host_network;
    for container in pod.spec.init_containers.iter_mut().chain(&mut pod.spec.containers) {
        complete_container(container, host_network);
    }
    add_tolerations(pod.spec.passthrough.entry("tolerations".to_owned()).or_insert_with(|| json!([])));
    pod
}

fn complete_container(container: &mut Container, host_network: bool) {
    complete_resources(&mut container.resources);
    for port in &mut container.ports {
        port.host_port = port.host_port.filter(|port| *port != 0);
        if host_network {
            port.host_port = Some(port.container_port);
        }
    }
}

/// Requests are limits where only those are given; nothing is finer than a thousandth.
fn complete_resources(resources: &mut Resources) {
    for (name, limit) in &resources.limits {
        resources.requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    for text in resources.limits.values_mut().chain(resources.requests.values_mut()) {
        if let Ok(quantity) = Quantity::parse(text) {
            *text = quantity.round_up_to_milli().to_string();
        }
    }
}

/// `Always` for `:latest` and for no tag, which means the same.
pub fn pull_policy(image: &str) -> ImagePullPolicy {
    if image.contains('@') {
        return ImagePullPolicy::IfNotPresent;
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    match name.split_once(':') {
        None | Some((_, "latest" | "")) => ImagePullPolicy::Always,
        Some(_) => ImagePullPolicy::IfNotPresent,
    }
}

/// A pod survives five minutes on a node that is not ready or not reachable (admission plugin
/// DefaultTolerationSeconds); here only for what `describe` and `get -o yaml` show.
fn add_tolerations(tolerations: &mut Value) {
    let Some(list) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let is_tolerated = |toleration: &Value| {
            let text = |name: &str| toleration[name].as_str().unwrap_or_default();
            (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "" | "NoExecute")
        };
        if !list.iter().any(is_tolerated) {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", ImagePullPolicy::Always),
            ("nginx:latest", ImagePullPolicy::Always),
            ("host:5000/nginx", ImagePullPolicy::Always),
            ("nginx:1.17", ImagePullPolicy::IfNotPresent),
            ("host:5000/a/nginx:1", ImagePullPolicy::IfNotPresent),
            ("nginx@sha256:0123", ImagePullPolicy::IfNotPresent),
            ("nginx:latest@sha256:0123", ImagePullPolicy::IfNotPresent),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
