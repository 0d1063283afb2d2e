//! Whole manifests: the examples, kinds, defaults, and that no bytes make the reader panic.

mod generated;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::spec::{Handler, ImagePullPolicy, Port, ProbeKind, RestartPolicy};

pub(crate) fn problems(text: &str) -> Vec<String> {
    match parse("pod.yaml", text.as_bytes()) {
        Ok(objects) => panic!("no problems in {text}\n{objects:?}"),
        Err(problems) => problems.iter().map(|problem| problem.to_string()).collect(),
    }
}

fn pod(text: &str) -> Pod {
    let objects = parse("pod.yaml", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}"));
    match <[Object; 1]>::try_from(objects) {
        Ok([Object::Pod(pod)]) => *pod,
        other => panic!("{other:?}"),
    }
}

fn data(text: &str) -> DataObject {
    match parse("x.yaml", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}")).remove(0) {
        Object::Data(data) => data,
        Object::Pod(pod) => panic!("{pod:?}"),
    }
}

#[test]
fn the_exec_example_is_what_it_says() {
    let pod = pod(include_str!("../../../../examples/livenessProbe-exec.yaml"));
    assert_eq!((pod.metadata.name.as_str(), pod.metadata.namespace.as_str()), ("liveness-exec-pod", "default"));
    assert_eq!(pod.metadata.labels["test"], "liveness");
    assert_eq!(pod.spec.restart_policy, RestartPolicy::Always);
    assert_eq!(pod.spec.termination_grace_period_seconds, 30);
    assert!(pod.spec.shares_pid());
    let container = &pod.spec.containers[0];
    assert_eq!(container.image, "registry.cn-beijing.aliyuncs.com/google_registry/busybox:1.24");
    assert_eq!(container.image_pull_policy, ImagePullPolicy::IfNotPresent);
    assert_eq!(container.args, ["/bin/sh", "-c", "touch /tmp/healthy; sleep 30; rm -rf /tmp/healthy; sleep 600"]);
    let probe = container.probe(ProbeKind::Liveness).unwrap();
    assert_eq!(
        probe.handler,
        Handler::Exec(crate::spec::ExecAction { command: vec!["cat".into(), "/tmp/healthy".into()] })
    );
    let numbers = (probe.initial_delay_seconds, probe.period_seconds, probe.timeout_seconds);
    assert_eq!(numbers, (5, 5, 1));
    assert_eq!((probe.success_threshold, probe.failure_threshold), (1, 3));
    assert_eq!(probe.termination_grace_period_seconds, None);
}

#[test]
fn the_other_examples_are_what_they_say() {
    let http = pod(include_str!("../../../../examples/livenessProbe-httpget.yaml"));
    let probe = http.spec.containers[0].liveness_probe.clone().unwrap();
    let Handler::HttpGet(get) = probe.handler else { panic!("{probe:?}") };
    assert_eq!((get.port, get.path.as_str(), get.host), (Port::Name("http".to_owned()), "/index.html", None));
    let port = &http.spec.containers[0].ports[0];
    assert_eq!((port.name.as_deref(), port.container_port, port.protocol.as_str()), (Some("http"), 80, "TCP"));
    assert_eq!(port.host_port, None);

    let tcp = pod(include_str!("../../../../examples/livenessProbe-tcp.yaml"));
    let probe = tcp.spec.containers[0].liveness_probe.clone().unwrap();
    let Handler::TcpSocket(socket) = probe.handler else { panic!("{probe:?}") };
    assert_eq!(socket.port, Port::Number(80));
    assert_eq!((probe.initial_delay_seconds, probe.period_seconds), (5, 3));

    let ready = pod(include_str!("../../../../examples/readinessProbe-httpget.yaml"));
    assert!(ready.spec.containers[0].liveness_probe.is_none());
    assert_eq!(ready.spec.containers[0].readiness_probe.as_ref().unwrap().initial_delay_seconds, 1);

    let tomcat = pod(include_str!("../../../../examples/startupProbe-tomcat.yaml"));
    let container = &tomcat.spec.containers[0];
    let (startup, liveness) = (container.startup_probe.as_ref().unwrap(), container.liveness_probe.as_ref().unwrap());
    assert_eq!((startup.period_seconds, startup.failure_threshold), (1, 60));
    assert_eq!((liveness.period_seconds, liveness.failure_threshold), (2, 1));
}

#[test]
fn defaults_are_the_apis() {
    let pod = pod("
apiVersion: v1
kind: Pod
metadata: {name: p, uid: mine, creationTimestamp: null, generation: 7, labels: {a: ''}}
spec:
  restartPolicy:
  hostNetwork: yes
  terminationGracePeriodSeconds: -5
  containers:
  - name: c
    image: nginx
    ports: [{containerPort: 80.0}]
    env: [{name: A}, {name: B, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]
    resources: {limits: {cpu: 0.5, memory: 1024Mi}, requests: {memory: 1.0001m}}
    readinessProbe: {httpGet: {port: 80}, timeoutSeconds: 0, periodSeconds: 0, failureThreshold: 0}
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v}, {name: h, hostPath: {path: /}}, {name: m, configMap: {name: m, defaultMode: 0}}, {name: s, secret: {secretName: s, defaultMode: 0400}}]
");
    let value = serde_json::to_value(&pod).unwrap();
    let at = |pointer: &str| value.pointer(pointer).cloned().unwrap_or_default();
    for (pointer, expected) in [
        ("/metadata/uid", json!("")),
        ("/metadata/generation", json!(null)),
        ("/metadata/labels/a", json!("")),
        ("/spec/restartPolicy", json!("Always")),
        ("/spec/dnsPolicy", json!("ClusterFirst")),
        ("/spec/schedulerName", json!("default-scheduler")),
        ("/spec/enableServiceLinks", json!(true)),
        ("/spec/serviceAccountName", json!("default")),
        ("/spec/tolerations/1/key", json!("node.kubernetes.io/unreachable")),
        ("/spec/terminationGracePeriodSeconds", json!(1)),
        ("/spec/containers/0/imagePullPolicy", json!("Always")),
        ("/spec/containers/0/terminationMessagePath", json!("/dev/termination-log")),
        ("/spec/containers/0/terminationMessagePolicy", json!("File")),
        ("/spec/containers/0/ports/0", json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"})),
        ("/spec/containers/0/env/1/valueFrom/resourceFieldRef/divisor", json!("0")),
        ("/spec/containers/0/resources/limits", json!({"cpu": "500m", "memory": "1Gi"})),
        ("/spec/containers/0/resources/requests", json!({"cpu": "500m", "memory": "2m"})),
        ("/spec/containers/0/readinessProbe/timeoutSeconds", json!(1)),
        ("/spec/containers/0/readinessProbe/periodSeconds", json!(10)),
        ("/spec/containers/0/readinessProbe/failureThreshold", json!(3)),
        ("/spec/containers/0/readinessProbe/httpGet", json!({"path": "/", "port": 80, "scheme": "HTTP"})),
        ("/spec/volumes/0/emptyDir", json!({})),
        ("/spec/volumes/1/hostPath/type", json!("")),
        ("/spec/volumes/2/configMap/defaultMode", json!(0)),
        ("/spec/volumes/3/secret/defaultMode", json!(0o400)),
    ] {
        assert_eq!(at(pointer), expected, "{pointer}");
    }
    let again: Pod = serde_json::from_value(value).unwrap();
    assert_eq!(again, pod);
}

/// Every field that the table calls honoured must arrive in the types: a pod that sets them all survives the way
/// through them. What is missing here would be lost without a word.
#[test]
fn no_honoured_field_is_lost_on_the_way_to_the_types() {
    let text = include_str!("tests/everything.yaml");
    let documents = yaml::parse(text.as_bytes()).unwrap();
    let mut wanted = schema::build(&documents[0], &Kind::Object(&schema::POD));
    defaults::prepare(&mut wanted);
    let built = serde_json::to_value(pod(text)).unwrap();
    compare("", &wanted["spec"], &built["spec"]);
}

/// The sample above is only worth something if it sets every field.
#[test]
fn the_sample_sets_every_honoured_field() {
    let text = include_str!("tests/everything.yaml");
    let documents = yaml::parse(text.as_bytes()).unwrap();
    let mut missing = std::collections::BTreeMap::new();
    unset(&documents[0], &Kind::Object(&schema::POD), "", &mut missing);
    let mut never_set: Vec<_> = missing.into_iter().filter(|(_, is_set)| !is_set).map(|(name, _)| name.1).collect();
    // Sysctls of the network or of IPC do not go with the host's namespaces; profiles of files are refused.
    never_set.sort();
    assert_eq!(never_set, ["localhostProfile", "sysctls"]);
}

type Seen = std::collections::BTreeMap<(usize, String), bool>;

fn unset(node: &Node, kind: &Kind, path: &str, seen: &mut Seen) {
    match (kind, &node.value) {
        (Kind::Object(table), _) => {
            for field in table.fields.iter().filter(|field| field.support == schema::Support::Honoured) {
                let value = node.get(field.name);
                *seen.entry((std::ptr::from_ref(*table) as usize, field.name.to_owned())).or_default() |=
                    value.is_some();
                if let Some(entry) = value {
                    unset(&entry.value, &field.kind, &join(path, field.name), seen);
                }
            }
        }
        (Kind::List(kind), Value::List(list)) => list.iter().for_each(|node| unset(node, kind, path, seen)),
        _ => {}
    }
}

fn compare(path: &str, wanted: &Json, built: &Json) {
    match (wanted, built) {
        (Json::Object(wanted), built) => {
            for (key, value) in wanted {
                compare(&format!("{path}.{key}"), value, built.get(key).unwrap_or(&Json::Null));
            }
        }
        (Json::Array(wanted), built) => {
            for (index, value) in wanted.iter().enumerate() {
                compare(&format!("{path}[{index}]"), value, built.get(index).unwrap_or(&Json::Null));
            }
        }
        // The types leave out what is false or empty.
        (Json::Bool(false), Json::Null) => {}
        (wanted, built) => assert_eq!(wanted, built, "{path}"),
    }
}

#[test]
fn objects_of_every_kind_are_read_in_order() {
    let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {a: '1'}, binaryData: {b: AAE=}, immutable: true}
- {apiVersion: v1, kind: Secret, metadata: {name: s, namespace: other}, data: {a: YQ==, b: Yg==}, stringData: {b: B}, type: Opaque}
---
{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": {\"containers\": [{\"name\": \"c\", \"image\": \"i:1\"}]}}
---
";
    let objects = parse_in("x.yaml", text.as_bytes(), "team").unwrap();
    let [Object::Data(map), Object::Data(secret), Object::Pod(pod)] = &objects[..] else { panic!("{objects:?}") };
    assert_eq!((map.kind, map.name.as_str(), map.namespace.as_str()), (DataKind::ConfigMap, "c", "team"));
    assert_eq!((&map.data["a"][..], &map.binary_data["b"][..], map.immutable), (&b"1"[..], &b"\x00\x01"[..], true));
    assert_eq!((secret.kind, secret.namespace.as_str()), (DataKind::Secret, "other"));
    assert_eq!((&secret.data["a"][..], &secret.data["b"][..]), (&b"a"[..], &b"B"[..]));
    assert_eq!(pod.metadata.namespace, "team");
    assert_eq!(parse("x", b"# nothing\n---\n"), Ok(Vec::new()));
    assert!(data("{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}").data.is_empty());
}

#[test]
fn an_unknown_kind_has_kubectls_words() {
    let check = |text: &str, expected: &str| {
        let problems = problems(text);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{problems:?}");
    };
    check("a: b", "pod.yaml:1:1: unable to decode \"pod.yaml\": Object 'Kind' is missing in '{\"a\":\"b\"}'");
    check("kind: Pod", "pod.yaml:1:1: unable to decode \"pod.yaml\": Object 'apiVersion' is missing in ");
    check(
        "apiVersion: v1\nkind: Foo\nmetadata: {name: x}",
        "pod.yaml:2:7: resource mapping not found for name: \"x\" namespace: \"\" from \"pod.yaml\": no matches for kind \"Foo\" in version \"v1\"; ",
    );
    check("apiVersion: v2\nkind: Pod\n", "pod.yaml:1:13: resource mapping not found for name: \"\" ");
    check("apiVersion: v1\nkind: Pd\n", "pod.yaml:2:7: resource mapping not found");
    assert!(problems("apiVersion: v1\nkind: pod\n")[0].ends_with("did you mean \"Pod\"?"));
    check("- a\n", "pod.yaml:1:1: an object must be a map");
    check("apiVersion: 1\nkind: Pod\n", "pod.yaml:1:13: apiVersion: Invalid value: 1: must be a string");
    check("apiVersion: v1\nkind: List\nitems: [{a: b}]", "pod.yaml:3:9: items[0]: unable to decode");
    check("a: [1, 2\nb: }", "pod.yaml:2:");
}

const WORDS: &[&str] = &[
    "apiVersion: v1\n",
    "kind: Pod\n",
    "metadata:\n",
    "  name: x\n",
    "spec:\n",
    "  containers:\n",
    "  - name: a\n",
    "    image: i\n",
    "    livenessProbe:\n",
    "      exec:\n",
    "        command: [a]\n",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\n",
    "  ",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "---\n",
    "...\n",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "#",
    "?",
    "%YAML 1.1\n",
    "\t",
    "é",
    "\u{0}",
    "~",
    "0x",
    "-1",
    "1e9999",
    "volumes: [{name: v}]\n",
    "\\u",
    "\u{feff}",
    "@",
    "`",
    "resources: ",
];

/// `PROPTEST_CASES` for a longer search.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse("x", &bytes);
    }

    #[test]
    fn no_text_that_looks_like_yaml_makes_the_reader_panic(
        words in proptest::collection::vec(proptest::sample::select(WORDS), 0..60),
    ) {
        let _ = parse("x", words.concat().as_bytes());
    }

    /// A good manifest with a piece cut out and another put in.
    #[test]
    fn no_damage_to_a_manifest_makes_the_reader_panic(
        cut in 0_usize..2500, length in 0_usize..200, put in proptest::sample::select(WORDS),
    ) {
        let text = include_str!("tests/everything.yaml");
        let bytes: Vec<u8> = text.bytes().take(cut).chain(put.bytes()).chain(text.bytes().skip(cut + length)).collect();
        let _ = parse("x", &bytes);
    }
}
