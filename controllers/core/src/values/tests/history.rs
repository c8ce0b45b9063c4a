// SPDX-License-Identifier: Apache-2.0
//! Random histories of events and questions, step by step beside the naive book.

use std::collections::VecDeque;

use berth_model::IpFamily;

use super::naive::{Naive, NaiveHold, NaivePool, Question, Verdict, supply_of};
use super::*;
use crate::pools::Supply;

/// 2,000 in `make test`, 100,000 in `make soak`.
fn histories() -> u64 {
    match option_env!("BERTH_TEST_SCALE") {
        Some("full") => 100_000,
        Some(_) | None => 2_000,
    }
}

const STEPS: u64 = 60;
const MORE: &str = "10.0.0.16/29";

struct World {
    values: Values,
    naive: Naive,
    dice: Random,
    now: Duration,
    asks: u64,
    /// Counts Services and claims, the age of which it is.
    count: u64,
    more: bool,
    story: VecDeque<String>,
}

fn addresses(octets: std::ops::RangeInclusive<u8>) -> impl Iterator<Item = Item> {
    octets.map(|octet| Item::Address(IpAddr::from([10, 0, 0, octet])))
}

fn usable(more: bool) -> BTreeSet<Item> {
    let others = addresses(17..=22).filter(|_| more);
    addresses(1..=14)
        .chain(others)
        .chain((30_000..=30_009).map(port))
        .collect()
}

fn universe() -> impl Iterator<Item = Item> {
    addresses(0..=30).chain((29_990..=30_020).map(port))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut values = cluster();
        values.apply_service_cidr("more", &[MORE.to_owned()], false);
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
        }
    }

    fn below(&mut self, sides: u64) -> u64 {
        self.dice.next() % sides
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn item(&mut self, supply: Supply) -> Item {
        let range: Vec<Item> = match supply {
            Supply::NodePort => (30_000..=30_012).map(port).collect(),
            Supply::ClusterIp | Supply::LoadBalancer => addresses(1..=23).collect(),
        };
        let index = self.below(range.len() as u64);
        range[usize::try_from(index).unwrap()]
    }

    fn some_items(&mut self, supply: Supply, most: u64) -> BTreeSet<Item> {
        let many = self.below(most + 1);
        (0..many).map(|_| self.item(supply)).collect()
    }

    fn namespace(&mut self) -> &'static str {
        if self.percent(60) { "a" } else { "b" }
    }

    fn service(&mut self) -> ServiceKey {
        let namespace = self.namespace();
        ServiceKey::new(namespace, format!("w{}", self.below(4)))
    }

    fn tell(&mut self, line: String) {
        self.story.push_back(line);
        if self.story.len() > 30 {
            self.story.pop_front();
        }
    }

    fn step(&mut self) {
        let seconds = self.below(12);
        self.now += at(seconds);
        self.naive.lapse(self.now);
        self.values.lapse(self.now);
        match self.below(100) {
            0..8 => self.edit_pool(),
            8..10 => self.toggle_range(),
            10..50 => self.question(),
            50..70 => self.land(),
            70..76 => self.stranger(),
            76..86 => self.delete(),
            86..90 => self.claim(),
            90..92 => self.now += at(60),
            92..95 => self.succeed(),
            _ => {
                let key = self.values.services.keys().next().cloned();
                if let Some((key, (created, items))) =
                    key.and_then(|key| self.naive.services.get_key_value(&key))
                {
                    let service = mk_service(key, *created, items);
                    let expected = self.naive.settled(key, false, items);
                    let settled = self.values.apply_service(&service, self.now);
                    assert_eq!(
                        settled.iter().cloned().collect::<BTreeSet<_>>(),
                        expected,
                        "told again"
                    );
                    self.naive.holds.retain(|ask, _| !expected.contains(ask));
                }
            }
        }
        self.naive.lapse(self.now);
        self.values.lapse(self.now);
    }

    fn edit_pool(&mut self) {
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

    fn toggle_range(&mut self) {
        self.more = !self.more;
        self.tell(format!("more {}", self.more));
        self.naive.usable = usable(self.more);
        self.values
            .apply_service_cidr("more", &[MORE.to_owned()], self.more);
    }

    fn wish(&mut self) -> Wish {
        let key = self.service();
        let is_named = self.percent(80);
        let is_update = is_named && self.naive.services.contains_key(&key) && self.percent(60);
        let mut taken = BTreeSet::new();
        if is_update {
            taken.extend(self.naive.services[&key].1.clone());
        }
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
            namespace: key.namespace().to_owned(),
            name: is_named.then(|| key.name().to_owned()),
            labels: Labels::new(),
            is_update,
            asks,
            taken,
        }
    }

    fn question(&mut self) {
        let wish = self.wish();
        let asked = ask(self.asks);
        self.asks += 1;
        let peeked = self.percent(25).then(|| self.values.peek(&wish, self.now));
        let outcome = self.values.grant(&asked, &wish, self.now);
        self.tell(format!("{} s: {wish:?}\n    -> {outcome:?}", self.now.as_secs()));
        if let Some(peeked) = peeked {
            assert_eq!(peeked, outcome, "{}", self.told());
        }
        let mut question = Question {
            ask: &asked,
            wish: &wish,
            given: BTreeSet::new(),
        };
        let (wished, any): (Vec<&Asked>, Vec<&Asked>) =
            wish.asks.iter().partition(|asked| asked.wish.is_some());
        let mut refused = None;
        for slot in wished.into_iter().chain(any) {
            let verdict = self.naive.verdict(&question, slot);
            let got = outcome.as_ref().ok().map(|grant| grant.at(slot.slot));
            match (verdict, got) {
                (Verdict::Given(these), Some(Some(item))) if these.contains(&item) => {
                    question.given.insert(item);
                }
                (Verdict::Given(these), None) => question.given.extend(these.first()),
                (Verdict::Left, Some(None) | None) => {}
                (Verdict::Refused(reason), None) => {
                    refused = Some(reason);
                    break;
                }
                (verdict, got) => panic!("{slot:?}: {verdict:?} expected, {got:?} found{}", self.told()),
            }
        }
        assert_eq!(
            refused,
            outcome.as_ref().err().map(|refused| refused.reason),
            "{}",
            self.told()
        );
        if let Ok(grant) = outcome {
            assert_eq!(
                self.values.grant(&asked, &wish, self.now),
                Ok(grant.clone()),
                "asked again"
            );
            let until = self.now + HOLD;
            self.naive.holds.insert(asked, NaiveHold { grant, until });
        }
    }

    /// A write that was answered arrives, and a watch shows it.
    fn land(&mut self) {
        let index = self.below(self.naive.holds.len().max(1) as u64);
        let Some(hold) = self.naive.holds.values().nth(usize::try_from(index).unwrap()) else {
            return;
        };
        let grant = hold.grant.clone();
        let key = grant
            .key()
            .unwrap_or_else(|| ServiceKey::new(grant.namespace.as_str(), format!("g{}", self.count)));
        let stored = self.naive.services.get(&key).cloned();
        match stored {
            Some((created, items)) if grant.is_update => {
                let items = items.union(&grant.items()).copied().collect();
                self.show(&key, created, items);
            }
            None if !grant.is_update => {
                self.count += 1;
                self.show(&key, self.count.cast_signed(), grant.items());
            }
            Some(_) | None => {}
        }
    }

    /// A Service that nobody was asked about.
    fn stranger(&mut self) {
        let key = self.service();
        let mut items = self.some_items(Supply::ClusterIp, 1);
        items.extend(self.some_items(Supply::NodePort, 2));
        let created = self.naive.services.get(&key).map(|(created, _)| *created);
        let created = created.unwrap_or_else(|| {
            self.count += 1;
            self.count.cast_signed()
        });
        self.show(&key, created, items);
    }

    fn show(&mut self, key: &ServiceKey, created: i64, items: BTreeSet<Item>) {
        self.tell(format!("{key} has {items:?}"));
        let appears = !self.naive.services.contains_key(key);
        let expected = self.naive.settled(key, appears, &items);
        let service = mk_service(key, created, &items);
        let settled = self.values.apply_service(&service, self.now);
        assert_eq!(
            settled.into_iter().collect::<BTreeSet<_>>(),
            expected,
            "{}",
            self.told()
        );
        self.naive.holds.retain(|ask, _| !expected.contains(ask));
        self.naive.services.insert(key.clone(), (created, items));
    }

    fn delete(&mut self) {
        let index = self.below(self.naive.services.len().max(1) as u64);
        let key = self
            .naive
            .services
            .keys()
            .nth(usize::try_from(index).unwrap())
            .cloned();
        if let Some(key) = key {
            self.tell(format!("{key} is gone"));
            self.naive.services.remove(&key);
            self.values.remove_service(&key, self.now);
        }
    }

    fn claim(&mut self) {
        let name = format!("c{}", self.below(3));
        if self.percent(40) {
            self.tell(format!("no claim {name}"));
            self.naive.claims.remove(&name);
            self.values.remove_claim("a", &name, self.now);
            return;
        }
        let service = format!("w{}", self.below(4));
        let item = self.item(Supply::ClusterIp);
        let created = self.below(50);
        self.tell(format!("claim {name} keeps {item} for {service}"));
        let claim = mk_claim(&name, created.cast_signed(), "a", &service, &[&item.to_string()]);
        self.values.apply_claim(&claim, self.now);
        let key = ServiceKey::new("a", service);
        self.naive.claims.insert(name, (created.cast_signed(), key, item));
    }

    /// Another replica, which has read everything anew in some other order, goes on.
    fn succeed(&mut self) {
        self.tell("another goes on".to_owned());
        let mut next = Values::new(
            "30000-30009".parse().unwrap(),
            Exemptions::with([]),
            self.dice.next(),
        );
        next.lapse(self.now);
        let holds = self.naive.holds.iter().map(|(ask, hold)| {
            let hold = Hold {
                grant: hold.grant.clone(),
                until: hold.until,
                stands: true,
            };
            (ask.clone(), hold)
        });
        let holds: BTreeMap<AskId, Hold<Grant>> = holds.collect();
        let turn = self.below(24);
        for part in 0..4 {
            match (part + turn) % 4 {
                0 => {
                    for (key, (created, items)) in self.naive.services.iter().rev() {
                        next.apply_service(&mk_service(key, *created, items), self.now);
                    }
                }
                1 => self
                    .naive
                    .pools
                    .iter()
                    .rev()
                    .for_each(|pool| tell_of(&mut next, pool)),
                2 => {
                    next.apply_service_cidr("kubernetes", &["10.0.0.0/28".to_owned()], true);
                    next.apply_service_cidr("more", &[MORE.to_owned()], self.more);
                }
                _ => {
                    for (name, (created, key, item)) in &self.naive.claims {
                        let claim = mk_claim(name, *created, "a", key.name(), &[&item.to_string()]);
                        next.apply_claim(&claim, self.now);
                    }
                }
            }
            if part == turn / 6 {
                next.adopt(&holds);
            }
        }
        next.adopt(&holds);
        assert_eq!(next.findings(), self.values.findings(), "{}", self.told());
        self.values = next;
    }

    fn told(&self) -> String {
        self.story.iter().map(|line| format!("\n  {line}")).collect()
    }

    fn is_as_the_naive_one(&self) {
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
            assert_eq!(used, counts.allocated + counts.held);
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

fn tell_of(values: &mut Values, pool: &NaivePool) {
    match pool.supply {
        Supply::NodePort => values.apply_port_pool(&mk_ports(&pool.name, pool.created, &pool.spec())),
        Supply::ClusterIp | Supply::LoadBalancer => {
            values.apply_address_pool(&mk_addresses(&pool.name, pool.created, &pool.spec()));
        }
    }
}

#[test]
fn whatever_happens_the_book_says_what_the_naive_one_says() {
    for seed in 0..histories() {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            world.is_as_the_naive_one();
        }
    }
}
