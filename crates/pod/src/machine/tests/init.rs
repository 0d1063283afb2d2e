//! Init containers and sidecars, row by row (kubelet.md §2.3).

use super::pods::*;
use crate::event::{Attempt, ContainerId};
use crate::spec::{Pod, ProbeKind};
use crate::status::Phase;
use serde_json::{Value, json};

const FIRST: ContainerId = ContainerId::Init(0);
const SECOND: ContainerId = ContainerId::Init(1);

fn with_inits(policy: &str, inits: Value) -> Pod {
    pod(json!({"restartPolicy": policy, "initContainers": inits}))
}

fn sidecar(name: &str, mut fields: Value) -> Value {
    fields["restartPolicy"] = json!("Always");
    container(name, fields)
}

fn by_container(answers: &'static [(ContainerId, Option<(f64, i32)>)]) -> Option<Answer<Attempt, Option<(f64, i32)>>> {
    Some(Box::new(move |attempt| {
        answers.iter().find(|(container, _)| *container == attempt.container).and_then(|(_, end)| *end)
    }))
}

#[test]
fn plain_ones_run_one_after_the_other_and_gate_the_regular_ones() {
    let inits = json!([container("one", json!({})), container("two", json!({}))]);
    let script =
        Script { run: by_container(&[(FIRST, Some((3.0, 0))), (SECOND, Some((4.0, 0)))]), ..Script::default() };
    let mut run = simulate(with_inits("Always", inits), script);
    run.run_until(seconds(2.0));
    assert_eq!(status(&run).phase, Phase::Pending);
    assert_eq!(word(web_status(&run)), "PodInitializing");
    assert_eq!(word(&status(&run).init_container_statuses[0]), "Running");
    assert_eq!(word(&status(&run).init_container_statuses[1]), "PodInitializing");
    let initialized = &status(&run).conditions[1];
    assert_eq!(initialized.reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [one two]"));
    run.run_until(seconds(20.0));
    assert_eq!((starts(&run, FIRST), starts(&run, SECOND), starts(&run, WEB)), (vec![0], vec![3], vec![7]));
    assert_eq!(word(&status(&run).init_container_statuses[1]), "Completed 0");
    assert!(status(&run).init_container_statuses[1].ready);
    assert_eq!((status(&run).phase, status(&run).conditions[1].status.as_str()), (Phase::Running, "True"));
}

#[test]
fn a_failing_init_container_restarts_with_back_off_or_fails_the_pod() {
    let inits = || json!([container("one", json!({}))]);
    let script = || Script { run: by_container(&[(FIRST, Some((1.0, 5)))]), ..Script::default() };
    for policy in ["Always", "OnFailure"] {
        let run = run(with_inits(policy, inits()), script(), 50.0);
        assert_eq!(starts(&run, FIRST), [0, 1, 12, 33], "{policy}");
        let init = &status(&run).init_container_statuses[0];
        assert_eq!((word(init).as_str(), init.restart_count), ("CrashLoopBackOff", 3));
        assert_eq!(status(&run).phase, Phase::Pending);
        assert!(starts(&run, WEB).is_empty());
    }
    let run = run(with_inits("Never", inits()), script(), 50.0);
    assert_eq!((starts(&run, FIRST), starts(&run, WEB)), (vec![0], vec![]));
    assert_eq!(status(&run).phase, Phase::Failed);
    assert_eq!(word(&status(&run).init_container_statuses[0]), "Error 5");
    assert_eq!(times(&run, |a| matches!(a, crate::event::Action::StopSandbox { .. })), [1]);
}

#[test]
fn a_sidecar_gates_the_next_until_its_startup_probe_has_succeeded() {
    let startup = probe(json!({"periodSeconds": 2, "failureThreshold": 10}));
    let inits = json!([sidecar("side", json!({"startupProbe": startup})), container("two", json!({}))]);
    let script = Script {
        run: by_container(&[(SECOND, Some((1.0, 0)))]),
        probe: Some(Box::new(|(_, _, running)| if running < 5.0 { fails() } else { crate::event::Outcome::Success })),
        ..Script::default()
    };
    let mut run = simulate(with_inits("Never", inits), script);
    run.run_until(seconds(3.0));
    assert_eq!((status(&run).phase, status(&run).init_container_statuses[0].started), (Phase::Pending, Some(false)));
    run.run_until(seconds(20.0));
    assert_eq!((starts(&run, SECOND), starts(&run, WEB)), (vec![6], vec![7]));
    assert_eq!(probes(&run, ProbeKind::Startup), [2, 4, 6]);
}

#[test]
fn a_sidecar_restarts_whatever_the_policy_and_gates_no_more() {
    for policy in ["Always", "OnFailure", "Never"] {
        let inits = json!([sidecar("side", json!({}))]);
        let script = Script {
            run: Some(Box::new(|attempt| (attempt.container == FIRST && attempt.number == 0).then_some((5.0, 0)))),
            ..Script::default()
        };
        let mut run = simulate(with_inits(policy, inits), script);
        run.run_until(seconds(20.0));
        assert_eq!((starts(&run, FIRST), starts(&run, WEB)), (vec![0, 5], vec![0]), "{policy}");
        assert_eq!(status(&run).conditions[1].status, "True", "Initialized stays");
        assert_eq!(status(&run).init_container_statuses[0].restart_count, 1);
    }
}

#[test]
fn sidecars_count_for_ready_and_do_not_keep_the_pod_from_completing() {
    let readiness = probe(json!({"periodSeconds": 2}));
    let inits = json!([sidecar("side", json!({"readinessProbe": readiness})), sidecar("other", json!({}))]);
    let script = Script {
        run: by_container(&[(WEB, Some((9.0, 0)))]),
        probe: Some(Box::new(|(_, _, running)| if running < 5.0 { fails() } else { crate::event::Outcome::Success })),
        ..Script::default()
    };
    let mut run = simulate(with_inits("OnFailure", inits), script);
    run.run_until(seconds(4.0));
    let ready = &status(&run).conditions[2];
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [side]"));
    run.run_until(seconds(8.0));
    assert_eq!(status(&run).conditions[2].status, "True");
    run.run_until(seconds(9.3));
    run.run_until(seconds(20.0));
    assert_eq!(status(&run).phase, Phase::Succeeded);
    // Reverse order: the last one first.
    assert_eq!(told(&run, &["Killing"]), ["9 Killing: Stopping container other", "9 Killing: Stopping container side"]);
    let ready = &status(&run).conditions[2];
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("PodCompleted")));
}

#[test]
fn a_sidecars_probe_kills_it_with_its_own_words() {
    let failing = || probe(json!({"periodSeconds": 1, "failureThreshold": 1}));
    for (field, what) in [("livenessProbe", "liveness"), ("startupProbe", "startup")] {
        let inits = json!([sidecar("side", json!({field: failing()}))]);
        let run = run(with_inits("Never", inits), Script { probe: fail_all(), ..Script::default() }, 1.5);
        assert_eq!(told(&run, &["Killing"]), [format!("1 Killing: Init container side failed {what} probe")]);
        assert_eq!(starts(&run, FIRST), [0, 1]);
    }
}

#[test]
fn a_plain_init_container_is_restarted_by_exit_code_under_always() {
    // Always behaves as OnFailure: exit 0 is done.
    let inits = json!([container("one", json!({}))]);
    let script = Script { run: by_container(&[(FIRST, Some((1.0, 0)))]), ..Script::default() };
    let run = run(with_inits("Always", inits), script, 100.0);
    assert_eq!(starts(&run, FIRST), [0]);
}
