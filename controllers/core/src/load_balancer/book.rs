// SPDX-License-Identifier: Apache-2.0
//! The book of who has which address: one owner task, one turn a Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_allocator::{Allocation, PoolName, Pools, PoolsEdit};
use berth_crds::{AddressPool, BARE_METAL_CLASS};
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::adopt::Adopted;
use super::definition::{definition, shares_across_namespaces};
use super::ledger::Ledger;
use super::offers::Offers;
use super::plan::{self, LbPlan, Outcome, StatusWrite};
use super::reason::NotOurs;
use super::sharing::Terms;
use super::waiting::Waiting;
use super::wish;
use crate::pools;
use crate::service::Labels;

/// Longer than a neighbour goes on sending to the link-layer address that it last learned without asking
/// again: 30 s of reachable time, randomised up to 1.5 times (RFC 4861, sections 6.3.2 and 10).
const COOL_DOWN: Duration = Duration::from_secs(60);

/// Which Services are ours, and how addresses are reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The `spec.loadBalancerClass` that we answer to.
    pub class: String,
    /// Whether Services without a class are ours too.
    pub default_provider: bool,
    /// How long a released address is not handed out again while others are left.
    pub cool_down: Duration,
}

impl Default for Settings {
    /// Berth's bare-metal class alone.
    fn default() -> Self {
        Self {
            class: BARE_METAL_CLASS.to_owned(),
            default_provider: false,
            cool_down: COOL_DOWN,
        }
    }
}

/// What new pool definitions mean for Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolsChange {
    /// Addresses that lost or regained their pool. None was taken from its Service.
    pub edit: PoolsEdit,
    /// Services to take a turn: all that hold an address or wait for one. Most turns will find nothing to do.
    pub wake: BTreeSet<ServiceKey>,
}

/// Pools and allocations. In memory only: made anew at start from the pools ([`set_pools`](Self::set_pools)) and
/// the Services ([`adopt`](Self::adopt)), in this order, before the first turn.
#[derive(Clone, Debug)]
pub struct LoadBalancers {
    pub(super) ledger: Ledger,
    /// The same, as far as choosing among them goes.
    ranked: pools::Pools,
    namespaces: Arc<BTreeMap<String, Labels>>,
    pub(super) settings: Settings,
    /// Services of ours that hold what they list: their status is ours to clear when they leave us.
    pub(super) ours: BTreeSet<ServiceKey>,
    waiting: Waiting,
    pub(super) offers: Offers,
    /// Set aside at start for those that ask for them, until their first turn.
    pub(super) set_aside: BTreeSet<IpAddr>,
    /// Something may have become free that nobody was woken for.
    supply: bool,
    changed_pools: BTreeSet<PoolName>,
}

impl LoadBalancers {
    /// An empty book.
    pub fn new(settings: Settings) -> Self {
        Self {
            ledger: Ledger::new(settings.cool_down),
            ranked: pools::Pools::default(),
            namespaces: Arc::default(),
            settings,
            ours: BTreeSet::new(),
            waiting: Waiting::default(),
            offers: Offers::default(),
            set_aside: BTreeSet::new(),
            supply: false,
            changed_pools: BTreeSet::new(),
        }
    }

    /// Replaces the pool definitions by those of all AddressPools that exist.
    pub fn set_pools<'a>(&mut self, pools: impl IntoIterator<Item = &'a AddressPool>) -> PoolsChange {
        let names = |ledger: &Ledger| -> Vec<PoolName> {
            let pools = ledger.pools().iter();
            pools.map(|(_, pool)| pool.name().clone()).collect()
        };
        let before = names(&self.ledger);
        let (mut definitions, mut ranked, mut across) = (Vec::new(), Vec::new(), BTreeSet::new());
        for pool in pools {
            let Some(definition) = definition(pool) else {
                continue;
            };
            if shares_across_namespaces(pool) {
                across.insert(definition.name.clone());
            }
            definitions.push(definition);
            ranked.push(pools::Pool::of_addresses(pool));
        }
        let ranked = pools::Pools::new(ranked);
        let edit = match self.ledger.set_definitions(definitions, across) {
            Some(edit) => edit,
            None if ranked == self.ranked => return PoolsChange::default(),
            None => PoolsEdit::default(),
        };
        self.ranked = ranked;
        self.changed_pools.extend(before);
        self.changed_pools.extend(names(&self.ledger));
        let wake = self.waiting.keys().chain(self.ledger.owners()).cloned().collect();
        PoolsChange { edit, wake }
    }

    /// Replaces the labels of all namespaces; the Services to take a turn. One that is not known has none.
    pub fn set_namespaces(&mut self, namespaces: &Arc<BTreeMap<String, Labels>>) -> BTreeSet<ServiceKey> {
        let before = std::mem::replace(&mut self.namespaces, Arc::clone(namespaces));
        let same = |key: &&ServiceKey| before.get(key.namespace()) == self.namespaces.get(key.namespace());
        let concerned = self.waiting.keys().chain(self.ledger.owners());
        concerned.filter(|key| !same(key)).cloned().collect()
    }

    /// One turn of one Service, `None` where it does not exist. Idempotent: a turn on an unchanged Service
    /// whose plan was written plans nothing.
    pub fn reconcile(&mut self, key: &ServiceKey, service: Option<&Service>, now: &Time) -> LbPlan {
        let mut aside = self.ledger.held_by(key);
        aside.retain(|held| self.set_aside.contains(held));
        let mut plan = LbPlan {
            key: key.clone(),
            taken: Vec::new(),
            released: Vec::new(),
            write: None,
            outcome: Outcome::Gone,
            event: None,
            wake: None,
        };
        let read = service.map(|service| (service, wish::read(service, &self.settings)));
        let ours = read.as_ref().filter(|(_, wish)| wish.is_ok());
        // What somebody left to others may help one who waits.
        self.supply |= self
            .ledger
            .set_terms(key, ours.and_then(|(service, _)| Terms::of(service)));
        match read {
            None => {
                self.ours.remove(key);
                self.waiting.remove(key);
                self.release_all_but(&[], None, now, &mut plan);
            }
            Some((service, Err(why))) => self.turn_away(service, why, now, &mut plan),
            Some((service, Ok(_))) if service.metadata.deletion_timestamp.is_some() => {
                self.waiting.remove(key);
                self.adopt_listed(key, &wish::listed(service), &[], &mut Adopted::default());
                plan.outcome = Outcome::Terminating;
            }
            Some((service, Ok(wish))) => self.serve(service, &wish, now, &mut plan),
        }
        for address in aside {
            self.set_aside.remove(&address);
        }
        self.ledger.forget_left(key);
        plan.wake = self.next_to_wake(key);
        plan
    }

    /// The pools whose status may be out of date since this was last asked.
    pub fn take_changed_pools(&mut self) -> BTreeSet<PoolName> {
        std::mem::take(&mut self.changed_pools)
    }

    /// Pools and allocations as they stand.
    pub fn pools(&self) -> &Pools {
        self.ledger.pools()
    }

    /// Who has an address: the one whom its pool counts it for first, then those that share it.
    pub fn occupants(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.ledger.occupants(address)
    }

    /// Whether the Service lacks an address that it asks for.
    pub fn is_waiting(&self, key: &ServiceKey) -> bool {
        self.waiting.contains(key)
    }

    /// A turn of a Service that is not ours. What its status lists of our pools is given to nobody else. Was it
    /// ours, what we gave it is taken off its status, and free once that has been seen.
    fn turn_away(&mut self, service: &Service, why: NotOurs, now: &Time, plan: &mut LbPlan) {
        let was_ours = self.ours.remove(&plan.key);
        self.waiting.remove(&plan.key);
        let listed = wish::listed(service);
        if was_ours {
            let remaining: Vec<_> = wish::ingress(service)
                .iter()
                .filter(|entry| {
                    let address = entry.ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
                    address.is_none_or(|address| !self.ledger.has(&plan.key, address))
                })
                .cloned()
                .collect();
            let changed = remaining.len() != wish::ingress(service).len();
            plan.write = write(service, changed.then_some(remaining), plan::unsay(service));
        } else if why == NotOurs::NotALoadBalancer {
            plan.write = write(service, None, plan::unsay(service));
        } else {
            self.adopt_listed(&plan.key, &listed, &[], &mut Adopted::default());
        }
        self.release_all_but(&listed.addresses, Some(service), now, plan);
        plan.outcome = Outcome::NotOurs(why);
    }

    fn note_taken(&mut self, allocation: Allocation, plan: &mut LbPlan) {
        self.touch(allocation.item);
        plan.taken.push(allocation);
    }

    fn release_all_but(&mut self, keep: &[IpAddr], service: Option<&Service>, now: &Time, plan: &mut LbPlan) {
        let open = self.offers.open(&plan.key, service);
        let mut release = self.ledger.held_by(&plan.key);
        release.retain(|address| !keep.contains(address) && !open.contains(address));
        for address in release {
            self.ledger.release(address, &plan.key, since_epoch(now));
            self.touch(address);
            self.supply = true;
            plan.released.push(address);
        }
    }

    /// The waiting Service that came first among those that can be helped. Each turn names one, so that a
    /// release wakes one and what that one leaves wakes the next.
    fn next_to_wake(&mut self, turned: &ServiceKey) -> Option<ServiceKey> {
        if !self.supply {
            return None;
        }
        let next = self
            .waiting
            .first_helped(&self.ledger)
            .filter(|next| next != turned);
        self.supply = next.is_some();
        next
    }

    pub(super) fn touch(&mut self, address: IpAddr) {
        if let Some(pool) = self.ledger.pools().pool_of(address) {
            self.changed_pools.insert(pool.clone());
        }
    }
}

fn write(
    service: &Service,
    ingress: Option<Vec<LoadBalancerIngress>>,
    conditions: Option<Vec<Condition>>,
) -> Option<StatusWrite> {
    (ingress.is_some() || conditions.is_some()).then(|| StatusWrite {
        ingress,
        conditions,
        resource_version: service.metadata.resource_version.clone(),
    })
}

fn since_epoch(now: &Time) -> Duration {
    Duration::from_secs(u64::try_from(now.0.as_second()).unwrap_or(0))
}

mod serve;
#[cfg(test)]
mod tests;
