//! Probes and lifecycle hooks: where they are made, how late we were, and what is written down of each.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use killick_pod::event::{Attempt, Event, Hook, Outcome, Record};
use killick_pod::spec::{Container, Handler, Pod, Probe, ProbeKind};
use killick_pod_dir::record::{self, ProbeRecord};
use killick_pod_dir::timestamp;
use killick_prober::{InContainer, Lateness, Place, Probed, STARVED_RUN_MAX};

use crate::clock;
use crate::context::Context;
use crate::host::field_path;
use crate::live::{Live, LiveSandbox, pod_ip};
use crate::message::Message;

/// How often the loop's own pace is measured while a probe waits.
const PACE: Duration = Duration::from_millis(100);
/// A killed command is gone after a moment, or hangs in the kernel and goes with the container.
const COLLECT_TRIES: u32 = 100;
const COLLECT_PAUSE: Duration = Duration::from_millis(20);

/// One container's surroundings, as a probe sees them.
#[derive(Debug, Clone)]
pub struct Target {
    pub sandbox: Rc<LiveSandbox>,
    pub live: Rc<Live>,
    pub container: Container,
}

/// Answers `Probe`. `late` is how late the tick itself was; `spoiled` is how many attempts before were spoiled.
pub async fn probe(
    context: Rc<Context>,
    target: Target,
    kind: ProbeKind,
    late: Duration,
    spoiled: Rc<std::cell::Cell<u32>>,
) {
    let attempt = target.live.attempt;
    let Some(probe) = target.container.probe(kind).cloned() else { return };
    let timeout = Duration::from_secs(probe.timeout_seconds.max(1) as u64);
    let started = Instant::now();
    let late_tick = Lateness { timer: late, runnable: Duration::ZERO };
    let (probed, slowest) = match late_tick.spoils(timeout) && spoiled.get() < STARVED_RUN_MAX {
        // Nothing was tried: whatever it found would not be about the time that it was to be found at.
        true => (Outcome::Failure("the probe was not made in its time".to_owned()).into(), late),
        false => once(&context, &target, &probe, timeout).await,
    };
    let lateness = Lateness { timer: late.max(slowest), runnable: probed.waited_runnable };
    let (outcome, count) = lateness.judge(probed.outcome, timeout, spoiled.get());
    if count > spoiled.get()
        && let Outcome::Unknown(text) = &outcome
    {
        // The machine asks again at once, and may then find nothing to tell.
        let message = format!("{kind:?} probe errored and resulted in unknown state: {text}");
        context.note(warning("Unhealthy", &target, message)).await;
    }
    spoiled.set(count);
    write_down(&context, &target.container.name, attempt, kind, &outcome, started.elapsed());
    context.tell(Message::Event(Event::Probed { attempt, kind, outcome })).await;
    collect(&target.live).await;
}

/// What was found, and how much too late the loop's own timers ran meanwhile.
async fn once(context: &Rc<Context>, target: &Target, probe: &Probe, timeout: Duration) -> (Probed, Duration) {
    let mut slowest = Duration::ZERO;
    let run = run_probe(context, target, &probe.handler, timeout);
    tokio::pin!(run);
    loop {
        let asleep = Instant::now();
        tokio::select! {
            probed = &mut run => return (probed, slowest),
            () = tokio::time::sleep(PACE) => slowest = slowest.max(asleep.elapsed().saturating_sub(PACE)),
        }
    }
}

async fn run_probe(context: &Rc<Context>, target: &Target, handler: &Handler, timeout: Duration) -> Probed {
    let (facts, live) = (&context.host.facts, &target.live);
    let launcher = InContainer { facts, container: &live.container, execs: &live.execs };
    let place = Place {
        netns: target.sandbox.netns.as_ref().map(AsFd::as_fd),
        pod_ip: pod_ip(&target.sandbox, context.host.node.ip),
        container: &target.container,
        hosts: &target.sandbox.hosts,
        resolv_conf: &target.sandbox.resolv_conf,
        launcher: &launcher,
    };
    killick_prober::probe_measured(handler, place, timeout).await
}

fn write_down(
    context: &Context,
    container: &str,
    attempt: Attempt,
    kind: ProbeKind,
    outcome: &Outcome,
    took: Duration,
) {
    let (word, message) = match outcome {
        Outcome::Success => ("Success", ""),
        Outcome::Warning(text) => ("Warning", text.as_str()),
        Outcome::Failure(text) => ("Failure", text.as_str()),
        Outcome::Unknown(text) => ("Unknown", text.as_str()),
    };
    let line = ProbeRecord {
        time: timestamp::text_nanos(clock::wall_nanos()),
        container: container.to_owned(),
        attempt: attempt.number,
        kind,
        outcome: word.to_owned(),
        message: message.to_owned(),
        duration_ms: took.as_millis() as u64,
    };
    if let Err(error) = record::append(&context.host.dir.record_path(), &line) {
        context.complain(&format!("write the probe record: {error}"));
    }
}

/// Answers `RunHook`.
pub async fn hook(context: Rc<Context>, pod: Rc<Pod>, target: Target, hook: Hook, timeout: Option<Duration>) {
    let attempt = target.live.attempt;
    let lifecycle = target.container.lifecycle.clone().unwrap_or_default();
    let handler = match hook {
        Hook::PostStart => lifecycle.post_start,
        Hook::PreStop => lifecycle.pre_stop,
    };
    let result = match &handler {
        Some(handler) => run_hook(&context, &pod, &target, handler, timeout).await,
        None => Ok(None),
    };
    if let Ok(Some(message)) = &result {
        context.note(warning("LifecycleHTTPFallback", &target, message.clone())).await;
    }
    let result = result.map(drop);
    context.tell(Message::Event(Event::HookDone { attempt, hook, result })).await;
    collect(&target.live).await;
}

fn warning(reason: &str, target: &Target, message: String) -> Record {
    Record {
        warning: true,
        reason: reason.to_owned(),
        message,
        field_path: field_path(target.live.attempt.container, &target.container.name),
        component: "kubelet".to_owned(),
    }
}

/// What a command's deadline has killed is reaped, and its leaf goes back.
async fn collect(live: &Live) {
    for _ in 0..COLLECT_TRIES {
        if !live.execs.has_leftovers() {
            return;
        }
        tokio::time::sleep(COLLECT_PAUSE).await;
        live.execs.collect();
    }
}

async fn run_hook(
    context: &Context,
    pod: &Pod,
    target: &Target,
    handler: &Handler,
    timeout: Option<Duration>,
) -> Result<Option<String>, String> {
    let (facts, live) = (&context.host.facts, &target.live);
    let launcher = InContainer { facts, container: &live.container, execs: &live.execs };
    let place = Place {
        netns: target.sandbox.netns.as_ref().map(AsFd::as_fd),
        pod_ip: pod_ip(&target.sandbox, context.host.node.ip),
        container: &target.container,
        hosts: &target.sandbox.hosts,
        resolv_conf: &target.sandbox.resolv_conf,
        launcher: &launcher,
    };
    let metadata = &pod.metadata;
    let who = format!("{}_{}({})", metadata.name, metadata.namespace, metadata.uid);
    killick_prober::hook(handler, place, &who, timeout).await
}
