//! A config.json up to its plan, which is not run. Run it as root, in a container or a guest: it opens the namespaces
//! and looks at the bind sources that the input names.
#![no_main]

use killick_container::cgroup::{Cgroup, Layout};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::OnceLock;

fn cgroup() -> &'static Cgroup {
    static CGROUP: OnceLock<Cgroup> = OnceLock::new();
    CGROUP.get_or_init(|| {
        let layout = Layout::detect().expect("cgroups are mounted");
        Cgroup::create(&layout, "killick-fuzz", &Default::default()).expect("root makes cgroups")
    })
}

fuzz_target!(|bytes: &[u8]| {
    let _ = killick_container::hostile::config(bytes, Path::new("/nowhere"), cgroup());
});
