//! `securityContext`: users, capabilities, masks and seccomp. The container's value goes before the pod's, field by
//! field.

use killick_container::caps::to_oci;
use killick_container::seccomp::default_profile;
use killick_pod::spec::{Pod, PodSecurityContext, SeccompKind, SecurityContext};
use killick_sys::caps::{self, CapSet};
use killick_sys::launch::UserQuery;
use oci_spec::runtime::{LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxSeccomp};

use super::is_privileged;

/// What every container has (containerd's default set).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The capabilities that a container has: the defaults with `add` and `drop`, or all that the host can give.
///
/// `ALL` goes first, so that single names still count: `add: [ALL], drop: [CHOWN]` is all but one, `drop: [ALL],
/// add: [CHOWN]` is one.
pub(super) fn capabilities(security: &SecurityContext, host: CapSet) -> Result<CapSet, String> {
    if is_privileged(security) {
        return Ok(host);
    }
    let mut set = DEFAULT_CAPABILITIES.iter().filter_map(|name| caps::number(name)).fold(CapSet::EMPTY, CapSet::with);
    let Some(wanted) = &security.capabilities else { return Ok(set) };
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL");
    if wanted.add.iter().any(|name| is_all(&name)) {
        set = host;
    }
    if wanted.drop.iter().any(|name| is_all(&name)) {
        set = CapSet::EMPTY;
    }
    let number = |name: &String| caps::number(name).ok_or_else(|| format!("unknown capability {name:?}"));
    for name in wanted.add.iter().filter(|name| !is_all(name)) {
        set = set.with(number(name)?);
    }
    for name in wanted.drop.iter().filter(|name| !is_all(name)) {
        set = set.without(number(name)?);
    }
    Ok(set)
}

/// Bounding, effective and permitted; an inheritable set is CVE-2022-24769.
pub(super) fn oci_capabilities(set: CapSet) -> Result<LinuxCapabilities, String> {
    LinuxCapabilitiesBuilder::default()
        .bounding(to_oci(set))
        .effective(to_oci(set))
        .permitted(to_oci(set))
        .inheritable(to_oci(CapSet::EMPTY))
        .ambient(to_oci(CapSet::EMPTY))
        .build()
        .map_err(|e| e.to_string())
}

pub(super) fn user(pod: &PodSecurityContext, security: &SecurityContext, image_user: &str) -> UserQuery {
    let uid = security.run_as_user.or(pod.run_as_user);
    let gid = security.run_as_group.or(pod.run_as_group);
    let user = uid.map_or_else(|| image_user.to_owned(), |uid| uid.to_string());
    let extra_groups = pod.supplemental_groups.iter().copied().chain(pod.fs_group).fold(Vec::new(), |mut all, gid| {
        if !all.contains(&gid) {
            all.push(gid);
        }
        all
    });
    // Policy Merge: the groups that the image's /etc/group gives the user are added.
    UserQuery { user, gid, extra_groups, image_groups: true }
}

/// The numbers that are known without the image's `/etc/passwd`.
pub(super) fn numeric_ids(user: &UserQuery) -> (u32, u32) {
    let (uid, gid) = user.user.split_once(':').unwrap_or((&user.user, ""));
    (uid.parse().unwrap_or(0), user.gid.or(gid.parse().ok()).unwrap_or(0))
}

pub(super) fn masked_paths(security: &SecurityContext, of_this_host: &[String]) -> Result<Vec<String>, String> {
    match security.proc_mount.as_deref() {
        None | Some("Default") => {}
        Some(other) => return Err(format!("procMount {other:?} is not supported: it needs a user namespace")),
    }
    if is_privileged(security) {
        return Ok(Vec::new());
    }
    Ok(MASKED_PATHS.iter().map(|&path| path.to_owned()).chain(of_this_host.iter().cloned()).collect())
}

pub(super) fn readonly_paths(security: &SecurityContext) -> Vec<String> {
    let paths: &[&str] = if is_privileged(security) { &[] } else { &READONLY_PATHS };
    paths.iter().map(|&path| path.to_owned()).collect()
}

/// RuntimeDefault unless the pod says Unconfined or the container is privileged (docs/differences.md: kubelet's own
/// default is Unconfined).
pub(super) fn seccomp(
    pod: &Pod,
    security: &SecurityContext,
    capabilities: CapSet,
    ptrace_is_filtered: bool,
) -> Result<Option<LinuxSeccomp>, String> {
    if is_privileged(security) {
        return Ok(None);
    }
    let profile = security.seccomp_profile.as_ref().or(pod.spec.security_context.seccomp_profile.as_ref());
    match profile.map(|p| p.kind) {
        Some(SeccompKind::Unconfined) => Ok(None),
        None | Some(SeccompKind::RuntimeDefault) => Ok(Some(default_profile(capabilities, ptrace_is_filtered))),
        Some(SeccompKind::Localhost) => Err("seccompProfile.type Localhost is not supported".to_owned()),
    }
}
