//! Scripts are read, and pods live by them.

use super::*;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    let mut full = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst"});
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": "u1"}, "spec": full,
    }))
    .unwrap()
}

fn container(name: &str, liveness: Option<(i64, i64)>) -> Value {
    let mut container = json!({
        "name": name, "image": "nginx", "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    });
    if let Some((delay, period)) = liveness {
        container["livenessProbe"] = json!({
            "tcpSocket": {"port": 8090}, "initialDelaySeconds": delay, "periodSeconds": period,
            "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
        });
    }
    container
}

fn lived(pod: &Pod, script: &Script, end: u64) -> Vec<String> {
    simulate(pod, script, Duration::from_secs(end)).unwrap().iter().map(Line::to_string).collect()
}

#[test]
fn the_tutorials_tcp_pod_fails_at_6_9_12_and_backs_off_at_48() {
    let pod = pod(json!({"containers": [container("liveness-tcp", Some((5, 3)))]}));
    let mut script = Script::default();
    script.add_probe_trace("liveness-tcp.liveness=fail").unwrap();
    let lines = lived(&pod, &script, 70);
    assert_eq!(
        lines[..9],
        [
            "     0.1s  liveness-tcp started",
            "     0.1s  pod is ready",
            "     0.1s  pod is Running",
            "     6.0s  Unhealthy: Liveness probe failed: simulated",
            "     9.0s  Unhealthy: Liveness probe failed: simulated",
            "    12.0s  Unhealthy: Liveness probe failed: simulated",
            "    12.0s  Killing: Container liveness-tcp failed liveness probe, will be restarted",
            "    12.0s  liveness-tcp ended with exit code 143",
            "    12.0s  pod is not ready",
        ]
    );
    let waiting = "    49.0s  liveness-tcp is waiting: CrashLoopBackOff: \
                   back-off 20s restarting failed container=liveness-tcp pod=p_default(u1)";
    assert!(lines.contains(&waiting.to_owned()), "{lines:#?}");
    assert!(lines.contains(&"    68.0s  liveness-tcp started again, restart 4".to_owned()), "{lines:#?}");
}

#[test]
fn instances_end_as_the_script_says_and_the_last_word_holds() {
    let pod = pod(json!({"restartPolicy": "OnFailure", "containers": [container("a", None)]}));
    let mut script = Script::default();
    script.add_exit("a=2s:1,500ms:0").unwrap();
    let lines = lived(&pod, &script, 60);
    assert_eq!(
        lines[3..],
        [
            "     2.0s  a ended with exit code 1",
            "     2.0s  pod is not ready",
            "     2.1s  a started again, restart 1",
            "     2.1s  pod is ready",
            "     2.6s  a ended with exit code 0",
            "     2.6s  pod is not ready",
            "     2.6s  pod is Succeeded",
        ]
    );
}

#[test]
fn pid_1_of_its_own_namespace_ignores_term_unless_the_script_says_more() {
    let pod = |share: bool| pod(json!({"shareProcessNamespace": share, "containers": [container("a", Some((0, 1)))]}));
    let ended = |pod: &Pod, script: &Script| {
        let mut lines = lived(pod, script, 60).into_iter();
        lines.find(|line| line.contains("ended")).unwrap()
    };
    let mut script = Script::default();
    script.add_probe_trace("a.liveness=ok,fail@4s").unwrap();
    assert_eq!(ended(&pod(true), &script), "     7.0s  a ended with exit code 143");
    assert_eq!(ended(&pod(false), &script), "    37.0s  a ended with exit code 137");
    script.add_on_term("a=1s:0").unwrap();
    assert_eq!(ended(&pod(false), &script), "     8.0s  a ended with exit code 0");
}

#[test]
fn init_containers_succeed_at_once_unless_the_script_says_more() {
    let pod = pod(json!({"initContainers": [container("i", None)], "containers": [container("a", None)]}));
    assert!(lived(&pod, &Script::default(), 5).contains(&"     0.1s  a started".to_owned()));
    let mut script = Script::default();
    script.add_exit("i=10:0").unwrap();
    assert!(lived(&pod, &script, 15).contains(&"    10.1s  a started".to_owned()));
}

#[test]
fn what_a_script_cannot_mean_is_refused_by_name() {
    let pod = pod(json!({"containers": [container("a", None)]}));
    let check = |add: fn(&mut Script, &str) -> Result<(), String>, text: &str, expected: &str| {
        let mut script = Script::default();
        let refused = add(&mut script, text).and_then(|()| script.check(&pod));
        assert_eq!(refused.unwrap_err(), expected, "{text}");
    };
    check(Script::add_exit, "a", "\"a\": expected CONTAINER=AFTER:CODE");
    check(Script::add_exit, "a=5s", "\"5s\": expected AFTER:CODE");
    check(Script::add_exit, "a=5s:256", "\"256\": an exit code is a number from 0 to 255");
    let time = "a time is a number with ms, s, m or h, at most 8760h0m0s";
    check(Script::add_exit, "a=5y:0", &format!("\"5y\": {time}"));
    check(Script::add_exit, "a=9999999h:0", &format!("\"9999999h\": {time}"));
    check(Script::add_exit, "b=5s:0", "no container \"b\" in this pod; it has: a");
    check(Script::add_probe_trace, "a=ok", "\"a=ok\": expected CONTAINER.KIND=FOUND@TIME");
    check(Script::add_probe_trace, "a.livelyness=ok", "\"livelyness\": a probe is liveness, readiness or startup");
    check(Script::add_probe_trace, "a.liveness=good", "\"good\": a probe finds ok, fail or unknown");
    check(Script::add_probe_trace, "a.liveness=ok@9s,fail@3s", "\"ok@9s,fail@3s\": the times must rise");
    check(Script::add_probe_trace, "a.liveness=ok", "container \"a\" has no liveness probe");
    check(Script::add_on_term, "a=never", "\"never\": expected AFTER:CODE");
}
