// SPDX-License-Identifier: Apache-2.0

use super::*;
use crate::fixtures::*;

fn world(max: usize, pods: std::ops::Range<u16>) -> World {
    let mut world = World::new(mk_service(), mk_pods(pods));
    world.options.max_endpoints = max;
    world
}

fn sizes(world: &World) -> Vec<usize> {
    let shape = world.shape().into_iter();
    let mut sizes: Vec<usize> = shape.map(|(.., addresses)| addresses.len()).collect();
    sizes.sort_unstable_by(|left, right| right.cmp(left));
    sizes
}

fn verbs(plan: &SlicePlan) -> [usize; 3] {
    let writes = &plan.writes;
    [writes.create.len(), writes.update.len(), writes.delete.len()]
}

#[test]
fn endpoints_fill_slices_up_to_the_maximum() {
    for (max, pods, expected) in [
        (100, 10, vec![10]),
        (3, 3, vec![3]),
        (3, 7, vec![3, 3, 1]),
        (1, 2, vec![1, 1]),
    ] {
        let mut world = world(max, 0..pods);
        let plan = world.converge();
        assert_eq!(sizes(&world), expected, "{pods} Pods by {max}");
        assert_eq!(verbs(&plan), [expected.len(), 0, 0]);
        assert_eq!(plan.counts[&IpFamily::V4].added, usize::from(pods));
        assert_eq!(plan.counts[&IpFamily::V4].slices, expected.len());
    }
}

#[test]
fn a_vanished_pod_leaves_its_slice_and_the_last_one_deletes_it() {
    let mut world = world(3, 0..7);
    world.converge();
    world.pods.retain(|pod| **pod.name() != *"web-0");
    let plan = world.converge();
    assert_eq!((sizes(&world), verbs(&plan)), (vec![3, 2, 1], [0, 1, 0]));
    world.pods.retain(|pod| **pod.name() != *"web-6");
    let plan = world.converge();
    assert_eq!((sizes(&world), verbs(&plan)), (vec![3, 2], [0, 0, 1]));
    assert_eq!(plan.counts[&IpFamily::V4].removed, 1);
}

#[test]
fn new_endpoints_go_first_into_slices_that_are_written_anyway() {
    let mut world = world(3, 0..6);
    world.converge();
    // web-0 leaves the first slice, web-9 takes its place: one write, the other slice untouched.
    world.pods.remove(0);
    world.pods.push(Arc::new(mk_pod(9)));
    assert_eq!(verbs(&world.converge()), [0, 1, 0]);
    assert_eq!(sizes(&world), [3, 3]);
}

#[test]
fn written_slices_are_filled_fullest_first() {
    let mut world = world(4, 0..8);
    world.converge();
    // The first slice loses one endpoint, the second three; three new ones come.
    let gone = ["web-0", "web-4", "web-5", "web-6"];
    world.pods.retain(|pod| !gone.contains(&&**pod.name()));
    world.pods.extend(mk_pods(10..13));
    assert_eq!(verbs(&world.converge()), [0, 2, 0]);
    assert_eq!(sizes(&world), [4, 3]);
    let first = &world.server.slices()[0];
    assert_eq!(first.endpoints.as_ref().unwrap().len(), 4);
}

#[test]
fn leftovers_go_into_the_untouched_slice_that_ends_closest_to_full() {
    let mut world = world(5, 10..25);
    world.converge();
    let gone = ["web-10", "web-11", "web-12", "web-15"];
    world.pods.retain(|pod| !gone.contains(&&**pod.name()));
    world.converge();
    assert_eq!(sizes(&world), [5, 4, 2]);
    world.pods.extend(mk_pods(30..32));
    assert_eq!(verbs(&world.converge()), [0, 1, 0]);
    assert_eq!(sizes(&world), [5, 4, 4]);
    world.pods.extend(mk_pods(40..41));
    assert_eq!(verbs(&world.converge()), [0, 1, 0]);
    assert_eq!(sizes(&world), [5, 5, 4]);
}

#[test]
fn one_create_is_preferred_over_several_updates_and_nothing_is_rebalanced() {
    let mut world = world(4, 0..8);
    world.converge();
    let gone = ["web-0", "web-1", "web-4", "web-5"];
    world.pods.retain(|pod| !gone.contains(&&**pod.name()));
    world.converge();
    assert_eq!(sizes(&world), [2, 2], "not compacted");
    world.pods.extend(mk_pods(20..23));
    assert_eq!(verbs(&world.converge()), [1, 0, 0]);
    assert_eq!(sizes(&world), [3, 2, 2]);
}

#[test]
fn a_changed_endpoint_is_updated_in_place() {
    type Edit = fn(&mut berth_snapshot::pod::PodManifest);
    let rows: [(&str, Edit, [usize; 3]); 6] = [
        (
            "readiness",
            |pod| pod.status.conditions = vec![mk_condition(false)],
            [0, 1, 0],
        ),
        (
            "node and zone",
            |pod| pod.spec.node_name = Some("node-2".to_owned()),
            [0, 1, 0],
        ),
        (
            "uid",
            |pod| pod.metadata.uid = Some("uid-new".to_owned()),
            [0, 1, 0],
        ),
        (
            "resource version",
            |pod| pod.metadata.resource_version = Some("9".to_owned()),
            [0, 0, 0],
        ),
        ("labels", |pod| pod.metadata.labels = None, [0, 0, 0]),
        (
            "address",
            |pod| pod.status.pod_ips[0].ip = "10.244.9.9".to_owned(),
            [0, 1, 0],
        ),
    ];
    for (name, edit, expected) in rows {
        let mut world = world(2, 0..4);
        world.converge();
        world.pods[0] = mk_pod_with(0, edit);
        assert_eq!(verbs(&world.converge()), expected, "{name}");
    }
}

#[test]
fn a_foreign_edit_of_endpoints_is_reverted_and_duplicates_are_dropped() {
    let mut world = world(2, 0..4);
    world.converge();
    let endpoints = |slice: &EndpointSlice| slice.endpoints.clone().unwrap();
    let first = endpoints(&world.server.slices()[0]);
    world.tamper(1, |slice| {
        slice.endpoints.as_mut().unwrap().push(first[0].clone())
    });
    assert_eq!(verbs(&world.converge()), [0, 1, 0]);
    assert_eq!(sizes(&world), [2, 2]);
    world.tamper(0, |slice| slice.endpoints = Some(Vec::new()));
    world.converge();
    assert_eq!(world.endpoints().len(), 4);
}

#[test]
fn a_slice_that_somebody_emptied_is_filled_or_goes() {
    // Sizes of the slices, which one is emptied, verbs, sizes at the end.
    for (pods, emptied, expected, sizes_after) in [
        (7, 0, [0, 1, 0], vec![3, 3, 1]),
        (7, 2, [0, 1, 0], vec![3, 3, 1]),
        (3, 0, [0, 1, 0], vec![3]),
    ] {
        let mut world = world(3, 0..pods);
        world.converge();
        world.tamper(emptied, |slice| slice.endpoints = None);
        assert_eq!(verbs(&world.converge()), expected, "{pods} Pods, slice {emptied}");
        assert_eq!(sizes(&world), sizes_after);
    }
    let mut world = world(3, 0..4);
    world.converge();
    let last = world
        .server
        .slices()
        .iter()
        .position(|slice| slice.endpoints.as_ref().map_or(0, Vec::len) == 1)
        .unwrap();
    let gone = world.server.slices()[last].endpoints.clone().unwrap()[0]
        .addresses
        .clone();
    world.tamper(last, |slice| slice.endpoints = None);
    world.pods.retain(|pod| {
        pod.addresses()
            .all(|address| !gone.contains(&address.to_string()))
    });
    assert_eq!(
        verbs(&world.converge()),
        [0, 0, 1],
        "nothing is left to fill it with"
    );
}

#[test]
fn an_existing_slice_over_a_lowered_maximum_is_not_split() {
    let mut world = world(10, 0..8);
    world.converge();
    world.options.max_endpoints = 3;
    assert!(world.plan().writes.is_empty());
    world.pods.push(Arc::new(mk_pod(20)));
    world.converge();
    assert_eq!(sizes(&world), [8, 1]);
}

#[test]
fn changed_labels_of_the_service_are_written_and_foreign_ones_dropped() {
    let mut world = world(2, 0..4);
    world.converge();
    world.service.metadata.labels = Some(mk_labels(&[("team", "a"), (names::SERVICE_NAME, "fake")]));
    assert_eq!(verbs(&world.converge()), [0, 2, 0]);
    world.tamper(0, |slice| {
        let labels = slice.metadata.labels.as_mut().unwrap();
        labels.insert("foreign".to_owned(), "x".to_owned());
    });
    assert_eq!(verbs(&world.converge()), [0, 1, 0]);
    for slice in world.server.slices() {
        let expected = mk_labels(&[
            ("team", "a"),
            (names::SERVICE_NAME, "web"),
            (names::SLICE_MANAGED_BY, names::SLICE_CONTROLLER),
        ]);
        assert_eq!(slice.metadata.labels.as_ref(), Some(&expected));
    }
}

#[test]
fn a_headless_flip_alone_is_no_reason_for_a_write_but_comes_with_the_next_one() {
    let mut world = world(5, 0..2);
    world.converge();
    world.service.spec.as_mut().unwrap().cluster_ip = Some("None".to_owned());
    assert!(world.plan().writes.is_empty());
    world.pods.push(Arc::new(mk_pod(9)));
    world.converge();
    let slices = world.server.slices();
    let labels = slices[0].metadata.labels.as_ref().unwrap();
    assert_eq!(labels.get(names::HEADLESS).map(String::as_str), Some(""));
}

#[test]
fn a_created_slice_is_owned_by_the_service_and_named_by_the_server() {
    let mut world = world(5, 0..1);
    let plan = world.converge();
    let meta = &plan.writes.create[0].metadata;
    assert_eq!((meta.generate_name.as_deref(), &meta.name), (Some("web-"), &None));
    assert_eq!(meta.namespace.as_deref(), Some("shop"));
    let owner = &meta.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.api_version.as_str()),
        ("Service", "v1")
    );
    assert_eq!((owner.name.as_str(), owner.uid.as_str()), ("web", "uid-web"));
    assert_eq!(
        (owner.controller, owner.block_owner_deletion),
        (Some(true), Some(true))
    );
}

#[test]
fn the_name_prefix_ends_in_a_dash_if_that_still_is_a_name() {
    assert_eq!(generate_name("web"), "web-");
    assert_eq!(generate_name(&"a".repeat(252)), format!("{}-", "a".repeat(252)));
    assert_eq!(generate_name(&"a".repeat(253)), "a".repeat(253));
}

#[test]
fn an_update_carries_its_resource_version_and_keeps_annotations_but_no_managed_fields() {
    let mut world = world(5, 0..2);
    world.converge();
    world.tamper(0, |slice| {
        slice.metadata.annotations = Some(mk_labels(&[("foreign", "kept")]));
        slice.metadata.managed_fields = Some(Vec::new());
    });
    world.service.metadata.annotations = Some(mk_labels(&[("of-service", "not copied")]));
    world.pods.push(Arc::new(mk_pod(9)));
    let before = world.server.slices()[0].metadata.resource_version.clone();
    let plan = world.converge();
    let meta = &plan.writes.update[0].metadata;
    assert_eq!(meta.resource_version, before);
    assert_eq!(meta.annotations, Some(mk_labels(&[("foreign", "kept")])));
    assert_eq!(meta.managed_fields, None);
}

#[test]
fn the_trigger_time_is_set_on_every_write_and_removed_where_there_is_none() {
    let mut world = world(5, 0..2);
    world.trigger_time = Some(at(1_700_000_000));
    world.converge();
    let annotation = |world: &World| {
        let slices = world.server.slices();
        let annotations = slices[0].metadata.annotations.clone().unwrap_or_default();
        annotations.get(names::TRIGGER_TIME).cloned()
    };
    assert_eq!(annotation(&world).as_deref(), Some("2023-11-14T22:13:20Z"));
    world.trigger_time = None;
    assert!(
        world.plan().writes.is_empty(),
        "the annotation alone is no reason for a write"
    );
    world.pods.pop();
    world.converge();
    assert_eq!(annotation(&world), None);
}

#[test]
fn a_plan_prints_one_line_per_write() {
    let mut world = world(2, 0..3);
    let text = world.converge().writes.to_string();
    assert_eq!(
        text,
        "create EndpointSlice shop/web-* (IPv4, 2 endpoints, ports http=8080/TCP)\n\
         create EndpointSlice shop/web-* (IPv4, 1 endpoint, ports http=8080/TCP)\n"
    );
    world.pods = mk_pods(1..2);
    let text = world.converge().writes.to_string();
    assert_eq!(
        text,
        "update EndpointSlice shop/web-0001 (IPv4, 1 endpoint, ports http=8080/TCP)\n\
         delete EndpointSlice shop/web-0002\n"
    );
}
