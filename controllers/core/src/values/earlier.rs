// SPDX-License-Identifier: Apache-2.0
//! What the replica that answers a review asks its own book, before anybody chooses.

use std::collections::BTreeSet;

use berth_model::ServiceKey;

use super::{Grant, Values};
use crate::pools::Item;
use crate::service::Labels;

/// What is known of the labels of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceLabels {
    /// No pool goes by them.
    NotAskedFor,
    /// These.
    Known(Labels),
    /// The watch has not shown the namespace: it is new, or gone.
    Unknown,
}

impl NamespaceLabels {
    /// Those that are known.
    pub fn known(self) -> Option<Labels> {
        match self {
            Self::Known(labels) => Some(labels),
            Self::NotAskedFor | Self::Unknown => None,
        }
    }
}

impl Values {
    /// Whether any pool goes by the labels of namespaces.
    pub fn goes_by_namespace_labels(&self) -> bool {
        self.ranked.go_by_namespace_labels()
    }

    /// The labels of a namespace, where it matters.
    pub fn namespace_labels(&self, namespace: &str) -> NamespaceLabels {
        if !self.goes_by_namespace_labels() {
            return NamespaceLabels::NotAskedFor;
        }
        let known = self.namespaces.get(namespace).cloned();
        known.map_or(NamespaceLabels::Unknown, NamespaceLabels::Known)
    }

    /// Which of these values were chosen for a Service of this name a moment ago, and not wished for by whoever writes it.
    /// Without a name: for any Service of the namespace that is yet to have one.
    pub fn chosen_before(
        &self,
        namespace: &str,
        name: Option<&str>,
        among: &BTreeSet<Item>,
    ) -> BTreeSet<Item> {
        let key = name.map(|name| ServiceKey::new(namespace, name));
        let was_chosen = |item: &Item| {
            let grants: Vec<&Grant> = match &key {
                Some(key) => self.holds.of(key).map(|(_, hold)| &hold.grant).collect(),
                None => {
                    let asks = self.unnamed(*item, namespace).into_iter();
                    asks.filter_map(|ask| Some(&self.holds.get(&ask)?.grant))
                        .collect()
                }
            };
            let was_wished = grants.iter().any(|grant| grant.wished.contains(item));
            !was_wished && grants.iter().any(|grant| grant.items().contains(item))
        };
        among.iter().copied().filter(was_chosen).collect()
    }
}
