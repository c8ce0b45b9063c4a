// SPDX-License-Identifier: Apache-2.0
//! Who has an item, and every step by which that changes. Callers have seen to it that the step is allowed.

use std::time::Duration;

use super::Pool;
use crate::{Granted, Item, Owner, Refusal, ReleaseError};

/// That an owner has an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding<O> {
    pub(super) owner: O,
    /// For a hold, its deadline.
    pub(super) until: Option<Duration>,
    /// Until when the item would have rested, had it not been given.
    pub(super) rested: Option<Duration>,
}

impl<I: Item, O: Owner> Pool<I, O> {
    /// Lets a free item rest until then.
    pub(crate) fn rest(&mut self, item: I, until: Duration) {
        if self.holdings.contains_key(&item) || self.reservations.contains_key(&item) {
            return;
        }
        if let Some(shelf) = self.shelves.get_mut(&item.family()) {
            shelf.rest(item.number(), until);
        }
    }

    /// Gives a hold of an earlier definition again. `false`, and no change: the item is not the pool's, or another has it.
    pub(crate) fn keep_hold(&mut self, item: I, owner: &O, until: Duration) -> bool {
        let fits = self.ranges.contains(item) && !self.holdings.contains_key(&item);
        if fits {
            self.take(item, owner, Some(until));
        }
        fits
    }

    pub(super) fn reserve(&mut self, item: I, owner: &O) {
        if self.reservations.contains_key(&item) || !self.ranges.contains(item) {
            return;
        }
        self.reservations.insert(item, owner.clone());
        self.reserved.insert((owner.clone(), item));
        self.tally.of(item.family()).reserved += 1;
        if let Some(shelf) = self.shelves.get_mut(&item.family()) {
            shelf.take(item.number());
        }
    }

    /// Gives an item that nobody has.
    pub(super) fn take(&mut self, item: I, owner: &O, until: Option<Duration>) {
        let family = item.family();
        let shelf = self.shelves.get_mut(&family);
        let rested = shelf.and_then(|shelf| shelf.take(item.number()));
        self.deadlines.extend(until.map(|until| (until, item)));
        let reserved = self.reservations.contains_key(&item);
        self.tally.taken(family, owner.group(), until.is_some(), reserved);
        let holding = Holding {
            owner: owner.clone(),
            until,
            rested,
        };
        self.holdings.insert(item, holding);
    }

    /// Takes an item from who has it. What becomes of it is the caller's to say.
    pub(super) fn put_down(&mut self, item: I) -> Option<Holding<O>> {
        let holding = self.holdings.remove(&item)?;
        if let Some(until) = holding.until {
            self.deadlines.remove(&(until, item));
        }
        let reserved = self.reservations.contains_key(&item);
        self.tally.put_down(
            item.family(),
            holding.owner.group(),
            holding.until.is_some(),
            reserved,
        );
        Some(holding)
    }

    /// Makes an item free at once, unless it is reserved.
    pub(super) fn clear(&mut self, item: I) {
        if self.reservations.contains_key(&item) {
            return;
        }
        if let Some(shelf) = self.shelves.get_mut(&item.family()) {
            shelf.free(item.number());
        }
    }

    /// Binds a hold, or gives it the later deadline.
    pub(super) fn renew(&mut self, item: I, until: Option<Duration>) -> Granted {
        let Some(holding) = self.holdings.get_mut(&item) else {
            return Granted::Already;
        };
        let Some(before) = holding.until else {
            return Granted::Already;
        };
        let until = until.map(|until| until.max(before));
        holding.until = until;
        self.deadlines.remove(&(before, item));
        match until {
            Some(until) => {
                self.deadlines.insert((until, item));
                Granted::Already
            }
            None => {
                self.tally.bound(item.family());
                Granted::Bound
            }
        }
    }

    pub(super) fn held_by_owner(&self, item: I, owner: &O) -> Result<&Holding<O>, ReleaseError<I, O>> {
        match self.holdings.get(&item) {
            None => Err(ReleaseError::NotAllocated { item }),
            Some(holding) if holding.owner != *owner => Err(ReleaseError::HeldByAnother {
                item,
                holder: holding.owner.clone(),
            }),
            Some(holding) => Ok(holding),
        }
    }
}

impl<O: Owner> Holding<O> {
    pub(super) fn refusal<I: Item>(&self, item: I) -> Refusal<I, O> {
        let holder = self.owner.clone();
        match self.until {
            None => Refusal::AlreadyAllocated { item, holder },
            Some(_) => Refusal::BeingGiven { item, holder },
        }
    }
}
