// SPDX-License-Identifier: Apache-2.0
//! The two books and what happens to both.

use std::collections::VecDeque;

use berth_model::IpFamily;

use super::naive::{Naive, supply_of};
use super::naive_pool::NaivePool;
use super::*;
use crate::pools::Supply;

/// A ServiceCIDR that comes and goes.
pub(super) const MORE: &str = "10.0.0.16/29";

pub(super) struct World {
    pub(super) values: Values,
    pub(super) naive: Naive,
    pub(super) dice: Random,
    pub(super) now: Duration,
    pub(super) asks: u64,
    /// Counts Services and claims, the age of which it is.
    pub(super) count: u64,
    pub(super) more: bool,
    pub(super) story: VecDeque<String>,
    /// How often each outcome came.
    pub(super) outcomes: BTreeMap<&'static str, u64>,
}

pub(super) fn addresses(octets: std::ops::RangeInclusive<u8>) -> impl Iterator<Item = Item> {
    octets.map(|octet| Item::Address(IpAddr::from([10, 0, 0, octet])))
}

pub(super) fn usable(more: bool) -> BTreeSet<Item> {
    let others = addresses(17..=22).filter(|_| more);
    addresses(1..=14)
        .chain(others)
        .chain((30_000..=30_009).map(port))
        .collect()
}

pub(super) fn state(gives: bool) -> CidrState {
    if gives {
        CidrState::Gives
    } else {
        CidrState::Unready
    }
}

pub(super) fn universe() -> impl Iterator<Item = Item> {
    addresses(0..=30).chain((29_990..=30_020).map(port))
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut values = cluster();
        values.apply_service_cidr("more", &[MORE.to_owned()], CidrState::Unready);
        Self {
            values,
            naive: Naive {
                usable: usable(false),
                ..Naive::default()
            },
            dice: Random::new(seed),
            now: at(100),
            asks: 0,
            count: 0,
            more: false,
            story: VecDeque::new(),
            outcomes: BTreeMap::new(),
        }
    }

    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.dice.next() % sides
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn item(&mut self, supply: Supply) -> Item {
        let range: Vec<Item> = match supply {
            Supply::NodePort => (30_000..=30_012).map(port).collect(),
            Supply::ClusterIp | Supply::LoadBalancer => addresses(1..=23).collect(),
        };
        let index = self.below(range.len() as u64);
        range[usize::try_from(index).unwrap()]
    }

    pub(super) fn some_items(&mut self, supply: Supply, most: u64) -> BTreeSet<Item> {
        let many = self.below(most + 1);
        (0..many).map(|_| self.item(supply)).collect()
    }

    pub(super) fn namespace(&mut self) -> &'static str {
        if self.percent(60) { "a" } else { "b" }
    }

    pub(super) fn service(&mut self) -> ServiceKey {
        let namespace = self.namespace();
        ServiceKey::new(namespace, format!("w{}", self.below(4)))
    }

    pub(super) fn tell(&mut self, line: String) {
        self.story.push_back(line);
        if self.story.len() > 30 {
            self.story.pop_front();
        }
    }

    pub(super) fn edit_pool(&mut self) {
        let index = self.below(4);
        let name = format!("p{index}");
        let supply = if index < 2 {
            Supply::ClusterIp
        } else {
            Supply::NodePort
        };
        self.naive.pools.retain(|pool| pool.name != name);
        if self.percent(15) {
            self.tell(format!("no pool {name}"));
            match supply {
                Supply::NodePort => self.values.remove_port_pool(&name),
                Supply::ClusterIp | Supply::LoadBalancer => self.values.remove_address_pool(&name),
            }
            return;
        }
        let mut items = self.some_items(supply, 7);
        items.insert(self.item(supply));
        let reserved = self.percent(35).then(|| {
            let inside = items.iter().next().copied();
            let item = self.item(supply);
            (
                if self.percent(85) {
                    inside.unwrap_or(item)
                } else {
                    item
                },
                self.service(),
            )
        });
        let pool = NaivePool {
            created: self.below(3).cast_signed(),
            priority: self.below(3).cast_signed() - 1,
            namespaces: match self.below(3) {
                0 => vec![],
                1 => vec!["a"],
                _ => vec!["b"],
            },
            items,
            excluded: self.some_items(supply, 1),
            draining: self.percent(10),
            quota: self.percent(40).then(|| self.below(4)),
            reserved,
            name,
            supply,
        };
        self.tell(format!("pool {pool:?}"));
        tell_of(&mut self.values, &pool);
        self.naive.pools.push(pool);
    }

    pub(super) fn toggle_range(&mut self) {
        self.more = !self.more;
        self.tell(format!("more {}", self.more));
        self.naive.usable = usable(self.more);
        self.values
            .apply_service_cidr("more", &[MORE.to_owned()], state(self.more));
    }

    /// Of one without a name, what an earlier question about it may have been given.
    fn had(&mut self, key: &ServiceKey, is_named: bool) -> BTreeSet<Item> {
        if is_named || self.percent(50) {
            return BTreeSet::new();
        }
        let index = self.below(self.naive.holds.len().max(1) as u64);
        let hold = self.naive.holds.values().nth(usize::try_from(index).unwrap());
        let grant = hold.map(|hold| &hold.grant);
        let grant = grant.filter(|grant| grant.name.is_none() && grant.namespace == key.namespace());
        grant.map(Grant::items).unwrap_or_default()
    }

    pub(super) fn wish(&mut self) -> Wish {
        let key = self.service();
        let is_named = self.percent(80);
        let is_update = is_named && self.naive.services.contains_key(&key) && self.percent(60);
        let mut taken = BTreeSet::new();
        if is_update {
            taken.extend(self.naive.services[&key].1.clone());
        }
        let had = self.had(&key, is_named);
        let mut asks = Vec::new();
        for (slot, percent) in [
            (Slot::ClusterIp(IpFamily::V4), 70),
            (Slot::NodePort(0), 40),
            (Slot::NodePort(1), 30),
            (Slot::HealthCheckNodePort, 15),
        ] {
            if self.percent(percent) {
                let wanted = self.item(super::super::wish::what(slot).supply());
                let wish = Some(wanted).filter(|wanted| self.percent(20) && taken.insert(*wanted));
                asks.push(Asked {
                    slot,
                    wish,
                    port_name: None,
                });
            }
        }
        Wish {
            claim: None,
            namespace: key.namespace().to_owned(),
            name: is_named.then(|| key.name().to_owned()),
            labels: Labels::new(),
            is_update,
            asks,
            taken,
            namespace_labels: None,
            had,
        }
    }

    pub(super) fn told(&self) -> String {
        self.story.iter().map(|line| format!("\n  {line}")).collect()
    }

    pub(super) fn is_as_the_naive_one(&self) {
        let uses: Vec<Use> = self.values.uses().collect();
        let expected = universe().filter_map(|item| Some((item, self.naive.owner(item)?)));
        let expected: BTreeMap<Item, (Holder, bool)> = expected.collect();
        let found = uses.iter().map(|used| {
            let is_hold = matches!(used.ground, Ground::Held(_));
            (used.item, (used.holder.clone(), is_hold))
        });
        let found: BTreeMap<Item, (Holder, bool)> = found.collect();
        assert_eq!(found.len(), uses.len());
        assert_eq!(found, expected, "{}", self.told());
        for figures in self.values.figures() {
            let pool = self
                .naive
                .pools
                .iter()
                .find(|pool| pool.name == figures.pool.name)
                .unwrap();
            let counts = figures.counts[0].1;
            let small = |count: u128| u64::try_from(count).unwrap();
            let found = [
                small(counts.capacity),
                counts.allocated,
                counts.held,
                counts.reserved,
                small(counts.withheld),
                small(counts.free),
            ];
            assert_eq!(found, self.naive.counts(pool), "{pool:?}{}", self.told());
            let used: u64 = figures.namespaces.values().map(|counts| counts[0]).sum();
            let foreign = pool.items.iter().filter(|item| {
                let of = self.naive.pool_of(**item).is_some_and(|of| of.name == pool.name);
                let owner = self.naive.owner(**item);
                of && !pool.excluded.contains(item) && owner == Some((Holder::Foreign, false))
            });
            assert_eq!(used + foreign.count() as u64, counts.allocated + counts.held);
        }
        for used in &uses {
            let pool = self.naive.pool_of(used.item);
            let pool = pool.filter(|pool| !pool.excluded.contains(&used.item));
            assert_eq!(
                used.pool.as_ref().map(|pool| &pool.name),
                pool.map(|pool| &pool.name)
            );
            assert_eq!(
                used.pool.as_ref().map(|pool| pool.supply),
                pool.map(|_| supply_of(used.item))
            );
        }
    }
}

pub(super) fn tell_of(values: &mut Values, pool: &NaivePool) {
    match pool.supply {
        Supply::NodePort => values.apply_port_pool(&mk_ports(&pool.name, pool.created, &pool.spec())),
        Supply::ClusterIp | Supply::LoadBalancer => {
            values.apply_address_pool(&mk_addresses(&pool.name, pool.created, &pool.spec()));
        }
    }
}
