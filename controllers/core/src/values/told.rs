// SPDX-License-Identifier: Apache-2.0
//! What watches show. Each of these may be told again, and changes nothing then.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_crds::{AddressClaim, AddressPool, NodePortPool, PoolUse};
use berth_model::{IpFamily, IpRange, Port, ServiceKey};
use k8s_openapi::api::core::v1::Service;

use super::definitions::{self, created};
use super::stock::{Kept, Value};
use super::{CidrState, Cidrs, Claim, ClaimId, Known, Shown, Values};
use crate::address;
use crate::holder::AskId;
use crate::pools::{self, Item};
use crate::service::{Labels, key_of};

impl Values {
    /// A ServiceCIDR: what it has (what can't be read of it is left out), and whether the API server gives of it.
    pub fn apply_service_cidr(&mut self, name: &str, cidrs: &[String], state: CidrState) {
        let ranges: Vec<IpRange> = cidrs.iter().filter_map(|text| text.parse().ok()).collect();
        let cidrs = Cidrs { ranges, state };
        if self.cidrs.insert(name.to_owned(), cidrs.clone()) != Some(cidrs) {
            self.redefine();
        }
    }

    /// It is gone.
    pub fn remove_service_cidr(&mut self, name: &str) {
        if self.cidrs.remove(name).is_some() {
            self.redefine();
        }
    }

    /// A namespace and its labels. One that is not known has none.
    pub fn apply_namespace(&mut self, name: &str, labels: &Labels) {
        self.changes += 1;
        self.namespaces.insert(name.to_owned(), labels.clone());
    }

    /// It is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.changes += 1;
        self.namespaces.remove(name);
    }

    /// A pool of addresses. One that is for load balancers is none of ours.
    pub fn apply_address_pool(&mut self, pool: &AddressPool) {
        let name = pool.metadata.name.clone().unwrap_or_default();
        if pool.spec.r#use != PoolUse::ClusterIp {
            return self.remove_address_pool(&name);
        }
        self.changes += 1;
        let before = self.address_pools.insert(name, pool.clone());
        let is_same = |before: &AddressPool| {
            before.spec == pool.spec && created(&before.metadata) == created(&pool.metadata)
        };
        if !before.as_ref().is_some_and(is_same) {
            self.redefine();
        }
    }

    /// It is gone. Whoever has an address of it keeps it.
    pub fn remove_address_pool(&mut self, name: &str) {
        if self.address_pools.remove(name).is_some() {
            self.redefine();
        }
    }

    /// A pool of node ports.
    pub fn apply_port_pool(&mut self, pool: &NodePortPool) {
        let name = pool.metadata.name.clone().unwrap_or_default();
        self.changes += 1;
        let before = self.port_pools.insert(name, pool.clone());
        let is_same = |before: &NodePortPool| {
            before.spec == pool.spec && created(&before.metadata) == created(&pool.metadata)
        };
        if !before.as_ref().is_some_and(is_same) {
            self.redefine();
        }
    }

    /// It is gone. Whoever has a port of it keeps it.
    pub fn remove_port_pool(&mut self, name: &str) {
        if self.port_pools.remove(name).is_some() {
            self.redefine();
        }
    }

    /// A claim. It keeps the addresses that its status names, as long as they stand there. The questions that are over by
    /// it: all that was held for them is kept now.
    pub fn apply_claim(&mut self, claim: &AddressClaim, now: Duration) -> Vec<AskId> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        self.show_claim(claim);
        let status = claim.status.as_ref();
        let addresses = status.into_iter().flat_map(|status| &status.addresses);
        let new = Claim {
            created: created(&claim.metadata),
            service: ServiceKey::new(namespace, claim.spec.service_name.as_str()),
            pools: status
                .into_iter()
                .flat_map(|status| status.pools.clone())
                .collect(),
            addresses: addresses.filter_map(|text| text.parse().ok()).collect(),
        };
        let id = (namespace.to_owned(), name.to_owned());
        self.now = self.now.max(now);
        if claim.spec.r#use != PoolUse::ClusterIp || new.addresses.is_empty() {
            self.release_claim(&id);
            return Vec::new();
        }
        if self.claims.get(&id) == Some(&new) {
            return Vec::new();
        }
        let old = self.claims.insert(id.clone(), new.clone());
        // What stays is not given back in between.
        for address in &new.addresses {
            let kept = new.kept(name);
            let entry = |grounds: &mut super::stock::Grounds| {
                grounds.kept.insert(kept);
            };
            self.addresses.change(*address, self.now, entry);
        }
        if let Some(old) = old {
            let same = new.kept(name) == old.kept(name);
            let gone = old.addresses.iter().copied();
            let gone = gone.filter(|address| !(same && new.addresses.contains(address)));
            self.unclaim(&id, &old, &gone.collect());
        }
        let settled = self.holds.of(&new.service).filter(|(_, hold)| {
            let has_all = hold.grant.items().into_iter().all(|item| match item {
                Item::Address(address) => new.addresses.contains(&address),
                Item::Port(_) => false,
            });
            has_all && hold.grant.is_update
        });
        let settled: Vec<AskId> = settled.map(|(ask, _)| ask.clone()).collect();
        self.claims_of.entry(new.service).or_default().insert(id);
        for ask in &settled {
            self.forget(ask);
        }
        settled
    }

    /// It is gone, and its addresses are free unless the Service has them.
    pub fn remove_claim(&mut self, namespace: &str, name: &str, now: Duration) {
        self.now = self.now.max(now);
        let id = (namespace.to_owned(), name.to_owned());
        self.hide_claim(&id);
        self.release_claim(&id);
    }

    fn release_claim(&mut self, id: &ClaimId) {
        if let Some(old) = self.claims.remove(id) {
            self.unclaim(id, &old, &old.addresses);
        }
    }

    fn unclaim(&mut self, id: &(String, String), old: &Claim, gone: &BTreeSet<IpAddr>) {
        for address in gone {
            let kept = old.kept(&id.1);
            self.addresses.change(*address, self.now, |grounds| {
                grounds.kept.remove(&kept);
            });
        }
        if let Some(claims) = self.claims_of.get_mut(&old.service) {
            claims.remove(id);
            if claims.is_empty() {
                self.claims_of.remove(&old.service);
            }
        }
    }

    /// A Service. The questions that are over by it: it has what was held for them, or it came with other values.
    pub fn apply_service(&mut self, Shown { key, known }: Shown, now: Duration) -> Vec<AskId> {
        self.now = self.now.max(now);
        let settled = self.settled_by(&key, &known);
        self.changes += 1;
        let before = self.services.insert(key.clone(), known.clone());
        let rank = (known.created, key.clone());
        for item in &known.items {
            self.use_of(*item, &rank, true);
        }
        if let Some(before) = before {
            let old = (before.created, key);
            let same = old == rank;
            for item in &before.items {
                if !(same && known.items.contains(item)) {
                    self.use_of(*item, &old, false);
                }
            }
        }
        for ask in &settled {
            self.forget(ask);
        }
        settled
    }

    /// A Service is gone. What is held for its name stays held.
    pub fn remove_service(&mut self, key: &ServiceKey, now: Duration) {
        self.now = self.now.max(now);
        if let Some(before) = self.services.remove(key) {
            self.changes += 1;
            let rank = (before.created, key.clone());
            for item in &before.items {
                self.use_of(*item, &rank, false);
            }
        }
    }

    /// An update may be under way while the watch shows an earlier state: it is over when all that was held is there. A
    /// create is over when the Service appears.
    fn settled_by(&self, key: &ServiceKey, known: &Known) -> Vec<AskId> {
        let before = self.services.get(key);
        let appears = before.is_none_or(|before| before.uid != known.uid);
        let named = self.holds.of(key).filter(|(_, hold)| {
            let has_all = hold.grant.items().is_subset(&known.items);
            has_all || (appears && !hold.grant.is_update)
        });
        let mut settled: BTreeSet<AskId> = named.map(|(ask, _)| ask.clone()).collect();
        if appears {
            for item in &known.items {
                settled.extend(self.unnamed(*item, key.namespace()));
            }
        }
        settled.into_iter().collect()
    }

    /// The questions without a name that this value is held for.
    pub(super) fn unnamed(&self, item: Item, namespace: &str) -> Vec<AskId> {
        let grounds = match item {
            Item::Address(address) => self.addresses.grounds(address),
            Item::Port(port) => self.ports.grounds(port),
        };
        let asks = grounds.into_iter().flat_map(|grounds| &grounds.held);
        let asks = asks.map(|(ask, _)| ask).filter(|ask| {
            let hold = self.holds.get(ask).map(|hold| &hold.grant);
            hold.is_some_and(|grant| grant.name.is_none() && grant.namespace == namespace)
        });
        asks.cloned().collect()
    }

    fn use_of(&mut self, item: Item, rank: &(i64, ServiceKey), uses: bool) {
        let change = |grounds: &mut super::stock::Grounds| {
            if uses {
                grounds.used.insert(rank.clone());
            } else {
                grounds.used.remove(rank);
            }
        };
        match item {
            Item::Address(address) => self.addresses.change(address, self.now, change),
            Item::Port(port) => self.ports.change(port, self.now, change),
        }
    }

    /// Pools or ranges are others now.
    pub(super) fn redefine(&mut self) {
        self.changes += 1;
        let addresses = self.address_pools.values().map(pools::Pool::of_addresses);
        let ports = self.port_pools.values().map(pools::Pool::of_ports);
        self.ranked = pools::Pools::new(addresses.chain(ports));
        let ready = self
            .cidrs
            .values()
            .filter(|cidrs| cidrs.state == CidrState::Gives);
        let (usable, kept) = definitions::usable_addresses(ready.flat_map(|cidrs| &cidrs.ranges));
        let of_addresses = definitions::of_addresses(&self.ranked, &self.address_pools, &usable, kept);
        self.addresses.define(of_addresses, usable, self.now);
        let (of_ports, usable) = definitions::of_ports(&self.ranked, &self.port_pools, self.node_ports);
        self.ports.define(of_ports, usable, self.now);
    }

    /// The claims that a question may be about: those for the Service, and those that keep the wished value.
    pub(super) fn claims_for(&self, key: Option<&ServiceKey>, wish: Option<Item>) -> Vec<pools::Claimed> {
        let own = key.and_then(|key| self.claims_of.get(key)).into_iter().flatten();
        let own = own.filter_map(|id| Some((id.clone(), self.claims.get(id)?)));
        let grounds = match wish {
            Some(Item::Address(address)) => self.addresses.grounds(address),
            Some(Item::Port(_)) | None => None,
        };
        let of_wish = grounds.into_iter().flat_map(|grounds| &grounds.kept);
        let of_wish = of_wish.filter_map(|kept| {
            let id = (kept.service.namespace().to_owned(), kept.claim.clone());
            self.claims.get(&id).map(|claim| (id, claim))
        });
        let mut claims: Vec<_> = own.chain(of_wish).collect();
        claims.sort_by(|(one, a), (other, b)| (a.created, one).cmp(&(b.created, other)));
        claims.dedup_by(|(one, _), (other, _)| one == other);
        let each = claims.into_iter().flat_map(|((namespace, name), claim)| {
            claim.addresses.iter().map(move |address| pools::Claimed {
                namespace: namespace.clone(),
                claim: name.clone(),
                service: claim.service.name().to_owned(),
                what: pools::What::ClusterIp(IpFamily::of(*address)),
                item: address.item(),
            })
        });
        each.collect()
    }
}

impl Claim {
    fn kept(&self, name: &str) -> Kept {
        Kept {
            created: self.created,
            claim: name.to_owned(),
            service: self.service.clone(),
        }
    }
}

impl Shown {
    /// What a Service says of its values.
    pub fn of(service: &Service) -> Self {
        Self {
            key: key_of(&service.metadata),
            known: Known::of(service),
        }
    }
}

impl Known {
    /// What the API server holds for a Service, whatever it looks like.
    fn of(service: &Service) -> Self {
        let mut items = BTreeSet::new();
        let spec = service.spec.as_ref();
        let kind = spec.and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP");
        if let Some(spec) = spec.filter(|_| kind != "ExternalName") {
            let texts = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
            items.extend(texts.filter_map(|text| address::parse(text)).map(Item::Address));
            let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
            let health_check = spec.health_check_node_port;
            let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port);
            let numbers = ports
                .filter(|_| matches!(kind, "NodePort" | "LoadBalancer"))
                .chain(health_check.filter(|_| is_local && kind == "LoadBalancer"));
            let numbers = numbers.filter_map(|number| Port::new(u16::try_from(number).ok()?));
            items.extend(numbers.map(Item::Port));
        }
        Self {
            uid: service.metadata.uid.clone().unwrap_or_default(),
            created: created(&service.metadata),
            labels: service.metadata.labels.clone().unwrap_or_default(),
            items,
        }
    }
}
