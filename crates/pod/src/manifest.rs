//! From the bytes of a manifest to objects, or to every problem in it at once.

mod defaults;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use serde_json::Value as Json;

use crate::base64;
pub use crate::problems::Problem;
use crate::problems::{Cursor, Report, join};
use crate::schema::{self, Kind, Table};
use crate::spec::{DataKind, DataObject, Pod};
use crate::suggest;
use crate::validate;
pub use crate::yaml::BYTES_MAX;
use crate::yaml::{self, Node, Position, Value};

/// What a manifest may hold; defaults are filled in. `uid` and `creationTimestamp` are for the one who accepts it.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Pod(Box<Pod>),
    Data(DataObject),
}

/// Characters of an object that a message repeats.
const SHOWN_MAX: usize = 200;
const KINDS: [&str; 4] = ["Pod", "ConfigMap", "Secret", "List"];

/// Reads all objects of a file, in order. Objects that name no namespace get `default`.
///
/// # Errors
/// Every problem of the file, sorted by position. Nothing of a file with a problem is returned.
///
/// ```
/// let problems = killick_pod::manifest::parse("pod.yaml", b"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n").unwrap_err();
/// assert_eq!(problems[0].to_string(), "pod.yaml:1:1: spec: Required value");
/// ```
pub fn parse(source_name: &str, text: &[u8]) -> Result<Vec<Object>, Vec<Problem>> {
    parse_in(source_name, text, "default")
}

/// `parse` with the namespace for objects that name none (`-n NS`).
pub fn parse_in(source_name: &str, text: &[u8], namespace: &str) -> Result<Vec<Object>, Vec<Problem>> {
    let mut reader = Reader { report: Report::new(source_name), namespace, objects: Vec::new() };
    match yaml::parse(text) {
        Ok(documents) => documents.iter().for_each(|document| reader.object(document, "")),
        Err(error) => reader.report.add(error.position, "", error.message),
    }
    if reader.report.is_empty() { Ok(reader.objects) } else { Err(reader.report.into_problems()) }
}

struct Reader<'a> {
    report: Report,
    namespace: &'a str,
    objects: Vec<Object>,
}

impl Reader<'_> {
    fn object(&mut self, node: &Rc<Node>, path: &str) {
        if !matches!(node.value, Value::Map(_)) {
            self.report.add(node.position, path, "an object must be a map with apiVersion, kind and metadata");
            return;
        }
        let cursor = Cursor::new(node, path);
        match self.kind(&cursor) {
            Some("Pod") => self.pod(node, &cursor),
            Some("ConfigMap") => self.data(node, &cursor, DataKind::ConfigMap),
            Some("Secret") => self.data(node, &cursor, DataKind::Secret),
            Some(_) => {
                self.is_good(node, path, &schema::LIST, |_, _| {});
                let items = node.get("items").map(|entry| &entry.value.value);
                if let Some(Value::List(items)) = items {
                    let place = join(path, "items");
                    for (index, item) in items.iter().enumerate() {
                        self.object(item, &format!("{place}[{index}]"));
                    }
                }
            }
            None => {}
        }
    }

    /// One of `KINDS`, or nothing and a problem in kubectl's words.
    fn kind(&mut self, object: &Cursor<'_>) -> Option<&'static str> {
        let (kind, version) = (object.get("kind"), object.get("apiVersion"));
        let file = self.report.file().to_owned();
        for (at, name) in [(&kind, "Kind"), (&version, "apiVersion")] {
            if at.is_empty() {
                let shown = object.node().map(shown).unwrap_or_default();
                let message = format!("unable to decode {file:?}: Object '{name}' is missing in '{shown}'");
                self.report.add(object.position, &object.path, message);
                return None;
            }
            if at.text().is_none() {
                self.report.add(at.position, &at.path, format!("Invalid value: {}: must be a string", at.shown()));
                return None;
            }
        }
        let (name, group) = (kind.text()?, version.text()?);
        let known = KINDS.iter().find(|known| **known == name && group == "v1");
        if known.is_none() {
            let metadata = object.get("metadata");
            let text = |key| metadata.get(key).text().unwrap_or_default();
            let message = format!(
                "resource mapping not found for name: {:?} namespace: {:?} from {file:?}: no matches for kind {name:?} in \
                 version {group:?}; killick knows v1 Pod, ConfigMap, Secret and List{}",
                text("name"),
                text("namespace"),
                suggest::hint(name, KINDS.into_iter().filter(|known| *known != name)),
            );
            self.report.add(if group == "v1" { kind.position } else { version.position }, &object.path, message);
        }
        known.copied()
    }

    /// Runs both kinds of checks; are there no new problems?
    fn is_good(
        &mut self,
        node: &Node,
        path: &str,
        table: &'static Table,
        rules: impl FnOnce(&Cursor<'_>, &mut Report),
    ) -> bool {
        let before = self.report.len();
        schema::check(node, &Kind::Object(table), path, &mut self.report);
        rules(&Cursor::new(node, path), &mut self.report);
        self.report.len() == before
    }

    fn pod(&mut self, node: &Node, cursor: &Cursor<'_>) {
        if !self.is_good(node, &cursor.path, &schema::POD, validate::pod) {
            return;
        }
        let mut json = schema::build(node, &Kind::Object(&schema::POD));
        defaults::prepare(&mut json);
        match serde_json::from_value(json) {
            Ok(pod) => {
                let pod = defaults::complete(pod, self.namespace);
                self.objects.push(Object::Pod(Box::new(pod)));
            }
            // The table and the types would have to disagree; a test compares them.
            Err(error) => self.internal(cursor.position, &error.to_string()),
        }
    }

    fn data(&mut self, node: &Node, cursor: &Cursor<'_>, kind: DataKind) {
        let is_good = match kind {
            DataKind::ConfigMap => self.is_good(node, &cursor.path, &schema::CONFIG_MAP, validate::config_map),
            DataKind::Secret => self.is_good(node, &cursor.path, &schema::SECRET, validate::secret),
        };
        if is_good {
            self.objects.push(Object::Data(data_object(cursor, kind, self.namespace)));
        }
    }

    fn internal(&mut self, position: Position, message: &str) {
        self.report.add(position, "", format!("Internal error: {message}"));
    }
}

fn data_object(object: &Cursor<'_>, kind: DataKind, namespace: &str) -> DataObject {
    let metadata = object.get("metadata");
    let plain = |key: &str| {
        let entries = object.get(key).entries().into_iter();
        entries.map(|(key, _, value)| (key.to_owned(), value.text().unwrap_or_default().as_bytes().to_vec()))
    };
    let decoded = |key: &str| {
        let entries = object.get(key).entries().into_iter();
        entries.map(|(key, _, value)| (key.to_owned(), value.text().and_then(base64::decode).unwrap_or_default()))
    };
    let (data, binary_data) = match kind {
        DataKind::ConfigMap => (plain("data").collect(), decoded("binaryData").collect()),
        DataKind::Secret => (decoded("data").chain(plain("stringData")).collect(), Default::default()),
    };
    DataObject {
        kind,
        name: metadata.get("name").text().unwrap_or_default().to_owned(),
        namespace: metadata.get("namespace").filled_text().unwrap_or(namespace).to_owned(),
        data,
        binary_data,
        immutable: object.get("immutable").is_true(),
    }
}

/// The beginning of an object as JSON, for messages.
fn shown(node: &Node) -> String {
    let json: Json = schema::build(node, &Kind::Any);
    let text = json.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
