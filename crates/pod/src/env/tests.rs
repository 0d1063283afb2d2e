//! Variables from every source, and the texts when one is missing.

use super::*;
use crate::manifest::{Object, parse};

fn objects(kind: DataKind, namespace: &str, name: &str) -> Option<DataObject> {
    let data = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    };
    let object = |pairs: &[(&str, &str)]| DataObject {
        kind,
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        data: data(pairs),
        binary_data: data(&[("BIN", "x")]),
        immutable: false,
    };
    match (kind, namespace, name) {
        (DataKind::ConfigMap, "default", "m") => {
            Some(object(&[("A", "map a"), ("B", "$(A)"), ("1x", "odd"), ("=", "no")]))
        }
        (DataKind::Secret, "default", "s") => Some(object(&[("A", "secret a"), ("KEY", "k")])),
        _ => None,
    }
}

fn resolve(fields: &str) -> Result<Vec<(String, String)>, String> {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{app: web}}, annotations: {{x/y: note}}}}\n\
         spec:\n  containers:\n  - name: c\n    image: i:1\n    resources: {{limits: {{cpu: 1500m}}, requests: \
         {{memory: 64Mi}}}}\n{fields}"
    );
    let parsed = parse("x", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let Object::Pod(pod) = &parsed[0] else { panic!() };
    let mut pod = pod.clone();
    pod.metadata.uid = "u1".to_owned();
    let node = NodeInfo { name: "node1".to_owned(), ip: Some("192.168.7.5".parse().unwrap()), memory_bytes: 1 << 30 };
    let pod_ip = Some("10.88.0.2".parse().unwrap());
    resolve_env(&pod.spec.containers[0], &Sources { pod: &pod, objects: &objects, node: &node, node_cpus: 4, pod_ip })
}

fn check(fields: &str, expected: &[(&str, &str)]) {
    let result = resolve(fields).unwrap();
    let result: Vec<_> = result.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(result, expected, "{fields}");
}

fn check_value(source: &str, expected: &str) {
    check(&format!("    env: [{{name: X, valueFrom: {{{source}}}}}]\n"), &[("X", expected)]);
}

#[test]
fn literal_values_see_what_stands_before_them() {
    check(
        "    env: [{name: A, value: '1'}, {name: B, value: '$(A)$(C)'}, {name: C, value: '$$(A)'}, {name: D}]\n",
        &[("A", "1"), ("B", "1$(C)"), ("C", "$(A)"), ("D", "")],
    );
    check(
        "    env: [{name: A, value: '1'}, {name: B, value: b}, {name: A, value: '$(A)2'}]\n",
        &[("A", "12"), ("B", "b")],
    );
}

#[test]
fn env_from_comes_first_and_later_sources_win() {
    check(
        "    envFrom: [{configMapRef: {name: m}}, {prefix: S_, secretRef: {name: s}}]\n",
        &[("1x", "odd"), ("A", "map a"), ("B", "$(A)"), ("S_A", "secret a"), ("S_KEY", "k")],
    );
    check(
        "    env: [{name: C, value: '$(A)'}]\n    envFrom: [{configMapRef: {name: m}}, {secretRef: {name: s}}]\n",
        &[("1x", "odd"), ("A", "secret a"), ("B", "$(A)"), ("KEY", "k"), ("C", "secret a")],
    );
    check("    envFrom: [{configMapRef: {name: nosuch, optional: true}}]\n", &[]);
    assert_eq!(
        resolve("    envFrom: [{configMapRef: {name: nosuch}}]\n"),
        Err("configmap \"nosuch\" not found".to_owned())
    );
    assert_eq!(resolve("    envFrom: [{secretRef: {name: nosuch}}]\n"), Err("secret \"nosuch\" not found".to_owned()));
}

#[test]
fn keys_of_objects_are_found_or_named() {
    check_value("configMapKeyRef: {name: m, key: A}", "map a");
    check_value("secretKeyRef: {name: s, key: KEY}", "k");
    for source in [
        "configMapKeyRef: {name: nosuch, key: A, optional: true}",
        "secretKeyRef: {name: s, key: nosuch, optional: true}",
    ] {
        check(&format!("    env: [{{name: X, valueFrom: {{{source}}}}}]\n"), &[]);
    }
    for (source, message) in [
        ("configMapKeyRef: {name: nosuch, key: A}", "configmap \"nosuch\" not found"),
        ("secretKeyRef: {name: nosuch, key: A}", "secret \"nosuch\" not found"),
        ("configMapKeyRef: {name: m, key: nosuch}", "couldn't find key nosuch in ConfigMap default/m"),
        ("configMapKeyRef: {name: m, key: BIN}", "couldn't find key BIN in ConfigMap default/m"),
        ("secretKeyRef: {name: s, key: nosuch}", "couldn't find key nosuch in Secret default/s"),
    ] {
        assert_eq!(resolve(&format!("    env: [{{name: X, valueFrom: {{{source}}}}}]\n")), Err(message.to_owned()));
    }
}

#[test]
fn fields_of_the_pod_are_values() {
    for (path, expected) in [
        ("metadata.name", "p"),
        ("metadata.namespace", "default"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['no']", ""),
        ("metadata.annotations['x/y']", "note"),
        ("spec.nodeName", "node1"),
        ("spec.serviceAccountName", "default"),
        ("status.hostIP", "192.168.7.5"),
        ("status.podIP", "10.88.0.2"),
        ("status.podIPs", "10.88.0.2"),
    ] {
        check_value(&format!("fieldRef: {{fieldPath: \"{path}\"}}"), expected);
    }
}

#[test]
fn resources_are_values_rounded_up() {
    for (reference, expected) in [
        ("resource: limits.cpu", "2"),
        ("resource: limits.cpu, divisor: 1m", "1500"),
        ("resource: limits.memory, divisor: 1Mi", "1024"),
        ("resource: requests.memory", "67108864"),
        ("resource: requests.memory, divisor: 1Gi", "1"),
        ("resource: requests.cpu, containerName: c, divisor: 1m", "1500"),
    ] {
        check_value(&format!("resourceFieldRef: {{{reference}}}"), expected);
    }
}
