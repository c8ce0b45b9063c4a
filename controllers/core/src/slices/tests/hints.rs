// SPDX-License-Identifier: Apache-2.0

use k8s_openapi::api::discovery::v1::{EndpointHints, ForNode, ForZone};

use super::*;
use crate::fixtures::*;

fn spread(distribution: Option<&str>) -> Service {
    mk_service_with(|spec| spec.traffic_distribution = distribution.map(str::to_owned))
}

fn on(number: u16, node: &str) -> Arc<Pod> {
    let node = node.to_owned();
    mk_pod_with(number, |pod| pod.spec.node_name = Some(node))
}

/// Zone and node hints of each endpoint, by address.
fn hints(world: &World) -> Vec<(String, String)> {
    let mut all: Vec<(String, String, String)> = world
        .endpoints()
        .into_iter()
        .map(|endpoint| {
            let hints = endpoint.hints.unwrap_or_default();
            let zones = hints
                .for_zones
                .into_iter()
                .flatten()
                .map(|zone| zone.name)
                .collect();
            let nodes = hints
                .for_nodes
                .into_iter()
                .flatten()
                .map(|node| node.name)
                .collect();
            (endpoint.addresses[0].clone(), zones, nodes)
        })
        .collect();
    all.sort();
    all.into_iter().map(|(_, zones, nodes)| (zones, nodes)).collect()
}

fn row(zone: &str, node: &str) -> (String, String) {
    (zone.to_owned(), node.to_owned())
}

#[test]
fn traffic_distribution_hints_ready_endpoints_at_their_own_zone_and_node() {
    let rows = [
        (
            Some("PreferClose"),
            [row("zone-a", ""), row("zone-b", ""), row("", "")],
        ),
        (
            Some("PreferSameZone"),
            [row("zone-a", ""), row("zone-b", ""), row("", "")],
        ),
        (
            Some("PreferSameNode"),
            [
                row("zone-a", "node-1"),
                row("zone-b", "node-2"),
                row("", "node-3"),
            ],
        ),
        (Some("SomethingNew"), [row("", ""), row("", ""), row("", "")]),
        (None, [row("", ""), row("", ""), row("", "")]),
    ];
    for (distribution, expected) in rows {
        let pods = vec![on(1, "node-1"), on(2, "node-2"), on(3, "node-3")];
        let mut world = World::new(spread(distribution), pods);
        world.converge();
        assert_eq!(hints(&world), expected, "{distribution:?}");
    }
}

#[test]
fn a_change_of_distribution_pulls_unchanged_slices_into_the_update() {
    let mut world = World::new(spread(None), mk_pods(1..5));
    world.options.max_endpoints = 2;
    world.converge();
    for (distribution, zone, writes) in [
        (Some("PreferClose"), "zone-a", 2),
        (Some("PreferSameZone"), "zone-a", 0),
        (None, "", 2),
    ] {
        world.service = spread(distribution);
        let plan = world.converge();
        assert_eq!(plan.writes.update.len(), writes, "{distribution:?}");
        assert!(
            hints(&world).iter().all(|(zones, _)| zones == zone),
            "{distribution:?}"
        );
    }
}

#[test]
fn endpoints_that_are_not_ready_get_no_hints_and_keep_what_they_have() {
    let mut world = World::new(
        spread(Some("PreferClose")),
        vec![on(1, "node-1"), on(2, "node-1")],
    );
    world.converge();
    world.pods[1] = mk_pod_with(2, |pod| pod.status.conditions = vec![mk_condition(false)]);
    world.converge();
    assert_eq!(hints(&world), [row("zone-a", ""), row("", "")]);
    let stray = EndpointHints {
        for_zones: Some(vec![ForZone {
            name: "zone-z".to_owned(),
        }]),
        ..EndpointHints::default()
    };
    let not_ready = |slice: &mut EndpointSlice| {
        let endpoints = slice.endpoints.as_mut().unwrap();
        endpoints.iter_mut().for_each(|endpoint| {
            if endpoint.addresses == ["10.244.0.2"] {
                endpoint.hints = Some(stray.clone());
            }
        });
    };
    world.tamper(0, not_ready);
    assert!(world.plan().writes.is_empty());
}

#[test]
fn wrong_hints_are_corrected() {
    let zone = |name: &str| {
        vec![ForZone {
            name: name.to_owned(),
        }]
    };
    let node = vec![ForNode {
        name: "node-1".to_owned(),
    }];
    let rows = [
        (None, 1),
        (
            Some(EndpointHints {
                for_zones: Some(zone("zone-x")),
                for_nodes: None,
            }),
            1,
        ),
        (
            Some(EndpointHints {
                for_zones: Some(zone("zone-a")),
                for_nodes: Some(node),
            }),
            1,
        ),
        (
            Some(EndpointHints {
                for_zones: Some(zone("zone-a")),
                for_nodes: Some(Vec::new()),
            }),
            0,
        ),
    ];
    for (wrong, writes) in rows {
        let mut world = World::new(spread(Some("PreferClose")), vec![on(1, "node-1")]);
        world.converge();
        world.tamper(0, |slice| {
            slice.endpoints.as_mut().unwrap()[0].hints = wrong.clone()
        });
        assert_eq!(world.converge().writes.len(), writes, "{wrong:?}");
        assert_eq!(hints(&world), [row("zone-a", "")]);
    }
}

#[test]
fn topology_mode_beats_traffic_distribution_and_the_older_annotation_beats_the_newer() {
    let rows = [
        (vec![(names::TOPOLOGY_MODE, "Auto")], ""),
        (vec![(names::TOPOLOGY_MODE, "auto")], ""),
        (vec![(names::TOPOLOGY_MODE, "Disabled")], "zone-a"),
        (
            vec![
                (names::TOPOLOGY_HINTS, "Disabled"),
                (names::TOPOLOGY_MODE, "Auto"),
            ],
            "zone-a",
        ),
        (
            vec![
                (names::TOPOLOGY_HINTS, "auto"),
                (names::TOPOLOGY_MODE, "Disabled"),
            ],
            "",
        ),
    ];
    for (annotations, zone) in rows {
        let mut service = spread(Some("PreferClose"));
        service.metadata.annotations = Some(mk_labels(&annotations));
        let mut world = World::new(service, vec![on(1, "node-1")]);
        world.converge();
        assert_eq!(hints(&world), [row(zone, "")], "{annotations:?}");
    }
}
