//! The shipped binaries against a real kernel.
#![forbid(unsafe_code)]

fn main() {}
