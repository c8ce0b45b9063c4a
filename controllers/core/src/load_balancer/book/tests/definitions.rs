// SPDX-License-Identifier: Apache-2.0
//! What a pool's spec says of who gets which of its addresses.

use berth_crds::{AddressReservation, PoolQuota, QuotaOverride, Strategy};

use super::*;

fn given(book: &mut LoadBalancers, names: &[&str]) -> Vec<String> {
    let mut given = Vec::new();
    for name in names {
        let mut service = mk_service(name, V4);
        settle(book, &mut service);
        given.push(listed(&service).join(","));
    }
    given
}

#[test]
fn excluded_addresses_and_where_wanted_network_and_broadcast_are_never_given() {
    let mut pool = mk_pool("lan", 1, &["10.0.0.0/29"]);
    pool.spec.exclude = vec!["10.0.0.1".to_owned(), "10.0.0.3-10.0.0.5".to_owned()];
    assert_eq!(
        given(&mut book(&[pool.clone()]), &["a", "b", "c", "d", "e"]),
        ["10.0.0.0", "10.0.0.2", "10.0.0.6", "10.0.0.7", ""]
    );
    pool.spec.avoid_network_and_broadcast = Some(true);
    assert_eq!(
        given(&mut book(&[pool]), &["a", "b", "c"]),
        ["10.0.0.2", "10.0.0.6", ""]
    );
}

#[test]
fn a_reserved_address_waits_for_its_service_and_goes_to_nobody_else() {
    let mut second = mk_pool("second", 2, &["10.0.1.0/31"]);
    second.spec.reservations = vec![AddressReservation {
        address: "10.0.1.0".to_owned(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
    }];
    let pools = [mk_pool("first", 1, &["10.0.0.0/32"]), second];
    assert_eq!(
        given(&mut book(&pools), &["a", "b", "c", "web"]),
        ["10.0.0.0", "10.0.1.1", "", "10.0.1.0"]
    );
    assert_eq!(
        given(&mut book(&pools), &["web", "a"]),
        ["10.0.1.0", "10.0.0.0"],
        "before any other address"
    );
}

#[test]
fn a_namespace_gets_as_many_as_it_may_and_another_has_its_own_limit() {
    let mut pool = mk_pool("lan", 1, &["10.0.0.0/28"]);
    pool.spec.quota = Some(PoolQuota {
        per_namespace: Some(2),
        overrides: vec![QuotaOverride {
            namespace: "big".to_owned(),
            limit: 3,
        }],
    });
    let mut book = book(&[pool]);
    assert_eq!(given(&mut book, &["a", "b", "c"]), ["10.0.0.0", "10.0.0.1", ""]);
    let mut of_big = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let mut service = mk_service(name, V4);
        service.metadata.namespace = Some("big".to_owned());
        settle(&mut book, &mut service);
        of_big.extend(listed(&service));
    }
    assert_eq!(of_big, ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
}

#[test]
fn a_strategy_says_which_address_is_next() {
    let mut pool = mk_pool("lan", 1, &["10.0.0.0/24"]);
    pool.spec.strategy = Some(Strategy::Random);
    let random = given(&mut book(&[pool.clone()]), &["a", "b", "c"]);
    assert_ne!(random, ["10.0.0.0", "10.0.0.1", "10.0.0.2"]);
    pool.spec.strategy = Some(Strategy::LowestFirst);
    let lowest = given(&mut book(&[pool]), &["a", "b", "c"]);
    assert_eq!(lowest, ["10.0.0.0", "10.0.0.1", "10.0.0.2"]);
}
