//! A process object, as exec --process reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = killick_container::hostile::process(bytes);
});
