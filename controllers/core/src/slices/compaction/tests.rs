// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;

use k8s_openapi::api::discovery::v1::EndpointPort;
use proptest::prelude::*;

use super::*;
use crate::fixtures::*;
use crate::service::Labels;
use crate::slices::meta::{controller_ref, slice_labels};

const ALL: usize = usize::MAX;

/// No headroom, no least share: as few slices as can be.
fn greedy(max_endpoints: usize) -> CompactionRule {
    CompactionRule {
        max_endpoints,
        headroom: 0,
        freed_percent: 0,
    }
}

/// A slice of `shop/web`: its port and the numbers of its endpoints.
fn mk_slice(family: &str, port: i32, endpoints: impl IntoIterator<Item = usize>) -> EndpointSlice {
    let service = mk_service();
    let endpoint = |number: usize| Endpoint {
        addresses: vec![format!("10.0.{}.{}", number / 256, number % 256)],
        ..Endpoint::default()
    };
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: Some(endpoints.into_iter().map(endpoint).collect()),
        ports: Some(vec![EndpointPort {
            port: Some(port),
            ..EndpointPort::default()
        }]),
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            generate_name: Some("web-".to_owned()),
            labels: Some(slice_labels(&service)),
            owner_references: Some(vec![controller_ref::<Service>(&service.metadata)]),
            annotations: Some(mk_labels(&[(names::TRIGGER_TIME, "then"), ("kept", "yes")])),
            ..mk_meta("")
        },
    }
}

/// Slices of these sizes in one group, every endpoint another one.
fn mk_server(sizes: &[usize]) -> Server {
    let mut server = Server::default();
    let mut next = 0;
    for size in sizes {
        put(&mut server, mk_slice("IPv4", 80, next..next + size));
        next += size;
    }
    server
}

fn put(server: &mut Server, mut slice: EndpointSlice) {
    slice.metadata.name = None;
    server.put(slice);
}

fn plan(server: &Server, rule: CompactionRule, most_writes: usize) -> Plan<EndpointSlice> {
    plan_compaction(&mk_service(), &server.slices(), rule, most_writes)
}

fn sizes(server: &Server) -> Vec<usize> {
    let mut sizes: Vec<usize> = server.slices().iter().map(|slice| size(slice)).collect();
    sizes.sort_unstable();
    sizes
}

/// How often each endpoint is published, by group.
fn published(server: &Server) -> BTreeMap<(String, Option<i32>, String), usize> {
    let mut all = BTreeMap::new();
    for slice in server.slices() {
        let port = slice.ports.as_ref().unwrap()[0].port;
        for endpoint in slice.endpoints.iter().flatten() {
            let key = (slice.address_type.clone(), port, endpoint.addresses[0].clone());
            *all.entry(key).or_default() += 1;
        }
    }
    all
}

#[test]
fn groups_are_compacted_only_where_a_quarter_of_the_slices_goes_and_a_tenth_of_one_stays_free() {
    let rows: [(&[usize], &[usize]); 11] = [
        (&[60, 30], &[90]),
        (&[60, 31], &[31, 60]),
        (&[99, 1], &[1, 99]),
        (&[100, 100, 1], &[1, 100, 100]),
        (&[60; 10], &[60, 90, 90, 90, 90, 90, 90]),
        (&[90; 10], &[90; 10]),
        (&[100, 100, 100, 100, 40, 40], &[40, 40, 100, 100, 100, 100]),
        (&[100, 100, 40, 40], &[80, 100, 100]),
        (&[0, 5], &[5]),
        (&[0], &[0]),
        (&[250, 10, 10], &[20, 250]),
    ];
    for (before, after) in rows {
        let mut server = mk_server(before);
        let plan = plan(&server, CompactionRule::of(100), ALL);
        server.apply(&plan);
        if before == [60; 10] {
            assert_eq!(sizes(&server).len(), after.len());
        } else {
            assert_eq!(sizes(&server), after, "{before:?}");
        }
    }
}

#[test]
fn only_slices_of_ours_and_of_this_very_service_take_part_each_group_by_itself() {
    let edits: [fn(&mut EndpointSlice); 5] = [
        |slice| slice.address_type = "IPv6".to_owned(),
        |slice| slice.ports.as_mut().unwrap()[0].port = Some(81),
        |slice| slice.metadata.owner_references = None,
        |slice| {
            let labels: &mut Labels = slice.metadata.labels.as_mut().unwrap();
            labels.insert(names::SLICE_MANAGED_BY.to_owned(), "other".to_owned());
        },
        |slice| slice.metadata.deletion_timestamp = slice.metadata.creation_timestamp.clone(),
    ];
    for (row, edit) in edits.into_iter().enumerate() {
        let mut server = mk_server(&[1]);
        let mut other = mk_slice("IPv4", 80, 10..11);
        edit(&mut other);
        put(&mut server, other);
        assert!(plan(&server, greedy(5), ALL).is_empty(), "row {row}");
        put(&mut server, mk_slice("IPv4", 80, 20..21));
        assert_eq!(plan(&server, greedy(5), ALL).delete.len(), 1, "row {row}");
    }
}

#[test]
fn a_service_that_goes_or_selects_nothing_is_left_alone() {
    let server = mk_server(&[1, 1]);
    let mut going = mk_service();
    going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
    for service in [going, mk_service_with(|spec| spec.selector = None)] {
        assert!(plan_compaction(&service, &server.slices(), greedy(5), ALL).is_empty());
    }
}

#[test]
fn a_slice_that_grows_keeps_its_version_and_annotations_but_no_trigger_time() {
    let server = mk_server(&[2, 1]);
    let plan = plan(&server, greedy(5), ALL);
    let grown = &plan.update[0].metadata;
    assert!(grown.resource_version.is_some());
    assert_eq!(grown.annotations, Some(mk_labels(&[("kept", "yes")])));
}

#[test]
fn what_stands_in_two_slices_already_is_not_moved_again() {
    let mut server = mk_server(&[2]);
    put(&mut server, mk_slice("IPv4", 80, [0]));
    let plan = plan(&server, greedy(5), ALL);
    assert_eq!((plan.update.len(), plan.delete.len()), (0, 1));
}

#[test]
fn the_writes_stay_within_the_budget_and_more_come_later() {
    let mut server = mk_server(&[1; 12]);
    let mut turns = Vec::new();
    loop {
        let plan = plan(&server, greedy(3), 3);
        if plan.is_empty() {
            break;
        }
        server.apply(&plan);
        turns.push((plan.update.len(), plan.delete.len()));
    }
    assert_eq!(turns, [(1, 2), (1, 2), (1, 2), (1, 2)]);
    assert_eq!(sizes(&server), [3; 4]);
    assert!(plan(&mk_server(&[1, 1]), greedy(3), 1).is_empty());
}

/// The fewest writes that leave `target` of these slices, by trying every choice of what to free and
/// what to grow.
fn fewest_writes(sizes: &[usize], target: usize, max: usize) -> usize {
    let count = u32::try_from(sizes.len()).unwrap();
    let pick = |mask: u32| (0..sizes.len()).filter(move |index| mask & (1 << index) != 0);
    let mut best = usize::MAX;
    for freed in 0..1u32 << count {
        if freed.count_ones() as usize != sizes.len() - target {
            continue;
        }
        let moved: usize = pick(freed).map(|index| sizes[index]).sum();
        for grown in (0..1u32 << count).filter(|grown| grown & freed == 0) {
            let room: usize = pick(grown).map(|index| max - sizes[index]).sum();
            if room >= moved {
                best = best.min((freed.count_ones() + grown.count_ones()) as usize);
            }
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn every_prefix_of_the_plan_publishes_every_endpoint_and_it_ends_at_the_fewest_slices(
        sizes_before in prop::collection::vec(0usize..9, 1..12),
        other in prop::collection::vec(0usize..9, 0..4),
        max in 8usize..10,
        headroom in 0usize..3,
        budget in prop_oneof![Just(ALL), 2usize..8],
    ) {
        let mut server = mk_server(&sizes_before);
        let mut next = 500;
        for size in &other {
            put(&mut server, mk_slice("IPv6", 80, next..next + size));
            next += size;
        }
        let rule = CompactionRule { headroom, ..greedy(max) };
        let before = published(&server);
        loop {
            let plan = plan(&server, rule, budget);
            prop_assert!(plan.create.is_empty() && plan.len() <= budget);
            if plan.is_empty() {
                break;
            }
            let mut single = Vec::new();
            for update in plan.update {
                single.push(Plan { update: vec![update], ..Plan::default() });
            }
            for gone in plan.delete {
                single.push(Plan { delete: vec![gone], ..Plan::default() });
            }
            for write in single {
                server.apply(&write);
                let now = published(&server);
                prop_assert!(before.keys().eq(now.keys()), "an endpoint is missing");
            }
            prop_assert!(published(&server).values().all(|count| *count == 1), "a duplicate stays");
        }
        if budget == ALL {
            let bound = |sizes: &[usize]| {
                let fewest = (sizes.iter().sum::<usize>() + headroom).div_ceil(max).max(1);
                fewest.min(sizes.len())
            };
            prop_assert_eq!(sizes(&server).len(), bound(&sizes_before) + bound(&other));
        }
        prop_assert!(sizes(&server).iter().all(|size| *size <= max));
    }

    #[test]
    fn the_most_slices_are_freed_with_the_fewest_writes(
        sizes_before in prop::collection::vec(0usize..7, 1..7), max in 6usize..9,
    ) {
        let target = sizes_before.iter().sum::<usize>().div_ceil(max).max(1);
        let plan = plan(&mk_server(&sizes_before), greedy(max), ALL);
        if target < sizes_before.len() {
            prop_assert_eq!(plan.len(), fewest_writes(&sizes_before, target, max));
        } else {
            prop_assert!(plan.is_empty());
        }
    }
}
