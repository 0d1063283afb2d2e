//! A container's capability sets: from the OCI names to the kernel's bits.

use killick_sys::caps::{CapSet, CapSets, number};
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

/// The sets of `process.capabilities`, and the names in it that we do not know (a warning, says the specification).
/// Limit the result with `CapSets::limited_to` to what this process can give.
pub fn from_oci(capabilities: &LinuxCapabilities) -> (CapSets, Vec<String>) {
    let mut unknown = Vec::new();
    let mut set = |names: &Option<Capabilities>| {
        names.iter().flatten().fold(CapSet::EMPTY, |set, capability| {
            let name = name(*capability);
            match number(&name) {
                Some(number) => set.with(number),
                None => {
                    unknown.push(name);
                    set
                }
            }
        })
    };
    let sets = CapSets {
        bounding: set(capabilities.bounding()),
        effective: set(capabilities.effective()),
        inheritable: set(capabilities.inheritable()),
        permitted: set(capabilities.permitted()),
        ambient: set(capabilities.ambient()),
    };
    unknown.sort();
    unknown.dedup();
    (sets, unknown)
}

/// The same names as an OCI set.
pub fn to_oci(set: CapSet) -> Capabilities {
    let by_name = |name: &'static str| name.strip_prefix("CAP_").and_then(|short| short.parse::<Capability>().ok());
    set.names().filter_map(by_name).collect()
}

fn name(capability: Capability) -> String {
    format!("CAP_{capability}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_way_there_and_back() {
        let oci = to_oci(CapSet::ALL);
        assert_eq!(oci.len(), killick_sys::caps::NAMES.len());
        let capabilities: LinuxCapabilities =
            serde_json::from_str(r#"{"bounding":["CAP_NET_RAW","CAP_CHECKPOINT_RESTORE"],"effective":["CAP_CHOWN"]}"#)
                .unwrap();
        let (sets, unknown) = from_oci(&capabilities);
        assert_eq!(sets.bounding.names().collect::<Vec<_>>(), ["CAP_NET_RAW", "CAP_CHECKPOINT_RESTORE"]);
        assert_eq!(sets.effective, CapSet(1));
        assert_eq!(sets.ambient, CapSet::EMPTY);
        assert_eq!(unknown, Vec::<String>::new());
    }
}
