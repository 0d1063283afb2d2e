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
