// SPDX-License-Identifier: Apache-2.0
//! The queue as plain state; the clock is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::Instant;

use super::budget::{Budget, Spent};

/// What a worker may do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// Work on this key.
    Take {
        /// The key.
        key: T,
        /// Since when it was ready.
        since: Instant,
        /// Whether another one is ready for the next worker, or due later.
        more: bool,
    },
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
    ready: VecDeque<(T, Instant)>,
    /// The members of `ready`.
    waiting: BTreeSet<T>,
    in_flight: BTreeSet<T>,
    /// Added while in flight.
    again: BTreeSet<T>,
    /// When each delayed key is due, and the same by time.
    delayed: BTreeMap<T, Instant>,
    due: BTreeSet<(Instant, T)>,
    /// Keys that nothing brings back earlier.
    held: BTreeMap<T, Instant>,
    failures: BTreeMap<T, u32>,
    /// Set while the last outcome was a failure of the server.
    failing: bool,
    spent: Spent,
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
            held: BTreeMap::new(),
            failures: BTreeMap::new(),
            failing: false,
            spent: Spent::default(),
            closed: false,
        }
    }
}

impl<T: Ord + Clone> Core<T> {
    /// Whether the key became ready by this; one being worked on does when that work ends.
    pub(super) fn add(&mut self, key: T, now: Instant) -> bool {
        if self.closed {
            return false;
        }
        if let Some(until) = self.held.get(&key).copied() {
            if until > now {
                self.add_at(key, until);
                return false;
            }
            self.held.remove(&key);
        }
        if self.in_flight.contains(&key) {
            self.again.insert(key);
            return false;
        }
        let new = self.waiting.insert(key.clone());
        if new {
            self.ready.push_back((key, now));
        }
        new
    }

    pub(super) fn add_at(&mut self, key: T, at: Instant) {
        if self.closed {
            return;
        }
        let at = self.held.get(&key).map_or(at, |held| at.max(*held));
        if let Some(before) = self.delayed.get(&key).copied() {
            if before <= at {
                return;
            }
            self.due.remove(&(before, key.clone()));
        }
        self.delayed.insert(key.clone(), at);
        self.due.insert((at, key));
    }

    /// Makes ready what is due; yields how many keys that are.
    pub(super) fn ripen(&mut self, now: Instant) -> u64 {
        let mut ripe = 0;
        while self.due.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.due.pop_first() {
                self.delayed.remove(&key);
                ripe += u64::from(self.add(key, now));
            }
        }
        ripe
    }

    /// The next key; what is due must have ripened.
    pub(super) fn next(&mut self, budget: Option<Budget>, now: Instant) -> Next<T> {
        if self.closed {
            return Next::Closed;
        }
        if self.ready.is_empty() {
            return self.due.first().map_or(Next::Wait, |(at, _)| Next::At(*at));
        }
        if let Some(budget) = budget.filter(|_| self.failing) {
            let at = self.spent.next(budget, now);
            if at > now {
                return Next::At(at);
            }
            self.spent.take(budget, now);
        }
        let Some((key, since)) = self.ready.pop_front() else {
            return Next::Wait;
        };
        self.waiting.remove(&key);
        // The work that begins now sees all that led to the delayed one.
        if let Some(at) = self.delayed.remove(&key) {
            self.due.remove(&(at, key.clone()));
        }
        self.in_flight.insert(key.clone());
        let more = !self.ready.is_empty() || !self.due.is_empty();
        Next::Take { key, since, more }
    }

    /// Work on the key ended well.
    pub(super) fn done(&mut self, key: &T, now: Instant) {
        self.failing = false;
        self.forgive(key);
        self.release(key, now);
    }

    /// Earlier failures of the key count no longer.
    pub(super) fn forgive(&mut self, key: &T) {
        self.failures.remove(key);
    }

    /// Work on the key failed; yields how often in a row. It is still in flight.
    pub(super) fn failed(&mut self, key: &T) -> u32 {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        *failures
    }

    /// Nothing brings the key back before this moment, and until work on some key ends well turns are
    /// taken within the budget.
    pub(super) fn hold(&mut self, key: &T, until: Instant) {
        self.failing = true;
        if !self.closed {
            self.held.insert(key.clone(), until);
        }
    }

    /// Nobody works on the key any longer.
    pub(super) fn release(&mut self, key: &T, now: Instant) {
        self.in_flight.remove(key);
        if self.again.remove(key) {
            self.add(key.clone(), now);
        }
    }

    pub(super) fn failures(&self, key: &T) -> u32 {
        self.failures.get(key).copied().unwrap_or(0)
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.ready.clear();
        self.waiting.clear();
        self.again.clear();
        self.delayed.clear();
        self.due.clear();
        self.held.clear();
    }

    #[cfg(test)]
    pub(super) fn is_waiting(&self, key: &T) -> bool {
        self.waiting.contains(key)
    }

    /// Keys that could be worked on now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
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
