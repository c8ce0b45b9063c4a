// SPDX-License-Identifier: Apache-2.0
//! How many slots a frontend has and which endpoint is in which.
//!
//! Up to [`EXACT`] endpoints there is one slot each, so the random pick is exactly even. Above, a
//! frontend takes the next rung of a short ladder of slot counts and endpoints repeat: with at least
//! 16 slots per endpoint (up to 4,096 endpoints) the largest share exceeds the smallest by at most 1/16.
//! That bounds the number of rules for ever, and a large Service changes its slot count rarely.

use std::collections::BTreeMap;

use crate::Target;

/// The largest number of endpoints with a slot each.
pub const EXACT: u32 = 256;

/// Slot counts above [`EXACT`]. The last is the modulus up to which the map's key is declared.
pub const LADDER: [u32; 4] = [8_192, 16_384, 32_768, 65_536];

/// Slots per endpoint that a rung must offer.
const SPREAD: usize = 16;

/// How many slots this many endpoints (1 or more) take.
pub fn slot_count(endpoints: usize) -> u32 {
    match u32::try_from(endpoints) {
        Ok(count) if count <= EXACT => count,
        Ok(_) | Err(_) => {
            let [.., top] = LADDER;
            let fits = |rung: &u32| endpoints.saturating_mul(SPREAD) <= *rung as usize;
            LADDER.into_iter().find(fits).unwrap_or(top)
        }
    }
}

/// The slots that must change so that the endpoints share `count` slots evenly, keeping what can stay.
/// More endpoints than slots (65,536): the last ones in order get none.
pub fn reassign(held: &BTreeMap<u32, Target>, endpoints: &[Target], count: u32) -> BTreeMap<u32, Target> {
    let used = endpoints.len().min(count as usize);
    let Some(share) = (count as usize).checked_div(used) else {
        return BTreeMap::new();
    };
    let mut larger = count as usize % used;
    let mut owned: BTreeMap<Target, usize> = endpoints.iter().take(used).map(|target| (*target, 0)).collect();
    let mut holes = Vec::new();
    for slot in 0..count {
        let owner = held.get(&slot).and_then(|target| owned.get_mut(target));
        match owner {
            Some(slots) if *slots < share => *slots += 1,
            Some(slots) if *slots == share && larger > 0 => {
                *slots += 1;
                larger -= 1;
            }
            Some(_) | None => holes.push(slot),
        }
    }
    let lacking = owned.iter().flat_map(|(target, slots)| {
        let missing = share.saturating_sub(*slots);
        std::iter::repeat_n(*target, missing)
    });
    let extra = owned
        .iter()
        .filter(|(_, slots)| **slots <= share)
        .map(|(target, _)| *target)
        .take(larger);
    holes.into_iter().zip(lacking.chain(extra)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mk_target(n: u16) -> Target {
        let [high, low] = n.to_be_bytes();
        Target {
            ip: [10, 1, high, low].into(),
            port: 80.try_into().unwrap(),
        }
    }

    #[test]
    fn slot_counts_are_exact_then_climb_the_ladder() {
        for (endpoints, slots) in [
            (1, 1),
            (64, 64),
            (256, 256),
            (257, 8_192),
            (512, 8_192),
            (513, 16_384),
            (2_048, 32_768),
            (2_049, 65_536),
            (100_000, 65_536),
        ] {
            assert_eq!(slot_count(endpoints), slots, "{endpoints}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_slot_is_filled_evenly_and_survivors_stay(
            before in proptest::collection::btree_set(0u16..700, 1..600),
            after in proptest::collection::btree_set(0u16..700, 1..600),
        ) {
            let targets = |set: &std::collections::BTreeSet<u16>| set.iter().map(|n| mk_target(*n)).collect::<Vec<_>>();
            let old = targets(&before);
            let mut held = reassign(&BTreeMap::new(), &old, slot_count(old.len()));
            let new = targets(&after);
            let count = slot_count(new.len());
            let changes = reassign(&held, &new, count);
            let kept: Vec<u32> = (0..count).filter(|slot| !changes.contains_key(slot)).collect();
            for slot in kept {
                prop_assert!(new.contains(&held[&slot]));
            }
            held.extend(changes.clone());
            let mut shares: BTreeMap<Target, usize> = BTreeMap::new();
            for slot in 0..count {
                *shares.entry(held[&slot]).or_default() += 1;
            }
            prop_assert_eq!(shares.keys().copied().collect::<Vec<_>>(), new.clone());
            let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
            prop_assert!(most - least <= 1);
            if count == slot_count(old.len()) && count <= EXACT {
                let stayed = old.iter().filter(|target| new.contains(target)).count();
                prop_assert_eq!(changes.len(), new.len() - stayed);
            }
        }
    }
}
