// SPDX-License-Identifier: Apache-2.0
//! Specs, wrong and good: fields over those of a good one.

use serde_json::{Value, json};

use super::Kind;

/// What is wrong, and the field that has to be named for it.
type Wrong = (Kind, Value, &'static str);

/// What the schema refuses.
pub(crate) fn refused() -> Vec<Wrong> {
    let mut all = wrong_addresses();
    all.extend(wrong_rules());
    all.extend(wrong_ports());
    all.extend(wrong_claims());
    all
}

fn wrong_addresses() -> Vec<Wrong> {
    let reservation = |address: &str| json!([{"address": address, "namespace": "a", "name": "a"}]);
    vec![
        (Kind::AddressPool, json!({"use": "Strange"}), "spec.use"),
        (Kind::AddressPool, json!({"addresses": null}), "spec.addresses"),
        (Kind::AddressPool, json!({"addresses": []}), "spec.addresses"),
        (
            Kind::AddressPool,
            json!({"addresses": ["10.96.8.0/33"]}),
            "spec.addresses",
        ),
        (
            Kind::AddressPool,
            json!({"addresses": ["10.96.8.5/24"]}),
            "spec.addresses",
        ),
        (
            Kind::AddressPool,
            json!({"addresses": ["10.96.8.1-fd00::1"]}),
            "spec.addresses",
        ),
        (
            Kind::AddressPool,
            json!({"addresses": ["10.96.8.1-10.96.8.2-10.96.8.3"]}),
            "spec.addresses",
        ),
        (
            Kind::AddressPool,
            json!({"exclude": ["10.96.8.0/28", "nonsense"]}),
            "spec.exclude[1]",
        ),
        (
            Kind::AddressPool,
            json!({"exclude": ["10.96.8.5/24"]}),
            "spec.exclude[0]",
        ),
        (
            Kind::AddressPool,
            json!({"reservations": reservation("nonsense")}),
            "spec.reservations[0].address",
        ),
        (
            Kind::AddressPool,
            json!({"reservations": [{"address": "10.96.8.7"}]}),
            "spec.reservations[0].name",
        ),
        (
            Kind::AddressPool,
            json!({"reservations": [{"address": "10.96.8.7", "namespace": "a", "name": "a"},
                {"address": "10.96.8.7", "namespace": "a", "name": "b"}]}),
            "spec.reservations[1]",
        ),
    ]
}

fn wrong_rules() -> Vec<Wrong> {
    vec![
        (
            Kind::AddressPool,
            json!({"selector": {"namespaces": ["No Name"]}}),
            "spec.selector.namespaces[0]",
        ),
        (Kind::AddressPool, json!({"priority": 2_000_000}), "spec.priority"),
        (Kind::AddressPool, json!({"quota": {}}), "spec.quota"),
        (
            Kind::AddressPool,
            json!({"quota": {"overrides": []}}),
            "spec.quota",
        ),
        (
            Kind::AddressPool,
            json!({"quota": {"perNamespace": -1}}),
            "spec.quota.perNamespace",
        ),
        (
            Kind::AddressPool,
            json!({"quota": {"overrides": [{"namespace": "a", "limit": 1}, {"namespace": "a", "limit": 2}]}}),
            "spec.quota.overrides[1]",
        ),
        (
            Kind::AddressPool,
            json!({"strategy": "Cheapest"}),
            "spec.strategy",
        ),
        (Kind::AddressPool, json!({"staticBand": -1}), "spec.staticBand"),
        (
            Kind::AddressPool,
            json!({"shareAcrossNamespaces": true}),
            "spec.shareAcrossNamespaces",
        ),
        (
            Kind::AddressPool,
            json!({"avoidNetworkAndBroadcast": true}),
            "spec.avoidNetworkAndBroadcast",
        ),
        (
            Kind::AddressPool,
            json!({"use": "LoadBalancer", "staticBand": 16}),
            "spec.staticBand",
        ),
        (
            Kind::AddressPool,
            json!({"use": "LoadBalancer", "createServiceCIDR": true}),
            "spec.createServiceCIDR",
        ),
        (
            Kind::AddressPool,
            json!({"maxRetention": "soon"}),
            "spec.maxRetention",
        ),
    ]
}

fn wrong_ports() -> Vec<Wrong> {
    let port = |port: i32| json!([{"port": port, "namespace": "a", "name": "a"}]);
    vec![
        (Kind::NodePortPool, json!({"ports": null}), "spec.ports"),
        (Kind::NodePortPool, json!({"ports": []}), "spec.ports"),
        (
            Kind::NodePortPool,
            json!({"ports": ["30000", "http"]}),
            "spec.ports[1]",
        ),
        (
            Kind::NodePortPool,
            json!({"ports": ["30010-30000"]}),
            "spec.ports[0]",
        ),
        (Kind::NodePortPool, json!({"ports": ["0"]}), "spec.ports[0]"),
        (Kind::NodePortPool, json!({"ports": ["65536"]}), "spec.ports[0]"),
        (
            Kind::NodePortPool,
            json!({"exclude": ["30000-"]}),
            "spec.exclude[0]",
        ),
        (
            Kind::NodePortPool,
            json!({"reservations": port(0)}),
            "spec.reservations[0].port",
        ),
        (
            Kind::NodePortPool,
            json!({"reservations": port(70_000)}),
            "spec.reservations[0].port",
        ),
        (
            Kind::NodePortPool,
            json!({"reservations": [port(30_000)[0], port(30_000)[0]]}),
            "spec.reservations[1]",
        ),
        (
            Kind::NodePortPool,
            json!({"strategy": "Cheapest"}),
            "spec.strategy",
        ),
    ]
}

fn wrong_claims() -> Vec<Wrong> {
    vec![
        (
            Kind::AddressClaim,
            json!({"serviceName": null}),
            "spec.serviceName",
        ),
        (Kind::AddressClaim, json!({"serviceName": ""}), "spec.serviceName"),
        (Kind::AddressClaim, json!({"use": "Strange"}), "spec.use"),
        (Kind::AddressClaim, json!({"family": "IPv5"}), "spec.family"),
        (Kind::AddressClaim, json!({"address": "nonsense"}), "spec.address"),
        (
            Kind::AddressClaim,
            json!({"address": "fd00::7", "family": "IPv4"}),
            "spec.address",
        ),
        (
            Kind::AddressClaim,
            json!({"retention": "1 day"}),
            "spec.retention",
        ),
    ]
}

/// What the schema lets through, and a fault tells of.
pub(crate) fn told_off() -> Vec<Wrong> {
    let mut all = contradictory_addresses();
    all.extend(contradictory_rules());
    all
}

fn contradictory_addresses() -> Vec<Wrong> {
    let reservation = |address: &str, name: &str| json!({"address": address, "namespace": "a", "name": name});
    vec![
        (
            Kind::AddressPool,
            json!({"addresses": ["10.96.8.9-10.96.8.1"]}),
            "spec.addresses[0]",
        ),
        (
            Kind::AddressPool,
            json!({"addresses": ["10.96.8.0/24", "10.96.8.7"]}),
            "spec.addresses[1]",
        ),
        // As it was before there were rules: a pool of load balancers is told off, and not refused.
        (
            Kind::AddressPool,
            json!({"use": null, "addresses": ["nonsense"]}),
            "spec.addresses[0]",
        ),
        (
            Kind::AddressPool,
            json!({"exclude": ["10.96.8.0/24", "fd00::/16"]}),
            "spec.exclude",
        ),
        (
            Kind::AddressPool,
            json!({"reservations": [reservation("10.97.0.1", "a")]}),
            "spec.reservations[0].address",
        ),
        (
            Kind::AddressPool,
            json!({"exclude": ["10.96.8.7"], "reservations": [reservation("10.96.8.7", "a")]}),
            "spec.reservations[0].address",
        ),
        (
            Kind::AddressPool,
            json!({"reservations": [reservation("fd00:10:96::801", "a"), reservation("FD00:10:96:0::801", "b")]}),
            "spec.reservations[1].address",
        ),
    ]
}

fn contradictory_rules() -> Vec<Wrong> {
    vec![
        (
            Kind::AddressPool,
            json!({"selector": {"serviceSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}}),
            "spec.selector.serviceSelector.matchExpressions[0].operator",
        ),
        (
            Kind::AddressPool,
            json!({"selector": {"namespaces": ["a", "a"]}}),
            "spec.selector.namespaces[1]",
        ),
        (
            Kind::AddressPool,
            json!({"addresses": ["10.96.8.1-10.96.8.9"], "createServiceCIDR": true}),
            "spec.addresses[0]",
        ),
        (
            Kind::NodePortPool,
            json!({"ports": ["30000-30009", "30009"]}),
            "spec.ports[1]",
        ),
        (
            Kind::NodePortPool,
            json!({"exclude": ["30000-30099"]}),
            "spec.exclude",
        ),
        (
            Kind::NodePortPool,
            json!({"reservations": [{"port": 31000, "namespace": "a", "name": "a"}]}),
            "spec.reservations[0].port",
        ),
    ]
}

/// Specs without fault, as large as they may be among them: the API server has a limit to what its rules may cost.
pub(crate) fn good() -> Vec<(Kind, Value)> {
    let addresses: Value = (0..=255).map(|index| format!("10.96.8.{index}")).collect();
    let reservations: Value = (0..=255)
        .map(|index| json!({"address": format!("10.96.8.{index}"), "namespace": "a", "name": format!("s-{index}")}))
        .collect();
    let excluded: Value = (0..=255)
        .map(|index| format!("192.0.{index}.100-192.0.{index}.200"))
        .collect();
    let ports: Value = (0..=255).map(|index| (30_000 + index).to_string()).collect();
    let overrides: Value = (0..=255)
        .map(|index| json!({"namespace": format!("n-{index}"), "limit": 3}))
        .collect();
    vec![
        (Kind::AddressPool, json!({})),
        (
            Kind::AddressPool,
            json!({"use": null, "addresses": ["192.0.2.0/28"]}),
        ),
        (
            Kind::AddressPool,
            json!({"addresses": addresses, "exclude": excluded, "reservations": reservations,
                "quota": {"overrides": overrides}}),
        ),
        (
            Kind::AddressPool,
            json!({"selector": {"namespaces": ["a"], "namespaceSelector": {}, "serviceSelector": {"matchLabels": {"a": "b"}}},
                "priority": -5, "quota": {"perNamespace": 0}, "draining": true, "strategy": "Random", "staticBand": 0,
                "maxRetention": "1h30m"}),
        ),
        (
            Kind::AddressPool,
            json!({"addresses": ["10.97.0.0/24", "fd00:10:97::/64"], "createServiceCIDR": true}),
        ),
        (
            Kind::AddressPool,
            json!({"use": "LoadBalancer", "addresses": ["192.0.2.0/28", " 192.0.2.20 - 192.0.2.30"],
                "avoidNetworkAndBroadcast": true, "shareAcrossNamespaces": true}),
        ),
        (Kind::NodePortPool, json!({})),
        (
            Kind::NodePortPool,
            json!({"ports": ports, "exclude": ["30001", "30003-30005"]}),
        ),
        (Kind::AddressClaim, json!({})),
        (
            Kind::AddressClaim,
            json!({"use": "ClusterIP", "pool": "team-a", "address": "fd00::7", "family": "Both", "retention": "72h"}),
        ),
    ]
}
