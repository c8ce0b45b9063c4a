// SPDX-License-Identifier: Apache-2.0
//! Which pool serves a request.
//!
//! In: the pools, as their specs have them; a Service with the labels of its namespace; what it asks for; what is
//! claimed. Out: a [`Selection`]: from which pools, in which order, or this very value, or why not, and what was thought
//! of every pool. Touches: nothing. What is free, and what a namespace may still have, is for the book to know.
//!
//! ```text
//!   wish of the user > reservation of the administrator > claim of the tenant > any of the pools that serve it
//!   no pool serves it: any value outside every pool
//! ```
//!
//! A pool whose spec has faults, or that overlaps an older one, or that is draining, gives nothing new. What it gave
//! stays where it is, and is none of the questions here. A Service that only such pools serve is refused, and not given
//! a value from elsewhere: somebody meant it to have one of theirs.

mod matching;
mod pool;
mod selection;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::service::Labels;
pub use pool::{Item, Pool, PoolRef, Reservation, Standing, Supply, What};
pub use selection::{Choice, Considered, Outcome, Refusal, Selection};

/// A Service, as pools see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// The labels of the namespace.
    pub namespace_labels: &'a Labels,
    /// Its name; none yet where the API server is to make one up (generateName).
    pub name: Option<&'a str>,
    /// Its labels.
    pub labels: &'a Labels,
}

/// One thing that it asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What it is to be.
    pub what: What,
    /// The one that the user wants.
    pub wish: Option<Item>,
    /// Of the port, where it is a node port and the port has a name.
    pub port_name: Option<&'a str>,
    /// What the Service has already, of what is kept for it.
    pub taken: &'a BTreeSet<Item>,
}

/// An address that an AddressClaim keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The namespace of the claim and of the Service.
    pub namespace: String,
    /// The claim's name.
    pub claim: String,
    /// The Service's name.
    pub service: String,
    /// What the address is to be.
    pub what: What,
    /// The address.
    pub item: Item,
}

/// All pools, those that are asked first first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pools {
    by_rank: Vec<(Pool, Standing)>,
}

impl Pools {
    /// Ranks them, and finds those that overlap an older one of the same supply.
    pub fn new(pools: impl IntoIterator<Item = Pool>) -> Self {
        let mut pools: Vec<Pool> = pools.into_iter().collect();
        pools.sort_by(|one, other| (one.created, one.name()).cmp(&(other.created, other.name())));
        let mut standing: Vec<(Pool, Standing)> = Vec::with_capacity(pools.len());
        for pool in pools {
            // One that overlaps itself does not stand in anybody's way.
            let in_the_way = standing.iter().find(|(older, standing)| {
                !matches!(standing, Standing::Overlapping(_)) && older.overlaps(&pool)
            });
            let found = match in_the_way {
                Some((older, _)) => Standing::Overlapping(older.name().clone()),
                None if !pool.is_well_formed => Standing::Malformed,
                None if pool.is_draining => Standing::Draining,
                None => Standing::Gives,
            };
            standing.push((pool, found));
        }
        standing.sort_by_key(|(pool, _)| Reverse(pool.priority));
        Self { by_rank: standing }
    }

    /// The pools and how each stands, those that are asked first first.
    pub fn iter(&self) -> impl Iterator<Item = (&Pool, &Standing)> {
        self.by_rank.iter().map(|(pool, standing)| (pool, standing))
    }

    /// The one that was made first, and by its name of several.
    pub fn oldest(&self) -> Option<&Pool> {
        let pools = self.iter().map(|(pool, _)| pool);
        pools.min_by_key(|pool| (pool.created, pool.name()))
    }

    /// Whether any of them goes by the labels of namespaces.
    pub fn go_by_namespace_labels(&self) -> bool {
        let mut selectors = self.iter().filter_map(|(pool, _)| pool.selector.as_ref());
        selectors.any(|selector| selector.namespace_selector.is_some())
    }

    /// Whether the pool was made in this second since 1970, or before. API servers note no parts of seconds: of a pool and a
    /// Service of one second, either may have come first.
    pub fn was_made_by(&self, pool: &PoolRef, second: i64) -> bool {
        self.iter()
            .any(|(known, _)| known.name() == pool && known.created <= second)
    }

    /// Says where a value is to come from.
    pub fn select(&self, request: &Request<'_>, ask: &Ask<'_>, claims: &[Claimed]) -> Selection {
        let considered = self.consider(request, ask.what);
        let choice = match ask.wish {
            Some(item) => self.wished(item, request, ask, claims, &considered),
            None => self.unwished(request, ask, claims, &considered),
        };
        Selection { choice, considered }
    }

    /// What every pool that has such things is to a request, those that are asked first first.
    pub fn consider(&self, request: &Request<'_>, what: What) -> Vec<Considered> {
        let of_supply = self.iter().filter(|(pool, _)| pool.supply() == what.supply());
        of_supply
            .map(|(pool, standing)| Considered {
                pool: pool.name().clone(),
                outcome: outcome(pool, standing, request, what),
            })
            .collect()
    }

    fn unwished(
        &self,
        request: &Request<'_>,
        ask: &Ask<'_>,
        claims: &[Claimed],
        considered: &[Considered],
    ) -> Choice {
        if let Some((pool, item)) = self.reserved(request, ask) {
            return Choice::Reserved { pool, item };
        }
        let mut claimed = claims
            .iter()
            .filter(|claimed| claimed.what == ask.what && claimed.is_for(request));
        if let Some(claimed) = claimed.find(|claimed| !ask.taken.contains(&claimed.item)) {
            return Choice::Claimed {
                claim: claimed.claim.clone(),
                item: claimed.item,
            };
        }
        let serving = considered
            .iter()
            .filter(|considered| considered.outcome == Outcome::Serves);
        let serving: Vec<PoolRef> = serving.map(|considered| considered.pool.clone()).collect();
        if !serving.is_empty() {
            return Choice::AnyOf(serving);
        }
        let at_rest: Vec<Considered> = considered
            .iter()
            .filter(|considered| considered.outcome.selects())
            .cloned()
            .collect();
        if at_rest.is_empty() {
            Choice::OutsideEveryPool
        } else {
            Choice::Refused(Refusal::PoolsAtRest(at_rest))
        }
    }

    /// What the administrator keeps for the Service, in a pool that gives, whether or not the pool selects it.
    fn reserved(&self, request: &Request<'_>, ask: &Ask<'_>) -> Option<(PoolRef, Item)> {
        let giving = self.iter().filter(|(_, standing)| **standing == Standing::Gives);
        let reservations =
            giving.flat_map(|(pool, _)| pool.reservations.iter().map(move |kept| (pool, kept)));
        let mut fitting = reservations.filter(|(pool, kept)| {
            pool.supply() == ask.what.supply()
                && ask.what.is_family_of(kept.item)
                && kept.is_for(request)
                && kept
                    .port_name
                    .as_deref()
                    .is_none_or(|name| ask.port_name == Some(name))
                && !ask.taken.contains(&kept.item)
        });
        fitting
            .next()
            .map(|(pool, kept)| (pool.name().clone(), kept.item))
    }

    fn wished(
        &self,
        item: Item,
        request: &Request<'_>,
        ask: &Ask<'_>,
        claims: &[Claimed],
        considered: &[Considered],
    ) -> Choice {
        let Some((pool, standing)) = self.holding(item, ask.what.supply()) else {
            let selecting = considered
                .iter()
                .filter(|considered| considered.outcome.selects());
            let pools: Vec<PoolRef> = selecting.map(|considered| considered.pool.clone()).collect();
            return if pools.is_empty() {
                Choice::Wished { pool: None, item }
            } else {
                Choice::Refused(Refusal::WishOutside { item, pools })
            };
        };
        let name = || pool.name().clone();
        let given = Choice::Wished {
            pool: Some(name()),
            item,
        };
        if let Some(kept) = pool.reservations.iter().find(|kept| kept.item == item) {
            if !kept.is_for(request) {
                let service = kept.service.clone();
                return Choice::Refused(Refusal::WishReserved {
                    item,
                    pool: name(),
                    service,
                });
            }
            if *standing == Standing::Gives {
                return given;
            }
        }
        if let Some(claimed) = claims
            .iter()
            .find(|claimed| claimed.item == item && claimed.what == ask.what)
        {
            return if claimed.is_for(request) {
                given
            } else {
                Choice::Refused(Refusal::WishClaimed { item, pool: name() })
            };
        }
        match outcome(pool, standing, request, ask.what) {
            Outcome::Serves if pool.excludes(item) => {
                Choice::Refused(Refusal::WishExcluded { item, pool: name() })
            }
            Outcome::Serves => given,
            outcome @ (Outcome::FamilyMissing
            | Outcome::NamespaceNotSelected
            | Outcome::ServiceNotSelected
            | Outcome::AtRest(_)) => Choice::Refused(Refusal::WishInPool {
                item,
                within: Considered {
                    pool: name(),
                    outcome,
                },
            }),
        }
    }

    /// The pool that a value belongs to: where several have it, the one that does not overlap an older one.
    fn holding(&self, item: Item, supply: Supply) -> Option<(&Pool, &Standing)> {
        let holding = |(pool, _): &(&Pool, &Standing)| pool.supply() == supply && pool.contains(item);
        let overlaps = |standing: &Standing| matches!(standing, Standing::Overlapping(_));
        self.iter()
            .filter(holding)
            .min_by_key(|(_, standing)| overlaps(standing))
    }
}

impl Claimed {
    fn is_for(&self, request: &Request<'_>) -> bool {
        self.namespace == request.namespace && request.name == Some(self.service.as_str())
    }
}

fn outcome(pool: &Pool, standing: &Standing, request: &Request<'_>, what: What) -> Outcome {
    if !pool.has_family(what) {
        Outcome::FamilyMissing
    } else if !matching::selects_namespace(
        pool.selector.as_ref(),
        request.namespace,
        request.namespace_labels,
    ) {
        Outcome::NamespaceNotSelected
    } else if !matching::selects_service(pool.selector.as_ref(), request.labels) {
        Outcome::ServiceNotSelected
    } else {
        match standing {
            Standing::Gives => Outcome::Serves,
            Standing::Draining | Standing::Malformed | Standing::Overlapping(_) => {
                Outcome::AtRest(standing.clone())
            }
        }
    }
}
