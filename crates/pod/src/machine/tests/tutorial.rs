//! The tutorial's pods, to the second.

use super::pods::*;
use crate::event::{Event, Outcome};
use crate::spec::ProbeKind;
use serde_json::json;

#[test]
fn liveness_exec_pod_fails_at_35_40_45_and_restarts_with_143() {
    let liveness = probe(json!({"initialDelaySeconds": 5, "periodSeconds": 5}));
    let script = Script {
        probe: Some(Box::new(|(_, _, running)| {
            if running < 30.0 { Outcome::Success } else { Outcome::Failure("cat: can't open\n".to_owned()) }
        })),
        ..Script::default()
    };
    let run = run(web(json!({"livenessProbe": liveness})), script, 50.0);
    assert_eq!(
        told(&run, &[]),
        [
            "0 Scheduled: Successfully assigned default/p to node1",
            "0 Pulled: Container image \"busybox\" already present on machine",
            "0 Created: Container created",
            "0 Started: Container started",
            "35 Unhealthy: Liveness probe failed: cat: can't open\n",
            "40 Unhealthy: Liveness probe failed: cat: can't open\n",
            "45 Unhealthy: Liveness probe failed: cat: can't open\n",
            "45 Killing: Container web failed liveness probe, will be restarted",
            "45 Pulled: Container image \"busybox\" already present on machine",
            "45 Created: Container created",
            "45 Started: Container started",
        ]
    );
    let web = web_status(&run);
    assert_eq!((web.restart_count, web.ready, word(web).as_str()), (1, true, "Running"));
    let last = web.last_state.terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (143, Some("Error")));
    assert_eq!(probes(&run, ProbeKind::Liveness), [5, 10, 15, 20, 25, 30, 35, 40, 45, 50]);
}

#[test]
fn a_first_process_that_ignores_term_is_killed_after_the_grace() {
    let liveness = probe(json!({"initialDelaySeconds": 5, "periodSeconds": 5}));
    let script = Script { probe: fail_all(), signal: Some(Box::new(|_| None)), ..Script::default() };
    let run = run(web(json!({"livenessProbe": liveness})), script, 50.0);
    assert_eq!(told(&run, &["Killing"]), ["15 Killing: Container web failed liveness probe, will be restarted"]);
    assert_eq!(starts(&run, WEB), [0, 45]);
    assert_eq!(web_status(&run).last_state.terminated.as_ref().unwrap().exit_code, 137);
}

#[test]
fn tcp_pod_on_a_closed_port_is_probed_at_6_9_12_then_backs_off() {
    let liveness = probe(json!({"tcpSocket": {"port": 8090}, "initialDelaySeconds": 5, "periodSeconds": 3}));
    let mut liveness = liveness;
    liveness.as_object_mut().unwrap().remove("exec");
    let mut run = simulate(web(json!({"livenessProbe": liveness})), Script { probe: fail_all(), ..Script::default() });
    run.run_until(seconds(25.5));
    assert_eq!(probes(&run, ProbeKind::Liveness), [6, 9, 12, 18, 21, 24]);
    let restarts: Vec<u64> = starts(&run, WEB);
    assert_eq!(restarts, [0, 12, 24]);
    run.run_until(seconds(50.0));
    // The fourth instance lived 12 s; the delay in force is 20 s after the end of the one before it.
    assert_eq!(starts(&run, WEB), [0, 12, 24, 36]);
    assert_eq!(word(web_status(&run)), "CrashLoopBackOff");
    let waiting = web_status(&run).state.waiting.clone().unwrap();
    assert_eq!(waiting.message.unwrap(), "back-off 20s restarting failed container=web pod=p_default(u1)");
    run.run_until(seconds(70.0));
    assert_eq!(starts(&run, WEB), [0, 12, 24, 36, 68]);
    assert_eq!(web_status(&run).restart_count, 4);
    assert_eq!(
        told(&run, &["BackOff"]),
        [
            "49 BackOff: Back-off restarting failed container web in pod p_default(u1)",
            "61 BackOff: Back-off restarting failed container web in pod p_default(u1)",
        ]
    );
}

#[test]
fn readiness_follows_the_page_both_ways_and_never_restarts() {
    let readiness = probe(json!({"initialDelaySeconds": 1, "periodSeconds": 3}));
    let script = Script {
        probe: Some(Box::new(|(_, kind, running)| {
            assert_eq!(kind, ProbeKind::Readiness);
            if (20.0..40.0).contains(&running) { Outcome::Success } else { fails() }
        })),
        ..Script::default()
    };
    let mut run = simulate(web(json!({"readinessProbe": readiness})), script);
    let mut seen = Vec::new();
    for second in [1, 10, 19, 24, 39, 50, 120] {
        run.run_until(seconds(f64::from(second)));
        let web = web_status(&run);
        seen.push((second, web.ready, web.started == Some(true), web.restart_count));
    }
    assert_eq!(
        seen,
        [
            (1, false, true, 0),
            (10, false, true, 0),
            (19, false, true, 0),
            (24, true, true, 0),
            (39, true, true, 0),
            (50, false, true, 0),
            (120, false, true, 0)
        ]
    );
    assert!(told(&run, &["Killing"]).is_empty());
}

#[test]
fn unknown_is_shown_and_changes_nothing() {
    let fields = json!({
        "livenessProbe": probe(json!({"periodSeconds": 5})),
        "readinessProbe": probe(json!({"periodSeconds": 5})),
    });
    let script = Script {
        probe: Some(Box::new(|(_, kind, running)| match kind {
            ProbeKind::Readiness if running < 1.0 => Outcome::Success,
            _ => Outcome::Unknown("exec: \"/nosuch\": not found".to_owned()),
        })),
        ..Script::default()
    };
    let run = run(web(fields), script, 60.0);
    let web = web_status(&run);
    assert_eq!((web.restart_count, web.ready), (0, true));
    let told = told(&run, &["Unhealthy"]);
    let line = "5 Unhealthy: Liveness probe errored and resulted in unknown state: exec: \"/nosuch\": not found";
    assert_eq!(told[0], line);
    assert!(told.iter().any(|line| line.contains("Readiness probe errored")));
    // Three tries back to back for each tick.
    assert_eq!(probes(&run, ProbeKind::Liveness)[..6], [5, 5, 5, 10, 10, 10]);
}

#[test]
fn deleting_ends_the_container_the_sandbox_and_the_pod() {
    let mut run = simulate(web(json!({})), Script::default());
    run.at(seconds(10.0), Event::StopRequested { grace: seconds(30.0), force: false });
    run.run_until(seconds(100.0));
    assert!(run.machine.is_finished());
    assert_eq!(told(&run, &["Killing"]), ["10 Killing: Stopping container web"]);
    assert_eq!(run.machine.next_deadline(), None);
}
