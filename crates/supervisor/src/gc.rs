//! `pod gc`: ends what a crash has left of pods that have no directory any more. Only this installation's: two of them
//! on one host have different cgroup roots and networks.

use std::time::{Duration, Instant};

use crate::host::CONFIG;
use killick_container::cgroup::{Cgroup, Layout, pods_below};
use killick_pod_dir::{PodDir, Roots};

const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Cgroups, addresses and links whose pod has no directory; each that was ended is printed.
pub fn gc() -> Result<(), String> {
    let roots = Roots::from_env();
    let mut errors = cgroups(&roots);
    match killick_network::Settings::load(std::path::Path::new(CONFIG), roots.ipam()) {
        Ok(settings) => errors.extend(killick_network::garbage(&settings, |uid| has_directory(&roots, uid))),
        Err(error) => errors.push(error),
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

fn has_directory(roots: &Roots, uid: &str) -> bool {
    PodDir::at(roots, uid).is_some_and(|dir| dir.exists())
}

fn cgroups(roots: &Roots) -> Vec<String> {
    let layout = match Layout::detect() {
        Ok(layout) => layout,
        Err(error) => return vec![error.to_string()],
    };
    let uids = match pods_below(&layout, &roots.cgroup_root()) {
        Ok(uids) => uids,
        Err(error) => return vec![error.to_string()],
    };
    let mut errors = Vec::new();
    for uid in uids.iter().filter(|uid| !has_directory(roots, uid)) {
        let path = std::path::Path::new(&roots.cgroup_root()).join(format!("pod{uid}"));
        let ended = Cgroup::open(&layout, &path).and_then(|cgroup| {
            cgroup.kill_all(Instant::now() + KILL_DEADLINE)?;
            cgroup.remove(Instant::now() + KILL_DEADLINE)?;
            cgroup.remove_parent_if_unused()
        });
        match ended {
            Ok(()) => println!("pod {uid} had no directory: its processes were killed, its cgroup is removed"),
            Err(error) => errors.push(format!("pod {uid}: {error}")),
        }
    }
    errors
}
