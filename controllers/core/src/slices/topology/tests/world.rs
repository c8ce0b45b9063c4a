// SPDX-License-Identifier: Apache-2.0
//! Whole Services in topology mode, turn by turn.

use berth_model::{IpFamily, ServiceKey};
use berth_snapshot::pod::Pod;
use berth_snapshot::pod::PodManifest;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{EndpointHints, EndpointSlice, ForNode, ForZone};
use proptest::prelude::*;

use super::*;
use crate::slices::Routing;
use crate::slices::tests::World;

const EVEN: [(&str, &str); 2] = [("a", "4"), ("b", "4")];

fn in_mode(value: &str) -> Service {
    let mut service = mk_service();
    service.metadata.annotations = Some(mk_labels(&[(names::TOPOLOGY_MODE, value)]));
    service
}

fn on(number: u16, node: u16) -> Arc<Pod> {
    mk_pod_with(number, |pod| pod.spec.node_name = Some(format!("node-{node}")))
}

/// So many Pods on node-1, node-2, ...
fn spread(per_node: &[u16]) -> Vec<Arc<Pod>> {
    let nodes = per_node.iter().zip(1u16..);
    let pods = nodes.flat_map(|(count, node)| (0..*count).map(move |number| on(node * 100 + number, node)));
    pods.collect()
}

fn mk_world(nodes: &[(&str, &str)], per_node: &[u16]) -> World {
    let mut world = World::new(in_mode("Auto"), spread(per_node));
    world.nodes = mk_sized(nodes);
    world
}

/// How many endpoints are hinted at each zone; not hinted ones under "-".
fn hinted(world: &World) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for endpoint in world.endpoints() {
        let zones = endpoint
            .hints
            .and_then(|hints| hints.for_zones)
            .unwrap_or_default();
        let zone = zones.first().map_or("-", |zone| zone.name.as_str());
        *all.entry(zone.to_owned()).or_default() += 1;
    }
    all
}

fn texts(events: &[TopologyEvent]) -> Vec<String> {
    events.iter().map(TopologyEvent::to_string).collect()
}

const OFF: [&str; 1] = ["Topology Aware Hints has been disabled, addressType: IPv4"];
const ON: [&str; 1] = ["Topology Aware Hints has been enabled, addressType: IPv4"];

#[test]
fn zones_with_many_endpoints_lend_to_zones_with_few_and_the_event_comes_once() {
    let mut world = mk_world(&EVEN, &[5, 1]);
    assert_eq!(texts(&world.converge().events), ON);
    assert_eq!(hinted(&world), counts(&[("a", 3), ("b", 3)]));
    assert_eq!(
        world
            .endpoints()
            .iter()
            .filter(|endpoint| endpoint.zone.as_deref() == Some("a"))
            .count(),
        5
    );
    world.pods.extend([on(300, 1), on(301, 2)]);
    assert!(world.converge().events.is_empty());
    assert_eq!(hinted(&world), counts(&[("a", 4), ("b", 4)]));
}

#[test]
fn without_an_allocation_hints_go_everywhere_and_each_new_reason_is_said_once() {
    let mut world = mk_world(&EVEN, &[2, 2]);
    world.options.max_endpoints = 2;
    world.converge();
    let few = "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv4";
    world.pods.truncate(1);
    assert_eq!(texts(&world.converge().events), [few]);
    assert_eq!(hinted(&world), counts(&[("-", 1)]));
    world.pods = spread(&[2, 2]);
    assert_eq!(texts(&world.converge().events), ON);
    world.nodes.insert("node-2".into(), mk_facts("a", "4"));
    let plan = world.converge();
    assert_eq!(
        texts(&plan.events),
        ["Nodes only ready in one zone, addressType: IPv4"]
    );
    assert_eq!(
        plan.writes.update.len(),
        2,
        "also slices that nothing else changes"
    );
    world.nodes.insert("node-2".into(), mk_facts("", "4"));
    let info = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, \
                addressType: IPv4";
    assert_eq!(texts(&world.converge().events), [info]);
    assert_eq!(hinted(&world), counts(&[("-", 4)]));
}

#[test]
fn a_ready_endpoint_without_zone_disables_it_and_costs_no_write_each_turn() {
    let mut world = mk_world(&[("a", "4"), ("b", "4"), ("", "4")], &[2, 2, 2]);
    let third = |world: &mut World, ready| {
        world.nodes.get_mut("node-3").unwrap().ready = ready;
    };
    third(&mut world, false);
    world.options.max_endpoints = 2;
    let reason = "One or more endpoints do not have a zone specified, addressType: IPv4";
    assert_eq!(texts(&world.converge().events), [reason]);
    assert_eq!(hinted(&world), counts(&[("-", 6)]));
}

#[test]
fn when_it_is_not_asked_for_any_more_hints_go_or_follow_the_distribution() {
    for (distribution, expected) in [(None, ("-", 4)), (Some("PreferClose"), ("a", 4))] {
        let mut world = mk_world(&EVEN, &[4, 0]);
        world.converge();
        assert_eq!(hinted(&world), counts(&[("a", 2), ("b", 2)]));
        world.service = mk_service_with(|spec| spec.traffic_distribution = distribution.map(str::to_owned));
        let plan = world.converge();
        assert_eq!(texts(&plan.events), OFF);
        assert!(plan.hints.is_empty() && plan.routing != Routing::Topology);
        assert_eq!(hinted(&world), counts(&[expected]));
    }
    let mut never = mk_world(&EVEN, &[1]);
    never.converge();
    never.service = mk_service();
    assert!(never.converge().events.is_empty(), "there were no hints to go");
}

#[test]
fn an_unchanged_slice_keeps_hints_that_fit_and_is_written_where_they_do_not() {
    let zone = |name: &str| EndpointHints {
        for_zones: Some(vec![ForZone {
            name: name.to_owned(),
        }]),
        for_nodes: None,
    };
    let node = EndpointHints {
        for_nodes: Some(vec![ForNode {
            name: "node-1".to_owned(),
        }]),
        ..zone("a")
    };
    let rows = [
        ("as they were", Some(zone("a")), 0),
        ("of another zone with room", Some(zone("b")), 0),
        ("none", None, 1),
        ("of a zone that takes no part", Some(zone("x")), 1),
        ("at a node, left by PreferSameNode", Some(node), 1),
    ];
    for (row, wrong, writes) in rows {
        let mut world = mk_world(&EVEN, &[6, 6]);
        world.options.max_endpoints = 6;
        world.converge();
        let is_at_a =
            |slice: &EndpointSlice| slice.endpoints.as_ref().unwrap()[0].zone.as_deref() == Some("a");
        let position = world
            .server
            .slices()
            .iter()
            .position(|slice| is_at_a(slice))
            .unwrap();
        world.tamper(position, |slice| {
            slice.endpoints.as_mut().unwrap()[0].hints = wrong
        });
        assert_eq!(world.converge().writes.len(), writes, "{row}");
        if writes > 0 {
            assert_eq!(hinted(&world), counts(&[("a", 6), ("b", 6)]), "{row}");
        }
    }
}

#[test]
fn hints_that_leave_another_zone_too_few_are_replaced() {
    let mut world = mk_world(&EVEN, &[4, 4]);
    world.converge();
    world.tamper(0, |slice| {
        for endpoint in slice.endpoints.as_mut().unwrap() {
            endpoint.hints.as_mut().unwrap().for_zones.as_mut().unwrap()[0].name = "a".to_owned();
        }
    });
    assert_eq!(world.converge().writes.len(), 1);
    assert_eq!(hinted(&world), counts(&[("a", 4), ("b", 4)]));
}

#[test]
fn endpoints_that_are_not_ready_do_not_count_and_get_no_hints() {
    let mut world = mk_world(&EVEN, &[2, 2]);
    world.pods.push(mk_pod_with(900, |pod| {
        pod.spec.node_name = Some("node-2".to_owned());
        pod.status.conditions = vec![mk_condition(false)];
    }));
    world.converge();
    assert_eq!(hinted(&world), counts(&[("a", 2), ("b", 2), ("-", 1)]));
}

#[test]
fn each_family_is_judged_by_itself() {
    let mut world = mk_world(&EVEN, &[2, 2]);
    let spec = world.service.spec.as_mut().unwrap();
    spec.ip_families = Some(vec!["IPv4".to_owned(), "IPv6".to_owned()]);
    for pod in &mut world.pods[1..] {
        let mut manifest = PodManifest::from(&**pod);
        manifest.status.pod_ips.truncate(1);
        *pod = Arc::new(manifest.into());
    }
    let plan = world.converge();
    assert_eq!(
        texts(&plan.events),
        [
            ON[0],
            "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv6"
        ]
    );
    assert_eq!(hinted(&world), counts(&[("a", 2), ("b", 2), ("-", 1)]));
}

#[test]
fn services_are_due_when_nodes_change_if_a_zone_is_overloaded_or_the_obstacle_is_gone() {
    let key = |name: &str| ServiceKey::new("shop", name);
    let mut book = TopologyBook::default();
    for (name, per_node) in [("fine", [4, 4]), ("few", [1, 0])] {
        let mut world = mk_world(&EVEN, &per_node);
        book.set(&key(name), world.converge().hints);
    }
    let mut zoneless = mk_world(&[("a", "4"), ("b", "4"), ("", "4")], &[2, 2, 2]);
    zoneless.nodes.get_mut("node-3").unwrap().ready = false;
    book.set(&key("zoneless"), zoneless.converge().hints);
    book.set(
        &key("plain"),
        World::new(mk_service(), spread(&[2])).converge().hints,
    );
    let due = |book: &TopologyBook, nodes: &[(&str, &str)]| -> Vec<String> {
        let due = book.due(&ZoneShares::of(&mk_sized(nodes)));
        due.iter().map(|key| key.name().to_owned()).collect()
    };
    assert_eq!(due(&book, &EVEN), [""; 0]);
    assert_eq!(
        due(&book, &[("a", "4"), ("b", "5")]),
        [""; 0],
        "within the threshold"
    );
    assert_eq!(
        due(&book, &[("a", "5"), ("b", "9")]),
        ["fine"],
        "b needs five of eight"
    );
    let three = [("a", "4"), ("b", "4"), ("c", "4")];
    assert_eq!(due(&book, &three), ["few", "fine"], "few: another reason");
    assert_eq!(due(&book, &[("a", "4"), ("b", "")]), ["few", "fine"]);
    let mut off = mk_world(&[("a", "4"), ("b", "")], &[2, 2]);
    let mut book = TopologyBook::default();
    book.set(&key("off"), off.converge().hints);
    assert_eq!(due(&book, &[("a", "4"), ("b", "")]), [""; 0]);
    assert_eq!(
        due(&book, &EVEN),
        ["off"],
        "upstream waits for the Service's next change"
    );
    book.forget(&key("off"));
    assert_eq!(due(&book, &EVEN), [""; 0]);
}

#[test]
fn a_service_that_stops_selecting_is_forgotten() {
    let mut world = mk_world(&EVEN, &[2, 2]);
    world.converge();
    world.service.spec.as_mut().unwrap().selector = None;
    let plan = world.converge();
    assert!(plan.hints.is_empty() && plan.events.is_empty());
    assert_eq!(world.hints.verdict(IpFamily::V4), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn through_any_history_every_ready_endpoint_has_one_zone_or_none_has_and_a_second_plan_is_empty(
        history in prop::collection::vec(
            (prop::collection::vec(0u16..7, 3), prop::collection::vec(1u32..9, 3), 1usize..6), 1..8,
        ),
    ) {
        let mut world = mk_world(&[("a", "1"), ("b", "1"), ("c", "1")], &[]);
        for (pods, cpus, max) in history {
            world.pods = spread(&pods);
            world.options.max_endpoints = max;
            for (node, cpu) in cpus.iter().enumerate() {
                let zone = ["a", "b", "c"][node];
                world.nodes.insert(format!("node-{}", node + 1).into(), mk_facts(zone, &cpu.to_string()));
            }
            world.converge();
            let hints = hinted(&world);
            let total: usize = pods.iter().map(|count| usize::from(*count)).sum();
            prop_assert_eq!(hints.values().sum::<usize>(), total);
            let on = allocate(&ZoneShares::of(&world.nodes), total).is_ok();
            prop_assert_eq!(hints.contains_key("-"), total > 0 && !on, "{:?}", hints);
            prop_assert!(hints.keys().all(|zone| ["a", "b", "c", "-"].contains(&zone.as_str())));
        }
    }
}
