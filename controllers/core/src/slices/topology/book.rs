// SPDX-License-Identifier: Apache-2.0
//! What is remembered of all Services, and which of them a change of Nodes concerns.

use std::collections::BTreeMap;

use berth_model::ServiceKey;

use super::allocate::{allocate, is_overloaded};
use super::shares::ZoneShares;
use super::verdict::{HintState, HintsOff, Verdict};

/// The [`HintState`] of every Service that asks for topology mode.
///
/// For each turn: [`TopologyBook::get`] into the plan's input, and after the writes, whether they
/// went well or not, [`TopologyBook::set`] what the plan gave back and record its events. When a
/// Node's facts change: compute the [`ZoneShares`] anew and plan every Service that
/// [`TopologyBook::due`] names.
#[derive(Clone, Debug, Default)]
pub struct TopologyBook {
    services: BTreeMap<ServiceKey, HintState>,
}

impl TopologyBook {
    /// What is remembered of a Service.
    pub fn get(&self, key: &ServiceKey) -> HintState {
        self.services.get(key).cloned().unwrap_or_default()
    }

    /// Remembers the outcome of a turn.
    pub fn set(&mut self, key: &ServiceKey, state: HintState) {
        if state.is_empty() {
            self.services.remove(key);
        } else {
            self.services.insert(key.clone(), state);
        }
    }

    /// Forgets a Service that is gone.
    pub fn forget(&mut self, key: &ServiceKey) {
        self.services.remove(key);
    }

    /// The Services whose hints do not do for these shares: some zone is overloaded (the only case
    /// that upstream looks at), or the reason why there are no hints does not hold any more.
    pub fn due(&self, shares: &ZoneShares) -> Vec<ServiceKey> {
        let due = self
            .services
            .iter()
            .filter(|(_, state)| state.verdicts().any(|verdict| is_due(verdict, shares)));
        due.map(|(key, _)| key.clone()).collect()
    }
}

fn is_due(verdict: &Verdict, shares: &ZoneShares) -> bool {
    match verdict {
        Verdict::On(counts) => is_overloaded(counts, shares),
        // A zone for the endpoint brings its own turn, by the Pods on that Node.
        Verdict::Off(HintsOff::EndpointWithoutZone, _) => false,
        Verdict::Off(why, ready) => allocate(shares, *ready).err() != Some(*why),
    }
}
