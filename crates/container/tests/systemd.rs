//! systemd's driver against a stand-in for systemd: what is asked of it, and what becomes of bad answers. The real one
//! is in the guest (runtime-tests).
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use common::{Host, isolated};
use killick_container::cgroup::{Cgroup, CgroupError, LastSeen, Layout, UnitStart};
use killick_container::systemd::wire::Value;
use killick_container::systemd::{Address, SystemdError, Unit};
use killick_container::{CreateRequest, Join, PidMode, Progress, Ptrace, Stdio, UserRequest, create};
use oci_spec::runtime::LinuxResources;
use serde_json::json;
use stand_in::{Manner, Manners, StandIn};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// This host's, as it is where systemd runs it.
fn layout() -> Layout {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut layout = Layout::parse(&mountinfo, true);
    layout.unified = Layout::detect().unwrap().unified;
    layout
}

/// systemd's own directory of a unit, in the hierarchy in which it keeps processes.
fn systemds_own(layout: &Layout, unit: &Unit) -> Option<PathBuf> {
    let named = layout.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == "name=systemd"));
    let mount = match (layout.v1.is_empty(), named) {
        (true, _) => layout.unified.as_ref().map(|unified| &unified.mount_point),
        (false, named) => named.map(|hierarchy| &hierarchy.mount_point),
    };
    mount.map(|mount| mount.join(unit.cgroup_path()))
}

/// A unit of a test's own, in slices of its own, whose cgroups go at the end.
struct Scene {
    layout: Layout,
    unit: Unit,
    bus: StandIn,
    process: Option<Child>,
}

impl Scene {
    fn new(manners: Manners) -> Scene {
        Scene::with_layout(manners, layout())
    }

    fn with_layout(mut manners: Manners, layout: Layout) -> Scene {
        assert!(nix::unistd::geteuid().is_root(), "kernel tests need root");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let unit = Unit::parse(&format!("killicktest{}x{number}.slice:k:a", std::process::id())).unwrap();
        manners.place = systemds_own(&layout, &unit);
        let bus = StandIn::new(manners);
        let unit = unit.at(bus.address());
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        Scene { layout, unit, bus, process: Some(process) }
    }

    fn pid(&self) -> i32 {
        self.process.as_ref().unwrap().id() as i32
    }

    fn start(&self, json: &str) -> Result<(Cgroup, Vec<String>), CgroupError> {
        self.start_within(json, &[], Duration::from_secs(5))
    }

    fn start_within(
        &self,
        json: &str,
        annotations: &[(&str, &str)],
        time: Duration,
    ) -> Result<(Cgroup, Vec<String>), CgroupError> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let annotations: HashMap<String, String> =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let start = UnitStart {
            pid: Some(self.pid()),
            description: "killick container a".into(),
            resources: &resources,
            annotations: &annotations,
        };
        let mut cgroup = Cgroup::prepare_unit(&self.layout, &self.unit, &start)?;
        let warnings = cgroup.start_unit(&start, Instant::now() + time)?;
        Ok((cgroup, warnings))
    }

    fn fails(&self, time: Duration) -> String {
        let began = Instant::now();
        let error = self.start_within("{}", &[], time).unwrap_err();
        assert!(began.elapsed() < time + Duration::from_secs(20), "{error}: {:?}", began.elapsed());
        error.to_string()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        let slice = self.unit.cgroup_path().parent().unwrap().to_owned();
        let cgroup = Cgroup::open(&self.layout, slice).unwrap();
        let _ = cgroup.kill_all(Instant::now() + Duration::from_secs(5));
        let _ = cgroup.remove(Instant::now() + Duration::from_secs(5));
    }
}

/// The properties of a call as `name` to value.
fn properties(call: &stand_in::Called) -> HashMap<String, Value> {
    let Value::Array { items, .. } = &call.1[2] else { panic!("{call:?}") };
    let entry = |item: &Value| match item {
        Value::Struct(fields) => match &fields[1] {
            Value::Variant(value) => (fields[0].as_text().unwrap().to_owned(), (**value).clone()),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    items.iter().map(entry).collect()
}

fn read(cgroup: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let layout = cgroup.layout();
    let file = match layout.v1_hierarchy(controller) {
        Some(hierarchy) => hierarchy.mount_point.join(cgroup.path()).join(v1),
        None => layout.unified.as_ref().unwrap().mount_point.join(cgroup.path()).join(v2),
    };
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

const LIMITS: &str = r#"{"cpu":{"shares":512,"quota":12345,"period":100000},"memory":{"limit":33554432},
    "pids":{"limit":20},"devices":[{"allow":false,"access":"rwm"}]}"#;

#[test]
fn a_scope_is_made_with_its_process_changed_and_ended() {
    let mut scene = Scene::new(Manners::well());
    let is_v2 = scene.layout.is_v2();
    let annotations = [("org.systemd.property.TimeoutStopSec", "7"), ("io.kubernetes.cri.x", "y")];
    let (cgroup, warnings) = scene.start_within(LIMITS, &annotations, Duration::from_secs(5)).unwrap();
    assert_eq!(warnings, [""; 0]);
    let calls: Vec<_> = scene.bus.calls.try_iter().collect();
    assert_eq!(calls.iter().map(|(member, _)| member.as_str()).collect::<Vec<_>>(), ["Get", "StartTransientUnit"]);
    assert_eq!(calls[1].1[0], Value::text("k-a.scope"));
    assert_eq!(calls[1].1[1], Value::text("replace"));
    let said = properties(&calls[1]);
    for (name, value) in [
        ("Slice", Value::text(&scene.unit.slice)),
        ("Description", Value::text("killick container a")),
        ("Delegate", Value::Bool(true)),
        ("DefaultDependencies", Value::Bool(false)),
        ("PIDs", Value::Array { of: "u".into(), items: vec![Value::U32(scene.pid() as u32)] }),
        ("MemoryAccounting", Value::Bool(true)),
        ("TimeoutStopUSec", Value::U64(7_000_000)),
        ("CPUQuotaPerSecUSec", Value::U64(130_000)),
        ("TasksMax", Value::U64(20)),
        ("DevicePolicy", Value::text("strict")),
        (if is_v2 { "MemoryMax" } else { "MemoryLimit" }, Value::U64(33_554_432)),
        (if is_v2 { "CPUWeight" } else { "CPUShares" }, Value::U64(if is_v2 { 59 } else { 512 })),
    ] {
        assert_eq!(said.get(name), Some(&value), "{name}");
    }
    // The files say the same, rounded as systemd rounds.
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "20");
    assert_eq!(read(&cgroup, "memory", "memory.limit_in_bytes", "memory.max"), "33554432");
    assert_eq!(read(&cgroup, "cpu", "cpu.cfs_quota_us", "cpu.max").split(' ').next(), Some("13000"));

    cgroup.set(&serde_json::from_str(r#"{"pids":{"limit":30},"cpu":{"quota":-1}}"#).unwrap()).unwrap();
    let calls: Vec<_> = scene.bus.calls.try_iter().collect();
    let changed = calls.iter().find(|(member, _)| member == "SetUnitProperties").unwrap();
    assert_eq!((&changed.1[0], &changed.1[1]), (&Value::text("k-a.scope"), &Value::Bool(true)));
    assert_eq!(properties(changed).get("TasksMax"), Some(&Value::U64(30)));
    assert_eq!(properties(changed).get("CPUQuotaPerSecUSec"), Some(&Value::U64(u64::MAX)));
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "30");

    // What is written down finds it again.
    let text = serde_json::to_string(&cgroup).unwrap();
    let cgroup: Cgroup = serde_json::from_str(&text).unwrap();
    assert_eq!(cgroup.unit(), Some(&scene.unit));

    let mut process = scene.process.take().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    let mut seen = LastSeen::default();
    let before = seen.stats(&cgroup).unwrap();
    let kills = seen.oom_kills(&cgroup).unwrap();
    cgroup.remove(Instant::now() + Duration::from_secs(5)).unwrap();
    assert_eq!(scene.bus.members(), ["StopUnit", "ResetFailedUnit"]);
    assert!(!cgroup.exists());
    assert_eq!(seen.stats(&cgroup).unwrap(), before, "the counters outlive the scope");
    assert_eq!(seen.oom_kills(&cgroup).unwrap(), kills);
    // Once more: a unit that has gone is stopped.
    cgroup.remove(Instant::now() + Duration::from_secs(5)).unwrap();
}

/// What systemd 219 (CentOS 7) lacks of all that we say.
const LACKS_219: &[&str] = &[
    "TasksAccounting",
    "TasksMax",
    "IOAccounting",
    "IOWeight",
    "MemoryLow",
    "MemoryHigh",
    "MemoryMax",
    "MemorySwapMax",
    "CPUWeight",
    "CollectMode",
    "MemoryMin",
    "CPUQuotaPeriodUSec",
    "AllowedCPUs",
    "AllowedMemoryNodes",
    "OOMPolicy",
];
const MORE_LIMITS: &str = r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0"},"memory":{"limit":33554432},
    "pids":{"limit":20},"devices":[{"allow":false,"access":"rwm"}]}"#;

#[test]
fn what_systemd_219_lacks_is_left_out_and_named() {
    let scene = Scene::new(Manners { version: "219", unknown: LACKS_219, ..Manners::well() });
    let (cgroup, warnings) = scene.start(MORE_LIMITS).unwrap();
    // It is known beforehand: nothing is refused.
    assert_eq!(scene.bus.members(), ["Get", "StartTransientUnit"]);
    for name in ["TasksMax", "AllowedCPUs", "CPUQuotaPeriodUSec"] {
        let expected = format!("systemd 219 has no property {name}: left out");
        assert!(warnings.iter().any(|warning| warning.starts_with(&expected)), "{name}: {warnings:?}");
    }
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "20", "the files have it all the same");
    let warnings = cgroup.set(&serde_json::from_str(r#"{"pids":{"limit":30}}"#).unwrap()).unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "30");
}

#[test]
fn a_systemd_that_refuses_more_than_its_version_says_is_asked_again_with_less() {
    let scene = Scene::new(Manners { unknown: LACKS_219, ..Manners::well() });
    let (_cgroup, warnings) = scene.start(MORE_LIMITS).unwrap();
    let starts = scene.bus.members().iter().filter(|member| *member == "StartTransientUnit").count();
    let expected = if scene.layout.is_v2() { 9 } else { 6 };
    assert_eq!((starts, warnings.len()), (expected, expected - 1), "{warnings:?}");

    let scene = Scene::new(Manners { unknown: &["PIDs"], ..Manners::well() });
    let error = scene.start("{}").unwrap_err().to_string();
    assert!(error.contains("Cannot set property PIDs"), "{error}");
}

#[test]
fn a_systemd_that_hangs_is_given_up_at_the_deadline() {
    let time = Duration::from_millis(300);
    for (manner, text) in [
        (Manner::Mute, "systemd did not answer connect("),
        (Manner::Silent, "systemd did not answer Get("),
        (Manner::Endless, "systemd did not answer the job of k-a.scope in time"),
        (Manner::Half, "systemd did not answer Get("),
    ] {
        let scene = Scene::new(Manners { manner, ..Manners::well() });
        let error = scene.fails(time);
        assert!(error.contains(text), "{manner:?}: {error}");
    }
}

#[test]
fn answers_that_make_no_sense_are_errors() {
    let time = Duration::from_secs(5);
    for (manner, text) in [
        (Manner::Garbage, "not a D-Bus message"),
        (Manner::Huge, "at most 1048576 are read"),
        (Manner::Locked, "the bus refused us: REJECTED EXTERNAL"),
        (Manner::Result("failed"), "error creating systemd unit `k-a.scope`: got `failed`"),
    ] {
        let scene = Scene::new(Manners { manner, ..Manners::well() });
        let error = scene.fails(time);
        assert!(error.contains(text), "{manner:?}: {error}");
    }
}

#[test]
fn a_socket_where_nobody_listens_is_named() {
    let mut scene = Scene::new(Manners::well());
    scene.unit = scene.unit.clone().at(Address::Private("/no/such/socket".into()));
    let error = scene.fails(Duration::from_secs(5));
    assert_eq!(error, "connect(/no/such/socket): ENOENT");
}

#[test]
fn a_connection_that_is_lost_is_made_again_and_the_unit_is_ours() {
    let scene = Scene::new(Manners { manner: Manner::Lost, ..Manners::well() });
    scene.start(LIMITS).unwrap();
    assert_eq!(
        scene.bus.members(),
        ["Get", "StartTransientUnit", "StartTransientUnit", "SetUnitProperties"],
        "the unit was there after all; its limits are said again"
    );
}

#[test]
fn a_unit_that_failed_is_reset_and_one_that_lives_is_somebodys() {
    let scene = Scene::new(Manners { manner: Manner::Failed, ..Manners::well() });
    scene.start("{}").unwrap();
    assert_eq!(scene.bus.members(), ["Get", "StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);

    let scene = Scene::new(Manners { manner: Manner::Exists, ..Manners::well() });
    let error = scene.start("{}").unwrap_err();
    assert!(matches!(&error, CgroupError::Systemd(SystemdError::Exists(unit)) if unit == "k-a.scope"), "{error}");
}

#[test]
fn on_the_system_bus_only_systemd_ends_a_job() {
    let scene = Scene::new(Manners { is_system: true, manner: Manner::Liar, ..Manners::well() });
    scene.start("{}").unwrap();
    assert_eq!(scene.bus.members(), ["Hello", "AddMatch", "Subscribe", "Get", "StartTransientUnit"]);
}

#[test]
fn a_process_that_is_not_where_it_should_be_is_an_error() {
    let layout = layout();
    let unit = Unit::parse(&format!("killicktest{}other.slice:k:b", std::process::id())).unwrap();
    let Some(elsewhere) = systemds_own(&layout, &unit) else {
        eprintln!("not tested: neither v2 nor systemd's own hierarchy is mounted on this host");
        return;
    };
    let mut scene = Scene::with_layout(Manners::well(), layout);
    scene.bus = StandIn::new(Manners { place: Some(elsewhere.clone()), ..Manners::well() });
    scene.unit = scene.unit.clone().at(scene.bus.address());
    let error = scene.fails(Duration::from_secs(5));
    let process = scene.process.as_mut().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    for dir in [elsewhere.as_path(), elsewhere.parent().unwrap()] {
        std::fs::remove_dir(dir).unwrap();
    }
    assert!(error.contains("of unit k-a.scope into") && error.contains("k-b.scope"), "{error}");
}

#[test]
fn what_can_be_refused_is_refused_before_anything_is_made() {
    let scene = Scene::new(Manners::well());
    for (resources, annotations, text) in [
        (r#"{"memory":{"limit":-2}}"#, ("x", "y"), "invalid memory value: -2"),
        ("{}", ("org.systemd.property.ExecStart", "'x'"), "annotation org.systemd.property.ExecStart"),
        (r#"{"devices":[{"allow":true,"type":"p"}]}"#, ("x", "y"), "devices[0].type"),
    ] {
        let error = scene.start_within(resources, &[annotations], Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert!(scene.bus.members().is_empty(), "systemd was asked: {text}");
        let slice = Cgroup::open(&scene.layout, scene.unit.cgroup_path().parent().unwrap()).unwrap();
        assert!(!slice.exists(), "{text}");
    }
}

#[test]
fn a_slice_is_made_without_a_process_and_entered_as_any_cgroup() {
    let scene = Scene::new(Manners::well());
    let name = scene.unit.slice.trim_end_matches(".slice");
    let unit = Unit::parse(&format!("{name}.slice::{name}-pod.slice")).unwrap().at(scene.bus.address());
    let resources: LinuxResources = serde_json::from_str(r#"{"pids":{"limit":9}}"#).unwrap();
    let start =
        UnitStart { pid: None, description: "killick pod".into(), resources: &resources, annotations: &HashMap::new() };
    let (cgroup, _) = Cgroup::create_slice(&scene.layout, &unit, &start).unwrap();
    let calls: Vec<_> = scene.bus.calls.try_iter().collect();
    let said = properties(&calls[1]);
    assert_eq!(calls[1].1[0], Value::text(format!("{name}-pod.slice")));
    assert_eq!(said.get("Wants"), Some(&Value::texts([format!("{name}.slice")])));
    assert!(!said.contains_key("PIDs") && !said.contains_key("Slice") && !said.contains_key("Delegate"));
    assert_eq!(read(&cgroup, "pids", "pids.max", "pids.max"), "9");
    cgroup.attach().unwrap();
    cgroup.remove(Instant::now() + Duration::from_secs(5)).unwrap();
    assert!(!cgroup.exists());
}

/// The child waits at its first gate until it is in its scope, then goes on as any other; without the word it never does.
#[test]
fn a_birth_waits_until_systemd_has_the_process() {
    isolated(|| {
        let host = Host::new();
        let sandbox = host.sandbox();
        let layout = layout();
        let unit = Unit::parse(&format!("killicktest{}birth.slice:k:c", std::process::id())).unwrap();
        let socket = host.dir.path().join("bus");
        let unit = unit.clone().at(Address::Private(socket.clone()));
        let manners = Manners { place: systemds_own(&layout, &unit), ..Manners::well() };
        let bus = stand_in::in_a_worker(&socket, manners, 2);
        let resources: LinuxResources = serde_json::from_str(r#"{"pids":{"limit":20}}"#).unwrap();
        let annotations = HashMap::new();
        let mut start =
            UnitStart { pid: None, description: "c".into(), resources: &resources, annotations: &annotations };
        let mut cgroup = Cgroup::prepare_unit(&layout, &unit, &start).unwrap();
        let spec = common::spec(json!({}));
        let request = |cgroup| CreateRequest {
            id: "test".into(),
            spec: &spec,
            rootfs: host.rootfs(),
            join: Join::sandbox(&sandbox, PidMode::Sandbox, Ptrace::Impossible),
            cgroup: Some(cgroup),
            seccomp: None,
            stdio: Stdio::null().unwrap(),
            user: UserRequest::Ids,
            sources: Vec::new(),
        };
        // One that is given up: nothing is left of it.
        let given_up = create(&host.facts, request(&cgroup)).unwrap();
        let pid = given_up.unplaced().unwrap();
        drop(given_up);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());

        let mut born = create(&host.facts, request(&cgroup)).unwrap();
        let pid = born.unplaced().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(born.progress(), Progress::Pending);
        start.pid = Some(pid);
        assert_eq!(cgroup.start_unit(&start, Instant::now() + Duration::from_secs(5)).unwrap(), [""; 0]);
        born.placed().unwrap();
        assert_eq!(born.unplaced(), None);
        let container = common::start(born);
        assert_eq!(container.pid(), pid);
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        for hierarchy in &layout.v1 {
            let controller = &hierarchy.controllers[0];
            let line = text.lines().find(|line| line.split([':', ',']).any(|word| word == controller)).unwrap();
            assert!(line.ends_with("/k-c.scope"), "{line}");
        }
        assert!(cgroup.processes().unwrap().contains(&pid));
        cgroup.kill_all(common::soon()).unwrap();
        container.process().wait_blocking().unwrap();
        cgroup.remove(common::soon()).unwrap();
        bus.wait().unwrap();
        let slice = Cgroup::open(&layout, unit.cgroup_path().parent().unwrap()).unwrap();
        slice.remove(common::soon()).unwrap();
        common::end_sandbox(sandbox);
    });
}
