//! One pod as a line of `get pods`. Pure: kubectl's algorithm for READY, STATUS and RESTARTS on a manifest and a status.

use killick_pod::spec::Pod;
use killick_pod::status::{ContainerState, ContainerStatus, Phase, PodStatus};
use killick_pod::time::Wall;
use killick_pod_dir::timestamp;

use crate::duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRow {
    pub ready: String,
    pub status: String,
    pub restarts: String,
    pub age: String,
    pub ip: String,
    pub node: String,
}

/// `pod` carries the deletion in its metadata.
pub fn pod_row(pod: &Pod, status: &PodStatus, now: Wall) -> PodRow {
    let mut restarts = Restarts::default();
    let mut sidecar_restarts = Restarts::default();
    let mut ready = 0;
    let mut word = status.reason.clone().unwrap_or_else(|| phase_word(status.phase).to_owned());
    if has_condition(status, "PodScheduled", |condition| condition.reason.as_deref() == Some("SchedulingGated")) {
        word = "SchedulingGated".to_owned();
    }

    let is_sidecar =
        |name: &str| pod.spec.init_containers.iter().any(|container| container.name == name && container.is_sidecar());
    let mut initializing = false;
    for (index, container) in status.init_container_statuses.iter().enumerate() {
        restarts.count(container);
        let sidecar = is_sidecar(&container.name);
        if sidecar {
            sidecar_restarts.count(container);
        }
        match init_word(container, sidecar) {
            InitWord::Done => {}
            InitWord::SidecarStarted => ready += usize::from(container.ready),
            InitWord::Stuck(text) => {
                word = format!("Init:{text}");
                initializing = true;
            }
            InitWord::Running => {
                word = format!("Init:{index}/{}", pod.spec.init_containers.len());
                initializing = true;
            }
        }
        if initializing {
            break;
        }
    }

    if !initializing || has_condition(status, "Initialized", |condition| condition.status == "True") {
        restarts = sidecar_restarts;
        let mut has_running = false;
        // From the last to the first: the first container's word wins.
        for container in status.container_statuses.iter().rev() {
            restarts.count(container);
            match container_word(&container.state) {
                Some(text) => word = text,
                None if container.ready && container.state.running.is_some() => {
                    has_running = true;
                    ready += 1;
                }
                None => {}
            }
        }
        if word == "Completed" && has_running {
            let is_ready = has_condition(status, "Ready", |condition| condition.status == "True");
            word = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    let is_over = matches!(status.phase, Phase::Succeeded | Phase::Failed);
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            word = "Unknown".to_owned();
        } else if !is_over {
            word = "Terminating".to_owned();
        }
    }

    let sidecars = pod.spec.init_containers.iter().filter(|container| container.is_sidecar()).count();
    let or_none = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("<none>").to_owned();
    PodRow {
        ready: format!("{ready}/{}", pod.spec.containers.len() + sidecars),
        status: word,
        restarts: restarts.text(now),
        age: duration::since(&pod.metadata.creation_timestamp, now),
        ip: or_none(status.pod_ips.first().map(|ip| ip.ip.as_str()).or(status.pod_ip.as_deref())),
        node: or_none(pod.spec.node_name.as_deref()),
    }
}

pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
    }
}

#[derive(Debug, Default)]
struct Restarts {
    count: u32,
    last: Option<Wall>,
}

impl Restarts {
    fn count(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let finished = container.last_state.terminated.as_ref().and_then(|ended| timestamp::parse(&ended.finished_at));
        self.last = self.last.max(finished);
    }

    fn text(&self, now: Wall) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, duration::human(now.0 - last.0)),
            _ => self.count.to_string(),
        }
    }
}

enum InitWord {
    Done,
    SidecarStarted,
    Stuck(String),
    Running,
}

fn init_word(container: &ContainerStatus, sidecar: bool) -> InitWord {
    if let Some(ended) = &container.state.terminated
        && ended.exit_code == 0
    {
        return InitWord::Done;
    }
    if sidecar && container.started == Some(true) {
        return InitWord::SidecarStarted;
    }
    if let Some(ended) = &container.state.terminated {
        return InitWord::Stuck(match ended.reason.as_deref() {
            Some(reason) if !reason.is_empty() => reason.to_owned(),
            _ => format!("ExitCode:{}", ended.exit_code),
        });
    }
    match container.state.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()) {
        Some(reason) if !reason.is_empty() && reason != "PodInitializing" => InitWord::Stuck(reason.to_owned()),
        _ => InitWord::Running,
    }
}

fn container_word(state: &ContainerState) -> Option<String> {
    let given = |reason: &Option<String>| reason.clone().filter(|reason| !reason.is_empty());
    if let Some(reason) = state.waiting.as_ref().and_then(|waiting| given(&waiting.reason)) {
        return Some(reason);
    }
    let ended = state.terminated.as_ref()?;
    Some(given(&ended.reason).unwrap_or_else(|| format!("ExitCode:{}", ended.exit_code)))
}

fn has_condition(status: &PodStatus, kind: &str, holds: impl Fn(&killick_pod::status::Condition) -> bool) -> bool {
    status.conditions.iter().any(|condition| condition.kind == kind && holds(condition))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Wall = Wall(1_704_164_645);

    fn row(spec: Value, status: Value, deleting: bool) -> PodRow {
        let mut pod = crate::testing::pod("web", spec);
        if deleting {
            pod.metadata.deletion_timestamp = Some("2024-01-02T03:04:35Z".into());
        }
        pod_row(&pod, &serde_json::from_value(status).unwrap(), NOW)
    }

    fn check(spec: Value, status: Value, expected: [&str; 3]) {
        let row = row(spec, status.clone(), false);
        assert_eq!([row.ready.as_str(), &row.status, &row.restarts], expected, "{status}");
    }

    fn one() -> Value {
        json!({"containers": [{"name": "a", "image": "i"}]})
    }

    fn two() -> Value {
        json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]})
    }

    fn running(name: &str, ready: bool) -> Value {
        json!({"name": name, "ready": ready, "started": true, "state": {"running": {"startedAt": "2024-01-02T03:04:00Z"}}})
    }

    fn waiting(name: &str, reason: &str) -> Value {
        json!({"name": name, "state": {"waiting": {"reason": reason}}})
    }

    fn ended(name: &str, code: i32, reason: Option<&str>) -> Value {
        json!({"name": name, "state": {"terminated": {"exitCode": code, "reason": reason}}})
    }

    #[test]
    fn regular_containers_give_the_word() {
        check(one(), json!({"phase": "Pending"}), ["0/1", "Pending", "0"]);
        check(one(), json!({"phase": "Failed", "reason": "Evicted"}), ["0/1", "Evicted", "0"]);
        check(
            one(),
            json!({"phase": "Pending", "containerStatuses": [waiting("a", "ContainerCreating")]}),
            ["0/1", "ContainerCreating", "0"],
        );
        check(one(), json!({"phase": "Running", "containerStatuses": [running("a", true)]}), ["1/1", "Running", "0"]);
        check(one(), json!({"phase": "Running", "containerStatuses": [running("a", false)]}), ["0/1", "Running", "0"]);
        check(
            one(),
            json!({"phase": "Succeeded", "containerStatuses": [ended("a", 0, Some("Completed"))]}),
            ["0/1", "Completed", "0"],
        );
        check(
            one(),
            json!({"phase": "Failed", "containerStatuses": [ended("a", 3, None)]}),
            ["0/1", "ExitCode:3", "0"],
        );
    }

    #[test]
    fn the_first_containers_word_wins_and_completed_beside_running_is_running_or_not_ready() {
        check(
            two(),
            json!({"phase": "Running", "containerStatuses": [waiting("a", "CrashLoopBackOff"), ended("b", 1, Some("Error"))]}),
            ["0/2", "CrashLoopBackOff", "0"],
        );
        let half = |ready: &str| {
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
                   "containerStatuses": [ended("a", 0, Some("Completed")), running("b", true)]})
        };
        check(two(), half("False"), ["1/2", "NotReady", "0"]);
        check(two(), half("True"), ["1/2", "Running", "0"]);
    }

    #[test]
    fn restarts_are_summed_with_the_latest_end() {
        let container = |name: &str, count: u32, finished: &str| {
            let mut status = running(name, true);
            status["restartCount"] = json!(count);
            status["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": finished}});
            status
        };
        check(
            two(),
            json!({"phase": "Running", "containerStatuses":
                [container("a", 2, "2024-01-02T03:04:03Z"), container("b", 1, "2024-01-02T03:00:00Z")]}),
            ["2/2", "Running", "3 (2s ago)"],
        );
        let mut unknown_end = running("a", true);
        unknown_end["restartCount"] = json!(1);
        check(one(), json!({"phase": "Running", "containerStatuses": [unknown_end]}), ["1/1", "Running", "1"]);
    }

    #[test]
    fn init_containers_have_their_own_words() {
        let spec = json!({
            "initContainers": [{"name": "i0", "image": "i"}, {"name": "i1", "image": "i"}],
            "containers": [{"name": "a", "image": "i"}],
        });
        let with = |init: Vec<Value>| {
            json!({"phase": "Pending", "initContainerStatuses": init,
                   "containerStatuses": [waiting("a", "PodInitializing")]})
        };
        let not_started = || waiting("i1", "PodInitializing");
        check(spec.clone(), with(vec![running("i0", false), not_started()]), ["0/1", "Init:0/2", "0"]);
        check(
            spec.clone(),
            with(vec![ended("i0", 0, Some("Completed")), running("i1", false)]),
            ["0/1", "Init:1/2", "0"],
        );
        check(spec.clone(), with(vec![ended("i0", 1, Some("Error")), not_started()]), ["0/1", "Init:Error", "0"]);
        check(spec.clone(), with(vec![ended("i0", 9, None), not_started()]), ["0/1", "Init:ExitCode:9", "0"]);
        check(
            spec.clone(),
            with(vec![waiting("i0", "CrashLoopBackOff"), not_started()]),
            ["0/1", "Init:CrashLoopBackOff", "0"],
        );
        check(
            spec,
            with(vec![ended("i0", 0, Some("Completed")), ended("i1", 0, Some("Completed"))]),
            ["0/1", "PodInitializing", "0"],
        );
    }

    #[test]
    fn sidecars_count_among_the_ready_and_their_restarts_stay() {
        let spec = json!({
            "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}, {"name": "i", "image": "i"}],
            "containers": [{"name": "a", "image": "i"}],
        });
        let mut sidecar = running("s", true);
        sidecar["restartCount"] = json!(2);
        let mut init = ended("i", 0, Some("Completed"));
        init["restartCount"] = json!(5);
        let all = json!({"phase": "Running", "initContainerStatuses": [sidecar.clone(), init],
                         "containerStatuses": [running("a", true)]});
        check(spec.clone(), all, ["2/2", "Running", "2"]);
        let starting = json!({"phase": "Pending", "initContainerStatuses": [sidecar, running("i", false)],
                              "containerStatuses": [waiting("a", "PodInitializing")]});
        check(spec, starting, ["1/2", "Init:1/2", "2"]);
    }

    #[test]
    fn a_pod_being_deleted_is_terminating_unless_it_is_over() {
        let alive = json!({"phase": "Running", "containerStatuses": [running("a", true)]});
        assert_eq!(row(one(), alive, true).status, "Terminating");
        let over = json!({"phase": "Failed", "containerStatuses": [ended("a", 1, Some("Error"))]});
        assert_eq!(row(one(), over, true).status, "Error");
        let lost = json!({"phase": "Running", "reason": "NodeLost"});
        assert_eq!(row(one(), lost, true).status, "Unknown");
    }

    #[test]
    fn a_missing_address_or_node_is_none() {
        let row = row(one(), json!({"phase": "Pending"}), false);
        assert_eq!((row.ip.as_str(), row.node.as_str(), row.age.as_str()), ("<none>", "node-1", "17s"));
    }
}
