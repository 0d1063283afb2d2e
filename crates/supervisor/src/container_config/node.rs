//! Asks this host what `NodeView` wants to know.

use std::path::Path;

use killick_container::cgroup::Layout;
use killick_sys::{caps, cgroup, seccomp};
use oci_spec::runtime::LinuxDevice;

use super::NodeView;

impl NodeView {
    /// Reads /proc and /sys; nothing here fails a pod: what cannot be read is left at its safe value.
    /// `devices` are the host's, wanted only for privileged containers (`killick_container::devices::of_host`).
    pub fn detect(layout: &Layout, devices: Vec<LinuxDevice>) -> NodeView {
        let read = |path: &str| cgroup::read(Path::new(path)).unwrap_or_default();
        let memory_kib = read("/proc/meminfo")
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        NodeView {
            memory_bytes: memory_kib.unwrap_or(0).saturating_mul(1_024),
            capabilities: caps::bounding(),
            cgroup_v2: layout.is_v2(),
            huge_page_sizes: huge_page_sizes(layout),
            devices,
            masked_paths: thermal_throttle_paths(),
            ptrace_is_filtered: seccomp::ptrace_is_filtered(),
        }
    }
}

/// Sizes of which the host has pages to give, where the controller can limit them.
fn huge_page_sizes(layout: &Layout) -> Vec<String> {
    if layout.v1_hierarchy("hugetlb").is_none() && !layout.unified_has("hugetlb") {
        return Vec::new();
    }
    let mut sizes = Vec::new();
    for directory in cgroup::children(Path::new("/sys/kernel/mm/hugepages")).unwrap_or_default() {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let kib = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")).and_then(|n| n.parse().ok());
        let has_pages = ["nr_hugepages", "nr_overcommit_hugepages"].iter().any(|file| {
            cgroup::read(&directory.join(file)).is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|n| n > 0))
        });
        if let Some(kib) = kib.filter(|_| has_pages) {
            sizes.push(size_name(kib));
        }
    }
    sizes.sort();
    sizes
}

/// As the cgroup files name sizes: base 1024, the largest unit that leaves a whole number.
fn size_name(kib: u64) -> String {
    match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    }
}

fn thermal_throttle_paths() -> Vec<String> {
    let cpus = cgroup::children(Path::new("/sys/devices/system/cpu")).unwrap_or_default();
    let paths = cpus.into_iter().map(|cpu| cpu.join("thermal_throttle")).filter(|path| path.is_dir());
    let mut paths: Vec<String> = paths.filter_map(|path| path.to_str().map(str::to_owned)).collect();
    paths.sort();
    paths
}
