// SPDX-License-Identifier: Apache-2.0
//! Services that have a value of no pool, where pools are for them.

use berth_model::ServiceKey;

use super::{Known, Values};
use crate::pools::{Choice, Item, Outcome, PoolRef};

impl Values {
    /// The pools that would have given the Service another value than this one, which is of no pool. Those that are younger
    /// than the Service don't count: whoever makes a pool does not mean the Services that are there, and the webhook had no say.
    pub(super) fn astray(&self, key: &ServiceKey, known: &Known, item: Item) -> Option<Vec<PoolRef>> {
        if self.exemptions.of(key.namespace(), key.name()).is_some() {
            return None;
        }
        let supply = item.what().supply();
        let mut of_supply = self.ranked.iter().filter(|(pool, _)| pool.supply() == supply);
        if of_supply.any(|(pool, _)| pool.contains(item)) {
            // Its own, or an encroachment.
            return None;
        }
        let selection = self.selection(key, known, item);
        if matches!(selection.choice, Choice::Wished { .. }) {
            return None;
        }
        let serving = selection.considered.into_iter().filter(|considered| {
            considered.outcome == Outcome::Serves && self.ranked.was_made_by(&considered.pool, known.created)
        });
        let pools: Vec<PoolRef> = serving.map(|considered| considered.pool).collect();
        (!pools.is_empty()).then_some(pools)
    }
}
