//! `describe pod`: kubectl's sections in kubectl's order. Pure: values in, text out.

mod container;
mod volumes;

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use killick_pod::spec::{Container, Labels, Pod};
use killick_pod::status::{ContainerState, ContainerStatus, Phase, PodStatus};
use killick_pod::time::Wall;
use killick_pod_dir::events::StoredEvent;
use serde_json::Value;

use crate::duration;
use crate::pod_row::phase_word;
use crate::table;
use container::{environment, ports, probe_text, seccomp};
use volumes::{node_selector, tolerations, volumes};

const ANNOTATION_MAX: usize = 140;

#[derive(Debug)]
pub struct Described<'a> {
    pub pod: &'a Pod,
    pub status: &'a PodStatus,
    pub events: &'a [StoredEvent],
    pub now: Wall,
    pub zone: &'a TimeZone,
}

/// The text with its columns aligned.
pub fn describe(described: &Described<'_>) -> String {
    let mut text = String::new();
    described.write(&mut Lines { text: &mut text });
    table::align(&text)
}

/// Lines with kubectl's indentation; tabs end cells.
struct Lines<'a> {
    text: &'a mut String,
}

impl Lines<'_> {
    fn line(&mut self, level: usize, text: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{text}", "", indent = 2 * level);
    }

    fn field(&mut self, level: usize, label: &str, value: impl std::fmt::Display) {
        self.line(level, format_args!("{label}:\t{value}"));
    }
}

impl Described<'_> {
    fn time(&self, text: &str) -> String {
        let Ok(stamp) = text.parse::<Timestamp>() else { return "<unknown>".to_owned() };
        stamp.to_zoned(self.zone.clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
    }

    fn write(&self, lines: &mut Lines<'_>) {
        let (pod, status) = (self.pod, self.status);
        lines.field(0, "Name", &pod.metadata.name);
        lines.field(0, "Namespace", &pod.metadata.namespace);
        let passed = |key: &str| pod.spec.passthrough.get(key);
        lines.field(0, "Priority", passed("priority").and_then(Value::as_i64).unwrap_or_default());
        for (label, key) in [
            ("Priority Class Name", "priorityClassName"),
            ("Runtime Class Name", "runtimeClassName"),
            ("Service Account", "serviceAccountName"),
        ] {
            if let Some(value) = passed(key).and_then(Value::as_str).filter(|value| !value.is_empty()) {
                lines.field(0, label, value);
            }
        }
        match &pod.spec.node_name {
            Some(node) => lines.field(0, "Node", format_args!("{node}/{}", or_empty(&status.host_ip))),
            None => lines.field(0, "Node", "<none>"),
        }
        if let Some(start) = &status.start_time {
            lines.field(0, "Start Time", self.time(start));
        }
        labels(lines, "Labels", &pod.metadata.labels);
        annotations(lines, &pod.metadata.annotations);
        let is_over = matches!(status.phase, Phase::Succeeded | Phase::Failed);
        match &pod.metadata.deletion_timestamp {
            Some(time) if !is_over => {
                let lasts = duration::since(time, self.now);
                lines.field(0, "Status", format_args!("Terminating (lasts {lasts})"));
                let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
                lines.field(0, "Termination Grace Period", format_args!("{grace}s"));
            }
            _ => lines.field(0, "Status", phase_word(status.phase)),
        }
        for (label, text) in [("Reason", &status.reason), ("Message", &status.message)] {
            if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                lines.field(0, label, text);
            }
        }
        if let Some(profile) = &pod.spec.security_context.seccomp_profile {
            seccomp(lines, 0, 0, profile);
        }
        lines.field(0, "IP", or_empty(&status.pod_ip));
        if status.pod_ips.is_empty() {
            lines.field(0, "IPs", "<none>");
        } else {
            lines.line(0, "IPs:");
            for ip in &status.pod_ips {
                lines.field(1, "IP", &ip.ip);
            }
        }
        if !pod.spec.init_containers.is_empty() {
            self.containers(lines, "Init Containers", &pod.spec.init_containers, &status.init_container_statuses);
        }
        self.containers(lines, "Containers", &pod.spec.containers, &status.container_statuses);
        if !status.conditions.is_empty() {
            lines.line(0, "Conditions:\n  Type\tStatus");
            for condition in &status.conditions {
                lines.line(1, format_args!("{} \t{} ", condition.kind, condition.status));
            }
        }
        volumes(lines, &pod.spec.volumes);
        lines.field(0, "QoS Class", &status.qos_class);
        labels(lines, "Node-Selectors", &node_selector(passed("nodeSelector")));
        tolerations(lines, passed("tolerations"));
        self.events(lines);
    }

    fn containers(&self, lines: &mut Lines<'_>, label: &str, containers: &[Container], statuses: &[ContainerStatus]) {
        lines.line(0, format_args!("{label}:{}", if containers.is_empty() { " <none>" } else { "" }));
        for container in containers {
            let status = statuses.iter().find(|status| status.name == container.name);
            self.container(lines, container, status);
        }
    }

    fn container(&self, lines: &mut Lines<'_>, container: &Container, status: Option<&ContainerStatus>) {
        lines.line(1, format_args!("{}:", container.name));
        if let Some(status) = status {
            lines.field(2, "Container ID", or_empty(&status.container_id));
        }
        lines.field(2, "Image", &container.image);
        if let Some(status) = status {
            lines.field(2, "Image ID", &status.image_id);
        }
        ports(lines, "Port", &container.ports, |port| i64::from(port.container_port));
        ports(lines, "Host Port", &container.ports, |port| i64::from(port.host_port.unwrap_or_default()));
        if let Some(profile) = &container.security_context.seccomp_profile {
            seccomp(lines, 2, 3, profile);
        }
        for (label, words) in [("Command", &container.command), ("Args", &container.args)] {
            if !words.is_empty() {
                lines.line(2, format_args!("{label}:"));
                for line in words.iter().flat_map(|word| word.split('\n')) {
                    lines.line(3, line);
                }
            }
        }
        if let Some(status) = status {
            self.state(lines, "State", &status.state);
            if status.last_state.terminated.is_some() {
                self.state(lines, "Last State", &status.last_state);
            }
            lines.field(2, "Ready", if status.ready { "True" } else { "False" });
            lines.field(2, "Restart Count", status.restart_count);
        }
        for (label, quantities) in
            [("Limits", &container.resources.limits), ("Requests", &container.resources.requests)]
        {
            if !quantities.is_empty() {
                lines.line(2, format_args!("{label}:"));
                for (name, quantity) in quantities {
                    lines.field(3, name, quantity);
                }
            }
        }
        for (label, probe) in [
            ("Liveness", &container.liveness_probe),
            ("Readiness", &container.readiness_probe),
            ("Startup", &container.startup_probe),
        ] {
            if let Some(probe) = probe {
                lines.field(2, label, probe_text(probe));
            }
        }
        environment(lines, self.pod, container);
        if container.volume_mounts.is_empty() {
            lines.line(2, "Mounts:\t<none>");
        } else {
            lines.line(2, "Mounts:");
            let mut mounts: Vec<_> = container.volume_mounts.iter().collect();
            mounts.sort_by(|a, b| a.mount_path.cmp(&b.mount_path));
            for mount in mounts {
                let mut flags = if mount.read_only { "ro" } else { "rw" }.to_owned();
                if let Some(path) = mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
                    let _ = write!(flags, ",path={path:?}");
                }
                lines.line(3, format_args!("{} from {} ({flags})", mount.mount_path, mount.name));
            }
        }
    }

    fn state(&self, lines: &mut Lines<'_>, label: &str, state: &ContainerState) {
        if let Some(running) = &state.running {
            lines.field(2, label, "Running");
            lines.field(3, "Started", self.time(&running.started_at));
        } else if let Some(waiting) = &state.waiting {
            lines.field(2, label, "Waiting");
            if let Some(reason) = waiting.reason.as_deref().filter(|reason| !reason.is_empty()) {
                lines.field(3, "Reason", reason);
            }
        } else if let Some(ended) = &state.terminated {
            lines.field(2, label, "Terminated");
            for (label, text) in [("Reason", &ended.reason), ("Message", &ended.message)] {
                if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                    lines.field(3, label, text);
                }
            }
            lines.field(3, "Exit Code", ended.exit_code);
            lines.field(3, "Started", self.time(&ended.started_at));
            lines.field(3, "Finished", self.time(&ended.finished_at));
        } else {
            lines.field(2, label, "Waiting");
        }
    }

    fn events(&self, lines: &mut Lines<'_>) {
        if self.events.is_empty() {
            lines.field(0, "Events", "<none>");
            return;
        }
        lines.line(0, "Events:\n  Type\tReason\tAge\tFrom\tMessage");
        lines.line(1, "----\t------\t----\t----\t-------");
        for event in self.events {
            let age = event_age(event, self.now);
            let message = event.message.trim();
            let prefix = match event.field_path.as_str() {
                "" => String::new(),
                path => format!("{path}: "),
            };
            lines.line(
                1,
                format_args!("{}\t{}\t{age}\t{}\t{prefix}{message}", event.kind, event.reason, event.component),
            );
        }
    }
}

/// `3s (x5 over 3m)`, or the age alone of what happened once.
pub fn event_age(event: &StoredEvent, now: Wall) -> String {
    let first = duration::since(&event.first_timestamp, now);
    match event.count {
        0..=1 => first,
        count => format!("{} (x{count} over {first})", duration::since(&event.last_timestamp, now)),
    }
}

fn or_empty(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

fn labels(lines: &mut Lines<'_>, title: &str, labels: &Labels) {
    if labels.is_empty() {
        return lines.field(0, title, "<none>");
    }
    for (place, (key, value)) in labels.iter().enumerate() {
        let title = if place == 0 { format!("{title}:") } else { String::new() };
        lines.line(0, format_args!("{title}\t{key}={value}"));
    }
}

fn annotations(lines: &mut Lines<'_>, annotations: &BTreeMap<String, String>) {
    let shown: Vec<_> =
        annotations.iter().filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration").collect();
    if shown.is_empty() {
        return lines.field(0, "Annotations", "<none>");
    }
    for (place, (key, value)) in shown.into_iter().enumerate() {
        let title = if place == 0 { "Annotations:" } else { "" };
        let value = value.strip_suffix('\n').unwrap_or(value);
        if value.len() + key.len() + 2 > ANNOTATION_MAX || value.contains('\n') {
            lines.line(0, format_args!("{title}\t{key}:"));
            for part in value.split('\n') {
                let kept = part.floor_char_boundary(ANNOTATION_MAX - 2);
                let dots = if kept < part.len() { "..." } else { "" };
                lines.line(0, format_args!("\t  {}{dots}", &part[..kept]));
            }
        } else {
            lines.line(0, format_args!("{title}\t{key}: {value}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, reason: &str, path: &str, message: &str, count: u32) -> StoredEvent {
        StoredEvent {
            name: format!("web.{reason}"),
            kind: kind.into(),
            reason: reason.into(),
            message: message.into(),
            field_path: path.into(),
            component: if reason == "Scheduled" { "default-scheduler" } else { "kubelet" }.into(),
            host: "node-1".into(),
            first_timestamp: "2024-01-02T03:03:48Z".into(),
            last_timestamp: "2024-01-02T03:04:02Z".into(),
            count,
        }
    }

    #[test]
    fn a_restarted_pod_reads_as_kubectl_prints_it() {
        let mut pod = crate::testing::pod(
            "liveness-exec-pod",
            json!({"containers": [{
                "name": "liveness-exec",
                "image": "registry.example/busybox:1.24",
                "command": ["/bin/sh", "-c", "touch /tmp/healthy\nsleep 600"],
                "env": [{"name": "A", "value": "one\ntwo"},
                        {"name": "POD", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
                "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"},
                          {"containerPort": 81, "hostPort": 8081, "protocol": "TCP"}],
                "resources": {"limits": {"memory": "64Mi", "cpu": "1"}},
                "volumeMounts": [{"name": "v", "mountPath": "/z", "subPath": "sub"},
                                 {"name": "v", "mountPath": "/a", "readOnly": true}],
                "livenessProbe": {"exec": {"command": ["test", "-e", "/tmp/healthy"]}, "initialDelaySeconds": 1,
                                  "timeoutSeconds": 1, "periodSeconds": 3, "successThreshold": 1, "failureThreshold": 3},
                "readinessProbe": {"httpGet": {"path": "/a b?c", "port": "http", "scheme": "HTTPS"},
                                   "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "startupProbe": {"tcpSocket": {"port": 8080},
                                 "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 30},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/srv", "type": ""}},
                        {"name": "c", "configMap": {"name": "cm", "defaultMode": 420}},
                        {"name": "s", "secret": {"secretName": "sec", "defaultMode": 420, "optional": true}}],
            "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "serviceAccountName": "default", "priority": 0}),
        );
        pod.metadata.labels = [("app".to_owned(), "web".to_owned()), ("zone".to_owned(), "a".to_owned())].into();
        pod.metadata.annotations =
            [("long".to_owned(), "x".repeat(150)), ("note".to_owned(), "short".to_owned())].into();
        let status: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "hostIP": "192.168.1.5", "podIP": "10.88.0.2", "podIPs": [{"ip": "10.88.0.2"}],
            "startTime": "2024-01-02T03:03:48Z", "qosClass": "Burstable",
            "conditions": [{"type": "PodReadyToStartContainers", "status": "True"}, {"type": "Ready", "status": "False"}],
            "containerStatuses": [{
                "name": "liveness-exec", "image": "registry.example/busybox:1.24", "imageID": "sha256:abc",
                "containerID": "killick://123", "restartCount": 1, "ready": true, "started": true,
                "state": {"running": {"startedAt": "2024-01-02T03:04:00Z"}},
                "lastState": {"terminated": {"exitCode": 143, "reason": "Error",
                    "startedAt": "2024-01-02T03:03:48Z", "finishedAt": "2024-01-02T03:03:59Z"}},
            }],
        }))
        .unwrap();
        let container = "spec.containers{liveness-exec}";
        let events = [
            event("Normal", "Scheduled", "", "Successfully assigned default/liveness-exec-pod to node-1", 1),
            event("Warning", "Unhealthy", container, "Liveness probe failed: gone\n", 3),
        ];
        let text = describe(&Described {
            pod: &pod,
            status: &status,
            events: &events,
            now: Wall(1_704_164_645),
            zone: &TimeZone::UTC,
        });
        let expected = include_str!("testdata/describe.txt");
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn a_pod_that_has_just_been_accepted_has_the_short_forms() {
        let pod = crate::testing::pod("web", json!({"containers": [{"name": "a", "image": "i:1"}]}));
        let text = describe(&Described {
            pod: &pod,
            status: &PodStatus::default(),
            events: &[],
            now: Wall(1_704_164_645),
            zone: &TimeZone::UTC,
        });
        let expected = "\
Name:         web
Namespace:    default
Priority:     0
Node:         node-1/
Labels:       <none>
Annotations:  <none>
Status:       Pending
IP:           
IPs:          <none>
Containers:
  a:
    Image:        i:1
    Port:         <none>
    Host Port:    <none>
    Environment:  <none>
    Mounts:       <none>
Volumes:          <none>
QoS Class:        
Node-Selectors:   <none>
Tolerations:      <none>
Events:           <none>
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn a_pod_being_deleted_says_since_when_and_with_what_grace() {
        let mut pod = crate::testing::pod("web", json!({"containers": []}));
        pod.metadata.deletion_timestamp = Some("2024-01-02T03:04:00Z".into());
        pod.metadata.deletion_grace_period_seconds = Some(30);
        let status = PodStatus { phase: Phase::Running, ..PodStatus::default() };
        let text = describe(&Described {
            pod: &pod,
            status: &status,
            events: &[],
            now: Wall(1_704_164_645),
            zone: &TimeZone::UTC,
        });
        assert!(
            text.contains("Status:                    Terminating (lasts 5s)\nTermination Grace Period:  30s\n"),
            "{text}"
        );
    }
}
