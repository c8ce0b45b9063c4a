// SPDX-License-Identifier: Apache-2.0
//! One copy of what many objects have in common.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Values kept once each. What nobody else holds any more is dropped now and then.
#[derive(Debug)]
pub struct Interner<T: ?Sized> {
    known: BTreeSet<Arc<T>>,
    sweep_at: usize,
}

/// Below this size a sweep is not worth its while.
const FIRST_SWEEP: usize = 1024;

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self {
            known: BTreeSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl<T: ?Sized + Ord> Interner<T> {
    /// The copy of what looks like `value`.
    pub fn get<Q: ?Sized + Ord>(&mut self, value: &Q) -> Arc<T>
    where
        Arc<T>: Borrow<Q> + for<'a> From<&'a Q>,
    {
        if let Some(known) = self.known.get(value) {
            return Arc::clone(known);
        }
        let new = Arc::from(value);
        self.keep(&new);
        new
    }

    /// The copy that equals `value`, which becomes it if there is none.
    pub fn share(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(&value) {
            return Arc::clone(known);
        }
        self.keep(&value);
        value
    }

    fn keep(&mut self, new: &Arc<T>) {
        // Doubling keeps the cost of sweeps constant per value.
        if self.known.len() >= self.sweep_at {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = FIRST_SWEEP.max(2 * self.known.len());
        }
        self.known.insert(Arc::clone(new));
    }

    /// How many values are kept.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        let mut texts = Interner::<str>::default();
        let (a, b) = (texts.get("node-1"), texts.get("node-1"));
        assert!(Arc::ptr_eq(&a, &b));
        assert!(Arc::ptr_eq(&a, &texts.share("node-1".into())));
        assert_eq!(texts.len(), 1);
    }

    #[test]
    fn what_nobody_holds_goes() {
        let mut texts = Interner::<str>::default();
        let held: Vec<Arc<str>> = (0..10).map(|n| texts.get(&*format!("held-{n}"))).collect();
        for n in 0..100_000 {
            texts.get(&*format!("passing-{n}"));
        }
        assert!(texts.len() <= 2 * FIRST_SWEEP, "{}", texts.len());
        for (n, text) in held.iter().enumerate() {
            assert!(Arc::ptr_eq(text, &texts.get(&*format!("held-{n}"))));
        }
    }
}
