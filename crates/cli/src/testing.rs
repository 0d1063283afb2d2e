//! Values for the tests of this crate.

use killick_pod::spec::Pod;
use serde_json::{Value, json};

/// A pod named `name`, created 2024-01-02T03:03:48Z on `node-1`; what the manifest's defaults would fill is filled.
pub(crate) fn pod(name: &str, mut spec: Value) -> Pod {
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            fill(
                container,
                json!({"imagePullPolicy": "IfNotPresent", "terminationMessagePath": "/dev/termination-log",
                       "terminationMessagePolicy": "File"}),
            );
        }
    }
    fill(
        &mut spec,
        json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
               "nodeName": "node-1"}),
    );
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": "0d7ac1f2-5f0e-4a53-8f3b-3a1f2b3c4d5e",
                     "creationTimestamp": "2024-01-02T03:03:48Z"},
        "spec": spec,
    });
    serde_json::from_value(value).expect("a pod")
}

fn fill(value: &mut Value, defaults: Value) {
    let (Some(map), Value::Object(defaults)) = (value.as_object_mut(), defaults) else { return };
    for (key, default) in defaults {
        map.entry(key).or_insert(default);
    }
}
