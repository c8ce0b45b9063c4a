// SPDX-License-Identifier: Apache-2.0
//! When an owner speaks up unasked: a burst on taking over, then a slow refresh.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::Moment;

/// Rounds of the burst, counted from the take-over. The first three are for speed where a frame is
/// lost. The later ones lie more than a second apart because Linux before 4.11 ignores a neighbour update
/// within a second of the last (`locktime`; MetalLB issue 172).
///
/// For IPv6 this deviates on purpose from RFC 4861 section 7.2.6, which allows at most three unsolicited
/// Neighbor Advertisements (`MAX_NEIGHBOR_ADVERTISEMENT`), at least `RetransTimer` (1 s) apart: six rounds, and three of
/// them within 200 ms. With the RFC's spacing one lost frame would leave a neighbour with the dead owner for a second,
/// as long again as the detection of the death took. Linux hosts and routers take each advertisement as it comes: a
/// receiver has no limit to enforce (section 7.2.5).
pub const BURST: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(1_100),
    Duration::from_millis(2_200),
    Duration::from_millis(4_400),
];

/// After the burst: below the 300 s after which switches forget a station, while routers remember the
/// neighbour for longer (MetalLB issue 2910). The limit of three does not allow for it either.
pub const REFRESH: Duration = Duration::from_secs(60);

/// Where one item is in its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Course {
    started: Moment,
    next: Moment,
}

/// The schedule of any number of items; `K` is an address on an interface.
#[derive(Clone, Debug)]
pub struct Schedule<K> {
    courses: BTreeMap<K, Course>,
    queue: BTreeSet<(Moment, K)>,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self {
            courses: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Clone> Schedule<K> {
    /// Starts a burst, anew if the item had one.
    pub fn start(&mut self, item: K, now: Moment) {
        self.stop(&item);
        self.queue.insert((now, item.clone()));
        self.courses.insert(
            item,
            Course {
                started: now,
                next: now,
            },
        );
    }

    /// Forgets an item.
    pub fn stop(&mut self, item: &K) {
        if let Some(course) = self.courses.remove(item) {
            self.queue.remove(&(course.next, item.clone()));
        }
    }

    /// When [`Self::due`] has something to say next.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.queue.first().map(|(moment, _)| *moment)
    }

    /// The items that are to be announced now, in the order in which they fell due. Rounds that a late
    /// caller has missed are not made up for.
    pub fn due(&mut self, now: Moment) -> Vec<K> {
        let mut items = Vec::new();
        while let Some((moment, item)) = self.queue.pop_first() {
            if moment > now {
                self.queue.insert((moment, item));
                break;
            }
            if let Some(course) = self.courses.get_mut(&item) {
                course.next = next_round(course.started, now);
                self.queue.insert((course.next, item.clone()));
                items.push(item);
            }
        }
        items
    }
}

/// The first round after `now`.
fn next_round(started: Moment, now: Moment) -> Moment {
    let in_burst = BURST.iter().map(|offset| started + *offset).find(|at| *at > now);
    in_burst.unwrap_or(now + REFRESH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_origin(Duration::from_millis(millis))
    }

    #[test]
    fn a_burst_is_followed_by_a_slow_refresh() {
        let mut schedule = Schedule::default();
        schedule.start("a", at(1_000));
        let mut rounds = Vec::new();
        while let Some(deadline) = schedule
            .next_deadline()
            .filter(|deadline| *deadline < at(130_000))
        {
            assert_eq!(schedule.due(deadline), ["a"]);
            rounds.push(deadline);
        }
        let expected = [1_000, 1_050, 1_200, 2_100, 3_200, 5_400, 65_400, 125_400];
        assert_eq!(rounds, expected.map(at));
    }

    #[test]
    fn a_late_caller_sends_one_round_and_not_all_it_missed() {
        let mut schedule = Schedule::default();
        schedule.start("a", at(0));
        assert_eq!(schedule.due(at(0)), ["a"]);
        assert_eq!(schedule.due(at(1_500)), ["a"]);
        assert_eq!(schedule.next_deadline(), Some(at(2_200)));
    }

    #[test]
    fn a_stopped_item_is_silent_and_a_restarted_one_bursts_anew() {
        let mut schedule = Schedule::default();
        schedule.start("a", at(0));
        schedule.start("b", at(0));
        assert_eq!(schedule.due(at(0)), ["a", "b"]);
        schedule.stop(&"a");
        schedule.start("b", at(10));
        assert_eq!(schedule.due(at(10)), ["b"]);
        assert_eq!(schedule.due(at(60)), ["b"]);
        schedule.stop(&"b");
        assert_eq!(schedule.next_deadline(), None);
    }

    proptest! {
        #[test]
        fn queue_and_courses_agree_and_nothing_is_due_early(steps in proptest::collection::vec((0u8..3, 0u8..5, 0u64..3_000), 1..200)) {
            let mut schedule = Schedule::default();
            let mut now = Moment::ZERO;
            for (step, item, millis) in steps {
                match step {
                    0 => schedule.start(item, now),
                    1 => schedule.stop(&item),
                    _ => {
                        now = now + Duration::from_millis(millis);
                        let expected: BTreeSet<u8> = schedule.courses.iter().filter(|(_, course)| course.next <= now).map(|(item, _)| *item).collect();
                        let due = schedule.due(now);
                        prop_assert_eq!(due.len(), expected.len());
                        prop_assert_eq!(due.into_iter().collect::<BTreeSet<u8>>(), expected);
                        prop_assert!(schedule.next_deadline().is_none_or(|next| next > now));
                    }
                }
                let queued: BTreeSet<(Moment, u8)> = schedule.courses.iter().map(|(item, course)| (course.next, *item)).collect();
                prop_assert_eq!(&queued, &schedule.queue);
            }
        }
    }
}
