//! A pod's volumes on disk: prepared before its containers, mounted into each, taken away after them.
//!
//! The functions wait for disks: run them in a worker child. They know nothing of containers' processes.
#![forbid(unsafe_code)]

mod mounts;
mod prepare;

pub use mounts::{BindMount, RecursiveReadOnly, mounts};
pub use prepare::{Dirs, Kind, Prepared, Surroundings, prepare};
