//! Where this installation keeps things: three directories, and the cgroup that goes with them.

use std::path::{Path, PathBuf};

const RUN: &str = "/run/killick";
const ROOT: &str = "/var/lib/killick";
const LOGS: &str = "/var/log/pods";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// What dies with the boot (`/run/killick`).
    pub run: PathBuf,
    /// What outlives it (`/var/lib/killick`).
    pub root: PathBuf,
    /// The containers' logs (`/var/log/pods`).
    pub logs: PathBuf,
}

impl Roots {
    /// `KILLICK_RUN`, `KILLICK_ROOT` and `KILLICK_LOGS`, else the usual places. Relative paths are taken from the
    /// working directory once, here.
    pub fn from_env() -> Roots {
        let path = |name: &str, usual: &str| {
            let given = std::env::var_os(name).filter(|value| !value.is_empty());
            let path = given.map(PathBuf::from).unwrap_or_else(|| PathBuf::from(usual));
            std::path::absolute(&path).unwrap_or(path)
        };
        Roots { run: path("KILLICK_RUN", RUN), root: path("KILLICK_ROOT", ROOT), logs: path("KILLICK_LOGS", LOGS) }
    }

    /// The cgroup below which this installation's pods live, relative to the cgroup mount. Two installations on one
    /// host (a user's and a test's) have different ones, so that neither takes the other's pods for orphans.
    pub fn cgroup_root(&self) -> String {
        if self.run == Path::new(RUN) {
            return "killick".to_owned();
        }
        // FNV-1a: a name, not a secret.
        let hash = self
            .run
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
        format!("killick-{hash:08x}")
    }

    pub fn run_pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    pub fn names(&self) -> PathBuf {
        self.run.join("names")
    }

    pub fn netns(&self) -> PathBuf {
        self.run.join("netns")
    }

    pub fn ipam(&self) -> PathBuf {
        self.run.join("ipam")
    }

    pub fn seccomp_cache(&self) -> PathBuf {
        self.run.join("seccomp")
    }

    pub fn bin(&self) -> PathBuf {
        self.run.join("bin")
    }

    pub fn data_pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_run_directories_have_two_cgroups_and_the_usual_one_has_the_plain_name() {
        let at = |run: &str| Roots { run: run.into(), root: ROOT.into(), logs: LOGS.into() }.cgroup_root();
        assert_eq!(at("/run/killick"), "killick");
        assert_ne!(at("/tmp/a"), at("/tmp/b"));
        assert_eq!(at("/tmp/a"), at("/tmp/a"));
        assert_eq!(at("/tmp/a").len(), "killick-".len() + 8);
    }
}
