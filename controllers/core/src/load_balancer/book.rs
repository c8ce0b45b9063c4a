// SPDX-License-Identifier: Apache-2.0
//! The book of who has which address: one owner task, one turn a Service.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_allocator::{Allocation, PoolName, Pools, PoolsEdit, Request};
use berth_crds::{AddressPool, BARE_METAL_CLASS};
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::adopt::Adopted;
use super::definition::{definition, shares_across_namespaces};
use super::ledger::Ledger;
use super::menu::Menu;
use super::offers::Offers;
use super::plan::{self, LbPlan, Outcome, StatusWrite};
use super::reason::{NotOurs, Reason};
use super::sharing::Terms;
use super::verdict::{self, Verdict};
use super::waiting::Waiting;
use super::wish::{self, Listed, Wish};
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

    fn serve(&mut self, service: &Service, wish: &Wish, now: &Time, plan: &mut LbPlan) {
        let listed = wish::listed(service);
        // What somebody else has by now is not taken from them because an old record says so.
        let mut record = plan::recorded(service);
        record.retain(|address| self.ledger.pools().holder(*address).is_none());
        let foreign = self.foreign(&listed, &record);
        self.adopt_listed(&plan.key, &listed, &record, &mut Adopted::default());
        let (addresses, remarks) = if foreign.is_empty() {
            self.ours.insert(plan.key.clone());
            let menu = self.menu(service, wish);
            self.carry_out(wish, &menu, &listed, now, plan)
        } else {
            self.ours.remove(&plan.key);
            self.waiting.remove(&plan.key);
            (Vec::new(), vec![Reason::ForeignStatus { entries: foreign }])
        };
        let left_alone = !self.ours.contains(&plan.key);
        let ingress = if left_alone {
            None
        } else {
            plan::ingress_write(service, &addresses)
        };
        let keep: Vec<IpAddr> = addresses.iter().chain(&listed.addresses).copied().collect();
        self.release_all_but(&keep, Some(service), now, plan);
        if ingress.is_some() {
            self.offers.make(&plan.key, service, addresses.iter().copied());
        }
        plan.outcome = Outcome::Ours {
            addresses,
            remarks,
            both_or_nothing: wish.both_or_nothing,
        };
        let (conditions, event) = plan::say(service, &plan.outcome, now);
        plan.write = write(service, ingress, conditions);
        plan.event = event;
    }

    /// Entries of a status that are neither of our pools nor anyone's in the book, and that Berth did not write.
    fn foreign(&self, listed: &Listed, record: &[IpAddr]) -> Vec<String> {
        let unknown = listed
            .addresses
            .iter()
            .filter(|address| {
                let pools = self.ledger.pools();
                let unknown = pools.holder(**address).is_none() && pools.pool_of(**address).is_none();
                unknown && !record.contains(address)
            })
            .map(ToString::to_string);
        listed.others.iter().cloned().chain(unknown).collect()
    }

    /// What the pools are to a Service.
    pub(super) fn menu(&self, service: &Service, wish: &Wish) -> Menu {
        let unlabelled = Labels::new();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let request = pools::Request {
            namespace,
            namespace_labels: self.namespaces.get(namespace).unwrap_or(&unlabelled),
            name: service.metadata.name.as_deref(),
            labels: service.metadata.labels.as_ref().unwrap_or(&unlabelled),
        };
        Menu::new(&self.ranked, &wish.families, &request)
    }

    /// Takes what the verdicts say; the addresses that the status shall list, and what to say.
    fn carry_out(
        &mut self,
        wish: &Wish,
        menu: &Menu,
        listed: &Listed,
        now: &Time,
        plan: &mut LbPlan,
    ) -> (Vec<IpAddr>, Vec<Reason>) {
        let current = self.current(&plan.key, listed);
        let verdicts = verdict::judge(&plan.key, wish, &current, (&self.ledger, menu));
        let need = verdict::need(&plan.key, wish, &verdicts, (&self.ledger, menu));
        self.waiting.set(&plan.key, need);
        let key = plan.key.clone();
        let request = Request::for_good(&key, since_epoch(now)).at_random(lot(&key, now));
        let (mut addresses, mut remarks) = (Vec::new(), Vec::new());
        for (family, verdict) in verdicts {
            let taken = match verdict {
                Verdict::Has(address) => {
                    addresses.push(address);
                    continue;
                }
                Verdict::Keeps(address, reason) => {
                    addresses.push(address);
                    remarks.push(reason);
                    continue;
                }
                Verdict::Lacks(reason) => {
                    remarks.push(reason);
                    continue;
                }
                Verdict::GetsThis(address) => self.ledger.allocate_this(address, &request, wish.pool_name()),
                Verdict::Joins(address) => Ok(self.ledger.join(&key, address)),
                Verdict::GetsAny(pool) => self.ledger.allocate_any(family, &request, &pool),
            };
            match taken {
                Ok(allocation) => {
                    addresses.push(allocation.item);
                    self.note_taken(allocation, plan);
                }
                Err(refusal) => remarks.push(Reason::NotGiven { asked: None, refusal }),
            }
        }
        soften(wish, &addresses, &mut remarks);
        (addresses, remarks)
    }

    /// The Service's own addresses by family: those that its status lists before others, and those that it is to leave last.
    fn current(&self, key: &ServiceKey, listed: &Listed) -> BTreeMap<IpFamily, IpAddr> {
        let mut current = BTreeMap::new();
        let stays = |address: &IpAddr| self.ledger.crowds_out(key, *address).is_none();
        let of_status = listed
            .addresses
            .iter()
            .copied()
            .filter(|address| self.ledger.has(key, *address));
        let (staying, leaving): (Vec<IpAddr>, Vec<IpAddr>) = of_status.partition(stays);
        let held = self.ledger.held_by(key).into_iter();
        // What nobody was told of yet is not kept from those that share it on other terms.
        let not_listed = held.filter(|address| !self.set_aside.contains(address) && stays(address));
        for address in staying.into_iter().chain(not_listed).chain(leaving) {
            current.entry(IpFamily::of(address)).or_insert(address);
        }
        current
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

/// A Service that prefers two families and has one is served; and one reason is said once.
fn soften(wish: &Wish, addresses: &[IpAddr], remarks: &mut Vec<Reason>) {
    remarks.dedup();
    if addresses.is_empty() || wish.both_or_nothing || wish.families.len() < 2 {
        return;
    }
    for reason in remarks {
        let missing = wish
            .families
            .iter()
            .find(|family| !addresses.iter().any(|address| IpFamily::of(*address) == **family));
        let passes = matches!(
            reason,
            Reason::NotGiven { asked: None, .. } | Reason::NoPoolForService { .. }
        );
        if let Some(missing) = missing.filter(|_| passes) {
            *reason = Reason::OneFamilyOnly {
                missing: *missing,
                why: Box::new(reason.clone()),
            };
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

/// A number for pools that give addresses at random: another one for each Service and each time.
fn lot(key: &ServiceKey, now: &Time) -> u64 {
    // Its keys are fixed, so that a history can be replayed.
    let mut hasher = DefaultHasher::new();
    (key, now.0.as_nanosecond()).hash(&mut hasher);
    hasher.finish()
}

fn since_epoch(now: &Time) -> Duration {
    Duration::from_secs(u64::try_from(now.0.as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
