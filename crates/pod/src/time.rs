//! Time as a value. There is no `now()` here: the clock belongs to the edge, tests jump it.

use std::ops::Add;
use std::time::Duration;

/// A point on the monotonic clock: time since an origin that the supervisor chose (the boot clock's zero, so that it
/// survives a restart of the shim). It decides; it is never shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, serde::Serialize, serde::Deserialize)]
pub struct Monotonic(pub Duration);

impl Monotonic {
    pub fn since(self, earlier: Monotonic) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Monotonic;

    fn add(self, rhs: Duration) -> Monotonic {
        Monotonic(self.0.saturating_add(rhs))
    }
}

/// Wall time in whole seconds since the epoch, for display only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, serde::Serialize, serde::Deserialize)]
pub struct Wall(pub i64);

/// Both clocks at one instant, as the one loop read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Now {
    pub monotonic: Monotonic,
    pub wall: Wall,
}
