//! What `apply` would do with a pod on a host like this, as a text that people read and golden files hold.
//!
//! Times come from the machine itself, in a world where everything goes well. Nothing is looked at here: what is
//! known of the host comes in as `HostFacts`.

mod container;
mod timetable;

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::ContainerId;
use crate::machine::NodeInfo;
use crate::resources::{Limits, oom_score_adj, pod_limits, qos_class};
use crate::spec::{Container, DnsPolicy, Pod, ProbeKind, Volume, VolumeSource};

/// The host as `containerd-shim-killick-v2 pod facts` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Release and machine, `6.1.0-18-amd64 x86_64`.
    pub kernel: String,
    /// `v1`, `v2` or `hybrid`.
    pub cgroups: String,
    /// Below which the pods' cgroups are.
    pub cgroup_root: String,
    /// What the kernel can do, by the words of `pod facts`, and what it cannot.
    pub features: Vec<String>,
    pub missing: Vec<String>,
    pub bridge: String,
    pub subnet: String,
    pub node: String,
    pub memory_bytes: u64,
}

impl Default for HostFacts {
    fn default() -> HostFacts {
        HostFacts {
            kernel: String::new(),
            cgroups: String::new(),
            cgroup_root: "killick".to_owned(),
            features: Vec::new(),
            missing: Vec::new(),
            bridge: "killick0".to_owned(),
            subnet: "10.88.0.0/16".to_owned(),
            node: String::new(),
            memory_bytes: 0,
        }
    }
}

impl HostFacts {
    /// From the JSON of `pod facts`: `{"kernel", "machine", "calls": {NAME: BOOL}, "cgroups": {"v1": […], "unified": …}}`.
    /// What is not there keeps its default.
    pub fn from_json(facts: &Value) -> HostFacts {
        let text = |name: &str| facts[name].as_str().unwrap_or_default();
        let calls = |wanted: bool| {
            let calls = facts["calls"].as_object().into_iter().flatten();
            calls.filter(|(_, has)| has.as_bool() == Some(wanted)).map(|(name, _)| name.clone()).collect()
        };
        let has_v1 = facts["cgroups"]["v1"].as_array().is_some_and(|list| !list.is_empty());
        let cgroups = match (has_v1, facts["cgroups"]["unified"].is_object()) {
            (true, true) => "hybrid",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "",
        };
        HostFacts {
            kernel: [text("kernel"), text("machine")].join(" ").trim().to_owned(),
            cgroups: cgroups.to_owned(),
            features: calls(true),
            missing: calls(false),
            ..HostFacts::default()
        }
    }

    fn is_v2(&self) -> bool {
        self.cgroups == "v2"
    }
}

/// The plan of one pod. The same pod and facts give the same text.
pub fn plan(pod: &Pod, facts: &HostFacts) -> String {
    let mut text = String::new();
    write_plan(&mut text, pod, facts).expect("a String takes everything");
    text
}

fn write_plan(out: &mut String, pod: &Pod, facts: &HostFacts) -> std::fmt::Result {
    let (metadata, spec) = (&pod.metadata, &pod.spec);
    writeln!(out, "Pod {}/{}", metadata.namespace, metadata.name)?;
    writeln!(out, "  restart policy  {:?}", spec.restart_policy)?;
    writeln!(out, "  grace period    {} s", spec.termination_grace_period_seconds)?;
    if let Some(seconds) = spec.active_deadline_seconds {
        writeln!(out, "  ends after      {seconds} s")?;
    }
    writeln!(out, "  QoS class       {}", qos_class(spec).as_str())?;
    host(out, facts)?;
    namespaces(out, pod, facts)?;
    cgroups(out, pod, facts)?;
    if !spec.volumes.is_empty() {
        writeln!(out, "\nVolumes")?;
        let width = width(spec.volumes.iter().map(|volume| volume.name.as_str()));
        for volume in &spec.volumes {
            writeln!(out, "  {:width$}  {}", volume.name, volume_text(volume))?;
        }
    }
    for (init, container) in containers(pod) {
        container::container(out, pod, container, init)?;
    }
    times(out, pod, facts)
}

/// Init containers first; `true` for those.
fn containers(pod: &Pod) -> impl Iterator<Item = (bool, &Container)> {
    let init = pod.spec.init_containers.iter().map(|container| (true, container));
    init.chain(pod.spec.containers.iter().map(|container| (false, container)))
}

fn width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0)
}

fn host(out: &mut String, facts: &HostFacts) -> std::fmt::Result {
    if facts.kernel.is_empty() {
        return Ok(());
    }
    let list = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    writeln!(out, "\nHost")?;
    writeln!(out, "  kernel   {}", facts.kernel)?;
    writeln!(out, "  cgroups  {}", facts.cgroups)?;
    writeln!(out, "  has      {}", list(&facts.features))?;
    writeln!(out, "  lacks    {}", list(&facts.missing))
}

fn namespaces(out: &mut String, pod: &Pod, facts: &HostFacts) -> std::fmt::Result {
    let spec = &pod.spec;
    let host_or = |is_host: bool, own: String| if is_host { "the host's".to_owned() } else { own };
    let address = format!("the pod's: an address of {} on bridge {}", facts.subnet, facts.bridge);
    let host_name = host_name(pod);
    let pid = match (spec.host_pid, spec.shares_pid()) {
        (true, _) => "the host's",
        (false, true) => "the pod's: pause is PID 1, containers see each other's processes",
        (false, false) => "one for each container, whose first process is PID 1",
    };
    writeln!(out, "\nNamespaces")?;
    writeln!(out, "  net     {}", host_or(spec.host_network, address))?;
    writeln!(out, "  pid     {pid}")?;
    writeln!(out, "  ipc     {}", host_or(spec.host_ipc, "the pod's".to_owned()))?;
    writeln!(out, "  uts     {}", host_or(spec.host_network, format!("the pod's: host name {host_name}")))?;
    writeln!(out, "  mnt     one for each container, copied from pause's")?;
    let cgroup = if facts.is_v2() { "one for each container that is not privileged" } else { "the host's" };
    writeln!(out, "  cgroup  {cgroup}")?;
    let dns = match spec.dns_policy {
        DnsPolicy::None => "only what dnsConfig says",
        DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet | DnsPolicy::Default => {
            "the host's resolv.conf, with dnsConfig"
        }
    };
    writeln!(out, "  dns     {dns}")
}

/// The pod's name cut to 63 characters, unless it has a `hostname`.
fn host_name(pod: &Pod) -> String {
    let name: String = pod.metadata.name.chars().take(63).collect();
    pod.spec.hostname.clone().unwrap_or_else(|| name.trim_end_matches(['-', '.']).to_owned())
}

fn cgroups(out: &mut String, pod: &Pod, facts: &HostFacts) -> std::fmt::Result {
    let root =
        format!("{}/pod{}", facts.cgroup_root, if pod.metadata.uid.is_empty() { "UID" } else { &pod.metadata.uid });
    let rows: Vec<(String, String)> = std::iter::once((root.clone(), limits_text(&pod_limits(&pod.spec), facts)))
        .chain(containers(pod).map(|(_, container)| {
            let limits = limits_text(&crate::resources::container_limits(container), facts);
            let score = oom_score_adj(&pod.spec, container, facts.memory_bytes);
            (format!("{root}/{}", container.name), format!("{limits}, oom_score_adj {score}"))
        }))
        .collect();
    writeln!(out, "\nCgroups")?;
    let width = width(rows.iter().map(|(path, _)| path.as_str()));
    rows.iter().try_for_each(|(path, limits)| writeln!(out, "  {path:width$}  {limits}"))
}

fn limits_text(limits: &Limits, facts: &HostFacts) -> String {
    let period = crate::resources::CPU_PERIOD;
    let cpu = match (facts.is_v2(), limits.cpu_quota) {
        (true, None) => format!("cpu.weight {}", crate::resources::cpu_weight(limits.cpu_shares)),
        (true, Some(quota)) => {
            format!("cpu.weight {}, cpu.max {quota} {period}", crate::resources::cpu_weight(limits.cpu_shares))
        }
        (false, None) => format!("cpu.shares {}", limits.cpu_shares),
        (false, Some(quota)) => format!("cpu.shares {}, cpu.cfs_quota_us {quota}", limits.cpu_shares),
    };
    match limits.memory {
        Some(bytes) => format!("{cpu}, memory {bytes}"),
        None => format!("{cpu}, no memory limit"),
    }
}

fn volume_text(volume: &Volume) -> String {
    match &volume.source {
        VolumeSource::EmptyDir(dir) => match (dir.medium.as_str(), &dir.size_limit) {
            ("Memory", Some(limit)) => format!("emptyDir in memory, at most {limit}"),
            ("Memory", None) => "emptyDir in memory".to_owned(),
            _ => "emptyDir on disk".to_owned(),
        },
        VolumeSource::HostPath(path) if path.kind.is_empty() => format!("hostPath {}", path.path),
        VolumeSource::HostPath(path) => format!("hostPath {}, a {}", path.path, path.kind),
        VolumeSource::ConfigMap(map) => format!("configMap {}, mode {:04o}", map.name, map.default_mode),
        VolumeSource::Secret(secret) => format!("secret {}, mode {:04o}", secret.secret_name, secret.default_mode),
    }
}

fn times(out: &mut String, pod: &Pod, facts: &HostFacts) -> std::fmt::Result {
    let node = NodeInfo { name: facts.node.clone(), ip: None, memory_bytes: facts.memory_bytes };
    let table = timetable::timetable(pod, node);
    let name = |id: ContainerId| match id {
        ContainerId::Init(index) => pod.spec.init_containers[index].name.as_str(),
        ContainerId::Regular(index) => pod.spec.containers[index].name.as_str(),
    };
    let starts: Vec<_> = table.starts.iter().map(|(id, _)| name(*id)).collect();
    writeln!(out, "\nOrder")?;
    let volumes = if pod.spec.volumes.is_empty() { "" } else { ", volumes" };
    writeln!(out, "  sandbox{volumes}, {}", starts.join(", "))?;
    let all = pod.spec.init_containers.iter().enumerate().map(|(index, one)| (ContainerId::Init(index), one));
    let all = all.chain(pod.spec.containers.iter().enumerate().map(|(index, one)| (ContainerId::Regular(index), one)));
    let mut rows = Vec::new();
    for (id, container) in all {
        for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
            let Some(probe) = container.probe(kind) else { continue };
            let times = table.probes.get(&(id, kind)).map(Vec::as_slice).unwrap_or_default();
            rows.push((
                container.name.as_str(),
                container::probe_text(kind, probe),
                container::times_text(kind, probe, times),
            ));
        }
    }
    if rows.is_empty() {
        return writeln!(out, "\nProbes\n  none: a container that runs is ready");
    }
    writeln!(out, "\nProbes, seconds from admission, if all goes well")?;
    let (names, texts) = (width(rows.iter().map(|row| row.0)), width(rows.iter().map(|row| row.1.as_str())));
    rows.iter().try_for_each(|(name, text, times)| writeln!(out, "  {name:names$}  {text:texts$}  {times}"))
}

#[cfg(test)]
mod tests;
