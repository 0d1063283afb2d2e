//! The parts of a container's section.

use std::fmt::Write;

use killick_pod::quantity::Quantity;
use killick_pod::spec::{
    Container, ContainerPort, EnvVar, Handler, Pod, Port, Probe, ResourceFieldRef, Scheme, SeccompKind, SeccompProfile,
};

use super::{Lines, or_empty};

pub(super) fn seccomp(lines: &mut Lines<'_>, level: usize, inner: usize, profile: &SeccompProfile) {
    let kind = match profile.kind {
        SeccompKind::RuntimeDefault => "RuntimeDefault",
        SeccompKind::Unconfined => "Unconfined",
        SeccompKind::Localhost => "Localhost",
    };
    lines.field(level, "SeccompProfile", kind);
    if profile.kind == SeccompKind::Localhost {
        lines.field(inner, "LocalhostProfile", or_empty(&profile.localhost_profile));
    }
}

pub(super) fn ports(
    lines: &mut Lines<'_>,
    label: &str,
    ports: &[ContainerPort],
    number: impl Fn(&ContainerPort) -> i64,
) {
    let texts: Vec<String> = ports
        .iter()
        .map(|port| match port.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => format!("{}/{} ({name})", number(port), port.protocol),
            None => format!("{}/{}", number(port), port.protocol),
        })
        .collect();
    match texts.as_slice() {
        [] => lines.field(2, label, "<none>"),
        [one] => lines.field(2, label, one),
        several => lines.field(2, &format!("{label}s"), several.join(", ")),
    }
}

/// Handler and attributes of a probe on one line.
pub(super) fn probe_text(probe: &Probe) -> String {
    let port = |port: &Port| match port {
        Port::Number(number) => number.to_string(),
        Port::Name(name) => name.clone(),
    };
    let handler = match &probe.handler {
        Handler::Exec(exec) => format!("exec [{}]", exec.command.join(" ")),
        Handler::HttpGet(get) => {
            let scheme = match get.scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            let path = url_path(&get.path);
            format!("http-get {scheme}://{}:{}{path}", or_empty(&get.host), port(&get.port))
        }
        Handler::TcpSocket(tcp) => format!("tcp-socket {}:{}", or_empty(&tcp.host), port(&tcp.port)),
        Handler::Sleep(_) => "unknown".to_owned(),
    };
    format!(
        "{handler} delay={}s timeout={}s period={}s #success={} #failure={}",
        probe.initial_delay_seconds,
        probe.timeout_seconds,
        probe.period_seconds,
        probe.success_threshold,
        probe.failure_threshold
    )
}

/// A path as Go's `url.URL` prints it: a slash in front, and `?` and what is no URL letter escaped.
fn url_path(path: &str) -> String {
    let mut text = String::new();
    if !path.is_empty() && !path.starts_with('/') {
        text.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'A'..=b'Z'
            | b'a'..=b'z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'~'
            | b'$'
            | b'&'
            | b'+'
            | b','
            | b'/'
            | b':'
            | b';'
            | b'='
            | b'@'
            | b'!'
            | b'\''
            | b'('
            | b')'
            | b'*' => text.push(byte.into()),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

pub(super) fn environment(lines: &mut Lines<'_>, pod: &Pod, container: &Container) {
    if !container.env_from.is_empty() {
        lines.line(2, "Environment Variables from:");
        for from in &container.env_from {
            let (kind, reference) = match (&from.config_map_ref, &from.secret_ref) {
                (Some(reference), _) => ("ConfigMap", Some(reference)),
                (None, reference) => ("Secret", reference.as_ref()),
            };
            let name = reference.map(|reference| reference.name.as_str()).unwrap_or_default();
            let optional = reference.and_then(|reference| reference.optional).unwrap_or_default();
            let prefix = match from.prefix.as_deref() {
                None | Some("") => String::new(),
                Some(prefix) => format!(" with prefix '{prefix}'"),
            };
            lines.line(3, format_args!("{name}\t{kind}{prefix}\tOptional: {optional}"));
        }
    }
    if container.env.is_empty() {
        return lines.line(2, "Environment:\t<none>");
    }
    lines.line(2, "Environment:");
    for variable in &container.env {
        variable_lines(lines, pod, container, variable);
    }
}

fn variable_lines(lines: &mut Lines<'_>, pod: &Pod, container: &Container, variable: &EnvVar) {
    let name = &variable.name;
    let Some(source) = &variable.value_from else {
        for (place, part) in or_empty(&variable.value).split('\n').enumerate() {
            match place {
                0 => lines.field(3, name, part),
                _ => lines.line(3, format_args!("\t{part}")),
            }
        }
        return;
    };
    if let Some(field) = &source.field_ref {
        let value = metadata_field(pod, &field.field_path);
        let version = if field.api_version.is_empty() { "v1" } else { &field.api_version };
        lines.field(3, name, format_args!("{value} ({version}:{})", field.field_path));
    } else if let Some(resource) = &source.resource_field_ref {
        let value = resource_value(container, resource);
        lines.field(3, name, format_args!("{value} ({})", resource.resource));
    } else if let Some(key) = &source.secret_key_ref {
        let optional = key.optional.unwrap_or_default();
        let (key, of) = (&key.key, &key.name);
        lines.field(3, name, format_args!("<set to the key '{key}' in secret '{of}'>\tOptional: {optional}"));
    } else if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional.unwrap_or_default();
        let (key, of) = (&key.key, &key.name);
        lines.field(3, name, format_args!("<set to the key '{key}' of config map '{of}'>\tOptional: {optional}"));
    }
}

/// What kubectl can resolve by itself: the metadata; the rest stays empty.
fn metadata_field(pod: &Pod, path: &str) -> String {
    let metadata = &pod.metadata;
    let subscript = |of: &str| path.strip_prefix(of)?.strip_prefix("['")?.strip_suffix("']");
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        _ => {
            let label = subscript("metadata.labels").and_then(|key| metadata.labels.get(key));
            let annotation = subscript("metadata.annotations").and_then(|key| metadata.annotations.get(key));
            label.or(annotation).cloned().unwrap_or_default()
        }
    }
}

/// As the container sees it: rounded up to the divisor.
fn resource_value(container: &Container, reference: &ResourceFieldRef) -> String {
    let resource = reference.resource.as_str();
    let value = match resource.split_once('.') {
        Some(("limits", name)) => container.resources.limit(name),
        Some(("requests", name)) => container.resources.request(name),
        _ => None,
    };
    let divisor = reference.divisor.as_deref().and_then(|text| Quantity::parse(text).ok()).unwrap_or(Quantity::ZERO);
    match value {
        Some(value) => value.div_ceil(&divisor).to_string(),
        None if matches!(resource, "limits.cpu" | "limits.memory") => "node allocatable".to_owned(),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_shown_as_the_variable_has_it() {
        let check = |limit: &str, resource: &str, divisor: Option<&str>, expected: &str| {
            let (kind, name) = resource.split_once('.').unwrap();
            let container: Container = serde_json::from_value(serde_json::json!({
                "name": "c", "image": "i", "imagePullPolicy": "Never",
                "resources": {kind: {name: limit}},
                "terminationMessagePath": "/t", "terminationMessagePolicy": "File",
            }))
            .unwrap();
            let reference = ResourceFieldRef {
                resource: resource.to_owned(),
                divisor: divisor.map(str::to_owned),
                ..ResourceFieldRef::default()
            };
            assert_eq!(resource_value(&container, &reference), expected, "{resource} {limit} {divisor:?}");
        };
        check("500m", "limits.cpu", None, "1");
        check("500m", "limits.cpu", Some("1m"), "500");
        check("64Mi", "limits.memory", Some("0"), "67108864");
        check("64Mi", "requests.memory", Some("1Mi"), "64");
        check("0", "limits.memory", None, "node allocatable");
        check("0", "requests.cpu", None, "0");
    }
}
