//! The phase, row by row (kubelet.md §2.9), and how rarely an idle pod wakes.

use super::pods::*;
use crate::event::{Attempt, ContainerId, Event, StartFailure};
use crate::machine::PodMachine;
use crate::spec::ProbeKind;
use crate::status::Phase;
use crate::time::Now;
use serde_json::json;

const OTHER: ContainerId = ContainerId::Regular(1);

/// What one of two containers does.
#[derive(Debug, Clone, Copy)]
enum Does {
    Run,
    End(i32),
    NotStart,
}

fn of(attempt: Attempt, web: Does, other: Does) -> Does {
    if attempt.container == OTHER { other } else { web }
}

#[test]
fn two_containers_give_the_phase_of_the_table() {
    use Does::{End, NotStart, Run};
    let cases = [
        ("Always", Run, Run, Phase::Running),
        ("Always", Run, End(1), Phase::Running),
        ("Always", End(0), End(0), Phase::Running),
        ("Always", Run, NotStart, Phase::Pending),
        ("Always", End(1), NotStart, Phase::Pending),
        ("OnFailure", Run, End(0), Phase::Running),
        ("OnFailure", End(0), End(0), Phase::Succeeded),
        ("OnFailure", End(0), End(1), Phase::Running),
        ("OnFailure", End(0), NotStart, Phase::Pending),
        ("Never", Run, End(1), Phase::Running),
        ("Never", End(0), End(0), Phase::Succeeded),
        ("Never", End(0), End(1), Phase::Failed),
        ("Never", End(1), NotStart, Phase::Pending),
    ];
    for (policy, web, other, phase) in cases {
        let pod = pod(json!({
            "restartPolicy": policy, "containers": [container("web", json!({})), container("x", json!({}))],
        }));
        let script = Script {
            run: Some(Box::new(move |attempt| match of(attempt, web, other) {
                End(code) => Some((1.0, code)),
                Run | NotStart => None,
            })),
            start: Some(Box::new(move |attempt| match of(attempt, web, other) {
                NotStart => Err(StartFailure::ImageNeverPull),
                Run | End(_) => Ok(()),
            })),
            ..Script::default()
        };
        let run = run(pod, script, 8.0);
        assert_eq!(status(&run).phase, phase, "{policy} {web:?} {other:?}");
    }
}

/// Deadlines that the machine asks for between the given seconds, if each answer comes at once.
fn wakes(machine: &mut PodMachine, until: f64) -> Vec<f64> {
    let mut wakes = Vec::new();
    while let Some(deadline) = machine.next_deadline().filter(|deadline| deadline.0 <= seconds(until)) {
        let now = Now { monotonic: deadline, wall: ZERO };
        wakes.push(deadline.0.as_secs_f64());
        for action in machine.step(now, Event::Deadline) {
            let crate::event::Action::Probe { attempt, kind } = action else { continue };
            machine.step(now, Event::Probed { attempt, kind, outcome: crate::event::Outcome::Success });
        }
    }
    wakes
}

#[test]
fn an_idle_pod_wakes_only_for_its_probes() {
    let fields = json!({
        "livenessProbe": probe(json!({"periodSeconds": 10})),
        "readinessProbe": probe(json!({"periodSeconds": 30})),
        "startupProbe": probe(json!({"periodSeconds": 1})),
    });
    let mut probed = simulate(web(fields), Script::default());
    probed.run_until(seconds(9.0));
    assert_eq!(probes(&probed, ProbeKind::Startup), [1]);
    // Readiness was triggered when the startup probe had succeeded, and ticks from there.
    assert_eq!(wakes(&mut probed.machine, 60.0), [10.0, 20.0, 30.0, 31.005, 40.0, 50.0, 60.0]);

    let mut idle = simulate(web(json!({})), Script::default());
    idle.run_until(seconds(9.0));
    assert_eq!(idle.machine.next_deadline(), None);

    let mut finished =
        simulate(pod(json!({"restartPolicy": "Never"})), Script { run: exits(1.0, 0), ..Script::default() });
    finished.run_until(seconds(9.0));
    assert_eq!(finished.machine.next_deadline(), None);
}
