// SPDX-License-Identifier: Apache-2.0
//! Who has which address: one Service, or several that share it.
//!
//! In the pools an address has one holder, whose namespace its quota counts it for; whoever shares it has joined. When the holder
//! leaves, one of those holds it, and the address never was free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_allocator::{Allocation, PoolDefinition, PoolName, Pools, PoolsEdit, Refusal, Request};
use berth_model::{IpFamily, ServiceKey};

use super::sharing::{Tenants, Terms, Unlike};

#[derive(Clone, Debug)]
pub(super) struct Ledger {
    pools: Pools,
    joined: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    joined_by: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    tenants: Tenants,
    /// Pools whose addresses Services of several namespaces may share.
    across: BTreeSet<PoolName>,
}

impl Ledger {
    pub(super) fn new(cool_down: Duration) -> Self {
        Self {
            pools: Pools::new(cool_down),
            joined: BTreeMap::new(),
            joined_by: BTreeMap::new(),
            tenants: Tenants::default(),
            across: BTreeSet::new(),
        }
    }

    pub(super) fn pools(&self) -> &Pools {
        &self.pools
    }

    /// None where the definitions are those that were in force.
    pub(super) fn set_definitions(
        &mut self,
        definitions: Vec<PoolDefinition>,
        across: BTreeSet<PoolName>,
    ) -> Option<PoolsEdit> {
        let edit = self.pools.set_definitions(definitions);
        let same = self.across == across;
        self.across = across;
        edit.or_else(|| (!same).then(PoolsEdit::default))
    }

    /// Notes on what terms a Service shares, if it does; whether these are others than before.
    pub(super) fn set_terms(&mut self, key: &ServiceKey, terms: Option<Terms>) -> bool {
        self.tenants.set(key, terms)
    }

    /// Notes on what terms a Service that is taken over has its addresses; and whether it was to leave one when it was last
    /// written of, which makes it the later one beside whoever was noted before.
    pub(super) fn take_over(&mut self, key: &ServiceKey, terms: Option<Terms>, is_to_leave: bool) {
        self.tenants.stamp(key, terms, is_to_leave);
    }

    /// Forgets one that shares no longer, if it has left.
    pub(super) fn forget_left(&mut self, key: &ServiceKey) {
        let shares = self.tenants.terms(key).is_some();
        let held = self.held_by(key);
        let has_others = |address: &IpAddr| self.occupants(*address).nth(1).is_some();
        if !shares && !held.iter().any(has_others) {
            self.tenants.forget(key);
        }
    }

    /// Who has an address: its holder first.
    pub(super) fn occupants(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        let joined = self.joined.get(&address).into_iter().flatten();
        self.pools.holder(address).into_iter().chain(joined)
    }

    pub(super) fn has(&self, key: &ServiceKey, address: IpAddr) -> bool {
        self.occupants(address).any(|occupant| occupant == key)
    }

    /// The addresses of a Service, those that it shares included, ascending.
    pub(super) fn held_by(&self, key: &ServiceKey) -> BTreeSet<IpAddr> {
        let joined = self.joined_by.get(key).into_iter().flatten().copied();
        self.pools.held_by(key).chain(joined).collect()
    }

    /// Everyone who has an address.
    pub(super) fn owners(&self) -> impl Iterator<Item = &ServiceKey> {
        self.pools.owners().chain(self.joined_by.keys())
    }

    /// Whether a Service may have an address together with those that have it.
    pub(super) fn may_share(&self, key: &ServiceKey, address: IpAddr) -> Result<(), (ServiceKey, Unlike)> {
        let mut others = self.occupants(address).filter(|occupant| *occupant != key);
        others.try_for_each(|other| {
            self.check(key, other, address)
                .map_err(|unlike| (other.clone(), unlike))
        })
    }

    /// Who shares an address with a Service that does so on later terms, which do not go together with these.
    pub(super) fn crowds_out(&self, key: &ServiceKey, address: IpAddr) -> Option<(ServiceKey, Unlike)> {
        let since = self.tenants.get(key).map(|tenant| tenant.since);
        let mut others = self.occupants(address).filter(|occupant| *occupant != key);
        others.find_map(|other| {
            let earlier = self.tenants.get(other)?.since;
            let unlike = self.check(key, other, address).err()?;
            since
                .is_none_or(|since| earlier < since)
                .then(|| (other.clone(), unlike))
        })
    }

    /// The lowest address of a family, of one of these pools, that a Service can share.
    pub(super) fn joinable(&self, key: &ServiceKey, family: IpFamily, from: &[PoolName]) -> Option<IpAddr> {
        let own = self.tenants.terms(key)?;
        let alike = self.tenants.alike(own).filter(|other| *other != key);
        let theirs = alike.flat_map(|other| self.held_by(other));
        let fitting = theirs.filter(|address| {
            IpFamily::of(*address) == family
                && self
                    .pools
                    .pool_of(*address)
                    .is_some_and(|pool| from.contains(pool))
                && !self.has(key, *address)
                && self.may_share(key, *address).is_ok()
        });
        fitting.min()
    }

    /// Has a Service share an address.
    pub(super) fn join(&mut self, key: &ServiceKey, address: IpAddr) -> Allocation {
        if !self.has(key, address) {
            self.joined.entry(address).or_default().insert(key.clone());
            self.joined_by.entry(key.clone()).or_default().insert(address);
        }
        Allocation {
            item: address,
            pool: self.pools.pool_of(address).cloned(),
        }
    }

    /// Records that a Service has an address; whoever has it too, where the two do not share it.
    pub(super) fn adopt(&mut self, address: IpAddr, key: &ServiceKey) -> Result<(), ServiceKey> {
        if self.has(key, address) {
            return Ok(());
        }
        if self.pools.adopt(address, key).is_ok() {
            return Ok(());
        }
        let unlike = self
            .occupants(address)
            .find(|other| !self.shared_once(key, other, address));
        match unlike.cloned() {
            Some(other) => Err(other),
            None => {
                self.join(key, address);
                Ok(())
            }
        }
    }

    pub(super) fn allocate_this(
        &mut self,
        address: IpAddr,
        request: &Request<'_, ServiceKey>,
        from: Option<&PoolName>,
    ) -> Result<Allocation, Refusal> {
        self.pools.allocate_this(address, request, from)
    }

    pub(super) fn allocate_any(
        &mut self,
        family: IpFamily,
        request: &Request<'_, ServiceKey>,
        from: &PoolName,
    ) -> Result<Allocation, Refusal> {
        self.pools.allocate_any(family, request, Some(from))
    }

    /// A Service has an address no longer.
    pub(super) fn release(&mut self, address: IpAddr, key: &ServiceKey, now: Duration) {
        let others = self.joined.get_mut(&address);
        if others.is_some_and(|others| others.remove(key)) {
            self.left(address, key);
            return;
        }
        self.pools.release(address, key, now);
        let heir = self
            .joined
            .get(&address)
            .and_then(|others| others.first())
            .cloned();
        if let Some(heir) = heir {
            if let Some(others) = self.joined.get_mut(&address) {
                others.remove(&heir);
            }
            self.left(address, &heir);
            // Nobody has it any more.
            let _ = self.pools.adopt(address, &heir);
        }
    }

    /// One who is among those that have joined no longer.
    fn left(&mut self, address: IpAddr, key: &ServiceKey) {
        if self.joined.get(&address).is_some_and(BTreeSet::is_empty) {
            self.joined.remove(&address);
        }
        if let Some(addresses) = self.joined_by.get_mut(key) {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.joined_by.remove(key);
            }
        }
    }

    fn check(&self, one: &ServiceKey, other: &ServiceKey, address: IpAddr) -> Result<(), Unlike> {
        let (Some(own), Some(theirs)) = (self.tenants.terms(one), self.tenants.terms(other)) else {
            return Err(Unlike::NoKey);
        };
        if !self.is_within_reach(one, other, address) {
            return Err(Unlike::OtherNamespace);
        }
        own.check(theirs)
    }

    fn is_within_reach(&self, one: &ServiceKey, other: &ServiceKey, address: IpAddr) -> bool {
        let pool = self.pools.pool_of(address);
        one.namespace() == other.namespace() || pool.is_some_and(|pool| self.across.contains(pool))
    }

    /// Whether one of the two shares with anybody, or did.
    pub(super) fn shares_any(&self, one: &ServiceKey, other: &ServiceKey) -> bool {
        let has_shared = |key| self.tenants.get(key).is_some_and(|tenant| tenant.has_shared);
        has_shared(one) || has_shared(other)
    }

    /// Whether the two shared an address on other terms, perhaps: what both list is taken from neither.
    fn shared_once(&self, one: &ServiceKey, other: &ServiceKey, address: IpAddr) -> bool {
        let key = |key| self.tenants.terms(key).map(Terms::key);
        key(one).is_some() && key(one) == key(other) && self.is_within_reach(one, other, address)
    }
}
