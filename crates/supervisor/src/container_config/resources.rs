//! Requests and limits, as `killick_pod::resources` has them, become `linux.resources`.

use std::collections::HashMap;

use killick_pod::resources::{CPU_PERIOD, Limits, container_limits, pod_limits};
use killick_pod::spec::{Container, Pod, Resources};
use oci_spec::runtime::{
    LinuxCpu, LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxHugepageLimit,
    LinuxHugepageLimitBuilder, LinuxMemory, LinuxMemoryBuilder, LinuxResources, LinuxResourcesBuilder,
};

use super::{NodeView, is_privileged};

/// `linux.resources` of one container.
pub(super) fn container_resources(container: &Container, node: &NodeView) -> Result<LinuxResources, String> {
    let limits = container_limits(container);
    let mut resources = LinuxResourcesBuilder::default().devices(devices(is_privileged(&container.security_context))?);
    resources = resources.cpu(cpu(&limits)?);
    if let Some(limit) = limits.memory {
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
    let limits = pod_limits(&pod.spec);
    let mut resources = LinuxResourcesBuilder::default().cpu(cpu(&limits)?);
    if let Some(limit) = limits.memory {
        resources = resources.memory(memory(limit)?);
    }
    resources.build().map_err(|e| e.to_string())
}

fn cpu(limits: &Limits) -> Result<LinuxCpu, String> {
    let mut cpu = LinuxCpuBuilder::default().shares(limits.cpu_shares);
    if let Some(quota) = limits.cpu_quota {
        cpu = cpu.quota(quota).period(CPU_PERIOD.unsigned_abs());
    }
    cpu.build().map_err(|e| e.to_string())
}

/// No swap beyond memory, as kubelet's NoSwap.
fn memory(limit: i64) -> Result<LinuxMemory, String> {
    LinuxMemoryBuilder::default().limit(limit).swap(limit).build().map_err(|e| e.to_string())
}

fn huge_page_limit(size: &str, resources: &Resources) -> Result<LinuxHugepageLimit, String> {
    // `2MB` is `hugepages-2Mi` in a manifest.
    let name = format!("hugepages-{}i", size.trim_end_matches('B'));
    let limit = resources.limit(&name).map_or(0, |limit| limit.value());
    LinuxHugepageLimitBuilder::default().page_size(size).limit(limit).build().map_err(|e| e.to_string())
}

/// Nothing but the defaults that the device writer appends, or everything.
fn devices(privileged: bool) -> Result<Vec<LinuxDeviceCgroup>, String> {
    let all = LinuxDeviceCgroupBuilder::default().allow(privileged).access("rwm").build();
    Ok(vec![all.map_err(|e| e.to_string())?])
}
