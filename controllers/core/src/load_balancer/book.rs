// SPDX-License-Identifier: Apache-2.0
//! The book of who has which address: one owner task, one turn a Service.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use berth_allocator::{Allocation, PoolDefinition, PoolName, Pools, PoolsEdit, Request};
use berth_crds::{AddressPool, BARE_METAL_CLASS};
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::adopt::Adopted;
use super::definition::definition;
use super::offers::Offers;
use super::plan::{self, LbPlan, Outcome, StatusWrite};
use super::reason::{NotOurs, Reason};
use super::verdict::{self, Verdict};
use super::waiting::Waiting;
use super::wish::{self, Listed, Wish};

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
    pub(super) pools: Pools,
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
            pools: Pools::new(settings.cool_down),
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
        let before: Vec<PoolName> = self.pools.iter().map(|(_, pool)| pool.name().clone()).collect();
        let definitions: Vec<PoolDefinition> = pools.into_iter().filter_map(definition).collect();
        let Some(edit) = self.pools.set_definitions(definitions) else {
            return PoolsChange::default();
        };
        self.changed_pools.extend(before);
        self.changed_pools
            .extend(self.pools.iter().map(|(_, pool)| pool.name().clone()));
        let wake = self.waiting.keys().chain(self.pools.owners()).cloned().collect();
        PoolsChange { edit, wake }
    }

    /// One turn of one Service, `None` where it does not exist. Idempotent: a turn on an unchanged Service
    /// whose plan was written plans nothing.
    pub fn reconcile(&mut self, key: &ServiceKey, service: Option<&Service>, now: &Time) -> LbPlan {
        let aside: Vec<IpAddr> = self
            .pools
            .held_by(key)
            .filter(|held| self.set_aside.contains(held))
            .collect();
        let mut plan = LbPlan {
            key: key.clone(),
            taken: Vec::new(),
            released: Vec::new(),
            write: None,
            outcome: Outcome::Gone,
            event: None,
            wake: None,
        };
        match service.map(|service| (service, wish::read(service, &self.settings))) {
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
        plan.wake = self.next_to_wake(key);
        plan
    }

    /// The pools whose status may be out of date since this was last asked.
    pub fn take_changed_pools(&mut self) -> BTreeSet<PoolName> {
        std::mem::take(&mut self.changed_pools)
    }

    /// Pools and allocations as they stand.
    pub fn pools(&self) -> &Pools {
        &self.pools
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
                    address.is_none_or(|address| self.pools.holder(address) != Some(&plan.key))
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
        let foreign = self.foreign(&listed);
        self.adopt_listed(&plan.key, &listed, &[], &mut Adopted::default());
        let (addresses, remarks) = if foreign.is_empty() {
            self.ours.insert(plan.key.clone());
            self.carry_out(wish, &listed, now, plan)
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

    /// Entries of a status that are neither of our pools nor anyone's in the book.
    fn foreign(&self, listed: &Listed) -> Vec<String> {
        let unknown = listed
            .addresses
            .iter()
            .filter(|address| {
                self.pools.holder(**address).is_none() && self.pools.pool_of(**address).is_none()
            })
            .map(ToString::to_string);
        listed.others.iter().cloned().chain(unknown).collect()
    }

    /// Takes what the verdicts say; the addresses that the status shall list, and what to say.
    fn carry_out(
        &mut self,
        wish: &Wish,
        listed: &Listed,
        now: &Time,
        plan: &mut LbPlan,
    ) -> (Vec<IpAddr>, Vec<Reason>) {
        let current = self.current(&plan.key, listed);
        let verdicts = verdict::judge(&plan.key, wish, &current, &self.pools);
        self.waiting.set(&plan.key, verdict::need(wish, &verdicts));
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
                Verdict::GetsThis(address) => self.pools.allocate_this(address, &request, wish.pool_name()),
                Verdict::GetsAny => self.pools.allocate_any(family, &request, wish.pool_name()),
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

    /// The Service's own addresses by family: those that its status lists before others.
    fn current(&self, key: &ServiceKey, listed: &Listed) -> BTreeMap<IpFamily, IpAddr> {
        let mut current = BTreeMap::new();
        let of_status = listed
            .addresses
            .iter()
            .copied()
            .filter(|address| self.pools.holder(*address) == Some(key));
        let not_listed = self
            .pools
            .held_by(key)
            .filter(|address| !self.set_aside.contains(address));
        for address in of_status.chain(not_listed) {
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
        let release: Vec<IpAddr> = self
            .pools
            .held_by(&plan.key)
            .filter(|address| !keep.contains(address) && !open.contains(address))
            .collect();
        for address in release {
            self.pools.release(address, &plan.key, since_epoch(now));
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
            .first_helped(&self.pools)
            .filter(|next| next != turned);
        self.supply = next.is_some();
        next
    }

    pub(super) fn touch(&mut self, address: IpAddr) {
        if let Some(pool) = self.pools.pool_of(address) {
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
        if let (Some(missing), Reason::NotGiven { asked: None, refusal }) = (missing, &*reason) {
            *reason = Reason::OneFamilyOnly {
                missing: *missing,
                refusal: refusal.clone(),
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
