//! Capabilities: names and numbers, what this kernel knows, and the calls that set them.
//!
//! The setters are for a child between clone and execve: raw calls, no allocation, no formatting.
#![allow(unsafe_code)]

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Kernel names by number (`linux/capability.h`).
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities: bit n is capability n, as in `/proc/<pid>/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct CapSet(pub u64);

impl CapSet {
    pub const EMPTY: CapSet = CapSet(0);

    /// All capabilities that have a name here.
    pub const ALL: CapSet = CapSet((1 << NAMES.len()) - 1);

    pub fn contains(self, number: u32) -> bool {
        number < 64 && self.0 & (1 << number) != 0
    }

    pub fn has(self, name: &str) -> bool {
        number(name).is_some_and(|n| self.contains(n))
    }

    #[must_use]
    pub fn with(self, number: u32) -> CapSet {
        CapSet(self.0 | 1 << number)
    }

    #[must_use]
    pub fn without(self, number: u32) -> CapSet {
        CapSet(self.0 & !(1 << number))
    }

    #[must_use]
    pub fn union(self, other: CapSet) -> CapSet {
        CapSet(self.0 | other.0)
    }

    #[must_use]
    pub fn intersection(self, other: CapSet) -> CapSet {
        CapSet(self.0 & other.0)
    }

    #[must_use]
    pub fn difference(self, other: CapSet) -> CapSet {
        CapSet(self.0 & !other.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |n| self.contains(*n))
    }

    /// Kernel names, by number. A number without a name is left out.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.numbers().filter_map(|n| NAMES.get(n as usize).copied())
    }
}

/// The number of a capability: `CAP_NET_RAW` or `NET_RAW`, in any case.
pub fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| n.strip_prefix("CAP_") == Some(short)).map(|n| n as u32)
}

/// The five sets of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CapSets {
    pub bounding: CapSet,
    pub effective: CapSet,
    pub inheritable: CapSet,
    pub permitted: CapSet,
    pub ambient: CapSet,
}

impl CapSets {
    /// Bounding, effective and permitted are `set`, the others empty: what a container gets (an inheritable set would
    /// be CVE-2022-24769).
    pub fn container(set: CapSet) -> CapSets {
        CapSets { bounding: set, effective: set, permitted: set, ..CapSets::default() }
    }

    /// Without what this process cannot give: ask for no more than `supported()`.
    #[must_use]
    pub fn limited_to(self, supported: CapSet) -> CapSets {
        CapSets {
            bounding: self.bounding.intersection(supported),
            effective: self.effective.intersection(supported),
            inheritable: self.inheritable.intersection(supported),
            permitted: self.permitted.intersection(supported),
            ambient: self.ambient.intersection(supported),
        }
    }
}

/// The capabilities that this kernel knows: asked of the kernel, since a container's /proc may be masked.
pub fn supported() -> CapSet {
    CapSet(known().fold(0, |set, (n, _)| set | 1 << n))
}

/// This thread's bounding set.
pub fn bounding() -> CapSet {
    CapSet(known().filter(|(_, is_set)| *is_set).fold(0, |set, (n, _)| set | 1 << n))
}

/// Numbers have no gaps: the first that is refused ends them.
fn known() -> impl Iterator<Item = (u32, bool)> {
    (0..64).map_while(|n| bounding_read(n).ok().map(|is_set| (n, is_set)))
}

/// This thread's effective, permitted and inheritable sets.
pub fn current() -> Result<CapSets, Errno> {
    let mut data = [CapData::default(); 2];
    // SAFETY: header and data are valid for version 3, which writes two elements.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &mut CapHeader::this_thread(), data.as_mut_ptr()) })?;
    let join = |field: fn(&CapData) -> u32| CapSet(u64::from(field(&data[0])) | u64::from(field(&data[1])) << 32);
    Ok(CapSets {
        bounding: bounding(),
        effective: join(|d| d.effective),
        inheritable: join(|d| d.inheritable),
        permitted: join(|d| d.permitted),
        ambient: CapSet(
            (0..64)
                .filter(|n| prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong, *n) == Ok(1))
                .fold(0, |set, n| set | 1 << n),
        ),
    })
}

/// Drops `drop` from the bounding set, one prctl each: give only what is set (`bounding().difference(wanted)`,
/// computed by the parent), since each call costs.
pub fn drop_bounding(drop: CapSet) -> Result<(), Errno> {
    for number in drop.numbers() {
        prctl(libc::PR_CAPBSET_DROP, number.into(), 0)?;
    }
    Ok(())
}

/// Sets effective, permitted and inheritable. After setuid: see `keep_caps`.
pub fn set(sets: &CapSets) -> Result<(), Errno> {
    let (header, data) = raw(sets);
    // SAFETY: header and data are valid for version 3, which reads two elements.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// What capset(2) takes for this thread.
pub(crate) fn raw(sets: &CapSets) -> ([CapHeader; 1], [CapData; 2]) {
    let half = |shift: u32| CapData {
        effective: (sets.effective.0 >> shift) as u32,
        permitted: (sets.permitted.0 >> shift) as u32,
        inheritable: (sets.inheritable.0 >> shift) as u32,
    };
    ([CapHeader::this_thread()], [half(0), half(32)])
}

/// Empties the ambient set and raises `ambient` in it. Returns what could not be raised: a warning, never a failure,
/// as runc has it. A kernel without ambient capabilities (before 4.3) raises none.
pub fn set_ambient(ambient: CapSet) -> CapSet {
    if prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0).is_err() {
        return ambient;
    }
    let mut refused = CapSet::EMPTY;
    for number in ambient.numbers() {
        if prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong, number).is_err() {
            refused = refused.with(number);
        }
    }
    refused
}

/// Whether the kernel has ambient capabilities (4.3).
pub fn has_ambient() -> bool {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong, 0).is_ok()
}

/// Keeps the permitted set over the next setuid away from 0; execve clears the flag.
pub fn keep_caps(keep: bool) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

fn bounding_read(number: u32) -> Result<bool, Errno> {
    prctl(libc::PR_CAPBSET_READ, number.into(), 0).map(|set| set == 1)
}

fn prctl(option: libc::c_int, a: libc::c_ulong, b: u32) -> Result<libc::c_int, Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here take integers only and change nothing but this thread's credentials.
    Errno::result(unsafe { libc::prctl(option, a, libc::c_ulong::from(b), zero, zero) })
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

impl CapHeader {
    /// `_LINUX_CAPABILITY_VERSION_3`, 64 bits; pid 0 is the calling thread.
    fn this_thread() -> CapHeader {
        CapHeader { version: 0x2008_0522, pid: 0 }
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(number("CAP_CHOWN"), Some(0));
        assert_eq!(number("net_raw"), Some(13));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("CAP_ALL"), None);
        assert_eq!(number(""), None);
        for (at, name) in NAMES.iter().enumerate() {
            assert_eq!(number(name), Some(at as u32));
        }
        for cap in caps::all() {
            assert_eq!(number(&cap.to_string()), Some(u32::from(cap.index())), "{cap} as the caps crate has it");
        }
    }

    #[test]
    fn the_kernels_own_answer_is_what_status_shows() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|l| l.starts_with(name)).unwrap();
            CapSet(u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
        };
        let now = current().unwrap();
        assert_eq!(now.bounding, field("CapBnd"));
        assert_eq!(now.effective, field("CapEff"));
        assert_eq!(now.permitted, field("CapPrm"));
        assert_eq!(now.inheritable, field("CapInh"));
        assert_eq!(now.ambient, field("CapAmb"));
        let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap().trim().parse().unwrap();
        assert_eq!(supported(), CapSet((1 << (last + 1)) - 1));
    }
}
