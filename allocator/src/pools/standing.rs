// SPDX-License-Identifier: Apache-2.0
//! Which pools give, which rest because of another, and what is said for all that refuse.

use std::time::Duration;

use crate::{Item, Overlap, Owner, Pool, PoolDefinition, Refusal, Standing};

/// Empty pools with their standing, of definitions in the order in which they are heard. A pool contests only those that
/// are not at rest over a contest themselves; a malformed one contests what could be read of it, so that putting it
/// right or wrong changes nothing for others.
pub(super) fn with_standing<I: Item, O: Owner>(
    definitions: &[PoolDefinition<I, O>],
    cool_down: Duration,
) -> Vec<(Standing<I>, Pool<I, O>)> {
    let mut pools: Vec<(Standing<I>, Pool<I, O>)> = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let pool = Pool::new(definition, cool_down);
        let overlaps: Vec<Overlap<I>> = pools
            .iter()
            .filter(|(standing, _)| !matches!(standing, Standing::Overlapping(_)))
            .map(|(_, earlier)| Overlap {
                with: earlier.name().clone(),
                ranges: pool.ranges().intersection(earlier.ranges()).ranges(),
            })
            .filter(|overlap| !overlap.ranges.is_empty())
            .collect();
        let standing = if !overlaps.is_empty() {
            Standing::Overlapping(overlaps)
        } else if definition.well_formed {
            Standing::InUse
        } else {
            Standing::Malformed
        };
        pools.push((standing, pool));
    }
    pools
}

/// What to say for all pools that refused: the first that could serve at all has the word, and full ones speak together.
pub(super) fn one_of<I: Item, O: Owner>(family: I::Family, refusals: Vec<Refusal<I, O>>) -> Refusal<I, O> {
    if refusals.is_empty() {
        return Refusal::NoPool;
    }
    let mut full = Vec::new();
    let mut other = None;
    for refusal in refusals {
        match refusal {
            Refusal::NoSuchFamily { .. } => {}
            Refusal::Exhausted { pools, .. } => full.extend(pools),
            Refusal::NoPool
            | Refusal::NoSuchPool { .. }
            | Refusal::PoolAtRest { .. }
            | Refusal::Draining { .. }
            | Refusal::QuotaReached { .. }
            | Refusal::NotInAnyPool { .. }
            | Refusal::NotInPool { .. }
            | Refusal::AlreadyAllocated { .. }
            | Refusal::BeingGiven { .. }
            | Refusal::Withheld { .. }
            | Refusal::Reserved { .. } => {
                other.get_or_insert(refusal);
            }
        }
    }
    match other {
        Some(refusal) => refusal,
        None if full.is_empty() => Refusal::NoSuchFamily { family },
        None => Refusal::Exhausted { family, pools: full },
    }
}
