//! An OCI configuration becomes a process.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod devices;
pub mod resources;
