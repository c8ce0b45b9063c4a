// SPDX-License-Identifier: Apache-2.0
//! An API server with claims, Services and pools, whose watch is behind; a book, and the leader that keeps claims up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use berth_model::IpFamily;

use super::*;
use crate::service::Labels;
use crate::upkeep::claims::{ClaimWrite, Step, answered, plan};
use crate::values::{CidrState, ClaimId, Grant, Wish};

/// A Service, or a claim, as the API server has it: `None` when it is gone.
#[derive(Clone, Debug)]
enum News {
    Claim(String, Option<Box<AddressClaim>>),
    Service(ServiceKey, Option<BTreeSet<IpAddr>>),
}

/// A pool in a form that is easy to look into.
#[derive(Clone, Debug)]
pub(super) struct Plain {
    pub(super) items: BTreeSet<IpAddr>,
    pub(super) gives: bool,
    pub(super) serves: bool,
    pub(super) quota: Option<usize>,
    pub(super) most: Option<i64>,
}

pub(super) struct World {
    pub(super) values: Values,
    pub(super) now: i64,
    pub(super) claims: BTreeMap<String, AddressClaim>,
    pub(super) services: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    pub(super) pools: BTreeMap<&'static str, Plain>,
    /// What was answered and is on its way, with when it was.
    pub(super) flying: Vec<(i64, Grant)>,
    /// What claims were answered, which need not have been written.
    promised: Vec<(i64, BTreeSet<IpAddr>)>,
    news: VecDeque<News>,
    asked: u64,
}

pub(super) const FOUR: [&str; 2] = ["p", "q"];

impl World {
    pub(super) fn new() -> Self {
        let mut values = cluster();
        values.apply_service_cidr("six", &["fd00::/120".to_owned()], CidrState::Gives);
        Self {
            values,
            now: 0,
            claims: BTreeMap::new(),
            services: BTreeMap::new(),
            pools: BTreeMap::new(),
            flying: Vec::new(),
            promised: Vec::new(),
            news: VecDeque::new(),
            asked: 0,
        }
    }

    fn told(&self) -> Duration {
        Duration::from_secs(self.now.unsigned_abs())
    }

    pub(super) fn edit_pool(&mut self, name: &'static str, plain: Option<Plain>) {
        let Some(plain) = plain else {
            self.pools.remove(name);
            return self.values.remove_address_pool(name);
        };
        let items: Vec<String> = plain.items.iter().map(ToString::to_string).collect();
        let mut spec = json!({"addresses": items, "draining": !plain.gives,
            "selector": {"namespaces": [if plain.serves { "a" } else { "b" }]}});
        if let Some(quota) = plain.quota {
            spec["quota"] = json!({"perNamespace": quota});
        }
        if let Some(most) = plain.most {
            spec["maxRetention"] = json!(format!("{most}s"));
        }
        self.values.apply_address_pool(&mk_pool(name, 0, &spec));
        self.pools.insert(name, plain);
    }

    /// Stores a claim; `None` deletes it.
    pub(super) fn store_claim(&mut self, name: &str, claim: Option<AddressClaim>) {
        match &claim {
            Some(claim) => drop(self.claims.insert(name.to_owned(), claim.clone())),
            None => drop(self.claims.remove(name)),
        }
        self.news
            .push_back(News::Claim(name.to_owned(), claim.map(Box::new)));
    }

    pub(super) fn store_service(&mut self, key: &ServiceKey, addresses: Option<BTreeSet<IpAddr>>) {
        match &addresses {
            Some(addresses) => {
                self.services.insert(key.clone(), addresses.clone());
                // The others find that it exists.
                self.flying.retain(|(_, grant)| grant.key().as_ref() != Some(key));
            }
            None => drop(self.services.remove(key)),
        }
        self.news.push_back(News::Service(key.clone(), addresses));
    }

    /// Asks for a Service of these families.
    pub(super) fn create(&mut self, key: &ServiceKey, families: &[IpFamily]) -> Option<Grant> {
        let asks = families.iter().map(|family| (*family, None)).collect();
        let wish = Wish {
            claim: None,
            is_update: false,
            ..Wish::of_claim(key, &Labels::new(), &asks, None)
        };
        let grant = self.ask(&wish).ok()?;
        self.flying.push((self.now, grant.clone()));
        Some(grant)
    }

    fn ask(&mut self, wish: &Wish) -> Result<Grant, crate::values::Refused> {
        self.asked += 1;
        let now = self.told();
        self.values.grant(&super::ask(self.asked), wish, now)
    }

    /// What was answered arrives, if nobody else was faster.
    pub(super) fn land(&mut self, place: usize) {
        if self.flying.is_empty() {
            return;
        }
        let (_, grant) = self.flying.remove(place % self.flying.len());
        let key = grant.key().unwrap();
        if !self.services.contains_key(&key) {
            self.store_service(&key, Some(grant.cluster_ips));
        }
    }

    /// Lets the book see so much of what has happened.
    pub(super) fn watch(&mut self, most: usize) {
        for _ in 0..most {
            let now = self.told();
            match self.news.pop_front() {
                None => return,
                Some(News::Claim(name, None)) => self.values.remove_claim("a", &name, now),
                Some(News::Claim(_, Some(claim))) => drop(self.values.apply_claim(&claim, now)),
                Some(News::Service(key, None)) => self.values.remove_service(&key, now),
                Some(News::Service(key, Some(addresses))) => {
                    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                    let shown = Shown::of(&mk_service(&key, &texts, &[]));
                    self.values.apply_service(shown, now);
                    // What was answered for another one of that name, made after this was deleted and before it was seen, is
                    // held no longer: whether it is stored is for the API server to say, and here it is not.
                    self.flying
                        .retain(|(_, grant)| grant.key().as_ref() != Some(&key));
                }
            }
        }
    }

    /// One turn of the leader with a claim; whether there was anything to do.
    pub(super) fn keep_up(&mut self, name: &str) -> bool {
        let id: ClaimId = ("a".to_owned(), name.to_owned());
        let now = at(self.now);
        let told = self.told();
        self.values.lapse(told);
        let write = match plan(&mut self.values, &id, &now) {
            Step::Nothing => return false,
            Step::Write(write) => Some(*write),
            Step::Ask(question) => {
                let answer = self.ask(&question.wish);
                let granted = answer.as_ref().ok();
                self.promised
                    .extend(granted.map(|grant| (self.now, grant.cluster_ips.clone())));
                answered(&self.values, &question, answer.as_ref(), &now)
            }
        };
        if let Some(write) = write {
            self.write(name, write);
        }
        true
    }

    /// Only if the claim is as the leader saw it.
    fn write(&mut self, name: &str, write: ClaimWrite) {
        let is_seen = |stored: &AddressClaim| {
            let (stored, seen) = (stored, &write.claim);
            (&stored.metadata, &stored.spec, &stored.status) == (&seen.metadata, &seen.spec, &seen.status)
        };
        if !self.claims.get(name).is_some_and(is_seen) {
            return;
        }
        let claim = AddressClaim {
            status: Some(write.status),
            ..write.claim
        };
        self.store_claim(name, Some(claim));
    }

    /// Everything is seen, nothing is under way, and the leader has nothing left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            self.watch(usize::MAX);
            let names: Vec<String> = self.claims.keys().cloned().collect();
            let busy = names.iter().filter(|name| self.keep_up(name)).count();
            if busy == 0 {
                return;
            }
        }
        panic!("it does not settle: {:#?}", self.claims);
    }

    /// What the API server says that a claim keeps.
    pub(super) fn kept(&self, name: &str) -> BTreeSet<IpAddr> {
        let claim = self.claims.get(name);
        let status = claim.and_then(|claim| claim.status.as_ref()).into_iter();
        let texts = status.flat_map(|status| &status.addresses);
        texts.map(|text| text.parse().unwrap()).collect()
    }

    /// Everything that is of namespace a, or may be soon.
    pub(super) fn owned(&self) -> BTreeSet<IpAddr> {
        let used = self.services.values().flatten().copied();
        let kept = self.claims.keys().flat_map(|name| self.kept(name));
        let flying = self.flying.iter();
        let flying = flying.filter(|(at, _)| self.now < at + 65);
        let flying = flying.flat_map(|(_, grant)| grant.cluster_ips.clone());
        let promised = self.promised.iter().filter(|(at, _)| self.now < at + 65);
        let promised = promised.flat_map(|(_, addresses)| addresses.clone());
        used.chain(kept).chain(flying).chain(promised).collect()
    }
}
