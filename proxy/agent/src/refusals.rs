// SPDX-License-Identifier: Apache-2.0
//! Services that the kernel, or the program that speaks to it, refuses: each is left alone for a while, and named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use berth_model::ServiceKey;
use berth_proxy_core::{Intent, Touched};

use crate::backend::REFUSED_FOR;

/// Those that are left alone.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<ServiceKey, Refused>);

/// What would not be taken.
#[derive(Debug)]
struct Refused {
    /// What was said.
    why: String,
    /// When to try again.
    again_at: Instant,
}

impl Refusals {
    /// Leaves the Service alone from now on.
    pub(crate) fn insert(&mut self, service: ServiceKey, why: String) {
        let again_at = Instant::now() + REFUSED_FOR;
        self.0.insert(service, Refused { why, again_at });
    }

    /// Whether the Service is left alone.
    pub(crate) fn contains(&self, service: &ServiceKey) -> bool {
        self.0.contains_key(service)
    }

    /// All of them.
    pub(crate) fn services(&self) -> BTreeSet<ServiceKey> {
        self.0.keys().cloned().collect()
    }

    /// Each with what was said.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = (ServiceKey, String)> {
        let reasons = self.0.iter();
        reasons.map(|(service, refused)| (service.clone(), refused.why.clone()))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets them all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets those that are to be tried again, because it is time or something about them is new, and those that are
    /// gone. Says whether there were any.
    pub(crate) fn forgive(&mut self, intent: &Intent, touched: &Touched) -> bool {
        let before = self.0.len();
        let now = Instant::now();
        let owners = touched
            .frontends
            .iter()
            .filter_map(|frontend| intent.get(frontend));
        for owner in owners.map(|found| &found.owner.service) {
            self.0.remove(owner);
        }
        self.0
            .retain(|service, refused| refused.again_at > now && intent.has_service(service));
        self.0.len() < before
    }

    /// How long until one is to be tried again.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        let due = self.0.values().map(|refused| refused.again_at).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }
}
