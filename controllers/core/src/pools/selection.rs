// SPDX-License-Identifier: Apache-2.0
//! What came of choosing a pool, in a form that explains itself.

use std::fmt;

use berth_model::ServiceKey;

use super::pool::{Item, PoolRef, Standing};

/// What a pool is to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It serves it.
    Serves,
    /// It has no addresses of the family.
    FamilyMissing,
    /// It is for other namespaces.
    NamespaceNotSelected,
    /// It is for Services with other labels.
    ServiceNotSelected,
    /// It is for it, and gives nothing new.
    AtRest(Standing),
}

impl Outcome {
    /// The stable text form.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Serves => "Serves",
            Self::FamilyMissing => "FamilyMissing",
            Self::NamespaceNotSelected => "NamespaceNotSelected",
            Self::ServiceNotSelected => "ServiceNotSelected",
            Self::AtRest(Standing::Gives) => "AtRest",
            Self::AtRest(Standing::Draining) => "Draining",
            Self::AtRest(Standing::Malformed) => "Malformed",
            Self::AtRest(Standing::Overlapping(_)) => "Overlapping",
        }
    }

    /// Whether the pool is meant for the request, even if it gives nothing.
    pub fn selects(&self) -> bool {
        match self {
            Self::Serves | Self::AtRest(_) => true,
            Self::FamilyMissing | Self::NamespaceNotSelected | Self::ServiceNotSelected => false,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serves => f.write_str("serves it"),
            Self::FamilyMissing => f.write_str("has no address of the family"),
            Self::NamespaceNotSelected => f.write_str("does not select the namespace"),
            Self::ServiceNotSelected => f.write_str("does not select the labels of the Service"),
            Self::AtRest(standing) => standing.fmt(f),
        }
    }
}

/// A pool, and what it is to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// The pool.
    pub pool: PoolRef,
    /// What it is.
    pub outcome: Outcome,
}

impl fmt::Display for Considered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pool, self.outcome)
    }
}

/// Why a request is refused, before it is known what is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Every pool that is for it gives nothing new.
    PoolsAtRest(Vec<Considered>),
    /// Pools are for it, and the value that it asks for is in none.
    WishOutside {
        /// The value.
        item: Item,
        /// The pools that are for it.
        pools: Vec<PoolRef>,
    },
    /// The value belongs to a pool that is not for it, or gives nothing new.
    WishInPool {
        /// The value.
        item: Item,
        /// The pool, and why not.
        within: Considered,
    },
    /// The value is never given.
    WishExcluded {
        /// The value.
        item: Item,
        /// The pool that it is excluded from.
        pool: PoolRef,
    },
    /// The administrator keeps the value for another Service.
    WishReserved {
        /// The value.
        item: Item,
        /// The pool that it is of.
        pool: PoolRef,
        /// For whom it is kept.
        service: ServiceKey,
    },
    /// A claim keeps the value for another Service, possibly of another tenant: which one is not said.
    WishClaimed {
        /// The value.
        item: Item,
        /// The pool that it is of.
        pool: PoolRef,
    },
}

impl Refusal {
    /// The stable text form.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::PoolsAtRest(_) => "PoolsAtRest",
            Self::WishOutside { .. } => "WishOutside",
            Self::WishInPool { .. } => "WishInPool",
            Self::WishExcluded { .. } => "WishExcluded",
            Self::WishReserved { .. } => "WishReserved",
            Self::WishClaimed { .. } => "WishClaimed",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = "leave it out to be given one, or ask for another";
        match self {
            Self::PoolsAtRest(pools) => {
                let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "every pool for it gives nothing new ({}): put one of them right, or add one",
                    pools.join(", ")
                )
            }
            Self::WishOutside { item, pools } => {
                let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "{item} is not in {}, which is for it: {other}",
                    pools.join(" or ")
                )
            }
            Self::WishInPool { item, within } => {
                write!(f, "{item} is of a pool that does not give it ({within}): {other}")
            }
            Self::WishExcluded { item, pool } => write!(f, "{item} is excluded from {pool}: {other}"),
            Self::WishReserved { item, pool, service } => {
                write!(f, "{item} of {pool} is reserved for Service {service}: {other}")
            }
            Self::WishClaimed { item, pool } => {
                write!(f, "{item} of {pool} is claimed for another Service: {other}")
            }
        }
    }
}

/// Where a value is to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one that the user asks for, if it is free.
    Wished {
        /// The pool that it is of; none where it is of no pool.
        pool: Option<PoolRef>,
        /// The value.
        item: Item,
    },
    /// The one that the administrator keeps for the Service.
    Reserved {
        /// The pool that it is of.
        pool: PoolRef,
        /// The value.
        item: Item,
    },
    /// The one that a claim of the namespace keeps for the Service.
    Claimed {
        /// The claim.
        claim: String,
        /// The value.
        item: Item,
    },
    /// Any of the first of these that has one left, and of which the namespace may have more.
    AnyOf(Vec<PoolRef>),
    /// No pool is for it: any that is in none.
    OutsideEveryPool,
    /// None.
    Refused(Refusal),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wished {
                pool: Some(pool),
                item,
            } => write!(f, "{item} of {pool}, by wish"),
            Self::Wished { pool: None, item } => write!(f, "{item} of no pool, by wish"),
            Self::Reserved { pool, item } => write!(f, "{item} of {pool}, by reservation"),
            Self::Claimed { claim, item } => write!(f, "{item}, by AddressClaim {claim}"),
            Self::AnyOf(pools) => {
                let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
                write!(f, "any of {}", pools.join(", then "))
            }
            Self::OutsideEveryPool => f.write_str("any outside every pool"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
        }
    }
}

/// A choice, and what was thought of every pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Where the value is to come from.
    pub choice: Choice,
    /// Every pool of the kind, those that are asked first first.
    pub considered: Vec<Considered>,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.choice)?;
        for considered in &self.considered {
            write!(f, "\n  {considered}")?;
        }
        Ok(())
    }
}
