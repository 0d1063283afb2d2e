//! Restart policies, back-off and what a status says meanwhile (kubelet.md §2.2, §2.4–2.6, §2.9).

use super::pods::*;
use crate::event::{Attempt, StartFailure};
use crate::status::Phase;
use serde_json::json;

#[test]
fn each_policy_and_exit_code_gives_kubelets_phase_and_word() {
    let cases = [
        // policy, exit code, starts within 5 s, phase and word at 5 s
        ("Always", 0, 2, Phase::Running, "CrashLoopBackOff"),
        ("Always", 1, 2, Phase::Running, "CrashLoopBackOff"),
        ("OnFailure", 0, 1, Phase::Succeeded, "Completed 0"),
        ("OnFailure", 3, 2, Phase::Running, "CrashLoopBackOff"),
        ("Never", 0, 1, Phase::Succeeded, "Completed 0"),
        ("Never", 3, 1, Phase::Failed, "Error 3"),
    ];
    for (policy, code, count, phase, expected) in cases {
        let pod = pod(json!({"restartPolicy": policy}));
        let run = run(pod, Script { run: exits(1.0, code), ..Script::default() }, 5.0);
        let seen = (starts(&run, WEB).len(), status(&run).phase, word(web_status(&run)));
        assert_eq!(seen, (count, phase, expected.to_owned()), "{policy} {code}");
        let restarts = web_status(&run).restart_count as usize;
        assert_eq!(restarts + 1, count, "{policy} {code}: RESTARTS");
    }
}

#[test]
fn a_crash_loop_restarts_at_once_then_after_10_20_40_80_160_300_seconds() {
    let script = Script { run: exits(1.0, 1), ..Script::default() };
    let run = run(web(json!({})), script, 1500.0);
    let times = starts(&run, WEB);
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Each start is followed by 0.1 s of starting and 1 s of running.
    assert_eq!(gaps, [1, 11, 21, 41, 81, 161, 301, 301, 301]);
}

#[test]
fn exits_with_0_under_always_back_off_exactly_the_same() {
    let ones = run(web(json!({})), Script { run: exits(1.0, 1), ..Script::default() }, 400.0);
    let zeros = run(web(json!({})), Script { run: exits(1.0, 0), ..Script::default() }, 400.0);
    assert_eq!(starts(&ones, WEB), starts(&zeros, WEB));
}

#[test]
fn ten_minutes_of_running_reset_the_back_off() {
    let script = Script {
        run: Some(Box::new(|attempt| Some(if attempt.number == 3 { (601.0, 1) } else { (1.0, 1) }))),
        ..Script::default()
    };
    let run = run(web(json!({})), script, 700.0);
    let times = starts(&run, WEB);
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps[..6], [1, 11, 21, 601, 11, 21]);
}

#[test]
fn the_word_is_the_end_first_and_crash_loop_back_off_a_second_later() {
    let mut run = simulate(web(json!({})), Script { run: exits(1.0, 7), ..Script::default() });
    // Started at 0.1 and 1.2; the second end is at 2.3.
    let mut seen = Vec::new();
    for at in [0.05, 0.5, 1.15, 1.5, 2.5, 3.5, 13.0] {
        run.run_until(seconds(at));
        let web = web_status(&run);
        let last = web.last_state.terminated.as_ref().map(|ended| ended.exit_code);
        seen.push((at, word(web), web.restart_count, last));
    }
    let expected = [
        (0.05, "ContainerCreating", 0, None),
        (0.5, "Running", 0, None),
        (1.15, "Error 7", 0, None),
        (1.5, "Running", 1, Some(7)),
        (2.5, "Error 7", 1, Some(7)),
        (3.5, "CrashLoopBackOff", 1, Some(7)),
        (13.0, "Running", 2, Some(7)),
    ];
    for (seen, (at, word, restarts, last)) in seen.into_iter().zip(expected) {
        assert_eq!(seen, (at, word.to_owned(), restarts, last));
    }
    assert_eq!(told(&run, &["BackOff"]), ["3 BackOff: Back-off restarting failed container web in pod p_default(u1)"]);
}

#[test]
fn a_long_wait_repeats_the_back_off_event_at_kubelets_pace() {
    let mut run = simulate(web(json!({})), Script { run: exits(0.1, 1), ..Script::default() });
    run.run_until(seconds(160.0));
    let times: Vec<u64> = run.records().filter(|(_, r)| r.reason == "BackOff").map(|(at, _)| at.as_secs()).collect();
    assert_eq!(times[7..14], [72, 84, 96, 108, 120, 132, 144], "the 80 s after the end at 71");
    let waiting = web_status(&run).state.waiting.clone().unwrap();
    let message = "back-off 2m40s restarting failed container=web pod=p_default(u1)";
    assert_eq!(waiting.message.as_deref(), Some(message));
}

/// A liveness kill under OnFailure restarts even if the process then exits with 0, unless the back-off refuses it.
#[test]
fn a_kill_restarts_whatever_the_exit_code_unless_refused() {
    let liveness = probe(json!({"periodSeconds": 3, "failureThreshold": 1}));
    let pod = pod(json!({
        "restartPolicy": "OnFailure", "containers": [container("web", json!({"livenessProbe": liveness}))],
    }));
    let script = Script { probe: fail_all(), signal: Some(Box::new(|_| Some((0.01, 0)))), ..Script::default() };
    let run = run(pod, script, 60.0);
    // Kills at 3, 6, 9: the first has no dead instance before it, the second begins the entry (10 s), the third is
    // refused: and then its exit code 0 counts.
    assert_eq!(starts(&run, WEB), [0, 3, 6]);
    assert_eq!((status(&run).phase, word(web_status(&run)).as_str()), (Phase::Succeeded, "Completed 0"));
}

#[test]
fn a_start_error_is_terminated_with_its_code_and_backs_off() {
    let text = "exec: \"foo\": executable file not found in $PATH";
    let failure = |_: Attempt| {
        let message = text.to_owned();
        Err(StartFailure::Run { message, exit_code: 127 })
    };
    let mut always = simulate(web(json!({})), Script { start: Some(Box::new(failure)), ..Script::default() });
    always.run_until(seconds(0.5));
    assert_eq!(word(web_status(&always)), "RunContainerError");
    let ended = web_status(&always).last_state.terminated.clone().unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (127, Some("StartError")));
    assert_eq!(ended.message.as_deref(), Some(text));
    assert_eq!(
        told(&always, &["Pulled", "Created", "Started", "Failed"]),
        [
            "0 Pulled: Container image \"busybox\" already present on machine",
            "0 Created: Container created",
            "0 Failed: Error: exec: \"foo\": executable file not found in $PATH",
        ]
    );
    always.run_until(seconds(3.0));
    assert_eq!((web_status(&always).restart_count, word(web_status(&always)).as_str()), (1, "CrashLoopBackOff"));

    let never = pod(json!({"restartPolicy": "Never"}));
    let run = run(never, Script { start: Some(Box::new(failure)), ..Script::default() }, 60.0);
    assert_eq!(starts(&run, WEB), [0]);
    assert_eq!((status(&run).phase, word(web_status(&run)).as_str()), (Phase::Failed, "StartError 127"));
}

#[test]
fn a_start_that_makes_no_container_is_said_and_tried_again_with_the_same_number() {
    let text = || "text".to_owned();
    let never = "Container image \"busybox\" is not present with pull policy of Never";
    let bad_name = "Failed to apply default image tag \"busybox\": text";
    let cases = [
        (
            StartFailure::ImageNeverPull,
            ("ErrImageNeverPull", never),
            vec![format!("0 ErrImageNeverPull: {never}"), "0 Failed: Error: ErrImageNeverPull".to_owned()],
        ),
        (
            StartFailure::InvalidImageName { message: text() },
            ("InvalidImageName", bad_name),
            vec![format!("0 InspectFailed: {bad_name}"), "0 Failed: Error: InvalidImageName".to_owned()],
        ),
        (
            StartFailure::CreateContainerConfig { message: text() },
            ("CreateContainerConfigError", "text"),
            vec!["0 Failed: Error: text".to_owned()],
        ),
        (
            StartFailure::CreateContainer { message: text() },
            ("CreateContainerError", "text"),
            vec!["0 Failed: Error: text".to_owned()],
        ),
    ];
    for (failure, (reason, message), expected) in cases {
        let script = Script { start: Some(Box::new(move |_| Err(failure.clone()))), ..Script::default() };
        let run = run(web(json!({})), script, 13.0);
        assert_eq!(starts(&run, WEB), [0, 12], "{reason}");
        let waiting = web_status(&run).state.waiting.clone().unwrap();
        assert_eq!((waiting.reason.as_deref(), waiting.message.as_deref()), (Some(reason), Some(message)));
        let told = told(&run, &["ErrImageNeverPull", "InspectFailed", "Failed"]);
        assert_eq!(told[..expected.len()], expected, "{reason}");
        assert_eq!((web_status(&run).restart_count, status(&run).phase), (0, Phase::Pending), "{reason}");
    }
}

#[test]
fn an_image_that_cannot_be_pulled_backs_off_10_20_40_seconds() {
    let failure = |_: Attempt| Err(StartFailure::ImagePull { message: "no registry".to_owned() });
    let mut run = simulate(web(json!({})), Script { start: Some(Box::new(failure)), ..Script::default() });
    run.run_until(seconds(0.5));
    let waiting = web_status(&run).state.waiting.clone().unwrap();
    assert_eq!((waiting.reason.as_deref(), waiting.message.as_deref()), (Some("ErrImagePull"), Some("no registry")));
    run.run_until(seconds(2.0));
    let waiting = web_status(&run).state.waiting.clone().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ImagePullBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("Back-off pulling image \"busybox\": ErrImagePull: no registry"));
    assert_eq!(
        told(&run, &[])[1..],
        [
            "0 Pulling: Pulling image \"busybox\"",
            "0 Failed: Failed to pull image \"busybox\": no registry",
            "0 Failed: Error: ErrImagePull",
            "1 BackOff: Back-off pulling image \"busybox\"",
            "1 Failed: Error: ImagePullBackOff",
        ]
    );
    run.run_until(seconds(80.0));
    assert_eq!(starts(&run, WEB), [0, 10, 30, 70]);
}

#[test]
fn a_lost_exit_and_an_oom_kill_have_their_own_reasons() {
    let exit = |oom_killed, lost| crate::event::ExitStatus { code: 137, oom_killed, lost, message: None };
    for (oom, lost, reason) in [(true, false, "OOMKilled 137"), (false, true, "ContainerStatusUnknown 137")] {
        let mut run = simulate(pod(json!({"restartPolicy": "Never"})), Script::default());
        let attempt = Attempt { container: WEB, number: 0 };
        run.at(seconds(5.0), crate::event::Event::Exited { attempt, exit: exit(oom, lost) });
        run.run_until(seconds(6.0));
        assert_eq!(word(web_status(&run)), reason);
    }
}

#[test]
fn a_new_image_restarts_its_container_at_once_and_the_others_stay() {
    let two = |image: &str| {
        pod(json!({"containers": [container("web", json!({"image": image})), container("log", json!({}))]}))
    };
    let mut run = simulate(two("a"), Script::default());
    run.at(seconds(5.0), crate::event::Event::Updated { pod: Box::new(two("b")) });
    run.run_until(seconds(10.0));
    assert_eq!(starts(&run, WEB), [0, 5]);
    assert_eq!(starts(&run, crate::event::ContainerId::Regular(1)), [0]);
    assert_eq!(told(&run, &["Killing"]), ["5 Killing: Container web definition changed, will be restarted"]);
    let web = status(&run).container_statuses.iter().find(|status| status.name == "web").unwrap();
    assert_eq!((web.image.as_str(), web.restart_count), ("b", 1));
}

#[test]
fn containers_start_one_after_the_other_in_spec_order() {
    let names = ["web", "c", "a"];
    let pod = pod(json!({"containers": names.map(|name| container(name, json!({})))}));
    let mut run = simulate(pod, Script { start_after: Some(seconds(2.0)), ..Script::default() });
    run.run_until(seconds(10.0));
    let times: Vec<_> = (0..3).map(|i| starts(&run, crate::event::ContainerId::Regular(i))).collect();
    assert_eq!(times, [[0], [2], [4]]);
    // The status list is sorted by name.
    let names: Vec<_> = status(&run).container_statuses.iter().map(|status| status.name.as_str()).collect();
    assert_eq!(names, ["a", "c", "web"]);
}

#[test]
fn restart_counts_go_on_from_the_log_files_of_before_a_reboot() {
    let mut machine = crate::machine::PodMachine::new(web(json!({})), node());
    machine.resume_counts(&[(WEB, 4)]);
    let mut run = crate::simulate::Simulation::new(machine, Script::default(), ZERO);
    run.run_until(seconds(1.0));
    assert_eq!(web_status(&run).restart_count, 4);
}
