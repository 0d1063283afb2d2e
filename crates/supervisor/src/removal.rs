//! The end of a pod: everything that was made for it goes; its directories last, its name after them.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use killick_container::cgroup::Cgroup;
use killick_pod::spec::Pod;
use killick_pod_dir::PodDir;
use killick_pod_dir::file::{Durability, read_json, write_json};
use killick_sys::spawn::worker;
use killick_volume::Dirs;

use crate::context::{Context, complain};
use crate::message::Message;
use crate::reap::{empty_cgroup, remove_cgroup};
use crate::sandbox;
use crate::state::SandboxState;
use crate::wait;

const DISK_DEADLINE: Duration = Duration::from_secs(120);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Answers `Remove`; tries again until nothing is left, for a pod of which something is left must stay deletable.
pub async fn remove(context: Rc<Context>, pod: Rc<Pod>, sandbox: Option<SandboxState>) {
    let mut pause = RETRY_FIRST;
    loop {
        let errors = try_remove(&context, &pod, sandbox.as_ref()).await;
        if errors.is_empty() {
            return context.tell(Message::Removed).await;
        }
        for error in errors {
            context.complain(&format!("remove the pod: {error}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LONGEST);
    }
}

async fn try_remove(context: &Context, pod: &Rc<Pod>, sandbox: Option<&SandboxState>) -> Vec<String> {
    let mut errors = Vec::new();
    match Cgroup::open(&context.host.layout, context.host.pod_cgroup()) {
        Ok(cgroup) => {
            errors.extend(empty_cgroup(&cgroup).await.err());
            errors.append(&mut sandbox::take_down(context, None, sandbox).await);
            errors.extend(remove_cgroup(&cgroup).await.err());
            errors.extend(cgroup.remove_parent_if_unused().err().map(|error| error.to_string()));
        }
        Err(error) => errors.push(error.to_string()),
    }
    let dirs = Dirs { pod: context.host.dir.data_dir() };
    errors.append(&mut on_disk(move || killick_volume::teardown(&dirs)).await);
    if errors.is_empty() {
        let (dir, pod) = (context.host.dir.clone(), Rc::clone(pod));
        errors = on_disk(move || {
            // The manifest is the first thing that goes: a shim that comes after a kill must still know the names.
            let _ = write_json(&note_path(&dir), &*pod, 0o600, Durability::Volatile);
            remove_directories(&dir, &pod)
        })
        .await;
    }
    errors
}

fn note_path(dir: &PodDir) -> PathBuf {
    dir.run_dir().join("removing.json")
}

fn remove_directories(dir: &PodDir, pod: &Pod) -> Vec<String> {
    dir.remove(pod).into_iter().map(|error| error.to_string()).collect()
}

/// A removal was cut short after the manifest had gone: the rest goes now. What cannot be removed is left to the sweep
/// that each command makes.
pub fn finish(dir: &PodDir) {
    if let Ok(pod) = read_json::<Pod>(&note_path(dir)) {
        for error in remove_directories(dir, &pod) {
            complain(&format!("remove the pod: {error}"));
        }
    }
}

async fn on_disk(work: impl FnOnce() -> Vec<String>) -> Vec<String> {
    match worker(DISK_DEADLINE, move || Ok(work())) {
        Ok(mut worker) => wait::finish(&mut worker).await.unwrap_or_else(|error| vec![error]),
        Err(error) => vec![error.to_string()],
    }
}
