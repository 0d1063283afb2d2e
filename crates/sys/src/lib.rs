//! The Linux kernel in safe words.
#![deny(unsafe_code)]
pub mod error;
pub mod fd;
pub mod ns;
pub mod pidfd;
pub mod signal;
pub mod spawn;
