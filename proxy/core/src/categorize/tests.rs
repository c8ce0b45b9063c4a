// SPDX-License-Identifier: Apache-2.0
use std::net::{IpAddr, Ipv4Addr};

use berth_model::{Conditions, EndpointHints};

use super::*;

/// Runs on node `even` or `odd`, as its number is.
fn mk_endpoint(last: u8, ready: bool, serving: bool, terminating: bool) -> Endpoint {
    Endpoint {
        ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
        port: 80.try_into().unwrap(),
        conditions: Conditions {
            ready,
            serving,
            terminating,
        },
        node: Some(NodeName::new(if last.is_multiple_of(2) { "even" } else { "odd" })),
        zone: None,
        hints: EndpointHints::default(),
    }
}

fn ready(n: u8) -> Endpoint {
    mk_endpoint(n, true, true, false)
}

fn unready(n: u8) -> Endpoint {
    mk_endpoint(n, false, false, false)
}

fn draining(n: u8) -> Endpoint {
    mk_endpoint(n, false, true, true)
}

fn gone(n: u8) -> Endpoint {
    mk_endpoint(n, false, false, true)
}

fn hinted(mut endpoint: Endpoint, nodes: &[&str], zones: &[&str]) -> Endpoint {
    endpoint.hints = EndpointHints {
        nodes: nodes.iter().map(|node| NodeName::new(*node)).collect(),
        zones: zones.iter().map(|zone| (*zone).into()).collect(),
    };
    endpoint
}

fn at(node: &str, zone: Option<&str>) -> Settings {
    Settings {
        node: Some(NodeName::new(node)),
        zone: zone.map(str::to_owned),
        ..Settings::default()
    }
}

fn last_bytes(targets: &[Target]) -> Vec<u8> {
    targets
        .iter()
        .map(|target| match target.ip {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(_) => 0,
        })
        .collect()
}

#[test]
fn ready_endpoints_are_used_and_draining_ones_only_when_none_is_ready() {
    for (behaviour, endpoints, cluster, has_any) in [
        ("all ready", vec![ready(1), ready(2)], vec![1, 2], true),
        (
            "an unready one is left out",
            vec![ready(1), unready(2)],
            vec![1],
            true,
        ),
        (
            "a draining one is left out while another is ready",
            vec![draining(1), ready(2)],
            vec![2],
            true,
        ),
        (
            "draining ones serve when nothing is ready",
            vec![draining(1), unready(2), gone(3)],
            vec![1],
            true,
        ),
        (
            "ready and terminating at once is ready (publishNotReadyAddresses)",
            vec![mk_endpoint(1, true, true, true), draining(2)],
            vec![1],
            true,
        ),
        ("nothing usable", vec![unready(1), gone(2)], vec![], false),
        ("no endpoint", vec![], vec![], false),
    ] {
        let usable = categorize(&endpoints, IpFamily::V4, &Settings::default());
        assert_eq!(last_bytes(&usable.cluster), cluster, "{behaviour}");
        assert_eq!(usable.has_any, has_any, "{behaviour}");
    }
}

#[test]
fn the_local_list_has_a_fallback_of_its_own() {
    for (behaviour, endpoints, local, cluster, here) in [
        (
            "ready ones here",
            vec![ready(1), ready(2), ready(4)],
            vec![2, 4],
            vec![1, 2, 4],
            vec![2, 4],
        ),
        (
            "draining here, ready elsewhere",
            vec![ready(1), draining(2)],
            vec![2],
            vec![1],
            vec![2],
        ),
        (
            "ready here, draining elsewhere",
            vec![draining(1), ready(2)],
            vec![2],
            vec![2],
            vec![2],
        ),
        (
            "draining everywhere",
            vec![draining(1), draining(2)],
            vec![2],
            vec![1, 2],
            vec![2],
        ),
        (
            "nothing here",
            vec![ready(1), unready(2), gone(4)],
            vec![],
            vec![1],
            vec![],
        ),
    ] {
        let usable = categorize(&endpoints, IpFamily::V4, &at("even", None));
        assert_eq!(last_bytes(&usable.local), local, "{behaviour}");
        assert_eq!(last_bytes(&usable.cluster), cluster, "{behaviour}");
        assert_eq!(last_bytes(&usable.here), here, "{behaviour}");
        assert!(usable.has_any, "{behaviour}");
    }
}

#[test]
fn nothing_is_local_without_a_node() {
    let mut homeless = ready(2);
    homeless.node = None;
    assert!(
        categorize(&[homeless], IpFamily::V4, &at("even", None))
            .local
            .is_empty()
    );
    assert!(
        categorize(&[ready(2)], IpFamily::V4, &Settings::default())
            .local
            .is_empty()
    );
}

#[test]
fn hints_choose_among_ready_endpoints_if_each_has_one_and_one_is_for_us() {
    let zones = |n, zones: &[&str]| hinted(ready(n), &[], zones);
    let nodes = |n, nodes: &[&str], zones: &[&str]| hinted(ready(n), nodes, zones);
    for (behaviour, endpoints, cluster) in [
        (
            "same zone",
            vec![zones(1, &["a"]), zones(2, &["b"]), zones(3, &["a", "b"])],
            vec![1, 3],
        ),
        (
            "nobody is for our zone",
            vec![zones(1, &["b"]), zones(2, &["c"])],
            vec![1, 2],
        ),
        (
            "one without a hint disables",
            vec![zones(1, &["a"]), zones(2, &["b"]), ready(3)],
            vec![1, 2, 3],
        ),
        (
            "an unready one without a hint does not count",
            vec![zones(1, &["a"]), zones(2, &["b"]), unready(3), draining(4)],
            vec![1],
        ),
        (
            "the node comes before the zone",
            vec![nodes(1, &["odd"], &["a"]), nodes(2, &["even"], &["a"])],
            vec![2],
        ),
        (
            "no hint for our node, then the zone",
            vec![nodes(1, &["odd"], &["a"]), nodes(3, &["odd"], &["b"])],
            vec![1],
        ),
        (
            "one without a node hint: the zone",
            vec![nodes(2, &["even"], &["b"]), zones(3, &["a"])],
            vec![3],
        ),
        (
            "draining ones are used whatever their hints",
            vec![
                hinted(draining(1), &[], &["b"]),
                hinted(draining(2), &["odd"], &["a"]),
            ],
            vec![1, 2],
        ),
    ] {
        let usable = categorize(&endpoints, IpFamily::V4, &at("even", Some("a")));
        assert_eq!(last_bytes(&usable.cluster), cluster, "{behaviour}");
    }
    let unlabelled = categorize(&[zones(1, &["a"])], IpFamily::V4, &at("even", None));
    assert_eq!(last_bytes(&unlabelled.cluster), [1], "a node without a zone");
}

#[test]
fn hints_do_not_touch_the_local_list_and_both_may_have_their_connections_come_back() {
    let endpoints = [
        hinted(ready(1), &[], &["a"]),
        hinted(ready(2), &[], &["b"]),
        hinted(ready(3), &[], &["a"]),
    ];
    let usable = categorize(&endpoints, IpFamily::V4, &at("even", Some("a")));
    assert_eq!(last_bytes(&usable.cluster), [1, 3]);
    assert_eq!(last_bytes(&usable.local), [2]);
    assert_eq!(last_bytes(&usable.here), [2]);
}

#[test]
fn the_other_family_is_not_seen() {
    assert_eq!(
        categorize(&[ready(1)], IpFamily::V6, &Settings::default()),
        Usable::default()
    );
}
