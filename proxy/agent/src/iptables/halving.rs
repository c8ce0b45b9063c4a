// SPDX-License-Identifier: Apache-2.0
//! Who it is that is refused, where only "no" is said: groups of Services are tried, and halved where they are refused.
//!
//! In: what came of each try. Out: who to try next, and who is refused. Touches nothing.

use berth_model::ServiceKey;

/// Services that are not known to be taken or refused yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halving {
    /// The last one is the next to be tried. None is empty.
    groups: Vec<Vec<ServiceKey>>,
}

impl Halving {
    /// Of these, in this order. Nobody has tried them yet.
    pub(super) fn new(services: Vec<ServiceKey>) -> Self {
        let mut groups = vec![services];
        groups.retain(|group| !group.is_empty());
        Self { groups }
    }

    /// Whether all is known.
    pub(super) fn is_over(&self) -> bool {
        self.groups.is_empty()
    }

    /// All but the group that is to be tried next: they are left out meanwhile.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &ServiceKey> {
        let next = self.groups.len().saturating_sub(1);
        self.groups.iter().take(next).flatten()
    }

    /// The group that was tried is taken.
    pub(super) fn taken(&mut self) {
        self.groups.pop();
    }

    /// The group that was tried is refused: who it is, if it is one alone.
    pub(super) fn refused(&mut self) -> Option<ServiceKey> {
        let mut group = self.groups.pop()?;
        if group.len() == 1 {
            return group.pop();
        }
        let rest = group.split_off(group.len() / 2);
        self.groups.extend([rest, group]);
        None
    }

    /// Those of whom nothing is known yet.
    pub(super) fn into_unknown(self) -> impl Iterator<Item = ServiceKey> {
        self.groups.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(n: usize) -> ServiceKey {
        ServiceKey::new("shop", format!("s{n:04}"))
    }

    /// Who is found to be refused, who is never left out again, and in how many tries.
    fn hunt(all: usize, bad: &BTreeSet<ServiceKey>) -> (BTreeSet<ServiceKey>, BTreeSet<ServiceKey>, usize) {
        let everybody: BTreeSet<ServiceKey> = (0..all).map(key).collect();
        let mut halving = Halving::new(everybody.iter().cloned().collect());
        let (mut found, mut written, mut tries) = (BTreeSet::new(), BTreeSet::new(), 0);
        while !halving.is_over() {
            tries += 1;
            let out: BTreeSet<ServiceKey> = halving.waiting().chain(&found).cloned().collect();
            let tried: BTreeSet<ServiceKey> = everybody.difference(&out).cloned().collect();
            assert!(
                written.is_subset(&tried),
                "somebody who was taken is left out again"
            );
            if tried.is_disjoint(bad) {
                written = tried;
                halving.taken();
            } else {
                found.extend(halving.refused());
            }
        }
        (found, written, tries)
    }

    #[test]
    fn whoever_is_refused_is_found_and_all_others_are_taken() {
        for all in 0..8 {
            for chosen in 0..1_usize << all {
                let bad: BTreeSet<ServiceKey> = (0..all).filter(|n| chosen >> n & 1 == 1).map(key).collect();
                let (found, written, _) = hunt(all, &bad);
                assert_eq!(found, bad, "of {all}");
                let good: BTreeSet<ServiceKey> = (0..all).map(key).filter(|key| !bad.contains(key)).collect();
                assert_eq!(written, good, "of {all}");
            }
        }
    }

    #[test]
    fn each_refused_one_costs_two_tries_per_doubling() {
        for (all, bad, at_most) in [
            (1, vec![0], 1),
            (1_000, vec![], 1),
            (1_024, vec![0], 1 + 2 * 10),
            (1_024, vec![1_023], 1 + 2 * 10),
            (1_024, vec![100, 900], 1 + 2 * 2 * 10),
            (10_000, vec![7, 5_000, 9_999], 1 + 3 * 2 * 14),
            // As many as stand beside each other hardly cost more than themselves.
            (1_024, (512..576).collect(), 1 + 2 * 64 + 2 * 10),
        ] {
            let refused: BTreeSet<ServiceKey> = bad.iter().map(|n| key(*n)).collect();
            let (found, _, tries) = hunt(all, &refused);
            assert_eq!(found, refused);
            assert!(tries <= at_most, "{tries} tries for {bad:?} of {all}");
        }
    }

    #[test]
    fn what_is_not_known_in_the_end_is_told() {
        let mut halving = Halving::new((0..4).map(key).collect());
        assert_eq!(halving.refused(), None);
        halving.taken();
        assert_eq!(halving.into_unknown().collect::<Vec<_>>(), [key(2), key(3)]);
    }
}
