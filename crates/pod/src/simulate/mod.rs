//! A pod's life with a jumping clock: the real machine in a world that answers by a script. Nothing is run.

mod script;

pub use script::{Line, Script, simulate};

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::event::{Action, Attempt, Event, ExitStatus, Hook, Outcome, Record, StartFailure};
use crate::machine::PodMachine;
use crate::spec::ProbeKind;
use crate::status::PodStatus;
use crate::time::{Monotonic, Now, Wall};

/// No run needs more steps than this; a world that never lets time pass is cut off here.
pub const STEPS_MAX: usize = 1_000_000;

/// How the world answers the machine. Every answer comes after a delay; the defaults are a healthy, quick world.
pub trait World {
    fn sandbox(&mut self, attempt: u32) -> (Duration, Result<Option<IpAddr>, String>) {
        let _ = attempt;
        (Duration::ZERO, Ok(Some(IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2)))))
    }

    /// `Err`: the volume, and what went wrong with it.
    fn volumes(&mut self) -> (Duration, Result<(), (String, String)>) {
        (Duration::ZERO, Ok(()))
    }

    fn start(&mut self, attempt: Attempt) -> (Duration, Result<(), StartFailure>) {
        let _ = attempt;
        (Duration::from_millis(300), Ok(()))
    }

    /// When the container ends on its own after its start, and how.
    fn run(&mut self, attempt: Attempt) -> Option<(Duration, i32)> {
        let _ = attempt;
        None
    }

    /// When it ends after the stop signal, and how.
    fn signal(&mut self, attempt: Attempt) -> Option<(Duration, i32)> {
        let _ = attempt;
        Some((Duration::from_millis(10), 143))
    }

    /// What a probe finds that begins `running` after the container's start.
    fn probe(&mut self, attempt: Attempt, kind: ProbeKind, running: Duration) -> (Duration, Outcome) {
        let _ = (attempt, kind, running);
        (Duration::from_millis(5), Outcome::Success)
    }

    fn hook(&mut self, attempt: Attempt, hook: Hook) -> (Duration, Result<(), String>) {
        let _ = (attempt, hook);
        (Duration::from_millis(5), Ok(()))
    }
}

/// One line of the protocol: seconds since the pod's admission, and what happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub at: Duration,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Event(Event),
    Action(Action),
    Status(Box<PodStatus>),
}

#[derive(Debug)]
pub struct Simulation<W> {
    pub machine: PodMachine,
    pub world: W,
    pub log: Vec<Entry>,
    wall_at_zero: Wall,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, usize)>>,
    events: Vec<Option<Event>>,
    since: BTreeMap<Attempt, Duration>,
    steps: usize,
}

impl<W: World> Simulation<W> {
    /// Admission is at time zero; on the wall clock that is `wall_at_zero`.
    pub fn new(machine: PodMachine, world: W, wall_at_zero: Wall) -> Simulation<W> {
        let mut simulation = Simulation {
            machine,
            world,
            log: Vec::new(),
            wall_at_zero,
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            since: BTreeMap::new(),
            steps: 0,
        };
        simulation.at(Duration::ZERO, Event::Begin);
        simulation
    }

    /// Lets `event` happen at `time`.
    pub fn at(&mut self, time: Duration, event: Event) {
        self.queue.push(Reverse((time.max(self.now), self.events.len())));
        self.events.push(Some(event));
    }

    /// Runs until `end`, or until nothing more can happen.
    pub fn run_until(&mut self, end: Duration) {
        while self.steps < STEPS_MAX && !self.machine.is_finished() {
            let event = self.queue.peek().map(|Reverse((time, _))| *time);
            let deadline = self.machine.next_deadline().map(|Monotonic(time)| time);
            // An answer that comes at the very time of a deadline is seen first, as by a loop that polls its fds.
            let (time, event) = match (event, deadline) {
                (Some(event), Some(deadline)) if deadline < event => (deadline, Event::Deadline),
                (Some(event), _) => (event, self.pop()),
                (None, Some(deadline)) => (deadline, Event::Deadline),
                (None, None) => return,
            };
            if time > end {
                if event != Event::Deadline {
                    self.at(time, event);
                }
                break;
            }
            self.now = time;
            self.step(event);
        }
        self.now = self.now.max(end);
    }

    fn pop(&mut self) -> Event {
        let popped = self.queue.pop().and_then(|Reverse((_, index))| self.events[index].take());
        popped.unwrap_or(Event::Deadline)
    }

    /// Both clocks at the present moment of the run.
    pub fn clock(&self) -> Now {
        let seconds = i64::try_from(self.now.as_secs()).unwrap_or(i64::MAX);
        Now { monotonic: Monotonic(self.now), wall: Wall(self.wall_at_zero.0.saturating_add(seconds)) }
    }

    fn step(&mut self, event: Event) {
        self.steps += 1;
        match &event {
            Event::Exited { attempt, .. } if !self.since.contains_key(attempt) => return,
            Event::Exited { attempt, .. } => {
                self.since.remove(attempt);
            }
            Event::Started { attempt, .. } => {
                self.since.insert(*attempt, self.now);
                if let Some((after, code)) = self.world.run(*attempt) {
                    self.exit(*attempt, after, code);
                }
            }
            _ => {}
        }
        let before = self.machine.status().clone();
        if event != Event::Deadline {
            self.log.push(Entry { at: self.now, what: What::Event(event.clone()) });
        }
        let actions = self.machine.step(self.clock(), event);
        for action in actions {
            self.log.push(Entry { at: self.now, what: What::Action(action.clone()) });
            self.answer(action);
        }
        if *self.machine.status() != before {
            let status = Box::new(self.machine.status().clone());
            self.log.push(Entry { at: self.now, what: What::Status(status) });
        }
    }

    fn exit(&mut self, attempt: Attempt, after: Duration, code: i32) {
        let exit = ExitStatus { code, oom_killed: false, lost: false, message: None };
        self.at(self.now + after, Event::Exited { attempt, exit });
    }

    fn answer(&mut self, action: Action) {
        let (after, event) = match action {
            Action::CreateSandbox { attempt } => {
                let (after, result) = self.world.sandbox(attempt);
                match result {
                    Ok(ip) => (after, Event::SandboxReady { attempt, ip }),
                    Err(message) => (after, Event::SandboxFailed { attempt, message }),
                }
            }
            Action::StopSandbox { attempt } => (Duration::ZERO, Event::SandboxStopped { attempt }),
            Action::MountVolumes => {
                let (after, result) = self.world.volumes();
                match result {
                    Ok(()) => (after, Event::VolumesReady),
                    Err((volume, message)) => (after, Event::VolumesFailed { volume, message }),
                }
            }
            Action::Start { attempt } => {
                let (after, result) = self.world.start(attempt);
                let event = match result {
                    Ok(()) => Event::Started { attempt, runtime_id: runtime_id(attempt), image_id: String::new() },
                    Err(failure) => Event::StartFailed { attempt, failure },
                };
                (after, event)
            }
            Action::Probe { attempt, kind } => {
                let running = self.since.get(&attempt).map_or(Duration::ZERO, |since| self.now.saturating_sub(*since));
                let (after, outcome) = self.world.probe(attempt, kind, running);
                (after, Event::Probed { attempt, kind, outcome })
            }
            Action::RunHook { attempt, hook, timeout } => {
                let (after, result) = self.world.hook(attempt, hook);
                match timeout.filter(|timeout| *timeout < after) {
                    Some(timeout) => (timeout, Event::HookDone { attempt, hook, result: Err("timed out".to_owned()) }),
                    None => (after, Event::HookDone { attempt, hook, result }),
                }
            }
            Action::Signal { attempt } => {
                if let Some((after, code)) = self.world.signal(attempt) {
                    self.exit(attempt, after, code);
                }
                return;
            }
            Action::Kill { attempt } => {
                self.exit(attempt, Duration::ZERO, 137);
                return;
            }
            Action::Record(_) => return,
            Action::Remove => (Duration::ZERO, Event::Removed),
        };
        self.at(self.now + after, event);
    }

    /// The records for people, with their times.
    pub fn records(&self) -> impl Iterator<Item = (Duration, &Record)> {
        self.log.iter().filter_map(|entry| match &entry.what {
            What::Action(Action::Record(record)) => Some((entry.at, record)),
            What::Action(_) | What::Event(_) | What::Status(_) => None,
        })
    }
}

fn runtime_id(attempt: Attempt) -> String {
    match attempt.container {
        crate::event::ContainerId::Init(index) => format!("init{index}-{}", attempt.number),
        crate::event::ContainerId::Regular(index) => format!("regular{index}-{}", attempt.number),
    }
}
