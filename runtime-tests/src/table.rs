//! docs/kernel-features.md from the consoles of the guests: what passed on which kernel with which cgroups, and which of
//! several mechanisms was chosen there. Reads logs, decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// One guest's console.
struct Cell {
    name: String,
    facts: Value,
    suites: usize,
    passed: usize,
    failed: BTreeSet<String>,
    /// Test and reason.
    not_here: BTreeMap<String, String>,
    finished: bool,
}

const HEAD: &str = "# Kernels and cgroup layouts

Written by `scripts/vm --all` from real runs: QEMU guests with Debian's cloud kernels, every capability, busybox (or, in the
rows that say so, systemd) as PID 1. In each, the kernel tests of `sys`, `container` and `oci` run, and of the shipped
binaries' own tests those that differ from kernel to kernel (`scripts/vm test` runs all of them; CI does so on 6.1).
Kernels before 5.10 are imitated by refusing their missing calls; they are not in this table, since none was run.

*v2*: the unified tree alone. *v1*: every hierarchy on its own. *v1-joint*: cpu,cpuacct and net_cls,net_prio joined, as systemd
mounts them. *hybrid*: v1, and on the unified tree what v1 does not take. From 6.12 on Debian builds no memory and no cpuset
controller for v1. *suites*: how many test programs that guest came to; a row with fewer than the others was run with some of
them only, or came to its deadline.
";

pub fn write(directory: &Path) -> Result<String, String> {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
        .collect();
    // 5.10 before 6.1 before 6.12 before sid.
    paths.sort_by_key(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (kernel, layout) = name.split_once('-').unwrap_or((&name, ""));
        let numbers: Vec<u32> = kernel.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect();
        (numbers, layout.to_owned())
    });
    let mut cells = Vec::new();
    for path in paths {
        let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        cells.push(read(name, &String::from_utf8_lossy(&text)));
    }
    Ok(show(&cells))
}

fn read(name: String, text: &str) -> Cell {
    let facts = text.split_once("KILLICK-FACTS\n").and_then(|(_, rest)| rest.split_once("KILLICK-FACTS-END"));
    let mut cell = Cell {
        name,
        facts: facts.and_then(|(facts, _)| serde_json::from_str(facts).ok()).unwrap_or_default(),
        suites: 0,
        passed: 0,
        failed: BTreeSet::new(),
        not_here: BTreeMap::new(),
        finished: text.contains("KILLICK-RC="),
    };
    let (mut suite, mut passed) = ("", BTreeSet::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            suite = name;
            cell.suites += 1;
        }
        let Some((test, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else {
            continue;
        };
        let test = format!("{suite}: {test}");
        if let Some(reason) = outcome.strip_prefix("not here: ") {
            cell.not_here.insert(test, reason.to_owned());
        } else if outcome.starts_with("FAILED") {
            cell.failed.insert(test);
        } else if outcome.starts_with("ok") {
            passed.insert(test);
        }
    }
    // A test that says it cannot run here returns, and its harness calls that ok.
    cell.passed = passed.iter().filter(|test| !cell.not_here.contains_key(*test)).count();
    cell
}

fn show(cells: &[Cell]) -> String {
    let mut text =
        format!("{HEAD}\n| kernel | cgroups | suites | passed | failed | not here |\n|---|---|---|---|---|---|\n");
    for cell in cells {
        let (_, layout) = cell.name.split_once('-').unwrap_or((&cell.name, ""));
        let kernel = cell.facts["kernel"].as_str().unwrap_or("?");
        let ended = if cell.finished { "" } else { " (the guest did not finish)" };
        let counts = (cell.passed, cell.failed.len(), cell.not_here.len());
        let _ = writeln!(
            text,
            "| {kernel} | {layout} | {} | {} | {}{ended} | {} |",
            cell.suites, counts.0, counts.1, counts.2
        );
    }
    text.push_str("\n## Failed\n\n");
    named(&mut text, cells.iter().flat_map(|cell| cell.failed.iter().map(|test| (test.clone(), cell.name.as_str()))));
    text.push_str("\n## Not here\n\nTests that the kernel or the layout has nothing to offer for.\n\n");
    let not_here = cells
        .iter()
        .flat_map(|cell| cell.not_here.iter().map(|(test, reason)| (format!("{test}: {reason}"), cell.name.as_str())));
    named(&mut text, not_here);
    text.push_str("\n## Mechanisms\n\nWhat `containerd-shim-killick-v2 pod facts` found by trying.\n\n");
    let mut calls = BTreeSet::new();
    for cell in cells {
        calls.extend(cell.facts["calls"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    }
    let calls: Vec<String> = calls.into_iter().collect();
    let _ = writeln!(text, "| guest | {} | on v2 | on v1 |", calls.join(" | "));
    let _ = writeln!(text, "|---|{}---|---|", "---|".repeat(calls.len()));
    for cell in cells {
        let answers: Vec<_> = calls.iter().map(|name| shown(&cell.facts["calls"][name])).collect();
        let v2 = controllers(cell.facts["cgroups"]["unified"].as_object().map(|tree| &tree["controllers"]));
        let v1 = cell.facts["cgroups"]["v1"].as_array().into_iter().flatten();
        let v1: Vec<_> = v1.map(|tree| controllers(Some(&tree["controllers"])).replace(' ', ",")).collect();
        let _ = writeln!(text, "| {} | {} | {v2} | {} |", cell.name, answers.join(" | "), v1.join(" "));
    }
    text
}

fn named<'a>(text: &mut String, tests: impl Iterator<Item = (String, &'a str)>) {
    let mut by_test: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (test, cell) in tests {
        by_test.entry(test).or_default().push(cell);
    }
    if by_test.is_empty() {
        text.push_str("None.\n");
    }
    for (test, cells) in by_test {
        let _ = writeln!(text, "- `{test}` ({})", cells.join(", "));
    }
}

fn shown(answer: &Value) -> String {
    match answer {
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Null => "".into(),
        other => other.to_string().trim_matches('"').into(),
    }
}

fn controllers(list: Option<&Value>) -> String {
    let names = list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.join(" ")
}
