// SPDX-License-Identifier: Apache-2.0

mod upstream;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::allocate::{Loans, allocate, loans};
use super::*;
use crate::fixtures::*;
use crate::names;
use crate::slices::{NodeFacts, Nodes};

/// A ready Node with this zone (none if empty) and CPU (none if empty).
pub(super) fn mk_facts(zone: &str, cpu: &str) -> NodeFacts {
    NodeFacts {
        zone: Some(zone).filter(|zone| !zone.is_empty()).map(Into::into),
        ready: true,
        cpu: Cpu::of(&Quantity(cpu.to_owned())),
        excluded: false,
    }
}

/// Ready Nodes node-1, node-2, ... with these zones and CPUs.
pub(super) fn mk_sized(nodes: &[(&str, &str)]) -> Nodes {
    let numbered = nodes.iter().zip(1..);
    let named =
        numbered.map(|((zone, cpu), number)| (Arc::from(format!("node-{number}")), mk_facts(zone, cpu)));
    named.collect()
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs
        .iter()
        .map(|(zone, count)| ((*zone).to_owned(), *count))
        .collect()
}

#[test]
fn of_a_node_count_its_zone_readiness_cpu_and_whether_it_is_control_plane() {
    let condition = |type_: &str, status: &str| NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        ..NodeCondition::default()
    };
    let read = |labels: &[(&str, &str)], conditions: Vec<NodeCondition>, cpu: Option<&str>| {
        let mut node = Node::default();
        node.metadata.labels = Some(mk_labels(labels));
        node.status = Some(NodeStatus {
            conditions: Some(conditions),
            allocatable: cpu.map(|cpu| BTreeMap::from([("cpu".to_owned(), Quantity(cpu.to_owned()))])),
            ..NodeStatus::default()
        });
        NodeFacts::of(&node)
    };
    let ready = || vec![condition("DiskPressure", "True"), condition("Ready", "True")];
    assert_eq!(
        read(&[(names::ZONE, "a")], ready(), Some("3920m")),
        mk_facts("a", "3920m")
    );
    assert_eq!(read(&[(names::ZONE, "")], ready(), None), mk_facts("", ""));
    for status in ["False", "Unknown"] {
        assert!(
            !read(&[], vec![condition("Ready", status)], None).ready,
            "{status}"
        );
    }
    assert!(!read(&[], Vec::new(), None).ready);
    for label in [names::CONTROL_PLANE, names::MASTER] {
        assert!(read(&[(label, "")], ready(), None).excluded, "{label}");
    }
    assert_eq!(NodeFacts::of(&Node::default()), NodeFacts::default());
}

/// What is done to one Node, and how many zones remain.
type NodeCase = (&'static str, fn(&mut NodeFacts), Result<usize, HintsOff>);
/// Endpoints by zone, and how many the first zone lends.
type LoanCase<'a> = (&'a [(&'a str, usize)], Option<usize>);

#[test]
fn shares_follow_the_cpu_of_ready_nodes_that_are_not_control_plane() {
    let two = || mk_sized(&[("a", "1"), ("b", "3"), ("b", "4")]);
    let shares = |nodes: &Nodes| {
        let shares = ZoneShares::of(nodes);
        let text = |(zone, share): (&Arc<str>, &f64)| format!("{zone} {share}");
        shares
            .by_zone()
            .map(|shares| shares.iter().map(text).collect::<Vec<_>>())
    };
    assert_eq!(
        shares(&two()),
        Ok(vec!["a 0.125".to_owned(), "b 0.875".to_owned()])
    );
    let rows: [NodeCase; 6] = [
        (
            "not ready, so it does not matter",
            |node| {
                *node = NodeFacts {
                    ready: false,
                    ..mk_facts("", "")
                };
            },
            Ok(2),
        ),
        (
            "control plane, so it does not matter",
            |node| {
                *node = NodeFacts {
                    excluded: true,
                    ..mk_facts("", "")
                };
            },
            Ok(2),
        ),
        (
            "without zone",
            |node| node.zone = None,
            Err(HintsOff::InsufficientNodeInfo),
        ),
        (
            "without CPU",
            |node| node.cpu = None,
            Err(HintsOff::InsufficientNodeInfo),
        ),
        ("in a third zone", |node| node.zone = Some("c".into()), Ok(3)),
        ("as it was", |_| {}, Ok(2)),
    ];
    for (row, edit, expected) in rows {
        let mut nodes = two();
        nodes.insert("node-4".into(), mk_facts("a", "2"));
        edit(nodes.get_mut("node-4").unwrap());
        assert_eq!(shares(&nodes).map(|shares| shares.len()), expected, "{row}");
    }
    assert_eq!(
        shares(&mk_sized(&[("a", "1"), ("a", "1")])),
        Err(HintsOff::OneZone)
    );
    assert_eq!(shares(&Nodes::new()), Err(HintsOff::InsufficientNodeInfo));
    assert_eq!(ZoneShares::default(), ZoneShares::of(&Nodes::new()));
}

#[test]
fn there_is_no_allocation_for_few_endpoints_or_where_rounding_up_asks_for_more_than_there_are() {
    let three = ZoneShares::of(&mk_sized(&[("a", "4"), ("b", "4"), ("c", "0.5")]));
    let fault = |endpoints| allocate(&three, endpoints).err();
    let (endpoints, zones) = (2, 3);
    assert_eq!(fault(2), Some(HintsOff::TooFewEndpoints { endpoints, zones }));
    let (endpoints, zones) = (4, 3);
    assert_eq!(fault(4), Some(HintsOff::Overload { endpoints, zones }));
    assert_eq!(fault(5), None);
}

#[test]
fn zones_lend_while_that_brings_one_of_them_closer_to_its_share() {
    let even = ZoneShares::of(&mk_sized(&[("a", "1"), ("b", "1")]));
    let rows: [LoanCase<'_>; 6] = [
        (&[("a", 3), ("b", 3)], None),
        (&[("a", 4), ("b", 2)], Some(1)),
        (&[("a", 6)], Some(3)),
        (&[("a", 4), ("b", 3)], None),
        (&[("a", 5), ("b", 2)], Some(1)),
        (&[("a", 6), ("b", 1)], Some(2)),
    ];
    for (present, lent) in rows {
        let present = counts(present);
        let allocations = allocate(&even, present.values().sum()).unwrap();
        let expected = lent.map_or_else(Loans::default, |lent| Loans {
            lent: counts(&[("a", lent)]),
            borrowed: counts(&[("b", lent)]),
        });
        assert_eq!(loans(&allocations, &present), expected, "{present:?}");
    }
}

#[test]
fn events_say_what_upstream_says() {
    use berth_model::IpFamily::{V4, V6};
    let (endpoints, zones) = (2, 3);
    let rows = [
        (
            TopologyEvent::Enabled(V4),
            "Topology Aware Hints has been enabled, addressType: IPv4",
        ),
        (
            TopologyEvent::Disabled(V6, HintsOff::NotAsked),
            "Topology Aware Hints has been disabled, addressType: IPv6",
        ),
        (
            TopologyEvent::Disabled(V4, HintsOff::InsufficientNodeInfo),
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, \
             addressType: IPv4",
        ),
        (
            TopologyEvent::Disabled(V4, HintsOff::OneZone),
            "Nodes only ready in one zone, addressType: IPv4",
        ),
        (
            TopologyEvent::Disabled(V4, HintsOff::TooFewEndpoints { endpoints, zones }),
            "Insufficient number of endpoints (2 endpoints, 3 zones), addressType: IPv4",
        ),
        (
            TopologyEvent::Disabled(V4, HintsOff::Overload { endpoints, zones }),
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold \
             (2 endpoints, 3 zones), addressType: IPv4",
        ),
        (
            TopologyEvent::Disabled(V4, HintsOff::EndpointWithoutZone),
            "One or more endpoints do not have a zone specified, addressType: IPv4",
        ),
    ];
    for (event, text) in rows {
        assert_eq!(event.to_string(), text);
        let warning = event != TopologyEvent::Enabled(V4);
        assert_eq!(event.is_warning(), warning);
        let reason = if warning {
            "TopologyAwareHintsDisabled"
        } else {
            "TopologyAwareHintsEnabled"
        };
        assert_eq!(event.reason(), reason);
    }
}
