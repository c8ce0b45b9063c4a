// SPDX-License-Identifier: Apache-2.0
//! Sets of numbers as disjoint intervals.

use std::collections::BTreeMap;

/// Disjoint inclusive intervals, no two of them adjacent. Every operation on one number is `O(log intervals)`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Intervals {
    by_start: BTreeMap<u128, u128>,
    /// How many numbers they hold, modulo 2^128: zero with a non-empty map means every number.
    count: u128,
}

impl Intervals {
    /// Adds `first..=last`.
    pub(crate) fn insert(&mut self, first: u128, last: u128) {
        let (mut start, mut end) = (first, last);
        if let Some((&s, &e)) = self.by_start.range(..=first).next_back()
            && e.saturating_add(1) >= first
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.by_start.range(start..).next()
            && s <= end.saturating_add(1)
        {
            self.drop_interval(s, e);
            end = end.max(e);
        }
        self.add_interval(start, end);
    }

    /// Takes `first..=last` out.
    pub(crate) fn remove(&mut self, first: u128, last: u128) {
        let reaching_in = self.by_start.range(..first).next_back();
        let mut touched: Vec<(u128, u128)> = reaching_in
            .into_iter()
            .chain(self.by_start.range(first..=last))
            .map(|(s, e)| (*s, *e))
            .collect();
        touched.retain(|(_, e)| *e >= first);
        for (s, e) in touched {
            self.drop_interval(s, e);
            if s < first {
                self.add_interval(s, first - 1);
            }
            if e > last {
                self.add_interval(last + 1, e);
            }
        }
    }

    pub(crate) fn contains(&self, number: u128) -> bool {
        self.by_start
            .range(..=number)
            .next_back()
            .is_some_and(|(_, end)| *end >= number)
    }

    /// How many numbers; all of 2^128, one more than fits, count as `u128::MAX`.
    pub(crate) fn count(&self) -> u128 {
        if self.count == 0 && !self.by_start.is_empty() {
            u128::MAX
        } else {
            self.count
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// First and last number of each, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.by_start.iter().map(|(start, end)| (*start, *end))
    }

    /// The lowest numbers, so many of them, or all where there are fewer.
    pub(crate) fn lowest(&self, mut many: u128) -> Self {
        let mut lowest = Self::default();
        for (first, last) in self.iter() {
            let Some(further) = many.checked_sub(1) else {
                break;
            };
            let taken = further.min(last - first);
            lowest.insert(first, first + taken);
            many = further - taken;
        }
        lowest
    }

    /// What both hold.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (&start, &end) in &self.by_start {
            // The interval of theirs that begins before ours may reach into it.
            let from = other.by_start.range(..=start).next_back();
            let from = from.map_or(start, |(start, _)| *start);
            for (&their_start, &their_end) in other.by_start.range(from..=end) {
                let (low, high) = (start.max(their_start), end.min(their_end));
                if low <= high {
                    both.insert(low, high);
                }
            }
        }
        both
    }

    fn add_interval(&mut self, start: u128, end: u128) {
        self.by_start.insert(start, end);
        self.count = self.count.wrapping_add(end - start).wrapping_add(1);
    }

    fn drop_interval(&mut self, start: u128, end: u128) {
        self.by_start.remove(&start);
        self.count = self.count.wrapping_sub(end - start).wrapping_sub(1);
    }
}
