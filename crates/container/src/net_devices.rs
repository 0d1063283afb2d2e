//! `linux.netDevices`: devices of the caller's network namespace that become the container's, moved by the runtime once
//! the container's namespace is there. They are not moved back: the kernel returns what has a home when the namespace ends.

use killick_sys::error::Error;
use killick_sys::netlink::move_device;
use killick_sys::ns::{NamespaceKind, open_of};
use oci_spec::runtime::Spec;
use serde_json::Value;
use std::os::fd::AsFd;

/// With its end, as the kernel counts a name.
const NAME_BYTES: usize = 16;

/// A device and its name inside, in the order of the names.
pub(crate) fn of(spec: &Spec) -> Vec<(String, String)> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let inside = |name: &String, device: &oci_spec::runtime::LinuxNetDevice| {
        device.name().clone().filter(|inside| !inside.is_empty()).unwrap_or_else(|| name.clone())
    };
    let mut devices: Vec<_> =
        devices.into_iter().flatten().map(|(name, device)| (name.clone(), inside(name, device))).collect();
    devices.sort();
    devices
}

/// Into the network namespace of process `pid`.
pub(crate) fn move_all(devices: &[(String, String)], pid: i32) -> Result<(), String> {
    let failed = |name: &str, error: Error| format!("linux.netDevices[{name:?}]: {error}");
    for (name, inside) in devices {
        let moved = open_of(pid, NamespaceKind::Network).and_then(|target| move_device(name, target.as_fd(), inside));
        moved.map_err(|error| failed(name, error))?;
    }
    Ok(())
}

/// Refuses what the kernel would, with the field's name, before anything is made.
pub(crate) fn check(config: &Value, has_network: bool) -> Result<(), String> {
    let devices = config.pointer("/linux/netDevices").and_then(Value::as_object);
    for (name, device) in devices.into_iter().flatten() {
        if !has_network {
            return Err(format!("linux.netDevices[{name:?}]: unable to move network devices without a NET namespace"));
        }
        if !is_name(name) || name.contains('%') {
            return Err(format!("linux.netDevices: invalid device name {name:?}"));
        }
        let inside = device.get("name").and_then(Value::as_str).filter(|inside| !inside.is_empty());
        if let Some(inside) = inside.filter(|inside| !is_name(inside)) {
            return Err(format!("linux.netDevices[{name:?}].name: invalid device name {inside:?}"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    let is_plain = !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0');
    (1..NAME_BYTES).contains(&name.len()) && is_plain && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_the_kernels() {
        let check = |devices: Value| check(&json!({"linux": {"netDevices": devices}}), true);
        assert_eq!(check(json!({"eth0": {"name": "net%d"}, "eth1": {}})), Ok(()));
        for (devices, words) in [
            (json!({"": {}}), "invalid device name \"\""),
            (json!({"a/b": {}}), "invalid device name \"a/b\""),
            (json!({"sixteen-letters!": {}}), "invalid device name"),
            (json!({"eth%d": {}}), "invalid device name"),
            (json!({"eth0": {"name": ".."}}), "linux.netDevices[\"eth0\"].name: invalid device name \"..\""),
            (json!({"eth0": {"name": "a b"}}), "invalid device name \"a b\""),
        ] {
            let error = check(devices).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let without = super::check(&json!({"linux": {"netDevices": {"eth0": {}}}}), false).unwrap_err();
        assert!(without.contains("without a NET namespace"), "{without}");
    }
}
