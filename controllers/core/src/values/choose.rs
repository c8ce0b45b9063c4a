// SPDX-License-Identifier: Apache-2.0
//! From a wish to values, all of them or none.

use std::collections::BTreeSet;

use berth_allocator::{NodePorts, PoolName, Refusal as NotGiven, State};
use berth_model::ServiceKey;

use super::claiming::{self, Narrowed};
use super::refuse::{self, Full};
use super::stock::{Holder, Lease, Stock, Value, outside};
use super::wish::{Asked, Grant, Reason, Refused, Wish, what};
use super::{Values, holder_of};
use crate::admission::Slot;
use crate::holder::AskId;
use crate::pools::{Ask, Choice, Item, PoolRef, Request, What};
use crate::service::Labels;

/// A question on its way.
pub(super) struct Search<'a> {
    pub(super) wish: &'a Wish,
    key: Option<ServiceKey>,
    lease: Lease<'a>,
    /// What the Service has, of its own or by now.
    taken: BTreeSet<Item>,
}

/// What a certain value is to a question.
enum Certain {
    /// It is held now.
    Held,
    /// Another has it, or it can't be given: to be passed over.
    Passed,
}

impl Values {
    /// Finds the values and holds them, without a deadline as yet.
    pub(super) fn find(&mut self, ask: &AskId, wish: &Wish) -> Result<Grant, Refused> {
        let name = wish.name.as_deref();
        let mut grant = wish.empty_grant();
        if let Some(exempt) = self.exemptions.of(&wish.namespace, name.unwrap_or_default()) {
            return match wish.asks.first().filter(|_| wish.claim.is_some()) {
                Some(asked) => Err(claiming::exempt(asked.slot, wish, exempt)),
                None => Ok(grant),
            };
        }
        let holder = holder_of(ask, &wish.namespace, name);
        let mut search = Search {
            wish,
            key: wish.key(),
            lease: Lease {
                ask,
                holder: &holder,
                now: self.now,
            },
            taken: wish.taken.clone(),
        };
        // What somebody asks for goes before what may be any.
        let (wished, any): (Vec<&Asked>, Vec<&Asked>) =
            wish.asks.iter().partition(|asked| asked.wish.is_some());
        for asked in wished.into_iter().chain(any) {
            match self.slot(&search, asked) {
                Ok(Some(item)) => {
                    search.taken.insert(item);
                    grant.put(asked.slot, item);
                    if asked.wish.is_some() {
                        grant.wished.insert(item);
                    }
                }
                Ok(None) => {}
                Err(refused) => {
                    for item in grant.items() {
                        self.withdraw(item, ask);
                    }
                    return Err(refused);
                }
            }
        }
        Ok(grant)
    }

    /// The value of one slot; none where it is left to the API server.
    fn slot(&mut self, search: &Search<'_>, asked: &Asked) -> Result<Option<Item>, Refused> {
        let what = what(asked.slot);
        let supply = what.supply();
        if !self.ranked.iter().any(|(pool, _)| pool.supply() == supply) && search.wish.claim.is_none() {
            return Ok(None);
        }
        let claims = self.claims_for(search.key.as_ref(), asked.wish);
        let unlabelled = Labels::new();
        let said = search.wish.namespace_labels.as_ref().unwrap_or(&unlabelled);
        let mut taken = search.taken.clone();
        loop {
            let namespace = &search.wish.namespace;
            let request = Request {
                namespace,
                namespace_labels: self.namespaces.get(namespace).unwrap_or(said),
                name: search.wish.name.as_deref(),
                labels: &search.wish.labels,
            };
            let ask = Ask {
                what,
                wish: asked.wish,
                port_name: asked.port_name.as_deref(),
                taken: &taken,
            };
            let selection = self.ranked.select(&request, &ask, &claims);
            let choice = match &search.wish.claim {
                Some(claiming) => match self.narrowed(search.wish, claiming, asked.slot, selection)? {
                    Narrowed::To(choice) => choice,
                    Narrowed::Without(item) => {
                        taken.insert(item);
                        continue;
                    }
                },
                None => selection.choice,
            };
            let certain = match choice {
                Choice::Refused(refusal) => return Err(refuse::before(asked.slot, search.wish, &refusal)),
                Choice::Wished { item, .. } => return self.wished(search, asked.slot, item),
                Choice::AnyOf(pools) => return self.any_of(search, asked.slot, &pools),
                Choice::OutsideEveryPool => return self.outside(search, asked.slot),
                Choice::Reserved { item, .. } | Choice::Claimed { item, .. } => item,
            };
            match self.certain(search, asked.slot, certain)? {
                Certain::Held => return Ok(Some(certain)),
                Certain::Passed => {
                    taken.insert(certain);
                }
            }
        }
    }

    fn wished(&mut self, search: &Search<'_>, slot: Slot, item: Item) -> Result<Option<Item>, Refused> {
        let wished = match item {
            Item::Address(address) => wish_of(&mut self.addresses, search, address),
            Item::Port(port) => wish_of(&mut self.ports, search, port),
        };
        match wished {
            Ok(Certain::Held) => Ok(Some(item)),
            Ok(Certain::Passed) if search.wish.claim.is_some() => {
                let by = self.taker(item);
                Err(claiming::taken(slot, search.wish, item, by))
            }
            // The API server refuses what is taken or not its own, and says it best.
            Ok(Certain::Passed) => Ok(None),
            Err(why) => Err(self.not_this(slot, search.wish, item, why)),
        }
    }

    fn certain(&mut self, search: &Search<'_>, slot: Slot, item: Item) -> Result<Certain, Refused> {
        let certain = match item {
            Item::Address(address) => certain_of(&mut self.addresses, search, address),
            Item::Port(port) => certain_of(&mut self.ports, search, port),
        };
        certain.map_err(|why| self.not_this(slot, search.wish, item, why))
    }

    fn any_of(
        &mut self,
        search: &Search<'_>,
        slot: Slot,
        pools: &[PoolRef],
    ) -> Result<Option<Item>, Refused> {
        let names: Vec<PoolName> = pools
            .iter()
            .map(|pool| PoolName::new(pool.name.as_str()))
            .collect();
        if let Some(item) = self.again(search, slot, &names) {
            return Ok(Some(item));
        }
        let mut full = Vec::new();
        for (name, pool) in names.iter().zip(pools) {
            match self.next_of(search, what(slot), name) {
                Ok(item) => return Ok(Some(item)),
                Err(quota) => full.push(self.full(pool, name, what(slot), quota)),
            }
        }
        Err(refuse::full(slot, search.wish, &full))
    }

    fn outside(&mut self, search: &Search<'_>, slot: Slot) -> Result<Option<Item>, Refused> {
        let name = outside();
        let nothing = match what(slot) {
            What::ClusterIp(family) => self.addresses.usable().count(family) == 0,
            What::NodePort => false,
            What::LoadBalancer(_) => true,
        };
        if nothing {
            // No ServiceCIDR is ready, as far as is known here.
            return Ok(None);
        }
        if let Some(item) = self.again(search, slot, std::slice::from_ref(&name)) {
            return Ok(Some(item));
        }
        let next = self.next_of(search, what(slot), &name).map(Some);
        next.map_err(|_| refuse::range_full(slot, search.wish, &self.counts(&name, what(slot))))
    }

    /// The next value of a pool; nothing where it has none, and the quota where that is why.
    fn next_of(
        &mut self,
        search: &Search<'_>,
        what: What,
        pool: &PoolName,
    ) -> Result<Item, Option<refuse::Quota>> {
        let random = self.random.next();
        let lease = &search.lease;
        match what {
            What::ClusterIp(family) => {
                let given = self.addresses.give_any(family, pool, lease, random);
                given.map(Item::Address).map_err(|why| refuse::quota(&why))
            }
            What::NodePort => {
                let given = self.ports.give_any(NodePorts, pool, lease, random);
                given.map(Item::Port).map_err(|why| refuse::quota(&why))
            }
            What::LoadBalancer(_) => Err(None),
        }
    }

    /// What an earlier question of the same Service holds for the slot: asking again does not take another.
    fn again(&mut self, search: &Search<'_>, slot: Slot, pools: &[PoolName]) -> Option<Item> {
        let earlier: BTreeSet<Item> = match &search.key {
            Some(key) => {
                let earlier = self.holds.of(key).filter(|(_, hold)| hold.stands);
                earlier.filter_map(|(_, hold)| hold.grant.at(slot)).collect()
            }
            // Nothing but the values themselves tells one without a name from another.
            None => {
                let had = search.wish.had.iter().copied();
                had.filter(|item| what(slot).is_family_of(*item)).collect()
            }
        };
        let mut fitting = earlier.difference(&search.taken).copied();
        fitting.find(|item| match item {
            Item::Address(address) => share(&mut self.addresses, search, *address, pools),
            Item::Port(port) => share(&mut self.ports, search, *port, pools),
        })
    }

    fn full(&self, pool: &PoolRef, name: &PoolName, what: What, quota: Option<refuse::Quota>) -> Full {
        Full {
            pool: pool.clone(),
            quota,
            counts: self.counts(name, what),
            foreign: self.foreign_in(name, what),
        }
    }

    fn not_this(&self, slot: Slot, wish: &Wish, item: Item, why: NotThis) -> Refused {
        match why {
            NotThis::Quota(pool, quota) => {
                let reference = PoolRef {
                    supply: what(slot).supply(),
                    name: pool.as_str().to_owned(),
                };
                let full = self.full(&reference, &pool, what(slot), Some(quota));
                refuse::full(slot, wish, &[full])
            }
            NotThis::BeingGiven => {
                let way_out = "leave it out to be given one, ask for another, or try again in a minute";
                let text = format!("{item} is on its way to another Service: {way_out}");
                refuse::because(slot, wish, Reason::WishBeingGiven, &text)
            }
            NotThis::Refused(why) => {
                let text = format!("{why}: leave it out to be given one, or ask for another");
                refuse::because(slot, wish, Reason::WishReserved, &text)
            }
        }
    }
}

/// Why a certain value is not given.
enum NotThis {
    Quota(PoolName, refuse::Quota),
    BeingGiven,
    Refused(String),
}

/// Where a certain value stands for a question.
enum Stand {
    Own,
    Free,
    ReservedForIt,
    BeingGiven,
    Gone,
}

/// Whether the one may be the other. Of Services without a name nobody can say: where they are two, the API server has the last
/// word on a value that both ask for.
fn may_be(one: &Holder, other: &Holder) -> bool {
    match (one, other) {
        (Holder::Unnamed { namespace: one, .. }, Holder::Unnamed { namespace: other, .. }) => one == other,
        (Holder::Service(_) | Holder::Reserved(_) | Holder::Unnamed { .. } | Holder::Foreign, _) => {
            one == other
        }
    }
}

fn stand<I: Value>(stock: &Stock<I>, search: &Search<'_>, item: I) -> Stand {
    if !stock.is_usable(item) {
        return Stand::Gone;
    }
    let holder = search.lease.holder;
    match stock.state(item) {
        State::Allocated(by) if by == holder => Stand::Own,
        State::Held(by, _) if may_be(by, holder) => Stand::Own,
        State::Held(..) => Stand::BeingGiven,
        State::Free | State::Resting(_) => Stand::Free,
        State::Reserved(Holder::Reserved(of)) if Some(of) == search.key.as_ref() => Stand::ReservedForIt,
        State::Allocated(_) | State::Reserved(_) | State::Outside | State::Withheld => Stand::Gone,
    }
}

fn give<I: Value>(
    stock: &mut Stock<I>,
    search: &Search<'_>,
    item: I,
    reserved_for: Option<&ServiceKey>,
) -> Result<Certain, NotThis> {
    match stock.give_this(item, reserved_for, &search.lease) {
        Ok(()) => Ok(Certain::Held),
        Err(why) => Err(match (refuse::quota(&why), stock.pool_of(item)) {
            (Some(quota), Some(pool)) => NotThis::Quota(pool.clone(), quota),
            (Some(_), None) | (None, _) => NotThis::Refused(NotGiven::to_string(&why)),
        }),
    }
}

/// A value that the user wishes for, which the pools have nothing against.
fn wish_of<I: Value>(stock: &mut Stock<I>, search: &Search<'_>, item: I) -> Result<Certain, NotThis> {
    match stand(stock, search, item) {
        Stand::Own => {
            stock.hold(item, &search.lease);
            Ok(Certain::Held)
        }
        Stand::Free => give(stock, search, item, None),
        Stand::ReservedForIt => give(stock, search, item, search.key.as_ref()),
        Stand::BeingGiven => Err(NotThis::BeingGiven),
        Stand::Gone => Ok(Certain::Passed),
    }
}

/// A value that somebody keeps for the Service.
fn certain_of<I: Value>(stock: &mut Stock<I>, search: &Search<'_>, item: I) -> Result<Certain, NotThis> {
    match stand(stock, search, item) {
        Stand::Own => {
            stock.hold(item, &search.lease);
            Ok(Certain::Held)
        }
        Stand::ReservedForIt => give(stock, search, item, search.key.as_ref()),
        Stand::Free | Stand::BeingGiven | Stand::Gone => Ok(Certain::Passed),
    }
}

/// Keeps what is held for the same Service for this question too, if it is of one of the pools and not kept for one of
/// its ports.
fn share<I: Value>(stock: &mut Stock<I>, search: &Search<'_>, item: I, pools: &[PoolName]) -> bool {
    let held = matches!(stock.state(item), State::Held(by, _) if may_be(by, search.lease.holder));
    let pool = stock.pool_of(item).filter(|pool| pools.contains(pool));
    let reserved = |pool: &PoolName| {
        let mut reservations = stock.pool(pool).into_iter().flat_map(|pool| pool.reservations());
        reservations.any(|(reserved, _)| reserved == item)
    };
    let fits = held && stock.is_usable(item) && pool.is_some_and(|pool| !reserved(pool));
    if fits {
        stock.hold(item, &search.lease);
    }
    fits
}
