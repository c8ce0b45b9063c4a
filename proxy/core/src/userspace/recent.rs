// SPDX-License-Identifier: Apache-2.0
//! A table of bounded size that forgets what was not used for longest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<V> {
    value: V,
    used: Duration,
}

/// Values by key, each with the time of its last use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    by_use: BTreeSet<(Duration, K)>,
    limit: usize,
}

impl<K: Ord + Clone, V> Recent<K, V> {
    /// An empty table for at most this many entries; one at least.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_use: BTreeSet::new(),
            limit: limit.max(1),
        }
    }

    /// The value, without using it.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// When the value was used last.
    pub fn last_use(&self, key: &K) -> Option<Duration> {
        self.entries.get(key).map(|entry| entry.used)
    }

    /// The value, used now.
    pub fn touch(&mut self, key: &K, now: Duration) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        if entry.used != now {
            self.by_use.remove(&(entry.used, key.clone()));
            self.by_use.insert((now, key.clone()));
            entry.used = now;
        }
        Some(&mut entry.value)
    }

    /// Puts a value in, used now. Returns the one that it takes the place of, or that has to go because the table is full:
    /// the one that was not used for longest, of several the one with the smallest key.
    pub fn insert(&mut self, key: K, value: V, now: Duration) -> Option<(K, V)> {
        let displaced = match self.remove(&key) {
            Some(before) => Some((key.clone(), before)),
            None if self.entries.len() >= self.limit => self.pop_oldest(),
            None => None,
        };
        self.by_use.insert((now, key.clone()));
        self.entries.insert(key, Entry { value, used: now });
        displaced
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.by_use.remove(&(entry.used, key.clone()));
        Some(entry.value)
    }

    /// Takes out the value that was not used for longest.
    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.by_use.pop_first()?;
        let entry = self.entries.remove(&key)?;
        Some((key, entry.value))
    }

    /// Takes out one value that was used last at this time or before, the oldest first.
    pub fn pop_unused_since(&mut self, time: Duration) -> Option<(K, V)> {
        let (used, _) = self.by_use.first()?;
        if *used <= time { self.pop_oldest() } else { None }
    }

    /// When the value was used last that was not used for longest.
    pub fn oldest_use(&self) -> Option<Duration> {
        self.by_use.first().map(|(used, _)| *used)
    }

    /// Takes out those that do not fit.
    pub fn extract(&mut self, mut goes: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)> {
        let gone = self.entries.iter().filter(|(key, entry)| goes(key, &entry.value));
        let gone: Vec<K> = gone.map(|(key, _)| key.clone()).collect();
        let gone = gone.into_iter().filter_map(|key| {
            let value = self.remove(&key)?;
            Some((key, value))
        });
        gone.collect()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_full_table_forgets_what_was_not_used_for_longest() {
        let mut table = Recent::new(2);
        assert_eq!(table.insert('a', 1, at(0)), None);
        assert_eq!(table.insert('b', 2, at(1)), None);
        assert_eq!(table.touch(&'a', at(2)), Some(&mut 1));
        assert_eq!(table.insert('c', 3, at(3)), Some(('b', 2)));
        assert_eq!(
            table.insert('c', 4, at(4)),
            Some(('c', 3)),
            "it takes its own place"
        );
        assert_eq!((table.len(), table.oldest_use()), (2, Some(at(2))));
    }

    #[test]
    fn what_was_not_used_since_goes_oldest_first() {
        let mut table = Recent::new(9);
        for n in 0..5 {
            table.insert(n, n, at(n));
        }
        table.touch(&0, at(9));
        let gone: Vec<_> = std::iter::from_fn(|| table.pop_unused_since(at(2))).collect();
        assert_eq!(gone, [(1, 1), (2, 2)]);
        assert_eq!(table.extract(|_, value| *value == 3), [(3, 3)]);
        assert_eq!(table.last_use(&0), Some(at(9)));
        assert_eq!((table.get(&4), table.len()), (Some(&4), 2));
    }
}
