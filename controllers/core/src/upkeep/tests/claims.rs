// SPDX-License-Identifier: Apache-2.0
//! The life of claims.

use super::*;
use crate::upkeep::claims::{Step, answered, plan};
use crate::values::{ClaimId, Wish};

/// A book, whoever hands out of it, and an API server that shows every write at once.
pub(super) struct World {
    pub(super) values: Values,
    asked: u64,
}

impl World {
    pub(super) fn new(pools: &[AddressPool]) -> Self {
        let mut values = cluster();
        for pool in pools {
            values.apply_address_pool(pool);
        }
        Self { values, asked: 0 }
    }

    pub(super) fn claim(&mut self, claim: &AddressClaim) {
        self.values.apply_claim(claim, Duration::ZERO);
    }

    pub(super) fn service(&mut self, name: &str, addresses: &[&str]) {
        let service = mk_service(&key(name), addresses, &[]);
        self.values.apply_service(Shown::of(&service), Duration::ZERO);
    }

    pub(super) fn gone(&mut self, name: &str) {
        self.values.remove_service(&key(name), Duration::ZERO);
    }

    fn ask(&mut self, wish: &Wish) -> Result<crate::values::Grant, crate::values::Refused> {
        self.asked += 1;
        self.values.grant(&ask(self.asked), wish, Duration::ZERO)
    }

    /// A create of a Service that has no wish: what it is given.
    pub(super) fn create(&mut self, name: &str) -> String {
        let mut wish = Wish::of_claim(
            &key(name),
            &crate::service::Labels::new(),
            &[(berth_model::IpFamily::V4, None)].into(),
            None,
        );
        (wish.claim, wish.is_update) = (None, false);
        match self.ask(&wish) {
            Ok(grant) => format!("{:?}", grant.cluster_ips),
            Err(refused) => refused.as_str().to_owned(),
        }
    }

    /// Turns until nothing is to be done; what the status says then.
    pub(super) fn settle(&mut self, name: &str, second: i64) -> String {
        let id: ClaimId = ("a".to_owned(), name.to_owned());
        for _ in 0..5 {
            let write = match plan(&mut self.values, &id, &at(second)) {
                Step::Nothing => return self.told(&id),
                Step::Write(write) => *write,
                Step::Ask(question) => {
                    let answer = self.ask(&question.wish);
                    answered(&self.values, &question, answer.as_ref(), &at(second)).unwrap()
                }
            };
            let mut claim = write.claim;
            claim.status = Some(write.status);
            self.claim(&claim);
        }
        panic!("it does not settle: {}", self.told(&id));
    }

    fn told(&self, id: &ClaimId) -> String {
        let status = self.values.claim(id).unwrap().status.clone().unwrap();
        let reason = |type_| {
            let said = condition(&status.conditions, type_);
            said.split(':').next().unwrap().to_owned()
        };
        let expires = status
            .expires
            .map(|time| time.0.as_second() - at(0).0.as_second());
        format!(
            "[{}] {} {}, {}, {expires:?}",
            status.addresses.join(" "),
            status.pools.join(" "),
            reason("Ready"),
            reason("Bound")
        )
    }
}

pub(super) fn pool_of_two(more: &Json) -> AddressPool {
    let mut spec = json!({"addresses": ["10.0.0.4-10.0.0.5"], "strategy": "LowestFirst"});
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    mk_pool("p", 0, &spec)
}

#[test]
fn an_address_is_kept_before_the_service_while_it_is_there_and_until_it_expires() {
    let mut world = World::new(&[pool_of_two(&json!({"maxRetention": "1h"}))]);
    world.claim(&mk_claim(
        "c",
        0,
        &json!({"serviceName": "web", "retention": "2h"}),
    ));
    assert_eq!(
        world.settle("c", 0),
        "[10.0.0.4] p True Kept, False ServiceHasNot, Some(3600)"
    );
    assert_eq!(world.create("a/other"), "{10.0.0.5}");
    assert_eq!(world.create("a/late"), "PoolExhausted");
    assert_eq!(world.create("a/web"), "{10.0.0.4}", "what is kept for it");
    world.service("a/web", &["10.0.0.4"]);
    assert_eq!(
        world.settle("c", 9_000),
        "[10.0.0.4] p True Kept, True ServiceHasThem, None"
    );
    world.gone("a/web");
    assert_eq!(
        world.settle("c", 10_000),
        "[10.0.0.4] p True Kept, False ServiceHasNot, Some(13600)"
    );
    assert_eq!(world.create("a/late"), "PoolExhausted", "it is still kept");
    assert_eq!(
        world.settle("c", 13_599),
        "[10.0.0.4] p True Kept, False ServiceHasNot, Some(13600)"
    );
    assert_eq!(
        world.settle("c", 13_600),
        "[]  False Expired, False ServiceHasNot, None"
    );
    assert_eq!(
        world.settle("c", 20_000),
        "[]  False Expired, False ServiceHasNot, None",
        "not asked for again"
    );
    assert_eq!(world.create("a/late"), "{10.0.0.4}");
}

#[test]
fn a_claim_for_a_service_that_is_there_keeps_the_very_address_that_it_has() {
    let mut world = World::new(&[pool_of_two(&json!({"quota": {"perNamespace": 1}}))]);
    world.service("a/web", &["10.0.0.5"]);
    world.claim(&mk_claim("c", 0, &json!({"serviceName": "web"})));
    assert_eq!(
        world.settle("c", 0),
        "[10.0.0.5] p True Kept, True ServiceHasThem, None"
    );
    world.gone("a/web");
    assert_eq!(world.create("a/late"), "QuotaReached", "what is kept counts");
    assert_eq!(world.create("b/late"), "{10.0.0.4}");
}

#[test]
fn of_two_claims_for_one_service_the_older_is_served_and_then_the_other() {
    let mut world = World::new(&[pool_of_two(&json!({}))]);
    world.claim(&mk_claim("young", 9, &json!({"serviceName": "web"})));
    assert_eq!(
        world.settle("young", 0),
        "[10.0.0.4] p True Kept, False ServiceHasNot, None"
    );
    world.claim(&mk_claim("old", 1, &json!({"serviceName": "web"})));
    assert_eq!(
        world.settle("young", 1),
        "[]  False ClaimedTwice, False ServiceHasNot, None"
    );
    assert!(world.settle("old", 1).starts_with("[10.0.0."));
    world.values.remove_claim("a", "old", Duration::ZERO);
    assert!(world.settle("young", 2).starts_with("[10.0.0."));
}

#[test]
fn the_last_address_is_of_whoever_asks_first_and_the_other_has_it_when_it_is_free() {
    let mut world = World::new(&[mk_pool("p", 0, &json!({"addresses": ["10.0.0.4"]}))]);
    assert_eq!(world.create("a/first"), "{10.0.0.4}");
    world.service("a/first", &["10.0.0.4"]);
    world.claim(&mk_claim("c", 0, &json!({"serviceName": "web"})));
    assert_eq!(
        world.settle("c", 0),
        "[]  False NoneLeft, False ServiceHasNot, None"
    );
    world.gone("a/first");
    assert_eq!(
        world.settle("c", 1),
        "[10.0.0.4] p True Kept, False ServiceHasNot, None"
    );
    assert_eq!(world.create("a/second"), "PoolExhausted");
}

#[test]
fn a_service_that_is_created_while_its_claim_waits_for_the_watch_gets_the_same_address() {
    let mut world = World::new(&[pool_of_two(&json!({}))]);
    world.claim(&mk_claim("c", 0, &json!({"serviceName": "web"})));
    let id: ClaimId = ("a".to_owned(), "c".to_owned());
    let Step::Ask(question) = plan(&mut world.values, &id, &at(0)) else {
        panic!("it does not ask");
    };
    let grant = world.ask(&question.wish).unwrap();
    assert_eq!(world.create("a/web"), format!("{:?}", grant.cluster_ips));
}

#[test]
fn what_a_claim_cannot_have_is_said_and_what_it_has_stays() {
    let elsewhere = mk_pool(
        "q",
        1,
        &json!({"addresses": ["10.0.0.9"], "selector": {"namespaces": ["b"]}}),
    );
    let mut world = World::new(&[pool_of_two(&json!({})), elsewhere]);
    world.service("b/db", &["10.0.0.5"]);
    for (spec, expected) in [
        (json!({"address": "10.0.0.5"}), "AddressTaken"),
        (json!({"address": "10.0.0.12"}), "AddressNotInPool"),
        (json!({"address": "10.0.0.9"}), "NoPool"),
        (json!({"pool": "q"}), "NoPool"),
        (json!({"pool": "nosuch"}), "PoolMissing"),
        (json!({"pool": "q", "address": "10.0.0.4"}), "AddressNotInPool"),
        (json!({"family": "IPv6"}), "NoPool"),
        (json!({"retention": "a while"}), "Malformed"),
    ] {
        let mut spec = spec;
        spec["serviceName"] = json!("web");
        world.claim(&mk_claim("c", 0, &spec));
        let told = world.settle("c", 0);
        assert_eq!(
            told,
            format!("[]  False {expected}, False ServiceHasNot, None"),
            "{spec}"
        );
        world.values.remove_claim("a", "c", Duration::ZERO);
    }
    world.claim(&mk_claim("c", 0, &json!({"serviceName": "web"})));
    assert_eq!(
        world.settle("c", 0),
        "[10.0.0.4] p True Kept, False ServiceHasNot, None"
    );
    let id: ClaimId = ("a".to_owned(), "c".to_owned());
    let mut edited = world.values.claim(&id).unwrap().clone();
    edited.spec.address = Some("10.0.0.5".to_owned());
    world.claim(&edited);
    assert_eq!(
        world.settle("c", 1),
        "[10.0.0.4] p False AddressTaken, False ServiceHasNot, None"
    );
    world.gone("b/db");
    assert_eq!(
        world.settle("c", 2),
        "[10.0.0.5] p True Kept, False ServiceHasNot, None"
    );
}

#[test]
fn a_claim_for_a_load_balancer_is_told_that_it_is_not_served() {
    let mut world = World::new(&[]);
    let mut claim = mk_claim("c", 0, &json!({"serviceName": "web"}));
    claim.spec.r#use = berth_crds::PoolUse::LoadBalancer;
    world.claim(&claim);
    assert_eq!(
        world.settle("c", 0),
        "[]  False UseNotServed, False ServiceHasNot, None"
    );
}

#[test]
fn a_claim_whose_address_others_manage_says_so_and_its_service_gets_another() {
    let mut world = World::new(&[pool_of_two(&json!({}))]);
    world.claim(&mk_claim("c", 0, &json!({"serviceName": "web"})));
    let kept = "[10.0.0.4] p True Kept, False ServiceHasNot, None";
    assert_eq!(world.settle("c", 0), kept);
    let address = "10.0.0.4".parse().unwrap();
    world
        .values
        .apply_foreign_address(address, Some("ipam.example"), Duration::ZERO);
    assert_eq!(
        world.settle("c", 1),
        "[10.0.0.4] p False AddressTaken, False ServiceHasNot, None"
    );
    world.claim(&mk_claim(
        "d",
        1,
        &json!({"serviceName": "db", "address": "10.0.0.4"}),
    ));
    assert_eq!(
        world.settle("d", 1),
        "[]  False AddressTaken, False ServiceHasNot, None"
    );
    assert_eq!(world.create("a/web"), "{10.0.0.5}");
    world.values.remove_foreign_address(address, Duration::ZERO);
    assert_eq!(world.settle("c", 2), kept);
}
