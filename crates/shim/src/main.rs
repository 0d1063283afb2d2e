//! containerd-shim-killick-v2: one single-threaded process for each pod.
#![forbid(unsafe_code)]

fn main() {}
