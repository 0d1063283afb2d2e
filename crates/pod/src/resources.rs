//! What requests and limits come to: cgroup numbers, the QoS class, the OOM score (kubelet.md §2.11, §6.3).

use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;
use crate::spec::{Container, PodSpec, Resources};

pub const SHARES_MIN: u64 = 2;
pub const SHARES_MAX: u64 = 262_144;
/// Period of the CPU quota, µs.
pub const CPU_PERIOD: i64 = 100_000;
/// The kernel takes no smaller quota, µs.
pub const CPU_QUOTA_MIN: i64 = 1000;
/// Pods of this priority or more are critical to their node.
const PRIORITY_CRITICAL: i64 = 2_000_000_000;
const OOM_CRITICAL: i64 = -997;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

impl Resources {
    /// The limit named `name` (`cpu`, `memory`); zero is no limit.
    pub fn limit(&self, name: &str) -> Option<Quantity> {
        self.limits.get(name).and_then(|text| Quantity::parse(text).ok()).filter(|quantity| !quantity.is_zero())
    }

    /// The request named `name`, which is the limit where only that is given. Zero is none.
    pub fn request(&self, name: &str) -> Option<Quantity> {
        let request = self.requests.get(name).and_then(|text| Quantity::parse(text).ok());
        request.or_else(|| self.limit(name)).filter(|quantity| !quantity.is_zero())
    }
}

/// `cpu.shares` of cgroup v1.
pub fn cpu_shares(request_milli: i64) -> u64 {
    let milli = u64::try_from(request_milli).unwrap_or(0);
    (milli.saturating_mul(1024) / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

/// µs in each `CPU_PERIOD`; none without a limit.
pub fn cpu_quota(limit_milli: i64) -> Option<i64> {
    (limit_milli > 0).then(|| (limit_milli.saturating_mul(CPU_PERIOD) / 1000).max(CPU_QUOTA_MIN))
}

/// `cpu.weight` of cgroup v2 as runc ≥ 1.3.2, crun ≥ 1.23 and kubelet 1.35 compute it: 1024 shares are weight 100.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        0..=SHARES_MIN => 1,
        SHARES_MAX.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            // 1 to 10,000 by the bounds above, so nothing is cut.
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

/// `cpu.weight` as older runtimes compute it: 1024 shares are weight 39.
pub fn cpu_weight_linear(shares: u64) -> u64 {
    let shares = shares.clamp(SHARES_MIN, SHARES_MAX);
    1 + (shares - 2) * 9999 / 262_142
}

/// One container's or one pod's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub cpu_shares: u64,
    /// µs in each `CPU_PERIOD`.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
}

pub fn container_limits(container: &Container) -> Limits {
    let resources = &container.resources;
    Limits {
        cpu_shares: cpu_shares(resources.request("cpu").map_or(0, |quantity| quantity.milli())),
        cpu_quota: resources.limit("cpu").and_then(|quantity| cpu_quota(quantity.milli())),
        memory: resources.limit("memory").map(|quantity| quantity.value()),
    }
}

/// The pod's own cgroup: sums over what runs at once; a limit only where every container has one.
pub fn pod_limits(spec: &PodSpec) -> Limits {
    let requested = total(spec, |container| container.resources.request("cpu").map_or(0, |cpu| cpu.milli()));
    let cpu = total_of_all(spec, |container| container.resources.limit("cpu").map(|cpu| cpu.milli()));
    let memory = total_of_all(spec, |container| container.resources.limit("memory").map(|memory| memory.value()));
    Limits { cpu_shares: cpu_shares(requested), cpu_quota: cpu.and_then(cpu_quota), memory }
}

/// The greatest need at any time: all regular containers and sidecars together, or an init container with the
/// sidecars that were started before it.
fn total(spec: &PodSpec, amount: impl Fn(&Container) -> i64) -> i64 {
    let (mut sidecars, mut during_init) = (0_i64, 0_i64);
    for container in &spec.init_containers {
        let need = amount(container);
        if container.is_sidecar() {
            sidecars = sidecars.saturating_add(need);
            during_init = during_init.max(sidecars);
        } else {
            during_init = during_init.max(sidecars.saturating_add(need));
        }
    }
    let regular = spec.containers.iter().fold(sidecars, |sum, container| sum.saturating_add(amount(container)));
    regular.max(during_init)
}

fn total_of_all(spec: &PodSpec, amount: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let all = every_container(spec).all(|container| amount(container).is_some());
    all.then(|| total(spec, |container| amount(container).unwrap_or(0)))
}

fn every_container(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().chain(&spec.containers)
}

pub fn qos_class(spec: &PodSpec) -> QosClass {
    let has_any =
        |container: &Container| ["cpu", "memory"].iter().any(|name| container.resources.request(name).is_some());
    let is_fixed = |container: &Container| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = container.resources.limit(name);
            limit.is_some() && limit == container.resources.request(name)
        })
    };
    match (every_container(spec).any(has_any), every_container(spec).all(is_fixed)) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// Who is killed first when memory runs out; pause itself has −998.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory_bytes: u64) -> i32 {
    let score = own_oom_score(spec, container, node_memory_bytes);
    let regular = spec.containers.iter().map(|container| own_oom_score(spec, container, node_memory_bytes)).min();
    let score = match regular {
        // A sidecar must not be killed before what it serves.
        Some(regular) if container.is_sidecar() => score.min(regular),
        _ => score,
    };
    i32::try_from(score).unwrap_or(1000)
}

fn own_oom_score(spec: &PodSpec, container: &Container, node_memory_bytes: u64) -> i64 {
    let priority = spec.passthrough.get("priority").and_then(serde_json::Value::as_i64).unwrap_or(0);
    if priority >= PRIORITY_CRITICAL {
        return OOM_CRITICAL;
    }
    match qos_class(spec) {
        QosClass::Guaranteed => OOM_CRITICAL,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = container.resources.request("memory").map_or(0, |memory| i128::from(memory.value()));
            let score = 1000 - request * 1000 / i128::from(node_memory_bytes.max(1));
            i64::try_from(score.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::slice::from_ref;

    fn spec(init: &[Value], regular: &[Value]) -> PodSpec {
        let container = |(index, fields): (usize, &Value)| {
            let mut container = json!({
                "name": format!("c{index}"), "image": "i", "imagePullPolicy": "Never",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            });
            for (key, value) in fields.as_object().unwrap() {
                container[key] = value.clone();
            }
            container
        };
        let list = |list: &[Value]| list.iter().enumerate().map(container).collect::<Vec<_>>();
        serde_json::from_value(json!({
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "initContainers": list(init), "containers": list(regular),
        }))
        .unwrap()
    }

    fn resources(cpu: [&str; 2], memory: [&str; 2]) -> Value {
        let mut value = json!({"resources": {"requests": {}, "limits": {}}});
        for (name, [request, limit]) in [("cpu", cpu), ("memory", memory)] {
            for (side, amount) in [("requests", request), ("limits", limit)] {
                if !amount.is_empty() {
                    value["resources"][side][name] = amount.into();
                }
            }
        }
        value
    }

    #[test]
    fn cpu_numbers_are_those_of_the_kubelet_and_the_runtimes() {
        for (milli, shares) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (2000, 2048), (i64::MAX, 262_144), (-5, 2)] {
            assert_eq!(cpu_shares(milli), shares, "{milli}");
        }
        for (milli, quota) in [(0, None), (1, Some(1000)), (100, Some(10_000)), (1500, Some(150_000))] {
            assert_eq!(cpu_quota(milli), quota, "{milli}");
        }
        for (shares, new, old) in
            [(2, 1, 1), (102, 17, 4), (1024, 100, 39), (2048, 174, 79), (262_144, 10_000, 10_000), (0, 1, 1)]
        {
            assert_eq!((cpu_weight(shares), cpu_weight_linear(shares)), (new, old), "{shares}");
        }
    }

    #[test]
    fn the_qos_class_is_as_kubelet_computes_it() {
        let check = |init: &[Value], regular: &[Value], expected: QosClass| {
            assert_eq!(qos_class(&spec(init, regular)), expected, "{init:?} {regular:?}");
        };
        let none = json!({});
        let fixed = resources(["1", "1"], ["1Gi", "1024Mi"]);
        check(&[], from_ref(&none), QosClass::BestEffort);
        check(&[], &[resources(["0", ""], ["", "0"])], QosClass::BestEffort);
        check(&[], from_ref(&fixed), QosClass::Guaranteed);
        check(&[], &[resources(["", "1"], ["", "1Gi"])], QosClass::Guaranteed);
        check(&[], &[fixed.clone(), none.clone()], QosClass::Burstable);
        check(&[none], from_ref(&fixed), QosClass::Burstable);
        check(&[], &[resources(["500m", "1"], ["1Gi", "1Gi"])], QosClass::Burstable);
        check(from_ref(&fixed), from_ref(&fixed), QosClass::Guaranteed);
        check(&[], &[resources(["1", "1"], ["", ""])], QosClass::Burstable);
    }

    #[test]
    fn the_oom_score_follows_class_request_and_priority() {
        let score = |spec: &PodSpec| oom_score_adj(spec, &spec.containers[0], 4 << 30);
        assert_eq!(score(&spec(&[], &[json!({})])), 1000);
        assert_eq!(score(&spec(&[], &[resources(["1", "1"], ["1Gi", "1Gi"])])), -997);
        assert_eq!(score(&spec(&[], &[resources(["", ""], ["1Gi", ""])])), 750);
        assert_eq!(score(&spec(&[], &[resources(["1", ""], ["", ""])])), 999);
        assert_eq!(score(&spec(&[], &[resources(["", ""], ["4Gi", ""])])), 3);
        let mut critical = spec(&[], &[json!({})]);
        critical.passthrough.insert("priority".to_owned(), json!(2_000_000_000));
        assert_eq!(score(&critical), -997);
        let mut sidecar = json!({"restartPolicy": "Always"});
        sidecar["resources"] = json!({"requests": {"cpu": "1m"}});
        let pod = spec(&[sidecar], &[resources(["", ""], ["2Gi", ""])]);
        assert_eq!(oom_score_adj(&pod, &pod.init_containers[0], 4 << 30), 500);
    }

    #[test]
    fn the_pods_cgroup_holds_what_runs_at_once() {
        let one = resources(["1", "1"], ["1Gi", "1Gi"]);
        let two = resources(["2", "2"], ["4Gi", "4Gi"]);
        let mut sidecar = one.clone();
        sidecar["restartPolicy"] = "Always".into();
        let limits = pod_limits(&spec(&[sidecar, two], from_ref(&one)));
        assert_eq!(limits, Limits { cpu_shares: 3072, cpu_quota: Some(300_000), memory: Some(5 << 30) });
        let limits = pod_limits(&spec(&[], &[one.clone(), json!({})]));
        assert_eq!(limits, Limits { cpu_shares: 1024, cpu_quota: None, memory: None });
        let container = container_limits(&spec(&[], &[one]).containers[0]);
        assert_eq!(container, Limits { cpu_shares: 1024, cpu_quota: Some(100_000), memory: Some(1 << 30) });
    }
}
