//! `image import|ls|tag|rm`: the image store by hand.

use std::fs::File;
use std::io::{IsTerminal, Read};

use clap::ArgMatches;
use jiff::Timestamp;
use killick_image::{Store, User};

use crate::command::{is_set, text, texts};
use crate::context::{Context, require_root};
use crate::duration;
use crate::output::{Failure, Out, Result};

pub fn command(context: &Context, matches: &ArgMatches, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(help());
    };
    require_root()?;
    let store = Store::open(context.roots.images()).map_err(Failure::error)?;
    match name {
        "import" => import(&store, &texts(matches, "file"), text(matches, "name"), stdin, out),
        "ls" => list(context, &store, matches, out),
        "tag" => {
            let (source, target) =
                (text(matches, "image").unwrap_or_default(), text(matches, "target").unwrap_or_default());
            store.tag(source, target).map_err(Failure::error)
        }
        _ => remove(context, &store, &texts(matches, "image"), out),
    }
}

/// What `killick image -h` prints.
fn help() -> Failure {
    let words = ["killick", "image", "-h"].map(str::to_owned);
    match crate::command::command().try_get_matches_from(&words) {
        Err(help) => crate::command::complaint(&help, &words),
        Ok(_) => Failure::code(0),
    }
}

fn import(store: &Store, files: &[String], name: Option<&str>, stdin: &mut dyn Read, out: &mut Out<'_>) -> Result<()> {
    if files.is_empty() {
        return Err(Failure::usage("name an archive, or - for standard input", "image import"));
    }
    if name.is_some() && files.len() > 1 {
        return Err(Failure::error("--name is for one archive"));
    }
    for file in files {
        let imported = if file == "-" {
            if std::io::stdin().is_terminal() {
                return Err(Failure::error("standard input is a terminal, not an archive"));
            }
            store.import(&mut *stdin, name)
        } else {
            let archive = File::open(file).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Failure::error(format!("the path \"{file}\" does not exist")),
                _ => Failure::error(format!("open {file}: {error}")),
            })?;
            store.import(archive, name)
        };
        for image in imported.map_err(|error| Failure::error(format!("import {file}: {error}")))? {
            for name in &image.names {
                out.say(format!("{name} ({})", short(&image.id)))?;
            }
            if image.names.is_empty() {
                out.say(image.id)?;
            }
        }
    }
    Ok(())
}

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

fn list(context: &Context, store: &Store, matches: &ArgMatches, out: &mut Out<'_>) -> Result<()> {
    let images = store.list().map_err(Failure::error)?;
    if is_set(matches, "quiet") {
        let mut ids: Vec<&str> = images.iter().map(|image| image.id.as_str()).collect();
        ids.dedup();
        for id in ids {
            out.say(id)?;
        }
        return Ok(());
    }
    let mut rows = Vec::new();
    if !is_set(matches, "no-headers") {
        rows.push(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"].map(str::to_owned).to_vec());
    }
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let now = context.now();
    for image in &images {
        let created = match image.created.parse::<Timestamp>() {
            Ok(stamp) => format!("{} ago", duration::human(now.0 - stamp.as_second())),
            Err(_) => "<unknown>".to_owned(),
        };
        rows.push(vec![
            or_none(&image.repository),
            or_none(&image.tag),
            short(&image.id).to_owned(),
            created,
            size(image.size_bytes),
        ]);
    }
    out.table(&rows)
}

/// Decimal units with three digits, as image tools print them: `4.38MB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", UNITS[unit])
}

fn remove(context: &Context, store: &Store, names: &[String], out: &mut Out<'_>) -> Result<()> {
    let mut users = Vec::new();
    for view in context.pods(None)? {
        let statuses = view.status.container_statuses.iter().chain(&view.status.init_container_statuses);
        let who = format!("pod {}/{}", view.kube_namespace(), view.name());
        let mut ids: Vec<String> = statuses.map(|status| status.image_id.clone()).filter(|id| !id.is_empty()).collect();
        // One that has not started yet holds what its manifest names.
        let containers = view.pod.spec.containers.iter().chain(&view.pod.spec.init_containers);
        for container in containers {
            ids.extend(store.resolve(&container.image).ok().flatten().map(|image| image.id));
        }
        users.extend(ids.into_iter().map(|image_id| User { image_id, who: who.clone() }));
    }
    let mut failures = Vec::new();
    for name in names {
        match store.remove(name, &users) {
            Ok(removed) => {
                for name in &removed.untagged {
                    out.say(format!("Untagged: {name}"))?;
                }
                if let Some(id) = &removed.deleted {
                    out.say(format!("Deleted: {id}"))?;
                }
                for line in &removed.left_behind {
                    out.warn(format!("Warning: {line}"));
                }
            }
            Err(error) => failures.push(Failure::error(error)),
        }
    }
    Failure::all(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (4_383_112, "4.38MB"), (12_340_000, "12.3MB"), (1_500_000_000, "1.50GB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
