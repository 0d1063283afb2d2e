//! The two clocks, read in one place. Everything else gets its time as a value.

use std::time::Duration;

use killick_pod::time::{Monotonic, Now, Wall};
use nix::time::{ClockId, clock_gettime};

/// Both clocks at this instant. The monotonic one counts from the boot, so it goes on over a restart of the shim.
pub fn now() -> Now {
    Now { monotonic: monotonic(), wall: Wall((wall_nanos() / 1_000_000_000) as i64) }
}

pub fn monotonic() -> Monotonic {
    Monotonic(read(ClockId::CLOCK_BOOTTIME))
}

pub fn wall_nanos() -> i128 {
    read(ClockId::CLOCK_REALTIME).as_nanos() as i128
}

fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}
