// SPDX-License-Identifier: Apache-2.0
//! A turn of a Service that is ours: what the verdicts say is taken, and written of.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use berth_allocator::Request;
use berth_model::{IpFamily, ServiceKey};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{LoadBalancers, since_epoch, write};
use crate::load_balancer::adopt::Adopted;
use crate::load_balancer::menu::Menu;
use crate::load_balancer::plan::{self, LbPlan, Outcome};
use crate::load_balancer::reason::Reason;
use crate::load_balancer::verdict::{self, Verdict};
use crate::load_balancer::wish::{self, Listed, Wish};
use crate::pools;
use crate::service::Labels;

impl LoadBalancers {
    pub(super) fn serve(&mut self, service: &Service, wish: &Wish, now: &Time, plan: &mut LbPlan) {
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
    pub(in crate::load_balancer) fn menu(&self, service: &Service, wish: &Wish) -> Menu {
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

/// A number for pools that give addresses at random: another one for each Service and each time.
fn lot(key: &ServiceKey, now: &Time) -> u64 {
    // Its keys are fixed, so that a history can be replayed.
    let mut hasher = DefaultHasher::new();
    (key, now.0.as_nanosecond()).hash(&mut hasher);
    hasher.finish()
}
