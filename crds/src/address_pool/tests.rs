// SPDX-License-Identifier: Apache-2.0
//! Faults of AddressPools.

use serde_json::{Value, json};

use super::*;

fn spec(addresses: &[&str]) -> AddressPoolSpec {
    AddressPoolSpec {
        addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        ..AddressPoolSpec::default()
    }
}

/// The faults of a spec, as `field: problem`.
fn faults(spec: Value) -> Vec<String> {
    let spec: AddressPoolSpec = serde_json::from_value(spec).unwrap();
    let faults = spec.validate().into_iter();
    faults
        .map(|fault| format!("{}: {}", fault.field, fault.problem))
        .collect()
}

#[test]
fn a_good_pool_has_no_fault() {
    assert_eq!(
        spec(&["192.0.2.0/28", "192.0.2.100-192.0.2.110", "fd00::/64"]).validate(),
        []
    );
}

#[test]
fn a_pool_with_everything_has_no_fault_and_stays_as_it_is() {
    let spec = json!({
        "use": "ClusterIP",
        "addresses": ["10.96.64.0/22", "fd00:10:96:1::/64"],
        "exclude": ["10.96.64.0-10.96.64.15"],
        "reservations": [
            {"address": "10.96.65.1", "namespace": "shop", "name": "web"},
            {"address": "fd00:10:96:1::7", "namespace": "shop", "name": "web"},
        ],
        "selector": {
            "namespaces": ["shop"],
            "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}]},
            "serviceSelector": {"matchLabels": {"tier": "web"}},
        },
        "priority": 10,
        "quota": {"perNamespace": 20, "overrides": [{"namespace": "shop", "limit": 0}]},
        "draining": true,
        "strategy": "LeastRecentlyReleased",
        "staticBand": 0,
        "createServiceCIDR": true,
        "maxRetention": "72h",
    });
    assert_eq!(faults(spec.clone()), Vec::<String>::new());
    let typed: AddressPoolSpec = serde_json::from_value(spec.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), spec);
}

#[test]
fn a_pool_of_the_first_version_reads_and_writes_as_before() {
    let written = json!({"use": "LoadBalancer", "addresses": ["192.0.2.0/28"]});
    let typed: AddressPoolSpec = serde_json::from_value(json!({"addresses": ["192.0.2.0/28"]})).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), written);
    let status = json!({"ipv4": {"capacity": "16", "allocated": 1, "free": "15"}});
    let typed: AddressPoolStatus = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), status);
}

#[test]
fn every_fault_is_reported_with_field_and_value() {
    let faults = spec(&[
        "192.0.2.0/33",
        "192.0.2.9-192.0.2.1",
        "192.0.2.0/28",
        "192.0.2.4-192.0.2.5",
    ])
    .validate();
    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.addresses[0]", "spec.addresses[1]", "spec.addresses[3]"]
    );
    assert!(
        faults[2].problem.contains("overlaps spec.addresses[2]"),
        "{}",
        faults[2]
    );
}

#[test]
fn an_empty_pool_is_a_fault() {
    assert_eq!(spec(&[]).validate().len(), 1);
}

#[test]
fn the_readable_entries_of_a_faulty_pool_are_still_there() {
    assert_eq!(
        spec(&["nonsense", "192.0.2.7"]).ranges(),
        [(1, "192.0.2.7".parse().unwrap())]
    );
}

#[test]
fn what_is_excluded_is_readable_and_leaves_something() {
    for (exclude, expected) in [
        (json!(["192.0.2.0/29"]), vec![]),
        (
            json!(["nonsense"]),
            vec!["spec.exclude[0]: \"nonsense\" is neither"],
        ),
        (json!(["192.0.2.0/29", "192.0.2.8-192.0.2.14"]), vec![]),
        (
            json!(["192.0.2.8/29", "192.0.2.0-192.0.2.9"]),
            vec!["spec.exclude: leaves no address"],
        ),
        (json!(["fd00::/8"]), vec![]),
    ] {
        let found = faults(json!({"addresses": ["192.0.2.0/28"], "exclude": exclude}));
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }
}

#[test]
fn a_reservation_is_of_the_pool_and_the_only_one() {
    let reserved = |address: &str, name: &str| json!({"address": address, "namespace": "shop", "name": name});
    let at = |index: usize, problem: &str| format!("spec.reservations[{index}].address: {problem}");
    for (reservations, expected) in [
        (
            json!([reserved("10.96.8.7", "a"), reserved("10.96.8.8", "b")]),
            vec![],
        ),
        (
            json!([reserved("nonsense", "a")]),
            vec![at(0, "is no IP address")],
        ),
        (
            json!([reserved("10.97.0.1", "a")]),
            vec![at(0, "is not in spec.addresses")],
        ),
        (
            json!([reserved("10.96.8.16", "a")]),
            vec![at(0, "is excluded by spec.exclude[0] (10.96.8.16-10.96.8.31)")],
        ),
        (
            json!([reserved("10.96.8.0", "a"), reserved("10.96.8.255", "b")]),
            vec![
                at(
                    0,
                    "is the network or broadcast address of its CIDR, which is never given",
                ),
                at(
                    1,
                    "is the network or broadcast address of its CIDR, which is never given",
                ),
            ],
        ),
        (
            json!([reserved("10.96.8.7", "a"), reserved("10.96.8.7", "b")]),
            vec![at(1, "is reserved already, by spec.reservations[0]")],
        ),
        (
            json!([reserved("10.96.8.7", "a"), reserved("10.96.8.8", "a")]),
            vec![at(
                1,
                "is the second IPv4 address for Service shop/a, after spec.reservations[0]; it has one at most",
            )],
        ),
    ] {
        let found = faults(
            json!({"use": "ClusterIP", "addresses": ["10.96.8.0/24"], "exclude": ["10.96.8.16/28"],
            "reservations": reservations}),
        );
        assert_eq!(found, expected);
    }
}

#[test]
fn a_selector_and_a_quota_say_what_they_mean() {
    let expression = |operator: &str, values: Value| json!({"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": operator, "values": values}]}});
    let at = "spec.selector.namespaceSelector.matchExpressions[0]";
    for (selector, quota, expected) in [
        (expression("In", json!(["a"])), json!({"perNamespace": 0}), vec![]),
        (
            expression("In", json!([])),
            json!(null),
            vec![format!("{at}.values: needs at least one value")],
        ),
        (
            expression("Exists", json!(["a"])),
            json!(null),
            vec![format!(
                "{at}.values: takes no values with this operator; remove them"
            )],
        ),
        (
            expression("Is", json!(["a"])),
            json!(null),
            vec![format!(
                "{at}.operator: is none of In, NotIn, Exists and DoesNotExist"
            )],
        ),
        (
            json!({"namespaces": ["a", "a"]}),
            json!({}),
            vec![
                "spec.selector.namespaces[1]: is named twice; name each namespace once".to_owned(),
                "spec.quota: needs perNamespace or overrides; remove it for a pool without limit".to_owned(),
            ],
        ),
        (
            json!(null),
            json!({"perNamespace": -1, "overrides": [{"namespace": "a", "limit": 1}, {"namespace": "a", "limit": 2}]}),
            vec![
                "spec.quota.overrides[1].namespace: has a limit already; give each namespace one".to_owned(),
                "spec.quota.perNamespace: is negative; 0 is none at all".to_owned(),
            ],
        ),
    ] {
        let found = faults(json!({"addresses": ["192.0.2.0/28"], "selector": selector, "quota": quota}));
        assert_eq!(found, expected);
    }
}

#[test]
fn fields_of_one_use_do_not_go_with_the_other() {
    let service_cidr =
        |addresses: Value| json!({"use": "ClusterIP", "addresses": addresses, "createServiceCIDR": true});
    for (spec, expected) in [
        (
            json!({"addresses": ["192.0.2.0/28"], "staticBand": 8, "createServiceCIDR": true}),
            vec![
                "spec.staticBand: does not go with use: LoadBalancer; remove it",
                "spec.createServiceCIDR: does not go with use: LoadBalancer; remove it",
            ],
        ),
        (
            json!({"use": "ClusterIP", "addresses": ["10.9.0.0/24"], "avoidNetworkAndBroadcast": false}),
            vec!["spec.avoidNetworkAndBroadcast: does not go with use: ClusterIP; remove it"],
        ),
        (service_cidr(json!(["10.9.0.0/24", "fd00::/64"])), vec![]),
        (
            service_cidr(json!(["10.9.0.0-10.9.0.9", "fd00::/56"])),
            vec![
                "spec.addresses[0]: is no CIDR, which it has to be for spec.createServiceCIDR",
                "spec.addresses[1]: is wider than the API server takes an IPv6 range of Services, which is /64",
            ],
        ),
        (
            json!({"addresses": ["192.0.2.0/28"], "maxRetention": "soon"}),
            vec!["spec.maxRetention: is no duration such as 72h or 1h30m"],
        ),
    ] {
        assert_eq!(faults(spec), expected);
    }
}
