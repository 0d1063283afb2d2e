//! Which devices a container may open or make: the rules, and how each cgroup version is told.
//!
//! A rule list is read as the OCI specification has it: everything is denied, then each rule in the listed order, then
//! the devices that every container has. For each kind of access the last rule that matches decides.

use std::path::PathBuf;

use killick_sys::cgroup::{self as files, CgroupFileError};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use crate::cgroup::Cgroup;
use crate::resources::Version;

mod host;
pub mod v1;
pub mod v2;

pub use host::of_host;

/// `m`, `r`, `w` as the kernel's eBPF context has them.
pub const MKNOD: u8 = 1;
pub const READ: u8 = 2;
pub const WRITE: u8 = 4;
pub const ALL_ACCESS: u8 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `a`: every device.
    All,
    Block,
    Char,
}

/// One device rule; `None` for a number is `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("linux.resources.devices[{index}].type: p; a fifo has no device numbers to control")]
    Fifo { index: usize },
    #[error("linux.resources.devices[{index}].access: {access:?}; this is one or more of r, w and m")]
    Access { index: usize, access: String },
    #[error("linux.resources.devices[{index}].{field}: {value}; no device has this number")]
    Number { index: usize, field: &'static str, value: i64 },
    #[error(
        "linux.resources.devices[{index}]: cannot deny {rule} after a wider allow rule: the v1 devices controller cannot \
         express the hole"
    )]
    Hole { index: usize, rule: String },
    #[error("the devices controller is not to be had here: devices cannot be restricted; mount the devices controller")]
    NoController,
    #[error(transparent)]
    File(#[from] CgroupFileError),
    #[error("devices of cgroup {}: {call}: {errno:?}{hint}", .path.display())]
    Bpf { path: PathBuf, call: &'static str, errno: Errno, hint: &'static str },
}

/// A device node that every container has in `/dev`: character devices, mode 0666, owner 0:0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub path: &'static str,
    pub major: u32,
    pub minor: u32,
}

pub const DEFAULT_NODES: [Node; 6] = [
    Node { path: "/dev/null", major: 1, minor: 3 },
    Node { path: "/dev/zero", major: 1, minor: 5 },
    Node { path: "/dev/full", major: 1, minor: 7 },
    Node { path: "/dev/random", major: 1, minor: 8 },
    Node { path: "/dev/urandom", major: 1, minor: 9 },
    Node { path: "/dev/tty", major: 5, minor: 0 },
];

const fn char_device(major: u32, minor: Option<u32>) -> Rule {
    Rule { allow: true, kind: Kind::Char, major: Some(major), minor, access: ALL_ACCESS }
}

const fn make_any(kind: Kind) -> Rule {
    Rule { allow: true, kind, major: None, minor: None, access: MKNOD }
}

/// Appended to every rule list, in runc's order: any node may be made, but only these may be opened. Unlike runc no tun
/// (10:200): containerd's CRI does not ask for it.
pub const DEFAULT_RULES: [Rule; 11] = [
    make_any(Kind::Char),
    make_any(Kind::Block),
    char_device(1, Some(3)),
    char_device(1, Some(8)),
    char_device(1, Some(7)),
    char_device(5, Some(0)),
    char_device(1, Some(5)),
    char_device(1, Some(9)),
    char_device(5, Some(1)), // console
    char_device(136, None),  // pts
    char_device(5, Some(2)), // ptmx
];

/// The listed rules as values; the defaults are not among them.
pub fn parse(devices: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, DeviceError> {
    devices.iter().enumerate().map(|(index, device)| parse_one(index, device)).collect()
}

fn parse_one(index: usize, device: &LinuxDeviceCgroup) -> Result<Rule, DeviceError> {
    let kind = match device.typ() {
        None | Some(LinuxDeviceType::A) => Kind::All,
        Some(LinuxDeviceType::B) => Kind::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Kind::Char,
        Some(LinuxDeviceType::P) => return Err(DeviceError::Fifo { index }),
    };
    let number = |field: &'static str, value: Option<i64>, bits: u32| match value {
        None | Some(-1) => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(number) if number >> bits == 0 => Ok(Some(number)),
            Ok(_) | Err(_) => Err(DeviceError::Number { index, field, value }),
        },
    };
    let text = device.access().as_deref().unwrap_or_default();
    let mut access = 0;
    for letter in text.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(DeviceError::Access { index, access: text.to_owned() }),
        };
    }
    // No letters: every access, as runc reads it.
    let access = if access == 0 { ALL_ACCESS } else { access };
    // The kernel has 12 bits of major and 20 of minor.
    let (major, minor) = (number("major", device.major(), 12)?, number("minor", device.minor(), 20)?);
    // Kernel v1 knows `a` only as everything; as a rule for one device number it is two rules, so it is kept whole.
    Ok(Rule { allow: device.allow(), kind, major, minor, access })
}

/// Whether a device may be accessed under `rules` (defaults included by the caller): the reference that both writers
/// are tested against.
pub fn allows(rules: &[Rule], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
    [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
        let last = rules.iter().rev().find(|rule| {
            (rule.kind == Kind::All || rule.kind == kind)
                && rule.major.is_none_or(|m| m == major)
                && rule.minor.is_none_or(|m| m == minor)
                && rule.access & bit != 0
        });
        last.is_some_and(|rule| rule.allow)
    })
}

/// Restricts the devices of a cgroup to what `resources` lists and the defaults; nothing when it lists none at all
/// (`None`: a cgroup that is only a parent).
pub(crate) fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), DeviceError> {
    let Some(devices) = resources.devices() else { return Ok(()) };
    let rules = parse(devices)?;
    match cgroup.dir_of("devices") {
        Some((dir, Version::V1)) => v1::apply(&dir, &rules),
        Some((_, Version::V2)) | None => match cgroup.unified_dir().filter(|_| cgroup.layout().is_v2()) {
            Some(dir) => v2::apply(&dir, &rules),
            None if in_user_namespace() => Ok(()),
            None => Err(DeviceError::NoController),
        },
    }
}

/// In a user namespace of somebody else's making the kernel refuses device rules, and mknod besides.
fn in_user_namespace() -> bool {
    let map = files::read(std::path::Path::new("/proc/self/uid_map")).unwrap_or_default();
    let fields: Vec<&str> = map.split_whitespace().collect();
    !map.is_empty() && fields != ["0", "0", "4294967295"]
}

impl std::fmt::Display for Rule {
    /// The v1 controller's own words: `c 1:3 rwm`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::All => 'a',
            Kind::Block => 'b',
            Kind::Char => 'c',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}
