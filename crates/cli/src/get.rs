//! `get`: pods, events, configmaps and secrets as tables or documents, once or as they change.

mod events;
mod objects;

use std::collections::BTreeMap;
use std::time::Duration;

use killick_pod::time::Wall;

use crate::context::{Context, PodView};
use crate::output::{Failure, Out, Result};
use crate::pod_row::{PodRow, pod_row};
use crate::print::{self, Format};
use crate::resource::{Resource, Wanted};
use crate::select::{self, FieldSelector, LabelSelector};
use crate::table::Table;
pub use events::{EventFields, events};
use events::{event_cells, event_headings, event_json, select_events, watch_events};
use objects::{object_cells, object_headings, object_json, select_objects};

/// How often a watch looks at the files. Nobody is asked, so it costs a few reads.
pub const WATCH_PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// `None`: all namespaces.
    pub kube_namespace: Option<String>,
    pub format: Format,
    pub watch: bool,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub event_fields: EventFields,
    pub sort_by: Option<String>,
    pub headings: bool,
    pub show_labels: bool,
    pub show_kind: bool,
    pub label_columns: Vec<String>,
    pub ignore_not_found: bool,
}

pub fn get(context: &Context, wanted: &[Wanted], options: &GetOptions, out: &mut Out<'_>) -> Result<()> {
    if options.kube_namespace.is_none() && wanted.iter().any(|wanted| !wanted.names.is_empty()) {
        return Err(Failure::error("a resource cannot be retrieved by name across all namespaces"));
    }
    context.revive(out)?;
    if options.watch {
        return match wanted {
            [one] if one.resource == Resource::Pod => watch_pods(context, one, options, out),
            [one] if one.resource == Resource::Event => watch_events(context, options, out),
            _ => Err(Failure::error("watch is only supported on pods or events, one kind at a time")),
        };
    }
    if options.format.is_document() {
        return documents(context, wanted, options, out);
    }
    let mut failures = Vec::new();
    let mut printed = false;
    for (place, one) in wanted.iter().enumerate() {
        let (rows, missing) = rows(context, one, options, wanted.len() > 1)?;
        failures.extend(missing);
        if rows.len() <= usize::from(options.headings && options.format != Format::Name) {
            continue;
        }
        if printed && place > 0 && options.format != Format::Name {
            out.say("")?;
        }
        printed = true;
        out.table(&rows)?;
    }
    if !printed && failures.is_empty() && !options.ignore_not_found {
        match &options.kube_namespace {
            Some(kube_namespace) => out.warn(format!("No resources found in {kube_namespace} namespace.")),
            None => out.warn("No resources found"),
        }
    }
    Failure::all(failures)
}

/// The table of one kind with its headings, and what was named but is not there.
fn rows(
    context: &Context,
    wanted: &Wanted,
    options: &GetOptions,
    several_kinds: bool,
) -> Result<(Vec<Vec<String>>, Vec<Failure>)> {
    let now = context.now();
    let show_kind = options.show_kind || several_kinds;
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    match wanted.resource {
        Resource::Pod => {
            let (pods, absent) = select_pods(context, wanted, options)?;
            missing = absent;
            if options.format == Format::Name {
                rows.extend(pods.iter().map(|pod| vec![format!("pod/{}", pod.name())]));
            } else {
                rows.extend(options.headings.then(|| pod_headings(options)));
                rows.extend(pods.iter().map(|pod| pod_cells(pod, options, show_kind, now)));
            }
        }
        Resource::Event => {
            let events = select_events(context, options)?;
            if options.format == Format::Name {
                rows.extend(events.iter().map(|(_, event)| vec![format!("event/{}", event.name)]));
            } else {
                rows.extend(options.headings.then(|| event_headings(options)));
                rows.extend(events.iter().map(|(pod, event)| event_cells(pod, event, options, now)));
            }
        }
        Resource::ConfigMap | Resource::Secret => {
            let (objects, absent) = select_objects(context, wanted, options)?;
            missing = absent;
            if options.format == Format::Name {
                let kind = wanted.resource.singular();
                rows.extend(objects.iter().map(|stored| vec![format!("{kind}/{}", stored.object.name)]));
            } else {
                rows.extend(options.headings.then(|| object_headings(wanted.resource, options)));
                rows.extend(objects.iter().map(|stored| object_cells(stored, options, show_kind, now)));
            }
        }
    }
    Ok((rows, missing))
}

fn documents(context: &Context, wanted: &[Wanted], options: &GetOptions, out: &mut Out<'_>) -> Result<()> {
    let mut values = Vec::new();
    let mut failures = Vec::new();
    for one in wanted {
        match one.resource {
            Resource::Pod => {
                let (pods, missing) = select_pods(context, one, options)?;
                values.extend(pods.iter().map(PodView::json));
                failures.extend(missing);
            }
            Resource::Event => {
                values.extend(select_events(context, options)?.iter().map(|(pod, event)| event_json(pod, event)));
            }
            Resource::ConfigMap | Resource::Secret => {
                let (objects, missing) = select_objects(context, one, options)?;
                values.extend(objects.iter().map(object_json));
                failures.extend(missing);
            }
        }
    }
    let bare = wanted.iter().map(|one| one.names.len()).sum::<usize>() == 1;
    // A single name that is not there: only the error is said.
    if !(bare && values.is_empty()) {
        print::objects(values, bare, &options.format, out)?;
    }
    Failure::all(failures)
}

fn select_pods(context: &Context, wanted: &Wanted, options: &GetOptions) -> Result<(Vec<PodView>, Vec<Failure>)> {
    let mut missing = Vec::new();
    let mut pods = Vec::new();
    if wanted.names.is_empty() {
        pods = context.pods(options.kube_namespace.as_deref())?;
        pods.retain(|pod| options.labels.matches(&pod.pod.metadata.labels) && options.fields.matches(&pod.json()));
    } else {
        if !options.labels.is_empty() {
            return Err(Failure::error("name cannot be provided when a selector is specified"));
        }
        for name in &wanted.names {
            match context.named_pod(options.kube_namespace.as_deref().unwrap_or("default"), name) {
                Ok(pod) => pods.push(pod),
                Err(_) if options.ignore_not_found => {}
                Err(failure) => missing.push(failure),
            }
        }
    }
    if let Some(path) = &options.sort_by {
        select::sort_by(&mut pods, path, PodView::json)?;
    }
    Ok((pods, missing))
}

fn pod_headings(options: &GetOptions) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.headings();
    }
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push("NAMESPACE");
    }
    cells.extend(["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    if options.format == Format::Wide {
        cells.extend(["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
    }
    let mut cells: Vec<String> = cells.into_iter().map(str::to_owned).collect();
    cells.extend(label_headings(options));
    cells
}

fn pod_cells(view: &PodView, options: &GetOptions, show_kind: bool, now: Wall) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.cells(&view.json());
    }
    let row: PodRow = pod_row(&view.pod, &view.status, now);
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push(view.kube_namespace().to_owned());
    }
    cells.push(named(Resource::Pod, view.name(), show_kind));
    cells.extend([row.ready, row.status, row.restarts, row.age]);
    if options.format == Format::Wide {
        cells.extend([row.ip, row.node, "<none>".to_owned(), "<none>".to_owned()]);
    }
    cells.extend(label_cells(&view.pod.metadata.labels, options));
    cells
}

fn named(resource: Resource, name: &str, show_kind: bool) -> String {
    if show_kind { format!("{}/{name}", resource.singular()) } else { name.to_owned() }
}

fn label_headings(options: &GetOptions) -> Vec<String> {
    let columns = options.label_columns.iter().map(|key| key.rsplit('/').next().unwrap_or(key).to_uppercase());
    columns.chain(options.show_labels.then(|| "LABELS".to_owned())).collect()
}

fn label_cells(labels: &BTreeMap<String, String>, options: &GetOptions) -> Vec<String> {
    let columns = options.label_columns.iter().map(|key| labels.get(key).cloned().unwrap_or_default());
    let all = options.show_labels.then(|| match labels.is_empty() {
        true => "<none>".to_owned(),
        false => labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","),
    });
    columns.chain(all).collect()
}

/// Prints what there is, then a line for each pod that changed, until interrupted.
fn watch_pods(context: &Context, wanted: &Wanted, options: &GetOptions, out: &mut Out<'_>) -> Result<()> {
    let mut table = Table::new();
    let mut known: BTreeMap<String, PodView> = BTreeMap::new();
    let mut first = true;
    loop {
        let (pods, missing) = select_pods(context, wanted, options)?;
        if first {
            Failure::all(missing)?;
        }
        let now = context.now();
        let mut changed = Vec::new();
        let mut present = Vec::new();
        for pod in pods {
            let key = pod.pod.metadata.uid.clone();
            present.push(key.clone());
            if known.get(&key).is_none_or(|old| old.pod != pod.pod || old.status != pod.status) {
                changed.push(pod.clone());
                known.insert(key, pod);
            }
        }
        // A pod that has gone is shown once more, as it was last seen.
        let gone: Vec<String> = known.keys().filter(|key| !present.contains(key)).cloned().collect();
        changed.extend(gone.iter().filter_map(|key| known.remove(key)));
        match options.format {
            Format::Json | Format::Yaml | Format::JsonPath(_) => {
                for pod in &changed {
                    if options.format == Format::Yaml && !std::mem::take(&mut first) {
                        out.say("---")?;
                    }
                    print::objects(vec![pod.json()], true, &options.format, out)?;
                }
            }
            Format::Name => {
                for pod in &changed {
                    out.say(format!("pod/{}", pod.name()))?;
                }
            }
            Format::Table | Format::Wide | Format::Columns(_) => {
                let mut rows = Vec::new();
                if options.headings && !known.is_empty() && table.is_new() {
                    rows.push(pod_headings(options));
                }
                rows.extend(changed.iter().map(|pod| pod_cells(pod, options, options.show_kind, now)));
                let mut text = String::new();
                table.write(&rows, &mut text);
                if !text.is_empty() {
                    out.print(&text)?;
                }
            }
        }
        first = false;
        std::thread::sleep(WATCH_PERIOD);
    }
}
