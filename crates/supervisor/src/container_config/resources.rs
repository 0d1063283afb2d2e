//! Requests and limits become cgroup values, by kubelet's formulas.

use std::collections::HashMap;

use killick_pod::spec::{Container, Pod, Resources};
use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxHugepageLimit, LinuxHugepageLimitBuilder,
    LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::{NodeView, is_privileged, quantity};

const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;
const PERIOD_US: u64 = 100_000;
const QUOTA_MIN_US: i64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// CPU in thousandths of a core and memory in bytes, where said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Wanted {
    cpu_request: Option<i64>,
    cpu_limit: Option<i64>,
    memory_request: Option<i64>,
    memory_limit: Option<i64>,
}

impl Wanted {
    /// A request that is not said is the limit (the API's default).
    fn of(resources: &Resources) -> Wanted {
        let cpu = |text: &String| quantity::milli(text).and_then(|v| i64::try_from(v).ok());
        let memory = |text: &String| quantity::units(text);
        let positive = |value: Option<i64>| value.filter(|v| *v > 0);
        let cpu_limit = positive(resources.limits.get("cpu").and_then(cpu));
        let memory_limit = positive(resources.limits.get("memory").and_then(memory));
        let request = |name: &str| resources.requests.get(name);
        Wanted {
            cpu_request: request("cpu").map_or(cpu_limit, |text| positive(cpu(text))),
            memory_request: request("memory").map_or(memory_limit, |text| positive(memory(text))),
            cpu_limit,
            memory_limit,
        }
    }
}

fn shares(cpu_request_milli: Option<i64>) -> u64 {
    let milli = cpu_request_milli.unwrap_or(0).unsigned_abs();
    (milli.saturating_mul(1_024) / 1_000).clamp(SHARES_MIN, SHARES_MAX)
}

fn quota(cpu_limit_milli: i64) -> i64 {
    (cpu_limit_milli.saturating_mul(PERIOD_US as i64) / 1_000).max(QUOTA_MIN_US)
}

/// Guaranteed: every container has limits for CPU and memory, and requests equal to them. BestEffort: none has any.
pub fn qos_class(pod: &Pod) -> QosClass {
    let all: Vec<Wanted> = all_containers(pod).map(|c| Wanted::of(&c.resources)).collect();
    if all.iter().all(|w| *w == Wanted::default()) {
        return QosClass::BestEffort;
    }
    let guaranteed = |w: &Wanted| {
        w.cpu_limit.is_some()
            && w.memory_limit.is_some()
            && w.cpu_request == w.cpu_limit
            && w.memory_request == w.memory_limit
    };
    if all.iter().all(guaranteed) { QosClass::Guaranteed } else { QosClass::Burstable }
}

fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.init_containers.iter().chain(&pod.spec.containers)
}

/// kubelet's OOM score: −997 for Guaranteed, 1000 for BestEffort, between by the share of the node's memory that is
/// requested.
pub(super) fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: u64) -> i32 {
    match qos_class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1_000,
        QosClass::Burstable => {
            let own = burstable_score(container, node_memory_bytes);
            // A sidecar shall not go before the containers that it serves.
            let regular = pod.spec.containers.iter().map(|c| burstable_score(c, node_memory_bytes)).min();
            match regular {
                Some(regular) if container.is_sidecar() => own.min(regular),
                Some(_) | None => own,
            }
        }
    }
}

fn burstable_score(container: &Container, node_memory_bytes: u64) -> i32 {
    let request = Wanted::of(&container.resources).memory_request.unwrap_or(0);
    let score = 1_000 - 1_000 * i128::from(request) / i128::from(node_memory_bytes.max(1));
    i32::try_from(score.clamp(3, 999)).unwrap_or(999)
}

/// `linux.resources` of one container.
pub(super) fn container_resources(pod: &Pod, container: &Container, node: &NodeView) -> Result<LinuxResources, String> {
    let _ = pod;
    let wanted = Wanted::of(&container.resources);
    let mut resources = LinuxResourcesBuilder::default().devices(devices(is_privileged(&container.security_context))?);
    resources = resources.cpu(cpu(shares(wanted.cpu_request), wanted.cpu_limit.map(quota))?);
    if let Some(limit) = wanted.memory_limit {
        resources = resources.memory(memory(limit)?);
    }
    if !node.huge_page_sizes.is_empty() {
        let limits: Result<Vec<_>, _> =
            node.huge_page_sizes.iter().map(|size| huge_page_limit(size, &container.resources)).collect();
        resources = resources.hugepage_limits(limits?);
    }
    // One process killed for want of memory takes its container along (kubelet since 1.28).
    if node.cgroup_v2 {
        resources = resources.unified(HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())]));
    }
    resources.build().map_err(|e| e.to_string())
}

/// `linux.resources` of the pod's cgroup: shares are the sum of the requests; quota and memory are limited only where
/// every container is.
pub fn pod_resources(pod: &Pod) -> Result<LinuxResources, String> {
    let total = pod_total(pod);
    let mut resources =
        LinuxResourcesBuilder::default().cpu(cpu(shares(total.cpu_request), total.cpu_limit.map(quota))?);
    if let Some(limit) = total.memory_limit {
        resources = resources.memory(memory(limit)?);
    }
    resources.build().map_err(|e| e.to_string())
}

/// max(regular + sidecars, each init container + the sidecars before it), field by field; a limit only if all have it.
fn pod_total(pod: &Pod) -> Wanted {
    let add = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.saturating_add(b));
    let max = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
    let or_zero = |w: Wanted| Wanted {
        cpu_request: Some(w.cpu_request.unwrap_or(0)),
        memory_request: Some(w.memory_request.unwrap_or(0)),
        ..w
    };
    let each = |a: Wanted, b: Wanted, f: fn(Option<i64>, Option<i64>) -> Option<i64>| Wanted {
        cpu_request: f(a.cpu_request, b.cpu_request),
        cpu_limit: f(a.cpu_limit, b.cpu_limit),
        memory_request: f(a.memory_request, b.memory_request),
        memory_limit: f(a.memory_limit, b.memory_limit),
    };
    let none = Wanted { cpu_request: Some(0), cpu_limit: Some(0), memory_request: Some(0), memory_limit: Some(0) };
    let (mut sidecars, mut peak) = (none, none);
    for init in &pod.spec.init_containers {
        let own = or_zero(Wanted::of(&init.resources));
        let with_sidecars = each(own, sidecars, add);
        peak = each(peak, with_sidecars, max);
        if init.is_sidecar() {
            sidecars = with_sidecars;
        }
    }
    let regular = pod.spec.containers.iter().map(|c| or_zero(Wanted::of(&c.resources)));
    let regular = regular.fold(sidecars, |sum, own| each(sum, own, add));
    each(peak, regular, max)
}

fn cpu(shares: u64, quota: Option<i64>) -> Result<oci_spec::runtime::LinuxCpu, String> {
    let mut cpu = LinuxCpuBuilder::default().shares(shares);
    if let Some(quota) = quota {
        cpu = cpu.quota(quota).period(PERIOD_US);
    }
    cpu.build().map_err(|e| e.to_string())
}

/// No swap beyond memory, as kubelet's NoSwap.
fn memory(limit: i64) -> Result<oci_spec::runtime::LinuxMemory, String> {
    LinuxMemoryBuilder::default().limit(limit).swap(limit).build().map_err(|e| e.to_string())
}

fn huge_page_limit(size: &str, resources: &Resources) -> Result<LinuxHugepageLimit, String> {
    // `2MB` is `hugepages-2Mi` in a manifest.
    let name = format!("hugepages-{}i", size.trim_end_matches('B'));
    let limit = resources.limits.get(&name).and_then(|text| quantity::units(text)).unwrap_or(0);
    LinuxHugepageLimitBuilder::default().page_size(size).limit(limit).build().map_err(|e| e.to_string())
}

/// Nothing but the defaults that the device writer appends, or everything.
fn devices(privileged: bool) -> Result<Vec<LinuxDeviceCgroup>, String> {
    let all = LinuxDeviceCgroupBuilder::default().allow(privileged).access("rwm").build();
    Ok(vec![all.map_err(|e| e.to_string())?])
}
