//! Where pods get their addresses: the bridge, its subnet, and the directory that remembers who has which.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub const BRIDGE: &str = "killick0";
pub const SUBNET: Subnet = Subnet { network: Ipv4Addr::new(10, 88, 0, 0), prefix: 16 };
/// IFNAMSIZ without the final NUL.
const LINK_NAME_BYTES_MAX: usize = 15;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub bridge: String,
    pub subnet: Subnet,
    /// One file for each address given out, and the lock (`<run>/ipam`).
    pub ipam: PathBuf,
}

impl Settings {
    pub fn new(ipam: impl Into<PathBuf>) -> Settings {
        Settings { bridge: BRIDGE.to_owned(), subnet: SUBNET, ipam: ipam.into() }
    }

    /// The node's configuration file, `{"bridge": "killick0", "subnet": "10.88.0.0/16"}`; other keys are others'.
    /// A missing file means the defaults.
    pub fn load(config: &Path, ipam: impl Into<PathBuf>) -> Result<Settings, String> {
        let text = match std::fs::read_to_string(config) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Settings::new(ipam)),
            Err(error) => return Err(format!("{}: {error}", config.display())),
        };
        Settings::parse(&text, ipam).map_err(|error| format!("{}: {error}", config.display()))
    }

    fn parse(text: &str, ipam: impl Into<PathBuf>) -> Result<Settings, String> {
        #[derive(Deserialize)]
        struct File {
            bridge: Option<String>,
            subnet: Option<String>,
        }
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut settings = Settings::new(ipam);
        if let Some(bridge) = file.bridge {
            let bad = bridge.is_empty()
                || bridge.len() > LINK_NAME_BYTES_MAX
                || bridge.starts_with('.')
                || bridge.chars().any(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
            if bad {
                return Err(format!(
                    "bridge: {bridge:?} is no name for a link: 1 to {LINK_NAME_BYTES_MAX} of [-_.A-Za-z0-9]"
                ));
            }
            settings.bridge = bridge;
        }
        if let Some(subnet) = file.subnet {
            settings.subnet = subnet.parse().map_err(|error| format!("subnet: {error}"))?;
        }
        Ok(settings)
    }
}

/// An IPv4 network with room for a gateway and a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        u32::from(ip) & mask(self.prefix) == u32::from(self.network)
    }

    pub fn overlaps(self, other: Ipv4Addr, prefix: u8) -> bool {
        let shorter = mask(self.prefix.min(prefix));
        u32::from(self.network) & shorter == u32::from(other) & shorter
    }

    /// The first address: the bridge's.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// How many addresses pods can have: all but the network's, the gateway's and the broadcast address.
    pub fn pod_addresses(self) -> u32 {
        (!mask(self.prefix)) - 2
    }

    /// The pod address number `index`, from 0.
    pub fn pod_address(self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 2 + index % self.pod_addresses())
    }

    pub fn pod_index(self, ip: Ipv4Addr) -> Option<u32> {
        let index = u32::from(ip).checked_sub(u32::from(self.network) + 2)?;
        (index < self.pod_addresses()).then_some(index)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Subnet, String> {
        let wrong = || format!("{text:?} is no IPv4 subnet like \"10.88.0.0/16\"");
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: Ipv4Addr = network.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=30).contains(&prefix) {
            return Err(format!("{text:?}: the prefix must be between /8 and /30"));
        }
        let first = Ipv4Addr::from(u32::from(network) & mask(prefix));
        if first != network {
            return Err(format!("{text:?} has bits set after its prefix; its network is {first}/{prefix}"));
        }
        Ok(Subnet { network, prefix })
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Subnet, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_knows_its_gateway_and_its_pods() {
        assert_eq!(SUBNET.to_string(), "10.88.0.0/16");
        assert_eq!(SUBNET.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(SUBNET.pod_addresses(), 65_533);
        assert_eq!(SUBNET.pod_address(0), Ipv4Addr::new(10, 88, 0, 2));
        assert_eq!(SUBNET.pod_address(65_532), Ipv4Addr::new(10, 88, 255, 254));
        assert_eq!(SUBNET.pod_address(65_533), Ipv4Addr::new(10, 88, 0, 2));
        let small: Subnet = "10.0.0.4/30".parse().unwrap();
        assert_eq!((small.pod_addresses(), small.pod_address(7)), (1, Ipv4Addr::new(10, 0, 0, 6)));
        assert_eq!(SUBNET.pod_index(Ipv4Addr::new(10, 88, 1, 1)), Some(255));
        assert_eq!(SUBNET.pod_index(Ipv4Addr::new(10, 88, 0, 1)), None);
        assert_eq!(SUBNET.pod_index(Ipv4Addr::new(10, 88, 255, 255)), None);
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        for (network, prefix, overlaps) in [
            ([10, 88, 0, 0], 16, true),
            ([10, 88, 4, 0], 24, true),
            ([10, 0, 0, 0], 8, true),
            ([10, 89, 0, 0], 16, false),
            ([192, 168, 0, 0], 16, false),
            ([10, 88, 255, 255], 32, true),
        ] {
            assert_eq!(SUBNET.overlaps(network.into(), prefix), overlaps, "{network:?}/{prefix}");
        }
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        for (text, error) in [
            (
                r#"{"subnet": "10.88.0.1/16"}"#,
                "subnet: \"10.88.0.1/16\" has bits set after its prefix; its network is 10.88.0.0/16",
            ),
            (r#"{"subnet": "10.88.0.0"}"#, "subnet: \"10.88.0.0\" is no IPv4 subnet like \"10.88.0.0/16\""),
            (r#"{"subnet": "10.88.0.0/31"}"#, "subnet: \"10.88.0.0/31\": the prefix must be between /8 and /30"),
            (
                r#"{"bridge": "a name that is long"}"#,
                "bridge: \"a name that is long\" is no name for a link: 1 to 15 of [-_.A-Za-z0-9]",
            ),
        ] {
            assert_eq!(Settings::parse(text, "/x").unwrap_err(), error);
        }
        let given = Settings::parse(r#"{"bridge": "k1", "subnet": "10.90.0.0/24", "other": 1}"#, "/x").unwrap();
        assert_eq!((given.bridge.as_str(), given.subnet.to_string().as_str()), ("k1", "10.90.0.0/24"));
    }
}
