//! Restart policy and back-off: whether a container that ended starts again, and when (kubelet.md §2.2, §2.4).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::RestartPolicy;
use crate::time::Monotonic;

/// Delay before the second restart; each later one doubles it.
pub const BASE: Duration = Duration::from_secs(10);
pub const MAX: Duration = Duration::from_secs(300);
/// A container that ran this long after its last start begins at `BASE` again.
pub const FORGET: Duration = Duration::from_secs(600);

/// Does a container that ended with `exit_code` start again?
pub fn restarts(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// One container's back-off. It doubles with every start that follows an earlier end, however that one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Backoff {
    entry: Option<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    delay: Duration,
    last_start: Monotonic,
}

/// "Not yet": the delay in force and when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub delay: Duration,
    pub until: Monotonic,
}

impl Backoff {
    /// May a start happen now, the newest *known* dead instance having ended at `finished_at`? For a kill and restart
    /// in one go that is the instance before the one just killed. With none there is no back-off and none is begun.
    pub fn check(&self, finished_at: Option<Monotonic>, now: Monotonic) -> Result<(), Refused> {
        match (finished_at, self.entry) {
            (Some(ended), Some(entry)) if !entry.is_expired(ended) && now.since(ended) < entry.delay => {
                Err(Refused { delay: entry.delay, until: ended + entry.delay })
            }
            _ => Ok(()),
        }
    }

    /// Notes a start that `check` allowed.
    pub fn note_start(&mut self, finished_at: Option<Monotonic>, now: Monotonic) {
        let Some(ended) = finished_at else { return };
        let delay = match self.entry {
            Some(entry) if !entry.is_expired(ended) => entry.delay.saturating_mul(2).min(MAX),
            _ => BASE,
        };
        self.entry = Some(Entry { delay, last_start: now });
    }
}

impl Entry {
    fn is_expired(&self, ended: Monotonic) -> bool {
        ended.since(self.last_start) > FORGET
    }
}

/// Back-off of one image's pulls: begun by each failure and measured from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullBackoff {
    delay: Duration,
    last_failure: Monotonic,
}

impl PullBackoff {
    pub fn after_failure(before: Option<PullBackoff>, now: Monotonic) -> PullBackoff {
        let delay = match before {
            Some(entry) if now.since(entry.last_failure) <= FORGET => entry.delay.saturating_mul(2).min(MAX),
            _ => BASE,
        };
        PullBackoff { delay, last_failure: now }
    }

    /// No pull before then.
    pub fn until(&self) -> Monotonic {
        self.last_failure + self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    #[test]
    fn each_policy_restarts_what_kubelet_restarts() {
        let cases = [
            (RestartPolicy::Always, 0, true),
            (RestartPolicy::Always, 1, true),
            (RestartPolicy::OnFailure, 0, false),
            (RestartPolicy::OnFailure, 137, true),
            (RestartPolicy::Never, 0, false),
            (RestartPolicy::Never, 1, false),
        ];
        for (policy, code, expected) in cases {
            assert_eq!(restarts(policy, code), expected, "{policy:?} {code}");
        }
    }

    #[test]
    fn a_container_that_dies_at_once_waits_0_10_20_40_80_160_300_300_seconds() {
        let mut backoff = Backoff::default();
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let ended = now;
            let start = match backoff.check(Some(ended), now) {
                Ok(()) => now,
                Err(refused) => refused.until,
            };
            assert_eq!(backoff.check(Some(ended), start), Ok(()));
            backoff.note_start(Some(ended), start);
            waits.push(start.since(ended).as_secs());
            now = start;
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn without_a_dead_instance_no_back_off_begins() {
        let mut backoff = Backoff::default();
        backoff.note_start(None, at(5));
        assert_eq!(backoff, Backoff::default());
        assert_eq!(backoff.check(None, at(5)), Ok(()));
    }

    #[test]
    fn more_than_ten_minutes_of_running_begin_again_at_the_base() {
        let mut backoff = Backoff::default();
        backoff.note_start(Some(at(0)), at(0));
        backoff.note_start(Some(at(10)), at(10));
        assert_eq!(backoff.check(Some(at(610)), at(610)), Err(Refused { delay: at(20).0, until: at(630) }));
        assert_eq!(backoff.check(Some(at(611)), at(611)), Ok(()));
        backoff.note_start(Some(at(611)), at(611));
        assert_eq!(backoff.check(Some(at(612)), at(612)), Err(Refused { delay: BASE, until: at(622) }));
    }

    #[test]
    fn pulls_back_off_from_the_last_failure_and_forget_after_ten_minutes() {
        let first = PullBackoff::after_failure(None, at(0));
        assert_eq!(first.until(), at(10));
        let second = PullBackoff::after_failure(Some(first), at(10));
        assert_eq!(second.until(), at(30));
        assert_eq!(PullBackoff::after_failure(Some(second), at(611)).until(), at(621));
    }
}
