// SPDX-License-Identifier: Apache-2.0
//! Faults of NodePortPools.

use serde_json::{Value, json};

use super::*;

fn faults(spec: Value) -> Vec<String> {
    let spec: NodePortPoolSpec = serde_json::from_value(spec).unwrap();
    let faults = spec.validate().into_iter();
    faults
        .map(|fault| format!("{}: {}", fault.field, fault.problem))
        .collect()
}

#[test]
fn a_good_pool_has_no_fault_and_stays_as_it_is() {
    let spec = json!({
        "ports": ["30000-30099", "31000"],
        "exclude": ["30090-30099"],
        "reservations": [
            {"port": 30053, "namespace": "dns", "name": "dns", "portName": "dns"},
            {"port": 30054, "namespace": "dns", "name": "dns"},
        ],
        "selector": {"namespaces": ["dns"]},
        "priority": -1,
        "quota": {"overrides": [{"namespace": "dns", "limit": 4}]},
        "draining": true,
        "strategy": "LowestFirst",
    });
    assert_eq!(faults(spec.clone()), Vec::<String>::new());
    let typed: NodePortPoolSpec = serde_json::from_value(spec.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), spec);
}

#[test]
fn every_fault_is_reported_with_its_field() {
    let reserved =
        |port: i32, name: &str| json!({"port": port, "namespace": "a", "name": "a", "portName": name});
    for (spec, expected) in [
        (
            json!({"ports": []}),
            vec!["spec.ports: a pool needs at least one port"],
        ),
        (
            json!({"ports": ["30000-30010", "30010-30005", "30010"]}),
            vec![
                "spec.ports[1]: \"30010-30005\" ends before it starts",
                "spec.ports[2]: overlaps spec.ports[0] (30000-30010); list each port once",
            ],
        ),
        (
            json!({"ports": ["30000-30001"], "exclude": ["30000", "30001"]}),
            vec!["spec.exclude: leaves no port; to give nothing new, set spec.draining"],
        ),
        (
            json!({"ports": ["30000-30010"], "exclude": ["30002"], "reservations": [
                reserved(0, "a"), reserved(30020, "b"), reserved(30002, "c"), reserved(30003, "d"), reserved(30003, "e"),
                reserved(30004, "d")]}),
            vec![
                "spec.reservations[0].port: is no port number, from 1 to 65535",
                "spec.reservations[1].port: is not in spec.ports",
                "spec.reservations[2].port: is excluded by spec.exclude[0] (30002)",
                "spec.reservations[4].port: is reserved already, by spec.reservations[3]",
                "spec.reservations[5].port: is the second port for port d of Service a/a, after spec.reservations[3]; \
                 it has one at most",
            ],
        ),
        (
            json!({"ports": ["30000"], "quota": {}, "selector": {"namespaces": ["a", "a"]}}),
            vec![
                "spec.selector.namespaces[1]: is named twice; name each namespace once",
                "spec.quota: needs perNamespace or overrides; remove it for a pool without limit",
            ],
        ),
    ] {
        assert_eq!(faults(spec), expected);
    }
}
