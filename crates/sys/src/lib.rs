//! The Linux kernel in safe words.
#![deny(unsafe_code)]

pub mod bpf;
pub mod caps;
pub mod cgroup;
pub mod daemon;
pub mod error;
mod execute;
pub mod facts;
pub mod fd;
pub mod hook;
pub mod idmapped;
pub mod launch;
pub mod lsm;
pub mod mount;
pub mod netlink;
pub mod ns;
pub mod numa;
pub mod path;
pub mod pidfd;
pub mod procfs;
pub mod program;
pub mod schedule;
pub mod sealed;
pub mod seccomp;
pub mod selfexe;
pub mod seqpacket;
pub mod signal;
pub mod spawn;
pub mod tree;
pub mod tty;
pub mod userns;
pub mod xattr;
