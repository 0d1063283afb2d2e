//! What was asked for, and what should happen next: pure decisions, no I/O, no clock.
#![forbid(unsafe_code)]

pub mod event;
pub mod machine;
pub mod probe;
pub mod restart;
pub mod simulate;
pub mod spec;
pub mod status;
pub mod time;
