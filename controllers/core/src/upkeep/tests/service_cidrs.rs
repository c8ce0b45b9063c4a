// SPDX-License-Identifier: Apache-2.0
//! ServiceCIDRs come with the pools that want them, and go when nobody needs them.

use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::*;
use crate::upkeep::service_cidrs::plan;

fn mk_cidr(name: &str, cidr: &str) -> ServiceCIDR {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}})).unwrap()
}

fn wanting(addresses: &[&str]) -> AddressPool {
    mk_pool(
        "team.a",
        0,
        &json!({"addresses": addresses, "createServiceCIDR": true}),
    )
}

fn names(cidrs: &[ServiceCIDR]) -> Vec<&str> {
    cidrs
        .iter()
        .filter_map(|cidr| cidr.metadata.name.as_deref())
        .collect()
}

#[test]
fn one_is_made_for_each_entry_outside_the_others_and_once() {
    let mut values = cluster();
    values.apply_address_pool(&wanting(&["10.0.0.8/29", "10.9.0.0/24", "fd00:9::/64"]));
    let kubernetes = mk_cidr("kubernetes", "10.0.0.0/28");
    let first = plan(&values, std::slice::from_ref(&kubernetes));
    assert_eq!(
        names(&first.create),
        ["berth-team-a-10-9-0-0-24", "berth-team-a-fd00-9---64"]
    );
    assert_eq!(
        first.create[0].spec.as_ref().unwrap().cidrs,
        Some(vec!["10.9.0.0/24".to_owned()])
    );
    assert!(first.delete.is_empty(), "not ours");
    let there: Vec<ServiceCIDR> = [kubernetes].into_iter().chain(first.create).collect();
    let second = plan(&values, &there);
    assert!(second.create.is_empty() && second.delete.is_empty(), "{second:?}");
}

#[test]
fn one_that_no_pool_wants_goes_when_nobody_has_an_address_of_it() {
    let mut values = cluster();
    values.apply_address_pool(&wanting(&["10.9.0.0/24"]));
    let there = plan(&values, &[]).create;
    values.apply_service(
        Shown::of(&mk_service(&key("a/web"), &["10.9.0.7"], &[])),
        Duration::ZERO,
    );
    values.remove_address_pool("team.a");
    assert!(plan(&values, &there).delete.is_empty(), "in use");
    let mut with_wider = there.clone();
    with_wider.push(mk_cidr("wider", "10.9.0.0/16"));
    assert_eq!(
        names(&plan(&values, &with_wider).delete),
        names(&there),
        "held by another"
    );
    values.remove_service(&key("a/web"), Duration::ZERO);
    assert_eq!(names(&plan(&values, &there).delete), names(&there));
}

#[test]
fn a_pool_that_gives_nothing_gets_nothing_made_and_loses_nothing() {
    let mut values = cluster();
    values.apply_address_pool(&wanting(&["10.9.0.0/24"]));
    let there = plan(&values, &[]).create;
    values.apply_address_pool(&wanting(&["10.9.0.0/24", "10.8.0.1-10.8.0.9", "10.7.0.0/24"]));
    let faulty = plan(&values, &there);
    assert!(faulty.create.is_empty() && faulty.delete.is_empty(), "{faulty:?}");
}
