// SPDX-License-Identifier: Apache-2.0
//! Which pool serves a request, by behaviour, and beside a naive statement.

mod random;

use std::collections::BTreeSet;

use berth_crds::{AddressPool, NodePortPool};
use berth_model::{IpFamily, Port};
use serde_json::{Value, json};

use super::*;

const CLUSTER_IP: What = What::ClusterIp(IpFamily::V4);

fn labels(labels: &Value) -> Labels {
    serde_json::from_value(labels.clone()).unwrap()
}

/// A pool of cluster IPs, made at a second.
fn mk_addresses(name: &str, second: i64, spec: &Value) -> Pool {
    let mut spec = spec.clone();
    spec["use"] = json!("ClusterIP");
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool",
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")}, "spec": spec});
    Pool::of_addresses(&serde_json::from_value::<AddressPool>(pool).unwrap())
}

pub(super) fn mk_ports(name: &str, second: i64, spec: &Value) -> Pool {
    let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "NodePortPool",
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")}, "spec": spec});
    Pool::of_ports(&serde_json::from_value::<NodePortPool>(pool).unwrap())
}

fn address(text: &str) -> Item {
    Item::Address(text.parse().unwrap())
}

pub(super) fn port(number: u16) -> Item {
    Item::Port(Port::new(number).unwrap())
}

/// What is chosen for Service shop/web, of a namespace labelled `team: a`, with its own labels `tier: web`.
fn chosen(pools: &Pools, what: What, wish: Option<Item>, claims: &[Claimed]) -> String {
    asked(pools, what, wish, claims, Some("web")).choice.to_string()
}

fn asked(pools: &Pools, what: What, wish: Option<Item>, claims: &[Claimed], name: Option<&str>) -> Selection {
    let (team, tier) = (labels(&json!({"team": "a"})), labels(&json!({"tier": "web"})));
    let request = Request {
        namespace: "shop",
        namespace_labels: &team,
        name,
        labels: &tier,
    };
    let ask = Ask {
        what,
        wish,
        port_name: None,
        taken: &BTreeSet::new(),
    };
    pools.select(&request, &ask, claims)
}

/// Whether a pool with this selector serves the Service.
fn served(table: Vec<(Value, bool)>) {
    for (selector, serves) in table {
        let pools = Pools::new([mk_addresses(
            "a",
            0,
            &json!({"addresses": ["10.9.0.0/24"], "selector": selector}),
        )]);
        let expected = if serves {
            "any of AddressPool a"
        } else {
            "any outside every pool"
        };
        assert_eq!(chosen(&pools, CLUSTER_IP, None, &[]), expected, "{selector}");
    }
}

#[test]
fn a_selector_is_for_namespaces_by_name_or_label_and_for_services_by_label() {
    served(vec![
        (json!(null), true),
        (json!({}), true),
        (json!({"namespaces": ["shop"]}), true),
        (json!({"namespaces": ["other"]}), false),
        (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), true),
        (
            json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}),
            false,
        ),
        (json!({"namespaceSelector": {}}), true),
        (
            json!({"namespaces": ["other"], "namespaceSelector": {"matchLabels": {"team": "a"}}}),
            true,
        ),
        (
            json!({"namespaces": ["shop"], "namespaceSelector": {"matchLabels": {"team": "b"}}}),
            true,
        ),
    ]);
}

#[test]
fn labels_are_matched_by_each_operator() {
    let expression = |operator: &str, values: Value| json!({"matchExpressions": [{"key": "team", "operator": operator, "values": values}]});
    served(vec![
        (
            json!({"namespaceSelector": expression("In", json!(["a", "b"]))}),
            true,
        ),
        (
            json!({"namespaceSelector": expression("In", json!(["b"]))}),
            false,
        ),
        (
            json!({"namespaceSelector": expression("NotIn", json!(["b"]))}),
            true,
        ),
        (
            json!({"namespaceSelector": expression("NotIn", json!(["a"]))}),
            false,
        ),
        (
            json!({"namespaceSelector": expression("Exists", json!(null))}),
            true,
        ),
        (
            json!({"namespaceSelector": expression("DoesNotExist", json!(null))}),
            false,
        ),
        (json!({"serviceSelector": {"matchLabels": {"tier": "web"}}}), true),
        (
            json!({"serviceSelector": {"matchLabels": {"tier": "web", "zone": "x"}}}),
            false,
        ),
        (
            json!({"namespaces": ["shop"], "serviceSelector": {"matchLabels": {"tier": "db"}}}),
            false,
        ),
    ]);
}

#[test]
fn pools_are_asked_by_priority_then_age_then_name_and_each_is_told_of() {
    let spec = |third: u8, fields: Value| {
        let mut spec = json!({"addresses": [format!("10.9.{third}.0/24")]});
        spec.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        spec
    };
    let pools = Pools::new([
        mk_addresses("young", 9, &spec(1, json!({}))),
        mk_addresses("old", 1, &spec(2, json!({}))),
        mk_addresses("b-same-age", 5, &spec(3, json!({}))),
        mk_addresses("a-same-age", 5, &spec(4, json!({}))),
        mk_addresses("first", 9, &spec(5, json!({"priority": 1}))),
        mk_addresses("last", 0, &spec(6, json!({"priority": -1}))),
        mk_addresses("drained", 0, &spec(7, json!({"priority": 2, "draining": true}))),
        mk_addresses("faulty", 2, &spec(8, json!({"exclude": ["10.9.8.0/24"]}))),
        mk_addresses("overlapping", 8, &spec(2, json!({}))),
        mk_addresses("others", 0, &spec(9, json!({"selector": {"namespaces": ["x"]}}))),
        mk_addresses("ipv6", 0, &json!({"addresses": ["fd00::/112"]})),
        mk_ports("ports", 0, &json!({"ports": ["30000-30099"]})),
    ]);
    assert_eq!(
        asked(&pools, CLUSTER_IP, None, &[], Some("web")).to_string(),
        "any of AddressPool first, then AddressPool old, then AddressPool a-same-age, then AddressPool b-same-age, \
         then AddressPool young, then AddressPool last
  AddressPool drained is draining
  AddressPool first serves it
  AddressPool ipv6 has no address of the family
  AddressPool others does not select the namespace
  AddressPool old serves it
  AddressPool faulty has faults in its spec
  AddressPool a-same-age serves it
  AddressPool b-same-age serves it
  AddressPool overlapping overlaps AddressPool old
  AddressPool young serves it
  AddressPool last serves it"
    );
}

#[test]
fn what_only_pools_at_rest_are_for_is_refused_and_not_served_from_elsewhere() {
    let pools = Pools::new([mk_addresses(
        "a",
        0,
        &json!({"addresses": ["10.9.0.0/24"], "draining": true}),
    )]);
    assert_eq!(
        chosen(&pools, CLUSTER_IP, None, &[]),
        "refused: every pool for it gives nothing new (AddressPool a is draining): put one of them right, or add one"
    );
    assert_eq!(
        chosen(&pools, What::ClusterIp(IpFamily::V6), None, &[]),
        "any outside every pool"
    );
    assert_eq!(
        chosen(&pools, What::LoadBalancer(IpFamily::V4), None, &[]),
        "any outside every pool"
    );
    // What it was meant to have nobody can tell.
    let inverted = json!({"addresses": ["10.9.0.9-10.9.0.1"]});
    let pools = Pools::new([mk_addresses("a", 0, &inverted)]);
    for family in IpFamily::ALL {
        assert_eq!(
            chosen(&pools, What::ClusterIp(family), None, &[]),
            "refused: every pool for it gives nothing new (AddressPool a has faults in its spec): put one of them right, or add one"
        );
    }
}

#[test]
fn a_wish_is_met_from_a_pool_that_serves_it_or_outside_every_pool_where_none_does() {
    let mine = json!({"addresses": ["10.9.0.0/24"], "exclude": ["10.9.0.9"], "selector": {"namespaces": ["shop"]},
        "reservations": [{"address": "10.9.0.5", "namespace": "shop", "name": "other"},
            {"address": "10.9.0.6", "namespace": "shop", "name": "web"}]});
    let theirs = json!({"addresses": ["10.9.1.0/24"], "selector": {"namespaces": ["x"]},
        "reservations": [{"address": "10.9.1.6", "namespace": "shop", "name": "web"}]});
    let pools = Pools::new([mk_addresses("mine", 0, &mine), mk_addresses("theirs", 0, &theirs)]);
    let way_out = "leave it out to be given one, or ask for another";
    for (wish, expected) in [
        ("10.9.0.7", "10.9.0.7 of AddressPool mine, by wish".to_owned()),
        ("10.9.0.6", "10.9.0.6 of AddressPool mine, by wish".to_owned()),
        ("10.9.1.6", "10.9.1.6 of AddressPool theirs, by wish".to_owned()),
        (
            "10.9.0.5",
            format!("refused: 10.9.0.5 of AddressPool mine is reserved for Service shop/other: {way_out}"),
        ),
        (
            "10.9.0.9",
            format!("refused: 10.9.0.9 is excluded from AddressPool mine: {way_out}"),
        ),
        (
            "10.9.1.7",
            format!(
                "refused: 10.9.1.7 is of a pool that does not give it (AddressPool theirs does not select the \
                     namespace): {way_out}"
            ),
        ),
        (
            "10.9.2.1",
            format!("refused: 10.9.2.1 is not in AddressPool mine, which is for it: {way_out}"),
        ),
    ] {
        assert_eq!(
            chosen(&pools, CLUSTER_IP, Some(address(wish)), &[]),
            expected,
            "{wish}"
        );
    }
    let pools = Pools::new([mk_addresses("theirs", 0, &theirs)]);
    assert_eq!(
        chosen(&pools, CLUSTER_IP, Some(address("10.9.2.1")), &[]),
        "10.9.2.1 of no pool, by wish"
    );
}

#[test]
fn a_value_that_two_pools_have_is_the_older_ones() {
    let spec = json!({"addresses": ["10.9.0.0/24"]});
    let rich = json!({"addresses": ["10.9.0.0/24"], "priority": 9});
    let pools = Pools::new([mk_addresses("young", 5, &rich), mk_addresses("old", 1, &spec)]);
    assert_eq!(
        chosen(&pools, CLUSTER_IP, Some(address("10.9.0.7")), &[]),
        "10.9.0.7 of AddressPool old, by wish"
    );
}

#[test]
fn what_is_reserved_or_claimed_for_a_service_comes_before_any_other() {
    let spec = json!({"addresses": ["10.9.0.0/24"],
        "reservations": [{"address": "10.9.0.6", "namespace": "shop", "name": "web"}]});
    let claim = |service: &str, text: &str| Claimed {
        namespace: "shop".to_owned(),
        claim: format!("claim-of-{service}"),
        service: service.to_owned(),
        what: CLUSTER_IP,
        item: address(text),
    };
    let (reserved, plain) = (
        Pools::new([mk_addresses("a", 0, &spec)]),
        Pools::new([mk_addresses(
            "a",
            0,
            &json!({"addresses": ["10.9.0.0/24"], "draining": true}),
        )]),
    );
    let claims = [claim("other", "10.9.0.7"), claim("web", "10.9.0.8")];
    assert_eq!(
        chosen(&reserved, CLUSTER_IP, None, &claims),
        "10.9.0.6 of AddressPool a, by reservation"
    );
    // A claim has its address already, whatever became of the pool.
    assert_eq!(
        chosen(&plain, CLUSTER_IP, None, &claims),
        "10.9.0.8, by AddressClaim claim-of-web"
    );
    assert_eq!(
        chosen(&plain, CLUSTER_IP, Some(address("10.9.0.8")), &claims),
        "10.9.0.8 of AddressPool a, by wish"
    );
    assert_eq!(
        chosen(&reserved, CLUSTER_IP, Some(address("10.9.0.7")), &claims),
        "refused: 10.9.0.7 of AddressPool a is claimed for another Service: leave it out to be given one, or ask for another"
    );
    // A Service without a name yet is nobody's.
    let unnamed = asked(&reserved, CLUSTER_IP, None, &claims, None);
    assert_eq!(unnamed.choice.to_string(), "any of AddressPool a");
}

#[test]
fn a_reserved_port_is_for_the_port_that_it_names_and_is_given_once() {
    let pools = Pools::new([mk_ports(
        "a",
        0,
        &json!({"ports": ["30000-30009"], "reservations": [
        {"port": 30001, "namespace": "shop", "name": "web", "portName": "https"},
        {"port": 30002, "namespace": "shop", "name": "web"}]}),
    )]);
    let none = Labels::new();
    let request = Request {
        namespace: "shop",
        namespace_labels: &none,
        name: Some("web"),
        labels: &none,
    };
    for (port_name, taken, expected) in [
        (Some("https"), vec![], "30001 of NodePortPool a, by reservation"),
        (Some("http"), vec![], "30002 of NodePortPool a, by reservation"),
        (None, vec![], "30002 of NodePortPool a, by reservation"),
        (Some("http"), vec![30002], "any of NodePortPool a"),
        (
            Some("https"),
            vec![30001],
            "30002 of NodePortPool a, by reservation",
        ),
    ] {
        let taken = taken.into_iter().map(port).collect();
        let ask = Ask {
            what: What::NodePort,
            wish: None,
            port_name,
            taken: &taken,
        };
        let found = pools.select(&request, &ask, &[]).choice.to_string();
        assert_eq!(found, expected, "{port_name:?} {taken:?}");
    }
}
