//! What a process is beyond its rights, and its children after it: personality and memory policy.

use killick_sys::launch::{LaunchError, Step};
use killick_sys::numa::MemoryPolicy;
use oci_spec::runtime::{LinuxPersonalityDomain, Spec};
use serde::{Deserialize, Serialize};

/// What the configuration says of every process of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attributes {
    personality: Option<u64>,
    memory_policy: Option<MemoryPolicy>,
}

pub(crate) fn of(spec: &Spec) -> Result<Attributes, LaunchError> {
    let personality = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref());
    let personality = personality.map(|personality| match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    });
    Ok(Attributes { personality, memory_policy: crate::memory_policy::of(spec)? })
}

impl Attributes {
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> {
        let policy = self.memory_policy.clone().map(Step::MemoryPolicy);
        self.personality.map(Step::Personality).into_iter().chain(policy)
    }
}
