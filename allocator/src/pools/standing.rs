// SPDX-License-Identifier: Apache-2.0
//! Which pools give, and which rest because of another.

use std::time::Duration;

use crate::{Item, Overlap, Owner, Pool, PoolDefinition, Standing};

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
