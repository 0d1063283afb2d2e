//! Makes one pod true on this host.
#![forbid(unsafe_code)]

pub mod container_config;
