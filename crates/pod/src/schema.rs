//! The fields of the objects that a manifest may hold: one table, and the two walks over it.
//!
//! `check` compares a tree with the table: unknown, duplicate and refused fields, wrong types, words that are not of
//! an enumeration. `build` turns a tree without problems into the JSON of `spec.rs`, defaults filled in.
//! What depends on two fields at once is in `validate`.

mod build;
mod check;
mod container;
mod metadata;
mod pod;
mod probe;
mod scheduling;
mod volume;

pub use build::build;
pub use check::{check, quantity_text};
pub use metadata::{CONFIG_MAP, LIST, SECRET};
pub use pod::POD;
pub use volume::is_volume_source;

/// What may stand in a place.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    Bool,
    Int32,
    Int64,
    IntOrText,
    Quantity,
    /// One of these words, sorted. Empty text counts as not set.
    Enum(&'static [&'static str]),
    Object(&'static Table),
    List(&'static Kind),
    /// Any keys, values of one kind.
    Map(&'static Kind),
    /// Only duplicate keys are looked for.
    Any,
}

/// An object's fields, by the API's names.
#[derive(Debug)]
pub struct Table {
    pub fields: &'static [Field],
}

#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub support: Support,
    pub default: Preset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    Honoured,
    /// Accepted; on one node it changes nothing.
    NoEffect,
    /// Refused by name, with what it is.
    Refused(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    None,
    Int(i64),
    /// For 0, too: the API cannot tell it from a number that is not set.
    Positive(i64),
    Bool(bool),
    Text(&'static str),
}

impl Table {
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.fields.iter().map(|field| field.name)
    }
}

/// Where in a pod a field of this name belongs, for one that was indented wrongly: `spec.containers[]`.
///
/// The place nearest to the top wins; `None` also for names at the top itself, and for those of several places.
pub fn place_of(name: &str) -> Option<String> {
    let mut level = vec![(String::new(), &POD)];
    while !level.is_empty() {
        let has = |table: &Table| table.field(name).is_some_and(|field| !matches!(field.support, Support::Refused(_)));
        let found: Vec<_> = level.iter().filter(|(_, table)| has(table)).collect();
        match found.first() {
            None => level = level.iter().flat_map(|(path, table)| below(path, table)).collect(),
            // `containers` and `initContainers` have one table, as the three probes do.
            Some((path, first)) if found.iter().all(|(_, table)| std::ptr::eq(*table, *first)) => {
                return Some(path.clone()).filter(|path| !path.is_empty());
            }
            Some(_) => return None,
        }
    }
    None
}

fn below(path: &str, table: &'static Table) -> Vec<(String, &'static Table)> {
    let honoured = table.fields.iter().filter(|field| field.support == Support::Honoured);
    let tables = honoured.filter_map(|field| {
        let path = crate::problems::join(path, field.name);
        match field.kind {
            Kind::Object(table) => Some((path, table)),
            Kind::List(Kind::Object(table)) => Some((format!("{path}[]"), *table)),
            _ => None,
        }
    });
    tables.collect()
}

impl Field {
    const fn or(self, default: Preset) -> Field {
        Field { default, ..self }
    }

    const fn or_text(self, text: &'static str) -> Field {
        self.or(Preset::Text(text))
    }
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, support: Support::Honoured, default: Preset::None }
}

const fn ignored(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, support: Support::NoEffect, default: Preset::None }
}

const fn refused(name: &'static str, what: &'static str) -> Field {
    Field { name, kind: Kind::Any, support: Support::Refused(what), default: Preset::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(table: &'static Table, seen: &mut Vec<&'static Table>) {
        fn inner(kind: &Kind, seen: &mut Vec<&'static Table>) {
            match kind {
                Kind::Object(table) => visit(table, seen),
                Kind::List(kind) | Kind::Map(kind) => inner(kind, seen),
                _ => {}
            }
        }
        seen.push(table);
        for field in table.fields {
            inner(&field.kind, seen);
        }
    }

    #[test]
    fn a_field_in_a_wrong_place_is_told_where_it_belongs() {
        for (name, place) in [
            ("hostNetwork", Some("spec")),
            ("image", Some("spec.containers[]")),
            ("livenessProbe", Some("spec.containers[]")),
            ("periodSeconds", Some("spec.containers[].livenessProbe")),
            ("labels", Some("metadata")),
            ("emptyDir", Some("spec.volumes[]")),
            ("kind", None),
            ("nosuch", None),
        ] {
            assert_eq!(place_of(name).as_deref(), place, "{name}");
        }
    }

    #[test]
    fn every_name_is_in_its_table_once_and_every_enumeration_is_sorted() {
        let mut tables = Vec::new();
        for table in [&POD, &CONFIG_MAP, &SECRET, &LIST] {
            visit(table, &mut tables);
        }
        assert!(tables.len() > 40, "{}", tables.len());
        for table in tables {
            for (index, field) in table.fields.iter().enumerate() {
                assert!(!table.fields[..index].iter().any(|other| other.name == field.name), "{} twice", field.name);
                if let Kind::Enum(words) = field.kind {
                    assert!(words.is_sorted(), "{words:?}");
                }
            }
        }
    }
}
