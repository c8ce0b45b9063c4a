// SPDX-License-Identifier: Apache-2.0
//! What is said about a small cluster.

use serde_json::{Value, json};

use super::*;

fn flags() -> Flags {
    Flags {
        node_ports: "30000-32767".parse().unwrap(),
        exemptions: Exemptions::with(["berth-system".to_owned()]),
        default_provider: true,
    }
}

fn pool(kind: &str, name: &str, second: u32, spec: &Value) -> Value {
    json!({"apiVersion": "berth.dev/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-02T03:04:{second:02}Z")}})
}

/// `key` is namespace and name.
fn service(key: &str, second: u32, spec: &Value, ingress: &[&str]) -> Value {
    let (namespace, name) = key.split_once('/').unwrap();
    let ingress: Vec<Value> = ingress.iter().map(|address| json!({"ip": address})).collect();
    json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}},
        "metadata": {"namespace": namespace, "name": name, "creationTimestamp": format!("2026-01-02T03:05:{second:02}Z")}})
}

fn ip_address(name: &str, manager: Option<&str>) -> Value {
    let labels = manager.map(|manager| json!({"ipaddress.kubernetes.io/managed-by": manager}));
    json!({"metadata": {"name": name, "labels": labels},
        "spec": {"parentRef": {"resource": "things", "group": "example.dev", "name": "x"}}})
}

fn at(address: &str) -> Value {
    json!({"clusterIP": address, "clusterIPs": [address]})
}

fn read<T: serde::de::DeserializeOwned>(objects: &[Value]) -> Vec<T> {
    let objects = objects.iter().cloned();
    objects
        .map(|object| serde_json::from_value(object).unwrap())
        .collect()
}

fn cluster() -> Listed {
    let cidr =
        json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}});
    let team_a = json!({"use": "ClusterIP", "addresses": ["10.96.8.0/28", "fd00:10:96::800/124", "10.96.8.64/28", "10.96.8.80"],
        "exclude": ["10.96.8.80"], "selector": {"namespaces": ["a"], "namespaceSelector": {"matchLabels": {"team": "a"}},
        "serviceSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["test"]}]}},
        "reservations": [{"address": "10.96.8.5", "namespace": "a", "name": "dns"}],
        "quota": {"perNamespace": 9, "overrides": [{"namespace": "a", "limit": 4}]}});
    let old = json!({"use": "ClusterIP", "addresses": ["10.96.9.0/30"], "draining": true, "priority": 7});
    let late = json!({"use": "ClusterIP", "addresses": ["10.96.9.2-10.96.9.9"], "selector": {"namespaces": ["late"]}});
    let outside = json!({"use": "ClusterIP", "addresses": ["10.200.0.0/30", "nonsense"], "selector": {"namespaces": ["none"]}});
    let lan = json!({"addresses": ["192.0.2.0/28"],
        "reservations": [{"address": "192.0.2.9", "namespace": "a", "name": "edge"}]});
    let ports = json!({"ports": ["30000-30007"], "selector": {"namespaces": ["a"]}});
    let claim = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressClaim", "metadata": {"namespace": "a", "name": "sticky"},
        "spec": {"serviceName": "later", "use": "ClusterIP"}, "status": {"addresses": ["10.96.8.9"], "pools": ["team-a"]}});
    let node_port = json!({"type": "NodePort", "clusterIP": "10.96.8.3", "clusterIPs": ["10.96.8.3", "fd00:10:96::803"],
        "ports": [{"port": 80, "nodePort": 30004}]});
    let balanced = |address: &str, port: u16| json!({"type": "LoadBalancer", "clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "nodePort": port}]});
    let mut with_status = pool("NodePortPool", "team-a", 1, &ports);
    with_status["status"] = json!({"ports": {"capacity": 8, "allocated": 1, "held": 3, "free": 4}});
    Listed {
        services: read(&[
            service("a/web", 1, &at("10.96.8.2"), &[]),
            service("a/ports", 2, &node_port, &[]),
            service("b/intruder", 3, &at("10.96.8.4"), &[]),
            service("kube-system/old", 4, &at("10.96.9.1"), &[]),
            service("b/twin", 5, &at("10.96.8.2"), &[]),
            service("b/stray", 6, &at("172.16.0.1"), &[]),
            service("b/public", 7, &balanced("10.96.3.3", 30001), &["192.0.2.1"]),
            service("b/copy", 8, &balanced("10.96.3.4", 31000), &["192.0.2.1"]),
            service("b/headless", 9, &json!({"clusterIP": "None"}), &[]),
        ]),
        namespaces: read(&[
            json!({"metadata": {"name": "a", "labels": {"team": "a"}}}),
            json!({"metadata": {"name": "b"}}),
        ]),
        service_cidrs: Some(read(&[cidr])),
        ip_addresses: Some(read(&[
            ip_address("10.96.8.6", Some("ipam.example")),
            ip_address("10.96.8.2", Some("ipallocator.k8s.io")),
            ip_address("10.96.50.1", None),
        ])),
        address_pools: Some(read(&[
            pool("AddressPool", "team-a", 1, &team_a),
            pool("AddressPool", "old", 2, &old),
            pool("AddressPool", "late", 3, &late),
            pool("AddressPool", "outside", 4, &outside),
            pool("AddressPool", "lan", 5, &lan),
        ])),
        port_pools: Some(read(&[with_status])),
        claims: Some(read(&[claim])),
    }
}

#[test]
fn all_pools_are_a_table_with_what_is_wrong_below_it() {
    insta::assert_snapshot!(report(&cluster(), &flags()).table().unwrap());
}

#[test]
fn a_pool_by_its_name_is_everything_about_it() {
    let all = report(&cluster(), &flags());
    assert!(all.clone().of("nobody").is_none());
    insta::assert_snapshot!(all.of("team-a").unwrap().details().unwrap());
}

#[test]
fn addresses_of_load_balancers_are_those_that_statuses_list() {
    let lan = report(&cluster(), &flags()).of("lan").unwrap();
    insta::assert_snapshot!(lan.details().unwrap());
}

#[test]
fn conflicts_alone_are_all_of_them() {
    let mut all = report(&cluster(), &flags());
    for number in 0..20 {
        let mut conflict = all.conflicts[0].clone();
        conflict.service = format!("x/{number}");
        all.conflicts.push(conflict);
    }
    let list = all.conflict_list().unwrap();
    assert!(
        (0..20).all(|number| list.contains(&format!("x/{number} "))),
        "{list}"
    );
    assert!(
        all.table()
            .unwrap()
            .contains(&format!("and {} more", all.conflicts.len() - 10))
    );
    all.conflicts.clear();
    assert_eq!(all.conflict_list().unwrap(), "No conflicts.\n");
}

#[test]
fn kinds_that_are_not_installed_are_said_and_are_no_failure() {
    let nothing = report(&Listed::default(), &flags());
    insta::assert_snapshot!(nothing.table().unwrap());
}

#[test]
fn the_json_form_has_the_same_numbers_and_every_holder() {
    let json = serde_json::to_value(report(&cluster(), &flags())).unwrap();
    let pools = json["pools"].as_array().unwrap();
    let uses: Vec<&str> = pools.iter().map(|pool| pool["use"].as_str().unwrap()).collect();
    assert_eq!(uses.first(), Some(&"LoadBalancer"));
    assert_eq!(uses.last(), Some(&"NodePort"));
    let team = pools.iter().find(|pool| pool["name"] == "team-a").unwrap();
    assert_eq!(team["counts"][0]["of"], "IPv4");
    let allocated = team["counts"][0]["allocated"].as_u64().unwrap();
    let values = team["values"].as_array().unwrap();
    let of_ipv4 = values
        .iter()
        .filter(|value| value["value"].as_str().unwrap().starts_with("10."));
    let held = of_ipv4.filter(|value| value["ground"] != "Reserved");
    assert_eq!(allocated, u64::try_from(held.count()).unwrap());
    let reasons = json["conflicts"].as_array().unwrap().iter();
    let reasons: std::collections::BTreeSet<&str> = reasons
        .map(|conflict| conflict["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        ["Duplicate", "Encroachment", "Foreign", "OutOfRange"].into()
    );
}
