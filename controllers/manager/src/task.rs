// SPDX-License-Identifier: Apache-2.0
//! What there is to do, by controller.

use std::collections::BTreeSet;

use berth_model::ServiceKey;

/// One turn that a controller has to take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// The Endpoints of this Service.
    Endpoints(ServiceKey),
    /// The slices of this Service.
    Slices(ServiceKey),
    /// The slices that mirror the Endpoints of this name.
    Mirror(ServiceKey),
    /// The LoadBalancer addresses of this Service.
    LoadBalancer(ServiceKey),
    /// The set of AddressPools changed.
    Pools,
}

/// What became due by one change of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    /// At once.
    pub(crate) now: BTreeSet<Task>,
    /// After the controller's batch period.
    pub(crate) batched: BTreeSet<Task>,
}

impl Dirty {
    /// Adds what another change made due.
    pub(crate) fn merge(&mut self, other: Self) {
        self.now.extend(other.now);
        self.batched.extend(other.batched);
    }
}
