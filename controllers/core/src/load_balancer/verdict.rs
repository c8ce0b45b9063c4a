// SPDX-License-Identifier: Apache-2.0
//! Per family: has it, gets it, keeps another, or lacks it. Nothing is taken yet.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_allocator::{Pools, Refusal};
use berth_model::{IpFamily, ServiceKey};

use super::reason::Reason;
use super::waiting::{Need, Wanted};
use super::wish::Wish;

/// What becomes of one family of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has what it asks for.
    Has(IpAddr),
    /// It gets this very address, which is free.
    GetsThis(IpAddr),
    /// It gets a free address.
    GetsAny,
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
    pools: &Pools,
) -> Vec<(IpFamily, Verdict)> {
    let mut verdicts: Vec<(IpFamily, Verdict)> = wish
        .families
        .iter()
        .map(|family| {
            let verdict = judge_family(key, wish, *family, current.get(family).copied(), pools);
            (*family, verdict)
        })
        .collect();
    if wish.both_or_nothing
        && let Some(reason) = verdicts.iter().find_map(|(_, verdict)| lack(verdict)).cloned()
    {
        for (family, verdict) in &mut verdicts {
            if matches!(verdict, Verdict::GetsThis(_) | Verdict::GetsAny) {
                *verdict = without(current.get(family).copied(), reason.clone());
            }
        }
    }
    verdicts
}

/// What would have to become free for the verdicts to be better; `None` where only an edit would help.
pub(super) fn need(wish: &Wish, verdicts: &[(IpFamily, Verdict)]) -> Option<Need> {
    if wish.requested.is_err() {
        return None;
    }
    let (mut lacking, mut improvable) = (Vec::new(), Vec::new());
    for (family, verdict) in verdicts {
        let wanted: Wanted = (*family, wish.requested(*family).map(|(address, _)| *address));
        match verdict {
            Verdict::Lacks(_) => lacking.push(wanted),
            Verdict::Keeps(_, Reason::OutsidePools { .. })
            | Verdict::Has(_)
            | Verdict::GetsThis(_)
            | Verdict::GetsAny => {}
            Verdict::Keeps(..) => improvable.push(wanted),
        }
    }
    (!lacking.is_empty() || !improvable.is_empty()).then(|| Need {
        lacking,
        improvable,
        pool: wish.pool_name().cloned(),
        all: wish.both_or_nothing,
    })
}

fn judge_family(
    key: &ServiceKey,
    wish: &Wish,
    family: IpFamily,
    current: Option<IpAddr>,
    pools: &Pools,
) -> Verdict {
    if let Err(reason) = &wish.requested {
        return without(current, reason.clone());
    }
    let pool = wish.pool_name();
    if let Some((address, asked)) = wish.requested(family) {
        return match pools.check_this(*address, key, pool) {
            Ok(_) if current == Some(*address) => Verdict::Has(*address),
            Ok(_) => Verdict::GetsThis(*address),
            Err(Refusal::NotInAnyPool { .. }) if current == Some(*address) => {
                Verdict::Keeps(*address, Reason::OutsidePools { address: *address })
            }
            Err(refusal) => {
                let by_pool = matches!(refusal, Refusal::NoSuchPool { .. } | Refusal::PoolAtRest { .. });
                let asked = match &wish.pool {
                    Some((_, asked)) if by_pool => asked,
                    Some(_) | None => asked,
                };
                without(
                    current,
                    Reason::NotGiven {
                        asked: Some(asked.clone()),
                        refusal,
                    },
                )
            }
        };
    }
    let refusal = |refusal: Refusal| Reason::NotGiven {
        asked: wish.pool.as_ref().map(|(_, asked)| asked.clone()),
        refusal,
    };
    match current {
        Some(address) => match (pools.pool_of(address), pool) {
            // Not moved to the pool asked for: a pool cut short by mistake must cost nobody an address.
            (None, _) => Verdict::Keeps(address, Reason::OutsidePools { address }),
            (Some(of), Some(wanted)) if of != wanted => match pools.check_any(family, key, pool) {
                Ok(()) => Verdict::GetsAny,
                Err(error) => Verdict::Keeps(address, refusal(error)),
            },
            (Some(_), Some(_) | None) => Verdict::Has(address),
        },
        None => match pools.check_any(family, key, pool) {
            Ok(()) => Verdict::GetsAny,
            Err(error) => Verdict::Lacks(refusal(error)),
        },
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
        Verdict::Has(_) | Verdict::GetsThis(_) | Verdict::GetsAny | Verdict::Keeps(..) => None,
    }
}
