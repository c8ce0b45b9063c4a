// SPDX-License-Identifier: Apache-2.0
//! A retention that runs out just as the Service comes, and claims of two pools.

use std::collections::BTreeSet;

use super::claims::{World, pool_of_two};
use super::*;
use crate::values::CidrState;

const KEPT: &str = "[10.0.0.4] p True Kept, False ServiceHasNot, Some(60)";
const EXPIRED: &str = "[]  False Expired, False ServiceHasNot, None";
const BOUND: &str = "[10.0.0.4] p True Kept, True ServiceHasThem, None";

/// A claim for `web` that keeps 10.0.0.4 for a minute.
fn kept_for_a_minute() -> World {
    let mut world = World::new(&[pool_of_two(&json!({}))]);
    let claim = json!({"serviceName": "web", "retention": "1m"});
    world.claim(&mk_claim("c", 0, &claim));
    assert_eq!(world.settle("c", 0), KEPT);
    world
}

#[test]
fn a_service_that_was_answered_before_the_retention_ran_out_has_the_address_and_the_claim_has_it_back() {
    let mut world = kept_for_a_minute();
    assert_eq!(world.create("a/web"), "{10.0.0.4}");
    // It is on its way through the API server, and no watch has shown it.
    assert_eq!(world.settle("c", 60), EXPIRED);
    assert_eq!(world.create("a/other"), "{10.0.0.5}");
    assert_eq!(world.create("a/late"), "PoolExhausted", "it is held");
    world.service("a/web", &["10.0.0.4"]);
    assert_eq!(world.settle("c", 61), BOUND);
}

#[test]
fn a_service_that_is_stored_and_not_yet_seen_when_the_retention_runs_out_loses_nothing() {
    let mut world = kept_for_a_minute();
    assert_eq!(world.create("a/web"), "{10.0.0.4}");
    assert_eq!(world.settle("c", 59), KEPT);
    world.service("a/web", &["10.0.0.4"]);
    assert_eq!(world.settle("c", 60), BOUND, "it is there in time");
    world.gone("a/web");
    assert_eq!(
        world.settle("c", 60),
        "[10.0.0.4] p True Kept, False ServiceHasNot, Some(120)"
    );
}

#[test]
fn a_service_that_comes_right_after_the_retention_ran_out_is_as_any_other_and_the_claim_follows_it() {
    let mut world = kept_for_a_minute();
    assert_eq!(world.settle("c", 60), EXPIRED);
    assert_eq!(
        world.create("a/other"),
        "{10.0.0.5}",
        "what was just given back comes last"
    );
    world.service("a/other", &["10.0.0.5"]);
    assert_eq!(world.create("a/web"), "{10.0.0.4}");
    world.service("a/web", &["10.0.0.4"]);
    assert_eq!(world.settle("c", 60), BOUND);
}

#[test]
fn a_claim_of_two_pools_names_both_and_both_trust_its_namespace_and_limit_it() {
    let mut world = World::new(&[
        pool_of_two(&json!({"maxRetention": "2h"})),
        mk_pool(
            "six",
            1,
            &json!({"addresses": ["fd00::4-fd00::5"], "strategy": "LowestFirst", "maxRetention": "1h"}),
        ),
    ]);
    world
        .values
        .apply_service_cidr("six", &["fd00::/120".to_owned()], CidrState::Gives);
    world.claim(&mk_claim(
        "c",
        0,
        &json!({"serviceName": "web", "family": "Both"}),
    ));
    assert_eq!(
        world.settle("c", 0),
        "[10.0.0.4 fd00::4] p six True Kept, False ServiceHasNot, Some(3600)"
    );
    let trusted = |world: &World| world.values.observed().claims.into_keys().collect::<Vec<_>>();
    assert_eq!(trusted(&world), ["p", "six"]);
    // What was p's is q's now: the claim keeps it, and has to be trusted there.
    world.values.remove_address_pool("p");
    let other = mk_pool(
        "q",
        2,
        &json!({"addresses": ["10.0.0.1-10.0.0.7"], "selector": {"namespaces": ["b"]}}),
    );
    world.values.apply_address_pool(&other);
    assert!(
        world
            .settle("c", 1)
            .starts_with("[10.0.0.4 fd00::4] p six True Kept")
    );
    assert_eq!(trusted(&world), ["p", "q", "six"]);
    let namespaces = world.values.observed().claims["q"].clone();
    assert_eq!(namespaces, BTreeSet::from(["a".to_owned()]));
}

#[test]
fn a_claim_of_two_pools_that_names_one_of_them_later_asks_for_the_other_family_only() {
    let both = json!({"addresses": ["10.0.0.8", "fd00::8"]});
    let mut world = World::new(&[pool_of_two(&json!({})), mk_pool("both", 1, &both)]);
    world
        .values
        .apply_service_cidr("six", &["fd00::/120".to_owned()], CidrState::Gives);
    let claim = mk_claim("c", 0, &json!({"serviceName": "web", "family": "Both"}));
    world.claim(&claim);
    assert_eq!(
        world.settle("c", 0),
        "[10.0.0.4 fd00::8] p both True Kept, False ServiceHasNot, None"
    );
    let mut edited = world
        .values
        .claim(&("a".to_owned(), "c".to_owned()))
        .unwrap()
        .clone();
    edited.spec.pool = Some("both".to_owned());
    edited.metadata.generation = Some(2);
    world.claim(&edited);
    assert_eq!(
        world.settle("c", 1),
        "[10.0.0.8 fd00::8] both both True Kept, False ServiceHasNot, None"
    );
}
