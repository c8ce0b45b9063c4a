// SPDX-License-Identifier: Apache-2.0
//! The whole life of claims, in random histories: whenever all is quiet, each claim is what a plain statement of the rules
//! makes of what it was before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_crds::{ClaimFamily, ClaimReason};
use berth_model::IpFamily;
use proptest::prelude::*;

use super::lives_world::{FOUR, Plain, World};
use super::*;

/// What happens, with dice for the details.
type Step = (u8, u8, u8, u8);

const HISTORIES: u32 = match option_env!("BERTH_TEST_SCALE") {
    Some(_) => 20_000,
    None => 2_000,
};

fn v4(octet: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, octet])
}

fn pool_name(dice: u8) -> &'static str {
    ["p", "q", "six"][usize::from(dice % 3)]
}

/// Some of the addresses that are only this pool's.
fn plain_pool(name: &str, a: u8, b: u8) -> Plain {
    let all: Vec<IpAddr> = match name {
        "p" => (1..=4).map(v4).collect(),
        "q" => (8..=10).map(v4).collect(),
        _ => (1..=3)
            .map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]))
            .collect(),
    };
    let many = 1 + usize::from(a) % all.len();
    Plain {
        items: all.into_iter().take(many).collect(),
        gives: !b.is_multiple_of(8),
        serves: !b.is_multiple_of(7),
        quota: (b.is_multiple_of(3)).then_some(usize::from(b / 3 % 4)),
        most: (a.is_multiple_of(4)).then_some(30),
    }
}

/// One whole history.
struct History {
    world: World,
    claims_made: u8,
    /// What each claim (by its uid) that had all it asked for kept when all was quiet last, and of which generation it was.
    kept: BTreeMap<String, (Option<i64>, BTreeSet<IpAddr>)>,
    reasons: BTreeMap<String, u64>,
}

impl History {
    fn new() -> Self {
        let mut world = World::new();
        for name in ["p", "q", "six"] {
            world.edit_pool(name, Some(plain_pool(name, 1, 1)));
        }
        Self {
            world,
            claims_made: 0,
            kept: BTreeMap::new(),
            reasons: BTreeMap::new(),
        }
    }

    fn step(&mut self, (kind, a, b, c): Step) {
        let claim = format!("c{}", a % 4);
        match kind % 12 {
            0 | 1 => self.make_claim(&claim, b, c),
            2 => self.edit_claim(&claim, b, c),
            3 if b.is_multiple_of(2) => self.world.store_claim(&claim, None),
            4 | 5 => {
                let families: &[IpFamily] = if b.is_multiple_of(3) {
                    &IpFamily::ALL
                } else {
                    &[IpFamily::V4]
                };
                let key = key(&format!("a/w{}", a % 5));
                if !self.world.services.contains_key(&key) {
                    self.world.create(&key, families);
                }
            }
            6 | 7 => self.world.land(usize::from(a)),
            8 => {
                let gone = self.world.services.keys().nth(usize::from(a % 3)).cloned();
                if let Some(gone) = gone {
                    self.world.store_service(&gone, None);
                }
            }
            9 => {
                let name = pool_name(a);
                let plain = (!c.is_multiple_of(6)).then(|| plain_pool(name, b, c));
                self.world.edit_pool(name, plain);
            }
            10 => {
                self.world.watch(usize::MAX);
                self.world.now += i64::from([1, 5, 10, 30, 70][usize::from(a % 5)]);
                let now = self.world.now;
                self.world.flying.retain(|(at, _)| now < at + 65);
            }
            _ => {
                self.world.watch(usize::from(b % 4));
                self.world.keep_up(&claim);
            }
        }
    }

    fn make_claim(&mut self, name: &str, b: u8, c: u8) {
        if self.world.claims.contains_key(name) {
            return;
        }
        self.claims_made += 1;
        let mut claim = mk_claim(
            name,
            i64::from(c % 60),
            &json!({"serviceName": format!("w{}", b % 3)}),
        );
        claim.metadata.uid = Some(format!("{name}-{}", self.claims_made));
        edit(&mut claim, b / 3, c);
        self.world.store_claim(name, Some(claim));
    }

    fn edit_claim(&mut self, name: &str, b: u8, c: u8) {
        let Some(mut claim) = self.world.claims.get(name).cloned() else {
            return;
        };
        let before = claim.spec.clone();
        edit(&mut claim, b, c);
        if claim.spec != before {
            claim.metadata.generation = claim.metadata.generation.map(|generation| generation + 1);
            self.world.store_claim(name, Some(claim));
        }
    }

    /// Whatever is seen and written, and however late.
    fn is_safe(&self) {
        let world = &self.world;
        let mut users: BTreeMap<IpAddr, &ServiceKey> = BTreeMap::new();
        for (key, addresses) in &world.services {
            for address in addresses {
                assert_eq!(users.insert(*address, key), None, "{address} twice");
            }
        }
        let mut keepers: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (name, claim) in &world.claims {
            for address in world.kept(name) {
                let service = format!("a/{}", claim.spec.service_name);
                if let Some(user) = users.get(&address) {
                    assert_eq!(user.to_string(), service, "{address} is kept by {name}");
                }
                let other = keepers.insert(address, service.clone());
                assert!(
                    other.as_ref().is_none_or(|other| *other == service),
                    "{address} is kept twice"
                );
            }
        }
    }

    /// What a claim has lost since all was quiet it has lost by one of two rules.
    fn loses_by_the_rules(&mut self) {
        for (name, claim) in &self.world.claims {
            let uid = claim.metadata.uid.as_ref().unwrap();
            let now = self.world.kept(name);
            let has_lost = |(generation, kept): &(Option<i64>, BTreeSet<IpAddr>)| {
                *generation == claim.metadata.generation && !now.is_superset(kept)
            };
            if self.kept.get(uid).is_some_and(has_lost) {
                let conditions = claim.status.clone().unwrap().conditions;
                let ready = condition(&conditions, "Ready");
                assert!(
                    ready.contains("Expired") || ready.contains("ClaimedTwice"),
                    "{name}: {ready}: {claim:?}"
                );
                self.kept.remove(uid);
            }
        }
    }

    fn settle(&mut self) {
        self.world.watch(usize::MAX);
        let before = self.world.claims.clone();
        self.world.settle();
        self.is_safe();
        for name in before.keys() {
            let reason = self.is_right(name, &before);
            *self.reasons.entry(reason).or_default() += 1;
        }
        self.kept.clear();
        for (name, claim) in &self.world.claims {
            let conditions = claim.status.clone().unwrap().conditions;
            // One that waits for something else has what it has till then.
            if condition(&conditions, "Ready") == "True Kept" {
                let kept = (claim.metadata.generation, self.world.kept(name));
                self.kept.insert(claim.metadata.uid.clone().unwrap(), kept);
            }
        }
    }

    /// Whether a claim says what it has to; the reason that it gives.
    fn is_right(&self, name: &str, before: &BTreeMap<String, AddressClaim>) -> String {
        let (old, new) = (&before[name], &self.world.claims[name]);
        let status = new.status.clone().unwrap();
        let ready = condition(&status.conditions, "Ready");
        let story = format!(
            "{name} at {}: {ready}\nbefore {old:?}\nnow {new:?}",
            self.world.now
        );
        let reason = ready.split([' ', ':']).nth(1).unwrap().to_owned();
        let kept = self.world.kept(name);
        assert_eq!(status.pools.len(), status.addresses.len(), "{story}");
        let rank = |claim: &AddressClaim| {
            let created = claim.metadata.creation_timestamp.as_ref().unwrap().0;
            (created, claim.metadata.name.clone())
        };
        let mut others = before
            .values()
            .filter(|other| other.spec.service_name == old.spec.service_name);
        if others.any(|other| rank(other) < rank(old)) {
            assert_eq!((reason.as_str(), kept.len()), ("ClaimedTwice", 0), "{story}");
            return reason;
        }
        if self.has_expired(old) {
            assert_eq!((reason.as_str(), kept.len()), ("Expired", 0), "{story}");
            return reason;
        }
        let had = old.status.clone().unwrap_or_default();
        if reason == ClaimReason::Kept.as_str() {
            let families: BTreeSet<IpFamily> = kept.iter().copied().map(IpFamily::of).collect();
            let wanted: BTreeSet<IpFamily> = new.spec.family.families().iter().copied().collect();
            assert_eq!(families, wanted, "{story}");
            let wish = new.spec.address.as_ref().map(|text| text.parse().unwrap());
            assert!(wish.is_none_or(|wish| kept.contains(&wish)), "{story}");
            let named = new.spec.pool.as_ref();
            assert!(
                named.is_none_or(|named| status.pools.iter().all(|pool| pool == named)),
                "{story}"
            );
            self.follows_the_service(new, &had.addresses, &kept, &story);
        } else {
            let same = status.addresses == had.addresses;
            assert!(same, "{story}: nothing is lost before there is something else");
            self.has_reason(new, &reason, &story);
        }
        let uid = new.metadata.uid.as_ref().unwrap();
        if let Some((generation, was_kept)) = self.kept.get(uid)
            && *generation == new.metadata.generation
        {
            assert!(kept.is_superset(was_kept), "{story}: had {was_kept:?}");
        }
        reason
    }

    fn has_service(&self, claim: &AddressClaim) -> Option<&BTreeSet<IpAddr>> {
        let key = ServiceKey::new("a", claim.spec.service_name.as_str());
        self.world.services.get(&key)
    }

    fn has_expired(&self, old: &AddressClaim) -> bool {
        let status = old.status.clone().unwrap_or_default();
        if self.has_service(old).is_some() {
            return false;
        }
        if status.addresses.is_empty() {
            let mut conditions = status.conditions.iter();
            return conditions.any(|ready| {
                ready.reason == "Expired" && ready.observed_generation == old.metadata.generation
            });
        }
        let second = |time: Option<Time>| time.map(|time| time.0.as_second() - at(0).0.as_second());
        // Where the leader has not seen yet that it is unused, it begins now.
        let Some(unused) = second(status.unused_since) else {
            return false;
        };
        let since = second(status.held_since).map_or(unused, |held| held.max(unused));
        let own = old.spec.retention.as_ref().map(|_| 20);
        let pools = status
            .pools
            .iter()
            .filter_map(|pool| self.world.pools.get(pool.as_str())?.most);
        let limit = own.into_iter().chain(pools).min();
        limit.is_some_and(|limit| since + limit <= self.world.now)
    }

    /// A claim that had nothing keeps what its Service has of a pool that may give it.
    fn follows_the_service(&self, new: &AddressClaim, had: &[String], kept: &BTreeSet<IpAddr>, story: &str) {
        let Some(has) = self.has_service(new) else {
            return;
        };
        let is_plain = new.spec.address.is_none() && new.spec.family == ClaimFamily::V4 && had.is_empty();
        let own = has.iter().find(|address| IpFamily::of(**address) == IpFamily::V4);
        let (Some(own), true) = (own, is_plain) else {
            return;
        };
        let mut pools = self.world.pools.iter();
        let of = pools.find(|(_, pool)| pool.items.contains(own) && pool.gives && pool.serves);
        if of.is_some_and(|(name, _)| new.spec.pool.as_deref().is_none_or(|named| named == *name)) {
            assert!(kept.contains(own), "{story}: the Service has {own}");
        }
    }

    /// Nothing is refused without a reason.
    fn has_reason(&self, new: &AddressClaim, reason: &str, story: &str) {
        let pools = &self.world.pools;
        let named = new.spec.pool.as_deref();
        let eligible = || {
            pools
                .iter()
                .filter(|(name, _)| named.is_none_or(|named| named == **name))
        };
        let owned = self.world.owned();
        let wanted = |pool: &Plain| {
            let mut families = new.spec.family.families().iter();
            let first = pool.items.iter().next().copied().map(IpFamily::of);
            families.any(|family| Some(*family) == first)
        };
        let is_reason = match reason {
            "PoolMissing" => named.is_some_and(|named| !pools.contains_key(named)),
            "PoolNotReady" => eligible().any(|(_, pool)| pool.serves && !pool.gives && wanted(pool)),
            // Of a family there is none that serves; or what is wished for is of one that does not.
            "NoPool" => {
                let lacks = |family: &IpFamily| {
                    let has = |pool: &Plain| pool.items.iter().any(|item| IpFamily::of(*item) == *family);
                    !eligible().any(|(_, pool)| pool.serves && pool.gives && has(pool))
                };
                let wish: Option<IpAddr> = new.spec.address.as_ref().map(|text| text.parse().unwrap());
                let not_for_it = |pool: &Plain| !(pool.serves && pool.gives);
                let mut of_wish = pools
                    .values()
                    .filter(|pool| wish.is_some_and(|wish| pool.items.contains(&wish)));
                new.spec.family.families().iter().any(lacks) || of_wish.any(not_for_it)
            }
            "QuotaUsedUp" => eligible().any(|(_, pool)| {
                let count = pool.items.intersection(&owned).count();
                pool.serves && pool.quota.is_some_and(|quota| count >= quota)
            }),
            // With a family's pools all full.
            "NoneLeft" => eligible()
                .any(|(_, pool)| pool.serves && pool.gives && wanted(pool) && pool.items.is_subset(&owned)),
            "AddressTaken" | "AddressNotInPool" => new.spec.address.is_some(),
            _ => false,
        };
        assert!(is_reason, "{story}\n{pools:?}\nowned {owned:?}");
    }
}

fn edit(claim: &mut AddressClaim, b: u8, c: u8) {
    let spec = &mut claim.spec;
    spec.retention = (c.is_multiple_of(2)).then(|| "20s".to_owned());
    spec.family = if b % 3 == 1 {
        ClaimFamily::Both
    } else {
        ClaimFamily::V4
    };
    spec.pool = (b % 4 == 3).then(|| FOUR[usize::from(c % 2)].to_owned());
    spec.address = (b % 5 == 4).then(|| v4(1 + c % 11).to_string());
}

#[test]
fn whatever_happens_each_claim_keeps_what_the_rules_say() {
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(HISTORIES)
    };
    let steps = proptest::collection::vec(any::<Step>(), 1..60);
    let told = std::cell::RefCell::new(&mut reasons);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&steps, |steps| {
        let mut history = History::new();
        for (index, step) in steps.into_iter().enumerate() {
            history.step(step);
            history.is_safe();
            history.loses_by_the_rules();
            if index % 5 == 4 {
                history.settle();
            }
        }
        history.settle();
        for (reason, count) in history.reasons {
            *told.borrow_mut().entry(reason).or_default() += count;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let all = [
        "Kept",
        "Expired",
        "ClaimedTwice",
        "NoneLeft",
        "NoPool",
        "PoolMissing",
        "PoolNotReady",
        "QuotaUsedUp",
        "AddressTaken",
        "AddressNotInPool",
    ];
    for reason in all {
        assert!(
            reasons.get(reason).is_some_and(|count| *count > 5),
            "{reason}: {reasons:?}"
        );
    }
}
