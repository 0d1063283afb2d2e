//! `delete`: asks each pod's shim to end it, and waits until it is gone.

use std::io::Read;
use std::time::{Duration, Instant};

use killick_pod::manifest::Object;
use killick_pod::spec::DataKind;
use killick_pod_dir::PodDir;
use killick_pod_dir::control::{Request, Response};
use killick_pod_dir::objects::ObjectStore;

use crate::apply::{ask, refusal_of};
use crate::context::{Context, PodView};
use crate::output::{Failure, Out, Result};
use crate::resource::{Resource, Wanted};
use crate::select::{FieldSelector, LabelSelector};
use crate::source::{self, Files};

/// How often the pod's directory is looked for while waiting.
const POLL: Duration = Duration::from_millis(20);
/// kubectl's limit for waiting: a week.
const WAIT_MAX: Duration = Duration::from_secs(168 * 3600);

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub kube_namespace: Option<String>,
    pub files: Files,
    pub grace: Grace,
    pub wait: bool,
    /// None: a week.
    pub timeout: Option<Duration>,
    pub ignore_not_found: bool,
    pub all: bool,
    pub all_namespaces: bool,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub name_only: bool,
}

/// What `--grace-period`, `--now` and `--force` come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grace {
    /// The pod's own.
    #[default]
    OfPod,
    Seconds(i64),
    Force,
}

impl Grace {
    pub fn from_flags(grace_period: i64, now: bool, force: bool) -> Result<Grace> {
        if now && grace_period != -1 {
            return Err(Failure::error("--now and --grace-period cannot be specified together"));
        }
        if force && grace_period > 0 {
            return Err(Failure::error("--force and --grace-period greater than 0 cannot be specified together"));
        }
        Ok(match (grace_period, now, force) {
            (_, _, true) => Grace::Force,
            (_, true, false) => Grace::Seconds(1),
            // Without --force a grace of 0 is one second: nothing is lost by accident.
            (0, false, false) => Grace::Seconds(1),
            (1.., false, false) => Grace::Seconds(grace_period),
            (_, false, false) => Grace::OfPod,
        })
    }
}

pub fn delete(
    context: &Context,
    arguments: &[Wanted],
    options: &DeleteOptions,
    stdin: &mut dyn Read,
    out: &mut Out<'_>,
) -> Result<()> {
    let wanted = if options.files.names.is_empty() {
        targets(context, arguments, options)?
    } else {
        if !arguments.is_empty() {
            return Err(Failure::error("cannot provide names when -f is used"));
        }
        file_targets(options, stdin)?
    };
    context.revive(out)?;
    if options.grace == Grace::Force {
        out.warn(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been \
             terminated. The resource may continue to run on the cluster indefinitely.",
        );
    }
    let mut failures = Vec::new();
    let mut going = Vec::new();
    let nothing = wanted.is_empty();
    for target in wanted {
        match delete_one(context, &target, options, out) {
            Ok(Some(dir)) => going.push(dir),
            Ok(None) => {}
            Err(failure) => failures.push(failure),
        }
    }
    if nothing {
        out.say("No resources found")?;
    }
    if options.wait {
        let deadline = Instant::now() + options.timeout.unwrap_or(WAIT_MAX);
        for pod in &going {
            failures.extend(wait_gone(context, pod, deadline).err());
        }
    }
    Failure::all(failures)
}

struct Target {
    resource: Resource,
    kube_namespace: String,
    name: String,
    /// For the message when the name came from a file.
    file: Option<String>,
}

fn targets(context: &Context, arguments: &[Wanted], options: &DeleteOptions) -> Result<Vec<Target>> {
    if arguments.is_empty() {
        return Err(Failure::error(
            "You must provide one or more resources by argument or filename.\nExample resource specifications \
             include:\n   '-f pod.yaml'\n   '--filename=pod.yaml'\n   '<resource> <name>'\n   '<resource>'",
        ));
    }
    let kube_namespace = options.kube_namespace.clone().unwrap_or_else(|| "default".to_owned());
    let selects = options.all || !options.labels.is_empty() || options.fields != FieldSelector::default();
    let mut targets = Vec::new();
    for wanted in arguments {
        if wanted.resource == Resource::Event {
            return Err(Failure::error("events are the pod's: they go with it"));
        }
        if wanted.names.is_empty() && !selects {
            return Err(Failure::error("resource(s) were provided, but no name was specified"));
        }
        if !wanted.names.is_empty() && options.all {
            return Err(Failure::error("name cannot be provided when a selector is specified"));
        }
        for name in &wanted.names {
            targets.push(Target {
                resource: wanted.resource,
                kube_namespace: kube_namespace.clone(),
                name: name.clone(),
                file: None,
            });
        }
        if wanted.names.is_empty() {
            let place = (!options.all_namespaces).then_some(kube_namespace.as_str());
            targets.extend(selected(context, wanted.resource, place, options)?);
        }
    }
    Ok(targets)
}

fn selected(
    context: &Context,
    resource: Resource,
    kube_namespace: Option<&str>,
    options: &DeleteOptions,
) -> Result<Vec<Target>> {
    let target = |kube_namespace: &str, name: &str| Target {
        resource,
        kube_namespace: kube_namespace.to_owned(),
        name: name.to_owned(),
        file: None,
    };
    let Some(kind) = data_kind(resource) else {
        let pods = context.pods(kube_namespace)?;
        let chosen = pods
            .iter()
            .filter(|pod| options.labels.matches(&pod.pod.metadata.labels) && options.fields.matches(&pod.json()));
        return Ok(chosen.map(|pod| target(pod.kube_namespace(), pod.name())).collect());
    };
    let objects = ObjectStore::new(&context.roots).list(kind)?;
    let chosen = objects.iter().map(|stored| &stored.object).filter(|object| {
        options.labels.is_empty() && kube_namespace.is_none_or(|kube_namespace| object.namespace == kube_namespace)
    });
    Ok(chosen.map(|object| target(&object.namespace, &object.name)).collect())
}

fn data_kind(resource: Resource) -> Option<DataKind> {
    match resource {
        Resource::ConfigMap => Some(DataKind::ConfigMap),
        Resource::Secret => Some(DataKind::Secret),
        Resource::Pod | Resource::Event => None,
    }
}

fn file_targets(options: &DeleteOptions, stdin: &mut dyn Read) -> Result<Vec<Target>> {
    let sourced = source::read(&options.files, options.kube_namespace.as_deref(), stdin)?;
    Ok(sourced
        .iter()
        .map(|one| {
            let (resource, name) = match &one.object {
                Object::Pod(pod) => (Resource::Pod, &pod.metadata.name),
                Object::Data(data) if data.kind == DataKind::Secret => (Resource::Secret, &data.name),
                Object::Data(data) => (Resource::ConfigMap, &data.name),
            };
            Target {
                resource,
                kube_namespace: one.kube_namespace().to_owned(),
                name: name.clone(),
                file: Some(one.file.clone()),
            }
        })
        .collect())
}

/// Gives the pod that is on its way, if it is one.
fn delete_one(
    context: &Context,
    target: &Target,
    options: &DeleteOptions,
    out: &mut Out<'_>,
) -> Result<Option<PodView>> {
    let absent = || match &target.file {
        _ if options.ignore_not_found => Ok(None),
        None => Err(Failure::not_found(target.resource.plural(), &target.name)),
        Some(file) => Err(Failure::said(format!(
            "Error from server (NotFound): error when deleting {file:?}: {} \"{}\" not found",
            target.resource.plural(),
            target.name
        ))),
    };
    let view = match data_kind(target.resource) {
        Some(kind) => {
            if !ObjectStore::new(&context.roots).delete(kind, &target.kube_namespace, &target.name)? {
                return absent();
            }
            None
        }
        None => {
            let Some(view) = context.pod(&target.kube_namespace, &target.name) else { return absent() };
            let request = Request::Delete {
                grace_seconds: match options.grace {
                    Grace::OfPod => None,
                    Grace::Seconds(seconds) => Some(seconds),
                    Grace::Force => Some(0),
                },
                force: options.grace == Grace::Force,
            };
            match ask(context, &view.dir, &request) {
                Ok(Response::Accepted) => {}
                // It ended while we asked.
                Err(_) if !view.dir.exists() => {}
                other => return Err(refusal_of(&view.dir, view.name(), other)),
            }
            Some(view)
        }
    };
    let kind = target.resource.singular();
    if options.name_only {
        out.say(format!("{kind}/{}", target.name))?;
    } else {
        let forced = if options.grace == Grace::Force && view.is_some() { "force deleted" } else { "deleted" };
        out.say(format!("{kind} \"{}\" {forced} from {} namespace", target.name, target.kube_namespace))?;
    }
    Ok(view)
}

/// Until the directories and the name are gone. A keep that dies meanwhile is started again, so that the end comes.
fn wait_gone(context: &Context, view: &PodView, deadline: Instant) -> Result<()> {
    let (kube_namespace, name) = (view.kube_namespace(), view.name());
    let mut looks = 0u32;
    loop {
        let named = PodDir::find(&context.roots, kube_namespace, name).is_some_and(|dir| dir == view.dir);
        if !view.dir.exists() && !named {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::error(format!("timed out waiting for the condition on pods/{name}")));
        }
        looks += 1;
        if looks.is_multiple_of(100) && !view.dir.is_kept().unwrap_or(true) {
            context.revive_pod(&view.dir)?;
            // What no shim will remove any more the sweep does, once it is old enough; its errors come with the next.
            let _ = PodDir::sweep(&context.roots, context.now());
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_flags_come_to_one_grace() {
        let of = Grace::from_flags;
        assert_eq!(of(-1, false, false), Ok(Grace::OfPod));
        assert_eq!(of(5, false, false), Ok(Grace::Seconds(5)));
        assert_eq!(of(0, false, false), Ok(Grace::Seconds(1)));
        assert_eq!(of(-1, true, false), Ok(Grace::Seconds(1)));
        assert_eq!(of(0, false, true), Ok(Grace::Force));
        assert_eq!(of(-1, false, true), Ok(Grace::Force));
        assert_eq!(
            of(5, true, false).unwrap_err().text,
            "error: --now and --grace-period cannot be specified together"
        );
        assert_eq!(
            of(5, false, true).unwrap_err().text,
            "error: --force and --grace-period greater than 0 cannot be specified together"
        );
    }
}
