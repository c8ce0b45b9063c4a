// SPDX-License-Identifier: Apache-2.0
//! Statuses of pools.

use super::*;
use crate::upkeep::pools::{Encroached, StatusWrite, plan};

fn encroached(values: &Values) -> Encroached {
    let mut encroached = Encroached::default();
    let mut after = None;
    loop {
        let (findings, last) = values.findings_after(after.as_ref(), 1);
        encroached.count(&findings);
        match last {
            Some(last) => after = Some(last),
            None => return encroached,
        }
    }
}

#[test]
fn each_address_of_a_pool_is_in_one_count_and_an_equal_status_is_not_written() {
    let mut values = cluster();
    let spec = json!({"addresses": ["10.0.0.4-10.0.0.9", "10.0.1.0-10.0.1.1"], "selector": {"namespaces": ["a"]},
        "reservations": [{"address": "10.0.0.4", "namespace": "a", "name": "db"}]});
    let mut pool = mk_pool("p", 0, &spec);
    values.apply_address_pool(&pool);
    let mut claim = mk_claim("c", 0, &json!({"serviceName": "sticky"}));
    claim.status = Some(berth_crds::AddressClaimStatus {
        addresses: vec!["10.0.0.5".to_owned()],
        ..Default::default()
    });
    values.apply_claim(&claim, Duration::ZERO);
    for (name, address) in [("a/web", "10.0.0.6"), ("b/stranger", "10.0.0.7")] {
        values.apply_service(
            Shown::of(&mk_service(&key(name), &[address], &[])),
            Duration::ZERO,
        );
    }
    let writes = plan(&values, &encroached(&values), &at(0));
    let [StatusWrite::Addresses { status, .. }] = writes.as_slice() else {
        panic!("{writes:?}");
    };
    assert_eq!(
        serde_json::to_value(&status.ipv4).unwrap(),
        json!({"capacity": "8", "allocated": 1, "reserved": 2, "encroached": 1, "free": "2"})
    );
    assert_eq!(status.ipv6, None);
    assert_eq!(
        serde_json::to_value(&status.namespaces).unwrap(),
        json!([{"namespace": "a", "ipv4": 2}, {"namespace": "b", "ipv4": 1}])
    );
    let says = |type_| condition(&status.conditions, type_);
    assert_eq!(says("Ready"), "True InUse");
    assert_eq!(says("Overlapping"), "False NoOverlap");
    assert_eq!(says("Exhausted"), "False AddressesLeft");
    assert_eq!(says("Draining"), "False NotDraining");
    assert!(
        says("OutOfRange").starts_with("True NoServiceCIDR: 2 of 8 IPv4 addresses are in no ServiceCIDR")
    );
    pool.status = Some(status.clone());
    values.apply_address_pool(&pool);
    assert!(plan(&values, &encroached(&values), &at(1)).is_empty());
}

#[test]
fn a_pool_of_ports_says_what_it_has_and_what_the_server_does_not_take() {
    let mut values = cluster();
    values.apply_port_pool(&mk_ports(
        "n",
        &json!({"ports": ["30008-30011"], "draining": true}),
    ));
    let service = mk_service(&key("a/web"), &["10.0.0.6"], &[30_008, 30_009]);
    values.apply_service(Shown::of(&service), Duration::ZERO);
    let writes = plan(&values, &encroached(&values), &at(0));
    let [StatusWrite::Ports { status, .. }] = writes.as_slice() else {
        panic!("{writes:?}");
    };
    assert_eq!(
        serde_json::to_value(&status.ports).unwrap(),
        json!({"capacity": 4, "allocated": 2, "free": 0})
    );
    let says = |type_| condition(&status.conditions, type_);
    assert!(says("Ready").starts_with("False Draining: gives no new ports"));
    assert_eq!(says("Draining"), "True Draining: 2 ports have a holder");
    assert!(says("OutOfRange").starts_with("True OutsideNodePortRange: 2 of 4 ports"));
    assert_eq!(
        says("Exhausted"),
        "True NoneLeft: every port has a holder or is out of range"
    );
}

#[test]
fn the_fifty_namespaces_with_the_most_are_named_and_the_others_counted() {
    let mut values = cluster();
    values.apply_service_cidr("wide", &["10.1.0.0/16".to_owned()], CidrState::Gives);
    values.apply_address_pool(&mk_pool("p", 0, &json!({"addresses": ["10.1.0.0/16"]})));
    for number in 1..=60 {
        let service = mk_service(
            &key(&format!("n{number}/web")),
            &[&format!("10.1.1.{number}")],
            &[],
        );
        values.apply_service(Shown::of(&service), Duration::ZERO);
    }
    let more = mk_service(&key("n60/more"), &["10.1.2.1"], &[]);
    values.apply_service(Shown::of(&more), Duration::ZERO);
    let writes = plan(&values, &encroached(&values), &at(0));
    let [StatusWrite::Addresses { status, .. }] = writes.as_slice() else {
        panic!("{writes:?}");
    };
    assert_eq!((status.namespaces.len(), status.other_namespaces), (50, 10));
    assert_eq!(
        (status.namespaces[0].namespace.as_str(), status.namespaces[0].ipv4),
        ("n60", 2)
    );
}

#[test]
fn what_others_manage_of_a_pool_is_counted_as_encroached_and_is_no_namespaces() {
    let mut values = cluster();
    values.apply_address_pool(&mk_pool("p", 0, &json!({"addresses": ["10.0.0.4-10.0.0.9"]})));
    let mut claim = mk_claim("c", 0, &json!({"serviceName": "sticky"}));
    claim.status = Some(berth_crds::AddressClaimStatus {
        addresses: vec!["10.0.0.5".to_owned()],
        ..Default::default()
    });
    values.apply_claim(&claim, Duration::ZERO);
    for address in ["10.0.0.5", "10.0.0.8", "10.0.0.12"] {
        values.apply_foreign_address(address.parse().unwrap(), None, Duration::ZERO);
    }
    let writes = plan(&values, &encroached(&values), &at(0));
    let [StatusWrite::Addresses { status, .. }] = writes.as_slice() else {
        panic!("{writes:?}");
    };
    assert_eq!(
        serde_json::to_value(&status.ipv4).unwrap(),
        json!({"capacity": "6", "allocated": 0, "encroached": 2, "free": "4"})
    );
    assert_eq!(status.namespaces, []);
}
