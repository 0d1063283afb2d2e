//! `process.apparmorProfile`, `process.selinuxLabel` and `linux.mountLabel`: done where the kernel's security module is
//! on; where it is off `support` has said so, and nothing is written.

use killick_sys::launch::{Plan, Step};
use killick_sys::lsm::{Labelled, has_apparmor, has_selinux};
use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

/// A process's labels, none for modules that are off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

pub(crate) fn of(process: &Process) -> Labels {
    let wanted = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    Labels {
        apparmor: wanted(process.apparmor_profile()).filter(|_| has_apparmor()),
        selinux: wanted(process.selinux_label()).filter(|_| has_selinux()),
    }
}

impl Labels {
    /// While /proc is the host's.
    pub(crate) fn prepare(&self, plan: &mut Plan) {
        plan.extend(self.apparmor.iter().map(|_| Step::OpenLabel(Labelled::AppArmorExec)));
        if self.selinux.is_some() {
            plan.extend([Step::OpenLabel(Labelled::SelinuxKeys), Step::OpenLabel(Labelled::SelinuxExec)]);
        }
    }

    /// A session keyring that the labelled program may use.
    pub(crate) fn keyring(&self, name: Option<String>) -> Vec<Step> {
        let Some(name) = name else { return Vec::new() };
        let label = |label: &str| Step::Label { what: Labelled::SelinuxKeys, label: label.to_owned() };
        match &self.selinux {
            Some(context) => vec![label(context), Step::SessionKeyring(name), label("")],
            None => vec![Step::SessionKeyring(name)],
        }
    }

    /// For the next program; children have it too.
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> {
        let apparmor = self.apparmor.clone().map(|label| (Labelled::AppArmorExec, label));
        let selinux = self.selinux.clone().map(|label| (Labelled::SelinuxExec, label));
        apparmor.into_iter().chain(selinux).map(|(what, label)| Step::Label { what, label })
    }
}

/// The context of the container's mounts, where SELinux is on.
pub(crate) fn of_mounts(spec: &Spec) -> Option<String> {
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().clone());
    label.filter(|label| !label.is_empty() && has_selinux())
}

/// A file system's data with the context of its files. These have none: what the kernel makes up is labelled by the policy.
pub(crate) fn with_context(fstype: &str, data: &str, label: Option<&str>) -> String {
    match label {
        Some(label) if !matches!(fstype, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2") => {
            let comma = if data.is_empty() { "" } else { "," };
            format!("{data}{comma}context=\"{label}\"")
        }
        _ => data.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_get_a_context_and_the_kernels_own_do_not() {
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let quoted = format!("context=\"{label}\"");
        assert_eq!(with_context("tmpfs", "mode=755", Some(label)), format!("mode=755,{quoted}"));
        assert_eq!(with_context("devpts", "", Some(label)), quoted);
        for fstype in ["proc", "sysfs", "mqueue", "cgroup2"] {
            assert_eq!(with_context(fstype, "", Some(label)), "");
        }
        assert_eq!(with_context("tmpfs", "", None), "");
    }

    #[test]
    fn the_keyring_has_the_programs_label() {
        let labels = Labels { apparmor: Some("web".into()), selinux: Some("u:r:t:s0".into()) };
        let mut plan = Plan::new();
        labels.prepare(&mut plan);
        plan.extend(labels.keyring(Some("k".into())));
        plan.extend(labels.steps());
        assert_eq!(
            plan.to_string().lines().collect::<Vec<_>>(),
            [
                "open(attr of AppArmorExec)",
                "open(attr of SelinuxKeys)",
                "open(attr of SelinuxExec)",
                "write(`/proc/thread-self/attr/keycreate`, \"u:r:t:s0\")",
                "keyctl(KEYCTL_JOIN_SESSION_KEYRING, \"k\")",
                "write(`/proc/thread-self/attr/keycreate`, \"\")",
                "write(`/proc/thread-self/attr/apparmor/exec`, \"exec web\")",
                "write(`/proc/thread-self/attr/exec`, \"u:r:t:s0\")",
            ]
        );
    }
}
