//! What we kept ourselves: records of containers, sandboxes and cgroups.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = killick_container::hostile::record(bytes);
});
