//! `diff -f`: what an apply would change, line by line. Exit code 1 when there is a difference.

use std::io::Read;

use killick_pod::manifest::Object;
use serde_json::Value;

use crate::apply::accepted;
use crate::context::Context;
use crate::output::{Failure, Out, Result};
use crate::source::{self, Files};
use crate::yaml_out;

/// Lines around a change.
const CONTEXT_LINES: usize = 3;

pub fn diff(
    context: &Context,
    files: &Files,
    kube_namespace: Option<&str>,
    stdin: &mut dyn Read,
    out: &mut Out<'_>,
) -> Result<()> {
    let sourced = source::read(files, kube_namespace, stdin)?;
    let mut differs = false;
    for one in &sourced {
        let Object::Pod(pod) = &one.object else { continue };
        let live = context.pod(&pod.metadata.namespace, &pod.metadata.name);
        let (old, new) = match &live {
            Some(view) => {
                let merged = accepted(pod, &view.pod);
                (yaml_out::document(&json(&view.pod)), yaml_out::document(&json(&merged)))
            }
            None => (String::new(), yaml_out::document(&json(pod))),
        };
        let name = format!("v1.Pod.{}.{}", pod.metadata.namespace, pod.metadata.name);
        let text = unified(&old, &new);
        if !text.is_empty() {
            differs = true;
            out.print(&format!("diff -u -N LIVE/{name} MERGED/{name}\n--- LIVE/{name}\n+++ MERGED/{name}\n{text}"))?;
        }
    }
    if differs { Err(Failure::code(1)) } else { Ok(()) }
}

fn json(pod: &killick_pod::spec::Pod) -> Value {
    serde_json::to_value(pod).unwrap_or_default()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Old(&'a str),
    New(&'a str),
}

/// A unified diff's hunks; empty when the texts are equal.
fn unified(old: &str, new: &str) -> String {
    let lines = compare(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let is_change = |line: &Line<'_>| !matches!(line, Line::Same(_));
    let mut text = String::new();
    let mut at = 0;
    while let Some(first) = lines[at..].iter().position(is_change).map(|place| at + place) {
        let start = first.saturating_sub(CONTEXT_LINES).max(at);
        let mut end = first;
        // Changes nearer than twice the context share a hunk.
        while let Some(next) = lines[end..].iter().take(2 * CONTEXT_LINES + 1).position(is_change) {
            end += next + 1;
        }
        let end = (end + CONTEXT_LINES).min(lines.len());
        let number = |upto: usize, skip: fn(&Line<'_>) -> bool| lines[..upto].iter().filter(|line| !skip(line)).count();
        let is_new: fn(&Line<'_>) -> bool = |line| matches!(line, Line::New(_));
        let is_old: fn(&Line<'_>) -> bool = |line| matches!(line, Line::Old(_));
        let range = |skip: fn(&Line<'_>) -> bool| {
            let (before, length) = (number(start, skip), number(end, skip) - number(start, skip));
            format!("{},{length}", if length == 0 { before } else { before + 1 })
        };
        text.push_str(&format!("@@ -{} +{} @@\n", range(is_new), range(is_old)));
        for line in &lines[start..end] {
            let (mark, line) = match line {
                Line::Same(line) => (' ', line),
                Line::Old(line) => ('-', line),
                Line::New(line) => ('+', line),
            };
            text.push(mark);
            text.push_str(line);
            text.push('\n');
        }
        at = end;
    }
    text
}

/// By the longest common subsequence; what is equal at both ends is taken off first.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<Line<'a>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let width = b.len() + 1;
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            lengths[i * width + j] = if a[i] == b[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let mut lines: Vec<Line<'a>> = old[..head].iter().map(|line| Line::Same(line)).collect();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push(Line::Same(a[i]));
            i += 1;
            j += 1;
        } else if i < a.len() && (j == b.len() || lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) {
            lines.push(Line::Old(a[i]));
            i += 1;
        } else {
            lines.push(Line::New(b[j]));
            j += 1;
        }
    }
    lines.extend(old[old.len() - tail..].iter().map(|line| Line::Same(line)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unified_diff_has_three_lines_of_context() {
        assert_eq!(unified("a\nb\n", "a\nb\n"), "");
        assert_eq!(
            unified("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n"),
            "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
        );
        assert_eq!(unified("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        let far: String = (0..30).map(|number| format!("{number}\n")).collect();
        let changed = far.replacen("2\n", "two\n", 1).replace("27\n", "x\n");
        assert_eq!(unified(&far, &changed).matches("@@ -").count(), 2);
    }
}
