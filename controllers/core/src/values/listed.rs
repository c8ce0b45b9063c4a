// SPDX-License-Identifier: Apache-2.0
//! Complete lists: whatever is not in them is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_model::ServiceKey;

use super::Values;

impl Values {
    /// After a complete list of Services.
    pub fn retain_services(&mut self, listed: &BTreeSet<ServiceKey>, now: Duration) {
        let gone = self.services.keys().filter(|key| !listed.contains(key));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.remove_service(&key, now);
        }
    }

    /// After a complete list of ServiceCIDRs.
    pub fn retain_service_cidrs(&mut self, listed: &BTreeSet<String>) {
        for name in missing(&self.cidrs, listed) {
            self.remove_service_cidr(&name);
        }
    }

    /// After a complete list of namespaces.
    pub fn retain_namespaces(&mut self, listed: &BTreeSet<String>) {
        self.changes += 1;
        self.namespaces.retain(|name, _| listed.contains(name));
    }

    /// After a complete list of pools of addresses.
    pub fn retain_address_pools(&mut self, listed: &BTreeSet<String>) {
        for name in missing(&self.address_pools, listed) {
            self.remove_address_pool(&name);
        }
    }

    /// After a complete list of pools of node ports.
    pub fn retain_port_pools(&mut self, listed: &BTreeSet<String>) {
        for name in missing(&self.port_pools, listed) {
            self.remove_port_pool(&name);
        }
    }

    /// After a complete list of claims, by namespace and name.
    pub fn retain_claims(&mut self, listed: &BTreeSet<(String, String)>, now: Duration) {
        for (namespace, name) in missing(&self.claim_objects, listed) {
            self.remove_claim(&namespace, &name, now);
        }
    }
}

fn missing<K: Ord + Clone, V>(known: &BTreeMap<K, V>, listed: &BTreeSet<K>) -> Vec<K> {
    let gone = known.keys().filter(|key| !listed.contains(key));
    gone.cloned().collect()
}
