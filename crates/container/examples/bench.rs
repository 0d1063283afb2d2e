//! What one operation costs in process, beside the same work done by runc's, crun's and our own command line in the
//! same run.
//!
//! `bench exec|start|oci DIR [ROUNDS [MOUNTS]]`: DIR holds `true` and `pause` (static programs); a table is printed and the raw
//! rounds are written to `DIR/<operation>.tsv`. Run by `scripts/bench`, which makes DIR and moves us to a cgroup.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a bench starts the peers' commands")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as Streams};
use std::time::{Duration, Instant};

use killick_container::cgroup::{Cgroup, LeafPool};
use killick_container::sandbox::{SandboxRequest, create as create_sandbox};
use killick_container::{
    Container, CreateRequest, ExecRequest, Join, PidMode, Progress, Ptrace, Rootfs, Sandbox, Stdio, UserRequest,
    create, exec, seccomp,
};
use killick_sys::caps::CapSet;
use killick_sys::cgroup::Layout;
use killick_sys::facts::Facts;
use killick_sys::seccomp::Filter;
use oci_spec::runtime::{LinuxResources, Spec};

#[path = "bench/oci.rs"]
mod oci;

const GROUP: &str = "killick-bench";
const WARM_UP: usize = 20;

struct Bench {
    directory: PathBuf,
    facts: Facts,
    layout: Layout,
    sandbox: Sandbox,
    spec: Spec,
    filter: Filter,
    /// Commands of the peers that are here.
    peers: Vec<&'static str>,
    serial: usize,
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A Kubernetes-like configuration: containerd's mounts, masks, capabilities and default filter, 64 MiB, half a CPU.
fn spec(sandbox: i32, rootfs: &Path, args: &[&str]) -> Spec {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ];
    let bounding =
        capabilities.iter().fold(CapSet::default(), |set, name| set.with(killick_sys::caps::number(name).unwrap()));
    let filter = seccomp::default_profile(bounding, true);
    let namespace =
        |kind: &str, file: &str| serde_json::json!({"type": kind, "path": format!("/proc/{sandbox}/ns/{file}")});
    let mount = |destination: &str, kind: &str, options: &[&str]| serde_json::json!({"destination": destination, "type": kind, "source": kind, "options": options});
    serde_json::from_value(serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs, "readonly": true},
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, namespace("network", "net"), namespace("ipc", "ipc"), namespace("uts", "uts")],
            "resources": {
                "memory": {"limit": 64 << 20},
                "cpu": {"shares": 512, "quota": 50000, "period": 100000},
                "devices": [{"allow": false, "access": "rwm"}],
            },
            "seccomp": filter,
            "maskedPaths": ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }))
    .unwrap()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (operation, directory) = (arguments[1].as_str(), PathBuf::from(&arguments[2]));
    let rounds: usize = arguments.get(3).map_or(100, |text| text.parse().unwrap());
    let facts = Facts::detect();
    let layout = Layout::detect().unwrap();
    let pause = fs::read(directory.join("pause")).unwrap();
    let rootfs = directory.join("rootfs");
    fs::create_dir_all(rootfs.join("bin")).unwrap();
    for name in ["true", "pause"] {
        fs::copy(directory.join(name), rootfs.join("bin").join(name)).unwrap();
    }
    let _ = symlink("bin", rootfs.join("usr"));
    let request = SandboxRequest {
        pause: &pause,
        args: vec!["pause".into()],
        hostname: "bench".into(),
        host_network: false,
        host_ipc: false,
        host_pid: false,
        joined: Vec::new(),
        oom_score_adj: killick_container::sandbox::PAUSE_OOM_SCORE_ADJ,
        sysctls: Vec::new(),
        shm_bytes: 64 << 20,
        cgroup: None,
        seccomp: None,
        dir: directory.clone(),
    };
    let mut birth = create_sandbox(&facts, request).unwrap();
    assert_eq!(birth.wait(soon()), Progress::Running);
    let sandbox = birth.into_sandbox().unwrap();
    let spec = spec(sandbox.pid(), &rootfs, &["/bin/pause"]);
    let filter =
        seccomp::compile(spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap(), &seccomp::Kernel::detect())
            .unwrap();
    let peers = ["runc", "crun", "killick-oci"].into_iter().filter(|peer| works(peer)).collect();
    let mut bench = Bench { directory, facts, layout, sandbox, spec, filter, peers, serial: 0 };
    match operation {
        "exec" => bench.exec(rounds),
        "start" => bench.start(rounds),
        "loop" => bench.exec_loop(rounds),
        "oci" => oci::run(&mut bench, rounds, arguments.get(4).map_or(0, |text| text.parse().unwrap())),
        other => panic!("{other}: exec, start, oci or loop"),
    }
    let _ = bench.sandbox.process().send_signal(nix::sys::signal::Signal::SIGKILL);
    let _ = bench.sandbox.process().wait_blocking();
    let _ = bench.sandbox.unmount();
}

fn works(peer: &str) -> bool {
    Command::new(peer)
        .arg("--version")
        .stdout(Streams::null())
        .stderr(Streams::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// CPU of everything below our cgroup, in nanoseconds: driver, commands and containers, as the scheduler counts it.
fn cpu() -> u64 {
    let v1 = fs::read_to_string(format!("/sys/fs/cgroup/cpuacct/{GROUP}/cpuacct.usage"));
    v1.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| {
        let text = fs::read_to_string(format!("/sys/fs/cgroup/{GROUP}/cpu.stat")).unwrap_or_default();
        let micros =
            text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|text| text.parse::<u64>().ok());
        micros.unwrap_or(0) * 1000
    })
}

struct Sample {
    variant: String,
    gap_ms: u64,
    wall: Duration,
    cpu: u64,
}

fn measure(variant: &str, gap_ms: u64, samples: &mut Vec<Sample>, mut operation: impl FnMut()) {
    std::thread::sleep(Duration::from_millis(gap_ms));
    let (before, start) = (cpu(), Instant::now());
    operation();
    let wall = start.elapsed();
    // What ends a moment after it was seen to end is counted too.
    std::thread::sleep(Duration::from_millis(2));
    samples.push(Sample { variant: variant.into(), gap_ms, wall, cpu: cpu() - before });
}

fn command(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).stdin(Streams::null()).stdout(Streams::null()).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{words:?}: {status:?}");
}

impl Bench {
    fn cgroup(&mut self) -> Cgroup {
        self.serial += 1;
        let resources: LinuxResources = self.spec.linux().as_ref().unwrap().resources().clone().unwrap();
        Cgroup::create(&self.layout, format!("{GROUP}/killick-{}", self.serial), &resources).unwrap()
    }

    fn container(&mut self, cgroup: &Cgroup) -> Container {
        let request = CreateRequest {
            id: format!("bench-{}", self.serial),
            spec: &self.spec,
            rootfs: Rootfs::Directory { path: self.directory.join("rootfs"), readonly: true },
            join: Join::sandbox(&self.sandbox, PidMode::Own, Ptrace::Impossible),
            cgroup: Some(cgroup),
            seccomp: Some(self.filter.clone()),
            stdio: Stdio::null().unwrap(),
            user: UserRequest::Ids,
            sources: Vec::new(),
        };
        let mut created = create(&self.facts, request).unwrap();
        assert_eq!(created.wait(soon()), Progress::AtGate);
        created.start().unwrap();
        assert_eq!(created.wait(soon()), Progress::Running);
        created.into_container().unwrap()
    }

    /// A bundle for the peers; its cgroup lies below ours, so that its CPU is counted.
    fn bundle(&self, name: &str) -> PathBuf {
        let bundle = self.directory.join(name);
        fs::create_dir_all(&bundle).unwrap();
        let mut spec = serde_json::to_value(&self.spec).unwrap();
        spec["linux"]["cgroupsPath"] = format!("/{GROUP}/{name}").into();
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        bundle
    }

    fn end(container: &Container, cgroup: &Cgroup) {
        cgroup.kill_all(soon()).unwrap();
        container.process().wait_blocking().unwrap();
        cgroup.remove(soon()).unwrap();
    }

    fn exec(&mut self, rounds: usize) {
        let cgroup = self.cgroup();
        let container = self.container(&cgroup);
        let mut pool = cgroup.leaf_pool();
        let bundle = self.bundle("exec-bundle");
        for peer in self.peers.clone() {
            let id = format!("bench-exec-{peer}");
            let bundle = self.bundle(&id);
            command(&[peer, "run", "-d", "-b", bundle.to_str().unwrap(), &id]);
        }
        let mut samples = Vec::new();
        for gap_ms in [0, 20, 1000] {
            // A gap of a second is a probe's own; it needs fewer rounds to be seen and has to be paid for in time.
            let rounds = if gap_ms == 1000 { rounds.div_ceil(5) } else { rounds };
            let warm_up = if gap_ms == 0 { WARM_UP } else { 3 };
            for round in 0..rounds + warm_up {
                let mut taken = Vec::new();
                let mut order: Vec<&str> = ["limit", "killick"].into_iter().chain(self.peers.iter().copied()).collect();
                let shift = round % order.len();
                order.rotate_left(shift);
                for variant in order {
                    match variant {
                        "limit" => measure(variant, gap_ms, &mut taken, || {
                            command(&[bundle.join("../true").to_str().unwrap()])
                        }),
                        "killick" => measure(variant, gap_ms, &mut taken, || self.exec_once(&container, &mut pool)),
                        peer => measure(variant, gap_ms, &mut taken, || {
                            command(&[peer, "exec", &format!("bench-exec-{peer}"), "/bin/true"])
                        }),
                    }
                }
                if round >= warm_up {
                    samples.append(&mut taken);
                }
            }
        }
        for peer in self.peers.clone() {
            command(&[peer, "delete", "-f", &format!("bench-exec-{peer}")]);
        }
        pool.clear().unwrap();
        Self::end(&container, &cgroup);
        report("exec", &self.directory, &samples);
    }

    /// Only our own, for strace and perf.
    fn exec_loop(&mut self, rounds: usize) {
        use nix::sys::resource::{UsageWho, getrusage};
        let cgroup = self.cgroup();
        let container = self.container(&cgroup);
        let mut pool = cgroup.leaf_pool();
        let mut stages = vec![Vec::new(); 7];
        let program = self.directory.join("true");
        let usage = || {
            [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN].map(|who| getrusage(who).unwrap().minor_page_faults())
        };
        for _ in 0..100 {
            self.exec_once(&container, &mut pool);
        }
        let before = usage();
        for _ in 0..rounds {
            self.exec_staged(&container, &mut pool, &mut stages);
        }
        let after = usage();
        for _ in 0..rounds {
            let start = Instant::now();
            if std::env::var_os("NO_LIMIT").is_none() {
                command(&[program.to_str().unwrap()]);
            }
            stages[6].push(start.elapsed().as_secs_f64() * 1e6);
            if std::env::var_os("NO_LIMIT").is_none() {
                self.exec_once(&container, &mut pool);
            }
        }
        let per = |at: usize| (after[at] - before[at]) as f64 / rounds as f64;
        println!("page faults: parent {:.1} child {:.1}", per(0), per(1));
        for (name, stage) in
            ["prepare", "exec()", "running", "exited", "released", "all", "limit"].iter().zip(&mut stages)
        {
            stage.sort_by(f64::total_cmp);
            print!("{name}: {:.0}/{:.0}  ", stage[0], percentile(stage, 0.5));
        }
        println!();
        pool.clear().unwrap();
        Self::end(&container, &cgroup);
    }

    fn exec_staged(&self, container: &Container, pool: &mut LeafPool, stages: &mut [Vec<f64>]) {
        let start = Instant::now();
        let mut last = start;
        let mut mark = |at: usize| {
            let now = Instant::now();
            stages[at].push((now - last).as_secs_f64() * 1e6);
            last = now;
        };
        let leaf = pool.acquire().unwrap();
        let request = ExecRequest::new(vec!["/bin/true".into()], Stdio::null().unwrap(), Some(leaf.attach()));
        mark(0);
        let mut birth = exec(&self.facts, container, request).unwrap();
        mark(1);
        assert_eq!(birth.wait(soon()), Progress::Running);
        mark(2);
        assert_eq!(birth.into_process().unwrap().wait_blocking().unwrap().code(), 0);
        mark(3);
        pool.release(leaf).unwrap();
        mark(4);
        stages[5].push(start.elapsed().as_secs_f64() * 1e6);
    }

    fn exec_once(&self, container: &Container, pool: &mut LeafPool) {
        let leaf = pool.acquire().unwrap();
        let request = ExecRequest::new(vec!["/bin/true".into()], Stdio::null().unwrap(), Some(leaf.attach()));
        let mut birth = exec(&self.facts, container, request).unwrap();
        assert_eq!(birth.wait(soon()), Progress::Running);
        assert_eq!(birth.into_process().unwrap().wait_blocking().unwrap().code(), 0);
        pool.release(leaf).unwrap();
    }

    fn start(&mut self, rounds: usize) {
        let bundles: Vec<_> =
            self.peers.iter().map(|peer| (*peer, self.bundle(&format!("bench-start-{peer}")))).collect();
        let mut samples = Vec::new();
        for gap_ms in [0, 30] {
            let warm_up = if gap_ms == 0 { 5 } else { 2 };
            for round in 0..rounds + warm_up {
                let mut taken = Vec::new();
                let mut order: Vec<&str> = ["limit", "killick"].into_iter().chain(self.peers.iter().copied()).collect();
                let shift = round % order.len();
                order.rotate_left(shift);
                for variant in order {
                    if variant == "limit" {
                        // A process and its end, without anything that makes it a container.
                        let program = self.directory.join("pause");
                        measure(variant, gap_ms, &mut taken, || {
                            let mut child = Command::new(&program).stdin(Streams::null()).spawn().unwrap();
                            child.kill().unwrap();
                            child.wait().unwrap();
                        });
                    } else if variant == "killick" {
                        measure(variant, gap_ms, &mut taken, || {
                            let cgroup = self.cgroup();
                            let container = self.container(&cgroup);
                            Self::end(&container, &cgroup);
                        });
                    } else {
                        let bundle = bundles.iter().find(|(peer, _)| *peer == variant).unwrap().1.to_str().unwrap();
                        let id = format!("bench-start-{variant}");
                        measure(variant, gap_ms, &mut taken, || {
                            command(&[variant, "create", "-b", bundle, &id]);
                            command(&[variant, "start", &id]);
                            command(&[variant, "kill", &id, "KILL"]);
                            // delete refuses until the process is seen to have ended.
                            while !Command::new(variant)
                                .args(["delete", &id])
                                .stderr(Streams::null())
                                .status()
                                .is_ok_and(|status| status.success())
                            {}
                        });
                    }
                }
                if round >= warm_up {
                    samples.append(&mut taken);
                }
            }
        }
        report("start", &self.directory, &samples);
    }
}

fn percentile(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * part).round() as usize]
}

/// Medians, tails, and paired ratios: killick against each other variant of the same round.
fn report(operation: &str, directory: &Path, samples: &[Sample]) {
    let mut raw = String::from("variant\tgap_ms\twall_us\tcpu_us\n");
    for sample in samples {
        raw += &format!(
            "{}\t{}\t{:.1}\t{:.1}\n",
            sample.variant,
            sample.gap_ms,
            sample.wall.as_secs_f64() * 1e6,
            sample.cpu as f64 / 1e3
        );
    }
    fs::write(directory.join(format!("{operation}.tsv")), raw).unwrap();
    println!(
        "| {operation} | gap ms | n | min ms | p50 ms | p90 ms | p95 ms | p99 ms | mean ms | CPU p50 ms | killick/this, wall | killick/this, CPU |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut gaps: Vec<u64> = samples.iter().map(|sample| sample.gap_ms).collect();
    gaps.dedup();
    gaps.sort_unstable();
    gaps.dedup();
    for gap in gaps {
        let of = |variant: &str| -> Vec<(f64, f64)> {
            samples
                .iter()
                .filter(|sample| sample.gap_ms == gap && sample.variant == variant)
                .map(|sample| (sample.wall.as_secs_f64() * 1e3, sample.cpu as f64 / 1e6))
                .collect()
        };
        let ours = of("killick");
        for variant in ["limit", "killick", "killick-oci", "runc", "crun"] {
            let theirs = of(variant);
            if theirs.is_empty() {
                continue;
            }
            let sorted = |values: Vec<f64>| {
                let mut values = values;
                values.sort_by(f64::total_cmp);
                values
            };
            let wall = sorted(theirs.iter().map(|(wall, _)| *wall).collect());
            let cpu = sorted(theirs.iter().map(|(_, cpu)| *cpu).collect());
            let ratio = |pick: fn(&(f64, f64)) -> f64| {
                percentile(
                    &sorted(ours.iter().zip(&theirs).map(|(own, other)| pick(own) / pick(other).max(1e-9)).collect()),
                    0.5,
                )
            };
            println!(
                "| {variant} | {gap} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.3} | {:.3} |",
                wall.len(),
                wall[0],
                percentile(&wall, 0.5),
                percentile(&wall, 0.9),
                percentile(&wall, 0.95),
                percentile(&wall, 0.99),
                wall.iter().sum::<f64>() / wall.len() as f64,
                percentile(&cpu, 0.5),
                ratio(|pair| pair.0),
                ratio(|pair| pair.1)
            );
        }
    }
}
