//! YAML (and JSON, which it contains) as a tree whose every node knows its line and column.
//!
//! It knows nothing of Kubernetes. Every limit is checked while events arrive, so hostile input ends early.

mod scalar;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

pub use scalar::float_text;

/// Bytes of one manifest.
pub const BYTES_MAX: usize = 4 << 20;
pub const DEPTH_MAX: usize = 64;
pub const DOCUMENTS_MAX: usize = 1000;
/// Nodes of all documents together, without those through aliases.
pub const NODES_MAX: usize = 200_000;
/// Nodes, and bytes of text, that all aliases and merges (`<<`) together may stand for.
pub const ALIAS_NODES_MAX: usize = 10_000;
pub const ALIAS_BYTES_MAX: usize = BYTES_MAX;

/// Line and column (in characters), both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub position: Position,
    pub value: Value,
    /// How a scalar that is no string was written (`yes`, `0644`); else empty.
    pub source: String,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    String(String),
    List(Vec<Rc<Node>>),
    /// As written, so a key may come twice; a lookup finds the first.
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub position: Position,
    pub value: Rc<Node>,
}

/// What made the text unreadable. Nothing after it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub position: Position,
    pub message: String,
}

impl Node {
    /// The value of the first entry named `key`, if this is a map.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Elements of a list or entries of a map.
    fn len(&self) -> usize {
        match &self.value {
            Value::List(list) => list.len(),
            Value::Map(entries) => entries.len(),
            _ => 0,
        }
    }

    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }
}

/// The documents of a text; empty ones are left out.
pub fn parse(text: &[u8]) -> Result<Vec<Rc<Node>>, SyntaxError> {
    let start = Position { line: 1, column: 1 };
    if text.len() > BYTES_MAX {
        return Err(error(start, format!("manifest has {} bytes; at most {BYTES_MAX} are read", text.len())));
    }
    let text = std::str::from_utf8(text).map_err(|invalid| {
        let before = String::from_utf8_lossy(&text[..invalid.valid_up_to()]);
        let line = before.split('\n').count();
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        error(Position { line, column }, "not UTF-8".to_owned())
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = if text.trim_start().starts_with('{') { join_surrogates(text) } else { text.into() };
    let mut builder = Builder::default();
    for event in Parser::new_from_str(&text) {
        let (event, span) = event.map_err(|scan| {
            let position = Position { line: scan.marker().line(), column: scan.marker().col() + 1 };
            match scan.info() {
                // The parser counts to 255, and looks further ahead than our own count.
                "recursion limit exceeded" => too_deep(position),
                info => error(position, format!("invalid YAML: {info}")),
            }
        })?;
        builder.take(event, span)?;
    }
    Ok(builder.documents)
}

/// JSON writes characters beyond U+FFFF as two escapes, which YAML does not know.
fn join_surrogates(text: &str) -> std::borrow::Cow<'_, str> {
    let escape = |at: usize| -> Option<u32> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    let (mut result, mut done, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match (escape(at), escape(at + 6)) {
            (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
                result.push_str(&text[done..at]);
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                result.push_str(&format!("\\U{code:08x}"));
                at += 12;
                done = at;
            }
            // A backslash and what it escapes, which may be a second backslash.
            _ => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if done == 0 {
        return text.into();
    }
    result.push_str(&text[done..]);
    result.into()
}

fn error(position: Position, message: String) -> SyntaxError {
    SyntaxError { position, message }
}

/// What an alias of a node stands for.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    nodes: usize,
    bytes: usize,
    height: usize,
}

/// A list or map that is not complete yet.
struct Frame {
    position: Position,
    anchor: usize,
    weight: Weight,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, merges: Vec<Rc<Node>>, key: Option<Key> },
}

enum Key {
    Named(String, Position),
    /// A plain `<<`.
    Merge,
}

#[derive(Default)]
struct Builder {
    documents: Vec<Rc<Node>>,
    documents_seen: usize,
    nodes: usize,
    alias_nodes: usize,
    alias_bytes: usize,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Rc<Node>, Weight)>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let position = Position { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.documents_seen += 1;
                if self.documents_seen > DOCUMENTS_MAX {
                    return Err(error(position, format!("more than {DOCUMENTS_MAX} documents")));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain;
                let is_merge = is_plain && tag.is_none() && text == "<<";
                let (value, source) = match is_plain && tag.is_none() && span.is_empty() {
                    true => (Value::Null, String::new()),
                    false => scalar_value(&text, is_plain, tag.as_deref(), position)?,
                };
                let weight = Weight { nodes: 1, bytes: text.len(), height: 0 };
                self.add(Rc::new(Node { position, value, source }), anchor, weight, is_merge)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(position, anchor, tag.as_deref(), "seq", Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), merges: Vec::new(), key: None };
                self.open(position, anchor, tag.as_deref(), "map", content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(position),
            Event::Alias(anchor) => self.alias(anchor, position),
        }
    }

    fn open(
        &mut self,
        position: Position,
        anchor: usize,
        tag: Option<&Tag>,
        kind: &str,
        content: Content,
    ) -> Result<(), SyntaxError> {
        if let Some(tag) = tag.filter(|tag| !(is_core(tag) && tag.suffix == kind)) {
            return Err(error(position, format!("tag {tag} is not supported here")));
        }
        if self.stack.len() >= DEPTH_MAX {
            return Err(too_deep(position));
        }
        self.stack.push(Frame { position, anchor, weight: Weight { nodes: 1, bytes: 0, height: 1 }, content });
        Ok(())
    }

    fn close(&mut self, position: Position) -> Result<(), SyntaxError> {
        let frame = self.stack.pop().ok_or_else(|| error(position, "invalid YAML: unexpected end".to_owned()))?;
        let value = match frame.content {
            Content::List(list) => Value::List(list),
            Content::Map { entries, merges, .. } => {
                self.count_alias_nodes(merges.iter().map(|source| source.len()).sum(), position)?;
                Value::Map(merge(entries, &merges))
            }
        };
        let node = Node { position: frame.position, value, source: String::new() };
        self.add(Rc::new(node), frame.anchor, frame.weight, false)
    }

    fn alias(&mut self, anchor: usize, position: Position) -> Result<(), SyntaxError> {
        let known = self.anchors.get(&anchor).cloned();
        let (node, weight) =
            known.ok_or_else(|| error(position, "alias of an anchor that is not complete here".to_owned()))?;
        self.count_alias_nodes(weight.nodes, position)?;
        self.alias_bytes += weight.bytes;
        if self.alias_bytes > ALIAS_BYTES_MAX {
            return Err(error(position, format!("more than {ALIAS_BYTES_MAX} bytes through aliases")));
        }
        if self.stack.len() + weight.height > DEPTH_MAX {
            return Err(too_deep(position));
        }
        self.add(node, 0, weight, false)
    }

    fn count_alias_nodes(&mut self, nodes: usize, position: Position) -> Result<(), SyntaxError> {
        self.alias_nodes = self.alias_nodes.saturating_add(nodes);
        match self.alias_nodes > ALIAS_NODES_MAX {
            true => Err(error(position, format!("more than {ALIAS_NODES_MAX} nodes through aliases"))),
            false => Ok(()),
        }
    }

    /// Puts a complete node where it belongs: into the open list or map, or it is a document.
    fn add(&mut self, node: Rc<Node>, anchor: usize, weight: Weight, is_merge: bool) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(error(node.position, format!("more than {NODES_MAX} nodes")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), weight));
        }
        let Some(frame) = self.stack.last_mut() else {
            if !node.is_null() {
                self.documents.push(node);
            }
            return Ok(());
        };
        frame.weight.nodes = frame.weight.nodes.saturating_add(weight.nodes);
        frame.weight.bytes = frame.weight.bytes.saturating_add(weight.bytes);
        frame.weight.height = frame.weight.height.max(weight.height + 1);
        match &mut frame.content {
            Content::List(list) => list.push(node),
            Content::Map { entries, merges, key } => match key.take() {
                None if is_merge => *key = Some(Key::Merge),
                None => *key = Some(Key::Named(key_text(&node)?, node.position)),
                Some(Key::Merge) => merge_sources(&node, merges)?,
                Some(Key::Named(name, position)) => {
                    entries.push(Entry { key: name, position, value: placed(node, position) });
                }
            },
        }
        Ok(())
    }
}

fn too_deep(position: Position) -> SyntaxError {
    error(position, format!("nested deeper than {DEPTH_MAX} levels"))
}

/// A value that is not there is said to be at its key: the parser names whatever comes next.
fn placed(node: Rc<Node>, key: Position) -> Rc<Node> {
    match node.is_null() && node.source.is_empty() {
        true => Rc::new(Node { position: key, ..(*node).clone() }),
        false => node,
    }
}

fn is_core(tag: &Tag) -> bool {
    tag.handle == "tag:yaml.org,2002:" || tag.handle == "!!"
}

fn scalar_value(
    text: &str,
    is_plain: bool,
    tag: Option<&Tag>,
    position: Position,
) -> Result<(Value, String), SyntaxError> {
    let resolved = |value: Value| match value {
        Value::String(_) => (value, String::new()),
        _ => (value, text.to_owned()),
    };
    let Some(tag) = tag else {
        return Ok(match is_plain {
            true => resolved(scalar::resolve(text)),
            false => (Value::String(text.to_owned()), String::new()),
        });
    };
    if (is_core(tag) && tag.suffix == "str") || (tag.handle.is_empty() && tag.suffix == "!") {
        return Ok((Value::String(text.to_owned()), String::new()));
    }
    let value = scalar::resolve(text);
    match (&value, tag.suffix.as_str()) {
        (Value::Bool(_), "bool") | (Value::Int(_), "int") | (Value::Null, "null") if is_core(tag) => {
            Ok(resolved(value))
        }
        (Value::Int(_) | Value::Float(_), "float") if is_core(tag) => Ok(resolved(value)),
        _ => Err(error(position, format!("tag {tag} is not supported here"))),
    }
}

/// A key is always text in JSON: `80:` and `yes:` are `"80"` and `"true"`.
fn key_text(node: &Node) -> Result<String, SyntaxError> {
    match &node.value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Int(value) => Ok(value.to_string()),
        Value::Float(value) => Ok(float_text(*value)),
        Value::Null => Err(error(node.position, "a key must not be null".to_owned())),
        Value::List(_) | Value::Map(_) => Err(error(node.position, "a key must be a scalar".to_owned())),
    }
}

/// `<<: *base` or `<<: [*a, *b]`.
fn merge_sources(node: &Rc<Node>, merges: &mut Vec<Rc<Node>>) -> Result<(), SyntaxError> {
    let is_map = |node: &Node| matches!(node.value, Value::Map(_));
    match &node.value {
        Value::Map(_) => merges.push(Rc::clone(node)),
        Value::List(list) if list.iter().all(|node| is_map(node)) => merges.extend(list.iter().cloned()),
        _ => return Err(error(node.position, "map merge requires map or sequence of maps as the value".to_owned())),
    }
    Ok(())
}

/// What the map itself says wins; then the earlier source.
fn merge(mut entries: Vec<Entry>, merges: &[Rc<Node>]) -> Vec<Entry> {
    if merges.is_empty() {
        return entries;
    }
    let mut known: BTreeSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
    for source in merges {
        let Value::Map(merged) = &source.value else { continue };
        for entry in merged {
            if known.insert(entry.key.clone()) {
                entries.push(entry.clone());
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests;
