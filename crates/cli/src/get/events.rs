//! Events: `get events` and `events`, once or as they happen.

use std::collections::BTreeMap;

use killick_pod::time::Wall;
use killick_pod_dir::events::StoredEvent;
use serde_json::{Value, json};

use super::{GetOptions, WATCH_PERIOD};
use crate::context::{Context, PodView};
use crate::describe::event_age;
use crate::duration;
use crate::output::{Failure, Out, Result};
use crate::print::{self, Format};
use crate::select;
use crate::table::Table;

/// A field selector on events, as far as one node needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFields(pub Vec<(String, String)>);

/// Events with the name of their pod and its namespace, oldest last occurrence first.
pub(super) fn select_events(context: &Context, options: &GetOptions) -> Result<Vec<(PodView, StoredEvent)>> {
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

pub(super) fn event_headings(options: &GetOptions) -> Vec<String> {
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

pub(super) fn event_cells(pod: &PodView, event: &StoredEvent, options: &GetOptions, now: Wall) -> Vec<String> {
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

pub(super) fn event_json(pod: &PodView, event: &StoredEvent) -> Value {
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
pub(super) fn watch_events(context: &Context, options: &GetOptions, out: &mut Out<'_>) -> Result<()> {
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
