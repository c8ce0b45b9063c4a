// SPDX-License-Identifier: Apache-2.0
//! Random histories of events and questions, step by step beside the naive book.

use super::naive::{NaiveHold, Question, Verdict};
use super::world::{MORE, World, state, tell_of};
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

impl World {
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
            95..98 => self.bar(),
            _ => {
                let key = self.values.services.keys().next().cloned();
                if let Some((key, (created, items))) =
                    key.and_then(|key| self.naive.services.get_key_value(&key))
                {
                    let service = mk_service(key, *created, items);
                    let expected = self.naive.settled(key, false, items);
                    let settled = self.values.apply_service(Shown::of(&service), self.now);
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

    fn question(&mut self) {
        let wish = self.wish();
        let asked = ask(self.asks);
        self.asks += 1;
        let peeked = self.percent(25).then(|| self.values.peek(&wish, self.now));
        let outcome = self.values.grant(&asked, &wish, self.now);
        self.tell(format!("{} s: {wish:?}\n    -> {outcome:?}", self.now.as_secs()));
        let kind = match &outcome {
            Ok(grant) if grant.items().is_empty() => "Nothing",
            Ok(_) => "Given",
            Err(refused) => refused.as_str(),
        };
        *self.outcomes.entry(kind).or_default() += 1;
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
        let settled = self.values.apply_service(Shown::of(&service), self.now);
        self.settle(settled, &expected);
        self.naive.services.insert(key.clone(), (created, items));
    }

    /// What the book says is over is what the naive one says.
    fn settle(&mut self, settled: Vec<AskId>, expected: &BTreeSet<AskId>) {
        let settled: BTreeSet<AskId> = settled.into_iter().collect();
        assert_eq!(settled, *expected, "{}", self.told());
        self.naive.holds.retain(|ask, _| !expected.contains(ask));
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
        let key = ServiceKey::new("a", service);
        let new = (created.cast_signed(), key, item);
        let expected = self.naive.settled_by_claim(&name, &new);
        let settled = self.values.apply_claim(&claim, self.now);
        self.settle(settled, &expected);
        self.naive.claims.insert(name, new);
    }

    /// Somebody else makes an IPAddress, or takes it away.
    fn bar(&mut self) {
        let item = self.item(Supply::ClusterIp);
        let Item::Address(address) = item else {
            return;
        };
        if self.naive.foreign.remove(&item) {
            self.tell(format!("{item} is barred no more"));
            self.values.remove_foreign_address(address, self.now);
        } else {
            self.tell(format!("{item} is barred"));
            self.naive.foreign.insert(item);
            self.values.apply_foreign_address(address, None, self.now);
        }
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
                        next.apply_service(Shown::of(&mk_service(key, *created, items)), self.now);
                    }
                }
                1 => self
                    .naive
                    .pools
                    .iter()
                    .rev()
                    .for_each(|pool| tell_of(&mut next, pool)),
                2 => {
                    next.apply_service_cidr("kubernetes", &["10.0.0.0/28".to_owned()], CidrState::Gives);
                    next.apply_service_cidr("more", &[MORE.to_owned()], state(self.more));
                }
                _ => {
                    for item in &self.naive.foreign {
                        if let Item::Address(address) = item {
                            next.apply_foreign_address(*address, None, self.now);
                        }
                    }
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
}

#[test]
fn whatever_happens_the_book_says_what_the_naive_one_says() {
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..histories() {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            world.is_as_the_naive_one();
        }
        for (outcome, count) in world.outcomes {
            *outcomes.entry(outcome).or_default() += count;
        }
    }
    assert_eq!(
        outcomes.len(),
        14,
        "every reason, something and nothing: {outcomes:?}"
    );
    assert!(outcomes.values().all(|count| *count > 10), "{outcomes:?}");
}
