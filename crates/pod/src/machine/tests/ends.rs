//! Termination: grace, hooks, turns, deadlines (kubelet.md §3).

use std::time::Duration;

use super::pods::*;
use crate::event::{Action, ContainerId, Event, Hook};
use crate::status::Phase;
use serde_json::json;

fn signals(run: &Run) -> Vec<u64> {
    times(run, |action| matches!(action, Action::Signal { .. }))
}

fn kills(run: &Run) -> Vec<u64> {
    times(run, |action| matches!(action, Action::Kill { .. }))
}

fn sleepy() -> Script {
    Script { signal: Some(Box::new(|_| None)), ..Script::default() }
}

#[test]
fn the_kill_comes_after_the_grace_of_the_request_and_never_before_two_seconds() {
    // Grace of the request, time from signal to kill.
    for (grace, expected) in [(30, 30), (5, 5), (2, 2), (1, 2), (0, 2), (90, 90)] {
        let mut run = simulate(web(json!({})), sleepy());
        delete(&mut run, 10.0, grace);
        run.run_until(seconds(200.0));
        assert_eq!((signals(&run), kills(&run)), (vec![10], vec![10 + expected]), "grace {grace}");
        assert!(run.machine.is_finished());
    }
}

#[test]
fn a_later_request_can_only_shorten() {
    for (later, killed) in [(3, 18), (60, 40), (0, 17)] {
        let mut run = simulate(web(json!({})), sleepy());
        delete(&mut run, 10.0, 30);
        delete(&mut run, 15.0, later);
        run.run_until(seconds(100.0));
        assert_eq!((signals(&run), kills(&run)), (vec![10], vec![killed]), "later {later}");
        assert_eq!(told(&run, &["Killing"]).len(), 1);
    }
}

#[test]
fn force_means_the_minimum() {
    let mut run = simulate(web(json!({})), sleepy());
    run.at(seconds(10.0), Event::StopRequested { grace: Duration::from_secs(30), force: true });
    run.run_until(seconds(100.0));
    assert_eq!(kills(&run), [12]);
}

#[test]
fn the_deletion_timestamp_is_the_end_of_the_grace() {
    let mut run = simulate(web(json!({})), sleepy());
    assert_eq!(run.machine.deletion(), None);
    delete(&mut run, 10.0, 30);
    run.run_until(seconds(11.0));
    let deletion = run.machine.deletion().unwrap();
    assert_eq!((deletion.timestamp.as_str(), deletion.grace_period_seconds), ("2023-11-14T22:14:00Z", 30));
}

#[test]
fn pre_stop_uses_up_the_grace_and_two_seconds_remain() {
    let hooks = || json!({"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}});
    // The hook's length; signal and kill seconds; is it reported as failed?
    for (length, signal, kill, failed) in [(4.0, 14, 40, 0), (4.9, 14, 40, 0), (29.0, 39, 41, 0), (99.0, 40, 42, 1)] {
        let script = Script { hook: Some(Box::new(move |_| (length, Ok(())))), ..sleepy() };
        let mut run = simulate(web(hooks()), script);
        delete(&mut run, 10.0, 30);
        run.run_until(seconds(100.0));
        assert_eq!((signals(&run), kills(&run)), (vec![signal], vec![kill]), "preStop of {length} s");
        assert_eq!(told(&run, &["FailedPreStopHook"]).len(), failed);
        let expected = Action::RunHook {
            attempt: crate::event::Attempt { container: WEB, number: 0 },
            hook: Hook::PreStop,
            timeout: Some(Duration::from_secs(30)),
        };
        assert_eq!(times(&run, |action| *action == expected), [10]);
    }
}

#[test]
fn a_failed_pre_stop_is_said_and_the_end_goes_on() {
    let hooks = json!({"lifecycle": {"preStop": {"exec": {"command": ["false"]}}}});
    let script = Script { hook: Some(Box::new(|_| (1.0, Err("exit 1".to_owned())))), ..Script::default() };
    let mut run = simulate(web(hooks), script);
    delete(&mut run, 10.0, 30);
    run.run_until(seconds(100.0));
    assert_eq!(
        told(&run, &["Killing", "FailedPreStopHook"]),
        ["10 Killing: Stopping container web", "11 FailedPreStopHook: PreStopHook failed"]
    );
    assert!(run.machine.is_finished());
}

#[test]
fn pre_stop_is_not_run_on_a_natural_end_but_on_a_probe_kill() {
    let fields = |probed: bool| {
        let mut fields = json!({"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}});
        if probed {
            fields["livenessProbe"] = probe(json!({"periodSeconds": 1, "failureThreshold": 1}));
        }
        fields
    };
    let ended = run(web(fields(false)), Script { run: exits(5.0, 0), ..Script::default() }, 6.0);
    assert!(times(&ended, |action| matches!(action, Action::RunHook { .. })).is_empty());
    let killed = run(web(fields(true)), Script { probe: fail_all(), ..Script::default() }, 1.5);
    assert_eq!(times(&killed, |action| matches!(action, Action::RunHook { .. })), [1]);
}

#[test]
fn post_start_holds_the_container_back_from_running_and_the_next_one_from_starting() {
    let hooks = json!({"lifecycle": {"postStart": {"exec": {"command": ["true"]}}}});
    let pod = pod(json!({"containers": [container("web", hooks), container("x", json!({}))]}));
    let script = Script { hook: Some(Box::new(|_| (5.0, Ok(())))), ..Script::default() };
    let mut run = simulate(pod, script);
    run.run_until(seconds(3.0));
    assert_eq!(word(web_status(&run)), "ContainerCreating");
    run.run_until(seconds(6.0));
    assert_eq!(word(web_status(&run)), "Running");
    assert_eq!(web_status(&run).state.running.as_ref().unwrap().started_at, "2023-11-14T22:13:20Z");
    assert_eq!(starts(&run, ContainerId::Regular(1)), [5]);
}

#[test]
fn a_failed_post_start_kills_the_container_and_backs_off() {
    let hooks = json!({"lifecycle": {"postStart": {"exec": {"command": ["false"]}}}});
    let text = "Exec lifecycle hook ([false]) for Container \"web\" in Pod \"p_default(u1)\" failed";
    let script = Script { hook: Some(Box::new(move |_| (1.0, Err(text.to_owned())))), ..Script::default() };
    let mut run = simulate(web(hooks), script);
    run.run_until(seconds(1.5));
    let waiting = web_status(&run).state.waiting.clone().unwrap();
    assert_eq!((waiting.reason.as_deref(), waiting.message.as_deref()), (Some("PostStartHookError"), Some(text)));
    assert_eq!(
        told(&run, &["FailedPostStartHook", "Killing"]),
        ["1 FailedPostStartHook: PostStartHook failed", "1 Killing: FailedPostStartHook"]
    );
    run.run_until(seconds(5.0));
    assert_eq!(starts(&run, WEB), [0, 2]);
    assert_eq!(word(web_status(&run)), "CrashLoopBackOff");
}

#[test]
fn regular_containers_stop_together_and_sidecars_after_them_in_reverse() {
    let side = |name| container(name, json!({"restartPolicy": "Always"}));
    let pod = pod(json!({
        "initContainers": [side("s1"), side("s2")],
        "containers": [container("web", json!({})), container("x", json!({}))],
    }));
    let script = Script { signal: Some(Box::new(|_| Some((3.0, 0)))), ..Script::default() };
    let mut run = simulate(pod, script);
    delete(&mut run, 10.0, 30);
    run.run_until(seconds(100.0));
    let signalled = |id| times(&run, |a| matches!(a, Action::Signal { attempt } if attempt.container == id));
    let order =
        [ContainerId::Regular(0), ContainerId::Regular(1), ContainerId::Init(1), ContainerId::Init(0)].map(signalled);
    assert_eq!(order, [[10], [10], [13], [16]]);
    assert_eq!(status(&run).phase, Phase::Succeeded);
}

#[test]
fn a_sidecars_wait_ends_with_the_grace() {
    let side = container("s1", json!({"restartPolicy": "Always"}));
    let mut run = simulate(pod(json!({"initContainers": [side]})), sleepy());
    delete(&mut run, 10.0, 5);
    run.run_until(seconds(100.0));
    assert_eq!((signals(&run), kills(&run)), (vec![10, 15], vec![15, 17]));
}

#[test]
fn deletion_shortens_a_probe_kill_and_nothing_restarts() {
    let liveness = probe(json!({"periodSeconds": 5, "failureThreshold": 1, "terminationGracePeriodSeconds": 60}));
    let mut run = simulate(web(json!({"livenessProbe": liveness})), Script { probe: fail_all(), ..sleepy() });
    delete(&mut run, 10.0, 4);
    run.run_until(seconds(100.0));
    assert_eq!((signals(&run), kills(&run), starts(&run, WEB)), (vec![5], vec![14], vec![0]));
    assert_eq!(
        told(&run, &["Killing"]),
        ["5 Killing: Container web failed liveness probe, will be restarted", "10 Killing: Stopping container web"]
    );
}

#[test]
fn a_container_that_starts_while_the_pod_is_deleted_is_stopped_at_once() {
    let mut run = simulate(web(json!({})), Script { start_after: Some(seconds(8.0)), ..Script::default() });
    delete(&mut run, 3.0, 30);
    run.run_until(seconds(100.0));
    assert_eq!((starts(&run, WEB), signals(&run)), (vec![0], vec![8]));
    assert!(run.machine.is_finished());
}

#[test]
fn the_phase_after_deletion_says_whether_all_exited_with_0() {
    for (code, phase) in [(0, Phase::Succeeded), (143, Phase::Failed)] {
        let script = Script { signal: Some(Box::new(move |_| Some((1.0, code)))), ..Script::default() };
        let mut run = simulate(web(json!({})), script);
        delete(&mut run, 10.0, 30);
        run.run_until(seconds(100.0));
        assert_eq!(status(&run).phase, phase);
    }
}

#[test]
fn the_active_deadline_fails_the_pod_and_stops_it_gracefully() {
    let mut run = simulate(
        pod(json!({"activeDeadlineSeconds": 20})),
        Script { signal: Some(Box::new(|_| Some((3.0, 0)))), ..Script::default() },
    );
    run.run_until(seconds(100.0));
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(
        told(&run, &["DeadlineExceeded", "Killing"]),
        [format!("20 DeadlineExceeded: {message}"), "20 Killing: Stopping container web".to_owned()]
    );
    let status = status(&run);
    assert_eq!((status.phase, status.reason.as_deref()), (Phase::Failed, Some("DeadlineExceeded")));
    assert_eq!(status.message.as_deref(), Some(message));
    assert_eq!((signals(&run), starts(&run, WEB)), (vec![20], vec![0]));
    assert_eq!(run.machine.next_deadline(), None);
}

#[test]
fn a_finished_pod_keeps_its_phase_and_goes_when_it_is_deleted() {
    let mut run = simulate(
        pod(json!({"restartPolicy": "Never", "activeDeadlineSeconds": 50})),
        Script { run: exits(5.0, 0), ..Script::default() },
    );
    run.run_until(seconds(100.0));
    assert_eq!(status(&run).phase, Phase::Succeeded);
    assert_eq!(times(&run, |a| matches!(a, Action::StopSandbox { .. })), [5]);
    assert!(!run.machine.is_finished());
    delete(&mut run, 110.0, 30);
    run.run_until(seconds(120.0));
    assert!(run.machine.is_finished());
    assert!(told(&run, &["Killing", "DeadlineExceeded"]).is_empty());
}

#[test]
fn a_kill_that_does_not_end_the_container_is_repeated() {
    let mut machine = crate::machine::PodMachine::new(web(json!({})), node());
    let clock =
        |seconds: u64| crate::time::Now { monotonic: crate::time::Monotonic(Duration::from_secs(seconds)), wall: ZERO };
    let attempt = crate::event::Attempt { container: WEB, number: 0 };
    machine.step(clock(0), Event::Begin);
    machine.step(clock(0), Event::SandboxReady { attempt: 0, ip: None });
    machine.step(clock(0), Event::VolumesReady);
    machine.step(clock(0), Event::Started { attempt, runtime_id: String::new(), image_id: String::new() });
    machine.step(clock(0), Event::StopRequested { grace: Duration::from_secs(2), force: false });
    assert_eq!(machine.step(clock(2), Event::Deadline), [Action::Kill { attempt }]);
    assert_eq!(machine.outstanding(), [Action::Kill { attempt }]);
    assert_eq!(machine.step(clock(12), Event::Deadline), [Action::Kill { attempt }]);
    let actions = machine.step(clock(13), exit_event(WEB, 0, 137));
    assert_eq!(actions, [Action::StopSandbox { attempt: 0 }]);
}
