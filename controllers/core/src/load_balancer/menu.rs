// SPDX-License-Identifier: Apache-2.0
//! Which pools are for a Service, in the order in which they are asked, and why the others are not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_allocator::{PoolName, Pools, Refusal, State};
use berth_model::{IpFamily, ServiceKey};

use super::reason::{Asked, Reason};
use crate::pools::{self, Considered, Outcome, Request, Standing, What};

/// What every pool for load balancers is to one Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Menu {
    /// Of each family that it asks for; those that are asked first first.
    of: BTreeMap<IpFamily, Vec<Considered>>,
}

impl Menu {
    pub(super) fn new(ranked: &pools::Pools, families: &[IpFamily], request: &Request<'_>) -> Self {
        let considered = |family: &IpFamily| ranked.consider(request, What::LoadBalancer(*family));
        Self {
            of: families
                .iter()
                .map(|family| (*family, considered(family)))
                .collect(),
        }
    }

    /// The pools that may give the Service any address of the family: first the one that keeps one for it. With a
    /// certain one asked for, that one alone.
    pub(super) fn from(
        &self,
        pools: &Pools,
        key: &ServiceKey,
        family: IpFamily,
        wanted: Option<&PoolName>,
    ) -> Vec<PoolName> {
        let reserving = pools.reserving(family, key);
        let asked = self
            .considered(family)
            .iter()
            .filter(|considered| gives(considered));
        let mut from: Vec<PoolName> = reserving.cloned().into_iter().collect();
        for considered in asked {
            let name = PoolName::new(considered.pool.name.as_str());
            if !from.contains(&name) {
                from.push(name);
            }
        }
        from.retain(|name| wanted.is_none_or(|wanted| wanted == name));
        from
    }

    /// The pool that gives the Service the next address of the family.
    pub(super) fn next(
        &self,
        pools: &Pools,
        key: &ServiceKey,
        family: IpFamily,
        wanted: Option<&(PoolName, Asked)>,
    ) -> Result<PoolName, Reason> {
        let mut refusals = Vec::new();
        let from = self.from(pools, key, family, wanted.map(|(name, _)| name));
        for pool in from {
            match pools.check_any(family, key, Some(&pool)) {
                Ok(()) => return Ok(pool),
                Err(refusal) => refusals.push(refusal),
            }
        }
        Err(match wanted {
            Some((name, asked)) => self.not_of(pools, key, family, (name, asked)),
            None if refusals.is_empty() => self.none(pools, key, family),
            None => Reason::NotGiven {
                asked: None,
                refusal: Refusal::of_several(family, refusals),
            },
        })
    }

    /// The pool of an address, where it is for others than the Service, and does not keep the address for it.
    pub(super) fn of_others(&self, pools: &Pools, key: &ServiceKey, address: IpAddr) -> Option<&Considered> {
        let name = pools.pool_of(address)?;
        if matches!(pools.state(address), State::Reserved(owner) if owner == key) {
            return None;
        }
        let considered = self.considered(IpFamily::of(address)).iter();
        let mut others = considered.filter(|considered| is_for_others(considered));
        others.find(|considered| considered.pool.name == name.as_str())
    }

    /// Why the pool that is asked for gives nothing.
    fn not_of(
        &self,
        pools: &Pools,
        key: &ServiceKey,
        family: IpFamily,
        (name, asked): (&PoolName, &Asked),
    ) -> Reason {
        let mut others = self
            .considered(family)
            .iter()
            .filter(|considered| is_for_others(considered));
        if let Some(within) = others.find(|considered| considered.pool.name == name.as_str()) {
            return Reason::PoolForOthers {
                asked: asked.clone(),
                within: within.clone(),
            };
        }
        Reason::NotGiven {
            asked: Some(asked.clone()),
            refusal: refusal(pools, key, family, Some(name)),
        }
    }

    /// Why no pool gives anything: there is none, or none is for the Service.
    fn none(&self, pools: &Pools, key: &ServiceKey, family: IpFamily) -> Reason {
        let considered = self.considered(family);
        if considered.iter().any(is_for_others) {
            return Reason::NoPoolForService {
                family,
                considered: considered.to_vec(),
            };
        }
        Reason::NotGiven {
            asked: None,
            refusal: refusal(pools, key, family, None),
        }
    }

    fn considered(&self, family: IpFamily) -> &[Considered] {
        self.of.get(&family).map(Vec::as_slice).unwrap_or_default()
    }
}

fn refusal(pools: &Pools, key: &ServiceKey, family: IpFamily, from: Option<&PoolName>) -> Refusal {
    match pools.check_any(family, key, from) {
        Err(refusal) => refusal,
        // It would give something, and is not asked: it is at rest for whoever chooses among pools.
        Ok(()) => Refusal::NoPool,
    }
}

/// A draining one is asked too: it says so, and gives what it keeps for somebody.
fn gives(considered: &Considered) -> bool {
    matches!(
        considered.outcome,
        Outcome::Serves | Outcome::AtRest(Standing::Draining)
    )
}

fn is_for_others(considered: &Considered) -> bool {
    matches!(
        considered.outcome,
        Outcome::NamespaceNotSelected | Outcome::ServiceNotSelected
    )
}
