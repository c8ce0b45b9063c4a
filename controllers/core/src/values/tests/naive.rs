// SPDX-License-Identifier: Apache-2.0
//! The naive book: plain lists, all of them looked at for every answer.

use super::naive_pool::NaivePool;
use super::*;
use crate::pools::Supply;

#[derive(Clone, Debug)]
pub(super) struct NaiveHold {
    pub(super) grant: Grant,
    pub(super) until: Duration,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Naive {
    /// By supply.
    pub(super) pools: Vec<NaivePool>,
    pub(super) usable: BTreeSet<Item>,
    pub(super) services: BTreeMap<ServiceKey, (i64, BTreeSet<Item>)>,
    pub(super) holds: BTreeMap<AskId, NaiveHold>,
    /// What IPAddresses of other managers have.
    pub(super) foreign: BTreeSet<Item>,
    /// Name, age, for whom, what.
    pub(super) claims: BTreeMap<String, (i64, ServiceKey, Item)>,
}

/// What becomes of one slot.
#[derive(Debug)]
pub(super) enum Verdict {
    /// One of these.
    Given(BTreeSet<Item>),
    Left,
    Refused(Reason),
}

pub(super) fn supply_of(item: Item) -> Supply {
    match item {
        Item::Address(_) => Supply::ClusterIp,
        Item::Port(_) => Supply::NodePort,
    }
}

/// Somebody's question.
pub(super) struct Question<'a> {
    pub(super) ask: &'a AskId,
    pub(super) wish: &'a Wish,
    /// What it has been given so far.
    pub(super) given: BTreeSet<Item>,
}

impl Question<'_> {
    fn holder(&self) -> Holder {
        holder_of(self.ask, &self.wish.namespace, self.wish.name.as_deref())
    }

    /// Neither has a name.
    fn may_be(&self, owner: &Holder) -> bool {
        let Holder::Unnamed { namespace, .. } = owner else {
            return false;
        };
        self.wish.name.is_none() && **namespace == *self.wish.namespace
    }

    fn taken(&self) -> BTreeSet<Item> {
        self.wish.taken.union(&self.given).copied().collect()
    }
}

impl Naive {
    pub(super) fn lapse(&mut self, now: Duration) {
        self.holds.retain(|_, hold| hold.until > now);
    }

    /// Whose it is, and whether by a hold alone.
    pub(super) fn owner(&self, item: Item) -> Option<(Holder, bool)> {
        let users = self
            .services
            .iter()
            .filter(|(_, (_, items))| items.contains(&item));
        let user = users.min_by_key(|(key, (created, _))| (*created, (*key).clone()));
        if user.is_none() && self.foreign.contains(&item) {
            return Some((Holder::Foreign, false));
        }
        let claims = self.claims.iter().filter(|(_, (.., kept))| *kept == item);
        let claim = claims.min_by_key(|(name, (created, ..))| (*created, (*name).clone()));
        let service = user.map(|(key, _)| key).or(claim.map(|(_, (_, key, _))| key));
        if let Some(key) = service {
            return Some((Holder::Service(key.clone()), false));
        }
        let mut holds = self.holds.iter();
        let (ask, hold) = holds.find(|(_, hold)| hold.grant.items().contains(&item))?;
        Some((
            holder_of(ask, &hold.grant.namespace, hold.grant.name.as_deref()),
            true,
        ))
    }

    fn owned(&self, item: Item, question: &Question<'_>) -> Option<(Holder, bool)> {
        let given = question.given.contains(&item).then(|| (question.holder(), true));
        self.owner(item).or(given)
    }

    /// Those that overlap no older one, oldest first, and those that do.
    fn by_overlap(&self, supply: Supply) -> (Vec<&NaivePool>, Vec<&NaivePool>) {
        let mut pools: Vec<&NaivePool> = self.pools.iter().filter(|pool| pool.supply == supply).collect();
        pools.sort_by_key(|pool| (pool.created, pool.name.clone()));
        let (mut sound, mut overlapping): (Vec<&NaivePool>, Vec<&NaivePool>) = (Vec::new(), Vec::new());
        for pool in pools {
            if sound.iter().any(|older| !older.items.is_disjoint(&pool.items)) {
                overlapping.push(pool);
            } else {
                sound.push(pool);
            }
        }
        (sound, overlapping)
    }

    fn gives(&self, pool: &NaivePool) -> bool {
        let (sound, _) = self.by_overlap(pool.supply);
        pool.is_well_formed() && !pool.draining && sound.iter().any(|other| other.name == pool.name)
    }

    /// The pool that a value is of.
    pub(super) fn pool_of(&self, item: Item) -> Option<&NaivePool> {
        let (sound, overlapping) = self.by_overlap(supply_of(item));
        let mut pools = sound.into_iter().chain(overlapping);
        pools.find(|pool| pool.items.contains(&item))
    }

    /// The pool that is asked about a wish: among those that overlap, the one that is asked first.
    fn holding(&self, item: Item) -> Option<&NaivePool> {
        let (sound, mut overlapping) = self.by_overlap(supply_of(item));
        overlapping.sort_by_key(|pool| (-pool.priority, pool.created, pool.name.clone()));
        let mut pools = sound.into_iter().chain(overlapping);
        pools.find(|pool| pool.items.contains(&item))
    }

    fn reservation(&self, item: Item) -> Option<&ServiceKey> {
        let pool = self.pool_of(item).filter(|pool| !pool.excluded.contains(&item))?;
        let (_, key) = pool.reserved.as_ref().filter(|(reserved, _)| *reserved == item)?;
        Some(key)
    }

    /// Capacity, allocated, held, reserved, withheld, free.
    pub(super) fn counts(&self, pool: &NaivePool) -> [u64; 6] {
        let mut counts = [0; 6];
        for item in pool.items.iter().filter(|item| self.is_of(pool, **item)) {
            let index = match (self.owner(*item), self.reservation(*item)) {
                (Some((_, false)), _) => 1,
                (Some((_, true)), _) => 2,
                (None, Some(_)) => 3,
                (None, None) if !self.usable.contains(item) => 4,
                (None, None) => 5,
            };
            counts[0] += 1;
            counts[index] += 1;
        }
        counts
    }

    fn is_of(&self, pool: &NaivePool, item: Item) -> bool {
        let is_it = self.pool_of(item).is_some_and(|of| of.name == pool.name);
        is_it && !pool.excluded.contains(&item)
    }

    fn has_quota_left(&self, pool: &NaivePool, question: &Question<'_>) -> bool {
        let mine = |item: &Item| {
            let owner = self.owned(*item, question).map(|(owner, _)| owner);
            let namespace = owner.and_then(|owner| match owner {
                Holder::Service(key) | Holder::Reserved(key) => Some(key.namespace().to_owned()),
                Holder::Unnamed { namespace, .. } => Some(namespace.to_string()),
                Holder::Foreign => None,
            });
            self.is_of(pool, *item) && namespace.as_ref() == Some(&question.wish.namespace)
        };
        let count = pool.items.iter().filter(|item| mine(item)).count() as u64;
        pool.quota.is_none_or(|limit| count < limit)
    }

    pub(super) fn verdict(&self, question: &Question<'_>, asked: &Asked) -> Verdict {
        let supply = super::super::wish::what(asked.slot).supply();
        if !self.pools.iter().any(|pool| pool.supply == supply) {
            return Verdict::Left;
        }
        match asked.wish {
            Some(item) => self.wished(question, item),
            None => self.unwished(question, asked.slot, supply),
        }
    }

    fn wished(&self, question: &Question<'_>, item: Item) -> Verdict {
        let namespace = question.wish.namespace.as_str();
        let key = question.wish.key();
        let claimed_for: Vec<&ServiceKey> = self
            .claims
            .values()
            .filter(|(.., kept)| *kept == item)
            .map(|(_, key, _)| key)
            .collect();
        if let Some(pool) = self.holding(item) {
            // Of two for one value the older has the word.
            let kept = pool.reserved.as_ref().filter(|(reserved, _)| *reserved == item);
            let is_kept_for_it = kept.is_some_and(|(_, of)| Some(of) == key.as_ref());
            if kept.is_some() && !is_kept_for_it {
                return Verdict::Refused(Reason::WishReserved);
            }
            if !(is_kept_for_it && self.gives(pool)) {
                if !claimed_for.is_empty() {
                    if claimed_for.first().copied() != key.as_ref() {
                        return Verdict::Refused(Reason::WishClaimed);
                    }
                } else if !(pool.selects(namespace) && self.gives(pool)) {
                    return Verdict::Refused(Reason::WishInPool);
                } else if pool.excluded.contains(&item) {
                    return Verdict::Refused(Reason::WishExcluded);
                }
            }
        } else {
            let supply = supply_of(item);
            let mut pools = self.pools.iter().filter(|pool| pool.supply == supply);
            if pools.any(|pool| pool.selects(namespace)) {
                return Verdict::Refused(Reason::WishOutside);
            }
        }
        if !self.usable.contains(&item) {
            return Verdict::Left;
        }
        match self.owned(item, question) {
            Some((owner, _)) if owner == question.holder() => Verdict::Given([item].into()),
            Some((owner, true)) if question.may_be(&owner) => Verdict::Given([item].into()),
            Some((_, true)) => Verdict::Refused(Reason::WishBeingGiven),
            Some((_, false)) => Verdict::Left,
            None => match self.pool_of(item) {
                Some(pool) if pool.excluded.contains(&item) => Verdict::Left,
                Some(pool) if !self.has_quota_left(pool, question) => Verdict::Refused(Reason::QuotaReached),
                Some(_) | None => Verdict::Given([item].into()),
            },
        }
    }

    fn unwished(&self, question: &Question<'_>, slot: Slot, supply: Supply) -> Verdict {
        if let Some(kept) = self.reserved(question, supply) {
            return kept;
        }
        if let Some(item) = self.claimed(question, supply) {
            return Verdict::Given([item].into());
        }
        let namespace = question.wish.namespace.as_str();
        let mut serving = self.giving(supply);
        serving.retain(|pool| pool.selects(namespace));
        let mut pools = self.pools.iter().filter(|pool| pool.supply == supply);
        if serving.is_empty() && pools.any(|pool| pool.selects(namespace)) {
            return Verdict::Refused(Reason::PoolsAtRest);
        }
        if let Some(item) = self.again(question, slot, &serving) {
            return Verdict::Given([item].into());
        }
        for pool in &serving {
            let free = self.free(question, |item| self.is_of(pool, item));
            if self.has_quota_left(pool, question) && !free.is_empty() {
                return Verdict::Given(free);
            }
        }
        if let Some(pool) = serving.first() {
            return Verdict::Refused(self.why_full(pool, question));
        }
        if !self.usable.iter().any(|item| supply_of(*item) == supply) {
            return Verdict::Left;
        }
        let outside = |item| supply_of(item) == supply && self.pool_of(item).is_none();
        let free = self.free(question, outside);
        if free.is_empty() {
            Verdict::Refused(Reason::RangeExhausted)
        } else {
            Verdict::Given(free)
        }
    }

    /// Those that give, in the order in which they are asked.
    fn giving(&self, supply: Supply) -> Vec<&NaivePool> {
        let pools = self.pools.iter();
        let mut giving: Vec<&NaivePool> = pools
            .filter(|pool| pool.supply == supply && self.gives(pool))
            .collect();
        giving.sort_by_key(|pool| (-pool.priority, pool.created, pool.name.clone()));
        giving
    }

    fn free(&self, question: &Question<'_>, among: impl Fn(Item) -> bool) -> BTreeSet<Item> {
        let free = self.usable.iter().copied().filter(|item| {
            among(*item) && self.owned(*item, question).is_none() && self.reservation(*item).is_none()
        });
        free.collect()
    }

    fn is_own(&self, item: Item, question: &Question<'_>) -> bool {
        let owner = self.owned(item, question).map(|(owner, _)| owner);
        owner == Some(question.holder())
    }

    fn reserved(&self, question: &Question<'_>, supply: Supply) -> Option<Verdict> {
        let (key, taken) = (question.wish.key()?, question.taken());
        for pool in self.giving(supply) {
            let Some((item, _)) = pool.reserved.as_ref().filter(|(_, of)| *of == key) else {
                continue;
            };
            let is_free = self.owned(*item, question).is_none();
            if taken.contains(item)
                || !self.usable.contains(item)
                || !(is_free || self.is_own(*item, question))
            {
                continue;
            }
            return Some(if is_free && !self.has_quota_left(pool, question) {
                Verdict::Refused(Reason::QuotaReached)
            } else {
                Verdict::Given([*item].into())
            });
        }
        None
    }

    fn claimed(&self, question: &Question<'_>, supply: Supply) -> Option<Item> {
        let (key, taken) = (question.wish.key()?, question.taken());
        let fits = |(_, (_, of, item)): &(&String, &(i64, ServiceKey, Item))| {
            let is_free = !taken.contains(item) && self.usable.contains(item);
            supply_of(*item) == supply && *of == key && is_free && self.is_own(*item, question)
        };
        let claims = self.claims.iter().filter(fits);
        let oldest = claims.min_by_key(|(name, (created, ..))| (*created, (*name).clone()));
        oldest.map(|(_, (.., item))| *item)
    }

    fn again(&self, question: &Question<'_>, slot: Slot, serving: &[&NaivePool]) -> Option<Item> {
        let (key, taken) = (question.wish.key(), question.taken());
        let fits = |item: &Item| {
            let place = match self.pool_of(*item) {
                Some(pool) => serving
                    .iter()
                    .any(|one| self.is_of(one, *item) && one.name == pool.name),
                None => serving.is_empty(),
            };
            let is_held = match (&key, self.owner(*item)) {
                (Some(key), owner) => owner == Some((Holder::Service(key.clone()), true)),
                (None, Some((owner, true))) => question.may_be(&owner),
                (None, _) => false,
            };
            place
                && is_held
                && !taken.contains(item)
                && self.usable.contains(item)
                && self.reservation(*item).is_none()
        };
        let items: BTreeSet<Item> = if key.is_some() {
            let holds = self.holds.values().filter(|hold| hold.grant.key() == key);
            holds.filter_map(|hold| hold.grant.at(slot)).collect()
        } else {
            let what = super::super::wish::what(slot);
            let had = question.wish.had.iter().copied();
            had.filter(|item| what.is_family_of(*item)).collect()
        };
        items.into_iter().find(fits)
    }

    fn why_full(&self, pool: &NaivePool, question: &Question<'_>) -> Reason {
        if !self.has_quota_left(pool, question) {
            return Reason::QuotaReached;
        }
        let withheld = |item: &&Item| {
            self.is_of(pool, **item)
                && !self.usable.contains(item)
                && self.owned(**item, question).is_none()
                && self.reservation(**item).is_none()
        };
        match (pool.items.iter().any(|item| withheld(&item)), pool.supply) {
            (false, _) => Reason::PoolExhausted,
            (true, Supply::NodePort) => Reason::OutsideNodePortRange,
            (true, Supply::ClusterIp | Supply::LoadBalancer) => Reason::NoServiceCidr,
        }
    }

    /// What is over when a Service appears or changes.
    /// A claim that is new, or another one, ends questions for its Service of which it keeps all.
    pub(super) fn settled_by_claim(&self, name: &str, claim: &(i64, ServiceKey, Item)) -> BTreeSet<AskId> {
        let (_, key, item) = claim;
        let over = |hold: &NaiveHold| {
            let grant = &hold.grant;
            grant.is_update
                && grant.key().as_ref() == Some(key)
                && grant.items().iter().all(|held| held == item)
        };
        let is_known = self.claims.get(name) == Some(claim);
        let settled = self.holds.iter().filter(|(_, hold)| !is_known && over(hold));
        settled.map(|(ask, _)| ask.clone()).collect()
    }

    pub(super) fn settled(&self, key: &ServiceKey, appears: bool, items: &BTreeSet<Item>) -> BTreeSet<AskId> {
        let over = |hold: &NaiveHold| {
            let held = hold.grant.items();
            match hold.grant.key() {
                Some(of) if of == *key => held.is_subset(items) || (appears && !hold.grant.is_update),
                Some(_) => false,
                None => appears && hold.grant.namespace == key.namespace() && !held.is_disjoint(items),
            }
        };
        let settled = self.holds.iter().filter(|(_, hold)| over(hold));
        settled.map(|(ask, _)| ask.clone()).collect()
    }
}
