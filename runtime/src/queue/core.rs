// SPDX-License-Identifier: Apache-2.0
//! The queue as plain state; the clock is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

/// What a worker may do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// Work on this key; `true` if another one is ready for the next worker, or due later.
    Take(T, bool),
    /// Nothing before this moment.
    At(Instant),
    /// Nothing until somebody adds.
    Wait,
    /// Nothing ever again.
    Closed,
}

/// Every key is in at most one of `ready` and `in_flight`; it may be in `delayed` besides.
#[derive(Debug)]
pub(super) struct Core<T: Ord + Clone> {
    ready: VecDeque<T>,
    /// The members of `ready`.
    waiting: BTreeSet<T>,
    in_flight: BTreeSet<T>,
    /// Added while in flight.
    again: BTreeSet<T>,
    /// When each delayed key is due, and the same by time.
    delayed: BTreeMap<T, Instant>,
    due: BTreeSet<(Instant, T)>,
    failures: BTreeMap<T, u32>,
    closed: bool,
}

impl<T: Ord + Clone> Default for Core<T> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            again: BTreeSet::new(),
            delayed: BTreeMap::new(),
            due: BTreeSet::new(),
            failures: BTreeMap::new(),
            closed: false,
        }
    }
}

impl<T: Ord + Clone> Core<T> {
    pub(super) fn add(&mut self, key: T) {
        if self.closed {
            return;
        }
        if self.in_flight.contains(&key) {
            self.again.insert(key);
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    pub(super) fn add_at(&mut self, key: T, at: Instant) {
        if self.closed {
            return;
        }
        if let Some(before) = self.delayed.get(&key).copied() {
            if before <= at {
                return;
            }
            self.due.remove(&(before, key.clone()));
        }
        self.delayed.insert(key.clone(), at);
        self.due.insert((at, key));
    }

    pub(super) fn next(&mut self, now: Instant) -> Next<T> {
        if self.closed {
            return Next::Closed;
        }
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.due.pop_first() {
                self.delayed.remove(&key);
                self.add(key);
            }
        }
        match self.ready.pop_front() {
            Some(key) => {
                self.waiting.remove(&key);
                self.in_flight.insert(key.clone());
                Next::Take(key, !self.ready.is_empty() || !self.due.is_empty())
            }
            None => self.due.first().map_or(Next::Wait, |(at, _)| Next::At(*at)),
        }
    }

    /// Work on the key ended well.
    pub(super) fn done(&mut self, key: &T) {
        self.failures.remove(key);
        self.release(key);
    }

    /// Work on the key failed; yields how often in a row.
    pub(super) fn failed(&mut self, key: &T) -> u32 {
        self.release(key);
        let failures = self.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        *failures
    }

    /// Nobody works on the key any longer.
    pub(super) fn release(&mut self, key: &T) {
        self.in_flight.remove(key);
        if self.again.remove(key) {
            self.add(key.clone());
        }
    }

    pub(super) fn failures(&self, key: &T) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    /// When a delayed key is due, if it is delayed.
    #[cfg(test)]
    pub(super) fn delayed_until(&self, key: &T) -> Option<Instant> {
        self.delayed.get(key).copied()
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.ready.clear();
        self.waiting.clear();
        self.again.clear();
        self.delayed.clear();
        self.due.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
            + self
                .delayed
                .keys()
                .filter(|key| !self.waiting.contains(*key))
                .count()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.delayed.is_empty() && self.in_flight.is_empty()
    }
}
