// SPDX-License-Identifier: Apache-2.0
//! Exact counts, kept with every change.

use std::collections::BTreeMap;

use crate::Item;

/// What a pool has given, by family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tally<I: Item> {
    by_family: BTreeMap<I::Family, FamilyTally>,
}

/// What a pool has given of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FamilyTally {
    pub(super) allocated: u64,
    pub(super) held: u64,
    /// Reserved items that nobody has.
    pub(super) reserved: u64,
    /// Allocated and held by group. No group without any.
    by_group: BTreeMap<Box<str>, u64>,
}

impl<I: Item> Default for Tally<I> {
    fn default() -> Self {
        Self {
            by_family: BTreeMap::new(),
        }
    }
}

impl<I: Item> Tally<I> {
    pub(super) fn of(&mut self, family: I::Family) -> &mut FamilyTally {
        self.by_family.entry(family).or_default()
    }

    pub(super) fn get(&self, family: I::Family) -> Option<&FamilyTally> {
        self.by_family.get(&family)
    }

    /// How many items a group has, holds included.
    pub(super) fn use_of(&self, family: I::Family, group: &str) -> u64 {
        let of_family = self.by_family.get(&family);
        of_family
            .and_then(|tally| tally.by_group.get(group))
            .copied()
            .unwrap_or(0)
    }

    /// How many items each group has, holds included.
    pub(super) fn by_group(&self, family: I::Family) -> impl Iterator<Item = (&str, u64)> {
        let of_family = self.by_family.get(&family).into_iter();
        of_family
            .flat_map(|tally| &tally.by_group)
            .map(|(group, count)| (&**group, *count))
    }

    /// An item was given.
    pub(super) fn taken(&mut self, family: I::Family, group: &str, hold: bool, reserved: bool) {
        let tally = self.of(family);
        *tally.state(hold) += 1;
        tally.reserved -= u64::from(reserved);
        match tally.by_group.get_mut(group) {
            Some(count) => *count += 1,
            None => {
                tally.by_group.insert(group.into(), 1);
            }
        }
    }

    /// An item was taken back.
    pub(super) fn put_down(&mut self, family: I::Family, group: &str, hold: bool, reserved: bool) {
        let tally = self.of(family);
        *tally.state(hold) -= 1;
        tally.reserved += u64::from(reserved);
        if let Some(count) = tally.by_group.get_mut(group) {
            *count -= 1;
            if *count == 0 {
                tally.by_group.remove(group);
            }
        }
    }

    /// A hold became an allocation.
    pub(super) fn bound(&mut self, family: I::Family) {
        let tally = self.of(family);
        tally.held -= 1;
        tally.allocated += 1;
    }
}

impl FamilyTally {
    fn state(&mut self, hold: bool) -> &mut u64 {
        if hold { &mut self.held } else { &mut self.allocated }
    }
}
