// SPDX-License-Identifier: Apache-2.0
//! Compaction: endpoints that are scattered over many slices move into few.
//!
//! Packing never rebalances, so slices that lost most of their endpoints linger, each a watched
//! object on every node. Compaction frees slices of a group (one family, one port list) with the
//! fewest writes: the emptiest are deleted, and what they hold goes into the emptiest of the rest.
//! Only additions and deletions: nothing is taken out of a slice that stays, so after each write of
//! a plan, in its order, every endpoint is in some slice; for a moment it may be in two, which the
//! API allows.

mod budget;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::identity::{EndpointId, PortsKey};
use super::is_managed;
use super::meta::{is_owned_by, set_trigger_time};
use crate::names;
use crate::plan::{ObjectRef, Plan};
use crate::service::selector_of;

pub use budget::WriteBudget;

/// When a group is worth compacting, and how far. With `n` endpoints in `s` slices it ends in the
/// fewest slices that hold `n + headroom`, if that frees `freed_percent` of `s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionRule {
    /// Endpoints per slice, 1 to 1000: that of the slice planner.
    pub max_endpoints: usize,
    /// Slots that stay free, so that the next Pods do not bring the freed slice back.
    pub headroom: usize,
    /// The least share of a group's slices to free, 0 to 100; one slice at least.
    pub freed_percent: usize,
}

impl CompactionRule {
    /// The rule for slices of this size: a tenth of a slice stays free, and a quarter of a group's
    /// slices must go. So two slices with 60 and 30 of 100 endpoints become one, ten of 60 become
    /// seven, and ten of 90 stay.
    pub fn of(max_endpoints: usize) -> Self {
        let max_endpoints = max_endpoints.max(1);
        Self {
            max_endpoints,
            headroom: max_endpoints.div_ceil(10),
            freed_percent: 25,
        }
    }
}

/// Plans the compaction of one Service's slices, with `most_writes` writes at most: what a
/// [`WriteBudget`] has left. What does not fit in is planned next time.
///
/// For when [`super::plan_slices`] has nothing to write: endpoints move as they are. Empty where no
/// group is worth it, and for a Service that is being deleted or selects nothing.
pub fn plan_compaction(
    service: &Service,
    existing: &[Arc<EndpointSlice>],
    rule: CompactionRule,
    most_writes: usize,
) -> Plan<EndpointSlice> {
    let mut plan = Plan::default();
    if selector_of(service).is_err() || service.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let mut groups: BTreeMap<(&str, PortsKey), Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        if is_managed(slice, names::SLICE_CONTROLLER, service.metadata.name.as_ref())
            && is_owned_by(slice, service)
        {
            let key = (slice.address_type.as_str(), PortsKey::of_slice(slice));
            groups.entry(key).or_default().push(slice);
        }
    }
    for slices in groups.into_values() {
        let room = most_writes.saturating_sub(plan.len());
        compact(slices, rule, room, &mut plan);
    }
    plan
}

fn size(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

/// How many of these sizes, emptiest first, can be freed: the rest, never none, has room for what
/// they hold and for the headroom.
fn freeable(sizes: &[usize], rule: CompactionRule) -> usize {
    let room_in = |size: &usize| rule.max_endpoints.saturating_sub(*size);
    let mut room: usize = sizes.iter().map(room_in).sum();
    let mut moved = 0;
    let candidates = sizes.iter().take(sizes.len().saturating_sub(1));
    let fitting = candidates.take_while(|size| {
        room -= room_in(size);
        moved += **size;
        moved + rule.headroom <= room
    });
    fitting.count()
}

/// Frees what can be freed of one group, as far as the writes go.
fn compact(
    mut slices: Vec<&Arc<EndpointSlice>>,
    rule: CompactionRule,
    most_writes: usize,
    plan: &mut Plan<EndpointSlice>,
) {
    slices.sort_by_key(|slice| (size(slice), slice.metadata.name.as_deref()));
    let sizes: Vec<usize> = slices.iter().map(|slice| size(slice)).collect();
    let freeable = freeable(&sizes, rule);
    if freeable == 0 || freeable * 100 < rule.freed_percent * slices.len() {
        return;
    }
    let (donors, rest) = slices.split_at(freeable);
    let mut placed: BTreeSet<EndpointId<'_>> = endpoints_of(rest).map(EndpointId::of).collect();
    let mut moving: Vec<&Endpoint> = Vec::new();
    for (freed, donor) in donors.iter().enumerate() {
        let before = moving.len();
        moving.extend(endpoints_of(&[donor]).filter(|endpoint| placed.insert(EndpointId::of(endpoint))));
        let growing = growing(rest, moving.len(), rule.max_endpoints);
        // All of a donor or nothing of it: a half would cost a write and free no slice.
        if freed + 1 + growing > most_writes {
            moving.truncate(before);
            break;
        }
        plan.delete.push(ObjectRef::of(&donor.metadata));
    }
    let mut moving = moving.into_iter();
    for slice in rest {
        let room = rule.max_endpoints.saturating_sub(size(slice));
        let added: Vec<Endpoint> = moving.by_ref().take(room).cloned().collect();
        if !added.is_empty() {
            plan.update.push(grown(slice, added));
        }
    }
}

fn endpoints_of<'a>(slices: &[&'a Arc<EndpointSlice>]) -> impl Iterator<Item = &'a Endpoint> {
    let slices: Vec<&'a EndpointSlice> = slices.iter().map(|slice| &***slice).collect();
    slices
        .into_iter()
        .flat_map(|slice| slice.endpoints.iter().flatten())
}

/// How many of these slices it takes to hold so many more endpoints, filled in this order.
fn growing(slices: &[&Arc<EndpointSlice>], endpoints: usize, max: usize) -> usize {
    let mut left = endpoints;
    let needed = slices.iter().take_while(|slice| {
        let needed = left > 0;
        left = left.saturating_sub(max.saturating_sub(size(slice)));
        needed
    });
    needed.count()
}

/// A slice with more endpoints. When they became ready is no news to anyone: no trigger time.
fn grown(slice: &EndpointSlice, added: Vec<Endpoint>) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.endpoints.get_or_insert_default().extend(added);
    slice.metadata.managed_fields = None;
    set_trigger_time(&mut slice.metadata, None);
    slice
}
