//! Makes one pod true on this host: carries out the machine's actions and tells it what happened.
//!
//! `run::run` is the one loop: it alone changes the pod's state. What takes time is a task that sends it a message, or
//! a worker child where it may wait for a disk.
#![forbid(unsafe_code)]

pub mod births;
pub mod clock;
pub mod container_config;
mod context;
mod control;
mod execs;
pub mod gc;
pub mod host;
pub mod keep;
pub mod last_words;
mod live;
pub mod log_pump;
mod message;
mod probing;
pub mod reap;
mod removal;
pub mod run;
mod sandbox;
mod start;
mod state;
mod takeover;
mod volumes;
pub mod wait;
mod watch;
