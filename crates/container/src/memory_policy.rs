//! `linux.memoryPolicy`: checked here, set by the child itself and inherited by all that come from it.

use killick_sys::launch::LaunchError;
use killick_sys::numa::{MemoryPolicy, NODES_MAX};
use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Spec};

/// Names for `features`.
pub const MODES: [&str; 7] = [
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
pub const FLAGS: [&str; 3] = ["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// The policy of a configuration, for its first process and for execs.
pub(crate) fn of(spec: &Spec) -> Result<Option<MemoryPolicy>, LaunchError> {
    spec.linux().as_ref().and_then(|linux| linux.memory_policy().as_ref()).map(parse).transpose()
}

fn parse(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy, LaunchError> {
    let (mode, nodes) = (policy.mode(), nodes(policy.nodes().as_deref().unwrap_or_default())?);
    let count = nodes.len();
    let number = match mode {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    match mode {
        MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal if count > 0 => {
            return Err(invalid(format!("memory policy mode requires 0 nodes but got {count}: {mode}")));
        }
        MemoryPolicyModeType::MpolBind
        | MemoryPolicyModeType::MpolInterleave
        | MemoryPolicyModeType::MpolPreferredMany
        | MemoryPolicyModeType::MpolWeightedInterleave
            if count == 0 =>
        {
            return Err(invalid(format!("memory policy mode requires at least one node but got 0: {mode}")));
        }
        // Preferred without nodes is the local one.
        _ => {}
    }
    let flags = policy.flags().iter().flatten().map(|flag| match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    });
    Ok(MemoryPolicy { mode: number | flags.fold(0, |all, flag| all | flag), nodes })
}

fn invalid(what: String) -> LaunchError {
    LaunchError::Unsupported(format!("linux.memoryPolicy: {what}"))
}

fn nodes(list: &str) -> Result<Vec<usize>, LaunchError> {
    if list.trim().is_empty() {
        return Ok(Vec::new());
    }
    crate::scheduling::numbers(list, NODES_MAX).ok_or_else(|| invalid(format!("nodes {list:?} is no list of nodes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_want_nodes_or_none() {
        for (json, expected) in [
            (r#"{"mode":"MPOL_DEFAULT"}"#, Ok((0, vec![]))),
            (r#"{"mode":"MPOL_BIND","nodes":"0-2,5"}"#, Ok((2, vec![0, 1, 2, 5]))),
            (r#"{"mode":"MPOL_INTERLEAVE","nodes":"0","flags":["MPOL_F_STATIC_NODES"]}"#, Ok((3 | 1 << 15, vec![0]))),
            (r#"{"mode":"MPOL_PREFERRED"}"#, Ok((1, vec![]))),
            (r#"{"mode":"MPOL_LOCAL","nodes":"0"}"#, Err("requires 0 nodes but got 1: MPOL_LOCAL")),
            (r#"{"mode":"MPOL_BIND","nodes":""}"#, Err("at least one node but got 0: MPOL_BIND")),
            (r#"{"mode":"MPOL_BIND","nodes":"0-99999"}"#, Err("nodes \"0-99999\" is no list of nodes")),
            (r#"{"mode":"MPOL_BIND","nodes":"a"}"#, Err("nodes \"a\" is no list of nodes")),
        ] {
            let policy: LinuxMemoryPolicy = serde_json::from_str(json).unwrap();
            match (parse(&policy), expected) {
                (Ok(MemoryPolicy { mode, nodes }), Ok(expected)) => assert_eq!((mode, nodes), expected, "{json}"),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (other, expected) => panic!("{json}: {other:?} instead of {expected:?}"),
            }
        }
    }
}
