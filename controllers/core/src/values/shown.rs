// SPDX-License-Identifier: Apache-2.0
//! What the book was told, and what follows from it for claims: for those who keep statuses in step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use berth_allocator::PoolName;
use berth_crds::{AddressClaim, AddressPool, NodePortPool, PoolUse};
use berth_model::{IpFamily, IpRange, ServiceKey};

use super::definitions::created;
use super::stock::outside;
use super::{CidrState, ClaimId, Finding, Values};
use crate::pools::{Item, Standing, Supply};
use crate::service::Labels;

/// A Service, as far as claims go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceView<'a> {
    /// Its labels.
    pub labels: &'a Labels,
    /// Its cluster IPs and node ports.
    pub items: &'a BTreeSet<Item>,
}

/// Namespace and name of a claim.
fn id_of(claim: &AddressClaim) -> ClaimId {
    let meta = &claim.metadata;
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

/// What a claim is for.
fn subject(claim: &AddressClaim) -> (ServiceKey, PoolUse) {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let service = ServiceKey::new(namespace, claim.spec.service_name.as_str());
    (service, claim.spec.r#use)
}

impl Values {
    /// Another number after whatever may change what is said of pools and claims.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The pools of cluster IPs, as the watch showed them last.
    pub fn address_pools(&self) -> impl Iterator<Item = &AddressPool> {
        self.address_pools.values()
    }

    /// One of them.
    pub fn address_pool(&self, name: &str) -> Option<&AddressPool> {
        self.address_pools.get(name)
    }

    /// How a pool of cluster IPs stands.
    pub fn standing(&self, pool: &str) -> Option<&Standing> {
        let mut ranked = self.ranked.iter();
        let found = ranked.find(|(of, _)| of.supply() == Supply::ClusterIp && of.name().name == pool);
        found.map(|(_, standing)| standing)
    }

    /// The pools of node ports.
    pub fn port_pools(&self) -> impl Iterator<Item = &NodePortPool> {
        self.port_pools.values()
    }

    /// One of them.
    pub fn port_pool(&self, name: &str) -> Option<&NodePortPool> {
        self.port_pools.get(name)
    }

    /// An AddressClaim, whatever its use.
    pub fn claim(&self, id: &ClaimId) -> Option<&AddressClaim> {
        self.claim_objects.get(id)
    }

    /// So many AddressClaims, behind that one.
    pub fn claims_after(&self, after: Option<&ClaimId>, most: usize) -> Vec<ClaimId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let claims = self.claim_objects.range::<ClaimId, _>((from, Bound::Unbounded));
        claims.take(most).map(|(id, _)| id.clone()).collect()
    }

    /// The oldest AddressClaim for a use of a Service, by name.
    pub fn oldest_claim(&self, service: &ServiceKey, r#use: PoolUse) -> Option<&str> {
        let claims = self.claims_for.get(&(service.clone(), r#use))?;
        claims.first().map(|(_, name)| name.as_str())
    }

    pub(super) fn show_claim(&mut self, claim: &AddressClaim) {
        let id = id_of(claim);
        self.hide_claim(&id);
        let rank = (created(&claim.metadata), id.1.clone());
        self.claims_for.entry(subject(claim)).or_default().insert(rank);
        self.claim_objects.insert(id, claim.clone());
    }

    pub(super) fn hide_claim(&mut self, id: &ClaimId) {
        self.changes += 1;
        let Some(old) = self.claim_objects.remove(id) else {
            return;
        };
        let subject = subject(&old);
        if let Some(claims) = self.claims_for.get_mut(&subject) {
            claims.remove(&(created(&old.metadata), id.1.clone()));
            if claims.is_empty() {
                self.claims_for.remove(&subject);
            }
        }
    }

    /// A Service, if there is one.
    pub fn service(&self, key: &ServiceKey) -> Option<ServiceView<'_>> {
        self.services.get(key).map(|known| ServiceView {
            labels: &known.labels,
            items: &known.items,
        })
    }

    /// The findings of so many Services behind that one, and the last of these; none where there are no more. With the
    /// first of them come those that are about no Service.
    pub fn findings_after(
        &self,
        after: Option<&ServiceKey>,
        most: usize,
    ) -> (Vec<Finding>, Option<ServiceKey>) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let services = self.services.range::<ServiceKey, _>((from, Bound::Unbounded));
        let keys: Vec<&ServiceKey> = services.take(most).map(|(key, _)| key).collect();
        let mut findings: Vec<Finding> = keys.iter().flat_map(|key| self.findings_of(key)).collect();
        if after.is_none() {
            findings.extend(self.foreign_findings());
        }
        let last = keys.last().filter(|_| keys.len() == most);
        (findings, last.map(|key| (*key).clone()))
    }

    /// The pool that an address is of.
    pub fn pool_of(&self, address: IpAddr) -> Option<&str> {
        self.pool_name_of(Item::Address(address))
    }

    pub(super) fn pool_name_of(&self, item: Item) -> Option<&str> {
        let name = match item {
            Item::Address(address) => self.addresses.pool_of(address),
            Item::Port(port) => self.ports.pool_of(port),
        };
        name.map(PoolName::as_str)
            .filter(|name| *name != outside().as_str())
    }

    /// Whether the API server takes a value, as far as its ranges go.
    pub(super) fn is_given(&self, item: Item) -> bool {
        match item {
            Item::Address(address) => self.addresses.is_usable(address),
            Item::Port(port) => self.ports.is_usable(port),
        }
    }

    /// The Service that has an address; of two that have it, the older.
    pub fn user_of(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.user(Item::Address(address))
    }

    /// The Services that have an address, and when each was created, in seconds since 1970: the oldest first.
    pub fn users_of(&self, address: IpAddr) -> impl Iterator<Item = (i64, &ServiceKey)> {
        let grounds = self.addresses.grounds(address).into_iter();
        grounds.flat_map(|grounds| grounds.used.iter().map(|(created, key)| (*created, key)))
    }

    /// So many addresses that Services have, behind that one, and the last that was looked at; none where there are no more.
    pub fn used_after(&self, after: Option<IpAddr>, most: usize) -> (Vec<IpAddr>, Option<IpAddr>) {
        let part: Vec<_> = self.addresses.behind(after).take(most).collect();
        let last = part.last().filter(|_| part.len() == most);
        let last = last.map(|(address, _)| *address);
        let used = part.iter().filter(|(_, grounds)| !grounds.used.is_empty());
        (used.map(|(address, _)| *address).collect(), last)
    }

    /// How many addresses of each pool claims keep that nobody has.
    pub fn kept_unused(&self) -> BTreeMap<(&str, IpFamily), u64> {
        let kept = self.claims.values().flat_map(|claim| &claim.addresses);
        let kept: BTreeSet<IpAddr> = kept
            .copied()
            .filter(|kept| self.user_of(*kept).is_none() && !self.is_foreign(Item::Address(*kept)))
            .collect();
        let mut counts = BTreeMap::new();
        for address in kept {
            if let Some(pool) = self.pool_of(address) {
                *counts.entry((pool, IpFamily::of(address))).or_default() += 1;
            }
        }
        counts
    }

    /// Whether any address of a range is a Service's, or may become one's.
    pub fn is_range_in_use(&self, range: &IpRange) -> bool {
        self.addresses.has_any(range.first(), range.last())
    }

    /// Whether a ServiceCIDR that is not ready has an address of the range.
    pub(crate) fn is_coming_or_going(&self, ranges: &[IpRange]) -> bool {
        let mut unready = self
            .cidrs
            .values()
            .filter(|cidrs| cidrs.state != CidrState::Gives);
        unready.any(|cidrs| {
            let mut theirs = cidrs.ranges.iter();
            theirs.any(|theirs| ranges.iter().any(|range| range.overlaps(theirs)))
        })
    }
}
