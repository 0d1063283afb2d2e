//! `apply`: everything is read and checked first; then objects are stored, pods made or changed, in the order of the
//! files. A pod that cannot be started leaves nothing.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use killick_pod::apply::{Change, compare};
use killick_pod::manifest::Object;
use killick_pod::spec::{DataKind, DataObject, Pod};
use killick_pod_dir::control::{self, ControlError, Request, Response};
use killick_pod_dir::objects::{ObjectStore, Put};
use killick_pod_dir::{Error, PodDir};

use crate::context::Context;
use crate::output::{Failure, Out, Result};
use crate::source::{self, Files, Sourced};

/// A shim that was just started needs a moment until its socket is there.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
pub struct ApplyOptions {
    pub files: Files,
    /// `-n`, if it was given.
    pub kube_namespace: Option<String>,
    pub dry_run: DryRun,
    pub name_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DryRun {
    #[default]
    None,
    Client,
    Server,
}

impl DryRun {
    pub fn parse(text: &str) -> Result<DryRun> {
        match text {
            "none" => Ok(DryRun::None),
            "client" => Ok(DryRun::Client),
            "server" => Ok(DryRun::Server),
            _ => Err(Failure::error(format!(
                "Invalid dry-run value ({text}). Must be \"none\", \"server\", or \"client\"."
            ))),
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            DryRun::None => "",
            DryRun::Client => " (dry run)",
            DryRun::Server => " (server dry run)",
        }
    }
}

pub fn apply(context: &Context, options: &ApplyOptions, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    let sourced = source::read(&options.files, options.kube_namespace.as_deref(), stdin)?;
    if options.dry_run == DryRun::None {
        context.revive(out)?;
    }
    apply_objects(context, &sourced, options, out)
}

/// Everything has been checked: now the world is touched.
pub fn apply_objects(context: &Context, sourced: &[Sourced], options: &ApplyOptions, out: &mut Out<'_>) -> Result<()> {
    // Objects first: a pod may use one that stands below it in the same file.
    let mut stored = Vec::new();
    for one in sourced {
        stored.push(match &one.object {
            Object::Data(object) => Some(store(context, one, object, options.dry_run)),
            Object::Pod(_) => None,
        });
    }
    let mut failures = Vec::new();
    for (one, stored) in sourced.iter().zip(stored) {
        let (name, result) = match (&one.object, stored) {
            (Object::Data(object), Some(result)) => (format!("{}/{}", kind_word(object.kind), object.name), result),
            (Object::Data(_), None) => continue,
            (Object::Pod(pod), _) => {
                let word = apply_pod(context, one, pod, options.dry_run, out);
                (format!("pod/{}", pod.metadata.name), word)
            }
        };
        match result {
            Ok(_) if options.name_only => out.say(name)?,
            Ok(word) => out.say(format!("{name} {word}{}", options.dry_run.suffix()))?,
            Err(failure) => failures.push(failure),
        }
    }
    Failure::all(failures)
}

fn kind_word(kind: DataKind) -> &'static str {
    match kind {
        DataKind::ConfigMap => "configmap",
        DataKind::Secret => "secret",
    }
}

fn store(context: &Context, one: &Sourced, object: &DataObject, dry_run: DryRun) -> Result<&'static str> {
    let store = ObjectStore::new(&context.roots);
    if dry_run != DryRun::None {
        let known = store.get(object.kind, &object.namespace, &object.name)?;
        return Ok(match known {
            None => "created",
            Some(known) if known == *object => "unchanged",
            Some(_) => "configured",
        });
    }
    match store.put(object, &context.new_uid()?, &context.now_text())? {
        Put::Created => Ok("created"),
        Put::Configured => Ok("configured"),
        Put::Unchanged => Ok("unchanged"),
        Put::Immutable => {
            let kind = match object.kind {
                DataKind::ConfigMap => "ConfigMap",
                DataKind::Secret => "Secret",
            };
            Err(Failure::said(format!(
                "error: error when applying {:?}: {kind} \"{}\" is invalid: data: Forbidden: field is immutable when \
                 `immutable` is set",
                one.file, object.name
            )))
        }
    }
}

fn apply_pod(context: &Context, one: &Sourced, pod: &Pod, dry_run: DryRun, out: &mut Out<'_>) -> Result<&'static str> {
    let (kube_namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
    let existing = context.pod(kube_namespace, name);
    if dry_run != DryRun::None {
        return match existing {
            None => Ok("created"),
            Some(view) => match compare(&view.pod, &accepted(pod, &view.pod)) {
                Change::Unchanged => Ok("unchanged"),
                Change::Metadata | Change::ImageOf(_) => Ok("configured"),
                Change::Forbidden(message) => Err(Failure::said(message)),
            },
        };
    }
    if let Some(view) = existing {
        let changed = change_pod(context, &view.dir, &view.pod, pod, out);
        // A pod that was being deleted may have gone meanwhile: then this is a new one.
        if changed.is_ok() || view.dir.exists() {
            return changed;
        }
    }
    match create_pod(context, one, pod) {
        // Somebody else was faster with this name: then it is a change.
        Err(Create::NameTaken) => match context.pod(kube_namespace, name) {
            Some(view) => change_pod(context, &view.dir, &view.pod, pod, out),
            None => Err(Failure::said(format!(
                "Error from server (AlreadyExists): error when creating {:?}: pods \"{name}\" already exists",
                one.file
            ))),
        },
        Err(Create::Failed(failure)) => Err(failure),
        Ok(()) => Ok("created"),
    }
}

enum Create {
    NameTaken,
    Failed(Failure),
}

fn create_pod(context: &Context, one: &Sourced, pod: &Pod) -> std::result::Result<(), Create> {
    let failed = |text: String| {
        Create::Failed(Failure::said(format!(
            "Error from server (InternalError): error when creating {:?}: {text}",
            one.file
        )))
    };
    let mut pod = pod.clone();
    pod.metadata.uid = context.new_uid().map_err(Create::Failed)?;
    pod.metadata.creation_timestamp = context.now_text();
    pod.metadata.generation = 1;
    pod.spec.node_name = Some(context.node_name());
    let dir = match PodDir::create(&context.roots, &pod) {
        Ok(dir) => dir,
        Err(Error::NameTaken { .. }) => return Err(Create::NameTaken),
        Err(error) => return Err(failed(error.to_string())),
    };
    let started = match dir.begin_start() {
        Ok(Some(_guard)) => context.start(&dir),
        // A command that revives pods came between: it is starting this one.
        Ok(None) => return Ok(()),
        Err(error) => Err(Failure::said(error.to_string())),
    };
    let Err(failure) = started else { return Ok(()) };
    let mut text = failure.text.strip_prefix("error: ").unwrap_or(&failure.text).to_owned();
    // The log goes with the directory: what it says is said now, not pointed at.
    let log = dir.shim_log();
    let last = last_words(&log);
    if !last.is_empty() {
        let pointer = format!("; see {}", log.display());
        text = format!("{}: {last}", text.strip_suffix(&pointer).unwrap_or(&text));
    }
    for error in dir.remove(&pod) {
        text.push_str(&format!("\nundoing it: {error}"));
    }
    Err(failed(text))
}

/// The last lines of a shim that did not live, as one.
fn last_words(log: &Path) -> String {
    const LINES_MAX: usize = 3;
    let text = killick_pod_dir::file::read_bounded(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(LINES_MAX).collect();
    lines.reverse();
    lines.dedup();
    lines.join("; ")
}

/// The new manifest with what the acceptance filled into the old one.
pub fn accepted(new: &Pod, old: &Pod) -> Pod {
    let mut pod = new.clone();
    pod.metadata.uid.clone_from(&old.metadata.uid);
    pod.metadata.creation_timestamp.clone_from(&old.metadata.creation_timestamp);
    pod.metadata.deletion_timestamp.clone_from(&old.metadata.deletion_timestamp);
    pod.metadata.deletion_grace_period_seconds = old.metadata.deletion_grace_period_seconds;
    pod.metadata.generation = old.metadata.generation;
    pod.spec.node_name.clone_from(&old.spec.node_name);
    pod
}

fn change_pod(context: &Context, dir: &PodDir, old: &Pod, new: &Pod, out: &mut Out<'_>) -> Result<&'static str> {
    let mut pod = accepted(new, old);
    match compare(old, &pod) {
        Change::Unchanged => return Ok("unchanged"),
        Change::Forbidden(message) => return Err(Failure::said(message)),
        Change::Metadata => {}
        Change::ImageOf(_) => pod.metadata.generation += 1,
    }
    if old.metadata.deletion_timestamp.is_some() {
        let name = &old.metadata.name;
        out.warn(format!("Warning: Detected changes to resource {name} which is currently being deleted."));
    }
    // What says that it is being deleted belongs to the status, not to the manifest.
    pod.metadata.deletion_timestamp = None;
    pod.metadata.deletion_grace_period_seconds = None;
    let staged = dir.stage_pod(&pod)?;
    match ask(context, dir, &Request::UpdatePod { staged: staged.clone() }) {
        Ok(Response::Accepted) => Ok("configured"),
        other => {
            // Whoever refused it may have removed it already.
            let _ = dir.drop_staged(&staged);
            Err(refusal_of(dir, &old.metadata.name, other))
        }
    }
}

/// One question to the pod's shim, with patience for one that is only starting.
pub fn ask(context: &Context, dir: &PodDir, request: &Request) -> std::result::Result<Response, ControlError> {
    with_patience(context, dir, || control::call(&dir.control_socket(), request))
}

/// Tries again while nobody listens. A pod whose keep has died meanwhile gets a new one.
pub fn with_patience<T>(
    context: &Context,
    dir: &PodDir,
    mut attempt: impl FnMut() -> std::result::Result<T, ControlError>,
) -> std::result::Result<T, ControlError> {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
    let deadline = Instant::now() + CONNECT_PATIENCE;
    loop {
        match attempt() {
            Err(ControlError::Io(error))
                if matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
                    && Instant::now() < deadline
                    && dir.exists() =>
            {
                if !dir.is_kept().unwrap_or(true) && context.revive_pod(dir).is_err() {
                    return Err(ControlError::Io(error));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// An answer that is not the wanted one, as a failure.
fn refusal(answer: std::result::Result<Response, ControlError>) -> Failure {
    match answer {
        Ok(Response::Refused { reason: control::Refusal::BadRequest, message }) => Failure::said(message),
        Ok(Response::Refused { message, .. }) => Failure::error(format!("Internal error occurred: {message}")),
        Ok(other) => Failure::error(format!("the pod's shim gave an answer that makes no sense: {other:?}")),
        Err(error) => Failure::error(error),
    }
}

/// The same with the pod's name and where its shim's own words are.
pub fn refusal_of(dir: &PodDir, name: &str, answer: std::result::Result<Response, ControlError>) -> Failure {
    match answer {
        Err(error) => {
            let log = dir.shim_log();
            Failure::error(format!("pod {name:?}: its shim does not answer: {error}; see {}", log.display()))
        }
        answer => refusal(answer),
    }
}
