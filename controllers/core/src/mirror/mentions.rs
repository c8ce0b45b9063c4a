// SPDX-License-Identifier: Apache-2.0
//! Addresses that hand-written Endpoints mention more than once; found by histories against kube-controller-manager.

use super::*;

fn mk_endpoints(subsets: serde_json::Value) -> Endpoints {
    serde_json::from_value(serde_json::json!({"metadata": {"name": "web"}, "subsets": subsets})).unwrap()
}

/// Port, address, host name and readiness of each endpoint.
fn mirrored_rows(subsets: serde_json::Value) -> Vec<(i32, String, String, bool)> {
    let endpoints = mk_endpoints(subsets);
    let mut rows = Vec::new();
    for ((_, _), group) in wanted(&endpoints, 1000, &mut Skips::default()) {
        let port = group.ports.first().and_then(|port| port.port).unwrap_or_default();
        for endpoint in group.endpoints {
            let ready = endpoint.conditions.and_then(|conditions| conditions.ready);
            rows.push((
                port,
                endpoint.addresses.concat(),
                endpoint.hostname.unwrap_or_default(),
                ready.unwrap_or_default(),
            ));
        }
    }
    rows
}

#[test]
fn what_is_said_of_an_address_first_holds_on_every_port() {
    let rows = mirrored_rows(serde_json::json!([
        {"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]},
        {"notReadyAddresses": [{"ip": "192.0.2.1", "hostname": "left"}], "ports": [{"port": 443}]},
    ]));
    let row = |port, ready| (port, "192.0.2.1".to_owned(), String::new(), ready);
    assert_eq!(rows, [row(80, true), row(443, false)]);
}

#[test]
fn an_address_written_in_two_ways_is_one_endpoint_and_not_ready_counts() {
    let rows = mirrored_rows(serde_json::json!([{
        "addresses": [{"ip": "2001:db8::2"}, {"ip": "2001:db8::3"}],
        "notReadyAddresses": [{"ip": "2001:DB8:0::2"}],
        "ports": [{"port": 80}],
    }]));
    let row = |ip: &str, ready| (80, ip.to_owned(), String::new(), ready);
    assert_eq!(rows, [row("2001:db8::3", true), row("2001:db8::2", false)]);
}

#[test]
fn one_address_with_two_host_names_in_two_spellings_is_two_endpoints() {
    let rows = mirrored_rows(serde_json::json!([{
        "addresses": [{"ip": "2001:db8::2", "hostname": "left"}, {"ip": "2001:DB8:0::2", "hostname": "right"}],
        "ports": [{"port": 80}],
    }]));
    assert_eq!(rows.len(), 2, "{rows:?}");
}
