//! `linux.resources` becomes properties of a unit: pure. What systemd cannot say is in `resources::plan` alone, whose
//! files are written afterwards; what it can is in both, or the next `daemon-reload` would take it back.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::wire::Value;
use crate::devices::{self, ALL_ACCESS, DEFAULT_RULES, Kind, MKNOD, READ, Rule, WRITE};
use crate::resources::{CPU_PERIOD_DEFAULT_US, Version, cpu_weight, io_weight};

/// Name and value, in the order in which systemd takes them.
pub type Property = (String, Value);

/// systemd's "no limit".
const INFINITY: u64 = u64::MAX;

/// From which systemd on a property is there (NEWS of systemd); what is not named is as old as transient units.
const SINCE: &[(&str, u32)] = &[
    ("Delegate", 218),
    ("TasksAccounting", 227),
    ("TasksMax", 227),
    ("IOAccounting", 230),
    ("IOWeight", 230),
    ("IODeviceWeight", 230),
    ("IOReadBandwidthMax", 230),
    ("IOWriteBandwidthMax", 230),
    ("IOReadIOPSMax", 230),
    ("IOWriteIOPSMax", 230),
    ("MemoryLow", 231),
    ("MemoryHigh", 231),
    ("MemoryMax", 231),
    ("CPUWeight", 232),
    ("MemorySwapMax", 232),
    ("CollectMode", 236),
    ("MemoryMin", 240),
    ("CPUQuotaPeriodUSec", 242),
    ("AllowedCPUs", 244),
    ("AllowedMemoryNodes", 244),
    ("OOMPolicy", 253),
];

/// Whether a systemd of this version has a property. An unknown version is asked.
pub fn has(version: Option<u32>, property: &str) -> bool {
    let since = SINCE.iter().find(|(name, _)| *name == property).map_or(0, |(_, since)| *since);
    version.is_none_or(|version| version >= since)
}

/// What a conversion needs to know of the host.
pub struct Host<'a> {
    pub version_of: &'a dyn Fn(&str) -> Version,
    pub systemd: Option<u32>,
    /// The name of a major number in /proc/devices, for systemd before 240.
    pub driver: &'a dyn Fn(Kind, u32) -> Option<String>,
}

impl std::fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("systemd", &self.systemd).finish_non_exhaustive()
    }
}

/// systemd keeps a quota in whole per cent of a processor, rounded up: the same goes into the files, so that a nested
/// cgroup may have what was asked for.
pub fn rounded(resources: &LinuxResources) -> LinuxResources {
    let mut rounded = resources.clone();
    let Some(mut cpu) = resources.cpu().clone() else { return rounded };
    if let Some(quota) = cpu.quota().filter(|quota| *quota > 0) {
        let period = cpu.period().filter(|period| *period != 0).unwrap_or(CPU_PERIOD_DEFAULT_US);
        let per_second = quota_per_second(quota, period);
        // Never less than was asked for, whatever the division says.
        let same = u128::from(per_second) * u128::from(period) / 1_000_000;
        cpu.set_quota(Some(quota.max(i64::try_from(same).unwrap_or(i64::MAX))));
        rounded.set_cpu(Some(cpu));
    }
    rounded
}

/// Microseconds of processor time for each second, in steps of 10 ms.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    const STEP: u128 = 10_000;
    let exact = (u128::from(quota.unsigned_abs()) * 1_000_000).div_ceil(u128::from(period.max(1)));
    u64::try_from(exact.div_ceil(STEP) * STEP).unwrap_or(INFINITY)
}

/// The properties that say what `resources` says.
pub fn of_resources(resources: &LinuxResources, host: &Host<'_>) -> Vec<Property> {
    let mut list = List { properties: Vec::new(), host };
    if let Some(devices) = resources.devices() {
        // What cannot be read is refused when the rules are applied, by its index.
        if let Ok(rules) = devices::parse(devices) {
            list.devices(&rules);
        }
    }
    if let Some(cpu) = resources.cpu() {
        list.cpuset("AllowedCPUs", cpu.cpus().as_deref());
        list.cpuset("AllowedMemoryNodes", cpu.mems().as_deref());
        list.cpu(cpu);
    }
    if let Some(memory) = resources.memory() {
        list.memory(memory);
    }
    if let Some(pids) = resources.pids() {
        list.number("TasksMax", limit(pids.limit().max(-1), 1));
    }
    if let Some(io) = resources.block_io() {
        list.block_io(io);
    }
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (key, value) in unified {
        list.unified(key, value.trim());
    }
    list.properties
}

/// −1 is no limit; what systemd does not take as one is its least.
fn limit(value: i64, least: u64) -> u64 {
    u64::try_from(value).map_or(INFINITY, |value| value.max(least))
}

struct List<'a> {
    properties: Vec<Property>,
    host: &'a Host<'a>,
}

impl List<'_> {
    /// The last one said holds.
    fn set(&mut self, name: &str, value: Value) {
        self.properties.retain(|(known, _)| known != name);
        self.properties.push((name.to_owned(), value));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.set(name, Value::U64(value));
    }

    fn is_v2(&self, controller: &str) -> bool {
        (self.host.version_of)(controller) == Version::V2
    }

    fn cpuset(&mut self, name: &str, cpus: Option<&str>) {
        if let Some(bits) = cpus.and_then(bitmap) {
            self.set(name, Value::Bytes(bits));
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) {
        let shares = cpu.shares().filter(|shares| *shares != 0);
        if self.is_v2("cpu") {
            if let Some(shares) = shares {
                self.number("CPUWeight", cpu_weight(shares));
            }
            // 252 knows idle as a weight of 0.
            if cpu.idle() == Some(1) && self.host.systemd.is_some_and(|version| version >= 252) {
                self.number("CPUWeight", 0);
            }
        } else if let Some(shares) = shares {
            self.number("CPUShares", shares.clamp(2, 262_144));
        }
        self.quota(cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    }

    fn quota(&mut self, quota: Option<i64>, period: Option<u64>) {
        if let Some(period) = period {
            self.number("CPUQuotaPeriodUSec", period);
        }
        if quota.is_some() || period.is_some() {
            let period = period.unwrap_or(CPU_PERIOD_DEFAULT_US);
            let per_second = quota.filter(|quota| *quota > 0).map(|quota| quota_per_second(quota, period));
            self.number("CPUQuotaPerSecUSec", per_second.unwrap_or(INFINITY));
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) {
        let (limit_bytes, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
        if !self.is_v2("memory") {
            if limit_bytes != 0 {
                self.number("MemoryLimit", limit(limit_bytes, 1));
            }
            return;
        }
        if limit_bytes != 0 {
            self.number("MemoryMax", limit(limit_bytes, 1));
        }
        match (limit_bytes, swap) {
            (-1, 0) | (_, -1) => self.number("MemorySwapMax", INFINITY),
            (_, 0) => {}
            (limit_bytes, swap) => self.number("MemorySwapMax", limit(swap - limit_bytes.max(0), 0)),
        }
        if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
            self.number("MemoryLow", limit(reservation, 0));
        }
    }

    fn block_io(&mut self, io: &LinuxBlockIo) {
        let v2 = self.is_v2("blkio") || self.is_v2("io");
        let weight = |weight: u16| if v2 { io_weight(weight) } else { u64::from(weight).clamp(10, 1000) };
        let name = |v2_name, v1_name| if v2 { v2_name } else { v1_name };
        if let Some(value) = io.weight().filter(|weight| *weight != 0) {
            self.number(name("IOWeight", "BlockIOWeight"), weight(value));
        }
        let entry = |major: i64, minor: i64, value: u64| {
            Value::Struct(vec![Value::text(format!("/dev/block/{major}:{minor}")), Value::U64(value)])
        };
        let weights = io.weight_device().iter().flatten();
        let weights =
            weights.filter_map(|d| Some(entry(d.major(), d.minor(), weight(d.weight().filter(|w| *w != 0)?))));
        let mut lists = vec![(name("IODeviceWeight", "BlockIODeviceWeight"), weights.collect::<Vec<_>>())];
        let throttles = [
            (io.throttle_read_bps_device(), name("IOReadBandwidthMax", "BlockIOReadBandwidth")),
            (io.throttle_write_bps_device(), name("IOWriteBandwidthMax", "BlockIOWriteBandwidth")),
            (io.throttle_read_iops_device(), name("IOReadIOPSMax", "")),
            (io.throttle_write_iops_device(), name("IOWriteIOPSMax", "")),
        ];
        for (devices, name) in throttles {
            let rate = |rate: u64| if rate == 0 { INFINITY } else { rate };
            let entries = devices.iter().flatten().map(|d| entry(d.major(), d.minor(), rate(d.rate())));
            lists.push((name, entries.collect()));
        }
        for (name, items) in lists {
            if !name.is_empty() && !items.is_empty() {
                self.set(name, Value::Array { of: "(st)".into(), items });
            }
        }
    }

    /// Files of v2 that a property stands for; all others are files only.
    fn unified(&mut self, key: &str, value: &str) {
        let number = || if value == "max" { Some(INFINITY) } else { value.parse::<u64>().ok() };
        let property = match key {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpuset.cpus" => return self.cpuset("AllowedCPUs", Some(value)),
            "cpuset.mems" => return self.cpuset("AllowedMemoryNodes", Some(value)),
            "cpu.idle" => {
                if value == "1" && self.host.systemd.is_some_and(|version| version >= 252) {
                    self.number("CPUWeight", 0);
                }
                return;
            }
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = words.next().and_then(|word| if word == "max" { Some(-1) } else { word.parse().ok() });
                return self.quota(quota, words.next().and_then(|word| word.parse().ok()));
            }
            "io.weight" => {
                let weight = value.strip_prefix("default").unwrap_or(value).trim().parse().ok();
                if let Some(weight) = weight.filter(|weight| (1..=10_000).contains(weight)) {
                    self.number("IOWeight", weight);
                }
                return;
            }
            _ => return,
        };
        if let Some(value) = number() {
            let least = u64::from(property == "TasksMax" || property == "MemoryMax");
            self.number(property, value.max(least));
        }
    }

    /// systemd knows a list of what is allowed. One of what is denied, or with a hole, cannot be said: it gets the wider
    /// list, and our own rules narrow it.
    fn devices(&mut self, rules: &[Rule]) {
        let clear = ("DeviceAllow".to_owned(), Value::Array { of: "(ss)".into(), items: Vec::new() });
        let mut allowed: Option<Vec<Rule>> = Some(Vec::new());
        for rule in rules {
            let is_everything = rule.kind == Kind::All && rule.major.is_none() && rule.minor.is_none();
            match (rule.allow, is_everything && rule.access == ALL_ACCESS) {
                (true, true) => allowed = None,
                (false, true) => allowed = Some(Vec::new()),
                (true, false) => allowed.iter_mut().for_each(|list| list.push(*rule)),
                (false, false) => {}
            }
        }
        let Some(mut allowed) = allowed else {
            self.properties.push(("DevicePolicy".into(), Value::text("auto")));
            self.properties.push(clear);
            return;
        };
        allowed.extend(DEFAULT_RULES);
        let items: Vec<Value> = allowed.iter().flat_map(|rule| self.device_entries(rule)).collect();
        self.properties.push(("DevicePolicy".into(), Value::text("strict")));
        self.properties.push(clear);
        self.properties.push(("DeviceAllow".into(), Value::Array { of: "(ss)".into(), items }));
    }

    fn device_entries(&self, rule: &Rule) -> Vec<Value> {
        let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        let access: String =
            letters.iter().filter(|(bit, _)| rule.access & bit != 0).map(|(_, letter)| letter).collect();
        let kinds: &[Kind] = match rule.kind {
            Kind::All => &[Kind::Block, Kind::Char],
            Kind::Block => &[Kind::Block],
            Kind::Char => &[Kind::Char],
        };
        let entry = |kind: &Kind| {
            let word = if *kind == Kind::Block { "block" } else { "char" };
            let name = match (rule.major, rule.minor) {
                (None, None) => format!("{word}-*"),
                // A minor number of every driver: systemd has no word for it.
                (None, Some(_)) => format!("{word}-*"),
                (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
                (Some(major), None) if self.host.systemd.is_none_or(|version| version >= 240) => {
                    format!("{word}-{major}")
                }
                (Some(major), None) => format!("{word}-{}", (self.host.driver)(*kind, major)?),
            };
            Some(Value::Struct(vec![Value::Text(name), Value::Text(access.clone())]))
        };
        kinds.iter().filter_map(entry).collect()
    }
}

/// `0-3,8` as bits, the first processor the lowest bit of the first byte. None: not a list, or empty.
fn bitmap(list: &str) -> Option<Vec<u8>> {
    /// No kernel has more processors or memory nodes.
    const NUMBER_MAX: usize = 8192;
    let mut bits = Vec::new();
    for part in list.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= NUMBER_MAX {
            return None;
        }
        if bits.len() <= last / 8 {
            bits.resize(last / 8 + 1, 0);
        }
        (first..=last).for_each(|number| bits[number / 8] |= 1 << (number % 8));
    }
    Some(bits).filter(|bits| !bits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(value: &Value) -> String {
        match value {
            Value::U64(INFINITY) => "infinity".into(),
            Value::U64(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Bytes(bytes) => format!("{bytes:02x?}"),
            Value::Text(text) => text.clone(),
            Value::Array { items, .. } => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
            Value::Struct(fields) => fields.iter().map(show).collect::<Vec<_>>().join("="),
            other => format!("{other:?}"),
        }
    }

    fn list(json: &str, version: Version, systemd: u32) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let driver = |_: Kind, major: u32| (major == 136).then(|| "pts".to_owned());
        let host = Host { version_of: &|_| version, systemd: Some(systemd), driver: &driver };
        of_resources(&resources, &host).iter().map(|(name, value)| format!("{name}={}", show(value))).collect()
    }

    fn check(json: &str, v1: &[&str], v2: &[&str]) {
        assert_eq!(list(json, Version::V1, 252), v1, "{json} on v1");
        assert_eq!(list(json, Version::V2, 252), v2, "{json} on v2");
    }

    #[test]
    fn memory_is_converted() {
        check(
            r#"{"memory":{"limit":1000,"swap":1500,"reservation":800}}"#,
            &["MemoryLimit=1000"],
            &["MemoryMax=1000", "MemorySwapMax=500", "MemoryLow=800"],
        );
        check(
            r#"{"memory":{"limit":-1}}"#,
            &["MemoryLimit=infinity"],
            &["MemoryMax=infinity", "MemorySwapMax=infinity"],
        );
        check(
            r#"{"memory":{"limit":1000,"swap":1000}}"#,
            &["MemoryLimit=1000"],
            &["MemoryMax=1000", "MemorySwapMax=0"],
        );
        check(
            r#"{"memory":{"limit":-1,"swap":700}}"#,
            &["MemoryLimit=infinity"],
            &["MemoryMax=infinity", "MemorySwapMax=700"],
        );
        check(r#"{"memory":{"limit":0,"swap":0}}"#, &[], &[]);
    }

    #[test]
    fn cpu_is_converted() {
        check(
            r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0-1,8","mems":"0"}}"#,
            &[
                "AllowedCPUs=[03, 01]",
                "AllowedMemoryNodes=[01]",
                "CPUShares=1024",
                "CPUQuotaPeriodUSec=100000",
                "CPUQuotaPerSecUSec=500000",
            ],
            &[
                "AllowedCPUs=[03, 01]",
                "AllowedMemoryNodes=[01]",
                "CPUWeight=100",
                "CPUQuotaPeriodUSec=100000",
                "CPUQuotaPerSecUSec=500000",
            ],
        );
        check(r#"{"cpu":{"shares":1}}"#, &["CPUShares=2"], &["CPUWeight=1"]);
        check(r#"{"cpu":{"shares":300000}}"#, &["CPUShares=262144"], &["CPUWeight=10000"]);
        check(r#"{"cpu":{"idle":1}}"#, &[], &["CPUWeight=0"]);
        assert_eq!(list(r#"{"cpu":{"idle":1}}"#, Version::V2, 251), [""; 0]);
        check(r#"{"cpu":{"quota":-1}}"#, &["CPUQuotaPerSecUSec=infinity"], &["CPUQuotaPerSecUSec=infinity"]);
        check(r#"{"cpu":{"cpus":"x","mems":"9999999"}}"#, &[], &[]);
    }

    #[test]
    fn a_quota_is_rounded_up_to_a_per_cent_in_both() {
        for (quota, period, per_second, file) in [
            (50_000, 100_000, 500_000, 50_000),
            (12_345, 100_000, 130_000, 13_000),
            (1_000, 1_000_000, 10_000, 10_000),
            (999, 100_000, 10_000, 1_000),
            (33_333, 100_000, 340_000, 34_000),
            (1, 3, 340_000, 1),
        ] {
            assert_eq!(quota_per_second(quota, period), per_second, "{quota}/{period}");
            let json = format!(r#"{{"cpu":{{"quota":{quota},"period":{period}}}}}"#);
            let rounded = rounded(&serde_json::from_str(&json).unwrap());
            assert_eq!(rounded.cpu().as_ref().unwrap().quota(), Some(file), "{quota}/{period}");
        }
        let same = |json: &str| {
            let resources: LinuxResources = serde_json::from_str(json).unwrap();
            assert_eq!(rounded(&resources), resources, "{json}");
        };
        same(r#"{"cpu":{"quota":-1,"period":100000}}"#);
        same(r#"{"cpu":{"period":100000}}"#);
        same("{}");
        assert_eq!(quota_per_second(i64::MAX, 1), INFINITY);
    }

    #[test]
    fn a_limit_of_no_process_is_one_for_systemd() {
        for (limit, value) in [(-1, "TasksMax=infinity"), (0, "TasksMax=1"), (5, "TasksMax=5")] {
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
                "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#,
            &[
                "BlockIOWeight=500",
                "BlockIODeviceWeight=[/dev/block/8:0=10]",
                "BlockIOReadBandwidth=[/dev/block/8:0=100]",
                "BlockIOWriteBandwidth=[/dev/block/8:0=200]",
            ],
            &[
                "IOWeight=4950",
                "IODeviceWeight=[/dev/block/8:0=1]",
                "IOReadBandwidthMax=[/dev/block/8:0=100]",
                "IOWriteBandwidthMax=[/dev/block/8:0=200]",
                "IOReadIOPSMax=[/dev/block/8:0=300]",
                "IOWriteIOPSMax=[/dev/block/8:16=infinity]",
            ],
        );
    }

    #[test]
    fn unified_files_override_what_was_said_before() {
        let json = r#"{"memory":{"limit":1000},"pids":{"limit":5},"cpu":{"shares":2},"unified":{
            "memory.max":"2000","memory.high":"1500","memory.min":"1","memory.low":"2","memory.swap.max":"max",
            "pids.max":"7","cpu.weight":"50","cpu.max":"20000 100000","cpuset.cpus":"1","io.weight":"default 30",
            "memory.oom.group":"1","hugetlb.2MB.max":"0","io.max":"8:0 rbps=1"}}"#;
        assert_eq!(
            list(json, Version::V2, 252),
            [
                "CPUQuotaPeriodUSec=100000",
                "CPUQuotaPerSecUSec=200000",
                "CPUWeight=50",
                "AllowedCPUs=[02]",
                "IOWeight=30",
                "MemoryHigh=1500",
                "MemoryLow=2",
                "MemoryMax=2000",
                "MemoryMin=1",
                "MemorySwapMax=infinity",
                "TasksMax=7",
            ]
        );
        assert_eq!(list(r#"{"unified":{"cpu.idle":"1"}}"#, Version::V2, 252), ["CPUWeight=0"]);
        assert_eq!(list(r#"{"unified":{"cpu.max":"max"}}"#, Version::V2, 252), ["CPUQuotaPerSecUSec=infinity"]);
    }

    #[test]
    fn devices_are_a_list_of_what_is_allowed() {
        let json = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"b","major":8,"minor":1,"access":"r"},
            {"allow":true,"type":"c","major":10,"access":"rw"}]}"#;
        let defaults = "char-*=m block-*=m /dev/char/1:3=rwm /dev/char/1:8=rwm /dev/char/1:7=rwm /dev/char/5:0=rwm \
                        /dev/char/1:5=rwm /dev/char/1:9=rwm /dev/char/5:1=rwm char-136=rwm /dev/char/5:2=rwm";
        assert_eq!(
            list(json, Version::V2, 252),
            [
                "DevicePolicy=strict".to_owned(),
                "DeviceAllow=[]".to_owned(),
                format!("DeviceAllow=[/dev/block/8:1=r char-10=rw {defaults}]"),
            ]
        );
        // Before 240 a driver goes by its name, and one without a name is left to the files.
        let old = list(json, Version::V1, 219).remove(2);
        assert!(old.contains("char-pts=rwm") && !old.contains("char-10") && !old.contains("char-136"), "{old}");
        for open in [
            r#"{"devices":[{"allow":true,"access":"rwm"}]}"#,
            r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"minor":1,"access":"r"}]}"#,
        ] {
            assert_eq!(list(open, Version::V2, 252), ["DevicePolicy=auto", "DeviceAllow=[]"]);
        }
        assert_eq!(list("{}", Version::V2, 252), [""; 0], "no list: nothing is said");
    }

    #[test]
    fn versions_decide_what_is_sent() {
        for (version, property, is) in [
            (Some(219), "TasksMax", false),
            (Some(219), "CPUShares", true),
            (Some(219), "MemoryLimit", true),
            (Some(219), "AllowedCPUs", false),
            (Some(247), "AllowedCPUs", true),
            (Some(241), "CPUQuotaPeriodUSec", false),
            (Some(252), "OOMPolicy", false),
            (None, "OOMPolicy", true),
        ] {
            assert_eq!(has(version, property), is, "{property} in {version:?}");
        }
    }
}
