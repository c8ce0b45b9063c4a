// SPDX-License-Identifier: Apache-2.0
//! Zone hints on the slices of one family.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};

use super::allocate::{Allocations, Loans, allocate, loans};
use super::shares::ZoneShares;
use super::verdict::{HintsOff, Verdict, ZoneCounts};

/// Slices that are written anyway.
pub(crate) struct Written<'a> {
    pub(crate) create: &'a mut Vec<EndpointSlice>,
    pub(crate) update: &'a mut Vec<EndpointSlice>,
}

impl Written<'_> {
    /// All of them.
    pub(crate) fn slices(&mut self) -> impl Iterator<Item = &mut EndpointSlice> {
        self.create.iter_mut().chain(self.update.iter_mut())
    }
}

/// Whether an endpoint takes traffic by the rules, and so takes part.
pub(crate) fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.ready) == Some(true)
}

fn ready_in(slice: &EndpointSlice) -> impl Iterator<Item = &Endpoint> {
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| is_ready(endpoint))
}

/// How many endpoints of a family are ready.
fn count_ready(written: &mut Written<'_>, unchanged: &[Arc<EndpointSlice>]) -> usize {
    let written: usize = written.slices().map(|slice| ready_in(slice).count()).sum();
    let untouched = unchanged.iter().map(|slice| ready_in(slice).count());
    written + untouched.sum::<usize>()
}

/// Gives every ready endpoint a zone, or says why not; then nothing is changed.
pub(crate) fn hint(
    written: &mut Written<'_>,
    unchanged: &[Arc<EndpointSlice>],
    shares: &ZoneShares,
) -> Verdict {
    let ready = count_ready(written, unchanged);
    let counts = allocate(shares, ready).and_then(|allocations| distribute(written, unchanged, &allocations));
    counts.map_or_else(|why| Verdict::Off(why, ready), Verdict::On)
}

/// Distributes the ready endpoints over the zones, and counts them by zone.
///
/// An unchanged slice keeps its hints where they fit in; otherwise it joins the written ones. There
/// every endpoint starts in its own zone, and zones with too many lend to zones with too few.
fn distribute(
    written: &mut Written<'_>,
    unchanged: &[Arc<EndpointSlice>],
    allocations: &Allocations,
) -> Result<ZoneCounts, HintsOff> {
    let mut counts = ZoneCounts::new();
    let mut pulled: Vec<(&Arc<EndpointSlice>, EndpointSlice)> = Vec::new();
    for slice in unchanged {
        match fitting(slice, &counts, allocations) {
            Some(found) => add(&mut counts, &found),
            None => pulled.push((slice, EndpointSlice::clone(slice))),
        }
    }
    let mut open: Vec<&mut EndpointSlice> = written
        .slices()
        .chain(pulled.iter_mut().map(|(_, copy)| copy))
        .collect();
    let zoneless = |endpoint: &Endpoint| zone_of(endpoint).is_none();
    if open.iter().any(|slice| ready_in(slice).any(zoneless)) {
        return Err(HintsOff::EndpointWithoutZone);
    }
    for slice in &mut open {
        each_ready(slice, |endpoint| {
            if let Some(zone) = zone_of(endpoint).map(str::to_owned) {
                *counts.entry(zone.clone()).or_default() += 1;
                endpoint.hints = Some(at_zone(zone));
            }
        });
    }
    let loans = loans(allocations, &counts);
    lend(&mut open, loans, &mut counts);
    // One that ends as it was needs no write.
    let changed = pulled.into_iter().filter(|(slice, copy)| ***slice != *copy);
    written.update.extend(changed.map(|(_, copy)| copy));
    Ok(counts)
}

fn add(counts: &mut ZoneCounts, more: &ZoneCounts) {
    for (zone, count) in more {
        *counts.entry(zone.clone()).or_default() += count;
    }
}

/// The hints that an unchanged slice gives, if they all are for zones that take part and leave no
/// zone with more than it may have.
fn fitting(slice: &EndpointSlice, counts: &ZoneCounts, allocations: &Allocations) -> Option<ZoneCounts> {
    let mut found = ZoneCounts::new();
    for endpoint in ready_in(slice) {
        let hints = endpoint.hints.as_ref()?;
        // Left by a traffic distribution that preferred the own node: it would go on winning.
        if hints.for_nodes.as_ref().is_some_and(|nodes| !nodes.is_empty()) {
            return None;
        }
        let zones = hints.for_zones.as_deref().filter(|zones| !zones.is_empty())?;
        for zone in zones {
            *found.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = found.iter().all(|(zone, count)| {
        let taken = counts.get(zone).copied().unwrap_or(0);
        let allocation = allocations.get(zone.as_str());
        allocation.is_some_and(|allocation| taken + count <= allocation.most)
    });
    fits.then_some(found)
}

fn each_ready(slice: &mut EndpointSlice, mut each: impl FnMut(&mut Endpoint)) {
    let endpoints = slice.endpoints.iter_mut().flatten();
    endpoints
        .filter(|endpoint| is_ready(endpoint))
        .for_each(&mut each);
}

fn zone_of(endpoint: &Endpoint) -> Option<&str> {
    endpoint.zone.as_deref().filter(|zone| !zone.is_empty())
}

fn at_zone(name: String) -> EndpointHints {
    EndpointHints {
        for_zones: Some(vec![ForZone { name }]),
        for_nodes: None,
    }
}

/// Hints endpoints of the lending zones at the borrowing ones, as they come.
fn lend(slices: &mut [&mut EndpointSlice], mut loans: Loans, counts: &mut ZoneCounts) {
    for slice in slices {
        each_ready(slice, |endpoint| {
            let from = zone_of(endpoint).unwrap_or_default().to_owned();
            let lends = loans.lent.get_mut(&from).filter(|left| **left > 0);
            let (Some(left), Some(mut to)) = (lends, loans.borrowed.first_entry()) else {
                return;
            };
            *left -= 1;
            let zone = to.key().clone();
            *to.get_mut() -= 1;
            if *to.get() == 0 {
                to.remove();
            }
            if let Some(count) = counts.get_mut(&from) {
                *count -= 1;
            }
            *counts.entry(zone.clone()).or_default() += 1;
            endpoint.hints = Some(at_zone(zone));
        });
    }
}
