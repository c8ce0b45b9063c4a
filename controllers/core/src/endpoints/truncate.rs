// SPDX-License-Identifier: Apache-2.0
//! Endpoints hold at most 1000 addresses; slices have no such limit.

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset};

use crate::skips::{SkipReason, Skips};

/// Addresses in one Endpoints object (upstream's limit since 1.22).
pub const CAPACITY: usize = 1000;

/// Cuts subsets in canonical form down to the capacity.
///
/// Ready addresses go first: where they alone exceed it, no other is kept. What is cut is cut in
/// proportion to the subsets' sizes, rounded up, so that the last ones may get less; the first
/// addresses of each subset stay. A subset that nothing is left of is dropped: the API refuses it.
pub(crate) fn truncate(mut subsets: Vec<EndpointSubset>, skips: &mut Skips) -> Vec<EndpointSubset> {
    let total = |subsets: &[EndpointSubset], list: fn(&EndpointSubset) -> usize| -> usize {
        subsets.iter().map(list).sum()
    };
    let (ready, not_ready) = (total(&subsets, ready_count), total(&subsets, not_ready_count));
    let cut_ready = ready > CAPACITY;
    let (room, of) = if cut_ready {
        (CAPACITY, ready)
    } else {
        (CAPACITY - ready, not_ready)
    };
    let mut left = room;
    for subset in &mut subsets {
        let list = if cut_ready {
            subset.not_ready_addresses = None;
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        let count = list.as_ref().map_or(0, Vec::len);
        let share = (count * room).div_ceil(of.max(1)).min(left);
        cut(list, share);
        left -= share.min(count);
    }
    subsets.retain(|subset| ready_count(subset) + not_ready_count(subset) > 0);
    let kept = total(&subsets, ready_count) + total(&subsets, not_ready_count);
    skips.add_many(SkipReason::OverCapacity, ready + not_ready - kept, || {
        format!("{} addresses, {CAPACITY} fit", ready + not_ready)
    });
    subsets
}

fn cut(list: &mut Option<Vec<EndpointAddress>>, length: usize) {
    if let Some(addresses) = list {
        addresses.truncate(length);
        if addresses.is_empty() {
            *list = None;
        }
    }
}

fn ready_count(subset: &EndpointSubset) -> usize {
    subset.addresses.as_ref().map_or(0, Vec::len)
}

fn not_ready_count(subset: &EndpointSubset) -> usize {
    subset.not_ready_addresses.as_ref().map_or(0, Vec::len)
}
