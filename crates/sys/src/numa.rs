//! On which memory nodes this process and its children take their memory (`set_mempolicy(2)`).
#![allow(unsafe_code)]

use crate::error::{Result, check};
use serde::{Deserialize, Serialize};

/// A policy as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// `MPOL_*` with its flags.
    pub mode: i32,
    pub nodes: Vec<usize>,
}

/// Nodes that a policy may name: more than any kernel is built for.
pub const NODES_MAX: usize = 4096;

pub(crate) fn set_policy(policy: &MemoryPolicy) -> Result<()> {
    let bits = usize::BITS as usize;
    let mut mask = vec![0usize; policy.nodes.iter().max().map_or(0, |last| last / bits + 1)];
    for node in &policy.nodes {
        mask[node / bits] |= 1 << (node % bits);
    }
    // The kernel takes one node less than it is told of.
    let count = if mask.is_empty() { 0 } else { mask.len() * bits + 1 };
    let pointer = if mask.is_empty() { std::ptr::null() } else { mask.as_ptr() };
    // SAFETY: pointer and number of bits are the vector's, which outlives the call, or null and zero.
    let done = unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, pointer, count) };
    check(done, || format!("set_mempolicy({:#x}, nodes {:?})", policy.mode, policy.nodes)).map(drop)
}
