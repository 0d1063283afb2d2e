//! The report: every problem of a manifest, each where it is, in the API's words (kubelet.md §8.1).

use std::fmt;
use std::rc::Rc;

use crate::suggest;
use crate::yaml::{Node, Position, Value, float_text};

/// More problems than these are counted, not told.
pub const PROBLEMS_MAX: usize = 1000;
/// Characters of a value that a message repeats.
const VALUE_CHARS_MAX: usize = 200;

/// One line of the report: `pod.yaml:21:15: spec.containers[0].image: Required value`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Empty where no field is meant.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        match self.path.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

#[derive(Debug)]
pub struct Report {
    file: String,
    problems: Vec<Problem>,
    untold: usize,
}

impl Report {
    pub fn new(file: &str) -> Report {
        Report { file: file.to_owned(), problems: Vec::new(), untold: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Further problems are only counted: no need to think about their words.
    pub fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    pub fn len(&self) -> usize {
        self.problems.len() + self.untold
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    pub fn add(&mut self, position: Position, path: &str, message: impl Into<String>) {
        if self.is_full() {
            self.untold += 1;
            return;
        }
        self.problems.push(Problem {
            file: self.file.clone(),
            line: position.line,
            column: position.column,
            path: path.to_owned(),
            message: message.into(),
        });
    }

    /// By position; what is said twice about the same place (an alias is read twice) is said once.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        if let (Some(last), true) = (self.problems.last().cloned(), self.untold > 0) {
            let message = format!("{} more problems are not shown", self.untold);
            self.problems.push(Problem { path: String::new(), message, ..last });
        }
        self.problems
    }

    pub fn required(&mut self, at: &Cursor<'_>, detail: &str) {
        let message = if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.add(at.position, &at.path, message);
    }

    pub fn invalid(&mut self, at: &Cursor<'_>, detail: &str) {
        self.add(at.position, &at.path, format!("Invalid value: {}: {detail}", at.shown()));
    }

    pub fn forbidden(&mut self, at: &Cursor<'_>, detail: &str) {
        self.add(at.position, &at.path, format!("Forbidden: {detail}"));
    }

    pub fn duplicate(&mut self, at: &Cursor<'_>) {
        self.add(at.position, &at.path, format!("Duplicate value: {}", at.shown()));
    }

    pub fn not_found(&mut self, at: &Cursor<'_>, detail: &str) {
        self.add(at.position, &at.path, format!("Not found: {}{detail}", at.shown()));
    }

    pub fn unsupported(&mut self, at: &Cursor<'_>, words: &[&str]) {
        let supported = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let hint = at.text().map(|text| suggest::hint(text, words.iter().copied())).unwrap_or_default();
        let message = format!("Unsupported value: {}: supported values: {supported}{hint}", at.shown());
        self.add(at.position, &at.path, message);
    }

    /// A field, or a value of it, that Killick does not honour.
    pub fn refused(&mut self, position: Position, path: &str, what: &str) {
        self.add(position, path, format!("not honoured by killick yet: {what}"));
    }
}

/// A place in a tree: a node, or where it would be. A missing node is at its parent.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    pub path: String,
    pub position: Position,
    node: Option<&'a Node>,
}

impl<'a> Cursor<'a> {
    pub fn new(node: &'a Node, path: &str) -> Cursor<'a> {
        Cursor { path: path.to_owned(), position: node.position, node: Some(node).filter(|node| !node.is_null()) }
    }

    pub fn get(&self, key: &str) -> Cursor<'a> {
        let path = join(&self.path, key);
        match self.node.and_then(|node| node.get(key)) {
            Some(entry) => Cursor::new(&entry.value, &path),
            None => Cursor { path, position: self.position, node: None },
        }
    }

    /// Elements of a list.
    pub fn items(&self) -> Vec<Cursor<'a>> {
        match self.node.map(|node| &node.value) {
            Some(Value::List(list)) => list.iter().enumerate().map(|(index, node)| self.item(index, node)).collect(),
            _ => Vec::new(),
        }
    }

    fn item(&self, index: usize, node: &'a Rc<Node>) -> Cursor<'a> {
        Cursor::new(node, &format!("{}[{index}]", self.path))
    }

    /// Keys of a map with where each is, and its value.
    pub fn entries(&self) -> Vec<(&'a str, Position, Cursor<'a>)> {
        match self.node.map(|node| &node.value) {
            Some(Value::Map(entries)) => entries
                .iter()
                .map(|entry| {
                    let value = Cursor::new(&entry.value, &format!("{}[{}]", self.path, entry.key));
                    (entry.key.as_str(), entry.position, value)
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Is there anything but null?
    pub fn is_set(&self) -> bool {
        self.node.is_some()
    }

    /// Not there, null, empty text or an empty list or map.
    pub fn is_empty(&self) -> bool {
        match self.node.map(|node| &node.value) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::List(list)) => list.is_empty(),
            Some(Value::Map(entries)) => entries.is_empty(),
            Some(Value::Bool(_) | Value::Int(_) | Value::Float(_)) => false,
        }
    }

    pub fn node(&self) -> Option<&'a Node> {
        self.node
    }

    pub fn text(&self) -> Option<&'a str> {
        match self.node.map(|node| &node.value) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Text that is not empty.
    pub fn filled_text(&self) -> Option<&'a str> {
        self.text().filter(|text| !text.is_empty())
    }

    pub fn is_true(&self) -> bool {
        self.bool() == Some(true)
    }

    pub fn bool(&self) -> Option<bool> {
        match self.node.map(|node| &node.value) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        self.node.and_then(|node| whole(&node.value)).and_then(|value| i64::try_from(value).ok())
    }

    /// The value as a message shows it: text quoted, numbers bare, what is not there `null`.
    pub fn shown(&self) -> String {
        self.node.map_or("null".to_owned(), |node| shown(&node.value))
    }
}

pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `80` and `80.0` are the same number in JSON.
pub fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Int(value) => Some(*value),
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => Some(*value as i128),
        _ => None,
    }
}

pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => float_text(*value),
        Value::String(text) => quoted(text),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

/// As Go's `%q`, cut where it is very long.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
