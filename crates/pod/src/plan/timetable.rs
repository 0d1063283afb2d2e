//! When things would happen, by asking the real machine: the pod's life in a world where everything goes well.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::event::{Action, Attempt, ContainerId, StartFailure};
use crate::machine::{NodeInfo, PodMachine};
use crate::simulate::{Simulation, What, World};
use crate::spec::{Pod, ProbeKind};
use crate::time::Wall;

/// What an ordinary host needs for a start.
const START: Duration = Duration::from_millis(30);
/// So many attempts of each probe are told.
pub const TOLD: usize = 3;
/// Later ones are not waited for.
pub const HORIZON: Duration = Duration::from_secs(3600);

/// Starts in their order, and the first attempts of each probe; times since admission.
#[derive(Debug, Default)]
pub struct Timetable {
    pub starts: Vec<(ContainerId, Duration)>,
    pub probes: BTreeMap<(ContainerId, ProbeKind), Vec<Duration>>,
}

pub fn timetable(pod: &Pod, node: NodeInfo) -> Timetable {
    let ip = node.ip;
    let mut simulation = Simulation::new(PodMachine::new(pod.clone(), node), Well { pod, ip }, Wall(0));
    simulation.run_until(horizon(pod));
    let mut table = Timetable::default();
    for entry in simulation.log {
        match entry.what {
            What::Action(Action::Start { attempt }) => table.starts.push((attempt.container, entry.at)),
            What::Action(Action::Probe { attempt, kind }) => {
                let times = table.probes.entry((attempt.container, kind)).or_default();
                if times.len() < TOLD {
                    times.push(entry.at);
                }
            }
            What::Action(_) | What::Event(_) | What::Status(_) => {}
        }
    }
    table
}

/// Long enough for `TOLD` attempts of every probe, also of those that wait for a startup probe.
fn horizon(pod: &Pod) -> Duration {
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let kinds = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];
    let probes = containers.flat_map(|container| kinds.into_iter().filter_map(|kind| container.probe(kind)));
    let tries = i64::try_from(TOLD).unwrap_or(i64::MAX) + 1;
    let need = |delay: i64, period: i64| delay.saturating_add(period.saturating_mul(tries));
    let seconds =
        probes.fold(60_i64, |sum, probe| sum.saturating_add(need(probe.initial_delay_seconds, probe.period_seconds)));
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)).min(HORIZON)
}

/// Init containers end well at once, everything else runs on, every probe succeeds.
struct Well<'a> {
    pod: &'a Pod,
    ip: Option<IpAddr>,
}

impl World for Well<'_> {
    fn sandbox(&mut self, _attempt: u32) -> (Duration, Result<Option<IpAddr>, String>) {
        (Duration::ZERO, Ok(self.ip))
    }

    fn start(&mut self, _attempt: Attempt) -> (Duration, Result<(), StartFailure>) {
        (START, Ok(()))
    }

    fn run(&mut self, attempt: Attempt) -> Option<(Duration, i32)> {
        match attempt.container {
            ContainerId::Init(index) => {
                let ends = self.pod.spec.init_containers.get(index).is_some_and(|container| !container.is_sidecar());
                ends.then_some((Duration::ZERO, 0))
            }
            ContainerId::Regular(_) => None,
        }
    }
}
