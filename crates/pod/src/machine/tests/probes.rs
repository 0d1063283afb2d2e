//! Each rule of the probe's worker (kubelet.md §1.3, §1.4), seen from outside.

use super::pods::*;
use crate::event::{Event, Outcome};
use crate::spec::ProbeKind::{Liveness, Readiness, Startup};
use serde_json::json;

#[test]
fn the_first_probe_comes_at_the_first_tick_after_the_delay() {
    let cases = [
        // delay, period, first three
        (0, 10, [10, 20, 30]),
        (5, 3, [6, 9, 12]),
        (5, 5, [5, 10, 15]),
        (6, 5, [10, 15, 20]),
        (1, 1, [1, 2, 3]),
        (100, 7, [105, 112, 119]),
    ];
    for (delay, period, expected) in cases {
        let liveness = probe(json!({"initialDelaySeconds": delay, "periodSeconds": period}));
        let run = run(web(json!({"livenessProbe": liveness})), Script::default(), 200.0);
        assert_eq!(probes(&run, Liveness)[..3], expected, "delay {delay} period {period}");
    }
}

#[test]
fn the_delay_counts_anew_from_each_start() {
    let liveness = probe(json!({"initialDelaySeconds": 7, "periodSeconds": 2}));
    let script =
        Script { run: Some(Box::new(|attempt| (attempt.number == 0).then_some((20.0, 1)))), ..Script::default() };
    let run = run(web(json!({"livenessProbe": liveness})), script, 40.0);
    let times = probes(&run, Liveness);
    // Started again at 20.2: the wall clock's whole seconds say 7 at 27.2, the next tick is at 28.
    assert!(times.contains(&20) && !times.contains(&26), "{times:?}");
    assert!(times.contains(&28), "{times:?}");
}

#[test]
fn a_failure_run_below_the_threshold_is_ended_by_one_success() {
    // Two failures, a success, two failures, …: never three in a row.
    let liveness = probe(json!({"periodSeconds": 1}));
    let mut count = 0;
    let script = Script {
        probe: Some(Box::new(move |_| {
            count += 1;
            if count % 3 == 0 { Outcome::Success } else { fails() }
        })),
        ..Script::default()
    };
    let run = run(web(json!({"livenessProbe": liveness})), script, 60.0);
    assert_eq!(web_status(&run).restart_count, 0);
    assert_eq!(told(&run, &["Unhealthy"]).len(), 40);
}

#[test]
fn unknown_neither_counts_nor_breaks_a_run() {
    // Failure, Unknown, Failure, Unknown, Failure: that is three failures in a row.
    let liveness = probe(json!({"periodSeconds": 1}));
    let mut count = 0;
    let script = Script {
        probe: Some(Box::new(move |_| {
            count += 1;
            // Each Unknown tick takes three tries.
            if count % 4 == 1 { fails() } else { Outcome::Unknown("?".to_owned()) }
        })),
        ..Script::default()
    };
    let run = run(web(json!({"livenessProbe": liveness})), script, 5.5);
    assert_eq!(told(&run, &["Killing"]), ["5 Killing: Container web failed liveness probe, will be restarted"]);
}

#[test]
fn a_handler_that_works_at_the_third_try_counts() {
    let readiness = probe(json!({"periodSeconds": 5}));
    let mut count = 0;
    let script = Script {
        probe: Some(Box::new(move |_| {
            count += 1;
            if count < 3 { Outcome::Unknown("?".to_owned()) } else { Outcome::Success }
        })),
        ..Script::default()
    };
    let run = run(web(json!({"readinessProbe": readiness})), script, 1.0);
    assert!(web_status(&run).ready);
    assert!(told(&run, &["Unhealthy"]).is_empty());
}

#[test]
fn success_threshold_holds_ready_back_and_a_warning_is_a_success() {
    let readiness = probe(json!({"periodSeconds": 2, "successThreshold": 3}));
    let script = Script {
        probe: Some(Box::new(|_| Outcome::Warning("Probe terminated redirects, Response body: ".to_owned()))),
        ..Script::default()
    };
    let mut run = simulate(web(json!({"readinessProbe": readiness})), script);
    // At once after the start, then every period from there.
    run.run_until(seconds(4.0));
    assert_eq!((probes(&run, Readiness).len(), web_status(&run).ready), (2, false));
    run.run_until(seconds(4.5));
    assert_eq!((probes(&run, Readiness).len(), web_status(&run).ready), (3, true));
    let line = "0 ProbeWarning: Readiness probe warning: Probe terminated redirects, Response body: ";
    assert_eq!(told(&run, &["ProbeWarning"])[0], line);
}

#[test]
fn the_startup_probe_holds_the_others_and_then_idles() {
    let fields = json!({
        "startupProbe": probe(json!({"periodSeconds": 1, "failureThreshold": 60})),
        "livenessProbe": probe(json!({"periodSeconds": 2, "failureThreshold": 1})),
        "readinessProbe": probe(json!({"periodSeconds": 5})),
    });
    let script = Script {
        probe: Some(Box::new(|(_, kind, running)| match kind {
            Startup if running < 29.5 => fails(),
            Startup | Liveness | Readiness => Outcome::Success,
        })),
        ..Script::default()
    };
    let mut run = simulate(web(fields), script);
    run.run_until(seconds(29.0));
    assert_eq!((web_status(&run).started, web_status(&run).ready), (Some(false), false));
    run.run_until(seconds(60.5));
    assert_eq!(probes(&run, Startup), (1..=30).collect::<Vec<u64>>());
    assert_eq!(probes(&run, Liveness)[..3], [32, 34, 36]);
    assert_eq!(probes(&run, Readiness)[0], 30, "at once when started");
    assert_eq!((web_status(&run).started, web_status(&run).ready), (Some(true), true));
    assert_eq!(web_status(&run).restart_count, 0);
}

#[test]
fn a_startup_that_never_passes_kills_the_container_with_its_own_grace() {
    let startup = probe(json!({"periodSeconds": 2, "failureThreshold": 2, "terminationGracePeriodSeconds": 7}));
    let script = Script { probe: fail_all(), signal: Some(Box::new(|_| None)), ..Script::default() };
    let run = run(web(json!({"startupProbe": startup})), script, 12.0);
    assert_eq!(told(&run, &["Killing"]), ["4 Killing: Container web failed startup probe, will be restarted"]);
    assert_eq!(starts(&run, WEB), [0, 11]);
}

#[test]
fn the_killing_text_says_restart_unless_the_policy_is_never() {
    for (policy, suffix) in [("Always", ", will be restarted"), ("OnFailure", ", will be restarted"), ("Never", "")] {
        let liveness = probe(json!({"periodSeconds": 1, "failureThreshold": 1}));
        let pod = pod(json!({
            "restartPolicy": policy, "containers": [container("web", json!({"livenessProbe": liveness}))],
        }));
        let run = run(pod, Script { probe: fail_all(), ..Script::default() }, 1.5);
        assert_eq!(told(&run, &["Killing"]), [format!("1 Killing: Container web failed liveness probe{suffix}")]);
    }
}

#[test]
fn after_a_kill_the_probe_is_on_hold_until_the_next_instance() {
    let liveness = probe(json!({"periodSeconds": 1, "failureThreshold": 1}));
    let script = Script { probe: fail_all(), signal: Some(Box::new(|_| None)), ..Script::default() };
    let run = run(web(json!({"livenessProbe": liveness})), script, 31.5);
    assert_eq!(probes(&run, Liveness), [1]);
    assert_eq!(starts(&run, WEB), [0, 31]);
}

#[test]
fn probes_of_one_worker_never_overlap_and_late_ticks_become_one() {
    let liveness = probe(json!({"periodSeconds": 2, "timeoutSeconds": 5}));
    let script = Script { probe_after: Some(seconds(5.0)), ..Script::default() };
    let run = run(web(json!({"livenessProbe": liveness})), script, 20.0);
    // Ticks at 4 and 6 wait for the end at 7 as one; then back to back.
    assert_eq!(probes(&run, Liveness), [2, 7, 12, 17]);
}

#[test]
fn readiness_is_triggered_by_a_change_of_status_and_the_ticks_follow_it() {
    let readiness = probe(json!({"periodSeconds": 10}));
    let run = run(web(json!({"readinessProbe": readiness})), Script { probe: fail_all(), ..Script::default() }, 35.0);
    // At once after the start (0.1 s), and then each ten seconds from there; failing again changes no status.
    assert_eq!(probes(&run, Readiness), [0, 10, 20, 30]);
}

#[test]
fn while_terminating_readiness_goes_on_and_the_others_stop() {
    let every = || probe(json!({"periodSeconds": 1, "failureThreshold": 1}));
    let fields = json!({"livenessProbe": every(), "readinessProbe": every()});
    let script = Script {
        probe: Some(Box::new(|(_, kind, running)| match kind {
            Readiness if running > 12.0 => fails(),
            Readiness | Liveness | Startup => Outcome::Success,
        })),
        signal: Some(Box::new(|_| None)),
        ..Script::default()
    };
    let mut run = simulate(web(fields), script);
    delete(&mut run, 10.5, 30);
    run.run_until(seconds(12.0));
    assert!(web_status(&run).ready, "ready does not go at deletion time");
    run.run_until(seconds(30.0));
    assert!(!web_status(&run).ready);
    assert_eq!(probes(&run, Liveness).last(), Some(&10));
    assert!(probes(&run, Readiness).contains(&29));
}

#[test]
fn a_late_answer_for_a_dead_instance_is_dropped() {
    let liveness = probe(json!({"periodSeconds": 1, "failureThreshold": 1}));
    let script = Script {
        probe: fail_all(),
        probe_after: Some(seconds(3.0)),
        run: Some(Box::new(|attempt| (attempt.number == 0).then_some((2.0, 1)))),
        ..Script::default()
    };
    let mut run = simulate(web(json!({"livenessProbe": liveness})), script);
    // Begun at 1, the container ends at 2.1 and runs again at 2.2; the answer of 4 means nothing.
    run.run_until(seconds(4.5));
    assert!(told(&run, &["Unhealthy", "Killing"]).is_empty());
    assert_eq!(probes(&run, Liveness), [1, 4]);
}

#[test]
fn a_wall_clock_that_jumps_moves_no_probe() {
    let liveness = probe(json!({"initialDelaySeconds": 5, "periodSeconds": 3}));
    for jump in [-3600, 3600] {
        let mut machine = crate::machine::PodMachine::new(web(json!({"livenessProbe": liveness.clone()})), node());
        let clock = |seconds: u64, jump: i64| crate::time::Now {
            monotonic: crate::time::Monotonic(std::time::Duration::from_secs(seconds)),
            wall: crate::time::Wall(ZERO.0 + seconds as i64 + jump),
        };
        machine.step(clock(0, 0), Event::Begin);
        machine.step(clock(0, 0), Event::SandboxReady { attempt: 0, ip: None });
        machine.step(clock(0, 0), Event::VolumesReady);
        let attempt = crate::event::Attempt { container: WEB, number: 0 };
        let started = Event::Started { attempt, runtime_id: String::new(), image_id: String::new() };
        machine.step(clock(0, 0), started);
        let probe = crate::event::Action::Probe { attempt, kind: Liveness };
        assert!(!machine.step(clock(3, jump), Event::Deadline).contains(&probe));
        assert!(machine.step(clock(6, jump), Event::Deadline).contains(&probe));
    }
}
