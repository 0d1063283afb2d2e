//! The Linux kernel in safe words.
#![deny(unsafe_code)]
