//! `linux.resources` becomes a list of writes to cgroup files: pure, so that every conversion is a table test.
//!
//! Knows files and values, not where a cgroup is or whether a file exists; `cgroup` carries the list out. Devices are
//! not here (`devices`): on v2 they are a program, not a file.

use std::fmt::Display;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice};

/// Which of the two kernel interfaces carries a controller on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// One value for one cgroup file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The controller that must carry the file (`""`: any file of the v2 cgroup, from `unified`).
    pub controller: &'static str,
    pub version: Version,
    /// File and value; the first file that exists is written.
    pub choices: Vec<(String, String)>,
    pub tolerate: Tolerate,
}

/// What does not make the container fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerate {
    Nothing,
    /// The file, or the whole controller, is not there: the value is the kernel's default, or an extra.
    Missing,
    /// Whatever the kernel answers: a deprecated knob.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("invalid memory value: {0}")]
    InvalidMemory(i64),
    #[error("unable to set swap limit without memory limit")]
    SwapWithoutMemory,
    #[error("memory+swap limit should be >= memory limit")]
    SwapBelowMemory,
    #[error("linux.resources.memory.swappiness: invalid value: {0}, valid memory swappiness range is 0-100")]
    Swappiness(u64),
    #[error("invalid configuration: cannot use unified on cgroup v1")]
    UnifiedOnV1,
    #[error("unified resource {0:?} must be a file name (no slashes)")]
    UnifiedName(String),
    #[error("unified resource {0:?} has no controller: it must be of the form controller.file")]
    UnifiedController(String),
    #[error("linux.resources.hugepageLimits: invalid page size {0:?}; this is of the form 2MB or 1GB")]
    PageSize(String),
    #[error("linux.resources.{0} is not to be had on cgroup v2")]
    NotOnV2(&'static str),
}

/// The writes that make `resources` true, in order. `version` says which interface carries a controller.
pub fn plan(resources: &LinuxResources, version: impl Fn(&str) -> Version) -> Result<Vec<Write>, ResourceError> {
    // Wrong also where v2 has no such file.
    let swappiness = resources.memory().as_ref().and_then(|memory| memory.swappiness());
    if let Some(swappiness) = swappiness.filter(|swappiness| *swappiness > 100) {
        return Err(ResourceError::Swappiness(swappiness));
    }
    let mut plan = Plan { writes: Vec::new(), version: &version };
    if let Some(cpu) = resources.cpu() {
        plan.cpuset(cpu);
    }
    if let Some(memory) = resources.memory() {
        plan.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        plan.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        // 0 is a real limit; runc writes 1 for it with both drivers, since systemd's TasksMax cannot be 0.
        let value = match pids.limit() {
            ..0 => "max".to_owned(),
            0 => "1".to_owned(),
            limit => limit.to_string(),
        };
        plan.one("pids", "pids.max", value, Tolerate::Nothing);
    }
    if let Some(block_io) = resources.block_io() {
        plan.block_io(block_io);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        plan.hugetlb(limit.page_size(), limit.limit())?;
    }
    if let Some(network) = resources.network() {
        // v2 has no network controllers: ignored there, as runc does.
        if version("net_cls") == Version::V1
            && let Some(class) = network.class_id()
        {
            plan.one("net_cls", "net_cls.classid", class, Tolerate::Nothing);
        }
        if version("net_prio") == Version::V1 {
            for interface in network.priorities().iter().flatten() {
                let value = format!("{} {}", interface.name(), interface.priority());
                plan.one("net_prio", "net_prio.ifpriomap", value, Tolerate::Nothing);
            }
        }
    }
    let mut rdma: Vec<_> = resources.rdma().iter().flatten().collect();
    rdma.sort_by_key(|(device, _)| device.as_str());
    for (device, limit) in rdma {
        let part = |name: &str, value: Option<u32>| value.map(|v| format!(" {name}={v}")).unwrap_or_default();
        let handles = part("hca_handle", limit.hca_handles());
        let value = format!("{device}{handles}{}", part("hca_object", limit.hca_objects()));
        plan.one("rdma", "rdma.max", value, Tolerate::Nothing);
    }
    plan.unified(resources)?;
    Ok(plan.writes)
}

/// Fields that have no counterpart where cgroup v2 carries their controller, by name; `plan` leaves them out.
pub fn ignored(resources: &LinuxResources, version: impl Fn(&str) -> Version) -> Vec<&'static str> {
    let (memory, network, io) = (resources.memory(), resources.network(), resources.block_io());
    let memory = memory.as_ref().map(|memory| {
        [
            // One that is wrong is refused.
            ("memory.swappiness", memory.swappiness().is_some_and(|swappiness| swappiness <= 100)),
            ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
            ("memory.kernel", memory.kernel().is_some_and(|limit| limit != 0)),
            ("memory.kernelTCP", memory.kernel_tcp().is_some_and(|limit| limit != 0)),
            ("memory.useHierarchy", memory.use_hierarchy() == Some(true)),
        ]
    });
    let network = network.as_ref().map(|network| {
        [
            ("network.classID", network.class_id().is_some()),
            ("network.priorities", network.priorities().as_ref().is_some_and(|all| !all.is_empty())),
        ]
    });
    let io = io.as_ref().map(|io| [("blockIO.leafWeight", io.leaf_weight().is_some_and(|weight| weight != 0))]);
    let given = memory.into_iter().flatten().chain(network.into_iter().flatten()).chain(io.into_iter().flatten());
    let given: Vec<&'static str> = given.filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect();
    // Nothing is asked of the host where nothing is given.
    let is_v2 = |name: &str| {
        let controller = match name.split('.').next() {
            Some("network") => {
                if name.ends_with("classID") {
                    "net_cls"
                } else {
                    "net_prio"
                }
            }
            Some("blockIO") => "blkio",
            _ => "memory",
        };
        version(controller) == Version::V2
    };
    given.into_iter().filter(|name| is_v2(name)).collect()
}

struct Plan<'a> {
    writes: Vec<Write>,
    version: &'a dyn Fn(&str) -> Version,
}

impl Plan<'_> {
    fn one(&mut self, controller: &'static str, file: impl Into<String>, value: impl Display, tolerate: Tolerate) {
        self.choice(controller, vec![(file.into(), value.to_string())], tolerate);
    }

    fn choice(&mut self, controller: &'static str, choices: Vec<(String, String)>, tolerate: Tolerate) {
        let version = (self.version)(controller);
        self.writes.push(Write { controller, version, choices, tolerate });
    }

    fn cpuset(&mut self, cpu: &LinuxCpu) {
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            // An empty string would mean "none" on v1 and "the parent's" on v2.
            if let Some(value) = value.as_deref().filter(|v| !v.trim().is_empty()) {
                self.one("cpuset", file, value, Tolerate::Nothing);
            }
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), ResourceError> {
        let (limit, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
        if limit < -1 {
            return Err(ResourceError::InvalidMemory(limit));
        }
        if swap < -1 {
            return Err(ResourceError::InvalidMemory(swap));
        }
        if swap != 0 && limit == 0 && swap != -1 {
            return Err(ResourceError::SwapWithoutMemory);
        }
        if swap > 0 && limit > 0 && swap < limit {
            return Err(ResourceError::SwapBelowMemory);
        }
        let reservation = memory.reservation().filter(|r| *r != 0);
        match (self.version)("memory") {
            Version::V1 => self.memory_v1(memory, limit, swap, reservation),
            Version::V2 => {
                self.memory_v2(limit, swap, reservation);
                Ok(())
            }
        }
    }

    fn memory_v1(
        &mut self,
        memory: &LinuxMemory,
        limit: i64,
        swap: i64,
        reservation: Option<i64>,
    ) -> Result<(), ResourceError> {
        if limit != 0 {
            self.one("memory", "memory.limit_in_bytes", limit, Tolerate::Nothing);
        }
        // A limit that is lifted lifts that of swap, or the kernel would refuse it.
        let swap = if limit == -1 && swap == 0 { -1 } else { swap };
        if swap != 0 {
            // Without swap accounting there is no file: what it would say anyway needs none.
            let tolerate = if swap == -1 || swap == limit { Tolerate::Missing } else { Tolerate::Nothing };
            self.one("memory", "memory.memsw.limit_in_bytes", swap, tolerate);
        }
        if let Some(reservation) = reservation {
            self.one("memory", "memory.soft_limit_in_bytes", reservation, Tolerate::Nothing);
        }
        // Both are without effect since 5.16 and answered with ENOTSUPP or not at all.
        if let Some(kernel) = memory.kernel().filter(|k| *k != 0) {
            self.one("memory", "memory.kmem.limit_in_bytes", kernel, Tolerate::Refused);
        }
        if let Some(tcp) = memory.kernel_tcp().filter(|k| *k != 0) {
            self.one("memory", "memory.kmem.tcp.limit_in_bytes", tcp, Tolerate::Refused);
        }
        if let Some(swappiness) = memory.swappiness() {
            self.one("memory", "memory.swappiness", swappiness, Tolerate::Nothing);
        }
        if memory.use_hierarchy() == Some(true) {
            self.one("memory", "memory.use_hierarchy", 1, Tolerate::Refused);
        }
        if memory.disable_oom_killer() == Some(true) {
            self.one("memory", "memory.oom_control", 1, Tolerate::Nothing);
        }
        Ok(())
    }

    fn memory_v2(&mut self, limit: i64, swap: i64, reservation: Option<i64>) {
        if limit != 0 {
            self.one("memory", "memory.max", or_max(limit), Tolerate::Nothing);
        }
        let swap = match (limit, swap) {
            (-1, 0) | (_, -1) => Some("max".to_owned()),
            (_, 0) => None,
            (-1, swap) => Some(swap.to_string()),
            (limit, swap) => Some((swap - limit).to_string()),
        };
        if let Some(swap) = swap {
            let tolerate = if swap == "max" || swap == "0" { Tolerate::Missing } else { Tolerate::Nothing };
            self.one("memory", "memory.swap.max", swap, tolerate);
        }
        if let Some(reservation) = reservation {
            self.one("memory", "memory.low", or_max(reservation), Tolerate::Nothing);
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), ResourceError> {
        let shares = cpu.shares().filter(|s| *s != 0);
        let (quota, period) = (cpu.quota().filter(|q| *q != 0), cpu.period().filter(|p| *p != 0));
        match (self.version)("cpu") {
            Version::V1 => {
                // Real time first: a real-time task may not enter before.
                if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
                    self.one("cpu", "cpu.rt_period_us", period, Tolerate::Nothing);
                }
                if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
                    self.one("cpu", "cpu.rt_runtime_us", runtime, Tolerate::Nothing);
                }
                if let Some(idle) = cpu.idle() {
                    self.one("cpu", "cpu.idle", idle, Tolerate::Nothing);
                }
                if let Some(shares) = shares {
                    self.one("cpu", "cpu.shares", shares, Tolerate::Nothing);
                }
                if let Some(burst) = cpu.burst() {
                    self.one("cpu", "cpu.cfs_burst_us", burst, Tolerate::Missing);
                }
                if let Some(period) = period {
                    self.one("cpu", "cpu.cfs_period_us", period, Tolerate::Nothing);
                }
                if let Some(quota) = quota {
                    self.one("cpu", "cpu.cfs_quota_us", quota.max(-1), Tolerate::Nothing);
                }
            }
            Version::V2 => {
                if cpu.realtime_period().is_some_and(|p| p != 0) || cpu.realtime_runtime().is_some_and(|r| r != 0) {
                    return Err(ResourceError::NotOnV2("cpu.realtimeRuntime"));
                }
                // A weight is refused while idle is 1, so idle is told first.
                if let Some(idle) = cpu.idle() {
                    self.one("cpu", "cpu.idle", idle, Tolerate::Nothing);
                }
                if let Some(shares) = shares {
                    self.one("cpu", "cpu.weight", cpu_weight(shares), Tolerate::Nothing);
                }
                if let Some(burst) = cpu.burst() {
                    self.one("cpu", "cpu.max.burst", burst, Tolerate::Nothing);
                }
                if quota.is_some() || period.is_some() {
                    let quota = quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
                    let value = format!("{quota} {}", period.unwrap_or(CPU_PERIOD_DEFAULT_US));
                    self.one("cpu", "cpu.max", value, Tolerate::Nothing);
                }
            }
        }
        Ok(())
    }

    fn block_io(&mut self, io: &LinuxBlockIo) {
        let v2 = (self.version)(self.io_controller()) == Version::V2;
        let controller = self.io_controller();
        if let Some(weight) = io.weight().filter(|w| *w != 0) {
            let choices = if v2 {
                vec![
                    ("io.bfq.weight".to_owned(), weight.to_string()),
                    ("io.weight".to_owned(), format!("default {}", io_weight(weight))),
                ]
            } else {
                vec![
                    ("blkio.weight".to_owned(), weight.to_string()),
                    ("blkio.bfq.weight".to_owned(), weight.to_string()),
                ]
            };
            self.choice(controller, choices, Tolerate::Nothing);
        }
        if let Some(weight) = io.leaf_weight().filter(|w| *w != 0 && !v2) {
            self.one(controller, "blkio.leaf_weight", weight, Tolerate::Nothing);
        }
        for device in io.weight_device().iter().flatten() {
            self.weight_device(controller, v2, device);
        }
        let throttles = [
            (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
            (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
            (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
            (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
        ];
        for (devices, v1_file, v2_key) in throttles {
            for device in devices.iter().flatten() {
                self.throttle(controller, v2, device, v1_file, v2_key);
            }
        }
    }

    /// The same controller is `blkio` on v1 and `io` on v2.
    fn io_controller(&self) -> &'static str {
        if (self.version)("blkio") == Version::V1 { "blkio" } else { "io" }
    }

    fn weight_device(&mut self, controller: &'static str, v2: bool, device: &LinuxWeightDevice) {
        let numbers = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight().filter(|w| *w != 0) {
            let plain = format!("{numbers} {weight}");
            let choices = if v2 {
                vec![
                    ("io.bfq.weight".to_owned(), plain),
                    ("io.weight".to_owned(), format!("{numbers} {}", io_weight(weight))),
                ]
            } else {
                vec![("blkio.weight_device".to_owned(), plain.clone()), ("blkio.bfq.weight_device".to_owned(), plain)]
            };
            self.choice(controller, choices, Tolerate::Nothing);
        }
        if let Some(weight) = device.leaf_weight().filter(|w| *w != 0 && !v2) {
            self.one(controller, "blkio.leaf_weight_device", format!("{numbers} {weight}"), Tolerate::Nothing);
        }
    }

    fn throttle(
        &mut self,
        controller: &'static str,
        v2: bool,
        device: &LinuxThrottleDevice,
        v1_file: &str,
        v2_key: &str,
    ) {
        let (major, minor, rate) = (device.major(), device.minor(), device.rate());
        if v2 {
            let rate = if rate == 0 { "max".to_owned() } else { rate.to_string() };
            self.one(controller, "io.max", format!("{major}:{minor} {v2_key}={rate}"), Tolerate::Nothing);
        } else {
            self.one(controller, v1_file, format!("{major}:{minor} {rate}"), Tolerate::Nothing);
        }
    }

    fn hugetlb(&mut self, size: &str, limit: i64) -> Result<(), ResourceError> {
        let number = size.trim_end_matches(|c: char| c.is_ascii_uppercase());
        let unit = &size[number.len()..];
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) || !["B", "KB", "MB", "GB"].contains(&unit)
        {
            return Err(ResourceError::PageSize(size.to_owned()));
        }
        let (file, value) = match (self.version)("hugetlb") {
            Version::V1 => ("limit_in_bytes", limit.to_string()),
            Version::V2 => ("max", or_max(limit)),
        };
        // kubelet always says 0 for every size; a host without the controller is tolerated then, as containerd's CRI
        // does by default.
        let tolerate = if limit == 0 { Tolerate::Missing } else { Tolerate::Nothing };
        self.one("hugetlb", format!("hugetlb.{size}.{file}"), &value, tolerate);
        // Reservations are counted by themselves since 5.7.
        self.one("hugetlb", format!("hugetlb.{size}.rsvd.{file}"), &value, Tolerate::Missing);
        Ok(())
    }

    fn unified(&mut self, resources: &LinuxResources) -> Result<(), ResourceError> {
        let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
        entries.sort();
        for (key, value) in entries {
            if key.contains('/') {
                return Err(ResourceError::UnifiedName(key.clone()));
            }
            let Some((controller, _)) = key.split_once('.') else {
                return Err(ResourceError::UnifiedController(key.clone()));
            };
            if controller != "cgroup" && (self.version)(controller) == Version::V1 {
                return Err(ResourceError::UnifiedOnV1);
            }
            for line in value.lines().filter(|l| !l.is_empty()) {
                self.writes.push(Write {
                    controller: "",
                    version: Version::V2,
                    choices: vec![(key.clone(), line.to_owned())],
                    tolerate: Tolerate::Nothing,
                });
            }
        }
        Ok(())
    }
}

/// The kernel's own default of `cpu.cfs_period_us` and `cpu.max`.
pub const CPU_PERIOD_DEFAULT_US: u64 = 100_000;

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// `cpu.shares` as `cpu.weight`, by the formula of runc ≥ 1.3.2, crun ≥ 1.23 and kubelet 1.35: 1024 is 100.
pub fn cpu_weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// `blkio.weight` (10..=1000) as `io.weight` (1..=10000).
pub(crate) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9_999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(json: &str, version: Version) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let writes = plan(&resources, |_| version).map_err(|e| e.to_string())?;
        Ok(writes
            .iter()
            .map(|w| {
                let choices: Vec<String> = w.choices.iter().map(|(f, v)| format!("{f}={v}")).collect();
                let mark = match w.tolerate {
                    Tolerate::Nothing => "",
                    Tolerate::Missing => " (or missing)",
                    Tolerate::Refused => " (or refused)",
                };
                format!("{}{mark}", choices.join(" | "))
            })
            .collect())
    }

    fn check(json: &str, v1: &[&str], v2: &[&str]) {
        assert_eq!(lines(json, Version::V1).unwrap(), v1, "{json} on v1");
        assert_eq!(lines(json, Version::V2).unwrap(), v2, "{json} on v2");
    }

    #[test]
    fn memory_and_swap_are_converted() {
        check(
            r#"{"memory":{"limit":1000,"swap":1000}}"#,
            &["memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=1000 (or missing)"],
            &["memory.max=1000", "memory.swap.max=0 (or missing)"],
        );
        check(
            r#"{"memory":{"limit":1000,"swap":1500,"reservation":800}}"#,
            &["memory.limit_in_bytes=1000", "memory.memsw.limit_in_bytes=1500", "memory.soft_limit_in_bytes=800"],
            &["memory.max=1000", "memory.swap.max=500", "memory.low=800"],
        );
        check(
            r#"{"memory":{"limit":-1}}"#,
            &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1 (or missing)"],
            &["memory.max=max", "memory.swap.max=max (or missing)"],
        );
        check(
            r#"{"memory":{"limit":-1,"swap":700}}"#,
            &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=700"],
            &["memory.max=max", "memory.swap.max=700"],
        );
        check(r#"{"memory":{"limit":0,"swap":0}}"#, &[], &[]);
        check(
            r#"{"memory":{"kernel":5,"kernelTCP":6,"swappiness":7,"disableOOMKiller":true,"useHierarchy":true}}"#,
            &[
                "memory.kmem.limit_in_bytes=5 (or refused)",
                "memory.kmem.tcp.limit_in_bytes=6 (or refused)",
                "memory.swappiness=7",
                "memory.use_hierarchy=1 (or refused)",
                "memory.oom_control=1",
            ],
            &[],
        );
    }

    #[test]
    fn memory_values_that_make_no_sense_are_refused() {
        for (json, message) in [
            (r#"{"memory":{"limit":-2}}"#, "invalid memory value: -2"),
            (r#"{"memory":{"swap":5}}"#, "unable to set swap limit without memory limit"),
            (r#"{"memory":{"limit":10,"swap":5}}"#, "memory+swap limit should be >= memory limit"),
        ] {
            assert_eq!(lines(json, Version::V1).unwrap_err(), message);
            assert_eq!(lines(json, Version::V2).unwrap_err(), message);
        }
        for version in [Version::V1, Version::V2] {
            assert!(lines(r#"{"memory":{"swappiness":101}}"#, version).unwrap_err().contains("101"));
        }
    }

    #[test]
    fn cpu_is_converted() {
        check(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1","mems":"0"}}"#,
            &[
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
            ],
            &["cpuset.cpus=0-1", "cpuset.mems=0", "cpu.weight=100", "cpu.max=50000 100000"],
        );
        check(r#"{"cpu":{"quota":50000}}"#, &["cpu.cfs_quota_us=50000"], &["cpu.max=50000 100000"]);
        check(
            r#"{"cpu":{"quota":-1,"period":5000}}"#,
            &["cpu.cfs_period_us=5000", "cpu.cfs_quota_us=-1"],
            &["cpu.max=max 5000"],
        );
        check(r#"{"cpu":{"shares":0,"quota":0,"period":0,"cpus":""}}"#, &[], &[]);
        check(
            r#"{"cpu":{"idle":1,"burst":10}}"#,
            &["cpu.idle=1", "cpu.cfs_burst_us=10 (or missing)"],
            &["cpu.idle=1", "cpu.max.burst=10"],
        );
        assert_eq!(
            lines(r#"{"cpu":{"realtimePeriod":100,"realtimeRuntime":50}}"#, Version::V1).unwrap(),
            ["cpu.rt_period_us=100", "cpu.rt_runtime_us=50"]
        );
        assert!(lines(r#"{"cpu":{"realtimeRuntime":50}}"#, Version::V2).unwrap_err().contains("realtimeRuntime"));
    }

    #[test]
    fn weights_follow_the_new_formula() {
        for (shares, weight) in [(0, 1), (2, 1), (102, 17), (1024, 100), (262_144, 10_000), (300_000, 10_000)] {
            assert_eq!(cpu_weight(shares), weight, "{shares} shares");
        }
        let mut last = 0;
        for shares in 2..=262_144 {
            let weight = cpu_weight(shares);
            assert!(weight >= last && (1..=10_000).contains(&weight), "{shares} shares: {weight}");
            last = weight;
        }
    }

    #[test]
    fn pids_zero_is_a_limit_and_minus_one_is_none() {
        for (limit, value) in [(-1, "pids.max=max"), (0, "pids.max=1"), (5, "pids.max=5")] {
            check(&format!(r#"{{"pids":{{"limit":{limit}}}}}"#), &[value], &[value]);
        }
    }

    #[test]
    fn block_io_is_converted() {
        check(
            r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
                "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":100}],
                "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":200}],
                "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":300}],
                "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#,
            &[
                "blkio.weight=500 | blkio.bfq.weight=500",
                "blkio.weight_device=8:0 10 | blkio.bfq.weight_device=8:0 10",
                "blkio.throttle.read_bps_device=8:0 100",
                "blkio.throttle.write_bps_device=8:0 200",
                "blkio.throttle.read_iops_device=8:0 300",
                "blkio.throttle.write_iops_device=8:0 0",
            ],
            &[
                "io.bfq.weight=500 | io.weight=default 4950",
                "io.bfq.weight=8:0 10 | io.weight=8:0 1",
                "io.max=8:0 rbps=100",
                "io.max=8:0 wbps=200",
                "io.max=8:0 riops=300",
                "io.max=8:0 wiops=max",
            ],
        );
    }

    #[test]
    fn hugetlb_limits_the_reservations_too() {
        check(
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
            &["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304 (or missing)"],
            &["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304 (or missing)"],
        );
        for size in ["", "MB", "2", "2mb", "../x", "2TB", "2 MB"] {
            let json = format!(r#"{{"hugepageLimits":[{{"pageSize":"{size}","limit":0}}]}}"#);
            assert!(lines(&json, Version::V1).is_err(), "{size:?}");
        }
    }

    #[test]
    fn network_and_rdma() {
        check(
            r#"{"network":{"classID":5,"priorities":[{"name":"eth0","priority":3}]},
                "rdma":{"mlx":{"hcaHandles":2,"hcaObjects":4},"a":{"hcaObjects":1}}}"#,
            &[
                "net_cls.classid=5",
                "net_prio.ifpriomap=eth0 3",
                "rdma.max=a hca_object=1",
                "rdma.max=mlx hca_handle=2 hca_object=4",
            ],
            &["rdma.max=a hca_object=1", "rdma.max=mlx hca_handle=2 hca_object=4"],
        );
    }

    #[test]
    fn what_v2_has_not_is_named() {
        let resources: LinuxResources = serde_json::from_str(
            r#"{"memory":{"limit":5,"swappiness":0,"kernelTCP":5,"kernel":0},"network":{"classID":1,"priorities":[]},
                "blockIO":{"weight":10,"leafWeight":10}}"#,
        )
        .unwrap();
        assert_eq!(ignored(&resources, |_| Version::V1), Vec::<&str>::new());
        assert_eq!(
            ignored(&resources, |_| Version::V2),
            ["memory.swappiness", "memory.kernelTCP", "network.classID", "blockIO.leafWeight"]
        );
    }

    #[test]
    fn unified_comes_last_and_is_v2_only() {
        let json = r#"{"pids":{"limit":5},"unified":{"memory.oom.group":"1","io.max":"8:0 rbps=1\n8:1 rbps=2\n"}}"#;
        assert_eq!(
            lines(json, Version::V2).unwrap(),
            ["pids.max=5", "io.max=8:0 rbps=1", "io.max=8:1 rbps=2", "memory.oom.group=1"]
        );
        assert_eq!(lines(json, Version::V1).unwrap_err(), "invalid configuration: cannot use unified on cgroup v1");
        assert!(lines(r#"{"unified":{"../x.y":"1"}}"#, Version::V2).unwrap_err().contains("no slashes"));
        assert!(lines(r#"{"unified":{"memory":"1"}}"#, Version::V2).unwrap_err().contains("controller"));
    }
}
