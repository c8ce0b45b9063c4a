// SPDX-License-Identifier: Apache-2.0
//! Packing one group of endpoints into slices with as few writes as possible.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{EndpointId, same_beyond_identity};

/// What becomes of the slices of one group. Every wanted endpoint is in exactly one place.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Packed {
    /// Endpoints of slices to be created, none empty.
    pub(crate) create: Vec<Vec<Endpoint>>,
    /// Slices that get these endpoints (and the wanted labels).
    pub(crate) update: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)>,
    /// Slices of which nothing is left.
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
    /// Slices that are right.
    pub(crate) unchanged: Vec<Arc<EndpointSlice>>,
    /// Endpoints that were in no slice.
    pub(crate) added: usize,
    /// Endpoints that stay in their slice, changed.
    pub(crate) updated: usize,
    /// Entries that left their slice.
    pub(crate) removed: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unchanged,
    Update,
    Delete,
}

/// One slice on the way: indices into the wanted endpoints.
struct Draft<'a> {
    slice: &'a Arc<EndpointSlice>,
    holds: Vec<usize>,
    updated: usize,
    lost: usize,
    fate: Fate,
}

/// Packs `desired`, which is not empty, into the `existing` slices of its group, at most `max` endpoints where any are
/// added; a slice that already holds more is left whole. `relabel` says whether a slice needs other labels.
///
/// 1. Every slice keeps what is still wanted. 2. The rest goes into slices that are written anyway,
///    fullest first. 3. What is left goes into one untouched slice that can take all of it, else into
///    new ones.
///
/// A slice that somebody emptied counts as written anyway: it is filled, or goes. Upstream leaves it beside the
/// others, and fills it by a remainder only.
pub(crate) fn pack(
    existing: &[Arc<EndpointSlice>],
    desired: Vec<Endpoint>,
    max: usize,
    relabel: impl Fn(&EndpointSlice) -> bool,
) -> Packed {
    let max = max.max(1);
    let mut drafts: Vec<Draft<'_>> = Vec::with_capacity(existing.len());
    let mut wanted: BTreeMap<EndpointId<'_>, usize> = BTreeMap::new();
    for (index, endpoint) in desired.iter().enumerate() {
        wanted.entry(EndpointId::of(endpoint)).or_insert(index);
    }
    for slice in existing {
        drafts.push(keep(slice, &desired, &mut wanted, &relabel));
    }
    let mut leftovers: Vec<usize> = wanted.into_values().collect();
    let added = leftovers.len();
    // Taken from the back below; the order of identities is what a reader expects to find.
    leftovers.reverse();
    fill_updates(&mut drafts, &mut leftovers, max);
    let fresh = place_rest(&mut drafts, &mut leftovers, max);
    finish(drafts, fresh, desired, added)
}

/// Pass 1, for one slice.
fn keep<'slice: 'id, 'id>(
    slice: &'slice Arc<EndpointSlice>,
    desired: &[Endpoint],
    wanted: &mut BTreeMap<EndpointId<'id>, usize>,
    relabel: impl Fn(&EndpointSlice) -> bool,
) -> Draft<'slice> {
    let present = slice.endpoints.as_deref().unwrap_or_default();
    let mut holds = Vec::with_capacity(present.len());
    let mut updated = 0;
    for endpoint in present {
        // Taken out of the wanted ones: a duplicate in a later slice is dropped there.
        if let Some(index) = wanted.remove(&EndpointId::of(endpoint)) {
            updated += usize::from(!same_beyond_identity(&desired[index], endpoint));
            holds.push(index);
        }
    }
    let lost = present.len() - holds.len();
    let emptied = present.is_empty();
    let fate = if lost > 0 && holds.is_empty() {
        Fate::Delete
    } else if lost > 0 || updated > 0 || relabel(slice) || emptied {
        Fate::Update
    } else {
        Fate::Unchanged
    };
    Draft {
        slice,
        holds,
        updated,
        lost,
        fate,
    }
}

/// Pass 2.
fn fill_updates(drafts: &mut [Draft<'_>], leftovers: &mut Vec<usize>, max: usize) {
    let mut open: Vec<&mut Draft<'_>> = drafts
        .iter_mut()
        .filter(|draft| draft.fate == Fate::Update)
        .collect();
    open.sort_by_key(|draft| Reverse(draft.holds.len()));
    for draft in open {
        let room = max.saturating_sub(draft.holds.len());
        take(leftovers, room, &mut draft.holds);
    }
}

/// Pass 3. Returns the contents of new slices.
fn place_rest(drafts: &mut [Draft<'_>], leftovers: &mut Vec<usize>, max: usize) -> Vec<Vec<usize>> {
    let mut fresh = Vec::new();
    while !leftovers.is_empty() {
        let count = leftovers.len();
        let fitting = drafts
            .iter_mut()
            .filter(|draft| draft.fate == Fate::Unchanged && draft.holds.len() + count <= max)
            .filter(|_| count < max)
            .reduce(|best, draft| {
                if draft.holds.len() > best.holds.len() {
                    draft
                } else {
                    best
                }
            });
        match fitting {
            Some(draft) => {
                draft.fate = Fate::Update;
                take(leftovers, count, &mut draft.holds);
            }
            None => {
                let mut holds = Vec::with_capacity(count.min(max));
                take(leftovers, max, &mut holds);
                fresh.push(holds);
            }
        }
    }
    fresh
}

fn take(leftovers: &mut Vec<usize>, room: usize, into: &mut Vec<usize>) {
    let rest = leftovers.len().saturating_sub(room);
    into.extend(leftovers.drain(rest..).rev());
}

fn finish(drafts: Vec<Draft<'_>>, fresh: Vec<Vec<usize>>, desired: Vec<Endpoint>, added: usize) -> Packed {
    let mut desired: Vec<Option<Endpoint>> = desired.into_iter().map(Some).collect();
    let mut endpoints = |holds: Vec<usize>| -> Vec<Endpoint> {
        holds
            .into_iter()
            .filter_map(|index| desired[index].take())
            .collect()
    };
    let mut packed = Packed {
        added,
        updated: drafts.iter().map(|draft| draft.updated).sum(),
        removed: drafts.iter().map(|draft| draft.lost).sum(),
        ..Packed::default()
    };
    for draft in drafts {
        let slice = Arc::clone(draft.slice);
        match draft.fate {
            Fate::Unchanged => packed.unchanged.push(slice),
            Fate::Update if draft.holds.is_empty() => packed.delete.push(slice),
            Fate::Update => packed.update.push((slice, endpoints(draft.holds))),
            Fate::Delete => packed.delete.push(slice),
        }
    }
    packed.create = fresh.into_iter().map(endpoints).collect();
    packed
}
