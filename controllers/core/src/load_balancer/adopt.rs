// SPDX-License-Identifier: Apache-2.0
//! Taking over what the Services that exist hold already.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use berth_allocator::Request;
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::book::LoadBalancers;
use super::plan;
use super::reason::NotOurs;
use super::sharing::Terms;
use super::wish::{self, Listed, Wish};
use crate::key_of;

/// What adopting the Services that exist found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Addresses that several Services list: the address, who lists it in vain, who has it.
    pub conflicts: Vec<(IpAddr, ServiceKey, ServiceKey)>,
    /// Every LoadBalancer Service in the order in which to take its first turn.
    pub order: Vec<ServiceKey>,
}

impl LoadBalancers {
    /// Records what the Services that exist hold already. First come those of ours with an address, oldest
    /// first; then those that list one of ours without being ours; last, free addresses are set aside for
    /// those that ask for a certain one, so that nobody who takes any gets them.
    pub fn adopt<'a>(&mut self, services: impl IntoIterator<Item = &'a Service>) -> Adopted {
        let mut ours: Vec<Ours<'_>> = Vec::new();
        let mut others: Vec<(ServiceKey, &Service)> = Vec::new();
        for service in services {
            let key = key_of(&service.metadata);
            match wish::read(service, &self.settings) {
                Ok(wish) => ours.push((key, service.metadata.creation_timestamp.as_ref(), service, wish)),
                Err(NotOurs::NotALoadBalancer) => {}
                Err(NotOurs::OtherClass(_) | NotOurs::NoClass) => others.push((key, service)),
            }
        }
        ours.sort_by(|a, b| (a.1.map(|time| time.0), &a.0).cmp(&(b.1.map(|time| time.0), &b.0)));
        others.sort_by(|a, b| a.0.cmp(&b.0));
        let mut adopted = Adopted::default();
        let ordered = earlier_first(&ours);
        for (key, service) in &ordered {
            let leaves = !plan::to_be_left(service).is_empty();
            self.ledger.take_over(key, Terms::of(service), leaves);
        }
        for (key, service) in ordered {
            self.adopt_listed(
                key,
                &wish::listed(service),
                &plan::recorded(service),
                &mut adopted,
            );
            self.offers.make(key, service, self.ledger.held_by(key));
            if !self.ledger.held_by(key).is_empty() {
                self.ours.insert(key.clone());
            }
        }
        for (key, service) in &others {
            self.adopt_listed(key, &wish::listed(service), &[], &mut adopted);
            self.offers.make(key, service, self.ledger.held_by(key));
        }
        for (key, _, service, wish) in &ours {
            self.set_requests_aside(key, service, wish);
        }
        let rank = |key: &ServiceKey, wish: &Wish| {
            let asks = wish
                .requested
                .as_ref()
                .is_ok_and(|requested| !requested.is_empty());
            (!self.ours.contains(key), !asks)
        };
        ours.sort_by_key(|(key, _, _, wish)| rank(key, wish));
        adopted.order = ours.into_iter().map(|(key, ..)| key).collect();
        adopted.order.extend(others.into_iter().map(|(key, _)| key));
        adopted
    }

    /// Keeps what a Service asks for and nobody has from those that take any.
    fn set_requests_aside(&mut self, key: &ServiceKey, service: &Service, wish: &Wish) {
        let menu = self.menu(service, wish);
        // What time it is makes no difference: nothing rests yet and nothing is on hold.
        let request = Request::for_good(key, Duration::ZERO);
        for (address, _) in wish.requested.iter().flatten() {
            // One that it holds already is its own, one that it is refused its first turn explains.
            let pools = self.ledger.pools();
            if pools.holder(*address).is_none()
                && menu.of_others(pools, key, *address).is_none()
                && self
                    .ledger
                    .allocate_this(*address, &request, wish.pool_name())
                    .is_ok()
            {
                self.set_aside.insert(*address);
                self.touch(*address);
            }
        }
    }

    /// Records the addresses that a status lists, as far as a pool covers them or the Service's record has them.
    pub(super) fn adopt_listed(
        &mut self,
        key: &ServiceKey,
        listed: &Listed,
        record: &[IpAddr],
        adopted: &mut Adopted,
    ) {
        for address in &listed.addresses {
            if self.ledger.pools().pool_of(*address).is_none() && !record.contains(address) {
                continue;
            }
            match self.ledger.adopt(*address, key) {
                Ok(()) => self.touch(*address),
                // They shared it once, says our own record. Whoever changed its mind leaves when it has another.
                Err(holder) if record.contains(address) && self.ledger.shares_any(key, &holder) => {
                    self.ledger.join(key, *address);
                }
                Err(holder) => adopted.conflicts.push((*address, key.clone(), holder)),
            }
        }
    }
}

/// A Service of ours: when it was created, and what it wants.
type Ours<'a> = (ServiceKey, Option<&'a Time>, &'a Service, Wish);

/// Those that are to leave an address after those that stay there, as they changed what they share it on later: that goes on.
fn earlier_first<'a>(ours: &'a [Ours<'_>]) -> Vec<(&'a ServiceKey, &'a Service)> {
    let all = ours.iter().map(|(key, _, service, _)| (key, *service));
    let (mut leaving, mut ordered): (Vec<_>, Vec<_>) =
        all.partition(|(_, service)| !plan::to_be_left(service).is_empty());
    // How many of those that leave another address stay at one.
    let mut staying: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let stays = |service: &Service| {
        let left = plan::to_be_left(service);
        let mut stays = plan::recorded(service);
        stays.retain(|address| !left.contains(address));
        stays
    };
    for address in leaving.iter().flat_map(|(_, service)| stays(service)) {
        *staying.entry(address).or_default() += 1;
    }
    while !leaving.is_empty() {
        let is_next = |(_, service): &(&ServiceKey, &Service)| {
            let mut left = plan::to_be_left(service).into_iter();
            left.all(|address| staying.get(&address).is_none_or(|count| *count == 0))
        };
        // Records that contradict each other were not written by one controller: any order is as good.
        let next = leaving.remove(leaving.iter().position(is_next).unwrap_or(0));
        for address in stays(next.1) {
            staying
                .entry(address)
                .and_modify(|count| *count = count.saturating_sub(1));
        }
        ordered.push(next);
    }
    ordered
}
