//! The shipped binaries against a real kernel: this host, and the same program inside a QEMU guest.
//!
//! Every test owns its pods; they run in parallel, since most of their time is the pods' own waiting. The program runs
//! in a network namespace of its own with an uplink, and with its own state directories, so that it meets nobody.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test runner starts programs and threads")]

mod apart;
mod bad_input;
mod commands;
mod confinement;
mod conmon;
mod containerd;
mod faults;
mod lifecycle;
mod more_commands;
mod more_lifecycle;
mod probes;
mod refuse;
mod sharing;
mod survival;
mod table;
mod tutorial;
mod volumes;
mod world;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use world::{Place, World};

type Run = fn(&World) -> Result<(), String>;

/// Where a test can run. One that cannot run here is named, and runs there.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Anything,
    Host,
    Guest,
    /// `--containerd`.
    Containerd,
}

struct Test {
    name: &'static str,
    needs: Needs,
    /// Only with `--long`: minutes, many rounds, or large images.
    long: bool,
    run: Run,
}

fn test(name: &'static str, run: Run) -> Test {
    Test { name, needs: Needs::Anything, long: false, run }
}

impl Test {
    fn on(mut self, needs: Needs) -> Test {
        self.needs = needs;
        self
    }

    fn long(mut self) -> Test {
        self.long = true;
        self
    }
}

fn all_tests() -> Vec<Test> {
    let mut tests = Vec::new();
    tests.extend(tutorial::tests());
    tests.extend(probes::tests());
    tests.extend(lifecycle::tests());
    tests.extend(sharing::tests());
    tests.extend(confinement::tests());
    tests.extend(volumes::tests());
    tests.extend(survival::tests());
    tests.extend(commands::tests());
    tests.extend(bad_input::tests());
    tests.extend(more_lifecycle::tests());
    tests.extend(more_commands::tests());
    tests.extend(faults::tests());
    tests.extend(containerd::tests());
    tests.extend(conmon::tests());
    tests
}

const USAGE: &str = "usage: killick-runtime-tests --bin DIR --images DIR [--where host|guest] [--containerd DIR] [--filter TEXT] [--threads N] [--long] [--list] [--refuse KERNEL:ENOSYS|EPERM]";

fn main() {
    let mut place = Place::Host;
    let (mut bin, mut images, mut containerd, mut filters) = (None, None, None, Vec::new());
    let (mut long, mut list, mut threads, mut refusal) = (false, false, 10, None);
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == "refuse").is_some() {
        std::process::exit(refuse::main(arguments));
    }
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| usage());
        match argument.as_str() {
            "--where" => {
                place = match value().as_str() {
                    "host" => Place::Host,
                    "guest" => Place::Guest,
                    _ => usage(),
                }
            }
            "--bin" => bin = Some(value()),
            "--images" => images = Some(value()),
            "--containerd" => containerd = Some(std::path::PathBuf::from(value())),
            "--filter" => filters.push(value()),
            "--threads" => threads = value().parse().unwrap_or_else(|_| usage()),
            "--refuse" => {
                let refused = refuse::Refusal::short(&value());
                refusal = Some(refused.unwrap_or_else(|error| {
                    eprintln!("--refuse: {error}");
                    usage()
                }));
            }
            "--table" => match table::write(std::path::Path::new(&value())) {
                Ok(text) => return print!("{text}"),
                Err(error) => {
                    eprintln!("{error}");
                    std::process::exit(1)
                }
            },
            "--long" => long = true,
            "--list" => list = true,
            _ => usage(),
        }
    }
    let mut chosen = VecDeque::new();
    for test in all_tests() {
        if !filters.is_empty() && !filters.iter().any(|text| test.name.contains(text.as_str())) {
            continue;
        }
        let here = match test.needs {
            Needs::Anything => true,
            Needs::Host => place == Place::Host,
            Needs::Guest => place == Place::Guest,
            Needs::Containerd => containerd.is_some() && refusal.is_none(),
        };
        if list {
            println!("{}{}", test.name, if test.long { " (long)" } else { "" });
        } else if !here {
            println!(
                "test {} ... not here: it runs {}",
                test.name,
                match (test.needs, place) {
                    (Needs::Containerd, _) => "with --containerd",
                    (_, Place::Host) => "in the guest",
                    (_, Place::Guest) => "on the host",
                }
            );
        } else if test.long && !long {
            println!("test {} ... only with --long", test.name);
        } else {
            chosen.push_back(test);
        }
    }
    if list {
        return;
    }
    let (Some(bin), Some(images)) = (bin, images) else { usage() };
    let world = match World::set_up(place, &bin, &images, containerd, refusal) {
        Ok(world) => world,
        Err(error) => {
            println!("set-up failed: {error}\n0 passed, 1 failed");
            std::process::exit(1);
        }
    };

    let queue = Mutex::new(chosen);
    let results = Mutex::new((0usize, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(test) = queue.lock().expect("no test panics with the lock held").pop_front() else {
                        break;
                    };
                    let start = Instant::now();
                    let outcome = catch_unwind(AssertUnwindSafe(|| (test.run)(&world)))
                        .unwrap_or_else(|panic| Err(format!("panicked: {:?}", panic.downcast_ref::<String>())));
                    let seconds = start.elapsed().as_secs_f32();
                    let mut results = results.lock().expect("no test panics with the lock held");
                    match outcome {
                        Ok(()) => {
                            println!("test {} ... ok ({seconds:.1} s)", test.name);
                            results.0 += 1;
                        }
                        Err(error) => {
                            println!(
                                "test {} ... FAILED ({seconds:.1} s)\n    {}",
                                test.name,
                                error.replace('\n', "\n    ")
                            );
                            results.1.push(test.name);
                        }
                    }
                }
            });
        }
    });
    let (mut passed, mut failed) = results.into_inner().expect("the threads have ended");
    // Everything is deleted by now: what is still there was left behind.
    match world.tear_down() {
        Ok(()) => passed += 1,
        Err(error) => {
            println!("test nothing_is_left_behind ... FAILED\n    {}", error.replace('\n', "\n    "));
            failed.push("nothing_is_left_behind");
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("{passed} passed, {} failed", failed.len());
    std::process::exit(i32::from(!failed.is_empty()));
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}
