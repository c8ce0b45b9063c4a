// SPDX-License-Identifier: Apache-2.0
//! One pool: its items, who has which, for whom others are kept, and which one is next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::ServiceKey;

use crate::shelf::Shelf;
use crate::{
    Adopted, Conflict, Granted, Item, Owner, PoolDefinition, PoolName, Quota, RangeSet, Refusal,
    ReleaseError, Request, Strategy,
};

mod holding;
mod tally;
mod view;

use holding::Holding;
use tally::Tally;

/// The items of a definition and their holders. An item has at most one.
///
/// Every operation is `O(log n)` in what is allocated and in the number of ranges, never in their size; so is finding
/// the next free item, at any fill (see [`ItemSet`](crate::ItemSet)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool<I: Item = IpAddr, O: Owner = ServiceKey> {
    name: PoolName,
    ranges: RangeSet<I>,
    withheld: RangeSet<I>,
    strategy: Strategy,
    draining: bool,
    quota: Quota,
    /// How long a released item rests.
    cool_down: Duration,
    shelves: BTreeMap<I::Family, Shelf>,
    holdings: BTreeMap<I, Holding<O>>,
    /// Of all holds.
    deadlines: BTreeSet<(Duration, I)>,
    reservations: BTreeMap<I, O>,
    /// The same by owner.
    reserved: BTreeSet<(O, I)>,
    tally: Tally<I>,
}

impl<I: Item, O: Owner> Pool<I, O> {
    /// The pool of a definition, all of it free but for reservations. A released item is not handed out again for
    /// `cool_down` unless nothing else is left.
    pub fn new(definition: &PoolDefinition<I, O>, cool_down: Duration) -> Self {
        let ranges = definition.usable();
        let given = ranges.without(&definition.withheld);
        let shelf = |family: I::Family| {
            let lowest = definition.static_band.items(definition.ranges.count(family));
            let mut kept = ranges.family(family)?.lowest(lowest);
            for (first, last) in definition.kept.family(family).iter().flat_map(|kept| kept.iter()) {
                kept.insert(first, last);
            }
            Some((family, Shelf::new(given.family(family)?, &kept)))
        };
        let mut pool = Self {
            name: definition.name.clone(),
            strategy: definition.strategy,
            draining: definition.draining,
            quota: definition.quota.clone(),
            cool_down,
            shelves: ranges.families().filter_map(shelf).collect(),
            withheld: definition.withheld.intersection(&ranges),
            ranges,
            holdings: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            reservations: BTreeMap::new(),
            reserved: BTreeSet::new(),
            tally: Tally::default(),
        };
        for (item, owner) in &definition.reservations {
            pool.reserve(*item, owner);
        }
        pool
    }

    /// The pool with the allocations of a list, as [`adopt`](Self::adopt) takes them in: the first claimant of an item
    /// has it. Every entry that does not fit is reported and none stops the rest.
    pub fn rebuild(
        definition: &PoolDefinition<I, O>,
        cool_down: Duration,
        list: impl IntoIterator<Item = (I, O)>,
    ) -> (Self, Vec<Conflict<I, O>>) {
        let mut pool = Self::new(definition, cool_down);
        let mut conflicts = Vec::new();
        for (item, claimant) in list {
            let conflict = match pool.adopt(item, &claimant) {
                Ok(Adopted {
                    reserved_for: None, ..
                }) => None,
                Ok(Adopted {
                    reserved_for: Some(owner),
                    ..
                }) => {
                    let pool = pool.name.clone();
                    Some((true, Refusal::Reserved { item, pool, owner }))
                }
                Err(refusal) => Some((false, refusal)),
            };
            conflicts.extend(conflict.map(|(restored, refusal)| Conflict {
                item,
                claimant,
                restored,
                refusal,
            }));
        }
        (pool, conflicts)
    }

    /// Gives the owner an item of the family: one that is reserved for it, else the next free one. One that rests is given
    /// only when no other is left, the one that rests longest first.
    ///
    /// # Errors
    /// `NoSuchFamily`, `Draining`, `QuotaReached` or `Exhausted`.
    pub fn allocate_any(&mut self, family: I::Family, request: &Request<'_, O>) -> Result<I, Refusal<I, O>> {
        self.lapse(request.now);
        self.check_any(family, request.owner)?;
        let reserved = self.reserved_for(family, request.owner);
        let next = || {
            let number = self
                .shelves
                .get_mut(&family)?
                .next(self.strategy, request.random, request.now)?;
            Some(I::at(family, number))
        };
        let item = reserved.or_else(next).ok_or_else(|| Refusal::Exhausted {
            family,
            pools: vec![self.name.clone()],
        })?;
        self.take(item, request.owner, request.hold_until);
        Ok(item)
    }

    /// Whether [`allocate_any`](Self::allocate_any) would give the owner something, as of the last
    /// [`lapse`](Self::lapse).
    ///
    /// # Errors
    /// The same.
    pub fn check_any(&self, family: I::Family, owner: &O) -> Result<(), Refusal<I, O>> {
        let counts = self.counts(family);
        if counts.capacity == 0 {
            return Err(Refusal::NoSuchFamily { family });
        }
        self.admit(family, owner)?;
        if counts.free == 0 && self.reserved_for(family, owner).is_none() {
            return Err(Refusal::Exhausted {
                family,
                pools: vec![self.name.clone()],
            });
        }
        Ok(())
    }

    /// Gives the owner this very item, whether or not it rests. A hold of the owner's own turns into an allocation, and an
    /// allocation stays one.
    ///
    /// # Errors
    /// `NotInPool`, `AlreadyAllocated` or `BeingGiven`; for an item that the owner does not have yet also `Withheld`, `Reserved`,
    /// `Draining` or `QuotaReached`.
    pub fn allocate_this(&mut self, item: I, request: &Request<'_, O>) -> Result<Granted, Refusal<I, O>> {
        self.lapse(request.now);
        match self.check_this(item, request.owner)? {
            Granted::New => {
                self.take(item, request.owner, request.hold_until);
                Ok(Granted::New)
            }
            Granted::Already | Granted::Bound => Ok(self.renew(item, request.hold_until)),
        }
    }

    /// Whether [`allocate_this`](Self::allocate_this) would give the owner the item, as of the last
    /// [`lapse`](Self::lapse).
    ///
    /// # Errors
    /// The same.
    pub fn check_this(&self, item: I, owner: &O) -> Result<Granted, Refusal<I, O>> {
        match self.holdings.get(&item) {
            Some(holding) if holding.owner == *owner => Ok(Granted::Already),
            Some(holding) => Err(holding.refusal(item)),
            None if !self.ranges.contains(item) => Err(Refusal::NotInPool {
                item,
                pool: self.name.clone(),
            }),
            None if self.withheld.contains(item) => Err(Refusal::Withheld {
                item,
                pool: self.name.clone(),
            }),
            None => match self.reservations.get(&item) {
                Some(reserved_for) if reserved_for != owner => Err(Refusal::Reserved {
                    item,
                    pool: self.name.clone(),
                    owner: reserved_for.clone(),
                }),
                Some(_) | None => self.admit(item.family(), owner).map(|()| Granted::New),
            },
        }
    }

    /// Records that the owner has this item: for what is in use already, so that neither quota nor draining nor a
    /// reservation stands against it. Another's hold on the item ends.
    ///
    /// # Errors
    /// `NotInPool` or `AlreadyAllocated`.
    pub fn adopt(&mut self, item: I, owner: &O) -> Result<Adopted<O>, Refusal<I, O>> {
        if !self.ranges.contains(item) {
            let pool = self.name.clone();
            return Err(Refusal::NotInPool { item, pool });
        }
        let mut displaced = None;
        let granted = match self.holdings.get(&item) {
            Some(holding) if holding.owner == *owner => self.renew(item, None),
            Some(holding) if holding.until.is_some() => {
                displaced = Some(holding.owner.clone());
                self.put_down(item);
                self.take(item, owner, None);
                Granted::New
            }
            Some(holding) => return Err(holding.refusal(item)),
            None => {
                self.take(item, owner, None);
                Granted::New
            }
        };
        let reserved_for = self.reservations.get(&item).filter(|other| *other != owner);
        Ok(Adopted {
            granted,
            displaced,
            reserved_for: reserved_for.cloned(),
        })
    }

    /// Takes an item, or a hold on it, back from its owner. It rests from now on, unless it is reserved.
    ///
    /// # Errors
    /// `NotAllocated` or `HeldByAnother`.
    pub fn release(&mut self, item: I, owner: &O, now: Duration) -> Result<(), ReleaseError<I, O>> {
        self.held_by_owner(item, owner)?;
        self.put_down(item);
        self.rest(item, now.saturating_add(self.cool_down));
        Ok(())
    }

    /// Takes a hold back as if it had never been given: for one that nobody has heard of yet.
    ///
    /// # Errors
    /// `NotAllocated`, `HeldByAnother` or `NoHold`.
    pub fn withdraw(&mut self, item: I, owner: &O) -> Result<(), ReleaseError<I, O>> {
        if self.held_by_owner(item, owner)?.until.is_none() {
            let holder = owner.clone();
            return Err(ReleaseError::NoHold { item, holder });
        }
        let rested = self.put_down(item).and_then(|holding| holding.rested);
        match rested {
            Some(until) => self.rest(item, until),
            None => self.clear(item),
        }
        Ok(())
    }

    /// Ends the holds whose deadline has come; they rest as if released then. Allocations do so by themselves: this is for
    /// whoever wants to know which.
    pub fn lapse(&mut self, now: Duration) -> Vec<(I, O)> {
        let mut lapsed = Vec::new();
        while let Some((deadline, item)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            let holding = self.put_down(item);
            self.rest(item, deadline.saturating_add(self.cool_down));
            lapsed.extend(holding.map(|holding| (item, holding.owner)));
        }
        lapsed
    }

    /// The lowest item that is reserved for the owner, that nobody has and that can be given.
    pub(crate) fn reserved_for(&self, family: I::Family, owner: &O) -> Option<I> {
        if self.reserved.is_empty() {
            return None;
        }
        let from = (owner.clone(), I::at(family, 0));
        self.reserved
            .range(from..)
            .take_while(|(of, item)| of == owner && item.family() == family)
            .map(|(_, item)| *item)
            .find(|item| !self.holdings.contains_key(item) && !self.withheld.contains(*item))
    }

    /// Whether the owner may have one more.
    fn admit(&self, family: I::Family, owner: &O) -> Result<(), Refusal<I, O>> {
        let pool = || self.name.clone();
        if self.draining {
            return Err(Refusal::Draining { pool: pool() });
        }
        let group = owner.group();
        let count = self.tally.use_of(family, group);
        match self.quota.limit(group) {
            Some(limit) if count >= limit => Err(Refusal::QuotaReached {
                pool: pool(),
                group: group.to_owned(),
                family,
                count,
                limit,
            }),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
