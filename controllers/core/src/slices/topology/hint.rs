// SPDX-License-Identifier: Apache-2.0
//! Zone hints on the slices of one family.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};

use super::allocate::{Allocations, allocate, loans};
use super::shares::ZoneShares;
use super::verdict::{HintsOff, Verdict, ZoneCounts};
use crate::slices::EndpointId;

/// Slices that are written anyway.
pub(crate) struct Written<'a> {
    pub(crate) create: &'a mut Vec<EndpointSlice>,
    pub(crate) update: &'a mut Vec<EndpointSlice>,
}

impl Written<'_> {
    /// The same, for a shorter while.
    pub(crate) fn reborrow(&mut self) -> Written<'_> {
        Written {
            create: self.create,
            update: self.update,
        }
    }

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

/// Gives every ready endpoint a zone, or says why not; then nothing is changed.
///
/// What upstream would do, once more, must change nothing; where it would, all hints are settled
/// afresh instead, and that outcome is recognised the next time.
pub(crate) fn hint(
    mut written: Written<'_>,
    unchanged: &[Arc<EndpointSlice>],
    shares: &ZoneShares,
) -> Verdict {
    let rewritten = written.create.len() + written.update.len();
    let slices = written.create.iter().chain(&*written.update);
    let slices = slices.chain(unchanged.iter().map(|slice| &**slice));
    let board = Board::of(slices, shares);
    let ready = board.seats.len();
    let chosen = allocate(shares, ready).and_then(|allocations| board.choose(&allocations, rewritten));
    let chosen = match chosen {
        Ok(chosen) => chosen,
        Err(why) => return Verdict::Off(why, ready),
    };
    let counts = board.count(&chosen);
    let (seats, zones) = (board.seats, board.zones);
    let mut hints = board.ranges.iter().map(|range| &chosen[range.clone()]);
    for (slice, hints) in written.slices().zip(&mut hints) {
        set(slice, hints, &zones);
    }
    let mut before = board.ranges[rewritten..]
        .iter()
        .map(|range| &seats[range.clone()]);
    for slice in unchanged {
        let (Some(hints), Some(before)) = (hints.next(), before.next()) else {
            break;
        };
        if before.iter().map(|seat| seat.hint).ne(hints.iter().copied()) {
            let mut copy = EndpointSlice::clone(slice);
            set(&mut copy, hints, &zones);
            written.update.push(copy);
        }
    }
    Verdict::On(counts)
}

/// Sets the hints of a slice's ready endpoints.
fn set(slice: &mut EndpointSlice, hints: &[Option<usize>], zones: &[String]) {
    let endpoints = slice.endpoints.iter_mut().flatten();
    let ready = endpoints.filter(|endpoint| is_ready(endpoint));
    for (endpoint, hint) in ready.zip(hints) {
        endpoint.hints = hint.map(|zone| EndpointHints {
            for_zones: Some(vec![ForZone {
                name: zones[zone].clone(),
            }]),
            for_nodes: None,
        });
    }
}

/// A ready endpoint; zones by their index.
struct Seat {
    slice: usize,
    zone: Option<usize>,
    /// The zone that it is hinted at, by nothing but one zone.
    hint: Option<usize>,
}

/// All ready endpoints of a family.
struct Board {
    zones: Vec<String>,
    seats: Vec<Seat>,
    /// The seats of each slice.
    ranges: Vec<std::ops::Range<usize>>,
    /// The seats by identity: who lends does not depend on who sits in which slice.
    order: Vec<usize>,
}

impl Board {
    fn of<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, shares: &'a ZoneShares) -> Self {
        let mut zones: Vec<String> = Vec::new();
        let mut indices: BTreeMap<&str, usize> = BTreeMap::new();
        let mut index = |zone: &'a str| {
            *indices.entry(zone).or_insert_with(|| {
                zones.push(zone.to_owned());
                zones.len() - 1
            })
        };
        // Zones without an endpoint may borrow.
        for zone in shares.by_zone().iter().flat_map(|shares| shares.keys()) {
            index(zone);
        }
        let (mut seats, mut ranges) = (Vec::new(), Vec::new());
        let mut ids: Vec<EndpointId<'_>> = Vec::new();
        for (slice, found) in slices.enumerate() {
            let start = seats.len();
            let endpoints = found.endpoints.iter().flatten();
            for endpoint in endpoints.filter(|endpoint| is_ready(endpoint)) {
                let zone = endpoint.zone.as_deref().filter(|zone| !zone.is_empty());
                seats.push(Seat {
                    slice,
                    zone: zone.map(&mut index),
                    hint: hinted(endpoint).map(&mut index),
                });
                ids.push(EndpointId::of(endpoint));
            }
            ranges.push(start..seats.len());
        }
        let mut order: Vec<usize> = (0..seats.len()).collect();
        order.sort_by(|left, right| ids[*left].cmp(&ids[*right]));
        Self {
            zones,
            seats,
            ranges,
            order,
        }
    }

    /// The hints to be, of which the first `rewritten` slices are written in any case.
    fn choose(&self, allocations: &Allocations, rewritten: usize) -> Result<Vec<Option<usize>>, HintsOff> {
        let count = self.ranges.len();
        let open = |range: std::ops::Range<usize>| (0..count).map(|slice| range.contains(&slice)).collect();
        let current: Vec<Option<usize>> = self.seats.iter().map(|seat| seat.hint).collect();
        let next = self.settle(&current, open(0..rewritten), allocations)?;
        if rewritten == 0 && next == current {
            return Ok(current);
        }
        let afresh = self.settle(&current, open(0..count), allocations)?;
        if rewritten == 0 && afresh == current {
            return Ok(current);
        }
        let stable = self.settle(&next, open(0..0), allocations)? == next;
        Ok(if stable { next } else { afresh })
    }

    /// A slice that is not open keeps its hints where they fit in. In the open ones every endpoint
    /// starts in its own zone, and zones with too many lend to zones with too few.
    fn settle(
        &self,
        current: &[Option<usize>],
        mut open: Vec<bool>,
        allocations: &Allocations,
    ) -> Result<Vec<Option<usize>>, HintsOff> {
        let mut counts = vec![0; self.zones.len()];
        for (slice, range) in self.ranges.iter().enumerate() {
            let kept = (!open[slice]).then(|| self.fitting(&current[range.clone()], &counts, allocations));
            match kept.flatten() {
                Some(with) => counts = with,
                None => open[slice] = true,
            }
        }
        let mut hints = current.to_vec();
        for (seat, hint) in self.seats.iter().zip(&mut hints) {
            if open[seat.slice] {
                let zone = seat.zone.ok_or(HintsOff::EndpointWithoutZone)?;
                counts[zone] += 1;
                *hint = Some(zone);
            }
        }
        self.lend(&mut hints, &open, &counts, allocations);
        Ok(hints)
    }

    /// The counts with those of a slice added, if all its hints are for zones that take part and
    /// leave no zone with more than it may have.
    fn fitting(
        &self,
        hints: &[Option<usize>],
        counts: &[usize],
        allocations: &Allocations,
    ) -> Option<Vec<usize>> {
        let mut with = counts.to_vec();
        for hint in hints {
            with[(*hint)?] += 1;
        }
        let fits = self
            .zones
            .iter()
            .zip(with.iter().zip(counts))
            .all(|(zone, (with, before))| {
                let allocation = allocations.get(zone.as_str());
                with == before || allocation.is_some_and(|allocation| *with <= allocation.most)
            });
        fits.then_some(with)
    }

    /// Hints endpoints of the lending zones at the borrowing ones.
    fn lend(&self, hints: &mut [Option<usize>], open: &[bool], counts: &[usize], allocations: &Allocations) {
        let named = self.zones.iter().cloned().zip(counts.iter().copied());
        let mut loans = loans(allocations, &named.collect());
        for position in &self.order {
            let seat = &self.seats[*position];
            let Some(zone) = seat.zone.filter(|_| open[seat.slice]) else {
                continue;
            };
            let lends = loans.lent.get_mut(&self.zones[zone]).filter(|left| **left > 0);
            let (Some(left), Some(mut to)) = (lends, loans.borrowed.first_entry()) else {
                continue;
            };
            *left -= 1;
            hints[*position] = self.zones.iter().position(|zone| zone == to.key());
            *to.get_mut() -= 1;
            if *to.get() == 0 {
                to.remove();
            }
        }
    }

    fn count(&self, hints: &[Option<usize>]) -> ZoneCounts {
        let mut counts = ZoneCounts::new();
        for zone in hints.iter().flatten() {
            *counts.entry(self.zones[*zone].clone()).or_default() += 1;
        }
        counts
    }
}

/// The zone that an endpoint is hinted at. None if at several, which is not our doing, and if at
/// nodes too, left by a traffic distribution: they would go on winning.
fn hinted(endpoint: &Endpoint) -> Option<&str> {
    let hints = endpoint.hints.as_ref()?;
    let nodes = hints.for_nodes.as_deref().unwrap_or_default();
    match hints.for_zones.as_deref()? {
        [zone] if nodes.is_empty() => Some(&zone.name),
        _ => None,
    }
}
