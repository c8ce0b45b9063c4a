// SPDX-License-Identifier: Apache-2.0
//! How many endpoints each zone should have, and which zones lend to which.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shares::ZoneShares;
use super::verdict::{HintsOff, ZoneCounts};

/// The most load that an endpoint may get over its share, and so the least endpoints a zone may have
/// below its share (KEP-2433 calls it the overload threshold).
const OVERLOAD: f64 = 0.2;

/// What one zone is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Allocation {
    /// Endpoints that it may have without any other zone having too few.
    pub(crate) most: usize,
    /// Endpoints in exact proportion to its share; at least what it needs.
    desired: f64,
}

pub(crate) type Allocations = BTreeMap<Arc<str>, Allocation>;

/// The fewest of `total` endpoints that a zone with this share can do with.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is at most one: the product is a count of endpoints"
)]
fn fewest(total: usize, share: f64) -> usize {
    (total as f64 * share * (1.0 / (1.0 + OVERLOAD))).ceil() as usize
}

/// Divides the endpoints among the zones.
pub(crate) fn allocate(shares: &ZoneShares, endpoints: usize) -> Result<Allocations, HintsOff> {
    let shares = shares.by_zone()?;
    let zones = shares.len();
    if zones > endpoints {
        return Err(HintsOff::TooFewEndpoints { endpoints, zones });
    }
    let least: usize = shares.values().map(|share| fewest(endpoints, *share)).sum();
    let Some(spare) = endpoints.checked_sub(least) else {
        return Err(HintsOff::Overload { endpoints, zones });
    };
    let allocations = shares.iter().map(|(zone, share)| {
        let least = fewest(endpoints, *share);
        let allocation = Allocation {
            most: least + spare,
            desired: (endpoints as f64 * share).max(least as f64),
        };
        (Arc::clone(zone), allocation)
    });
    Ok(allocations.collect())
}

/// Whether some zone has so few of a Service's endpoints that they are overloaded.
pub(crate) fn is_overloaded(counts: &ZoneCounts, shares: &ZoneShares) -> bool {
    if counts.is_empty() {
        return false;
    }
    let Ok(shares) = shares.by_zone() else {
        return true;
    };
    let total = counts.values().sum();
    shares.iter().any(|(zone, share)| {
        counts
            .get(&**zone)
            .is_none_or(|count| *count < fewest(total, *share))
    })
}

/// How many endpoints each zone lends, and how many each zone borrows: as many in all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loans {
    pub(crate) lent: ZoneCounts,
    pub(crate) borrowed: ZoneCounts,
}

/// Balances what is with what is due, one endpoint at a time from the zone with most to spare to the
/// zone in most need, while that brings at least one of them closer.
pub(crate) fn loans(allocations: &Allocations, counts: &ZoneCounts) -> Loans {
    let mut spare: BTreeMap<&str, f64> = BTreeMap::new();
    let mut need: BTreeMap<&str, f64> = BTreeMap::new();
    for (zone, allocation) in allocations {
        let present = counts.get(&**zone).copied().unwrap_or(0) as f64;
        if present > allocation.desired {
            spare.insert(zone, present - allocation.desired);
        } else if present < allocation.desired {
            need.insert(zone, allocation.desired - present);
        }
    }
    let mut loans = Loans::default();
    while let (Some((from, left)), Some((to, missing))) = (greatest(&spare), greatest(&need)) {
        if (left < 1.0 && missing < 1.0) || left < 0.5 || missing < 0.5 {
            break;
        }
        spare.insert(from, left - 1.0);
        need.insert(to, missing - 1.0);
        *loans.lent.entry(from.to_owned()).or_default() += 1;
        *loans.borrowed.entry(to.to_owned()).or_default() += 1;
    }
    loans
}

/// The zone with the most; the first by name of several.
fn greatest<'a>(zones: &BTreeMap<&'a str, f64>) -> Option<(&'a str, f64)> {
    let positive = zones.iter().filter(|(_, amount)| **amount > 0.0);
    let pairs = positive.map(|(zone, amount)| (*zone, *amount));
    pairs.reduce(|best, next| if next.1 > best.1 { next } else { best })
}
