//! Makes one pod true on this host: carries out the machine's actions and tells it what happened.
#![forbid(unsafe_code)]

pub mod clock;
pub mod keep;
pub mod wait;
