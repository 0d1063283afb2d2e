//! Small settings of the host's kernel for one process or namespace: sysctls, names, limits, the loopback.

use super::error::LaunchError;
use crate::error::{Context, Result};
use std::os::fd::AsRawFd;

pub(super) fn sysctl(name: &str, value: &str) -> Result<(), LaunchError> {
    // Dots separate; a name written with slashes may have dots in its parts (an interface's name).
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let is_plain =
        !relative.is_empty() && relative.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !is_plain {
        return Err(LaunchError::Unsupported(format!("sysctl {name:?}: not a name")));
    }
    Ok(crate::procfs::write(&format!("sys/{relative}"), value)?)
}

#[allow(unsafe_code)]
pub(super) fn personality(domain: u64) -> Result<()> {
    // SAFETY: no memory is passed.
    let done = unsafe { libc::personality(domain as libc::c_ulong) };
    crate::error::check(done.into(), || format!("personality({domain:#x})")).map(drop)
}

#[allow(unsafe_code)]
pub(super) fn set_domainname(name: &str) -> Result<()> {
    // SAFETY: pointer and length are the string's.
    let done = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    crate::error::check(done.into(), || format!("setdomainname({name:?})")).map(drop)
}

#[allow(unsafe_code)]
pub(super) fn set_rlimit(resource: u32, name: &str, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the structure outlives the call; no old value is asked for.
    let done = unsafe { libc::prlimit64(0, resource as _, &limit, std::ptr::null_mut()) };
    crate::error::check(done.into(), || format!("prlimit64({name}, {soft}, {hard})")).map(drop)
}

/// Only what is lower now: raising needs the right, and lowering waits until the last file is open.
#[allow(unsafe_code)]
pub(super) fn raise_limit(resource: u32, name: &str, hard: u64) -> Result<()> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call, which only fills it.
    let asked = unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &mut now) };
    crate::error::check(asked.into(), || format!("prlimit64({name})"))?;
    if hard <= now.rlim_max { Ok(()) } else { set_rlimit(resource, name, now.rlim_cur, hard) }
}

#[allow(unsafe_code)]
pub(super) fn loopback_up() -> Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .call(|| "socket(AF_INET, SOCK_DGRAM)".into())?;
    // SAFETY: ifreq is plain data for which all-zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request outlives the call, and SIOCSIFFLAGS only reads it.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &request) };
    crate::error::check(done.into(), || "ioctl(lo, SIOCSIFFLAGS, IFF_UP)".into()).map(drop)
}
