//! From what was typed to one command with its options.

use std::ffi::OsString;
use std::io::Read;
use std::time::Duration;

use clap::ArgMatches;
use killick_pod_dir::timestamp;
use serde_json::json;

use crate::apply::{self, ApplyOptions, DryRun};
use crate::command::{command, complaint, help_text, is_set, text, texts};
use crate::context::{Context, require_root};
use crate::delete::{self, DeleteOptions, Grace};
use crate::describe::{Described, describe};
use crate::diff;
use crate::duration;
use crate::exec::{self, ExecOptions};
use crate::get::{self, EventFields, GetOptions};
use crate::image;
use crate::logs::{self, LogOptions};
use crate::output::{Failure, Out, Result};
use crate::plan;
use crate::print::{self, Format};
use crate::probes;
use crate::resource::{self, Resource, Wanted};
use crate::select::{FieldSelector, LabelSelector};
use crate::simulate::{self, SimulateOptions};
use crate::source::Files;
use crate::wait::{self, For, WaitOptions};
use crate::yaml_out;

pub fn run(arguments: &[OsString], stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    if arguments.iter().any(|word| word.to_str().is_none()) {
        return Err(Failure::error("an argument is not UTF-8"));
    }
    let matches = match command().try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) => return Err(complaint(&error, &words)),
    };
    let Some((name, matches)) = matches.subcommand() else {
        return out.print(&help_text(&command().render_long_help().to_string()));
    };
    let context = Context::from_env();
    match name {
        "apply" => apply_command(&context, matches, stdin, out),
        "get" => get_command(&context, matches, out),
        "describe" => describe_command(&context, matches, out),
        "logs" => logs_command(&context, matches, out),
        "exec" => exec_command(&context, matches, out),
        "delete" => delete_command(&context, matches, stdin, out),
        "events" => events_command(&context, matches, out),
        "probes" => probes_command(&context, matches, out),
        "wait" => wait_command(&context, matches, out),
        "diff" => {
            require_root()?;
            diff::diff(&context, &files(matches), given_namespace(matches).as_deref(), stdin, out)
        }
        "simulate" => simulate_command(matches, stdin, out),
        "man" => out.print(&crate::completion::manual()),
        "plan" => plan_command(&context, matches, stdin, out),
        "image" => image::command(&context, matches, stdin, out),
        "version" => version_command(matches, out),
        "completion" => crate::completion::command_line(matches, out),
        other => Err(Failure::error(format!("unknown command \"{other}\" for \"killick\""))),
    }
}

fn files(matches: &ArgMatches) -> Files {
    Files { names: texts(matches, "filename"), recursive: is_set(matches, "recursive") }
}

/// The namespace to look in; `None` with `-A`.
fn place(matches: &ArgMatches) -> Option<String> {
    let all = matches.try_get_one::<bool>("all-namespaces").ok().flatten().copied().unwrap_or_default();
    (!all).then(|| kube_namespace(matches))
}

fn kube_namespace(matches: &ArgMatches) -> String {
    text(matches, "namespace").filter(|given| !given.is_empty()).unwrap_or("default").to_owned()
}

fn given_namespace(matches: &ArgMatches) -> Option<String> {
    text(matches, "namespace").filter(|given| !given.is_empty()).map(str::to_owned)
}

fn labels(matches: &ArgMatches) -> Result<LabelSelector> {
    LabelSelector::parse(text(matches, "selector").unwrap_or_default())
}

fn name_only(matches: &ArgMatches) -> Result<bool> {
    match text(matches, "output").unwrap_or_default() {
        "" => Ok(false),
        "name" => Ok(true),
        other => Err(Failure::error(format!(
            "unable to match a printer suitable for the output format \"{other}\", allowed formats are: name"
        ))),
    }
}

fn apply_command(context: &Context, matches: &ArgMatches, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    let options = ApplyOptions {
        files: files(matches),
        kube_namespace: given_namespace(matches),
        dry_run: DryRun::parse(text(matches, "dry-run").unwrap_or("none"))?,
        name_only: name_only(matches)?,
    };
    require_root()?;
    apply::apply(context, &options, stdin, out)
}

fn get_command(context: &Context, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let format = Format::parse(text(matches, "output").unwrap_or_default())?;
    let arguments = texts(matches, "resource");
    if arguments.is_empty() {
        out.warn("You must specify the type of resource to get: pods, events, configmaps or secrets.\n");
        return Err(Failure::usage("Required resource not specified.", "get"));
    }
    let wanted = resource::parse_arguments(&arguments)?;
    let only_events = wanted.iter().all(|wanted| wanted.resource == Resource::Event);
    let fields = text(matches, "field-selector").unwrap_or_default();
    let options = GetOptions {
        kube_namespace: place(matches),
        format,
        watch: is_set(matches, "watch"),
        labels: labels(matches)?,
        fields: if only_events { FieldSelector::default() } else { FieldSelector::parse(fields)? },
        event_fields: if only_events { EventFields::parse(fields)? } else { EventFields::default() },
        sort_by: text(matches, "sort-by").filter(|path| !path.is_empty()).map(str::to_owned),
        headings: !is_set(matches, "no-headers"),
        show_labels: is_set(matches, "show-labels"),
        show_kind: is_set(matches, "show-kind"),
        label_columns: texts(matches, "label-columns"),
        ignore_not_found: is_set(matches, "ignore-not-found"),
    };
    require_root()?;
    get::get(context, &wanted, &options, out)
}

fn describe_command(context: &Context, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let arguments = texts(matches, "resource");
    if arguments.is_empty() {
        out.warn("You must specify the type of resource to describe: pods.\n");
        return Err(Failure::usage("Required resource not specified.", "describe"));
    }
    let wanted = resource::parse_arguments(&arguments)?;
    if let Some(other) = wanted.iter().find(|wanted| wanted.resource != Resource::Pod) {
        let kind = other.resource.plural();
        return Err(Failure::error(format!("only pods are described; try 'killick get {kind} -o yaml'")));
    }
    let labels = labels(matches)?;
    let place = place(matches);
    require_root()?;
    context.revive(out)?;
    let pods = context.pods(place.as_deref())?;
    let mut chosen = Vec::new();
    let mut failures = Vec::new();
    for Wanted { names, .. } in &wanted {
        if names.is_empty() {
            chosen.extend(pods.iter().filter(|pod| labels.matches(&pod.pod.metadata.labels)));
        }
        for name in names {
            // The whole name, else every pod whose name begins so.
            let mut found: Vec<_> = pods.iter().filter(|pod| pod.name() == name).collect();
            if found.is_empty() {
                found = pods.iter().filter(|pod| pod.name().starts_with(name.as_str())).collect();
            }
            if found.is_empty() {
                failures.push(Failure::not_found("pods", name));
            }
            chosen.extend(found);
        }
    }
    if chosen.is_empty() && failures.is_empty() {
        match &place {
            Some(kube_namespace) => out.warn(format!("No resources found in {kube_namespace} namespace.")),
            None => out.warn("No resources found"),
        }
    }
    let now = context.now();
    for (number, view) in chosen.into_iter().enumerate() {
        let events = view.dir.read_events(now).unwrap_or_default();
        let described = Described { pod: &view.pod, status: &view.status, events: &events, now, zone: &context.zone };
        if number > 0 {
            out.print("\n\n")?;
        }
        out.print(&describe(&described))?;
    }
    Failure::all(failures)
}

fn logs_command(context: &Context, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let number = |id: &str| matches.get_one::<i64>(id).copied();
    let selector = labels(matches)?;
    let pod = text(matches, "pod");
    let inline = text(matches, "inline-container");
    let all_containers = is_set(matches, "all-containers");
    let container = text(matches, "container").filter(|name| !name.is_empty());
    if pod.is_none() && selector.is_empty() || !texts(matches, "extra").is_empty() {
        return Err(Failure::usage(
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for \
             the logs command",
            "logs",
        ));
    }
    if pod.is_some() && !selector.is_empty() {
        return Err(Failure::usage("only a selector (-l) or a POD name is allowed", "logs"));
    }
    if container.is_some() && inline.is_some() {
        return Err(Failure::usage("only one of -c or an inline [CONTAINER] arg is allowed", "logs"));
    }
    let container = container.or(inline);
    if let (true, Some(name)) = (all_containers, container) {
        return Err(Failure::error(format!(
            "--all-containers=true should not be specified with container name {name}"
        )));
    }
    let since = text(matches, "since").filter(|text| *text != "0" && *text != "0s" && !text.is_empty());
    let since_time = text(matches, "since-time").filter(|text| !text.is_empty());
    if since.is_some() && since_time.is_some() {
        return Err(Failure::error("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    let since_nanos = match (since, since_time) {
        (Some(text), _) => {
            let age = duration_flag(text, "since", "logs")?;
            // kubectl sends whole seconds, rounded.
            let seconds = (age + Duration::from_millis(500)).as_secs().max(1);
            Some(context.now_nanos() - i128::from(seconds) * 1_000_000_000)
        }
        (None, Some(text)) => Some(timestamp::parse_nanos(text).ok_or_else(|| {
            Failure::error(format!("parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse"))
        })?),
        (None, None) => None,
    };
    let tail = match number("tail") {
        Some(tail) if tail < -1 => return Err(Failure::error("--tail must be greater than or equal to -1")),
        Some(-1) => None,
        Some(tail) => usize::try_from(tail).ok(),
        None => (!selector.is_empty()).then_some(10),
    };
    let limit_bytes = match number("limit-bytes") {
        Some(limit @ ..=-1) => {
            return Err(Failure::error(format!("--limit-bytes must be greater than 0, not {limit}")));
        }
        Some(0) | None => None,
        Some(limit) => u64::try_from(limit).ok(),
    };
    let options = LogOptions {
        kube_namespace: kube_namespace(matches),
        pod: pod.map(resource::pod_name).transpose()?.map(str::to_owned),
        selector,
        container: container.map(str::to_owned),
        all_containers,
        follow: is_set(matches, "follow"),
        previous: is_set(matches, "previous"),
        timestamps: is_set(matches, "timestamps"),
        prefix: is_set(matches, "prefix"),
        tail,
        since_nanos,
        limit_bytes,
        requests_max: number("max-log-requests").and_then(|max| usize::try_from(max).ok()).unwrap_or(5),
    };
    require_root()?;
    logs::logs(context, &options, out)
}

fn exec_command(context: &Context, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let Some(pod) = text(matches, "pod") else {
        return Err(Failure::usage("pod, type/name or --filename must be specified", "exec"));
    };
    if !texts(matches, "extra").is_empty() {
        return Err(Failure::usage(
            "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
            "exec",
        ));
    }
    let command = texts(matches, "command");
    if command.is_empty() {
        return Err(Failure::usage("you must specify at least one command for the container", "exec"));
    }
    let options = ExecOptions {
        kube_namespace: kube_namespace(matches),
        pod: resource::pod_name(pod)?.to_owned(),
        container: text(matches, "container").filter(|name| !name.is_empty()).map(str::to_owned),
        command,
        stdin: is_set(matches, "stdin"),
        tty: is_set(matches, "tty"),
        quiet: is_set(matches, "quiet"),
    };
    require_root()?;
    exec::exec(context, &options, out)
}

fn delete_command(context: &Context, matches: &ArgMatches, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    let grace_period = matches.get_one::<i64>("grace-period").copied().unwrap_or(-1);
    let timeout = match text(matches, "timeout") {
        None => None,
        Some(text) => Some(duration_flag(text, "timeout", "delete")?),
    };
    let options = DeleteOptions {
        kube_namespace: given_namespace(matches),
        files: files(matches),
        grace: Grace::from_flags(grace_period, is_set(matches, "now"), is_set(matches, "force"))?,
        wait: is_set(matches, "wait"),
        timeout: timeout.filter(|timeout| !timeout.is_zero()),
        ignore_not_found: is_set(matches, "ignore-not-found"),
        all: is_set(matches, "all"),
        all_namespaces: is_set(matches, "all-namespaces"),
        labels: labels(matches)?,
        fields: FieldSelector::parse(text(matches, "field-selector").unwrap_or_default())?,
        name_only: name_only(matches)?,
    };
    let wanted = resource::parse_arguments(&texts(matches, "resource"))?;
    require_root()?;
    delete::delete(context, &wanted, &options, stdin, out)
}

fn events_command(context: &Context, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let types = texts(matches, "types");
    if let Some(other) =
        types.iter().find(|kind| !["Normal", "Warning"].iter().any(|known| known.eq_ignore_ascii_case(kind)))
    {
        return Err(Failure::error(format!("valid --types are Normal or Warning, not {other}")));
    }
    let pod = match text(matches, "for") {
        None => None,
        Some(object) if object.contains('/') => Some(resource::pod_name(object)?.to_owned()),
        Some(_) => return Err(Failure::error("--for must be in resource/name form")),
    };
    let place = place(matches);
    require_root()?;
    get::events(
        context,
        place.as_deref(),
        pod.as_deref(),
        &types,
        is_set(matches, "watch"),
        !is_set(matches, "no-headers"),
        out,
    )
}

fn probes_command(context: &Context, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let pod = resource::pod_name(text(matches, "pod").unwrap_or_default())?;
    require_root()?;
    probes::probes(
        context,
        &kube_namespace(matches),
        pod,
        text(matches, "container"),
        is_set(matches, "follow"),
        !is_set(matches, "no-headers"),
        out,
    )
}

fn wait_command(context: &Context, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let timeout = match text(matches, "timeout") {
        None => Some(Duration::from_secs(30)),
        Some(text) if text.starts_with('-') && duration::parse(&text[1..]).is_some() => None,
        Some(text) => Some(duration_flag(text, "timeout", "wait")?),
    };
    let options = WaitOptions {
        kube_namespace: kube_namespace(matches),
        condition: For::parse(text(matches, "for").unwrap_or_default())?,
        timeout,
        labels: labels(matches)?,
        all: is_set(matches, "all"),
    };
    let wanted = resource::parse_arguments(&texts(matches, "resource"))?;
    require_root()?;
    wait::wait(context, &wanted, &options, out)
}

fn simulate_command(matches: &ArgMatches, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    let length = text(matches, "for").map(|text| duration_flag(text, "for", "simulate")).transpose()?;
    let options = SimulateOptions {
        files: files(matches),
        kube_namespace: given_namespace(matches),
        exits: texts(matches, "exit"),
        probe_traces: texts(matches, "probe-trace"),
        on_term: texts(matches, "on-term"),
        length: length.unwrap_or(Duration::from_secs(120)),
    };
    simulate::simulate(&options, stdin, out)
}

fn duration_flag(text: &str, flag: &str, command: &str) -> Result<Duration> {
    duration::parse(text).ok_or_else(|| {
        Failure::usage(
            format!("invalid argument \"{text}\" for \"--{flag}\" flag: time: invalid duration \"{text}\""),
            command,
        )
    })
}

fn plan_command(context: &Context, matches: &ArgMatches, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    plan::plan(context, &files(matches), given_namespace(matches).as_deref(), stdin, out)
}

fn version_command(matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({"clientVersion": {"gitVersion": format!("v{version}"), "platform": platform()},
                       "kubernetesVersion": "v1.35"});
    match text(matches, "output").unwrap_or_default() {
        "" => out.say(format!("Killick Version: v{version}\nBehaves As Kubernetes: v1.35")),
        "json" => out.print(&print::json_text(&value)),
        "yaml" => out.print(&yaml_out::document(&value)),
        _ => Err(Failure::error("--output must be 'yaml' or 'json'")),
    }
}

fn platform() -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{machine}")
}
