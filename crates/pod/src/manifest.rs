//! From the bytes of a manifest to objects, or to every problem in it at once.

use std::fmt;

use crate::spec::{DataObject, Pod};

/// What a manifest may hold; defaults are filled in. `uid` and `creationTimestamp` are for the one who accepts it.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Pod(Box<Pod>),
    Data(DataObject),
}

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

/// Reads all objects of a file. Objects that name no namespace get `default`.
///
/// # Errors
/// Every problem of the file, sorted by position. Nothing of a file with a problem is returned.
pub fn parse(source_name: &str, text: &[u8]) -> Result<Vec<Object>, Vec<Problem>> {
    parse_in(source_name, text, "default")
}

/// `parse` with the namespace for objects that name none (`-n NS`).
pub fn parse_in(source_name: &str, text: &[u8], namespace: &str) -> Result<Vec<Object>, Vec<Problem>> {
    let _ = (text, namespace);
    Err(vec![Problem {
        file: source_name.to_owned(),
        line: 1,
        column: 1,
        path: String::new(),
        message: "manifests are not read yet".to_owned(),
    }])
}
