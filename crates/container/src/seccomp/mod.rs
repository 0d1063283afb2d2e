//! Seccomp: an OCI profile becomes a BPF program that the child loads with one call.

mod profile;
mod table;

pub use killick_sys::seccomp::Filter;
pub use profile::default_profile;
