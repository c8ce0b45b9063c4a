// SPDX-License-Identifier: Apache-2.0
//! IPAddresses that others than the API server's allocator manage: as long as one is there, the API server gives its address
//! to nobody, so that the book doesn't either.
//!
//! A Service that has the address all the same counts as its holder: the API server takes such an IPAddress away and makes
//! its own (kubernetes, pkg/registry/core/service/ipallocator/controller, the repair of IPAddresses).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Finding, Values};
use crate::pools::Item;

/// The label of an IPAddress that says who manages it (k8s.io/api/networking/v1, `LabelManagedBy`).
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Its value where that is the API server's allocator of cluster IPs (ipallocator, `ControllerName`).
pub const ALLOCATOR: &str = "ipallocator.k8s.io";

impl Values {
    /// An IPAddress that is not the allocator's. `manager`: what its label says.
    pub fn apply_foreign_address(&mut self, address: IpAddr, manager: Option<&str>, now: Duration) {
        self.now = self.now.max(now);
        let manager = manager.map(ToOwned::to_owned);
        if self.foreign.get(&address) == Some(&manager) {
            return;
        }
        self.changes += 1;
        self.foreign.insert(address, manager);
        self.addresses
            .change(address, self.now, |grounds| grounds.foreign = true);
    }

    /// It is gone, or the allocator's now.
    pub fn remove_foreign_address(&mut self, address: IpAddr, now: Duration) {
        self.now = self.now.max(now);
        if self.foreign.remove(&address).is_some() {
            self.changes += 1;
            self.addresses
                .change(address, self.now, |grounds| grounds.foreign = false);
        }
    }

    /// After a complete list of them.
    pub fn retain_foreign_addresses(&mut self, listed: &BTreeSet<IpAddr>, now: Duration) {
        let gone = self.foreign.keys().filter(|address| !listed.contains(address));
        for address in gone.copied().collect::<Vec<_>>() {
            self.remove_foreign_address(address, now);
        }
    }

    /// Whether such an IPAddress has the value, and no Service.
    pub(crate) fn is_foreign(&self, item: Item) -> bool {
        match item {
            Item::Address(address) => self.foreign.contains_key(&address) && self.user(item).is_none(),
            Item::Port(_) => false,
        }
    }

    /// Those that have an address of a pool.
    pub fn foreign_findings(&self) -> Vec<Finding> {
        let of_pools = self.foreign.iter().filter_map(|(address, manager)| {
            let pool = self.pool_of(*address)?;
            self.is_foreign(Item::Address(*address))
                .then(|| Finding::Foreign {
                    address: *address,
                    manager: manager.clone(),
                    pool: pool.to_owned(),
                })
        });
        of_pools.collect()
    }
}
