//! A restarted shim: the restored machine goes on as if nothing had been.

use super::pods::*;
use crate::machine::{PodMachine, Snapshot};
use crate::spec::{Pod, ProbeKind};
use crate::time::{Monotonic, Now};
use serde_json::json;

fn busy() -> Pod {
    let liveness = probe(json!({"initialDelaySeconds": 5, "periodSeconds": 5}));
    let readiness = probe(json!({"periodSeconds": 3}));
    web(json!({"livenessProbe": liveness, "readinessProbe": readiness}))
}

fn script() -> Script {
    Script {
        probe: Some(Box::new(|(_, _, running)| if running < 30.0 { crate::event::Outcome::Success } else { fails() })),
        signal: Some(Box::new(|_| Some((2.0, 143)))),
        ..Script::default()
    }
}

fn take_over(run: &mut Run) {
    let text = serde_json::to_string(run.machine.snapshot()).unwrap();
    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    let pod = run.machine.pod().clone();
    run.machine = PodMachine::restore(pod, node(), snapshot, run.clock()).unwrap();
}

#[test]
fn a_take_over_at_any_moment_changes_nothing_that_is_seen() {
    let undisturbed = run(busy(), script(), 130.0);
    for tenth in 0..600 {
        let mut run = simulate(busy(), script());
        // Never at an instant at which a probe is in flight.
        run.run_until(seconds(f64::from(tenth) / 10.0 + 0.05));
        take_over(&mut run);
        run.run_until(seconds(130.0));
        assert_eq!(told(&run, &[]), told(&undisturbed, &[]), "at {tenth}");
        assert_eq!(run.machine.status(), undisturbed.machine.status(), "at {tenth}");
    }
}

#[test]
fn a_probe_in_flight_is_lost_and_the_next_tick_comes_on_time() {
    let mut run = simulate(busy(), script());
    run.run_until(seconds(10.002));
    take_over(&mut run);
    run.run_until(seconds(46.0));
    let times: Vec<u64> = probes(&run, ProbeKind::Liveness);
    assert_eq!(times, [5, 10, 15, 20, 25, 30, 35, 40, 45]);
    assert_eq!(starts(&run, WEB), [0]);
    assert_eq!(told(&run, &["Killing"]), ["45 Killing: Container web failed liveness probe, will be restarted"]);
}

#[test]
fn what_became_due_while_no_shim_was_there_is_due_at_once() {
    let mut run = simulate(busy(), script());
    run.run_until(seconds(12.0));
    take_over(&mut run);
    assert!(run.machine.next_deadline().is_some_and(|deadline| deadline <= Monotonic(seconds(15.0))));
}

#[test]
fn a_snapshot_that_cannot_be_this_pods_is_refused() {
    let mut run = simulate(busy(), script());
    run.run_until(seconds(12.0));
    let snapshot = run.machine.snapshot().clone();
    let later = run.clock();
    let two = pod(json!({"containers": [container("web", json!({})), container("x", json!({}))]}));
    let cases = [
        (two, later, "state of 1 containers for a pod of 2"),
        (web(json!({})), later, "state of a probe that the pod does not have"),
        (busy(), Now::default(), "state of a later time: the host was started anew"),
    ];
    for (pod, now, expected) in cases {
        assert_eq!(PodMachine::restore(pod, node(), snapshot.clone(), now).unwrap_err(), expected);
    }
}
