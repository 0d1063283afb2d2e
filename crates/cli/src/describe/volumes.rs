//! The parts that stand below the containers: volumes, node selectors, tolerations.

use std::fmt::Write;

use killick_pod::spec::{Labels, Volume, VolumeSource};
use serde_json::Value;

use super::Lines;

pub(super) fn volumes(lines: &mut Lines<'_>, volumes: &[Volume]) {
    if volumes.is_empty() {
        return lines.field(0, "Volumes", "<none>");
    }
    lines.line(0, "Volumes:");
    for volume in volumes {
        lines.line(1, format_args!("{}:", volume.name));
        match &volume.source {
            VolumeSource::HostPath(path) => {
                lines.field(2, "Type", "HostPath (bare host directory volume)");
                lines.field(2, "Path", &path.path);
                lines.field(2, "HostPathType", &path.kind);
            }
            VolumeSource::EmptyDir(dir) => {
                lines.field(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
                lines.field(2, "Medium", &dir.medium);
                lines.field(2, "SizeLimit", dir.size_limit.as_deref().unwrap_or("<unset>"));
            }
            VolumeSource::ConfigMap(map) => {
                lines.field(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
                lines.field(2, "Name", &map.name);
                lines.field(2, "Optional", map.optional.unwrap_or_default());
            }
            VolumeSource::Secret(secret) => {
                lines.field(2, "Type", "Secret (a volume populated by a Secret)");
                lines.field(2, "SecretName", &secret.secret_name);
                lines.field(2, "Optional", secret.optional.unwrap_or_default());
            }
        }
    }
}

pub(super) fn node_selector(value: Option<&Value>) -> Labels {
    let map = value.and_then(Value::as_object);
    map.into_iter().flatten().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

pub(super) fn tolerations(lines: &mut Lines<'_>, value: Option<&Value>) {
    let mut tolerations: Vec<&Value> = value.and_then(Value::as_array).into_iter().flatten().collect();
    if tolerations.is_empty() {
        return lines.field(0, "Tolerations", "<none>");
    }
    fn word<'a>(toleration: &'a Value, key: &str) -> &'a str {
        toleration.get(key).and_then(Value::as_str).unwrap_or_default()
    }
    tolerations.sort_by(|a, b| word(a, "key").cmp(word(b, "key")));
    for (place, toleration) in tolerations.into_iter().enumerate() {
        let mut text = word(toleration, "key").to_owned();
        for (mark, key) in [("=", "value"), (":", "effect")] {
            if !word(toleration, key).is_empty() {
                text = text + mark + word(toleration, key);
            }
        }
        if word(toleration, "operator") == "Exists" && word(toleration, "value").is_empty() {
            text.push_str(if text.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if let Some(seconds) = toleration.get("tolerationSeconds").and_then(Value::as_i64) {
            let _ = write!(text, " for {seconds}s");
        }
        lines.line(0, format_args!("{}\t{text}", if place == 0 { "Tolerations:" } else { "" }));
    }
}
