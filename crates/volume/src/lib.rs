//! A pod's volumes on disk: prepared before its containers, mounted into each, taken away after them.
//!
//! The functions wait for disks: run them in a worker child. They know nothing of containers' processes.
//!
//! ```text
//! <pod>/volumes/kubernetes.io~empty-dir/<name>      a directory, or a tmpfs on it
//!               kubernetes.io~configmap/<name>      written by `atomic`
//!               kubernetes.io~secret/<name>         the same on a tmpfs
//! ```
#![forbid(unsafe_code)]

mod atomic;
mod host_path;
mod mounts;
pub mod pod_files;
mod prepare;
mod sub_path;
mod teardown;

pub use mounts::{BindMount, RecursiveReadOnly, mounts};
pub use prepare::{Dirs, Kind, Prepared, Surroundings, prepare};
pub use teardown::teardown;
