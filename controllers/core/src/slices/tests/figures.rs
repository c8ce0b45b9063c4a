// SPDX-License-Identifier: Apache-2.0
//! The figures of a turn, as upstream's metrics define them.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::fixtures::*;

/// Endpoints, slices, optimal slices, added, updated, removed.
fn row(plan: &SlicePlan, family: IpFamily) -> [usize; 6] {
    let counts = plan.counts[&family];
    [
        counts.endpoints,
        counts.slices,
        counts.optimal_slices,
        counts.added,
        counts.updated,
        counts.removed,
    ]
}

#[test]
fn each_family_counts_what_it_has_gains_and_loses() {
    let service = mk_service_with(|spec| {
        spec.ip_families = Some(vec!["IPv4".to_owned(), "IPv6".to_owned()]);
    });
    let mut world = World::new(service, mk_pods(0..5));
    world.options.max_endpoints = 2;
    world.pods[0] = mk_pod_with(0, |pod| pod.status.pod_ips.truncate(1));
    let plan = world.converge();
    assert_eq!(row(&plan, IpFamily::V4), [5, 3, 3, 5, 0, 0]);
    assert_eq!(row(&plan, IpFamily::V6), [4, 2, 2, 4, 0, 0]);
    world.pods[1] = mk_pod_with(1, |pod| pod.status.conditions = vec![mk_condition(false)]);
    world.pods.truncate(4);
    let plan = world.converge();
    assert_eq!(row(&plan, IpFamily::V4), [4, 2, 2, 0, 1, 1]);
    assert_eq!(row(&plan, IpFamily::V6), [3, 2, 2, 0, 1, 1]);
    world.pods.clear();
    let plan = world.converge();
    assert_eq!(
        row(&plan, IpFamily::V4),
        [0, 1, 1, 0, 0, 4],
        "the last ones count too"
    );
    let plan = world.plan();
    assert_eq!(row(&plan, IpFamily::V6), [0, 1, 1, 0, 0, 0], "the placeholder");
}

#[test]
fn a_group_without_endpoints_needs_no_slice() {
    let service = mk_service_with(|spec| {
        spec.ports = Some(vec![mk_port("http", 80, IntOrString::String("web".to_owned()))]);
    });
    let lost = mk_pod_with(2, |pod| pod.spec.node_name = Some("node-9".to_owned()));
    let found = mk_pod_with(1, |pod| pod.spec.containers = vec![mk_container("web", 8080)]);
    let world = World::new(service, vec![found, lost]);
    assert_eq!(row(&world.plan(), IpFamily::V4), [1, 1, 1, 1, 0, 0]);
}

#[test]
fn a_plan_names_what_decides_its_hints() {
    let rows = [
        (None, None, ("Disabled", "")),
        (Some("PreferClose"), None, ("Disabled", "PreferClose")),
        (Some("PreferSameNode"), None, ("Disabled", "PreferSameNode")),
        (Some("PreferClose"), Some("Auto"), ("Auto", "")),
        (Some("Nonsense"), None, ("Disabled", "")),
    ];
    for (distribution, mode, labels) in rows {
        let mut service = mk_service_with(|spec| {
            spec.traffic_distribution = distribution.map(str::to_owned);
        });
        service.metadata.annotations = mode.map(|mode| mk_labels(&[(names::TOPOLOGY_MODE, mode)]));
        let routing = World::new(service, Vec::new()).plan().routing;
        assert_eq!((routing.topology_label(), routing.distribution_label()), labels);
    }
}
