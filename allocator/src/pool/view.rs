// SPDX-License-Identifier: Apache-2.0
//! What a pool tells about itself.

use std::time::Duration;

use super::Pool;
use crate::shelf::Shelf;
use crate::{Counts, Item, Owner, PoolName, Quota, RangeSet, State, Strategy};

impl<I: Item, O: Owner> Pool<I, O> {
    /// Its name.
    pub fn name(&self) -> &PoolName {
        &self.name
    }

    /// The items that it has to give, excluded ones left out.
    pub fn ranges(&self) -> &RangeSet<I> {
        &self.ranges
    }

    /// Whether it gives nothing new.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Which item is next.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// How many items a group may hold.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Who has the item, or is to have it.
    pub fn holder(&self, item: I) -> Option<&O> {
        self.holdings.get(&item).map(|holding| &holding.owner)
    }

    /// Where the item stands, as of the last [`lapse`](Self::lapse).
    pub fn state(&self, item: I) -> State<'_, O> {
        if let Some(holding) = self.holdings.get(&item) {
            return match holding.until {
                None => State::Allocated(&holding.owner),
                Some(until) => State::Held(&holding.owner, until),
            };
        }
        if let Some(owner) = self.reservations.get(&item) {
            return State::Reserved(owner);
        }
        if !self.ranges.contains(item) {
            return State::Outside;
        }
        if self.withheld.contains(item) {
            return State::Withheld;
        }
        let shelf = self.shelves.get(&item.family());
        match shelf.and_then(|shelf| shelf.rests_until(item.number())) {
            Some(until) => State::Resting(until),
            None => State::Free,
        }
    }

    /// Every item that is allocated, ascending.
    pub fn allocated(&self) -> impl Iterator<Item = (I, &O)> {
        let all = self.holdings.iter();
        all.filter(|(_, holding)| holding.until.is_none())
            .map(|(item, holding)| (*item, &holding.owner))
    }

    /// Every hold with its deadline, ascending by item.
    pub fn held(&self) -> impl Iterator<Item = (I, &O, Duration)> {
        let all = self.holdings.iter();
        all.filter_map(|(item, holding)| Some((*item, &holding.owner, holding.until?)))
    }

    /// Every reservation, whether or not its owner has the item, ascending by item.
    pub fn reservations(&self) -> impl Iterator<Item = (I, &O)> {
        self.reservations.iter().map(|(item, owner)| (*item, owner))
    }

    /// The reservations whose item another has: the item, for whom it is reserved, who has it.
    pub fn contested_reservations(&self) -> impl Iterator<Item = (I, &O, &O)> {
        self.reservations().filter_map(|(item, owner)| {
            let holder = self.holder(item)?;
            (holder != owner).then_some((item, owner, holder))
        })
    }

    /// When the next hold lapses.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Whether a free item of the family is left, quota, draining and reservations aside.
    pub fn has_free(&self, family: I::Family) -> bool {
        self.counts(family).free > 0
    }

    /// How many items of the family there are, by what became of them.
    pub fn counts(&self, family: I::Family) -> Counts {
        let capacity = self.ranges.count(family);
        let (allocated, held, reserved) = self
            .tally
            .get(family)
            .map_or((0, 0, 0), |tally| (tally.allocated, tally.held, tally.reserved));
        let left = capacity - (u128::from(allocated) + u128::from(held) + u128::from(reserved));
        let free = self.shelves.get(&family).map_or(0, Shelf::left).min(left);
        Counts {
            capacity,
            allocated,
            held,
            reserved,
            withheld: left - free,
            free,
        }
    }

    /// How many items of the family each group has, holds included, by name. Groups without any are left out.
    pub fn use_by_group(&self, family: I::Family) -> impl Iterator<Item = (&str, u64)> {
        self.tally.by_group(family)
    }

    /// Bytes that the sets of taken items have on the heap, at most; who has which comes on top of that.
    pub fn set_bytes(&self) -> usize {
        self.shelves.values().map(Shelf::heap_bytes).sum()
    }

    /// The items that rest and until when.
    pub(crate) fn resting(&self) -> impl Iterator<Item = (I, Duration)> {
        self.shelves.iter().flat_map(|(family, shelf)| {
            let items = shelf.resting();
            items.map(|(number, until)| (I::at(*family, number), until))
        })
    }
}
