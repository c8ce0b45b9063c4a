// SPDX-License-Identifier: Apache-2.0
//! When rules may be written: the first change at once, later ones gathered for `--min-sync-period`, which runs from the end
//! of a write to the start of the next; what failed after a pause that grows.
//!
//! In: how turns ended, and when. Out: when the next may begin. Touches nothing.

use std::time::{Duration, Instant};

use berth_runtime::backoff::{Backoff, jitter};

/// Retries of a failed turn. The kernel answers at once, so the first retry comes soon.
const RETRY: Backoff = Backoff {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(30),
};

/// The pauses between writes.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Between two writes.
    min: Duration,
    /// No retry waits longer.
    most: Duration,
    /// How many turns failed since one did not.
    failures: u32,
    retry_at: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Pace {
    /// `min` is `--min-sync-period`, `most` is `--sync-period`.
    pub(super) fn new(min: Duration, most: Duration) -> Self {
        Self {
            min,
            most,
            failures: 0,
            retry_at: None,
            paused_until: None,
        }
    }

    /// Before when nothing is written; `None` if that is not fixed. When it is past, a turn is due.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.retry_at.into_iter().chain(self.paused_until).max()
    }

    /// Whether a turn may begin.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.not_before().is_none_or(|at| at <= now)
    }

    /// A turn came to its end now; whether it wrote anything.
    pub(super) fn ended(&mut self, now: Instant, wrote: bool) {
        self.failures = 0;
        self.retry_at = None;
        self.paused_until = (wrote && !self.min.is_zero()).then(|| now + self.min);
    }

    /// A turn failed now. How long until the next.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = RETRY.delay(self.failures).min(self.most);
        let delay = jitter(delay, self.failures.wrapping_mul(0x9e37_79b9));
        self.retry_at = Some(now + delay);
        delay
    }

    /// How many turns failed since one did not.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC_PERIOD: Duration = Duration::from_secs(30);

    /// When turns begin, in milliseconds, if changes come then and each write takes so long.
    fn begun(min: u64, takes: u64, changes: &[u64]) -> Vec<u64> {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(Duration::from_millis(min), SYNC_PERIOD);
        let (mut begun, mut free, mut coming) = (Vec::new(), 0, changes.iter().copied().peekable());
        while let Some(first) = coming.next() {
            let mut now = first.max(free);
            if !pace.is_due(at(now)) {
                let due = pace.not_before().unwrap_or(start);
                now = u64::try_from((due - start).as_millis()).unwrap();
                assert!(pace.is_due(at(now)) && !pace.is_due(at(now - 1)));
            }
            // What has come by then is in the same turn.
            while coming.next_if(|change| *change <= now).is_some() {}
            begun.push(now);
            free = now + takes;
            pace.ended(at(free), true);
        }
        begun
    }

    #[test]
    fn the_first_change_is_written_at_once_and_later_ones_are_gathered() {
        for (min, takes, changes, expected) in [
            // The period runs from the end of a write to the start of the next.
            (1_000, 200, &[0, 100, 150, 900][..], &[0, 1_200][..]),
            (1_000, 200, &[0, 100, 1_200, 1_300], &[0, 1_200, 2_400]),
            // After a pause of nobody's doing there is none.
            (1_000, 200, &[0, 1_200, 5_000], &[0, 1_200, 5_000]),
            (1_000, 3_000, &[0, 1, 3_500, 4_100], &[0, 4_000, 8_000]),
            // Without a period a turn waits for the one before.
            (0, 200, &[0, 100, 150, 900], &[0, 200, 900]),
        ] {
            assert_eq!(begun(min, takes, changes), expected, "{min} {takes} {changes:?}");
        }
    }

    #[test]
    fn a_turn_that_writes_nothing_starts_no_period() {
        let now = Instant::now();
        let mut pace = Pace::new(Duration::from_secs(10), SYNC_PERIOD);
        assert!(pace.is_due(now));
        pace.ended(now, false);
        assert_eq!(pace.not_before(), None);
        pace.ended(now, true);
        assert_eq!(pace.not_before(), Some(now + Duration::from_secs(10)));
        pace.ended(now + Duration::from_secs(10), false);
        assert_eq!(pace.not_before(), None);
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later_up_to_the_sync_period() {
        let now = Instant::now();
        let most = Duration::from_secs(5);
        let mut pace = Pace::new(Duration::from_secs(1), most);
        let mut before = Duration::ZERO;
        for failures in 1..40 {
            let delay = pace.failed(now);
            assert_eq!(pace.failures(), failures);
            assert_eq!(pace.not_before(), Some(now + delay));
            assert!(delay <= most, "{delay:?}");
            // Jitter takes away less than a doubling adds.
            assert!(failures > 5 || delay > before, "{delay:?} after {before:?}");
            before = delay;
        }
        pace.ended(now, true);
        assert_eq!(pace.failures(), 0);
        assert_eq!(pace.not_before(), Some(now + Duration::from_secs(1)));
    }
}
