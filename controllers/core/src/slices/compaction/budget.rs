// SPDX-License-Identifier: Apache-2.0
//! How many writes compaction may make: it can wait, and everybody watches slices.

use std::time::Duration;

/// What "per minute" means.
const MINUTE: Duration = Duration::from_secs(60);

/// A token bucket that keeps within a number of writes in any minute. Half of them may come at once;
/// a step that needs more than that is never made.
///
/// Time is what the caller measures since any fixed moment, and does not go back.
#[derive(Clone, Debug)]
pub struct WriteBudget {
    burst: u32,
    /// Between two tokens; none where no write is allowed at all.
    interval: Option<Duration>,
    /// When the bucket is full again.
    full_at: Duration,
}

impl WriteBudget {
    /// A full bucket of so many writes per minute; zero for none ever.
    pub fn per_minute(writes: u32) -> Self {
        let burst = writes.div_ceil(2);
        // In any minute the bucket gives `burst` tokens and one less than a minute refills.
        let refills = writes - burst + 1;
        Self {
            burst,
            interval: (writes > 0).then(|| MINUTE / refills),
            full_at: Duration::ZERO,
        }
    }

    /// The writes that may be made now: the limit of a plan.
    pub fn available(&self, now: Duration) -> u32 {
        let Some(interval) = self.interval else { return 0 };
        let missing = self.full_at.saturating_sub(now).as_nanos();
        let missing = missing.div_ceil(interval.as_nanos());
        self.burst - u32::try_from(missing).unwrap_or(u32::MAX).min(self.burst)
    }

    /// Takes so many writes, or none if there are not as many.
    pub fn take(&mut self, now: Duration, writes: u32) -> bool {
        let enough = writes <= self.available(now);
        if let Some(interval) = self.interval.filter(|_| enough) {
            self.full_at = self.full_at.max(now) + interval * writes;
        }
        enough
    }

    /// How long until so many writes are available; none if they never are.
    pub fn wait(&self, now: Duration, writes: u32) -> Option<Duration> {
        let interval = self.interval.filter(|_| writes <= self.burst)?;
        let enough_at = self.full_at.saturating_sub(interval * (self.burst - writes));
        Some(enough_at.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn half_a_minutes_writes_come_at_once_and_the_rest_one_by_one() {
        let mut budget = WriteBudget::per_minute(4);
        assert_eq!(budget.available(at(0)), 2);
        assert!(budget.take(at(0), 2));
        assert!(!budget.take(at(0), 1));
        assert_eq!(budget.wait(at(0), 1), Some(at(20_000)));
        assert_eq!(budget.wait(at(0), 2), Some(at(40_000)));
        assert_eq!(budget.wait(at(0), 3), None);
        assert!(!budget.take(at(19_999), 1));
        assert!(budget.take(at(20_000), 1));
        assert_eq!(budget.available(at(600_000)), 2, "no more than a full bucket");
    }

    #[test]
    fn no_writes_a_minute_are_none_ever_and_one_is_one_a_minute() {
        let mut none = WriteBudget::per_minute(0);
        assert_eq!((none.available(at(0)), none.wait(at(0), 1)), (0, None));
        assert!(!none.take(at(1_000_000), 1));
        let mut one = WriteBudget::per_minute(1);
        assert!(one.take(at(5), 1) && !one.take(at(60_004), 1) && one.take(at(60_005), 1));
    }

    proptest! {
        #[test]
        fn no_minute_sees_more_than_its_writes_and_waiting_is_enough(
            per_minute in 0u32..12,
            asks in prop::collection::vec((0u64..40_000, 1u32..5), 1..60),
        ) {
            let mut budget = WriteBudget::per_minute(per_minute);
            let mut now = Duration::ZERO;
            let mut made: Vec<Duration> = Vec::new();
            for (pause, writes) in asks {
                now += at(pause);
                let waits = budget.wait(now, writes);
                prop_assert_eq!(waits == Some(Duration::ZERO), writes <= budget.available(now));
                if let Some(wait) = waits.filter(|_| pause % 2 == 0) {
                    now += wait;
                    prop_assert!(writes <= budget.available(now));
                }
                if budget.take(now, writes) {
                    made.extend((0..writes).map(|_| now));
                }
                let recent = made.iter().filter(|then| **then + MINUTE > now).count();
                prop_assert!(recent <= per_minute as usize, "{} in a minute", recent);
            }
        }
    }
}
