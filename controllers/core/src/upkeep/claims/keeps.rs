// SPDX-License-Identifier: Apache-2.0
//! What a claim keeps, as its status has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_crds::AddressClaimStatus;
use berth_model::IpFamily;
use k8s_openapi::jiff::Timestamp;

use crate::values::Values;

/// What a claim keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keeps {
    pub(super) addresses: BTreeMap<IpFamily, IpAddr>,
    /// That each was given of.
    pub(super) pools: BTreeMap<IpFamily, String>,
    /// Since when it has all of them.
    pub(super) since: Option<Timestamp>,
}

impl Keeps {
    /// What the status says. Where it says nothing of a pool, the one that has the address now.
    pub(super) fn of(status: Option<&AddressClaimStatus>, values: &Values) -> Self {
        let mut keeps = Self::default();
        let Some(status) = status else {
            return keeps;
        };
        for (index, text) in status.addresses.iter().enumerate() {
            let Ok(address) = text.parse::<IpAddr>() else {
                continue;
            };
            let said = status.pools.get(index).map(String::as_str);
            if let Some(pool) = said.or_else(|| values.pool_of(address)) {
                keeps.pools.insert(IpFamily::of(address), pool.to_owned());
            }
            keeps.addresses.insert(IpFamily::of(address), address);
        }
        keeps.since = status.held_since.as_ref().map(|since| since.0);
        keeps
    }

    /// Of these families.
    pub(super) fn only(mut self, families: &[IpFamily]) -> Self {
        self.addresses.retain(|family, _| families.contains(family));
        self.pools.retain(|family, _| families.contains(family));
        self
    }
}
