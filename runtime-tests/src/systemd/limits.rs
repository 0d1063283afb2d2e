//! Limits, said twice: what systemd keeps and what the kernel enforces are the same, also after a reload.

use crate::container::{Container, Layout, same, shell, version_number};
use crate::{Done, Test, World, test};
use serde_json::{Value, json};

pub fn tests() -> Vec<Test> {
    vec![
        test("limits_are_in_properties_and_files_and_survive_a_reload", limits),
        test("an_update_is_in_properties_and_files_and_survives_a_reload", update),
        test("no_limit_is_none_for_both", unlimited),
        test("unified_values_are_properties_where_there_is_one", unified).on_v2(),
        test("block_io_is_said_to_systemd", block_io),
        test("devices_outside_the_list_are_denied_also_after_a_reload", devices),
        test("every_device_can_be_allowed", all_devices),
        test("statistics_are_the_scopes", statistics),
    ]
}

fn limits_json() -> Value {
    json!({"linux": {"resources": {
        "memory": {"limit": 67_108_864, "swap": 67_108_864},
        "pids": {"limit": 50},
        "cpu": {"shares": 512, "quota": 12_345, "period": 100_000, "cpus": "0", "mems": "0"},
    }}})
}

fn limits(world: &World) -> Done {
    let container = Container::new(world, limits_json())?;
    container.start()?;
    let compare = || {
        container.wants(&[
            ("TasksMax", "50"),
            ("CPUQuotaPerSecUSec", "130ms"),
            ("CPUQuotaPeriodUSec", "100ms"),
            ("AllowedCPUs", "0"),
            ("AllowedMemoryNodes", "0"),
        ])?;
        match world.layout {
            Layout::V2 => {
                container.wants(&[("MemoryMax", "67108864"), ("MemorySwapMax", "0"), ("CPUWeight", "59")])?;
                same("memory.swap.max", container.file("memory", "", "memory.swap.max")?.as_str(), "0")?;
            }
            Layout::Hybrid | Layout::V1 => container.wants(&[("MemoryLimit", "67108864"), ("CPUShares", "512")])?,
        }
        let file = |controller, v1, v2, wanted: (&str, &str)| {
            let wanted = if world.layout == Layout::V2 { wanted.1 } else { wanted.0 };
            same(v2, container.file(controller, v1, v2)?.as_str(), wanted)
        };
        file("memory", "memory.limit_in_bytes", "memory.max", ("67108864", "67108864"))?;
        file("pids", "pids.max", "pids.max", ("50", "50"))?;
        file("cpu", "cpu.shares", "cpu.weight", ("512", "59"))?;
        file("cpu", "cpu.cfs_quota_us", "cpu.max", ("13000", "13000 100000"))?;
        file("cpuset", "cpuset.cpus", "cpuset.cpus", ("0", "0"))
    };
    compare()?;
    shell("systemctl daemon-reload")?;
    compare().map_err(|why| format!("after a reload: {why}"))
}

fn update(world: &World) -> Done {
    let container = Container::new(world, limits_json())?;
    container.start()?;
    let change = ["--memory", "33554432", "--memory-swap", "33554432", "--pids-limit", "20", "--cpu-quota", "20000"];
    let mut words = vec!["update"];
    words.extend(change);
    words.extend(["--cpu-share", "1024", &container.id]);
    container.ok(&words)?;
    let compare = || {
        container.wants(&[("TasksMax", "20"), ("CPUQuotaPerSecUSec", "200ms"), ("AllowedCPUs", "0")])?;
        let is_v2 = world.layout == Layout::V2;
        let (memory, weight) = if is_v2 { ("MemoryMax", "CPUWeight") } else { ("MemoryLimit", "CPUShares") };
        container.wants(&[(memory, "33554432"), (weight, if is_v2 { "100" } else { "1024" })])?;
        same("pids.max", container.file("pids", "pids.max", "pids.max")?.as_str(), "20")?;
        let limit = container.file("memory", "memory.limit_in_bytes", "memory.max")?;
        same("memory", limit.as_str(), "33554432")?;
        let quota = container.file("cpu", "cpu.cfs_quota_us", "cpu.max")?;
        same("quota", quota.split(' ').next(), Some("20000"))
    };
    compare()?;
    shell("systemctl daemon-reload")?;
    compare().map_err(|why| format!("after a reload: {why}"))?;
    // One that the kernel refuses leaves all as it was, for both.
    container.fails(&["update", "--cpuset-cpus", "4000", &container.id], "cpuset.cpus")?;
    compare().map_err(|why| format!("after a failed update: {why}"))
}

fn unlimited(world: &World) -> Done {
    let resources = json!({"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1, "period": 50_000}});
    let container = Container::new(world, json!({"linux": {"resources": resources}}))?;
    container.start()?;
    container.wants(&[("TasksMax", "infinity"), ("CPUQuotaPerSecUSec", "infinity")])?;
    let memory = if world.layout == Layout::V2 { "MemoryMax" } else { "MemoryLimit" };
    container.wants(&[(memory, "infinity")])?;
    same("pids.max", container.file("pids", "pids.max", "pids.max")?.as_str(), "max")?;
    let quota = container.file("cpu", "cpu.cfs_quota_us", "cpu.max")?;
    same("quota", quota.as_str(), if world.layout == Layout::V2 { "max 50000" } else { "-1" })
}

fn unified(world: &World) -> Done {
    let unified = json!({"memory.high": "50000000", "memory.min": "1048576", "memory.low": "2097152",
        "memory.oom.group": "1", "pids.max": "77", "cpu.weight": "42"});
    let container = Container::new(world, json!({"linux": {"resources": {"unified": unified}}}))?;
    container.start()?;
    container.wants(&[
        ("MemoryHigh", "50000000"),
        ("MemoryMin", "1048576"),
        ("MemoryLow", "2097152"),
        ("TasksMax", "77"),
        ("CPUWeight", "42"),
    ])?;
    for (file, wanted) in
        [("memory.oom.group", "1"), ("pids.max", "77"), ("cpu.weight", "42"), ("memory.high", "49999872")]
    {
        same(file, container.file("", "", file)?.as_str(), wanted)?;
    }
    Ok(())
}

fn block_io(world: &World) -> Done {
    // The guest's own disk. v1 has no weight without a scheduler for it.
    let disk = std::fs::read_to_string("/sys/block/vda/dev").map_err(|error| error.to_string())?;
    let (major, minor) = disk.trim().split_once(':').ok_or("no numbers")?;
    let (major, minor): (i64, i64) = (major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
    let throttle = json!([{"major": major, "minor": minor, "rate": 1_048_576}]);
    let resources = json!({"blockIO": {"throttleReadBpsDevice": throttle, "throttleWriteBpsDevice": throttle}});
    let container = Container::new(world, json!({"linux": {"resources": resources}}))?;
    container.start()?;
    let file = container.file("blkio", "blkio.throttle.read_bps_device", "io.max")?;
    if world.layout == Layout::V2 {
        let shown = container.shown()?;
        let wanted = format!("/dev/block/{major}:{minor} 1048576");
        same("IOReadBandwidthMax", shown.get("IOReadBandwidthMax"), Some(&wanted))?;
        same("io.max", file, format!("{major}:{minor} rbps=1048576 wbps=1048576 riops=max wiops=max"))
    } else {
        same("read_bps_device", file, format!("{major}:{minor} 1048576"))
    }
}

const PROBE: &str = "mknod /tmp/kmsg c 1 11; cat /dev/null && echo null-ok; \
                     if echo x >/tmp/kmsg; then echo kmsg-open; else echo kmsg-denied; fi";

fn with_mknod(rules: Value) -> Value {
    let caps = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYSLOG", "CAP_KILL"]);
    json!({
        "process": {"capabilities": {"bounding": caps, "effective": caps, "permitted": caps}},
        "linux": {"resources": {"devices": rules}},
    })
}

fn devices(world: &World) -> Done {
    let container = Container::new(world, with_mknod(json!([{"allow": false, "access": "rwm"}])))?;
    container.start()?;
    container.wants(&[("DevicePolicy", "strict")])?;
    let shown = container.shown()?;
    let allowed = shown.get("DeviceAllow").cloned().unwrap_or_default();
    if !allowed.contains("/dev/char/1:3 rwm") || !allowed.contains("char-136 rwm") {
        return Err(format!("DeviceAllow: {allowed}"));
    }
    let probe = || container.oci(&["exec", &container.id, "sh", "-c", PROBE]).out;
    same("devices", probe().as_str(), "null-ok\nkmsg-denied\n")?;
    shell("systemctl daemon-reload")?;
    // Something that makes systemd write the unit's cgroup anew.
    container.ok(&["update", "--pids-limit", "60", &container.id])?;
    same("devices after a reload", probe().as_str(), "null-ok\nkmsg-denied\n")
}

fn all_devices(world: &World) -> Done {
    let container = Container::new(world, with_mknod(json!([{"allow": true, "access": "rwm"}])))?;
    container.start()?;
    container.wants(&[("DevicePolicy", "auto")])?;
    let output = container.oci(&["exec", &container.id, "sh", "-c", PROBE]);
    same("devices", output.out.as_str(), "null-ok\nkmsg-open\n")
}

fn statistics(world: &World) -> Done {
    let container = Container::new(world, limits_json())?;
    container.start()?;
    let text = container.ok(&["events", "--stats", &container.id])?;
    let stats: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    same("pids.limit", number("/data/pids/limit"), 50)?;
    same("pids.current", number("/data/pids/current"), 1)?;
    same("memory limit", number("/data/memory/usage/limit"), 67_108_864)?;
    if number("/data/memory/usage/usage") == 0 || number("/data/cpu/usage/total") == 0 {
        return Err(format!("nothing is counted by systemd {}: {text}", version_number()));
    }
    Ok(())
}
