// SPDX-License-Identifier: Apache-2.0
//! The items of one family of a pool: which are spoken for, which rest, which one is next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::intervals::Intervals;
use crate::{Band, ItemSet, Strategy};

/// How many released items of a family a pool remembers; beyond that the one released longest ago is as any other.
/// An item takes some 100 bytes while it is remembered.
pub const MOST_RESTING: usize = 65_536;

/// Items by their numbers. All ranges lie in one row without gaps, those of the static band before the others: an item's
/// place in it is its bit in the set, so that a search does not care how many ranges there are or how they lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shelf {
    /// By number.
    runs: Vec<Run>,
    /// The same by place.
    row: Vec<Run>,
    /// By place: what is allocated, held, reserved or resting.
    busy: ItemSet,
    /// How many of the first places are the static band.
    kept: u128,
    /// Released items and until when others go before them.
    resting: BTreeMap<u128, Duration>,
    /// The same by time.
    order: BTreeSet<(Duration, u128)>,
    most_resting: usize,
}

/// Items with adjacent numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    number: u128,
    place: u128,
    /// Its last item's distance from the first.
    last: u128,
}

impl Shelf {
    /// All of these numbers, which are some, none of them spoken for; those among `kept` are the static band.
    pub(crate) fn new(numbers: &Intervals, kept: &Intervals) -> Self {
        let band = numbers.intersection(kept);
        let mut others = numbers.clone();
        for (first, end) in band.iter() {
            others.remove(first, end);
        }
        let mut row: Vec<Run> = Vec::new();
        let mut last = None;
        for (first, end) in band.iter().chain(others.iter()) {
            // Wraps for no set: all places but the last one of all of IPv6 are below 2^128 - 1.
            let place = last.map_or(0u128, |last: u128| last.wrapping_add(1));
            let run = Run {
                number: first,
                place,
                last: end - first,
            };
            last = Some(place + run.last);
            row.push(run);
        }
        let mut runs = row.clone();
        runs.sort_unstable_by_key(|run| run.number);
        Self {
            runs,
            row,
            busy: last.map_or_else(|| ItemSet::new(0), ItemSet::up_to),
            kept: band.count(),
            resting: BTreeMap::new(),
            order: BTreeSet::new(),
            most_resting: MOST_RESTING,
        }
    }

    /// Speaks for an item. It no longer rests: until when it would have.
    pub(crate) fn take(&mut self, number: u128) -> Option<Duration> {
        if let Some(place) = self.place(number) {
            self.busy.insert(place);
        }
        self.wake(number)
    }

    /// Nobody speaks for the item any more.
    pub(crate) fn free(&mut self, number: u128) {
        self.wake(number);
        if let Some(place) = self.place(number) {
            self.busy.remove(place);
        }
    }

    /// Nobody speaks for the item any more, but until then others go before it.
    pub(crate) fn rest(&mut self, number: u128, until: Duration) {
        let Some(place) = self.place(number) else {
            return;
        };
        self.wake(number);
        self.busy.insert(place);
        self.resting.insert(number, until);
        self.order.insert((until, number));
        if self.order.len() > self.most_resting
            && let Some((_, oldest)) = self.order.first().copied()
        {
            self.free(oldest);
        }
    }

    /// The item that is next: of the dynamic band, else of the static one, else the one that rests longest.
    pub(crate) fn next(&mut self, strategy: Strategy, random: u64, now: Duration) -> Option<u128> {
        match strategy {
            Strategy::LowestFirst | Strategy::Random => self.end_rests(now),
            // Its turn comes when nothing is left that was never given.
            Strategy::LeastRecentlyReleased => {}
        }
        let end = self.busy.last()?;
        let first = self.kept;
        let dynamic = (first <= end).then_some(Band { first, last: end });
        let kept = self.kept.checked_sub(1).map(|last| Band {
            first: 0,
            last: last.min(end),
        });
        let fresh = [dynamic, kept].into_iter().flatten().find_map(|band| {
            let from = match strategy {
                Strategy::LowestFirst | Strategy::LeastRecentlyReleased => band.first,
                Strategy::Random => somewhere(band, random),
            };
            self.busy.next_free_within(band, from)
        });
        fresh
            .map(|place| self.number(place))
            .or_else(|| self.order.first().map(|(_, number)| *number))
    }

    /// How many could be given, resting ones included; all of IPv6 counts as `u128::MAX`.
    pub(crate) fn left(&self) -> u128 {
        self.busy.free().saturating_add(self.resting.len() as u128)
    }

    /// Items that rest and until when, ascending by number.
    pub(crate) fn resting(&self) -> impl Iterator<Item = (u128, Duration)> {
        self.resting.iter().map(|(number, until)| (*number, *until))
    }

    /// Until when the item rests, if it does.
    pub(crate) fn rests_until(&self, number: u128) -> Option<Duration> {
        self.resting.get(&number).copied()
    }

    /// Bytes of the sets on the heap, at most.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.busy.heap_bytes() + (self.runs.capacity() + self.row.capacity()) * size_of::<Run>()
    }

    fn wake(&mut self, number: u128) -> Option<Duration> {
        let until = self.resting.remove(&number)?;
        self.order.remove(&(until, number));
        Some(until)
    }

    fn end_rests(&mut self, now: Duration) {
        while let Some((_, number)) = self.order.first().copied().filter(|(until, _)| *until <= now) {
            self.free(number);
        }
    }

    fn place(&self, number: u128) -> Option<u128> {
        let run = self.runs[..self.runs.partition_point(|run| run.number <= number)].last()?;
        let distance = number - run.number;
        (distance <= run.last).then(|| run.place + distance)
    }

    /// The number at a place that exists.
    fn number(&self, place: u128) -> u128 {
        let before = &self.row[..self.row.partition_point(|run| run.place <= place)];
        before
            .last()
            .map_or(place, |run| run.number + (place - run.place))
    }
}

/// A place of the band by a random number, each as likely as the other; in a band of more than 2^64 places, one of 2^64
/// that are spread over it evenly.
fn somewhere(band: Band, random: u64) -> u128 {
    let random = u128::from(random);
    let last = band.last - band.first;
    let offset = match u64::try_from(last) {
        Ok(last) => (random * (u128::from(last) + 1)) >> 64,
        Err(_) => random * ((last >> 64).max(1)),
    };
    band.first + offset.min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn intervals(runs: &[(u128, u128)]) -> Intervals {
        let mut numbers = Intervals::default();
        for (first, last) in runs {
            numbers.insert(*first, *last);
        }
        numbers
    }

    fn shelf(runs: &[(u128, u128)], kept: u128) -> Shelf {
        let numbers = intervals(runs);
        Shelf::new(&numbers, &numbers.lowest(kept))
    }

    #[test]
    fn a_static_band_of_several_parts_comes_last_part_by_part() {
        let (numbers, kept) = (
            intervals(&[(10, 14), (20, 24)]),
            intervals(&[(0, 11), (20, 20), (99, 99)]),
        );
        let mut shelf = Shelf::new(&numbers, &kept);
        let mut given = Vec::new();
        while let Some(number) = shelf.next(Strategy::LowestFirst, 0, NOW) {
            shelf.take(number);
            given.push(number);
        }
        assert_eq!(given, [12, 13, 14, 21, 22, 23, 24, 10, 11, 20]);
        assert!(
            given
                .iter()
                .all(|number| shelf.number(shelf.place(*number).unwrap()) == *number)
        );
        assert_eq!(
            (shelf.place(15), shelf.place(9), shelf.place(25)),
            (None, None, None)
        );
    }

    #[test]
    fn places_and_numbers_are_inverse_over_any_ranges() {
        let top = u128::MAX;
        for runs in [
            &[(0, 0)][..],
            &[(top, top)],
            &[(0, 9), (20, 20), (30, 99)],
            &[(0, 0), (top - 1, top)],
            &[(0, top)],
            &[(0, top - 2), (top, top)],
        ] {
            let shelf = shelf(runs, 0);
            let mut place = 0u128;
            for (first, last) in runs {
                for number in [*first, first + (last - first) / 2, *last] {
                    let place = place + (number - first);
                    assert_eq!(shelf.place(number), Some(place), "{number} in {runs:?}");
                    assert_eq!(shelf.number(place), number, "{place} in {runs:?}");
                }
                place = (place + (last - first)).wrapping_add(1);
            }
            assert_eq!(shelf.busy.last(), Some(place.wrapping_sub(1)));
        }
        assert_eq!(shelf(&[(5, 9), (20, 30)], 0).place(15), None);
        assert_eq!(shelf(&[(5, 9)], 0).place(4), None);
    }

    #[test]
    fn a_random_start_reaches_both_ends_of_any_band() {
        let top = u128::MAX;
        for (first, last) in [
            (0, 0),
            (7, 8),
            (0, 99),
            (16, 255),
            (0, u128::from(u64::MAX)),
            (0, 1 << 64),
            (256, top),
            (0, top),
        ] {
            let band = Band { first, last };
            assert_eq!(somewhere(band, 0), first, "{band:?}");
            let end = somewhere(band, u64::MAX);
            assert!(
                end <= last && last - end <= (last - first) >> 63,
                "{band:?} {end}"
            );
        }
    }

    #[test]
    fn the_static_band_comes_last_but_before_what_rests() {
        let mut shelf = shelf(&[(100, 119)], 16);
        let mut next = |strategy| {
            let number = shelf.next(strategy, 0, NOW)?;
            shelf.take(number);
            Some(number)
        };
        let dynamic: Vec<_> = (0..4).map(|_| next(Strategy::LowestFirst)).collect();
        assert_eq!(dynamic, [116, 117, 118, 119].map(Some));
        shelf.rest(118, Duration::from_secs(60));
        for expected in (100..116).chain([118]) {
            assert_eq!(shelf.next(Strategy::LowestFirst, 0, NOW), Some(expected));
            shelf.take(expected);
        }
        assert_eq!(shelf.next(Strategy::LowestFirst, 0, NOW), None);
    }

    #[test]
    fn a_band_larger_than_the_pool_is_the_whole_pool() {
        let mut shelf = shelf(&[(1, 3)], 9);
        assert_eq!(shelf.next(Strategy::Random, u64::MAX, NOW), Some(3));
    }

    #[test]
    fn only_so_many_releases_are_remembered() {
        let mut shelf = shelf(&[(0, 9)], 0);
        shelf.most_resting = 3;
        for number in 0..5 {
            shelf.take(number);
        }
        for number in [4, 3, 2, 1, 0] {
            shelf.rest(number, Duration::from_secs(9 - u64::try_from(number).unwrap()));
        }
        let resting: Vec<_> = shelf.resting().map(|(number, _)| number).collect();
        assert_eq!(resting, [0, 1, 2], "the latest");
        assert_eq!(shelf.next(Strategy::LeastRecentlyReleased, 0, NOW), Some(3));
    }
}
