//! Makes one pod true on this host.
#![forbid(unsafe_code)]

pub mod container_config;
pub mod last_words;
pub mod log_pump;
