//! What was asked for, and what should happen next: pure decisions, no I/O, no clock.
#![forbid(unsafe_code)]

pub mod apply;
pub mod env;
pub mod event;
pub mod expand;
pub mod machine;
pub mod manifest;
pub mod probe;
pub mod quantity;
pub mod resources;
pub mod restart;
pub mod simulate;
pub mod spec;
pub mod status;
pub mod time;
