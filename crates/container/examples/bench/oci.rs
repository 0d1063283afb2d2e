//! `bench oci DIR ROUNDS MOUNTS`: what a container runtime is asked for, by the library and by each command, against the
//! bare limit, all interleaved, after each of three gaps, in a mount namespace with so many mounts more than the host's.
//!
//! The configuration is a Kubernetes one (`spec`), its root an overlay of three lower layers: the library mounts it as a
//! part of create; for the commands it is mounted beforehand, as containerd does. Raw rounds go to
//! `DIR/oci-<MOUNTS>.tsv`, the table and the gates of performance.md to standard output.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as Streams};
use std::time::{Duration, Instant};

use killick_container::cgroup::{Cgroup, LeafPool};
use killick_container::{
    Container, CreateRequest, Join, PidMode, Progress, Ptrace, Rootfs, Stdio, UserRequest, create,
};
use nix::mount::{MsFlags, mount};

use super::{Bench, GROUP, command, cpu, percentile, soon};

const GAPS_MS: [u64; 3] = [0, 50, 1000];

/// One value of one round; what one operation consists of (create, start, kill, delete) is measured part by part.
struct Sample {
    operation: &'static str,
    variant: &'static str,
    gap_ms: u64,
    round: usize,
    wall: Duration,
    cpu: u64,
}

/// The limit: a C program that owns 5 MB runs the same program by vfork and execve, and says how long it took.
struct Limit {
    child: Child,
}

impl Limit {
    fn new(directory: &Path) -> Self {
        let program = directory.join("true");
        let child = Command::new(directory.join("limit"))
            .arg(program)
            .stdin(Streams::piped())
            .stdout(Streams::piped())
            .spawn()
            .unwrap();
        Limit { child }
    }

    fn once(&mut self) -> Duration {
        self.child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let mut nanos = [0; 8];
        self.child.stdout.as_mut().unwrap().read_exact(&mut nanos).unwrap();
        Duration::from_nanos(u64::from_ne_bytes(nanos))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

pub(super) fn run(bench: &mut Bench, rounds: usize, mounts: usize) {
    crowd(&bench.directory, mounts);
    let mut samples = Vec::new();
    library(bench, rounds, &mut samples);
    commands(bench, rounds.div_ceil(5), &mut samples);
    let loads = seccomp_loads(bench);
    report(&bench.directory, mounts, &samples, &loads);
}

/// A mount namespace of our own, and that many mounts in it.
fn crowd(directory: &Path, mounts: usize) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    if mounts == 0 {
        return;
    }
    let crowd = directory.join("crowd");
    fs::create_dir_all(&crowd).unwrap();
    mount(Some("tmpfs"), &crowd, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    for number in 1..mounts {
        let place = crowd.join(number.to_string());
        fs::create_dir(&place).unwrap();
        mount(Some("tmpfs"), &place, Some("tmpfs"), MsFlags::empty(), Some("size=4k")).unwrap();
    }
}

/// Rounds after a gap, and those before them that are not counted.
fn rounds_of(gap_ms: u64, rounds: usize) -> (usize, usize) {
    match gap_ms {
        0 => (rounds, 20.min(rounds)),
        1..=99 => (rounds.div_ceil(3), 3),
        _ => (rounds.div_ceil(15), 1),
    }
}

struct Round<'a> {
    gap_ms: u64,
    round: usize,
    samples: &'a mut Vec<Sample>,
}

impl Round<'_> {
    /// The operation tells its own time where it is measured elsewhere.
    fn measure(&mut self, operation: &'static str, variant: &'static str, act: impl FnOnce() -> Option<Duration>) {
        std::thread::sleep(Duration::from_millis(self.gap_ms));
        let (before, start) = (cpu(), Instant::now());
        let told = act();
        let wall = told.unwrap_or_else(|| start.elapsed());
        // What ends a moment after it was seen to end is counted too.
        std::thread::sleep(Duration::from_millis(1));
        let cpu = cpu() - before;
        self.samples.push(Sample { operation, variant, gap_ms: self.gap_ms, round: self.round, wall, cpu });
    }
}

/// In process, as the shim does it.
fn library(bench: &mut Bench, rounds: usize, samples: &mut Vec<Sample>) {
    let cgroup = bench.cgroup();
    let container = bench.container(&cgroup);
    let mut pool = cgroup.leaf_pool();
    let mut limit = Limit::new(&bench.directory);
    let program = bench.directory.join("true");
    for gap_ms in GAPS_MS {
        let (counted, warm_up) = rounds_of(gap_ms, rounds);
        for number in 0..counted + warm_up {
            let mut taken = Vec::new();
            let mut round = Round { gap_ms, round: number, samples: &mut taken };
            for part in 0..4 {
                match (part + number) % 4 {
                    0 => round.measure("exec", "limit", || Some(limit.once())),
                    1 => round.measure("exec", "posix_spawn", || {
                        command(&[program.to_str().unwrap()]);
                        None
                    }),
                    2 => round.measure("exec", "killick", || {
                        exec_once(bench, &container, &mut pool);
                        None
                    }),
                    // A whole life is dear; a part of the rounds is enough.
                    _ if number % if gap_ms < 1000 { 4 } else { 2 } == 0 => life(bench, &mut round),
                    _ => {}
                }
            }
            if number >= warm_up {
                samples.append(&mut taken);
            }
        }
    }
    pool.clear().unwrap();
    Bench::end(&container, &cgroup);
}

fn exec_once(bench: &Bench, container: &Container, pool: &mut LeafPool) {
    bench.exec_once(container, pool);
}

/// create, start, kill and delete, each after the gap.
fn life(bench: &mut Bench, round: &mut Round<'_>) {
    bench.serial += 1;
    let layers = layers(&bench.directory);
    let place = bench.directory.join(format!("life-{}", bench.serial));
    let mut made: Option<(Cgroup, killick_container::Created)> = None;
    round.measure("create", "killick", || {
        let resources = bench.spec.linux().as_ref().unwrap().resources().clone().unwrap();
        let name = format!("{GROUP}/killick-{}", bench.serial);
        let cgroup = Cgroup::create(&bench.layout, name, &resources).unwrap();
        let request = CreateRequest {
            id: format!("bench-{}", bench.serial),
            spec: &bench.spec,
            rootfs: Rootfs::layers(layers, &place, false),
            join: Join::sandbox(&bench.sandbox, PidMode::Own, Ptrace::Impossible),
            cgroup: Some(&cgroup),
            seccomp: Some(bench.filter.clone()),
            stdio: Stdio::null().unwrap(),
            user: UserRequest::Ids,
            sources: Vec::new(),
        };
        let mut created = create(&bench.facts, request).unwrap();
        assert_eq!(created.wait(soon()), Progress::AtGate);
        made = Some((cgroup, created));
        None
    });
    let (cgroup, mut created) = made.unwrap();
    let mut started = None;
    round.measure("start", "killick", || {
        created.start().unwrap();
        assert_eq!(created.wait(soon()), Progress::Running);
        started = Some(created.into_container().unwrap());
        None
    });
    let container = started.unwrap();
    round.measure("kill", "killick", || {
        cgroup.kill_all(soon()).unwrap();
        container.process().wait_blocking().unwrap();
        None
    });
    round.measure("delete", "killick", || {
        cgroup.remove(soon()).unwrap();
        None
    });
    fs::remove_dir_all(place).unwrap();
}

fn layers(directory: &Path) -> Vec<PathBuf> {
    let rootfs = directory.join("rootfs");
    let more = |name: &str| {
        let layer = directory.join(name);
        fs::create_dir_all(layer.join("etc")).unwrap();
        layer
    };
    vec![rootfs, more("layer-2"), more("layer-3")]
}

/// A bundle whose root is an overlay, mounted by us.
fn bundle(bench: &Bench, name: &str, args: &[&str]) -> PathBuf {
    let bundle = bench.directory.join(name);
    let _ = nix::mount::umount(&bundle.join("rootfs"));
    for part in ["rootfs", "upper", "work"] {
        fs::create_dir_all(bundle.join(part)).unwrap();
    }
    let lowers: Vec<_> = layers(&bench.directory).iter().rev().map(|layer| layer.display().to_string()).collect();
    let (upper, work) = (bundle.join("upper"), bundle.join("work"));
    let data = format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), upper.display(), work.display());
    let target = bundle.join("rootfs");
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(data.as_str())).unwrap();
    let mut spec = serde_json::to_value(&bench.spec).unwrap();
    spec["linux"]["cgroupsPath"] = format!("/{GROUP}/{name}").into();
    spec["root"] = serde_json::json!({"path": "rootfs"});
    spec["process"]["args"] = serde_json::json!(args);
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    bundle
}

/// As programs, with all that being a program costs.
fn commands(bench: &mut Bench, rounds: usize, samples: &mut Vec<Sample>) {
    let peers = bench.peers.clone();
    let ids: Vec<_> = peers
        .iter()
        .map(|peer| {
            let living = format!("bench-exec-{peer}");
            let (lasting, short) = (bundle(bench, &living, &["/bin/pause"]), format!("bench-run-{peer}"));
            command(&[peer, "run", "-d", "-b", lasting.to_str().unwrap(), &living]);
            let run = bundle(bench, &short, &["/bin/true"]);
            let life = bundle(bench, &format!("bench-life-{peer}"), &["/bin/pause"]);
            (*peer, living, run, life)
        })
        .collect();
    for gap_ms in GAPS_MS {
        // A second before each of 18 commands: a few rounds must do.
        let counted = if gap_ms < 1000 { rounds_of(gap_ms, rounds).0 } else { rounds.div_ceil(8) };
        let warm_up = if gap_ms == 0 { 2 } else { 0 };
        for number in 0..counted + warm_up {
            let mut taken = Vec::new();
            let mut round = Round { gap_ms, round: number, samples: &mut taken };
            let mut order: Vec<_> = ids.iter().collect();
            let shift = number % order.len();
            order.rotate_left(shift);
            for (peer, living, run, life) in order {
                round.measure("exec", peer, || {
                    command(&[peer, "exec", living, "/bin/true"]);
                    None
                });
                round.measure("run", peer, || {
                    command(&[peer, "run", "-b", run.to_str().unwrap(), &format!("bench-run-{peer}")]);
                    None
                });
                let id = format!("bench-life-{peer}");
                round.measure("create", peer, || {
                    command(&[peer, "create", "-b", life.to_str().unwrap(), &id]);
                    None
                });
                for (operation, words) in
                    [("start", &[*peer, "start", &id] as &[&str]), ("kill", &[peer, "kill", &id, "KILL"])]
                {
                    round.measure(operation, peer, || {
                        command(words);
                        None
                    });
                }
                // delete refuses until the process is seen to have ended; that wait is nobody's.
                let gone = || {
                    let out = Command::new(peer).args(["state", &id]).stderr(Streams::null()).output().unwrap();
                    String::from_utf8_lossy(&out.stdout).contains("stopped")
                };
                while !gone() {}
                round.measure("delete", peer, || {
                    command(&[peer, "delete", &id]);
                    None
                });
            }
            if number >= warm_up {
                samples.append(&mut taken);
            }
        }
    }
    for (peer, living, ..) in &ids {
        command(&[peer, "delete", "-f", living]);
    }
}

/// What the one call costs that loads the default filter, in µs; each in a child of its own, since it is for good.
fn seccomp_loads(bench: &Bench) -> Vec<f64> {
    let load = || {
        let worker = killick_sys::spawn::worker(Duration::from_secs(5), || {
            nix::sys::prctl::set_no_new_privs().map_err(|errno| errno.to_string())?;
            let start = Instant::now();
            bench.filter.load().map_err(|errno| errno.to_string())?;
            Ok(start.elapsed().as_nanos() as u64)
        });
        worker.unwrap().wait().unwrap() as f64 / 1e3
    };
    let mut loads: Vec<f64> = (0..60).map(|_| load()).collect();
    loads.sort_by(f64::total_cmp);
    loads
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

const OPERATIONS: [&str; 6] = ["run", "exec", "create", "start", "kill", "delete"];
const VARIANTS: [&str; 6] = ["limit", "posix_spawn", "killick", "killick-oci", "crun", "runc"];

struct Results<'a>(&'a [Sample]);

impl Results<'_> {
    fn of(&self, operation: &str, variant: &str, gap_ms: u64) -> Vec<&Sample> {
        let wanted = |s: &&Sample| s.operation == operation && s.variant == variant && s.gap_ms == gap_ms;
        self.0.iter().filter(wanted).collect()
    }

    /// Median of the rounds' ratios.
    fn ratio(&self, operation: &str, ours: &str, theirs: &str, gap_ms: u64) -> Option<f64> {
        let theirs = self.of(operation, theirs, gap_ms);
        let pairs = self.of(operation, ours, gap_ms).into_iter().filter_map(|own| {
            let other = theirs.iter().find(|other| other.round == own.round)?;
            Some(own.wall.as_secs_f64() / other.wall.as_secs_f64())
        });
        let ratios = sorted(pairs);
        (!ratios.is_empty()).then(|| percentile(&ratios, 0.5))
    }

    fn wall_ms(&self, operation: &str, variant: &str, gap_ms: u64) -> Option<Vec<f64>> {
        let walls = sorted(self.of(operation, variant, gap_ms).iter().map(|s| s.wall.as_secs_f64() * 1e3));
        (!walls.is_empty()).then_some(walls)
    }
}

fn report(directory: &Path, mounts: usize, samples: &[Sample], loads: &[f64]) {
    let mut raw = String::from("operation\tvariant\tgap_ms\tmounts\tround\twall_us\tcpu_us\n");
    for Sample { operation, variant, gap_ms, round, wall, cpu } in samples {
        let (wall, cpu) = (wall.as_secs_f64() * 1e6, *cpu as f64 / 1e3);
        raw += &format!("{operation}\t{variant}\t{gap_ms}\t{mounts}\t{round}\t{wall:.1}\t{cpu:.1}\n");
    }
    for (round, load) in loads.iter().enumerate() {
        raw += &format!("seccomp\tkillick\t0\t{mounts}\t{round}\t{load:.1}\t\n");
    }
    fs::write(directory.join(format!("oci-{mounts}.tsv")), raw).unwrap();

    let results = Results(samples);
    println!(
        "| {mounts} extra mounts | gap ms | n | min ms | p50 ms | p90 ms | p95 ms | CPU p50 ms | to limit | to crun | to runc |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for operation in OPERATIONS {
        for gap_ms in GAPS_MS {
            for variant in VARIANTS {
                let Some(walls) = results.wall_ms(operation, variant, gap_ms) else { continue };
                let cpu = sorted(results.of(operation, variant, gap_ms).iter().map(|s| s.cpu as f64 / 1e6));
                let ratio = |other: &str| {
                    let ratio = (variant != other).then(|| results.ratio(operation, variant, other, gap_ms)).flatten();
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
                };
                // The library's rounds and the commands' are not the same.
                let is_command = matches!(variant, "killick-oci" | "crun" | "runc");
                let (limit, peers) = if is_command {
                    (String::new(), [ratio("crun"), ratio("runc")])
                } else {
                    (ratio("limit"), [String::new(), String::new()])
                };
                let cpu = if variant == "limit" { String::new() } else { format!("{:.2}", percentile(&cpu, 0.5)) };
                println!(
                    "| {operation} {variant} | {gap_ms} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {cpu} | {limit} | {} | {} |",
                    walls.len(),
                    walls[0],
                    percentile(&walls, 0.5),
                    percentile(&walls, 0.9),
                    percentile(&walls, 0.95),
                    peers[0],
                    peers[1],
                );
            }
        }
    }
    println!();
    println!("| gate, {mounts} extra mounts | wanted | measured | |");
    println!("|---|---|---|---|");
    let gate = |name: &str, wanted: f64, measured: Option<f64>| {
        let Some(measured) = measured else { return };
        let verdict = if measured <= wanted { "met" } else { "MISSED" };
        println!("| {name} | ≤ {wanted:.2} | {measured:.2} | {verdict} |");
    };
    for (gap_ms, wanted) in [(0, 4.0), (50, 3.0), (1000, 3.0)] {
        let name = |limit: &str| format!("exec in process / {limit}, gap {gap_ms} ms");
        gate(&name("limit (vfork and execve in C)"), wanted, results.ratio("exec", "killick", "limit", gap_ms));
        gate(&name("posix_spawn of Rust's library"), wanted, results.ratio("exec", "killick", "posix_spawn", gap_ms));
    }
    let p50 = |operation: &str| results.wall_ms(operation, "killick", 0).map(|walls| percentile(&walls, 0.5));
    gate("create in process, back to back, ms", 2.5, p50("create"));
    gate("start in process, back to back, ms", 0.5, p50("start"));
    for gap_ms in GAPS_MS {
        for operation in ["run", "exec"] {
            let name = format!("killick-oci {operation} / crun {operation}, gap {gap_ms} ms");
            gate(&name, 1.0 / 3.0, results.ratio(operation, "killick-oci", "crun", gap_ms));
        }
    }
    gate("loading the default seccomp filter, ms", 0.2, Some(percentile(loads, 0.5) / 1e3));
}
