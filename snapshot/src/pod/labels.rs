// SPDX-License-Identifier: Apache-2.0
//! Labels whose texts are shared among all objects of a watch.

use std::sync::Arc;

/// Labels, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabelSet(Box<[(Arc<str>, Arc<str>)]>);

impl LabelSet {
    /// From pairs in any order; of two with one key the later counts.
    pub(super) fn of(mut pairs: Vec<(Arc<str>, Arc<str>)>) -> Self {
        // A stable sort keeps the later one last.
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        Self(pairs.into())
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let found = self.0.binary_search_by(|(label, _)| (**label).cmp(key));
        Some(&self.0.get(found.ok()?)?.1)
    }

    /// Key and value of each, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for LabelSet {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Self::of(
            pairs
                .map(|(key, value)| (Arc::from(key.as_ref()), Arc::from(value.as_ref())))
                .collect(),
        )
    }
}
