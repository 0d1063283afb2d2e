//! The Linux kernel in safe words.
#![deny(unsafe_code)]

pub mod bpf;
pub mod caps;
pub mod cgroup;
pub mod seccomp;
pub mod tree;
pub mod xattr;
