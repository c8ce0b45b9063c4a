// SPDX-License-Identifier: Apache-2.0
//! The holds by question, by Service and by deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_model::ServiceKey;

use super::Grant;
use crate::holder::{AskId, Hold};

/// All holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Holds {
    by_ask: BTreeMap<AskId, Hold<Grant>>,
    by_service: BTreeMap<ServiceKey, BTreeSet<AskId>>,
    deadlines: BTreeSet<(Duration, AskId)>,
}

impl Holds {
    pub(super) fn get(&self, ask: &AskId) -> Option<&Hold<Grant>> {
        self.by_ask.get(ask)
    }

    pub(super) fn insert(&mut self, ask: &AskId, hold: Hold<Grant>) {
        self.remove(ask);
        self.deadlines.insert((hold.until, ask.clone()));
        if let Some(key) = hold.grant.key() {
            self.by_service.entry(key).or_default().insert(ask.clone());
        }
        self.by_ask.insert(ask.clone(), hold);
    }

    pub(super) fn remove(&mut self, ask: &AskId) -> Option<Hold<Grant>> {
        let hold = self.by_ask.remove(ask)?;
        self.deadlines.remove(&(hold.until, ask.clone()));
        if let Some(key) = hold.grant.key()
            && let Some(asks) = self.by_service.get_mut(&key)
        {
            asks.remove(ask);
            if asks.is_empty() {
                self.by_service.remove(&key);
            }
        }
        Some(hold)
    }

    /// Those whose deadline has come.
    pub(super) fn due(&self, now: Duration) -> Vec<AskId> {
        let due = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        due.map(|(_, ask)| ask.clone()).collect()
    }

    /// Those for a Service, the one that was asked first by the same replica first.
    pub(super) fn of(&self, key: &ServiceKey) -> impl Iterator<Item = (&AskId, &Hold<Grant>)> {
        let asks = self.by_service.get(key).into_iter().flatten();
        asks.filter_map(|ask| Some((ask, self.by_ask.get(ask)?)))
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&AskId, &Hold<Grant>)> {
        self.by_ask.iter()
    }
}
