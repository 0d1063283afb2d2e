//! kubectl's JSONPath templates: text and `{…}` with paths, strings, and `range … end`.

use serde_json::Value;

use crate::output::{Failure, Result};

/// Deepest nesting of ranges, and of what `..` descends into.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    /// One `{…}`: several paths are joined by a space.
    Paths(Vec<Path>),
    Range(Path, Vec<Part>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// `$`: from the top again.
    Root,
    Field(String),
    Wildcard,
    Descend,
    Indexes(Vec<i64>),
    Fields(Vec<String>),
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    Filter {
        left: Operand,
        comparison: Option<(Comparison, Operand)>,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Path),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template> {
        let bad = |why: &str| Failure::error(format!("error parsing jsonpath {text}, {why}"));
        let mut open: Vec<(Path, Vec<Part>)> = Vec::new();
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let Some(start) = rest.find('{') else {
                parts.push(Part::Text(rest.to_owned()));
                break;
            };
            if start > 0 {
                parts.push(Part::Text(rest[..start].to_owned()));
            }
            let end = closing(&rest[start..]).ok_or_else(|| bad("unclosed action"))?;
            let action = rest[start + 1..start + end].trim();
            rest = &rest[start + end + 1..];
            if action == "end" {
                let (path, before) = open.pop().ok_or_else(|| bad("not in range, nothing to end"))?;
                let inner = std::mem::replace(&mut parts, before);
                parts.push(Part::Range(path, inner));
            } else if let Some(path) = action.strip_prefix("range ") {
                if open.len() >= DEPTH_MAX {
                    return Err(bad("too many ranges in each other"));
                }
                let path = Path::parse(path.trim()).ok_or_else(|| bad("unrecognized path after range"))?;
                open.push((path, std::mem::take(&mut parts)));
            } else if let Some(string) = quoted(action) {
                parts.push(Part::Text(string));
            } else {
                let paths = words(action).into_iter().map(Path::parse).collect::<Option<Vec<_>>>();
                parts.push(Part::Paths(paths.ok_or_else(|| bad(&format!("unrecognized expression {{{action}}}")))?));
            }
        }
        if open.is_empty() { Ok(Template(parts)) } else { Err(bad("unclosed range")) }
    }

    /// A key that is not there prints nothing.
    pub fn render(&self, root: &Value) -> String {
        let mut out = String::new();
        render(&self.0, root, root, &mut out);
        out
    }
}

fn render(parts: &[Part], root: &Value, here: &Value, out: &mut String) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Paths(paths) => {
                let found = paths.iter().flat_map(|path| path.find(root, here));
                out.push_str(&found.map(text).collect::<Vec<_>>().join(" "));
            }
            Part::Range(path, inner) => {
                for item in path.find(root, here) {
                    // A range over a list itself is one over its items.
                    match item {
                        Value::Array(items) => items.iter().for_each(|item| render(inner, root, item, out)),
                        item => render(inner, root, item, out),
                    }
                }
            }
        }
    }
}

/// Strings bare, everything else as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Where the brace that opens `text` is closed, quotes and brackets seen.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (place, letter) in text.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '}') => return Some(place),
            (None, _) => {}
        }
    }
    None
}

/// The content of a whole quoted string with its escapes; `None` for anything else.
fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out.push(match letters.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other => other,
            }),
            letter if letter == quote => return None,
            letter => out.push(letter),
        }
    }
    Some(out)
}

/// Splits at white space outside of brackets and quotes.
fn words(text: &str) -> Vec<&str> {
    let (mut depth, mut quote, mut start) = (0, None, None);
    let mut found = Vec::new();
    for (place, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth -= 1,
            _ => {}
        }
        if quote.is_none() && depth == 0 && letter.is_whitespace() {
            found.extend(start.take().map(|start| &text[start..place]));
        } else if start.is_none() {
            start = Some(place);
        }
    }
    found.extend(start.map(|start| &text[start..]));
    found
}

impl Path {
    /// `$`, `@` or nothing, then `.name`, `..`, `.*`, `[…]`; a name may also come first.
    pub fn parse(text: &str) -> Option<Path> {
        let mut steps = Vec::new();
        let mut rest = text;
        if let Some(after) = rest.strip_prefix('$') {
            steps.push(Step::Root);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('@') {
            rest = after;
        } else if !rest.starts_with(['.', '[']) {
            let (name, after) = name(rest)?;
            steps.push(Step::Field(name));
            rest = after;
        }
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Descend);
                rest = after;
                if !rest.starts_with(['[', '*']) {
                    let (name, after) = name(rest)?;
                    steps.push(Step::Field(name));
                    rest = after;
                }
            } else if let Some(after) = rest.strip_prefix(".*").or_else(|| rest.strip_prefix('*')) {
                steps.push(Step::Wildcard);
                rest = after;
            } else if let Some(after) = rest.strip_prefix('.') {
                rest = after;
                if !rest.is_empty() && !rest.starts_with('[') {
                    let (name, after) = name(rest)?;
                    steps.push(Step::Field(name));
                    rest = after;
                }
            } else {
                let end = bracket(rest)?;
                steps.push(subscript(rest[1..end].trim())?);
                rest = &rest[end + 1..];
            }
        }
        Some(Path(steps))
    }

    pub fn find<'a>(&self, root: &'a Value, here: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![here];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.of(root, value)).collect();
        }
        found
    }
}

/// A field's name, `\.` a dot in it.
fn name(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut letters = text.char_indices();
    while let Some((place, letter)) = letters.next() {
        match letter {
            '\\' => out.push(letters.next()?.1),
            '.' | '[' | ' ' => return (!out.is_empty()).then_some((out, &text[place..])),
            letter => out.push(letter),
        }
    }
    (!out.is_empty()).then_some((out, ""))
}

/// Where the bracket that opens `text` is closed.
fn bracket(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    if !text.starts_with('[') {
        return None;
    }
    for (place, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(place);
                }
            }
            (None, _) => {}
        }
    }
    None
}

fn subscript(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::Wildcard);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return parse_filter(filter.trim());
    }
    if text.starts_with(['\'', '"']) {
        return text.split(',').map(|name| quoted(name.trim())).collect::<Option<Vec<_>>>().map(Step::Fields);
    }
    if text.contains(':') {
        let mut numbers = text.split(':').map(|number| match number.trim() {
            "" => Some(None),
            number => number.parse::<i64>().ok().map(Some),
        });
        let (start, end) = (numbers.next()??, numbers.next()??);
        let step = numbers.next().unwrap_or(Some(None))?.unwrap_or(1);
        return (step > 0 && numbers.next().is_none()).then_some(Step::Slice { start, end, step });
    }
    text.split(',').map(|index| index.trim().parse().ok()).collect::<Option<Vec<_>>>().map(Step::Indexes)
}

fn parse_filter(text: &str) -> Option<Step> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let mut quote = None;
    for (place, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), letter) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            _ => {}
        }
        if quote.is_some() {
            continue;
        }
        if let Some((sign, comparison)) = SIGNS.iter().find(|(sign, _)| text[place..].starts_with(sign)) {
            let right = operand(text[place + sign.len()..].trim())?;
            return Some(Step::Filter { left: operand(text[..place].trim())?, comparison: Some((*comparison, right)) });
        }
    }
    Some(Step::Filter { left: operand(text)?, comparison: None })
}

fn operand(text: &str) -> Option<Operand> {
    if text.starts_with(['@', '$', '.']) {
        return Path::parse(text).map(Operand::Path);
    }
    if let Some(string) = quoted(text) {
        return Some(Operand::Literal(Value::String(string)));
    }
    serde_json::from_str(text).ok().map(Operand::Literal)
}

impl Step {
    fn of<'a>(&self, root: &'a Value, value: &'a Value) -> Vec<&'a Value> {
        let at = |items: &'a [Value], index: i64| {
            let index = if index < 0 { index + items.len() as i64 } else { index };
            usize::try_from(index).ok().and_then(|index| items.get(index))
        };
        match self {
            Step::Root => vec![root],
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Fields(names) => names.iter().filter_map(|name| value.get(name)).collect(),
            Step::Wildcard => children(value),
            Step::Descend => {
                let mut all = Vec::new();
                descend(value, 0, &mut all);
                all
            }
            Step::Indexes(indexes) => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                indexes.iter().filter_map(|index| at(items, *index)).collect()
            }
            Step::Slice { start, end, step } => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let length = items.len() as i64;
                let bound = |index: i64| (if index < 0 { index + length } else { index }).clamp(0, length);
                let (start, end) = (bound(start.unwrap_or(0)), bound(end.unwrap_or(length)));
                let step = usize::try_from(*step).unwrap_or(1);
                (start..end).step_by(step).filter_map(|index| at(items, index)).collect()
            }
            Step::Filter { left, comparison } => {
                let holds = |item: &&'a Value| match comparison {
                    None => !left.values(root, item).is_empty(),
                    Some((comparison, right)) => left
                        .values(root, item)
                        .iter()
                        .any(|left| right.values(root, item).iter().any(|right| comparison.holds(left, right))),
                };
                value.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter(holds).collect()
            }
        }
    }
}

impl Operand {
    fn values(&self, root: &Value, here: &Value) -> Vec<Value> {
        match self {
            Operand::Path(path) => path.find(root, here).into_iter().cloned().collect(),
            Operand::Literal(value) => vec![value.clone()],
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        use std::cmp::Ordering;
        let order = match (left, right) {
            (Value::Number(left), Value::Number(right)) => left.as_f64().partial_cmp(&right.as_f64()),
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            (left, right) => (left == right).then_some(Ordering::Equal),
        };
        match self {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::NotEqual => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(value: &'a Value, depth: usize, all: &mut Vec<&'a Value>) {
    all.push(value);
    if depth < DEPTH_MAX {
        children(value).into_iter().for_each(|child| descend(child, depth + 1, all));
    }
}

/// `NAME:.metadata.name,IP:.status.podIP`
#[derive(Debug, Clone, PartialEq)]
pub struct Columns(Vec<(String, Path)>);

impl Columns {
    pub fn parse(text: &str) -> Result<Columns> {
        let mut columns = Vec::new();
        for column in text.split(',') {
            let Some((heading, path)) = column.split_once(':') else {
                return Err(Failure::error(format!("expected <header>:<json-path-expr>, got {column}")));
            };
            let bare = path.strip_prefix('{').and_then(|path| path.strip_suffix('}')).unwrap_or(path);
            let path = Path::parse(bare).ok_or_else(|| {
                Failure::error(format!(
                    "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{{name1.name2}}' or \
                     '{{.name1.name2}}': {path}"
                ))
            })?;
            columns.push((heading.to_owned(), path));
        }
        Ok(Columns(columns))
    }

    pub fn headings(&self) -> Vec<String> {
        self.0.iter().map(|(heading, _)| heading.clone()).collect()
    }

    /// What is missing is `<none>`; several values are joined by a comma.
    pub fn cells(&self, object: &Value) -> Vec<String> {
        let cell = |path: &Path| {
            let found: Vec<String> = path.find(object, object).into_iter().map(text).collect();
            if found.is_empty() { "<none>".to_owned() } else { found.join(",") }
        };
        self.0.iter().map(|(_, path)| cell(path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(template: &str, expected: &str) {
        let value = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}}, "status": {"n": 1, "ok": true}},
                {"metadata": {"name": "b"}, "status": {"n": 2, "list": ["p", "q", "r"]}},
            ],
        });
        assert_eq!(Template::parse(template).unwrap().render(&value), expected, "{template}");
    }

    #[test]
    fn kubectls_forms_are_understood() {
        for (template, expected) in [
            ("{.kind}", "List"),
            ("{kind}", "List"),
            ("{$.kind}", "List"),
            ("{@.kind}", "List"),
            ("{.nothing}", ""),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0,1].status.n}", "1 2"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{.items[1].status.list[1:]}", "q r"),
            ("{.items[1].status.list}", "[\"p\",\"q\",\"r\"]"),
            ("{.items[0].metadata.labels.app\\.kubernetes\\.io/name}", "x"),
            ("{.items[0].metadata.labels['app.kubernetes.io/name']}", "x"),
            ("{..name}", "a b"),
            ("{.items[?(@.metadata.name==\"b\")].status.n}", "2"),
            ("{.items[?(@.status.n>1)].metadata.name}", "b"),
            ("{.items[?(@.status.ok)].metadata.name}", "a"),
            ("{.items[0].status.ok} and {.kind}", "true and List"),
            ("{.items[0].metadata.name .kind}", "a List"),
            ("{range .items[*]}{.metadata.name}={.status.n}{\"\\n\"}{end}", "a=1\nb=2\n"),
            ("{range .items}{.metadata.name}{'\\t'}{end}.", "a\tb\t."),
            ("plain", "plain"),
        ] {
            check(template, expected);
        }
        for bad in ["{.a", "{end}", "{range .items[*]}x", "{.a[}", "{.a[x]}", "{[?(@.a ~ 1)]}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_have_none_for_what_is_missing() {
        let columns = Columns::parse("NAME:.metadata.name,I:{.spec.containers[*].image},x:.y").unwrap();
        let value = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"image": "i"}, {"image": "j"}]}});
        assert_eq!(columns.headings(), ["NAME", "I", "x"]);
        assert_eq!(columns.cells(&value), ["a", "i,j", "<none>"]);
        assert!(Columns::parse("NAME").is_err());
    }
}
