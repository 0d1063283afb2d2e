//! Tables of kubelet's and containerd's rules, and whole configurations compared with golden files
//! (`UPDATE_GOLDEN=1 cargo test` writes them).

use std::path::Path;

use killick_pod::spec::{ImagePullPolicy, PodSpec, TerminationMessagePolicy};
use serde_json::{Value, json};

use super::*;

/// A pod of one container; `spec` and `container` are merged over the least that the types ask for.
fn pod(spec: Value, container: Value) -> Pod {
    let mut whole = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "0-1"},
        "spec": {
            "containers": [], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
        },
    });
    merge(&mut whole["spec"], spec);
    let mut first = json!(blank("app"));
    merge(&mut first, container);
    let containers = whole["spec"]["containers"].as_array_mut().unwrap();
    containers.insert(0, first);
    serde_json::from_value(whole).unwrap()
}

fn blank(name: &str) -> Value {
    json!({
        "name": name, "image": "busybox", "imagePullPolicy": json!(ImagePullPolicy::IfNotPresent),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": json!(TerminationMessagePolicy::File),
    })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn node() -> NodeView {
    NodeView {
        memory_bytes: 4 << 30,
        capabilities: CapSet::ALL.without(24),
        ptrace_is_filtered: true,
        ..NodeView::default()
    }
}

fn image() -> ImageConfig {
    serde_json::from_value(json!({"Env": ["PATH=/bin", "A=image", "B=image"], "WorkingDir": "/srv"})).unwrap()
}

fn request<'a>(pod: &'a Pod, image: &'a ImageConfig, node: &'a NodeView) -> Request<'a> {
    Request {
        pod,
        container: &pod.spec.containers[0],
        image,
        sandbox: SandboxView { hostname: "web", cgroup: Path::new("killick/pod0-1") },
        node,
        args: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
        env: vec![("B".to_owned(), "pod".to_owned()), ("C".to_owned(), "a=b".to_owned())],
        binds: Vec::new(),
    }
}

fn built(spec: Value, container: Value) -> ContainerConfig {
    let pod = pod(spec, container);
    config(&request(&pod, &image(), &node())).unwrap()
}

fn refused(spec: Value, container: Value, image_user: &str) -> String {
    let pod = pod(spec, container);
    let image = ImageConfig { user: image_user.to_owned(), ..image() };
    config(&request(&pod, &image, &node())).unwrap_err()
}

/// The configuration as JSON that reads the same each time: sets sorted, the seccomp profile as its size.
fn stable(config: &ContainerConfig) -> Value {
    let mut json = serde_json::to_value(&config.spec).unwrap();
    for set in json["process"]["capabilities"].as_object_mut().unwrap().values_mut() {
        set.as_array_mut().unwrap().sort_by_key(|v| v.as_str().unwrap().to_owned());
    }
    if let Some(rules) = json["linux"]["seccomp"]["syscalls"].as_array().map(Vec::len) {
        json["linux"]["seccomp"]["syscalls"] = json!(format!("{rules} rules"));
    }
    json!({"spec": json, "user": format!("{:?}", config.user), "join": config.join})
}

fn golden(name: &str, config: &ContainerConfig) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/container_config/golden/{name}.json"));
    let text = format!("{}\n", serde_json::to_string_pretty(&stable(config)).unwrap());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(text, expected, "{name}: compare with golden/{name}.json, or write it with UPDATE_GOLDEN=1");
}

#[test]
fn a_plain_container() {
    golden("plain", &built(json!({}), json!({})));
}

#[test]
fn a_privileged_container_on_v2() {
    let pod = pod(json!({"hostIPC": true}), json!({"securityContext": {"privileged": true}, "tty": true}));
    let fuse = serde_json::from_value(json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229})).unwrap();
    let node = NodeView { cgroup_v2: true, devices: vec![fuse], huge_page_sizes: vec!["2MB".to_owned()], ..node() };
    golden("privileged", &config(&request(&pod, &image(), &node)).unwrap());
}

#[test]
fn a_restricted_container() {
    let spec = json!({
        "shareProcessNamespace": false,
        "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000, 2000],
            "runAsNonRoot": true},
    });
    let container = json!({
        "workingDir": "/tmp",
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        "resources": {"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
    });
    let pod = pod(spec, container);
    let (image, node) = (ImageConfig::default(), node());
    let mut request = request(&pod, &image, &node);
    let binds = [
        ("/data", "/proc/self/fd/9", true, true, MountPropagation::HostToContainer),
        ("/etc/hosts", "/run/hosts", false, false, MountPropagation::None),
        ("/dev/shm/", "/proc/self/fd/8", false, false, MountPropagation::None),
        ("/data/inner", "/proc/self/fd/7", true, false, MountPropagation::Bidirectional),
    ];
    request.binds = binds
        .into_iter()
        .map(|(destination, source, read_only, recursive_read_only, propagation)| Bind {
            source: source.into(),
            destination: destination.into(),
            read_only,
            recursive_read_only,
            propagation,
        })
        .collect();
    golden("restricted", &config(&request).unwrap());
}

#[test]
fn variables_come_from_the_image_and_the_pod_wins() {
    let config = built(json!({}), json!({"tty": true}));
    let env = config.spec.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(env, ["PATH=/bin", "HOSTNAME=web", "TERM=xterm", "A=image", "B=pod", "C=a=b"]);
    let pod = pod(json!({}), json!({}));
    let config = super::config(&request(&pod, &ImageConfig::default(), &node())).unwrap();
    let env = config.spec.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(env[0], format!("PATH={PATH_DEFAULT}"));
    assert_eq!(config.spec.process().as_ref().unwrap().cwd(), Path::new("/"));
}

#[test]
fn capabilities_are_added_and_dropped_as_containerd_does() {
    let host = CapSet::ALL.without(24);
    let check = |security: Value, expected: &[&str]| {
        let security: SecurityContext = serde_json::from_value(security.clone()).unwrap();
        let set = security::capabilities(&security, host).unwrap();
        let names: Vec<&str> = set.names().collect();
        assert_eq!(names, expected, "{security:?}");
    };
    let names = |set: CapSet| set.names().collect::<Vec<_>>();
    let default = security::capabilities(&SecurityContext::default(), host).unwrap();
    assert_eq!(default.numbers().count(), 14);
    let caps = |add: &[&str], drop: &[&str]| json!({"capabilities": {"add": add, "drop": drop}});
    check(json!({}), &names(default));
    check(caps(&[], &["ALL"]), &[]);
    check(caps(&["CHOWN"], &["ALL"]), &["CAP_CHOWN"]);
    check(caps(&["cap_chown"], &["all"]), &["CAP_CHOWN"]);
    check(caps(&["ALL"], &[]), &names(host));
    check(caps(&["ALL"], &["CHOWN"]), &names(host.without(0)));
    check(caps(&["ALL"], &["ALL"]), &[]);
    check(caps(&["NET_ADMIN"], &["NET_RAW"]), &names(default.with(12).without(13)));
    check(caps(&["KILL"], &["KILL"]), &names(default.without(5)));
    check(json!({"privileged": true, "capabilities": {"drop": ["ALL"]}}), &names(host));
    let unknown: SecurityContext = serde_json::from_value(caps(&["FLY"], &[])).unwrap();
    assert_eq!(security::capabilities(&unknown, host).unwrap_err(), "unknown capability \"FLY\"");
}

#[test]
fn no_new_privileges_only_when_escalation_is_forbidden() {
    for (security, expected) in [
        (json!({}), false),
        (json!({"allowPrivilegeEscalation": true}), false),
        (json!({"allowPrivilegeEscalation": false}), true),
        (json!({"allowPrivilegeEscalation": false, "privileged": true}), false),
    ] {
        let config = built(json!({}), json!({"securityContext": security}));
        assert_eq!(config.spec.process().as_ref().unwrap().no_new_privileges(), Some(expected), "{security}");
    }
}

#[test]
fn the_user_is_the_containers_then_the_pods_then_the_images() {
    let check = |pod_level: Value, own: Value, image_user: &str, user: &str, group: Option<u32>, ids: (u32, u32)| {
        let pod = pod(json!({"securityContext": pod_level}), json!({"securityContext": own}));
        let image = ImageConfig { user: image_user.to_owned(), ..image() };
        let config = config(&request(&pod, &image, &node())).unwrap();
        let UserRequest::Lookup(query) = &config.user else { panic!("{:?}", config.user) };
        assert_eq!((query.user.as_str(), query.gid), (user, group));
        let numbers = config.spec.process().as_ref().unwrap().user().clone();
        assert_eq!((numbers.uid(), numbers.gid()), ids);
    };
    let none = json!({});
    check(none.clone(), none.clone(), "", "", None, (0, 0));
    check(none.clone(), none.clone(), "nginx:www", "nginx:www", None, (0, 0));
    check(none.clone(), none.clone(), "101:102", "101:102", None, (101, 102));
    check(json!({"runAsUser": 5}), none.clone(), "nginx", "5", None, (5, 0));
    check(json!({"runAsUser": 5}), json!({"runAsUser": 6}), "nginx", "6", None, (6, 0));
    check(json!({"runAsGroup": 7}), none.clone(), "101:102", "101:102", Some(7), (101, 7));
    check(json!({"runAsGroup": 7}), json!({"runAsGroup": 8, "runAsUser": 9}), "", "9", Some(8), (9, 8));
}

#[test]
fn run_as_non_root_is_checked_before_creation() {
    let place = "(pod: \"web_default(0-1)\", container: app)";
    let must = json!({"securityContext": {"runAsNonRoot": true}});
    let cases = [
        (must.clone(), json!({}), "", format!("container has runAsNonRoot and image will run as root {place}")),
        (must.clone(), json!({}), "0:5", format!("container has runAsNonRoot and image will run as root {place}")),
        (
            must.clone(),
            json!({}),
            "nginx",
            format!(
                "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root {place}"
            ),
        ),
        (
            json!({}),
            json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 0}}),
            "5",
            format!("container's runAsUser breaks non-root policy {place}"),
        ),
    ];
    for (spec, container, user, expected) in cases {
        assert_eq!(refused(spec, container, user), expected);
    }
    let pod = pod(must, json!({"securityContext": {"runAsNonRoot": false}}));
    config(&request(&pod, &image(), &node())).expect("the container's own word counts");
}

#[test]
fn seccomp_is_the_default_unless_unconfined() {
    let profile = |spec: Value, security: Value| {
        built(json!({"securityContext": spec}), json!({"securityContext": security}))
            .spec
            .linux()
            .as_ref()
            .unwrap()
            .seccomp()
            .is_some()
    };
    let kind = |kind: &str| json!({"seccompProfile": {"type": kind}});
    assert!(profile(json!({}), json!({})));
    assert!(profile(json!({}), kind("RuntimeDefault")));
    assert!(!profile(json!({}), kind("Unconfined")));
    assert!(!profile(kind("Unconfined"), json!({})));
    assert!(profile(kind("Unconfined"), kind("RuntimeDefault")));
    assert!(!profile(json!({}), json!({"privileged": true})));
    let localhost = json!({"securityContext": kind("Localhost")});
    assert_eq!(refused(json!({}), localhost, ""), "seccompProfile.type Localhost is not supported");
}

#[test]
fn namespaces_follow_the_pod() {
    let check = |spec: Value, new: &[LinuxNamespaceType], joins_pid: bool| {
        let config = built(spec.clone(), json!({}));
        let listed = config.spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let kinds: Vec<LinuxNamespaceType> = listed.iter().map(|n| n.typ()).collect();
        assert_eq!(kinds, new, "{spec}");
        assert_eq!(config.join.contains(&NamespaceKind::Pid), joins_pid, "{spec}");
        assert_eq!(config.join.len(), 3 + usize::from(joins_pid));
    };
    check(json!({}), &[LinuxNamespaceType::Mount], true);
    check(json!({"hostPID": true}), &[LinuxNamespaceType::Mount], true);
    check(json!({"shareProcessNamespace": false}), &[LinuxNamespaceType::Pid, LinuxNamespaceType::Mount], false);
}

#[test]
fn an_unmasked_proc_is_refused_and_so_is_a_container_without_a_command() {
    let unmasked = json!({"securityContext": {"procMount": "Unmasked"}});
    assert!(refused(json!({}), unmasked, "").contains("procMount"));
    let pod = pod(json!({}), json!({}));
    let (image, node) = (image(), node());
    let mut request = request(&pod, &image, &node);
    request.args.clear();
    assert_eq!(config(&request).unwrap_err(), "no command specified");
}

fn resources(requests: Value, limits: Value) -> Value {
    json!({"resources": {"requests": requests, "limits": limits}})
}

#[test]
fn requests_and_limits_become_kubelets_values() {
    let check = |requests: Value, limits: Value, shares: u64, quota: Option<i64>, memory: Option<i64>, score: i32| {
        let config = built(json!({}), resources(requests.clone(), limits.clone()));
        let linux = config.spec.linux().clone().unwrap();
        let values = linux.resources().clone().unwrap();
        let cpu = values.cpu().clone().unwrap();
        assert_eq!(cpu.shares(), Some(shares), "{requests} {limits}");
        assert_eq!(cpu.quota(), quota, "{requests} {limits}");
        assert_eq!(cpu.period(), quota.map(|_| 100_000));
        assert_eq!(values.memory().as_ref().and_then(|m| m.limit()), memory, "{requests} {limits}");
        assert_eq!(values.memory().as_ref().and_then(|m| m.swap()), memory);
        assert_eq!(config.spec.process().as_ref().unwrap().oom_score_adj(), Some(score), "{requests} {limits}");
    };
    check(json!({}), json!({}), 2, None, None, 1_000);
    check(json!({"cpu": "1"}), json!({}), 1_024, None, None, 999);
    check(json!({"cpu": "1m"}), json!({}), 2, None, None, 999);
    check(json!({"cpu": "1000"}), json!({}), 262_144, None, None, 999);
    check(json!({}), json!({"cpu": "500m"}), 512, Some(50_000), None, 999);
    check(json!({}), json!({"cpu": "1m"}), 2, Some(1_000), None, 999);
    check(json!({"memory": "1Gi"}), json!({}), 2, None, None, 750);
    check(json!({"memory": "4Gi"}), json!({}), 2, None, None, 3);
    check(json!({"memory": "1Ki"}), json!({}), 2, None, None, 999);
    check(json!({}), json!({"cpu": "2", "memory": "64Mi"}), 2_048, Some(200_000), Some(67_108_864), -997);
    check(json!({"cpu": "0"}), json!({"cpu": "0"}), 2, None, None, 1_000);
}

#[test]
fn a_pods_cgroup_has_the_sum() {
    let container = |name: &str, requests: Value, limits: Value| {
        let mut value = blank(name);
        merge(&mut value, resources(requests, limits));
        value
    };
    let values = |spec: Value, own: Value| {
        let resources = pod_resources(&pod(spec, own)).unwrap();
        let cpu = resources.cpu().clone().unwrap();
        (cpu.shares().unwrap(), cpu.quota(), resources.memory().as_ref().and_then(|m| m.limit()))
    };
    let limits = json!({"cpu": "500m", "memory": "10Mi"});
    let all = json!({"containers": [container("b", json!({}), limits.clone())]});
    assert_eq!(values(all, resources(json!({}), limits.clone())), (1_024, Some(100_000), Some(20 << 20)));
    let one_without = json!({"containers": [container("b", json!({"cpu": "500m"}), json!({"memory": "10Mi"}))]});
    assert_eq!(values(one_without, resources(json!({}), limits.clone())), (1_024, None, Some(20 << 20)));
    // An init container that wants more than all that run later.
    let init = json!({"initContainers": [container("i", json!({}), json!({"cpu": "2", "memory": "5Mi"}))]});
    assert_eq!(values(init, resources(json!({}), limits.clone())), (2_048, Some(200_000), Some(10 << 20)));
    // A sidecar counts beside the others, and beside the init containers after it.
    let mut sidecar = container("s", json!({}), limits.clone());
    merge(&mut sidecar, json!({"restartPolicy": "Always"}));
    let later = container("i", json!({}), limits.clone());
    let with_sidecar = json!({"initContainers": [sidecar, later]});
    assert_eq!(values(with_sidecar, resources(json!({}), limits)), (1_024, Some(100_000), Some(20 << 20)));
    assert_eq!(values(json!({}), json!({})), (2, None, None));
}

#[test]
fn huge_pages_are_limited_in_every_size() {
    let pod = pod(json!({}), resources(json!({}), json!({"hugepages-2Mi": "4Mi", "memory": "1Mi"})));
    let node = NodeView { huge_page_sizes: vec!["1GB".to_owned(), "2MB".to_owned()], ..node() };
    let config = config(&request(&pod, &image(), &node)).unwrap();
    let limits = config.spec.linux().clone().unwrap().resources().clone().unwrap().hugepage_limits().clone().unwrap();
    let limits: Vec<(String, i64)> = limits.iter().map(|l| (l.page_size().clone(), l.limit())).collect();
    assert_eq!(limits, [("1GB".to_owned(), 0), ("2MB".to_owned(), 4 << 20)]);
}

/// The types are what the manifest's reader makes: this file builds them from the same JSON.
#[test]
fn the_test_pod_is_a_pod() {
    let spec: PodSpec = pod(json!({}), json!({})).spec;
    assert_eq!(spec.containers.len(), 1);
}
