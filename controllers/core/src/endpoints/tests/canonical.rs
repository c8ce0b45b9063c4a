// SPDX-License-Identifier: Apache-2.0

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use proptest::prelude::*;

use super::*;

fn mk_address(ip: &str, uid: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip.to_owned(),
        target_ref: (!uid.is_empty()).then(|| ObjectReference {
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        }),
        ..EndpointAddress::default()
    }
}

fn mk_subset(ready: &[&str], not_ready: &[&str], ports: &[i32]) -> EndpointSubset {
    let list = |ips: &[&str]| {
        let addresses: Vec<_> = ips.iter().map(|ip| mk_address(ip, "")).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let port = |port: &i32| EndpointPort {
        port: *port,
        ..EndpointPort::default()
    };
    EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: Some(ports.iter().map(port).collect()),
    }
}

fn canonical(subsets: &[EndpointSubset]) -> Vec<Row> {
    Canonical::of(subsets).to_subsets().iter().map(shape_of).collect()
}

#[test]
fn subsets_are_split_by_port_and_joined_by_equal_addresses() {
    let rows = [
        (
            "one stays",
            vec![mk_subset(&["b", "a"], &["c"], &[2, 1])],
            vec![row(&["a", "b"], &["c"], &[1, 2])],
        ),
        (
            "equal addresses are joined",
            vec![mk_subset(&["a"], &[], &[1]), mk_subset(&["a"], &[], &[2])],
            vec![row(&["a"], &[], &[1, 2])],
        ),
        (
            "a common port is split off",
            vec![mk_subset(&["a"], &[], &[1, 2]), mk_subset(&["b"], &[], &[1])],
            vec![row(&["a", "b"], &[], &[1]), row(&["a"], &[], &[2])],
        ),
        (
            "not ready wins",
            vec![mk_subset(&["a", "b"], &[], &[1]), mk_subset(&[], &["a"], &[1])],
            vec![row(&["b"], &["a"], &[1])],
        ),
        (
            "readiness tells sets apart",
            vec![mk_subset(&["a"], &[], &[1]), mk_subset(&[], &["a"], &[2])],
            vec![row(&["a"], &[], &[1]), row(&[], &["a"], &[2])],
        ),
        (
            "addresses without ports stay",
            vec![mk_subset(&["a"], &[], &[])],
            vec![row(&["a"], &[], &[])],
        ),
        (
            "ports without addresses go",
            vec![mk_subset(&[], &[], &[1])],
            vec![],
        ),
        (
            "a port named twice counts once",
            vec![mk_subset(&["a"], &[], &[1, 1])],
            vec![row(&["a"], &[], &[1])],
        ),
    ];
    for (name, subsets, expected) in rows {
        assert_eq!(canonical(&subsets), expected, "{name}");
    }
}

#[test]
fn addresses_sort_by_text_then_by_uid_and_without_target_first() {
    let subset = EndpointSubset {
        addresses: Some(vec![
            mk_address("10.0.0.9", "b"),
            mk_address("10.0.0.10", "z"),
            mk_address("10.0.0.9", "a"),
            mk_address("10.0.0.9", ""),
        ]),
        ports: Some(vec![EndpointPort::default()]),
        ..EndpointSubset::default()
    };
    let sorted = Canonical::of(&[subset]).to_subsets().remove(0).addresses.unwrap();
    let expected = [
        ("10.0.0.10", "z"),
        ("10.0.0.9", ""),
        ("10.0.0.9", "a"),
        ("10.0.0.9", "b"),
    ];
    assert_eq!(sorted, expected.map(|(ip, uid)| mk_address(ip, uid)));
}

#[test]
fn the_order_in_which_another_writer_stored_them_does_not_matter() {
    let stored = [
        mk_subset(&["b"], &["c", "a"], &[2, 1]),
        mk_subset(&["d"], &[], &[9]),
    ];
    let ours = [
        mk_subset(&["d"], &[], &[9]),
        mk_subset(&["b"], &["a", "c"], &[1]),
        mk_subset(&["b"], &["a", "c"], &[2]),
    ];
    assert_eq!(Canonical::of(&stored), Canonical::of(&ours));
    let other = [mk_subset(&["b"], &["a", "c"], &[1]), mk_subset(&["d"], &[], &[9])];
    assert_ne!(Canonical::of(&stored), Canonical::of(&other));
}

/// The naive model: for each port and address, whether it is ready.
fn model(subsets: &[EndpointSubset]) -> BTreeMap<(i32, String), bool> {
    let mut model = BTreeMap::new();
    for subset in subsets {
        let (ready, not_ready, mut ports) = shape_of(subset);
        if ports.is_empty() {
            ports.push(0);
        }
        for port in ports {
            for (list, ready) in [(&ready, true), (&not_ready, false)] {
                for ip in list {
                    *model.entry((port, ip.clone())).or_insert(true) &= ready;
                }
            }
        }
    }
    model
}

fn subsets() -> impl Strategy<Value = Vec<EndpointSubset>> {
    let ips = || prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", "e"]), 0..5);
    let subset = (ips(), ips(), prop::collection::vec(1..5, 1..4))
        .prop_map(|(ready, not_ready, ports)| mk_subset(&ready, &not_ready, &ports));
    prop::collection::vec(subset, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn the_canonical_form_says_the_same_and_is_its_own(subsets in subsets()) {
        let packed = Canonical::of(&subsets).to_subsets();
        prop_assert_eq!(model(&packed), model(&subsets));
        prop_assert_eq!(&Canonical::of(&packed).to_subsets(), &packed);
        prop_assert_eq!(Canonical::of(&packed), Canonical::of(&subsets));
        let mut ports: Vec<i32> = packed.iter().flat_map(|subset| shape_of(subset).2).collect();
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        prop_assert_eq!(ports.len(), count, "a port in two subsets");
    }

    #[test]
    fn the_order_of_subsets_does_not_matter(subsets in subsets()) {
        let mut reversed = subsets.clone();
        reversed.reverse();
        prop_assert_eq!(Canonical::of(&reversed), Canonical::of(&subsets));
    }
}
