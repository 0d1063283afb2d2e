//! Mount options as OCI configurations write them: words to flags (runtime-spec, "Mount options").

use killick_sys::launch::Propagation;
use killick_sys::mount::{
    MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME, MS_LAZYTIME, MS_NOSYMFOLLOW,
};
use serde_json::Value;

/// Every option that is ours and not the file system's, sorted (`features`).
#[rustfmt::skip]
pub const OPTIONS: [&str; 70] = [
    "async", "atime", "bind", "copy-symlink", "defaults", "dest-nofollow", "dev", "diratime", "dirsync", "exec", "idmap",
    "iversion", "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime",
    "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "rasync", "ratime", "rbind", "rdev",
    "rdiratime", "rdirsync", "relatime", "remount", "rexec", "ridmap", "rmand", "rnoatime", "rnodev", "rnodiratime",
    "rnoexec", "rnomand", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime",
    "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "rsync", "runbindable", "rw", "shared",
    "silent", "slave", "src-nofollow", "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable",
];

/// What is dropped or read otherwise than it stands there.
pub(crate) fn warnings(config: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for mount in config.get("mounts").and_then(Value::as_array).into_iter().flatten() {
        let destination = mount.get("destination").and_then(Value::as_str).unwrap_or_default();
        if !destination.starts_with('/') {
            warnings.push(format!("mount {destination:?}: a relative destination is taken from /"));
        }
        let listed = mount.get("options").and_then(Value::as_array).into_iter().flatten();
        let listed: Vec<String> = listed.filter_map(Value::as_str).map(str::to_owned).collect();
        let parsed = parse(&listed);
        let is_bind = parsed.bind || mount.get("type").and_then(Value::as_str) == Some("bind");
        if is_bind && !parsed.data.is_empty() {
            warnings.push(format!("mount {destination}: a bind mount takes no data, dropped: {:?}", parsed.data));
        }
    }
    warnings
}

/// A later option wins over an earlier one; what was cleared is kept, because a bind takes its source's flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) recursive_set: u64,
    pub(crate) recursive_clear: u64,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) bind: bool,
    pub(crate) recursive: bool,
    /// Owners shown by a user namespace's maps; whether of the mounts below too.
    pub(crate) idmap: Option<bool>,
    /// What is mounted already is changed.
    pub(crate) remount: bool,
    /// A source that is a link is made again, not mounted.
    pub(crate) copy_symlink: bool,
    /// A link itself is mounted, or mounted on.
    pub(crate) source_not_followed: bool,
    pub(crate) destination_not_followed: bool,
    /// What is the file system's own business.
    pub(crate) data: String,
}

const MS_I_VERSION: u64 = 1 << 23;

pub(crate) fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        parsed.apply(option);
    }
    parsed
}

impl Options {
    fn apply(&mut self, option: &str) {
        if let Some((flag, on)) = flag(option) {
            (self.set, self.clear) =
                if on { (self.set | flag, self.clear & !flag) } else { (self.set & !flag, self.clear | flag) };
            return;
        }
        if let Some((attribute, on)) = recursive_attribute(option) {
            (self.recursive_set, self.recursive_clear) = if on {
                (self.recursive_set | attribute, self.recursive_clear & !attribute)
            } else {
                (self.recursive_set & !attribute, self.recursive_clear | attribute)
            };
            return;
        }
        match option {
            // The kernel has no other word for what is not relatime: nothing is changed.
            "defaults" | "loud" | "" | "rnorelatime" => {}
            "remount" => self.remount = true,
            "copy-symlink" => self.copy_symlink = true,
            "src-nofollow" => self.source_not_followed = true,
            "dest-nofollow" => self.destination_not_followed = true,
            "bind" => self.bind = true,
            "rbind" => {
                self.bind = true;
                self.recursive = true;
            }
            "private" | "rprivate" => self.propagation = Some(Propagation::Private),
            "unbindable" | "runbindable" => self.propagation = Some(Propagation::Unbindable),
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            "slave" | "rslave" => self.propagation = Some(Propagation::Slave),
            "shared" | "rshared" => self.propagation = Some(Propagation::Shared),
            data => {
                if !self.data.is_empty() {
                    self.data.push(',');
                }
                self.data.push_str(data);
            }
        }
    }
}

fn flag(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (libc::MS_RDONLY, true),
        "rw" => (libc::MS_RDONLY, false),
        "nosuid" => (libc::MS_NOSUID, true),
        "suid" => (libc::MS_NOSUID, false),
        "nodev" => (libc::MS_NODEV, true),
        "dev" => (libc::MS_NODEV, false),
        "noexec" => (libc::MS_NOEXEC, true),
        "exec" => (libc::MS_NOEXEC, false),
        // Flags of file systems, not of mounts: for a new one they hold, with a bind the kernel does not look at them
        // (crun's recursive forms neither).
        "sync" | "rsync" => (libc::MS_SYNCHRONOUS, true),
        "async" | "rasync" => (libc::MS_SYNCHRONOUS, false),
        "dirsync" | "rdirsync" => (libc::MS_DIRSYNC, true),
        "mand" | "rmand" => (libc::MS_MANDLOCK, true),
        "nomand" | "rnomand" => (libc::MS_MANDLOCK, false),
        "noatime" => (libc::MS_NOATIME, true),
        "atime" => (libc::MS_NOATIME, false),
        "nodiratime" => (libc::MS_NODIRATIME, true),
        "diratime" => (libc::MS_NODIRATIME, false),
        "relatime" => (libc::MS_RELATIME, true),
        "norelatime" => (libc::MS_RELATIME, false),
        "strictatime" => (libc::MS_STRICTATIME, true),
        "nostrictatime" => (libc::MS_STRICTATIME, false),
        "iversion" => (MS_I_VERSION, true),
        "noiversion" => (MS_I_VERSION, false),
        "lazytime" => (MS_LAZYTIME, true),
        "nolazytime" => (MS_LAZYTIME, false),
        "silent" => (libc::MS_SILENT, true),
        "nosymfollow" => (MS_NOSYMFOLLOW, true),
        "symfollow" => (MS_NOSYMFOLLOW, false),
        _ => return None,
    })
}

fn recursive_attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "rro" => (MOUNT_ATTR_RDONLY, true),
        "rrw" => (MOUNT_ATTR_RDONLY, false),
        "rnosuid" => (MOUNT_ATTR_NOSUID, true),
        "rsuid" => (MOUNT_ATTR_NOSUID, false),
        "rnodev" => (MOUNT_ATTR_NODEV, true),
        "rdev" => (MOUNT_ATTR_NODEV, false),
        "rnoexec" => (MOUNT_ATTR_NOEXEC, true),
        "rexec" => (MOUNT_ATTR_NOEXEC, false),
        "rnoatime" => (MOUNT_ATTR_NOATIME, true),
        "ratime" => (MOUNT_ATTR_NOATIME, false),
        "rnodiratime" => (MOUNT_ATTR_NODIRATIME, true),
        "rdiratime" => (MOUNT_ATTR_NODIRATIME, false),
        "rstrictatime" => (MOUNT_ATTR_STRICTATIME, true),
        "rnostrictatime" => (MOUNT_ATTR_STRICTATIME, false),
        "rnosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, true),
        "rsymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, false),
        // The value of relatime is zero: the field is cleared, and nothing is set.
        "rrelatime" => (MOUNT_ATTR_NOATIME | MOUNT_ATTR_STRICTATIME, false),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str, expected: Options) {
        let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        assert_eq!(parse(&options), expected, "{options:?}");
    }

    #[test]
    fn a_later_option_wins_and_unknown_ones_are_data() {
        let base = Options::default;
        check(
            "nosuid noexec mode=755 size=65536k",
            Options { set: libc::MS_NOSUID | libc::MS_NOEXEC, data: "mode=755,size=65536k".into(), ..base() },
        );
        check("ro rw", Options { clear: libc::MS_RDONLY, ..base() });
        check("rw ro", Options { set: libc::MS_RDONLY, ..base() });
        check(
            "rbind rslave rro",
            Options {
                bind: true,
                recursive: true,
                propagation: Some(Propagation::Slave),
                recursive_set: MOUNT_ATTR_RDONLY,
                ..base()
            },
        );
        check("defaults exec", Options { clear: libc::MS_NOEXEC, ..base() });
    }
}
