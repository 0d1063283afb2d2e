//! An OCI configuration becomes a process.
#![forbid(unsafe_code)]
