// SPDX-License-Identifier: Apache-2.0
//! Per family: has it, gets it, keeps another, or lacks it. Nothing is taken yet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_allocator::{PoolName, Refusal};
use berth_model::{IpFamily, ServiceKey};

use super::ledger::Ledger;
use super::menu::Menu;
use super::reason::{Asked, Reason};
use super::waiting::{Need, Wanted};
use super::wish::Wish;

/// What becomes of one family of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has what it asks for.
    Has(IpAddr),
    /// It gets this very address, which is free.
    GetsThis(IpAddr),
    /// It shares this address with those that have it.
    Joins(IpAddr),
    /// It gets a free address of this pool.
    GetsAny(PoolName),
    /// It keeps the address that it has, because what it asks for cannot be had.
    Keeps(IpAddr, Reason),
    /// It has none and gets none.
    Lacks(Reason),
}

/// The verdict on each family of the wish, in its order. `current` holds addresses of the Service's own.
pub(super) fn judge(
    key: &ServiceKey,
    wish: &Wish,
    current: &BTreeMap<IpFamily, IpAddr>,
    (ledger, menu): (&Ledger, &Menu),
) -> Vec<(IpFamily, Verdict)> {
    let mut verdicts: Vec<(IpFamily, Verdict)> = wish
        .families
        .iter()
        .map(|family| {
            let verdict = judge_family(key, wish, *family, current.get(family).copied(), (ledger, menu));
            (*family, verdict)
        })
        .collect();
    if wish.both_or_nothing
        && let Some(reason) = verdicts.iter().find_map(|(_, verdict)| lack(verdict)).cloned()
    {
        for (family, verdict) in &mut verdicts {
            if matches!(
                verdict,
                Verdict::GetsThis(_) | Verdict::Joins(_) | Verdict::GetsAny(_)
            ) {
                *verdict = without(current.get(family).copied(), reason.clone());
            }
        }
    }
    let said = verdicts.into_iter();
    said.map(|(family, verdict)| (family, or_not_shared(key, verdict, ledger)))
        .collect()
}

/// What would have to become free for the verdicts to be better; `None` where only an edit would help.
pub(super) fn need(
    key: &ServiceKey,
    wish: &Wish,
    verdicts: &[(IpFamily, Verdict)],
    (ledger, menu): (&Ledger, &Menu),
) -> Option<Need> {
    let (mut lacking, mut improvable) = (Vec::new(), Vec::new());
    for (family, verdict) in verdicts {
        let wanted = || Wanted {
            leaves: leaves(verdict),
            ..wanted(key, wish, *family, (ledger, menu))
        };
        match verdict {
            Verdict::Lacks(_) => lacking.push(wanted()),
            Verdict::Keeps(_, Reason::OutsidePools { .. } | Reason::KeptOfOthers { .. })
            | Verdict::Has(_)
            | Verdict::GetsThis(_)
            | Verdict::Joins(_)
            | Verdict::GetsAny(_) => {}
            Verdict::Keeps(..) => improvable.push(wanted()),
        }
    }
    let need = Need {
        lacking,
        improvable,
        all: wish.both_or_nothing,
    };
    (!need.is_empty()).then_some(need)
}

/// What it has, and should leave to those that it shares it with.
fn leaves(verdict: &Verdict) -> Option<IpAddr> {
    match verdict {
        Verdict::Keeps(_, reason) => reason.leaves(),
        Verdict::Has(_)
        | Verdict::GetsThis(_)
        | Verdict::Joins(_)
        | Verdict::GetsAny(_)
        | Verdict::Lacks(_) => None,
    }
}

/// What would do for one family, and the pools that it may come from.
fn wanted(key: &ServiceKey, wish: &Wish, family: IpFamily, (ledger, menu): (&Ledger, &Menu)) -> Wanted {
    let pools = ledger.pools();
    let address = wish.requested(family).map(|(address, _)| *address);
    let from = match address {
        None if wish.requested.is_err() => Vec::new(),
        Some(address) if menu.of_others(pools, key, address).is_some() => Vec::new(),
        Some(address) => {
            let of = pools.pool_of(address).cloned().into_iter();
            of.filter(|of| wish.pool_name().is_none_or(|wanted| wanted == of))
                .collect()
        }
        None => menu.from(pools, key, family, wish.pool_name()),
    };
    Wanted {
        family,
        address,
        from,
        leaves: None,
    }
}

fn judge_family(
    key: &ServiceKey,
    wish: &Wish,
    family: IpFamily,
    current: Option<IpAddr>,
    (ledger, menu): (&Ledger, &Menu),
) -> Verdict {
    match (&wish.requested, wish.requested(family)) {
        (Err(reason), _) => without(current, reason.clone()),
        (Ok(_), Some((address, asked))) => judge_this(key, wish, (*address, asked), current, (ledger, menu)),
        (Ok(_), None) => judge_any(key, wish, family, current, (ledger, menu)),
    }
}

/// It asks for a certain address.
fn judge_this(
    key: &ServiceKey,
    wish: &Wish,
    (address, asked): (IpAddr, &Asked),
    current: Option<IpAddr>,
    (ledger, menu): (&Ledger, &Menu),
) -> Verdict {
    let has_it = current == Some(address);
    let asked = asked.clone();
    // Where nobody is given anything, nobody joins.
    let joined = ledger.pools().pool_of(address).filter(|_| wish.shares && !has_it);
    let from = wish.pool_name().or(joined);
    let verdict = match ledger.pools().check_this(address, key, from) {
        Ok(_) | Err(Refusal::AlreadyAllocated { .. }) if has_it => return has(key, address, (ledger, menu)),
        Err(Refusal::NotInAnyPool { .. }) if has_it => {
            return Verdict::Keeps(address, Reason::OutsidePools { address });
        }
        Ok(_) => Verdict::GetsThis(address),
        Err(Refusal::AlreadyAllocated { .. }) if wish.shares => match ledger.may_share(key, address) {
            Ok(()) => Verdict::Joins(address),
            Err((holder, unlike)) => {
                let unlike = Box::new(unlike);
                return without(
                    current,
                    Reason::AddressNotShared {
                        asked,
                        address,
                        holder,
                        unlike,
                    },
                );
            }
        },
        Err(refusal) => {
            let by_pool = matches!(refusal, Refusal::NoSuchPool { .. } | Refusal::PoolAtRest { .. });
            let of_pool = wish.pool.as_ref().filter(|_| by_pool);
            let asked = Some(of_pool.map_or(asked, |(_, of_pool)| of_pool.clone()));
            return without(current, Reason::NotGiven { asked, refusal });
        }
    };
    match menu.of_others(ledger.pools(), key, address) {
        None => verdict,
        Some(within) => {
            let within = within.clone();
            without(current, Reason::PoolForOthers { asked, within })
        }
    }
}

/// Any address will do.
fn judge_any(
    key: &ServiceKey,
    wish: &Wish,
    family: IpFamily,
    current: Option<IpAddr>,
    (ledger, menu): (&Ledger, &Menu),
) -> Verdict {
    let (pools, pool) = (ledger.pools(), wish.pool_name());
    let next = || {
        let from = menu.from(pools, key, family, pool);
        match ledger.joinable(key, family, &from) {
            Some(address) => Ok(Verdict::Joins(address)),
            None => menu
                .next(pools, key, family, wish.pool.as_ref())
                .map(Verdict::GetsAny),
        }
    };
    let Some(address) = current else {
        return next().unwrap_or_else(Verdict::Lacks);
    };
    if let Some(reason) = not_shared(key, address, ledger) {
        // It shares on other terms than before: it goes elsewhere as soon as it can.
        return next().unwrap_or(Verdict::Keeps(address, reason));
    }
    match (pools.pool_of(address), pool) {
        // Not moved to the pool asked for: a pool cut short by mistake must cost nobody an address.
        (None, _) => Verdict::Keeps(address, Reason::OutsidePools { address }),
        (Some(of), Some(wanted)) if of != wanted => {
            next().unwrap_or_else(|reason| Verdict::Keeps(address, reason))
        }
        (Some(_), Some(_) | None) => has(key, address, (ledger, menu)),
    }
}

/// That it keeps what others have on other terms is said before anything else: a restart reads it.
fn or_not_shared(key: &ServiceKey, verdict: Verdict, ledger: &Ledger) -> Verdict {
    match verdict {
        Verdict::Keeps(address, reason) => {
            Verdict::Keeps(address, not_shared(key, address, ledger).unwrap_or(reason))
        }
        Verdict::Has(_)
        | Verdict::GetsThis(_)
        | Verdict::Joins(_)
        | Verdict::GetsAny(_)
        | Verdict::Lacks(_) => verdict,
    }
}

fn not_shared(key: &ServiceKey, address: IpAddr, ledger: &Ledger) -> Option<Reason> {
    let (holder, unlike) = ledger.crowds_out(key, address)?;
    Some(Reason::NoLongerShared {
        address,
        holder,
        unlike: Box::new(unlike),
    })
}

/// An edit of a pool takes no address from anybody.
fn has(key: &ServiceKey, address: IpAddr, (ledger, menu): (&Ledger, &Menu)) -> Verdict {
    if let Some(reason) = not_shared(key, address, ledger) {
        return Verdict::Keeps(address, reason);
    }
    match menu.of_others(ledger.pools(), key, address) {
        Some(within) => Verdict::Keeps(
            address,
            Reason::KeptOfOthers {
                address,
                within: within.clone(),
            },
        ),
        None => Verdict::Has(address),
    }
}

fn without(current: Option<IpAddr>, reason: Reason) -> Verdict {
    match current {
        Some(address) => Verdict::Keeps(address, reason),
        None => Verdict::Lacks(reason),
    }
}

fn lack(verdict: &Verdict) -> Option<&Reason> {
    match verdict {
        Verdict::Lacks(reason) => Some(reason),
        Verdict::Has(_)
        | Verdict::GetsThis(_)
        | Verdict::Joins(_)
        | Verdict::GetsAny(_)
        | Verdict::Keeps(..) => None,
    }
}
