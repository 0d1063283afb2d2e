//! A container's counters in the shape of `runc events`: every field that it has, zeros and nulls included.

use killick_container::cgroup::{BlkioEntry, Cgroup, Io, MemoryEntry, Metrics, Psi, V1Metrics, V2Metrics};
use serde_json::{Map, Value, json};

/// The `data` of a `stats` event.
pub fn of(cgroup: &Cgroup, first: i32) -> Result<Value, String> {
    let metrics = cgroup.stats().map_err(|error| error.to_string())?;
    let raw = cgroup.file("memory", "memory.stat").map_err(|error| error.to_string())?;
    let raw = table(raw.as_deref().unwrap_or_default());
    let mut data = match metrics {
        Metrics::V1(metrics) => v1(&metrics),
        Metrics::V2(metrics) => v2(&metrics, &raw),
    };
    if let Some(text) = cgroup.file("cpuacct", "cpuacct.usage_all").map_err(|error| error.to_string())? {
        (data["cpu"]["usage"]["percpu_user"], data["cpu"]["usage"]["percpu_kernel"]) = per_cpu(&text);
    }
    data["memory"]["raw"] = Value::Object(raw);
    data["cpuset"] = cpuset(cgroup);
    data["intel_rdt"] = json!({});
    data["network_interfaces"] = interfaces(first);
    Ok(data)
}

fn v1(metrics: &V1Metrics) -> Value {
    let cpu = metrics.cpu.clone().unwrap_or_default();
    let memory = metrics.memory.clone().unwrap_or_default();
    let blkio = metrics.blkio.clone().unwrap_or_default();
    let pids = metrics.pids.unwrap_or_default();
    let huge = metrics
        .hugetlb
        .iter()
        .map(|huge| (huge.pagesize.clone(), json!({"usage": huge.usage, "max": huge.max, "failcnt": huge.failcnt})));
    json!({
        "cpu": {
            "usage": {"total": cpu.total, "percpu": cpu.per_cpu, "kernel": cpu.kernel, "user": cpu.user},
            "throttling": {
                "periods": cpu.throttling.nr_periods,
                "throttledPeriods": cpu.throttling.nr_throttled,
                "throttledTime": cpu.throttling.throttled_time,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": entry(memory.usage),
            "swap": entry(memory.swap),
            "kernel": entry(memory.kernel),
            "kernelTCP": entry(memory.kernel_tcp),
        },
        "pids": {"current": pids.current, "limit": pids.limit},
        "blkio": {
            "ioServiceBytesRecursive": blkio_entries(&blkio.io_service_bytes_recursive),
            "ioServicedRecursive": blkio_entries(&blkio.io_serviced_recursive),
            "ioQueueRecursive": blkio_entries(&blkio.io_queued_recursive),
            "ioServiceTimeRecursive": blkio_entries(&blkio.io_service_time_recursive),
            "ioWaitTimeRecursive": blkio_entries(&blkio.io_wait_time_recursive),
            "ioMergedRecursive": blkio_entries(&blkio.io_merged_recursive),
            "ioTimeRecursive": blkio_entries(&blkio.io_time_recursive),
            "sectorsRecursive": blkio_entries(&blkio.sectors_recursive),
        },
        "hugetlb": huge.collect::<Map<_, _>>(),
    })
}

fn v2(metrics: &V2Metrics, raw: &Map<String, Value>) -> Value {
    let cpu = metrics.cpu.clone().unwrap_or_default();
    let memory = metrics.memory.clone().unwrap_or_default();
    let pids = metrics.pids.unwrap_or_default();
    let io = metrics.io.clone().unwrap_or_default();
    let usage = MemoryEntry {
        limit: memory.usage_limit,
        usage: memory.usage,
        max: memory.max_usage,
        failcnt: metrics.memory_events.as_ref().map_or(0, |events| events.max),
    };
    // Memory and swap together, as v1 has it and as whoever reads this expects it.
    let swap = MemoryEntry {
        limit: match (memory.swap_limit, memory.usage_limit) {
            (u64::MAX, _) | (_, u64::MAX) => u64::MAX,
            (swap, limit) => swap.saturating_add(limit),
        },
        usage: memory.swap_usage.saturating_add(memory.usage),
        max: memory.swap_max_usage.saturating_add(memory.max_usage),
        failcnt: 0,
    };
    let kernel =
        MemoryEntry { usage: raw.get("kernel").and_then(Value::as_u64).unwrap_or(0), ..MemoryEntry::default() };
    let huge = metrics
        .hugetlb
        .iter()
        .map(|huge| (huge.pagesize.clone(), json!({"usage": huge.current, "max": 0, "failcnt": huge.failcnt})));
    let mut data = json!({
        "cpu": {
            "usage": {
                "total": cpu.usage_usec.saturating_mul(1000),
                "kernel": cpu.system_usec.saturating_mul(1000),
                "user": cpu.user_usec.saturating_mul(1000),
            },
            "throttling": {
                "periods": cpu.nr_periods,
                "throttledPeriods": cpu.nr_throttled,
                "throttledTime": cpu.throttled_usec.saturating_mul(1000),
            },
        },
        "memory": {
            "cache": memory.file,
            "usage": entry(Some(usage)),
            "swap": entry(Some(swap)),
            "kernel": entry(Some(kernel)),
            "kernelTCP": entry(None),
        },
        "pids": {"current": pids.current, "limit": Some(pids.limit).filter(|limit| *limit != u64::MAX).unwrap_or(0)},
        "blkio": io_entries(&io),
        "hugetlb": huge.collect::<Map<_, _>>(),
    });
    for (key, psi) in [("cpu", &cpu.psi), ("memory", &memory.psi), ("blkio", &io.psi)] {
        if let Some(psi) = psi {
            data[key]["psi"] = pressure(psi);
        }
    }
    data
}

fn entry(entry: Option<MemoryEntry>) -> Value {
    let MemoryEntry { limit, usage, max, failcnt } = entry.unwrap_or_default();
    json!({"limit": limit, "usage": usage, "max": max, "failcnt": failcnt})
}

fn blkio_entries(entries: &[BlkioEntry]) -> Vec<Value> {
    let one = |BlkioEntry { op, major, minor, value }: &BlkioEntry| json!({"major": major, "minor": minor, "op": op, "value": value});
    entries.iter().map(one).collect()
}

fn io_entries(io: &Io) -> Value {
    let row = |major: u64, minor: u64, op: &str, value: u64| json!({"major": major, "minor": minor, "op": op, "value": value});
    let bytes = io
        .usage
        .iter()
        .flat_map(|io| [row(io.major, io.minor, "Read", io.rbytes), row(io.major, io.minor, "Write", io.wbytes)]);
    let operations = io
        .usage
        .iter()
        .flat_map(|io| [row(io.major, io.minor, "Read", io.rios), row(io.major, io.minor, "Write", io.wios)]);
    json!({
        "ioServiceBytesRecursive": bytes.collect::<Vec<_>>(),
        "ioServicedRecursive": operations.collect::<Vec<_>>(),
    })
}

fn pressure(psi: &Psi) -> Value {
    let one = |data: Option<killick_container::cgroup::PsiData>| {
        let data = data.unwrap_or_default();
        json!({"avg10": data.avg10, "avg60": data.avg60, "avg300": data.avg300, "total": data.total})
    };
    json!({"some": one(psi.some), "full": one(psi.full)})
}

/// `key value` lines.
fn table(text: &str) -> Map<String, Value> {
    let row = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), json!(value.trim().parse::<u64>().ok()?)))
    };
    text.lines().filter_map(row).collect()
}

/// User and system time of each CPU: `cpu user system` lines below a title.
fn per_cpu(text: &str) -> (Value, Value) {
    let column = |index: usize| {
        let one = |line: &str| line.split_whitespace().nth(index).and_then(|number| number.parse::<u64>().ok());
        text.lines().skip(1).filter_map(one).collect::<Value>()
    };
    (column(1), column(2))
}

fn cpuset(cgroup: &Cgroup) -> Value {
    let text = |name: &str| cgroup.file("cpuset", &format!("cpuset.{name}")).ok().flatten().unwrap_or_default();
    let number = |name: &str| text(name).trim().parse::<i64>().unwrap_or(0);
    // What is in force: on v2 an empty list means the parent's.
    let list = |name: &str| match text(&format!("{name}.effective")) {
        effective if effective.trim().is_empty() => numbers(&text(name)),
        effective => numbers(&effective),
    };
    let mut set = json!({"cpus": list("cpus"), "mems": list("mems")});
    for name in [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
        "sched_relax_domain_level",
    ] {
        set[name] = json!(number(name));
    }
    set
}

/// `0-2,5`
fn numbers(list: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// The interfaces of the container's network namespace, by runc's names.
fn interfaces(first: i32) -> Value {
    let text = std::fs::read_to_string(format!("/proc/{first}/net/dev")).unwrap_or_default();
    let row = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |index: usize| counters.get(index).copied().unwrap_or(0);
        Some(json!({
            "Name": name.trim(),
            "RxBytes": at(0), "RxPackets": at(1), "RxErrors": at(2), "RxDropped": at(3),
            "TxBytes": at(8), "TxPackets": at(9), "TxErrors": at(10), "TxDropped": at(11),
        }))
    };
    text.lines().skip(2).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use killick_container::cgroup::{IoEntry, MemoryEvents, Pids, PsiData, V2Cpu, V2Hugetlb, V2Memory};

    #[test]
    fn lists_of_cpus_are_numbers() {
        for (text, expected) in [("0-2,5\n", &[0, 1, 2, 5][..]), ("", &[]), ("3", &[3])] {
            assert_eq!(numbers(text), expected, "{text:?}");
        }
    }

    #[test]
    fn of_each_cpu_there_are_two_columns() {
        assert_eq!(per_cpu("cpu user system\n0 10 20\n1 30 40\n"), (json!([10, 30]), json!([20, 40])));
    }

    #[test]
    fn a_v2_cgroup_has_runcs_fields() {
        let psi = Psi { some: Some(PsiData { avg10: 1.5, avg60: 2.0, avg300: 3.0, total: 4 }), full: None };
        let metrics = V2Metrics {
            pids: Some(Pids { current: 3, limit: u64::MAX }),
            cpu: Some(V2Cpu {
                usage_usec: 7,
                user_usec: 4,
                system_usec: 3,
                nr_throttled: 2,
                psi: Some(psi),
                ..V2Cpu::default()
            }),
            memory: Some(V2Memory {
                file: 5,
                usage: 100,
                usage_limit: 200,
                max_usage: 150,
                swap_usage: 10,
                swap_limit: 50,
                swap_max_usage: 20,
                ..V2Memory::default()
            }),
            memory_events: Some(MemoryEvents { max: 9, ..MemoryEvents::default() }),
            io: Some(Io {
                usage: vec![IoEntry { major: 8, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 }],
                psi: None,
            }),
            hugetlb: vec![V2Hugetlb { current: 6, max: 8, pagesize: "2MB".into(), failcnt: 1 }],
            ..V2Metrics::default()
        };
        let data = v2(&metrics, &table("kernel 11\n"));
        assert_eq!(data["cpu"]["usage"], json!({"total": 7000, "kernel": 3000, "user": 4000}));
        assert_eq!(data["cpu"]["psi"]["some"], json!({"avg10": 1.5, "avg60": 2.0, "avg300": 3.0, "total": 4}));
        assert_eq!(data["memory"]["usage"], json!({"limit": 200, "usage": 100, "max": 150, "failcnt": 9}));
        assert_eq!(data["memory"]["swap"], json!({"limit": 250, "usage": 110, "max": 170, "failcnt": 0}));
        assert_eq!((&data["memory"]["cache"], &data["memory"]["kernel"]["usage"]), (&json!(5), &json!(11)));
        assert_eq!(data["pids"], json!({"current": 3, "limit": 0}));
        assert_eq!(data["blkio"]["ioServicedRecursive"][1], json!({"major": 8, "minor": 0, "op": "Write", "value": 4}));
        assert_eq!(data["hugetlb"]["2MB"], json!({"usage": 6, "max": 0, "failcnt": 1}));
    }
}
