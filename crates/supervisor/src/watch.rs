//! A container's end: its first process, then the rest of its cgroup, its last output, its last words. Only then is
//! `Exited` told.

use std::rc::Rc;
use std::time::Duration;

use killick_container::cgroup::Cgroup;
use killick_pod::event::{Attempt, ExitStatus};
use killick_pod::spec::{Container, Pod};
use killick_sys::spawn::worker;

use crate::context::Context;
use crate::last_words;
use crate::live::Live;
use crate::log_pump::PumpHandle;
use crate::message::Message;
use crate::reap::{End, empty_cgroup, learn_exit, remove_cgroup};
use crate::start;
use crate::state::keep_key;
use crate::wait::{ended, finish};

/// What a container that is gone may still have in its pipes is waited for so long.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(5);

/// Exit code that kubelet reports when nobody knows it.
const LOST_CODE: i32 = 137;

/// What a task needs to see a container off.
#[derive(Debug)]
pub struct Farewell {
    pub attempt: Attempt,
    pub cgroup: Cgroup,
    /// None for a container that was gone when this shim came.
    pub live: Option<Rc<Live>>,
    pub pump: Option<PumpHandle>,
    pub pod: Rc<Pod>,
    pub container: Container,
}

/// Waits for the container's end and tells it.
pub async fn watch(context: Rc<Context>, farewell: Farewell, live: Rc<Live>) {
    ended(live.container.process()).await;
    let end = learn_exit(&context.host.dir, live.container.process()).await;
    see_off(context, farewell, end).await;
}

/// The first process has ended so; everything else of the container goes now.
pub async fn see_off(context: Rc<Context>, farewell: Farewell, end: End) {
    let Farewell { attempt, cgroup, live, pump, pod, container } = farewell;
    if let Err(error) = empty_cgroup(&cgroup).await {
        context.complain(&error);
    }
    if let Some(pump) = pump {
        pump.finish_within(LAST_OUTPUT).await;
    }
    for stderr in [false, true] {
        let _ = context.keep.drop_key(keep_key(attempt, stderr));
    }
    let _ = std::fs::remove_file(start::pending_path(&context, &container.name, attempt));
    let oom_killed = cgroup.oom_kills().ok().flatten().is_some_and(|kills| kills > 0);
    let (code, lost) = match end {
        End::Code(code) => (code, false),
        End::Unknown => (LOST_CODE, true),
    };
    let message = read_last_words(&context, attempt, &pod, container, code).await;
    if let Some(live) = live
        && let Err(error) = live.execs.leafs().borrow_mut().clear()
    {
        context.complain(&error.to_string());
    }
    if let Err(error) = remove_cgroup(&cgroup).await {
        context.complain(&error);
    }
    // Its file goes when the machine has been told: see `Supervisor::exited`.
    context.tell(Message::Exited { attempt, exit: ExitStatus { code, oom_killed, lost, message } }).await;
}

async fn read_last_words(
    context: &Context,
    attempt: Attempt,
    pod: &Pod,
    container: Container,
    code: i32,
) -> Option<String> {
    let dir = &context.host.dir;
    let path = dir.container_dir(&container.name, attempt.number).join("termination-log");
    let log = dir.log_dir(pod).join(&container.name).join(format!("{}.log", attempt.number));
    let containers = pod.spec.containers.len() + pod.spec.init_containers.len();
    let policy = container.termination_message_policy;
    let read = worker(LAST_WORDS_DEADLINE, move || Ok(last_words::read(&path, policy, code, containers, &log)));
    let text = match read {
        Ok(mut worker) => finish(&mut worker).await,
        Err(error) => Err(error.to_string()),
    };
    match text {
        Ok(text) => text,
        Err(error) => Some(format!("Error on reading termination log {}: {error}", container.termination_message_path)),
    }
}
