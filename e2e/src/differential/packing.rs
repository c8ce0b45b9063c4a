// SPDX-License-Identifier: Apache-2.0
//! How many slices upstream would make of those that a side had.
//!
//! Upstream takes the endpoints that it adds from a Go map, so which of them share a slice is a matter of luck, and with
//! it how many slices are left when some of them go. Two sides with the same endpoints may therefore end with different
//! numbers and both be right. What is not luck is how the number follows from the slices that were there before: this is
//! a naive model of `reconcileByPortMapping` (k8s.io/endpointslice, reconciler.go) that counts and places nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::observe::{EndpointRow, Port};
use super::request::STRANGER;
use super::step::{Map, SliceMeddling};

/// A slice as packing sees it. The order is the one in which strangers count slices: it depends on neither names nor,
/// as long as sizes differ, on which endpoints are together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Packed {
    pub(crate) family: String,
    pub(crate) ports: Vec<Port>,
    pub(crate) size: usize,
    pub(crate) endpoints: Vec<EndpointRow>,
    pub(crate) labels: Map,
}

/// The slice that a stranger means by a number.
pub(crate) fn nth<T>(mut slices: Vec<(Packed, T)>, nth: usize) -> Option<T> {
    slices.sort_by(|one, other| one.0.cmp(&other.0));
    let count = slices.len().max(1);
    slices.into_iter().nth(nth % count).map(|(_, slice)| slice)
}

/// What a stranger makes of a side's slices.
pub(crate) fn meddled(slices: &mut Vec<Packed>, number: usize, how: SliceMeddling) {
    let numbered = slices.iter().cloned().zip(0..).collect();
    let Some(index) = nth(numbered, number) else {
        return;
    };
    match how {
        SliceMeddling::Empty => {
            slices[index].endpoints.clear();
            slices[index].size = 0;
        }
        SliceMeddling::Label => {
            slices[index].labels.insert(STRANGER.to_owned(), "yes".to_owned());
        }
        SliceMeddling::Disown | SliceMeddling::Delete => drop(slices.remove(index)),
    }
}

/// How many slices of each family upstream would have, had it `before`, and to come to the endpoints of `after`.
pub(crate) fn upstreams(before: &[Packed], after: &[Packed], most: usize) -> BTreeMap<String, usize> {
    let groups: BTreeSet<_> = after.iter().map(|slice| (&slice.family, &slice.ports)).collect();
    let mut counts = BTreeMap::new();
    for (family, ports) in groups {
        let here = |slice: &&Packed| slice.family == *family && slice.ports == *ports;
        let before: Vec<&Packed> = before.iter().filter(here).collect();
        let after: Vec<&Packed> = after.iter().filter(here).collect();
        *counts.entry(family.clone()).or_default() += of_a_group(&before, &after, most);
    }
    // A family without endpoints has one empty slice.
    counts
        .values_mut()
        .for_each(|count: &mut usize| *count = (*count).max(1));
    counts
}

fn of_a_group(before: &[&Packed], after: &[&Packed], most: usize) -> usize {
    let mut wanted: BTreeSet<&EndpointRow> = after.iter().flat_map(|slice| &slice.endpoints).collect();
    let stay: BTreeSet<_> = wanted.iter().map(|endpoint| endpoint.identity()).collect();
    let labels = after.first().map(|slice| &slice.labels);
    let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
    for slice in before {
        let stays = slice
            .endpoints
            .iter()
            .filter(|endpoint| stay.contains(&endpoint.identity()));
        let (stays, same) = (
            stays.count(),
            slice.endpoints.iter().all(|endpoint| wanted.contains(endpoint)),
        );
        if same && labels == Some(&slice.labels) {
            unchanged.push(stays);
        } else if same || stays > 0 {
            changed.push(stays);
        }
    }
    let placed: BTreeSet<_> = before
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .map(|endpoint| endpoint.identity())
        .collect();
    wanted.retain(|endpoint| !placed.contains(&endpoint.identity()));
    let room: usize = changed.iter().map(|size| most.saturating_sub(*size)).sum();
    let mut left = wanted.len().saturating_sub(room);
    let mut slices = changed.len() + unchanged.len();
    // A last part goes into the one unchanged slice that has room for all of it.
    while left > 0 {
        if left < most && unchanged.iter().any(|size| size + left <= most) {
            break;
        }
        slices += 1;
        left = left.saturating_sub(most);
    }
    slices
}

/// A slice of the API as packing sees it.
pub(crate) fn packed(slice: &EndpointSlice, ports: Vec<Port>, endpoints: Vec<EndpointRow>) -> Packed {
    let mut endpoints = endpoints;
    endpoints.sort();
    Packed {
        family: slice.address_type.clone(),
        ports,
        size: endpoints.len(),
        endpoints,
        labels: slice.metadata.labels.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(family: &str, addresses: &[&str]) -> Packed {
        let endpoint = |address: &&str| EndpointRow::of_address(address);
        Packed {
            family: family.to_owned(),
            ports: Vec::new(),
            size: addresses.len(),
            endpoints: addresses.iter().map(endpoint).collect(),
            labels: Map::new(),
        }
    }

    fn count(before: &[Packed], after: &[Packed]) -> usize {
        upstreams(before, after, 3).values().sum()
    }

    #[test]
    fn the_number_of_slices_follows_from_those_before() {
        let all = |addresses: &[&str]| [slice("IPv4", addresses)];
        let three_and_one = [slice("IPv4", &["a", "b", "c"]), slice("IPv4", &["d"])];
        for (before, after, expected, what) in [
            (&[][..], all(&["a", "b", "c", "d"]), 2, "made"),
            (
                &three_and_one,
                all(&["a", "b", "c", "d", "e"]),
                2,
                "put into a slice with room",
            ),
            (&three_and_one, all(&["a", "b", "c"]), 1, "an empty one goes"),
            (&three_and_one, all(&["b", "c", "d"]), 2, "fragments stay"),
            (
                &three_and_one,
                all(&["b", "c", "d", "e"]),
                2,
                "a changed one is filled first",
            ),
            (&three_and_one, all(&[]), 1, "a placeholder"),
        ] {
            assert_eq!(count(before, &after), expected, "{what}");
        }
        assert_eq!(count(&[], &[slice("IPv4", &["a"]), slice("IPv6", &["a"])]), 2);
    }

    #[test]
    fn a_slice_that_a_stranger_emptied_is_filled_only_by_a_remainder() {
        let mut slices = vec![slice("IPv4", &["d"]), slice("IPv4", &["a", "b", "c"])];
        let after = slices.clone();
        meddled(&mut slices, 1, SliceMeddling::Empty);
        assert_eq!(count(&slices, &after), 3, "three make a slice of their own");
        let mut slices = after.clone();
        meddled(&mut slices, 2, SliceMeddling::Empty);
        assert_eq!(count(&slices, &after), 2);
        let mut slices = after.clone();
        meddled(&mut slices, 0, SliceMeddling::Delete);
        assert_eq!(slices.len(), 1);
        assert_eq!(count(&slices, &after), 2);
    }
}
