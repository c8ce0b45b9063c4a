// SPDX-License-Identifier: Apache-2.0
//! What is different where an AddressClaim asks: what it gets is of a pool, of the one that it names if it names one, or
//! it gets nothing and is told why.

use super::Values;
use super::refuse::because;
use super::wish::{Claiming, Reason, Refused, Wish};
use crate::admission::{Exempt, Slot};
use crate::pools::{Choice, Considered, Item, PoolRef, Refusal, Selection};

/// A choice, as far as it is one for a claim.
pub(super) enum Narrowed {
    /// As it is, or less of it.
    To(Choice),
    /// Of another pool than the claim names: to be asked again without it.
    Without(Item),
}

impl Values {
    /// Leaves of a choice what the claim may have.
    pub(super) fn narrowed(
        &self,
        wish: &Wish,
        claiming: &Claiming,
        slot: Slot,
        selection: Selection,
    ) -> Result<Narrowed, Refused> {
        let named = claiming.pool.as_deref();
        let is_named = |pool: &PoolRef| named.is_none_or(|named| pool.name == named);
        if let Some(missing) = named.filter(|named| !self.address_pools.contains_key(*named)) {
            let text = format!(
                "spec.pool: {missing:?}: there is no AddressPool of that name with use: ClusterIP; name another, or leave it out"
            );
            return Err(because(slot, wish, Reason::NoSuchPool, &text));
        }
        Ok(match selection.choice {
            Choice::Wished { pool: None, item } => {
                let text = format!("{item} is in no pool: ask for one of a pool that serves the Service");
                return Err(because(slot, wish, Reason::WishOutside, &text));
            }
            Choice::Wished {
                pool: Some(pool),
                item,
            } if !is_named(&pool) => {
                let text = format!("{item} is of {pool}, and spec.pool names another: change one of the two");
                return Err(because(slot, wish, Reason::WishOutside, &text));
            }
            Choice::Reserved { pool, item } if !is_named(&pool) => {
                // What the administrator keeps for the Service elsewhere it gets without a claim.
                Narrowed::Without(item)
            }
            Choice::Claimed { item, .. } if named.is_some() && self.pool_name_of(item) != named => {
                Narrowed::Without(item)
            }
            Choice::AnyOf(pools) => {
                let pools: Vec<PoolRef> = pools.into_iter().filter(is_named).collect();
                if pools.is_empty() {
                    return Err(no_pool(slot, wish, named, &selection.considered));
                }
                Narrowed::To(Choice::AnyOf(pools))
            }
            Choice::Refused(Refusal::PoolsAtRest(at_rest))
                if named.is_some() && !at_rest.iter().any(|considered| is_named(&considered.pool)) =>
            {
                // Others are at rest, and the one that it names is not for it at all.
                return Err(no_pool(slot, wish, named, &selection.considered));
            }
            Choice::OutsideEveryPool => return Err(no_pool(slot, wish, named, &selection.considered)),
            choice @ (Choice::Wished { .. }
            | Choice::Reserved { .. }
            | Choice::Claimed { .. }
            | Choice::Refused(_)) => Narrowed::To(choice),
        })
    }
}

fn no_pool(slot: Slot, wish: &Wish, named: Option<&str>, considered: &[Considered]) -> Refused {
    let named = named.and_then(|named| considered.iter().find(|considered| considered.pool.name == named));
    let text = match named {
        Some(considered) => {
            format!("{considered}: name a pool that serves the Service, or have this one select it")
        }
        None => "no pool serves the Service: have one select its namespace and labels".to_owned(),
    };
    because(slot, wish, Reason::NoPool, &text)
}

/// Pools do not apply to the Service.
pub(super) fn exempt(slot: Slot, wish: &Wish, exempt: Exempt) -> Refused {
    let text = format!("pools do not apply to it ({exempt}): give its cluster IP in the Service itself");
    because(slot, wish, Reason::NoPool, &text)
}

/// What stands against a value that a claim asks for.
pub(super) enum Taker {
    Service,
    Foreign,
    NoServiceCidr,
}

impl Values {
    /// What stands against a value that can't be given.
    pub(super) fn taker(&self, item: Item) -> Taker {
        if !self.is_given(item) {
            Taker::NoServiceCidr
        } else if self.is_foreign(item) {
            Taker::Foreign
        } else {
            Taker::Service
        }
    }
}

/// Somebody has the value, or the API server would not take it. Whose it is, is not for another tenant to know.
pub(super) fn taken(slot: Slot, wish: &Wish, item: Item, by: Taker) -> Refused {
    let other = "leave spec.address out to be given one, ask for another, or wait for it";
    let (reason, text) = match by {
        Taker::Service => (Reason::WishTaken, format!("another Service has {item}")),
        Taker::Foreign => (
            Reason::WishTaken,
            format!("an IPAddress that others than the API server manage has {item}"),
        ),
        Taker::NoServiceCidr => (
            Reason::NoServiceCidr,
            format!("{item} is in no ServiceCIDR that is ready"),
        ),
    };
    because(slot, wish, reason, &format!("{text}: {other}"))
}
