//! Labels that the kernel's security module gives to the next program: AppArmor's profile, SELinux's context.
//!
//! The file is opened while /proc is surely the host's and written when the child is nearly its program: the container's
//! own /proc, if it has one, is not asked.

use crate::error::{Context, Error, Result};
use crate::procfs;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

const SELINUX_MAGIC: i64 = 0xf97c_ff8c;

/// What is labelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Labelled {
    /// The next program's AppArmor profile.
    AppArmorExec,
    /// The next program's SELinux context.
    SelinuxExec,
    /// The keys and keyrings that are made.
    SelinuxKeys,
}

impl Labelled {
    /// Below `/proc/thread-self/attr`, the first that exists. AppArmor has had files of its own since 5.8.
    fn files(self) -> &'static [&'static str] {
        match self {
            Labelled::AppArmorExec => &["apparmor/exec", "exec"],
            Labelled::SelinuxExec => &["exec"],
            Labelled::SelinuxKeys => &["keycreate"],
        }
    }

    /// As the kernel wants it.
    fn text(self, label: &str) -> String {
        match self {
            Labelled::AppArmorExec => format!("exec {label}"),
            Labelled::SelinuxExec | Labelled::SelinuxKeys => label.to_owned(),
        }
    }
}

pub fn has_apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

/// With a policy: before one is loaded everything is "kernel", and no label means anything (libselinux and runc see it
/// so too).
pub fn has_selinux() -> bool {
    let is_mounted = fs::File::open("/sys/fs/selinux").is_ok_and(|dir| {
        // The number is larger than a signed one of 32 bits.
        crate::mount::fs_magic(&dir).is_ok_and(|magic| magic & 0xffff_ffff == SELINUX_MAGIC)
    });
    let current = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let current = current.trim_end_matches(['\0', '\n']);
    is_mounted && !current.is_empty() && current != "kernel"
}

/// This thread's own file for it.
pub(crate) fn open(what: Labelled) -> Result<OwnedFd> {
    let mut missing = None;
    for file in what.files() {
        // Without thread-self (before 3.17) it is the only thread's.
        for thread in ["thread-self", "self"] {
            match procfs::open_for_write(Path::new(&format!("{thread}/attr/{file}"))) {
                Err(error) if error.errno() == Errno::ENOENT => missing = Some(error),
                other => return other,
            }
        }
    }
    Err(missing.unwrap_or_else(|| Error::new("open(/proc/thread-self/attr)", Errno::ENOENT)))
}

/// An empty label is none.
pub(crate) fn write(file: &OwnedFd, what: Labelled, label: &str) -> Result<()> {
    let text = if label.is_empty() { String::new() } else { what.text(label) };
    nix::unistd::write(file, text.as_bytes()).call(|| shown(what, &text)).map(drop)
}

pub(crate) fn shown(what: Labelled, text: &str) -> String {
    format!("write(`/proc/thread-self/attr/{}`, {text:?})", what.files()[0])
}

/// For plans.
pub(crate) fn describe(what: Labelled, label: &str) -> String {
    shown(what, &what.text(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_the_module_reads() {
        assert_eq!(
            describe(Labelled::AppArmorExec, "web"),
            "write(`/proc/thread-self/attr/apparmor/exec`, \"exec web\")"
        );
        let context = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(
            describe(Labelled::SelinuxExec, context),
            format!("write(`/proc/thread-self/attr/exec`, {context:?})")
        );
    }

    /// Whatever module answers: the file is this thread's, and its refusal has the words that podman looks for.
    #[test]
    fn a_label_that_is_refused_is_named() {
        let worker = crate::spawn::worker(std::time::Duration::from_secs(20), || {
            let opened = open(Labelled::SelinuxExec).map_err(|error| error.to_string())?;
            Ok(write(&opened, Labelled::SelinuxExec, "no such\nlabel").map_err(|error| error.to_string()))
        });
        let written: std::result::Result<(), String> = worker.unwrap().wait().unwrap();
        let error = written.unwrap_err();
        assert!(error.starts_with("write(`/proc/thread-self/attr/exec`, \"no such\\nlabel\"): "), "{error}");
    }
}
