// SPDX-License-Identifier: Apache-2.0
//! Several pools by name: which one gives, which ranges are contested, and edits under use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::ServiceKey;

use crate::{
    Granted, Item, Owner, Pool, PoolDefinition, PoolName, Refusal, ReleaseError, Request, Standing, State,
};

mod standing;

use standing::with_standing;

/// One item and the pool it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocation<I = IpAddr> {
    /// The item.
    pub item: I,
    /// Its pool; `None` where none covers it any more.
    pub pool: Option<PoolName>,
}

/// What an edit of the pools did to items that are allocated or held. None of the allocated was taken from its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolsEdit<I = IpAddr, O = ServiceKey> {
    /// No pool covers these any more.
    pub uncovered: Vec<(I, O)>,
    /// A pool covers these again.
    pub recovered: Vec<(I, O)>,
    /// Holds that ended, because no pool covers the item any more.
    pub ended: Vec<(I, O)>,
}

impl<I, O> Default for PoolsEdit<I, O> {
    fn default() -> Self {
        Self {
            uncovered: Vec::new(),
            recovered: Vec::new(),
            ended: Vec::new(),
        }
    }
}

/// All pools of one use, and every item that is allocated or held.
///
/// An item has at most one holder over all pools. What no pool covers any more is still its owner's.
#[derive(Clone, Debug)]
pub struct Pools<I: Item = IpAddr, O: Owner = ServiceKey> {
    definitions: Vec<PoolDefinition<I, O>>,
    /// Oldest first, as the definitions.
    pools: Vec<(Standing<I>, Pool<I, O>)>,
    uncovered: BTreeMap<I, O>,
    by_owner: BTreeMap<O, BTreeSet<I>>,
    cool_down: Duration,
}

impl<I: Item, O: Owner> Pools<I, O> {
    /// No pools yet. A released item is not handed out again for `cool_down` unless nothing else is left.
    pub fn new(cool_down: Duration) -> Self {
        Self {
            definitions: Vec::new(),
            pools: Vec::new(),
            uncovered: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            cool_down,
        }
    }

    /// Replaces the definitions. Every allocated item stays with its owner: in the pool that gives it now, else
    /// in one at rest that covers it, else uncovered. `None`: the definitions are those that were in force.
    pub fn set_definitions(&mut self, mut definitions: Vec<PoolDefinition<I, O>>) -> Option<PoolsEdit<I, O>> {
        definitions.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut names = BTreeSet::new();
        definitions.retain(|definition| names.insert(definition.name.clone()));
        if definitions == self.definitions {
            return None;
        }
        let before = std::mem::take(&mut self.pools);
        let uncovered_before = std::mem::take(&mut self.uncovered);
        self.pools = with_standing(&definitions, self.cool_down);
        self.definitions = definitions;

        let mut edit = PoolsEdit::default();
        let allocated = before.iter().flat_map(|(_, pool)| pool.allocated());
        for (item, owner) in allocated.collect::<BTreeMap<_, _>>() {
            if !self.place(item, owner) {
                edit.uncovered.push((item, owner.clone()));
            }
        }
        for (item, owner) in uncovered_before {
            if self.place(item, &owner) {
                edit.recovered.push((item, owner));
            }
        }
        for (item, owner, until) in before.iter().flat_map(|(_, pool)| pool.held()) {
            let kept = self
                .covering(item)
                .is_some_and(|index| self.pools[index].1.keep_hold(item, owner, until));
            if !kept {
                self.forget(item, owner);
                edit.ended.push((item, owner.clone()));
            }
        }
        for (item, until) in before.iter().flat_map(|(_, pool)| pool.resting()) {
            if let Some(index) = self.covering(item) {
                self.pools[index].1.rest(item, until);
            }
        }
        Some(edit)
    }

    /// Records that the owner has this item, whatever pool covers it, or none: for items that are in use already.
    /// Another's hold on it ends.
    ///
    /// # Errors
    /// `AlreadyAllocated` alone.
    pub fn adopt(&mut self, item: I, owner: &O) -> Result<Granted, Refusal<I, O>> {
        let index = self.covering(item);
        let granted = match (index, self.uncovered.get(&item)) {
            (_, Some(holder)) if holder == owner => Granted::Already,
            (_, Some(holder)) => {
                let holder = holder.clone();
                return Err(Refusal::AlreadyAllocated { item, holder });
            }
            (None, None) => {
                self.uncovered.insert(item, owner.clone());
                Granted::New
            }
            (Some(index), None) => {
                let adopted = self.pools[index].1.adopt(item, owner)?;
                if let Some(displaced) = &adopted.displaced {
                    self.forget(item, displaced);
                }
                adopted.granted
            }
        };
        self.remember(item, owner);
        Ok(granted)
    }

    /// Keeps a free item for the owner until then, whatever stands against it: for holds that were given already. `false`,
    /// and no change: no pool covers it, or somebody has it.
    pub fn adopt_hold(&mut self, item: I, owner: &O, until: Duration) -> bool {
        let taken = self.uncovered.contains_key(&item);
        let kept = !taken
            && self
                .covering(item)
                .is_some_and(|index| self.pools[index].1.keep_hold(item, owner, until));
        if kept {
            self.remember(item, owner);
        }
        kept
    }

    /// Gives the owner a free item of the family, from the oldest pool that has one for it, or from the named pool.
    ///
    /// # Errors
    /// All that concern no certain item.
    pub fn allocate_any(
        &mut self,
        family: I::Family,
        request: &Request<'_, O>,
        from: Option<&PoolName>,
    ) -> Result<Allocation<I>, Refusal<I, O>> {
        self.lapse(request.now);
        let index = self.giving(family, request.owner, from)?;
        let pool = &mut self.pools[index].1;
        let item = pool.allocate_any(family, request)?;
        let pool = Some(pool.name().clone());
        self.remember(item, request.owner);
        Ok(Allocation { item, pool })
    }

    /// Gives the owner this very item.
    ///
    /// # Errors
    /// All but `NoPool`, `NoSuchFamily` and `Exhausted`.
    pub fn allocate_this(
        &mut self,
        item: I,
        request: &Request<'_, O>,
        from: Option<&PoolName>,
    ) -> Result<Allocation<I>, Refusal<I, O>> {
        self.lapse(request.now);
        let index = self.checked(item, request.owner, from)?;
        let pool = &mut self.pools[index].1;
        pool.allocate_this(item, request)?;
        let pool = Some(pool.name().clone());
        self.remember(item, request.owner);
        Ok(Allocation { item, pool })
    }

    /// The pool that [`allocate_this`](Self::allocate_this) would take the item from, without taking it, as of the last
    /// [`lapse`](Self::lapse).
    ///
    /// # Errors
    /// The same.
    pub fn check_this(&self, item: I, owner: &O, from: Option<&PoolName>) -> Result<PoolName, Refusal<I, O>> {
        let index = self.checked(item, owner, from)?;
        Ok(self.pools[index].1.name().clone())
    }

    /// Whether [`allocate_any`](Self::allocate_any) would give the owner something, as of the last
    /// [`lapse`](Self::lapse).
    ///
    /// # Errors
    /// The refusal that it would give.
    pub fn check_any(
        &self,
        family: I::Family,
        owner: &O,
        from: Option<&PoolName>,
    ) -> Result<(), Refusal<I, O>> {
        self.giving(family, owner, from).map(|_| ())
    }

    /// The pool in use that keeps an item of the family for the owner, who does not have it yet.
    pub fn reserving(&self, family: I::Family, owner: &O) -> Option<&PoolName> {
        let in_use = self
            .pools
            .iter()
            .filter(|(standing, _)| *standing == Standing::InUse);
        let mut pools = in_use.map(|(_, pool)| pool);
        pools
            .find(|pool| pool.reserved_for(family, owner).is_some())
            .map(Pool::name)
    }

    /// Takes an item, or a hold on it, back; `false` and no change if the owner does not have it.
    pub fn release(&mut self, item: I, owner: &O, now: Duration) -> bool {
        if !self.forget(item, owner) {
            return false;
        }
        if self.uncovered.remove(&item).is_none()
            && let Some(index) = self.covering(item)
        {
            // It has it: by_owner says so.
            let _ = self.pools[index].1.release(item, owner, now);
        }
        true
    }

    /// Takes a hold back as if it had never been given: for one that nobody has heard of yet.
    ///
    /// # Errors
    /// The pool's.
    pub fn withdraw(&mut self, item: I, owner: &O) -> Result<(), ReleaseError<I, O>> {
        let Some(index) = self.covering(item) else {
            return Err(ReleaseError::NotAllocated { item });
        };
        self.pools[index].1.withdraw(item, owner)?;
        self.forget(item, owner);
        Ok(())
    }

    /// Ends the holds whose deadline has come. Allocations do so by themselves: this is for whoever wants to
    /// know which.
    pub fn lapse(&mut self, now: Duration) -> Vec<(I, O)> {
        let mut lapsed = Vec::new();
        for (_, pool) in &mut self.pools {
            lapsed.extend(pool.lapse(now));
        }
        for (item, owner) in &lapsed {
            self.forget(*item, owner);
        }
        lapsed
    }

    /// When the next hold lapses.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.pools
            .iter()
            .filter_map(|(_, pool)| pool.next_deadline())
            .min()
    }

    /// Who has the item, or is to have it.
    pub fn holder(&self, item: I) -> Option<&O> {
        self.pools
            .iter()
            .find_map(|(_, pool)| pool.holder(item))
            .or_else(|| self.uncovered.get(&item))
    }

    /// Where the item stands, as of the last [`lapse`](Self::lapse).
    pub fn state(&self, item: I) -> State<'_, O> {
        if let Some(owner) = self.uncovered.get(&item) {
            return State::Allocated(owner);
        }
        let index = self.covering(item);
        index.map_or(State::Outside, |index| self.pools[index].1.state(item))
    }

    /// The items of an owner, holds included, ascending.
    pub fn held_by(&self, owner: &O) -> impl Iterator<Item = I> {
        self.by_owner.get(owner).into_iter().flatten().copied()
    }

    /// Everyone who has an item or is to have one.
    pub fn owners(&self) -> impl Iterator<Item = &O> {
        self.by_owner.keys()
    }

    /// Items that are allocated though no pool covers them.
    pub fn uncovered(&self) -> impl Iterator<Item = (I, &O)> {
        self.uncovered.iter().map(|(item, owner)| (*item, owner))
    }

    /// The pool that the item belongs to, if any: the one that gives it, else one at rest.
    pub fn pool_of(&self, item: I) -> Option<&PoolName> {
        self.covering(item).map(|index| self.pools[index].1.name())
    }

    /// A pool by name, with its standing.
    pub fn get(&self, name: &PoolName) -> Option<(&Standing<I>, &Pool<I, O>)> {
        self.iter().find(|(_, pool)| pool.name() == name)
    }

    /// All pools, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Standing<I>, &Pool<I, O>)> {
        self.pools.iter().map(|(standing, pool)| (standing, pool))
    }

    fn remember(&mut self, item: I, owner: &O) {
        self.by_owner.entry(owner.clone()).or_default().insert(item);
    }

    /// `false`: the owner did not have it.
    fn forget(&mut self, item: I, owner: &O) -> bool {
        let Some(items) = self.by_owner.get_mut(owner) else {
            return false;
        };
        let had = items.remove(&item);
        if items.is_empty() {
            self.by_owner.remove(owner);
        }
        had
    }

    /// Puts an allocated item where it belongs now. `false`: no pool covers it.
    fn place(&mut self, item: I, owner: &O) -> bool {
        let placed = self
            .covering(item)
            .is_some_and(|index| self.pools[index].1.adopt(item, owner).is_ok());
        if !placed {
            self.uncovered.insert(item, owner.clone());
        }
        placed
    }

    /// The pool that the item belongs to: the one that gives it, else the oldest at rest that covers it.
    fn covering(&self, item: I) -> Option<usize> {
        let mut covering = (0..self.pools.len()).filter(|index| self.pools[*index].1.ranges().contains(item));
        let first = covering.next()?;
        let in_use = |index: &usize| self.pools[*index].0 == Standing::InUse;
        if in_use(&first) {
            return Some(first);
        }
        Some(covering.find(in_use).unwrap_or(first))
    }

    fn named(&self, name: &PoolName) -> Result<usize, Refusal<I, O>> {
        let index = self.pools.iter().position(|(_, pool)| pool.name() == name);
        let index = index.ok_or_else(|| Refusal::NoSuchPool { pool: name.clone() })?;
        match &self.pools[index].0 {
            Standing::InUse => Ok(index),
            standing @ (Standing::Malformed | Standing::Overlapping(_)) => Err(Refusal::PoolAtRest {
                pool: name.clone(),
                standing: standing.clone(),
            }),
        }
    }

    /// The pool that would give the owner this item.
    fn checked(&self, item: I, owner: &O, from: Option<&PoolName>) -> Result<usize, Refusal<I, O>> {
        if let Some(pool) = from {
            self.named(pool)?;
        }
        let outside = |from: Option<&PoolName>| match from {
            Some(pool) => Refusal::NotInPool {
                item,
                pool: pool.clone(),
            },
            None => Refusal::NotInAnyPool { item },
        };
        let index = self.covering(item).ok_or_else(|| outside(from))?;
        let (standing, pool) = &self.pools[index];
        if from.is_some_and(|wanted| wanted != pool.name()) {
            return Err(outside(from));
        }
        match pool.check_this(item, owner)? {
            Granted::New if *standing != Standing::InUse => Err(Refusal::PoolAtRest {
                pool: pool.name().clone(),
                standing: standing.clone(),
            }),
            Granted::New | Granted::Already | Granted::Bound => Ok(index),
        }
    }

    /// The pool that would give the owner the next item of the family: the oldest that keeps one for it, else the oldest
    /// that has one.
    fn giving(&self, family: I::Family, owner: &O, from: Option<&PoolName>) -> Result<usize, Refusal<I, O>> {
        let mut candidates: Vec<usize> = match from {
            Some(name) => vec![self.named(name)?],
            None => (0..self.pools.len())
                .filter(|index| self.pools[*index].0 == Standing::InUse)
                .collect(),
        };
        candidates.sort_by_key(|index| self.pools[*index].1.reserved_for(family, owner).is_none());
        let mut refusals = Vec::new();
        for index in candidates {
            match self.pools[index].1.check_any(family, owner) {
                Ok(()) => return Ok(index),
                Err(refusal) => refusals.push(refusal),
            }
        }
        Err(Refusal::of_several(family, refusals))
    }
}

#[cfg(test)]
mod tests;
