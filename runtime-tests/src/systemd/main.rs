//! killick-oci with the real systemd as PID 1, in a guest: what `systemctl show` says beside what the kernel says, on v2,
//! hybrid and v1. Every test owns its container, slice and state directory.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test runner starts programs and threads")]

mod container;
mod limits;
mod lives;
mod refusals;

use container::Layout;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

pub type Done = Result<(), String>;

/// What a test is run with.
#[derive(Debug)]
pub struct World {
    pub killick_oci: String,
    pub layout: Layout,
}

#[derive(Debug)]
pub struct Test {
    pub name: &'static str,
    pub run: fn(&World) -> Done,
    /// Only where the controllers are on v2.
    pub v2: bool,
    /// It disturbs the others: it runs alone.
    pub alone: bool,
}

pub fn test(name: &'static str, run: fn(&World) -> Done) -> Test {
    Test { name, run, v2: false, alone: false }
}

impl Test {
    pub fn on_v2(self) -> Test {
        Test { v2: true, ..self }
    }

    pub fn alone(self) -> Test {
        Test { alone: true, ..self }
    }
}

const USAGE: &str = "usage: killick-systemd-tests --bin DIR [--filter TEXT] [--threads N]";

fn main() {
    let (mut bin, mut filter, mut threads) = (None, String::new(), 2);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        match (argument.as_str(), value) {
            ("--bin", Some(value)) => bin = Some(value),
            ("--filter", Some(value)) => filter = value,
            ("--threads", Some(value)) => threads = value.parse().unwrap_or(2),
            _ => stop(USAGE),
        }
    }
    let Some(bin) = bin else { stop(USAGE) };
    if !std::path::Path::new("/run/systemd/system").is_dir() {
        stop("systemd does not run this host: these tests run in the guest of scripts/vm-systemd");
    }
    let world = World { killick_oci: format!("{bin}/killick-oci"), layout: Layout::detect() };
    println!("systemd {}, cgroups: {:?}", container::systemd_version(), world.layout);

    let mut tests: Vec<Test> = lives::tests();
    tests.extend(limits::tests());
    tests.extend(refusals::tests());
    tests.retain(|test| test.name.contains(&filter));
    let (alone, together): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.alone);
    let results = Mutex::new((0, Vec::new()));
    run_all(&world, together, threads, &results);
    run_all(&world, alone, 1, &results);
    let (mut passed, mut failed) = results.into_inner().expect("the threads have ended");
    match container::left_behind() {
        Ok(()) => passed += 1,
        Err(why) => {
            println!("test nothing_is_left_behind ... FAILED\n    {}", why.replace('\n', "\n    "));
            failed.push("nothing_is_left_behind");
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}

type Results = Mutex<(usize, Vec<&'static str>)>;

fn run_all(world: &World, tests: Vec<Test>, threads: usize, results: &Results) {
    let queue = Mutex::new(VecDeque::from(tests));
    let next = || queue.lock().expect("no test panics").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(test) = next() {
                    run_one(world, &test, results);
                }
            });
        }
    });
}

fn run_one(world: &World, test: &Test, results: &Results) {
    if test.v2 && world.layout != Layout::V2 {
        println!("test {} ... not here: it runs where the controllers are on v2", test.name);
        return;
    }
    let began = Instant::now();
    let outcome = (test.run)(world);
    let seconds = began.elapsed().as_secs_f32();
    let mut results = results.lock().expect("no test panics");
    match outcome {
        Ok(()) => {
            println!("test {} ... ok ({seconds:.1} s)", test.name);
            results.0 += 1;
        }
        Err(why) => {
            println!("test {} ... FAILED ({seconds:.1} s)\n    {}", test.name, why.replace('\n', "\n    "));
            results.1.push(test.name);
        }
    }
}

fn stop(why: &str) -> ! {
    eprintln!("{why}");
    std::process::exit(2)
}
