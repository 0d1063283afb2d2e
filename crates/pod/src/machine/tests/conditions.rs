//! Conditions, addresses, qosClass and the JSON of a status (kubelet.md §2.7, §2.10).

use super::pods::*;
use crate::status::Phase;
use serde_json::json;

/// `Type=Status` of all conditions, with reason.
fn conditions(run: &Run) -> Vec<String> {
    let text = |c: &crate::status::Condition| {
        let reason = c.reason.as_deref().map(|reason| format!(" {reason}")).unwrap_or_default();
        format!("{}={}{reason}", c.kind, c.status)
    };
    status(run).conditions.iter().map(text).collect()
}

#[test]
fn conditions_come_in_kubelets_order_and_follow_the_pods_life() {
    let pod = pod(json!({"restartPolicy": "Never"}));
    let mut run = simulate(pod, Script { start_after: Some(seconds(2.0)), run: exits(10.0, 0), ..Script::default() });
    run.run_until(seconds(1.0));
    assert_eq!(
        conditions(&run),
        [
            "PodReadyToStartContainers=True",
            "Initialized=True",
            "Ready=False ContainersNotReady",
            "ContainersReady=False ContainersNotReady",
            "PodScheduled=True"
        ]
    );
    run.run_until(seconds(5.0));
    assert_eq!(
        conditions(&run),
        [
            "PodReadyToStartContainers=True",
            "Initialized=True",
            "Ready=True",
            "ContainersReady=True",
            "PodScheduled=True"
        ]
    );
    let ready = &status(&run).conditions[2];
    assert_eq!(ready.last_transition_time, "2023-11-14T22:13:22Z");
    assert_eq!(status(&run).conditions[4].last_transition_time, "2023-11-14T22:13:20Z");
    run.run_until(seconds(20.0));
    assert_eq!(
        conditions(&run),
        [
            "PodReadyToStartContainers=False",
            "Initialized=True PodCompleted",
            "Ready=False PodCompleted",
            "ContainersReady=False PodCompleted",
            "PodScheduled=True"
        ]
    );
}

#[test]
fn a_failed_pod_says_so_in_its_conditions() {
    let run = run(pod(json!({"restartPolicy": "Never"})), Script { run: exits(1.0, 1), ..Script::default() }, 5.0);
    assert_eq!(status(&run).phase, Phase::Failed);
    assert_eq!(conditions(&run)[2..4], ["Ready=False PodFailed", "ContainersReady=False PodFailed"]);
}

#[test]
fn addresses_are_the_sandboxes_or_the_nodes() {
    for (host_network, ip) in [(false, "10.88.0.2"), (true, "192.168.7.5")] {
        let run = run(pod(json!({"hostNetwork": host_network})), Script::default(), 5.0);
        let status = status(&run);
        assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some(ip), Some("192.168.7.5")));
        assert_eq!(status.pod_ips[0].ip, ip);
        assert_eq!(status.start_time.as_deref(), Some("2023-11-14T22:13:20Z"));
    }
}

#[test]
fn a_status_prints_as_the_api_prints_it() {
    let mut run = simulate(web(json!({})), Script { run: exits(3.0, 2), ..Script::default() });
    run.run_until(seconds(4.0));
    let printed = serde_json::to_value(status(&run)).unwrap();
    assert_eq!(
        printed["containerStatuses"][0],
        json!({
            "name": "web", "image": "busybox", "imageID": "", "containerID": "killick://regular0-1",
            "restartCount": 1, "ready": true, "started": true,
            "state": {"running": {"startedAt": "2023-11-14T22:13:23Z"}},
            "lastState": {"terminated": {
                "exitCode": 2, "reason": "Error", "startedAt": "2023-11-14T22:13:20Z",
                "finishedAt": "2023-11-14T22:13:23Z", "containerID": "killick://regular0-0",
            }},
        })
    );
    assert_eq!(printed["phase"], "Running");
}

#[test]
fn a_pod_that_has_not_begun_is_pending() {
    let machine = crate::machine::PodMachine::new(web(json!({})), node());
    assert_eq!(machine.status().phase, Phase::Pending);
    assert_eq!(word(&machine.status().container_statuses[0]), "ContainerCreating");
    assert_eq!(machine.next_deadline(), None);
}
