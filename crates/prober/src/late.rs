//! Whose fault a failed probe is: an attempt that our own lateness or the host's starvation spoiled is Unknown.

use killick_pod::event::Outcome;
use std::time::Duration;

/// Spoiled attempts in a row; the next one counts by kubelet's rule.
pub const STARVED_RUN_MAX: u32 = 6;

/// How late we were with one attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lateness {
    /// The longest time that a timer of ours ran after it was due: the tick's own, or any turn of the loop while the
    /// attempt was under way.
    pub timer: Duration,
    /// Time that the attempt's own threads waited runnable while their cgroup was not throttled by its own quota.
    pub runnable: Duration,
}

impl Lateness {
    /// More than half of the timeout was ours.
    pub fn spoils(self, timeout: Duration) -> bool {
        self.timer > timeout / 2 || self.runnable > timeout / 2
    }

    /// The outcome to report. `spoiled_before` counts the spoiled attempts just before this one; the new count comes
    /// back. A success stands however late it came.
    pub fn judge(self, outcome: Outcome, timeout: Duration, spoiled_before: u32) -> (Outcome, u32) {
        match outcome {
            Outcome::Failure(output) if self.spoils(timeout) && spoiled_before < STARVED_RUN_MAX => {
                let late = killick_pod::time::go_duration(self.timer.max(self.runnable));
                (Outcome::Unknown(format!("the host was starved for {late}: {output}")), spoiled_before + 1)
            }
            other => (other, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn late(timer_ms: u64, runnable_ms: u64) -> Lateness {
        Lateness { timer: Duration::from_millis(timer_ms), runnable: Duration::from_millis(runnable_ms) }
    }

    #[test]
    fn only_more_than_half_of_the_timeout_spoils() {
        for (lateness, spoils) in [
            (late(0, 0), false),
            (late(500, 0), false),
            (late(501, 0), true),
            (late(0, 500), false),
            (late(0, 501), true),
        ] {
            assert_eq!(lateness.spoils(SECOND), spoils, "{lateness:?}");
        }
    }

    #[test]
    fn a_spoiled_failure_is_unknown_and_says_why() {
        let (outcome, run) = late(700, 0).judge(Outcome::Failure("x".into()), SECOND, 0);
        assert_eq!((outcome, run), (Outcome::Unknown("the host was starved for 700ms: x".into()), 1));
    }

    #[test]
    fn a_late_success_is_a_success() {
        assert_eq!(late(900, 900).judge(Outcome::Success, SECOND, 3), (Outcome::Success, 0));
    }

    #[test]
    fn the_seventh_spoiled_attempt_in_a_row_counts() {
        let mut run = 0;
        for attempt in 1..=8 {
            let outcome;
            (outcome, run) = late(900, 0).judge(Outcome::Failure("x".into()), SECOND, run);
            assert_eq!(matches!(outcome, Outcome::Failure(_)), attempt == 7, "attempt {attempt}");
        }
    }
}
