//! The sandbox and the volumes: made, failing, lost (kubelet.md §2.2, §9.2).

use super::pods::*;
use crate::event::{Action, ContainerId, Event};
use crate::status::Phase;
use serde_json::json;

fn sandboxes(run: &Run) -> Vec<(u64, u32)> {
    let made = |n: u32| times(run, move |action| *action == Action::CreateSandbox { attempt: n });
    (0..5).flat_map(|n| made(n).into_iter().map(move |at| (at, n))).collect()
}

#[test]
fn a_sandbox_that_cannot_be_made_is_said_and_tried_again() {
    let mut tries = 0;
    let script = Script {
        sandbox: Some(Box::new(move |_| {
            tries += 1;
            if tries < 3 { Err("no bridge".to_owned()) } else { Ok(()) }
        })),
        ..Script::default()
    };
    let run = run(web(json!({})), script, 30.0);
    assert_eq!(sandboxes(&run), [(0, 0), (12, 0), (24, 0)]);
    assert_eq!(
        told(&run, &["FailedCreatePodSandBox"]),
        [
            "0 FailedCreatePodSandBox: Failed to create pod sandbox: no bridge",
            "12 FailedCreatePodSandBox: Failed to create pod sandbox: no bridge"
        ]
    );
    assert_eq!(starts(&run, WEB), [24]);
}

#[test]
fn a_volume_that_cannot_be_set_up_is_tried_again_after_half_a_second_doubling() {
    let mut tries = 0;
    let script = Script {
        volumes: Some(Box::new(move |()| {
            tries += 1;
            if tries < 4 { Err(("v".to_owned(), "configmap \"c\" not found".to_owned())) } else { Ok(()) }
        })),
        ..Script::default()
    };
    let run = run(web(json!({})), script, 30.0);
    let line = "0 FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"c\" not found";
    assert_eq!(told(&run, &["FailedMount"])[0], line);
    // 0, 0.5, 1.5, 3.5
    assert_eq!(times(&run, |action| *action == Action::MountVolumes), [0, 0, 1, 3]);
    assert_eq!(starts(&run, WEB), [3]);
    assert_eq!(word(web_status(&run)), "Running");
}

#[test]
fn when_pause_dies_the_containers_are_stopped_and_all_is_made_anew() {
    let init = container("one", json!({}));
    let script = Script {
        run: Some(Box::new(|attempt| (attempt.container == ContainerId::Init(0)).then_some((1.0, 0)))),
        ..Script::default()
    };
    let mut run = simulate(pod(json!({"initContainers": [init]})), script);
    run.at(seconds(10.0), Event::SandboxLost { attempt: 0 });
    run.run_until(seconds(20.0));
    assert_eq!(
        told(&run, &["SandboxChanged", "Killing"]),
        [
            "10 SandboxChanged: Pod sandbox changed, it will be killed and re-created.",
            "10 Killing: Stopping container web"
        ]
    );
    assert_eq!(times(&run, |action| *action == Action::StopSandbox { attempt: 0 }), [10]);
    assert_eq!(sandboxes(&run), [(0, 0), (10, 1)]);
    assert_eq!(starts(&run, ContainerId::Init(0)), [0, 10]);
    assert_eq!(starts(&run, WEB), [1, 11]);
    // Restart counts go on, of init containers too.
    assert_eq!((web_status(&run).restart_count, status(&run).init_container_statuses[0].restart_count), (1, 1));
}

#[test]
fn what_follows_a_lost_sandbox_depends_on_the_policy() {
    // Policy, exit of `x` at 5 s; sandbox made again, starts of `web` and `x`, phase at the end.
    let cases = [
        ("Always", None, true, vec![0, 10], vec![0, 10], Phase::Running),
        // `x` was started for the second time at 5 s: its back-off of 10 s holds.
        ("Always", Some(0), true, vec![0, 10], vec![0, 5, 20], Phase::Running),
        ("OnFailure", None, true, vec![0, 10], vec![0, 10], Phase::Running),
        ("OnFailure", Some(0), true, vec![0, 10], vec![0], Phase::Running),
        ("Never", None, false, vec![0], vec![0], Phase::Failed),
        ("Never", Some(0), false, vec![0], vec![0], Phase::Failed),
    ];
    for (policy, exit, again, web, x, phase) in cases {
        let pod = pod(json!({
            "restartPolicy": policy, "containers": [container("web", json!({})), container("x", json!({}))],
        }));
        let script = Script {
            run: Some(Box::new(move |attempt| {
                let is_x = attempt.container == ContainerId::Regular(1) && attempt.number == 0;
                exit.filter(|_| is_x).map(|code| (5.0, code))
            })),
            ..Script::default()
        };
        let mut run = simulate(pod, script);
        run.at(seconds(10.0), Event::SandboxLost { attempt: 0 });
        run.run_until(seconds(30.0));
        let case = format!("{policy} {exit:?}");
        assert_eq!(sandboxes(&run).len(), if again { 2 } else { 1 }, "{case}");
        assert_eq!((starts(&run, WEB), starts(&run, ContainerId::Regular(1))), (web, x), "{case}");
        assert_eq!(status(&run).phase, phase, "{case}");
        assert_eq!(told(&run, &["SandboxChanged"]).len(), usize::from(again), "{case}");
    }
}

#[test]
fn deletion_while_the_sandbox_is_made_anew_ends_the_pod() {
    let mut run = simulate(web(json!({})), Script { signal: Some(Box::new(|_| Some((5.0, 0)))), ..Script::default() });
    run.at(seconds(10.0), Event::SandboxLost { attempt: 0 });
    delete(&mut run, 12.0, 30);
    run.run_until(seconds(100.0));
    assert!(run.machine.is_finished());
    assert_eq!((sandboxes(&run).len(), starts(&run, WEB)), (1, vec![0]));
}
