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
        let share = share(count, of, room).min(left);
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

/// The share of one subset, rounded up on the same floats as upstream: for some sizes that is one
/// more than the exact share, and the next controller would write again.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of the room: it is at most the capacity"
)]
fn share(count: usize, of: usize, room: usize) -> usize {
    ((count as f64 / of.max(1) as f64) * room as f64).ceil() as usize
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_subset(ready: usize, not_ready: usize) -> EndpointSubset {
        let list = |count| Some(vec![EndpointAddress::default(); count]).filter(|list| !list.is_empty());
        EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(not_ready),
            ports: None,
        }
    }

    #[test]
    fn each_subset_gets_its_share_rounded_up_as_upstream_rounds_and_the_last_what_is_left() {
        type Sizes = &'static [(usize, usize)];
        let rows: [(Sizes, Sizes); 6] = [
            (&[(2000, 5)], &[(1000, 0)]),
            (&[(1000, 5), (1000, 0)], &[(500, 0), (500, 0)]),
            (&[(1001, 0), (1, 0), (1, 0)], &[(999, 0), (1, 0)]),
            (&[(400, 900), (0, 300)], &[(400, 450), (0, 150)]),
            // 110 / 316 * 158 is 55 exactly, and 55.00000000000001 on floats.
            (&[(842, 110), (0, 206)], &[(842, 56), (0, 102)]),
            (&[(1000, 1)], &[(1000, 0)]),
        ];
        for (before, after) in rows {
            let subsets = before.iter().map(|(ready, not)| mk_subset(*ready, *not));
            let cut = truncate(subsets.collect(), &mut Skips::default());
            let sizes = cut
                .iter()
                .map(|subset| (ready_count(subset), not_ready_count(subset)));
            assert_eq!(sizes.collect::<Vec<_>>(), after, "{before:?}");
        }
    }
}
