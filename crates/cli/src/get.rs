//! `get`: pods, events, configmaps and secrets as tables or documents, once or as they change.

use std::collections::BTreeMap;
use std::time::Duration;

use killick_pod::spec::DataKind;
use killick_pod::time::Wall;
use killick_pod_dir::events::StoredEvent;
use killick_pod_dir::objects::{ObjectStore, StoredObject};
use killick_pod_dir::{base64, timestamp};
use serde_json::{Value, json};

use crate::context::{Context, PodView};
use crate::describe::event_age;
use crate::duration;
use crate::output::{Failure, Out, Result};
use crate::pod_row::{PodRow, pod_row};
use crate::print::{self, Format};
use crate::resource::{Resource, Wanted};
use crate::select::{self, FieldSelector, LabelSelector};
use crate::table::Table;

/// How often a watch looks at the files. Nobody is asked, so it costs a few reads.
const WATCH_PERIOD: Duration = Duration::from_millis(200);

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

/// A field selector on events, as far as one node needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFields(pub Vec<(String, String)>);

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

/// Events with the name of their pod and its namespace, oldest last occurrence first.
fn select_events(context: &Context, options: &GetOptions) -> Result<Vec<(PodView, StoredEvent)>> {
    let now = context.now();
    let mut found = Vec::new();
    for pod in context.pods(options.kube_namespace.as_deref())? {
        for event in pod.dir.read_events(now).unwrap_or_default() {
            if options.event_fields.matches(&pod, &event) {
                found.push((pod.clone(), event));
            }
        }
    }
    found.sort_by(|(_, a), (_, b)| a.last_timestamp.cmp(&b.last_timestamp));
    if let Some(path) = &options.sort_by {
        select::sort_by(&mut found, path, |(pod, event)| event_json(pod, event))?;
    }
    Ok(found)
}

impl EventFields {
    /// `involvedObject.name=web,type=Warning,reason=Unhealthy`
    pub fn parse(text: &str) -> Result<EventFields> {
        const FIELDS: [&str; 6] = [
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.kind",
            "type",
            "reason",
            "metadata.name",
        ];
        let mut fields = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part.split_once("==").or_else(|| part.split_once('=')) {
                Some((field, value)) if FIELDS.contains(&field) => fields.push((field.to_owned(), value.to_owned())),
                _ => {
                    return Err(Failure::bad_request(format!(
                        "Unable to find \"/v1, Resource=events\" that match label selector \"\", field selector \
                         {text:?}: field label not supported: {part}"
                    )));
                }
            }
        }
        Ok(EventFields(fields))
    }

    fn matches(&self, pod: &PodView, event: &StoredEvent) -> bool {
        self.0.iter().all(|(field, value)| {
            let actual = match field.as_str() {
                "involvedObject.name" => pod.name(),
                "involvedObject.namespace" => pod.kube_namespace(),
                "involvedObject.kind" => "Pod",
                "type" => &event.kind,
                "reason" => &event.reason,
                _ => &event.name,
            };
            actual == value
        })
    }
}

fn event_headings(options: &GetOptions) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.headings();
    }
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push("NAMESPACE");
    }
    match options.format {
        Format::Wide => cells.extend([
            "LAST SEEN",
            "TYPE",
            "REASON",
            "OBJECT",
            "SUBOBJECT",
            "SOURCE",
            "MESSAGE",
            "FIRST SEEN",
            "COUNT",
            "NAME",
        ]),
        _ => cells.extend(["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]),
    }
    cells.into_iter().map(str::to_owned).collect()
}

fn event_cells(pod: &PodView, event: &StoredEvent, options: &GetOptions, now: Wall) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.cells(&event_json(pod, event));
    }
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push(pod.kube_namespace().to_owned());
    }
    let last = duration::since(&event.last_timestamp, now);
    let object = format!("pod/{}", pod.name());
    // A table has one line for each event.
    let message = event.message.trim().replace('\n', "\\n");
    cells.extend([last, event.kind.clone(), event.reason.clone(), object]);
    if options.format == Format::Wide {
        cells.extend([event.field_path.clone(), format!("{}, {}", event.component, event.host), message]);
        cells.extend([duration::since(&event.first_timestamp, now), event.count.to_string(), event.name.clone()]);
    } else {
        cells.push(message);
    }
    cells
}

fn event_json(pod: &PodView, event: &StoredEvent) -> Value {
    let mut involved = json!({
        "apiVersion": "v1", "kind": "Pod", "name": pod.name(), "namespace": pod.kube_namespace(),
        "uid": pod.pod.metadata.uid,
    });
    if !event.field_path.is_empty() {
        involved["fieldPath"] = json!(event.field_path);
    }
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": event.name, "namespace": pod.kube_namespace(), "creationTimestamp": event.first_timestamp},
        "involvedObject": involved,
        "reason": event.reason, "message": event.message, "type": event.kind,
        "source": {"component": event.component, "host": event.host},
        "reportingComponent": event.component, "reportingInstance": event.host,
        "firstTimestamp": event.first_timestamp, "lastTimestamp": event.last_timestamp,
        "count": event.count, "eventTime": null,
    })
}

/// A line for each event that is new or has happened again, until interrupted.
fn watch_events(context: &Context, options: &GetOptions, out: &mut Out<'_>) -> Result<()> {
    let mut table = Table::new();
    let mut known: BTreeMap<(String, String), u32> = BTreeMap::new();
    let mut headings = options.headings.then(|| event_headings(options));
    loop {
        let now = context.now();
        let mut rows = Vec::new();
        for (pod, event) in select_events(context, options)? {
            let key = (pod.pod.metadata.uid.clone(), event.name.clone());
            if known.insert(key, event.count) != Some(event.count) {
                if options.format.is_document() {
                    print::objects(vec![event_json(&pod, &event)], true, &options.format, out)?;
                } else if options.format == Format::Name {
                    out.say(format!("event/{}", event.name))?;
                } else {
                    rows.push(event_cells(&pod, &event, options, now));
                }
            }
        }
        if !rows.is_empty() {
            rows.splice(0..0, headings.take());
            let mut text = String::new();
            table.write(&rows, &mut text);
            out.print(&text)?;
        }
        std::thread::sleep(WATCH_PERIOD);
    }
}

fn select_objects(
    context: &Context,
    wanted: &Wanted,
    options: &GetOptions,
) -> Result<(Vec<StoredObject>, Vec<Failure>)> {
    let kind = if wanted.resource == Resource::Secret { DataKind::Secret } else { DataKind::ConfigMap };
    let store = ObjectStore::new(&context.roots);
    let mut missing = Vec::new();
    let mut objects = Vec::new();
    if wanted.names.is_empty() {
        objects = store.list(kind)?;
        let kube_namespace = options.kube_namespace.as_deref();
        objects.retain(|stored| kube_namespace.is_none_or(|kube_namespace| stored.object.namespace == kube_namespace));
        // Objects carry no labels: a selector that asks for one finds none.
        objects.retain(|_| options.labels.matches(&BTreeMap::new()));
    }
    for name in &wanted.names {
        let kube_namespace = options.kube_namespace.as_deref().unwrap_or("default");
        match store.read(kind, kube_namespace, name)? {
            Some(stored) => objects.push(stored),
            None if options.ignore_not_found => {}
            None => missing.push(Failure::not_found(wanted.resource.plural(), name)),
        }
    }
    if let Some(path) = &options.sort_by {
        select::sort_by(&mut objects, path, object_json)?;
    }
    Ok((objects, missing))
}

fn object_headings(resource: Resource, options: &GetOptions) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.headings();
    }
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push("NAMESPACE");
    }
    match resource {
        Resource::Secret => cells.extend(["NAME", "TYPE", "DATA", "AGE"]),
        _ => cells.extend(["NAME", "DATA", "AGE"]),
    }
    let mut cells: Vec<String> = cells.into_iter().map(str::to_owned).collect();
    cells.extend(label_headings(options));
    cells
}

fn object_cells(stored: &StoredObject, options: &GetOptions, show_kind: bool, now: Wall) -> Vec<String> {
    if let Format::Columns(columns) = &options.format {
        return columns.cells(&object_json(stored));
    }
    let object = &stored.object;
    let mut cells = Vec::new();
    if options.kube_namespace.is_none() {
        cells.push(object.namespace.clone());
    }
    let resource = match object.kind {
        DataKind::Secret => Resource::Secret,
        DataKind::ConfigMap => Resource::ConfigMap,
    };
    cells.push(named(resource, &object.name, show_kind));
    if object.kind == DataKind::Secret {
        cells.push("Opaque".to_owned());
    }
    cells.push((object.data.len() + object.binary_data.len()).to_string());
    cells.push(duration::since(&stored.creation_timestamp, now));
    cells.extend(label_cells(&BTreeMap::new(), options));
    cells
}

fn object_json(stored: &StoredObject) -> Value {
    let object = &stored.object;
    let coded = |data: &BTreeMap<String, Vec<u8>>| -> Value {
        data.iter().map(|(key, value)| (key.clone(), json!(base64::encode(value)))).collect()
    };
    let mut value = json!({
        "apiVersion": "v1",
        "metadata": {"name": object.name, "namespace": object.namespace, "uid": stored.uid,
                     "creationTimestamp": stored.creation_timestamp},
    });
    match object.kind {
        DataKind::Secret => {
            value["kind"] = json!("Secret");
            value["type"] = json!("Opaque");
            value["data"] = coded(&object.data);
        }
        DataKind::ConfigMap => {
            value["kind"] = json!("ConfigMap");
            value["data"] =
                object.data.iter().map(|(key, value)| (key.clone(), json!(String::from_utf8_lossy(value)))).collect();
            if !object.binary_data.is_empty() {
                value["binaryData"] = coded(&object.binary_data);
            }
        }
    }
    if object.data.is_empty() {
        value.as_object_mut().map(|map| map.remove("data"));
    }
    if object.immutable {
        value["immutable"] = json!(true);
    }
    value
}

/// `killick probes`: what each attempt of a pod's probes found.
pub fn probes(
    context: &Context,
    kube_namespace: &str,
    name: &str,
    container: Option<&str>,
    follow: bool,
    headings: bool,
    out: &mut Out<'_>,
) -> Result<()> {
    context.revive(out)?;
    let view = context.named_pod(kube_namespace, name)?;
    let mut table = Table::new();
    let mut rows = Vec::new();
    if headings {
        rows.push(["TIME", "CONTAINER", "PROBE", "RESULT", "TOOK", "MESSAGE"].map(str::to_owned).to_vec());
    }
    // The last one that was shown: the record forgets its oldest lines, so places do not count.
    let mut shown: Option<(String, String)> = None;
    loop {
        let exists = view.dir.exists();
        let records = killick_pod_dir::record::read(&view.dir.record_path())?;
        for record in records {
            let key = (record.time.clone(), format!("{}{:?}", record.container, record.kind));
            if shown.as_ref().is_some_and(|shown| *shown >= key) {
                continue;
            }
            shown = Some(key);
            if container.is_some_and(|container| container != record.container) {
                continue;
            }
            let time = match timestamp::parse_nanos(&record.time) {
                Some(nanos) => timestamp::text_nanos(nanos)[..23].replace('T', " "),
                None => record.time.clone(),
            };
            let probe = format!("{:?}", record.kind).to_lowercase();
            let took = format!("{}ms", record.duration_ms);
            let message = record.message.trim().replace('\n', "\\n");
            rows.push(vec![time, record.container, probe, record.outcome, took, message]);
        }
        if !rows.is_empty() {
            let mut text = String::new();
            table.write(&rows, &mut text);
            out.print(&text)?;
            rows.clear();
        }
        if !follow || !exists {
            return Ok(());
        }
        std::thread::sleep(WATCH_PERIOD);
    }
}

/// `killick events`: the form with counts, for a person who wants to know what happened.
pub fn events(
    context: &Context,
    kube_namespace: Option<&str>,
    pod: Option<&str>,
    types: &[String],
    watch: bool,
    headings: bool,
    out: &mut Out<'_>,
) -> Result<()> {
    context.revive(out)?;
    let options = GetOptions { kube_namespace: kube_namespace.map(str::to_owned), ..GetOptions::default() };
    let mut table = Table::new();
    let mut known: BTreeMap<(String, String), u32> = BTreeMap::new();
    loop {
        let now = context.now();
        let mut rows = Vec::new();
        for (view, event) in select_events(context, &options)? {
            let wanted = pod.is_none_or(|pod| pod == view.name())
                && (types.is_empty() || types.iter().any(|kind| kind.eq_ignore_ascii_case(&event.kind)));
            let key = (view.pod.metadata.uid.clone(), event.name.clone());
            if !wanted || known.insert(key, event.count) == Some(event.count) {
                continue;
            }
            let message = event.message.trim().replace('\n', "\\n");
            let object = format!("Pod/{}", view.name());
            let mut cells = vec![event_age(&event, now), event.kind, event.reason, object, message];
            if kube_namespace.is_none() {
                cells.insert(0, view.kube_namespace().to_owned());
            }
            rows.push(cells);
        }
        if !rows.is_empty() {
            if headings && table.is_new() {
                rows.insert(0, event_headings(&options));
            }
            let mut text = String::new();
            table.write(&rows, &mut text);
            out.print(&text)?;
        } else if !watch {
            match kube_namespace {
                Some(kube_namespace) => out.warn(format!("No events found in {kube_namespace} namespace.")),
                None => out.warn("No events found"),
            }
        }
        if !watch {
            return Ok(());
        }
        std::thread::sleep(WATCH_PERIOD);
    }
}
