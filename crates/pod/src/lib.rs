//! What was asked for, and what should happen next: pure decisions, no I/O, no clock.
#![forbid(unsafe_code)]

pub mod apply;
mod base64;
pub mod env;
pub mod event;
pub mod expand;
pub mod machine;
pub mod manifest;
pub mod plan;
pub mod probe;
mod problems;
pub mod quantity;
pub mod resources;
pub mod restart;
mod schema;
pub mod simulate;
pub mod spec;
pub mod status;
mod suggest;
pub mod time;
pub mod users;
mod validate;
mod yaml;
