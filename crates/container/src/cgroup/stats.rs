//! A cgroup's counters, in containerd's two metric shapes (`io.containerd.cgroups.v1.Metrics` and `…v2.Metrics`).
//!
//! Each file is read once. What the kernel does not have is left out or 0, as containerd's own library has it; absence
//! is never an error. Network and taskstats are not a cgroup's and stay empty there too.

use std::path::Path;

use killick_sys::cgroup as files;
use serde::{Deserialize, Serialize};

use super::{Cgroup, CgroupError};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Metrics {
    V1(Box<V1Metrics>),
    V2(Box<V2Metrics>),
}

/// Structures whose fields are the keys of a `key value` file.
macro_rules! keyed_struct {
    ($(#[$meta:meta])* $name:ident { $($field:ident),* $(,)? } and { $($extra:ident: $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        pub struct $name {
            $(pub $field: u64,)*
            $(pub $extra: $kind,)*
        }

        impl $name {
            fn from_text(text: &str) -> $name {
                let mut stat = $name::default();
                for (key, value) in pairs(text) {
                    match key {
                        $(stringify!($field) => stat.$field = value,)*
                        _ => {}
                    }
                }
                stat
            }
        }
    };
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct V1Metrics {
    pub hugetlb: Vec<V1Hugetlb>,
    pub pids: Option<Pids>,
    pub cpu: Option<V1Cpu>,
    pub memory: Option<V1Memory>,
    pub blkio: Option<Blkio>,
    pub rdma: Option<Rdma>,
    pub memory_oom_control: Option<OomControl>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct V1Hugetlb {
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
    pub pagesize: String,
}

/// `limit` is 0 on v1 and `u64::MAX` on v2 where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Pids {
    pub current: u64,
    pub limit: u64,
}

/// Nanoseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct V1Cpu {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
    pub per_cpu: Vec<u64>,
    pub throttling: V1Throttling,
}

keyed_struct!(
    /// `cpu.stat`; the time is in nanoseconds.
    V1Throttling { nr_periods, nr_throttled, throttled_time } and {}
);

keyed_struct!(
    /// `memory.stat`, and the limits beside it.
    V1Memory {
        cache, rss, rss_huge, mapped_file, dirty, writeback, pgpgin, pgpgout, pgfault, pgmajfault, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, hierarchical_memory_limit, hierarchical_memsw_limit,
        total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty, total_writeback, total_pgpgin,
        total_pgpgout, total_pgfault, total_pgmajfault, total_inactive_anon, total_active_anon, total_inactive_file,
        total_active_file, total_unevictable,
    } and {
        usage: Option<MemoryEntry>,
        swap: Option<MemoryEntry>,
        kernel: Option<MemoryEntry>,
        kernel_tcp: Option<MemoryEntry>,
    }
);

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

keyed_struct!(
    OomControl { oom_kill_disable, under_oom, oom_kill } and {}
);

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Blkio {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
    pub io_queued_recursive: Vec<BlkioEntry>,
    pub io_service_time_recursive: Vec<BlkioEntry>,
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    pub io_merged_recursive: Vec<BlkioEntry>,
    pub io_time_recursive: Vec<BlkioEntry>,
    pub sectors_recursive: Vec<BlkioEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlkioEntry {
    pub op: String,
    pub major: u64,
    pub minor: u64,
    pub value: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

/// `u32::MAX` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct V2Metrics {
    pub pids: Option<Pids>,
    pub cpu: Option<V2Cpu>,
    pub memory: Option<V2Memory>,
    pub memory_events: Option<MemoryEvents>,
    pub rdma: Option<Rdma>,
    pub io: Option<Io>,
    pub hugetlb: Vec<V2Hugetlb>,
}

keyed_struct!(
    /// `cpu.stat`, microseconds.
    V2Cpu { usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec } and { psi: Option<Psi> }
);

keyed_struct!(
    /// `memory.stat`, and the limits beside it; `u64::MAX` is no limit.
    V2Memory {
        anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp, inactive_anon,
        active_anon, inactive_file, active_file, unevictable, slab_reclaimable, slab_unreclaimable, pgfault, pgmajfault,
        workingset_refault, workingset_activate, workingset_nodereclaim, pgrefill, pgscan, pgsteal, pgactivate,
        pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc,
    } and {
        usage: u64,
        usage_limit: u64,
        swap_usage: u64,
        swap_limit: u64,
        max_usage: u64,
        swap_max_usage: u64,
        psi: Option<Psi>,
    }
);

keyed_struct!(
    MemoryEvents { low, high, max, oom, oom_kill } and {}
);

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Io {
    pub usage: Vec<IoEntry>,
    pub psi: Option<Psi>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct V2Hugetlb {
    pub current: u64,
    pub max: u64,
    pub pagesize: String,
    pub failcnt: u64,
}

/// Pressure stall information.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Psi {
    pub some: Option<PsiData>,
    pub full: Option<PsiData>,
}

/// Averages are per cent; the total is in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PsiData {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

pub(super) fn read(cgroup: &Cgroup) -> Result<Metrics, CgroupError> {
    if cgroup.layout.is_v2() {
        let dir = cgroup.unified_dir().expect("a v2 layout has the v2 tree");
        Ok(Metrics::V2(Box::new(v2(&Files(&dir))?)))
    } else {
        Ok(Metrics::V1(Box::new(v1(cgroup)?)))
    }
}

/// The files of one cgroup directory; what is not there reads as `None`.
struct Files<'a>(&'a Path);

impl Files<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, CgroupError> {
        Ok(files::read_if_present(&self.0.join(name))?)
    }

    /// One number; `max` is `none`.
    fn number(&self, name: &str, none: u64) -> Result<Option<u64>, CgroupError> {
        Ok(self.text(name)?.map(|text| number_or(&text, none)))
    }

    /// The middle part of files named `hugetlb.<size>.<rest>`.
    fn hugetlb_sizes(&self, rest: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.0).into_iter().flatten().flatten();
        let mut sizes: Vec<String> = names
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let size = name.strip_prefix("hugetlb.")?.strip_suffix(rest)?.strip_suffix('.')?;
                (!size.contains('.')).then(|| size.to_owned())
            })
            .collect();
        sizes.sort();
        sizes
    }

    fn rdma(&self) -> Result<Option<Rdma>, CgroupError> {
        let Some(current) = self.text("rdma.current")? else { return Ok(None) };
        let limit = self.text("rdma.max")?.unwrap_or_default();
        Ok(Some(Rdma { current: rdma_entries(&current), limit: rdma_entries(&limit) }))
    }

    fn psi(&self, name: &str) -> Option<Psi> {
        // EOPNOTSUPP with psi=0 on the kernel's command line, and whatever else: it is an extra.
        self.text(name).ok().flatten().map(|text| psi(&text))
    }
}

fn v1(cgroup: &Cgroup) -> Result<V1Metrics, CgroupError> {
    let mut metrics = V1Metrics::default();
    let dir = |controller: &str| cgroup.dir_of(controller).map(|(dir, _)| dir);
    if let Some(dir) = dir("pids") {
        let files = Files(&dir);
        if let Some(current) = files.number("pids.current", 0)? {
            metrics.pids = Some(Pids { current, limit: files.number("pids.max", 0)?.unwrap_or(0) });
        }
    }
    if let Some(acct) = dir("cpuacct") {
        let files = Files(&acct);
        let ticks = files.text("cpuacct.stat")?.unwrap_or_default();
        let ticks = |key| super::keyed(&ticks, key).unwrap_or(0).saturating_mul(nanoseconds_per_tick());
        let cpu = Files(dir("cpu").as_deref().unwrap_or(&acct)).text("cpu.stat")?.unwrap_or_default();
        metrics.cpu = Some(V1Cpu {
            total: files.number("cpuacct.usage", 0)?.unwrap_or(0),
            kernel: ticks("system"),
            user: ticks("user"),
            per_cpu: numbers(&files.text("cpuacct.usage_percpu")?.unwrap_or_default()),
            throttling: V1Throttling::from_text(&cpu),
        });
    }
    if let Some(dir) = dir("memory") {
        let files = Files(&dir);
        let mut memory = V1Memory::from_text(&files.text("memory.stat")?.unwrap_or_default());
        memory.usage = memory_entry(&files, "memory")?;
        memory.swap = memory_entry(&files, "memory.memsw")?;
        memory.kernel = memory_entry(&files, "memory.kmem")?;
        memory.kernel_tcp = memory_entry(&files, "memory.kmem.tcp")?;
        metrics.memory = Some(memory);
        metrics.memory_oom_control = files.text("memory.oom_control")?.map(|text| OomControl::from_text(&text));
    }
    if let Some(dir) = dir("blkio") {
        metrics.blkio = Some(blkio(&Files(&dir))?);
    }
    if let Some((dir, _)) = cgroup.dir_of("rdma") {
        metrics.rdma = Files(&dir).rdma()?;
    }
    if let Some(hierarchy) = cgroup.layout.v1_hierarchy("hugetlb") {
        let dir = hierarchy.mount_point.join(&cgroup.path);
        let files = Files(&dir);
        for pagesize in files.hugetlb_sizes("usage_in_bytes") {
            let number = |rest: &str| files.number(&format!("hugetlb.{pagesize}.{rest}"), 0);
            metrics.hugetlb.push(V1Hugetlb {
                usage: number("usage_in_bytes")?.unwrap_or(0),
                max: number("max_usage_in_bytes")?.unwrap_or(0),
                failcnt: number("failcnt")?.unwrap_or(0),
                pagesize,
            });
        }
    }
    Ok(metrics)
}

fn memory_entry(files: &Files<'_>, prefix: &str) -> Result<Option<MemoryEntry>, CgroupError> {
    let number = |rest: &str| files.number(&format!("{prefix}.{rest}"), 0);
    let Some(usage) = number("usage_in_bytes")? else { return Ok(None) };
    Ok(Some(MemoryEntry {
        limit: number("limit_in_bytes")?.unwrap_or(0),
        usage,
        max: number("max_usage_in_bytes")?.unwrap_or(0),
        failcnt: number("failcnt")?.unwrap_or(0),
    }))
}

fn blkio(files: &Files<'_>) -> Result<Blkio, CgroupError> {
    // CFQ's and BFQ's own files, else those of the throttling layer, which counts whatever scheduler is used.
    let entries = |names: &[&str]| -> Result<Vec<BlkioEntry>, CgroupError> {
        for name in names {
            let found = blkio_entries(&files.text(name)?.unwrap_or_default());
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    };
    Ok(Blkio {
        io_service_bytes_recursive: entries(&[
            "blkio.io_service_bytes_recursive",
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ])?,
        io_serviced_recursive: entries(&[
            "blkio.io_serviced_recursive",
            "blkio.bfq.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
            "blkio.throttle.io_serviced",
        ])?,
        io_queued_recursive: entries(&["blkio.io_queued_recursive", "blkio.bfq.io_queued_recursive"])?,
        io_service_time_recursive: entries(&[
            "blkio.io_service_time_recursive",
            "blkio.bfq.io_service_time_recursive",
        ])?,
        io_wait_time_recursive: entries(&["blkio.io_wait_time_recursive", "blkio.bfq.io_wait_time_recursive"])?,
        io_merged_recursive: entries(&["blkio.io_merged_recursive", "blkio.bfq.io_merged_recursive"])?,
        io_time_recursive: entries(&["blkio.time_recursive", "blkio.bfq.time_recursive"])?,
        sectors_recursive: entries(&["blkio.sectors_recursive", "blkio.bfq.sectors_recursive"])?,
    })
}

fn v2(files: &Files<'_>) -> Result<V2Metrics, CgroupError> {
    let mut metrics = V2Metrics::default();
    if let Some(current) = files.number("pids.current", 0)? {
        metrics.pids = Some(Pids { current, limit: files.number("pids.max", u64::MAX)?.unwrap_or(0) });
    }
    // `cpu.stat` is there without the controller too.
    if let Some(text) = files.text("cpu.stat")? {
        metrics.cpu = Some(V2Cpu { psi: files.psi("cpu.pressure"), ..V2Cpu::from_text(&text) });
    }
    if let Some(text) = files.text("memory.stat")? {
        let number = |name: &str| files.number(name, u64::MAX).map(|n| n.unwrap_or(0));
        let mut memory = V2Memory::from_text(&text);
        // Split in two since 5.9.
        for (key, value) in pairs(&text) {
            match key {
                "workingset_refault_anon" | "workingset_refault_file" => memory.workingset_refault += value,
                "workingset_activate_anon" | "workingset_activate_file" => memory.workingset_activate += value,
                _ => {}
            }
        }
        memory.usage = number("memory.current")?;
        memory.usage_limit = number("memory.max")?;
        memory.swap_usage = number("memory.swap.current")?;
        memory.swap_limit = number("memory.swap.max")?;
        memory.max_usage = number("memory.peak")?;
        memory.swap_max_usage = number("memory.swap.peak")?;
        memory.psi = files.psi("memory.pressure");
        metrics.memory = Some(memory);
    }
    metrics.memory_events = files.text("memory.events")?.map(|text| MemoryEvents::from_text(&text));
    metrics.rdma = files.rdma()?;
    if let Some(text) = files.text("io.stat")? {
        metrics.io = Some(Io { usage: io_entries(&text), psi: files.psi("io.pressure") });
    }
    for pagesize in files.hugetlb_sizes("current") {
        let number = |rest: &str| files.number(&format!("hugetlb.{pagesize}.{rest}"), u64::MAX);
        let events = files.text(&format!("hugetlb.{pagesize}.events"))?.unwrap_or_default();
        metrics.hugetlb.push(V2Hugetlb {
            current: number("current")?.unwrap_or(0),
            max: number("max")?.unwrap_or(0),
            failcnt: super::keyed(&events, "max").unwrap_or(0),
            pagesize,
        });
    }
    Ok(metrics)
}

fn nanoseconds_per_tick() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    1_000_000_000 / ticks.and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0).unwrap_or(100)
}

fn number_or(text: &str, none: u64) -> u64 {
    // v1's "no limit" of 2^63 − 4096 is passed on as it is; a negative one (-1) is none.
    match text.trim() {
        "max" => none,
        text => text.parse().unwrap_or(none),
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// `8:0 Read 4096`, `8:0 4096`; the `Total` of all devices is left out.
fn blkio_entries(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let (op, value) = match (fields.next()?, fields.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        Some(BlkioEntry {
            op: op.to_owned(),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
fn io_entries(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let mut entry = IoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..IoEntry::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// `mlx4_0 hca_handle=2 hca_object=max`
fn rdma_entries(text: &str) -> Vec<RdmaEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut entry = RdmaEntry { device: fields.next()?.to_owned(), ..RdmaEntry::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let value = if value == "max" { u32::MAX } else { value.parse().unwrap_or(0) };
            match key {
                "hca_handle" => entry.hca_handles = value,
                "hca_object" => entry.hca_objects = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`
fn psi(text: &str) -> Psi {
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        let field = |key: &str| line.split_whitespace().find_map(|f| f.strip_prefix(key)?.strip_prefix('='));
        let average = |key: &str| field(key).and_then(|v| v.parse().ok()).unwrap_or(0.0);
        Some(PsiData {
            avg10: average("avg10"),
            avg60: average("avg60"),
            avg300: average("avg300"),
            total: field("total").and_then(|v| v.parse().ok()).unwrap_or(0),
        })
    };
    Psi { some: line("some"), full: line("full") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_cgroups_files_fill_every_field() {
        let dir = tempfile::tempdir().unwrap();
        let memory_keys = [
            "anon",
            "file",
            "kernel_stack",
            "slab",
            "sock",
            "shmem",
            "file_mapped",
            "file_dirty",
            "file_writeback",
            "anon_thp",
            "inactive_anon",
            "active_anon",
            "inactive_file",
            "active_file",
            "unevictable",
            "slab_reclaimable",
            "slab_unreclaimable",
            "pgfault",
            "pgmajfault",
            "workingset_refault_anon",
            "workingset_activate_file",
            "workingset_nodereclaim",
            "pgrefill",
            "pgscan",
            "pgsteal",
            "pgactivate",
            "pgdeactivate",
            "pglazyfree",
            "pglazyfreed",
            "thp_fault_alloc",
            "thp_collapse_alloc",
        ];
        let memory: String = memory_keys.iter().enumerate().map(|(n, key)| format!("{key} {}\n", n + 1)).collect();
        let psi = "some avg10=1.50 avg60=2.00 avg300=3.00 total=4\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        for (name, text) in [
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 10\nuser_usec 6\nsystem_usec 4\nnr_periods 1\nnr_throttled 2\nthrottled_usec 3\n"),
            ("cpu.pressure", psi),
            ("memory.stat", &memory),
            ("memory.current", "100\n"),
            ("memory.max", "200\n"),
            ("memory.swap.max", "max\n"),
            ("memory.peak", "150\n"),
            ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:1 \n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=3\n"),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=9\n"),
            ("hugetlb.2MB.current", "0\n"),
            ("hugetlb.2MB.max", "max\n"),
            ("hugetlb.2MB.events", "max 7\n"),
            ("hugetlb.2MB.rsvd.current", "0\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let metrics = v2(&Files(dir.path())).unwrap();
        assert_eq!(metrics.pids, Some(Pids { current: 3, limit: u64::MAX }));
        let cpu = metrics.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.throttled_usec), (10, 3));
        assert_eq!(cpu.psi.unwrap().some.unwrap(), PsiData { avg10: 1.5, avg60: 2.0, avg300: 3.0, total: 4 });
        let memory = metrics.memory.unwrap();
        let json = serde_json::to_value(&memory).unwrap();
        let zero: Vec<&String> = json.as_object().unwrap().iter().filter(|(_, v)| **v == 0).map(|(k, _)| k).collect();
        assert_eq!(zero, ["swap_max_usage", "swap_usage"], "what has no file here is 0, all else is filled");
        assert_eq!((memory.usage, memory.usage_limit, memory.swap_limit, memory.max_usage), (100, 200, u64::MAX, 150));
        assert_eq!(metrics.memory_events.unwrap().oom_kill, 5);
        let io = metrics.io.unwrap().usage;
        assert_eq!(io[0], IoEntry { major: 8, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 });
        assert_eq!(io.len(), 2);
        let rdma = metrics.rdma.unwrap();
        assert_eq!(rdma.limit[0].hca_handles, u32::MAX);
        assert_eq!(metrics.hugetlb.len(), 1);
        assert_eq!((metrics.hugetlb[0].max, metrics.hugetlb[0].failcnt), (u64::MAX, 7));
    }

    #[test]
    fn an_empty_directory_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(v2(&Files(dir.path())).unwrap(), V2Metrics::default());
    }

    #[test]
    fn v1_block_io_is_read_with_and_without_operations() {
        let entries = blkio_entries("8:0 Read 4096\n8:16 7\nTotal 4096\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].op.as_str(), entries[0].value), ("Read", 4096));
        assert_eq!((entries[1].op.as_str(), entries[1].minor, entries[1].value), ("", 16, 7));
    }

    #[test]
    fn v1_memory_has_every_key_of_the_file() {
        let text = "cache 1\nrss 2\nhierarchical_memory_limit 9223372036854771712\ntotal_unevictable 4\nnew_key 5\n";
        let memory = V1Memory::from_text(text);
        assert_eq!((memory.cache, memory.rss, memory.total_unevictable), (1, 2, 4));
        assert_eq!(memory.hierarchical_memory_limit, 9_223_372_036_854_771_712);
    }
}
