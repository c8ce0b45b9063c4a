// SPDX-License-Identifier: Apache-2.0
//! Why a pool rests, why an item was not given, and why one was not taken back.

use std::fmt;
use std::net::IpAddr;

use berth_model::ServiceKey;

use crate::{Item, Owner, PoolName};

/// A range that an earlier pool has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap<I: Item = IpAddr> {
    /// The pool that keeps it.
    pub with: PoolName,
    /// What the two share.
    pub ranges: Vec<I::Range>,
}

/// Whether a pool gives items. One that does not still keeps every item it has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing<I: Item = IpAddr> {
    /// It gives items.
    InUse,
    /// Part of its definition could not be read. All of it rests until that is put right: what was meant
    /// is not known.
    Malformed,
    /// An earlier pool has some of its ranges. All of it rests until that is put right.
    Overlapping(Vec<Overlap<I>>),
}

impl<I: Item> fmt::Display for Standing<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse => f.write_str("in use"),
            Self::Malformed => f.write_str("part of its spec cannot be read"),
            Self::Overlapping(overlaps) => {
                let contests: Vec<String> = overlaps
                    .iter()
                    .map(|overlap| {
                        format!(
                            "pool {} has {} already",
                            overlap.with,
                            some_of(&overlap.ranges, ", ")
                        )
                    })
                    .collect();
                f.write_str(&some_of(&contests, "; "))
            }
        }
    }
}

/// Why no item was given. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal<I: Item = IpAddr, O: Owner = ServiceKey> {
    /// There is no pool that gives items.
    #[error("there is no {} in use", I::POOL)]
    NoPool,
    /// No pool has that name.
    #[error("there is no {} {pool}", I::POOL)]
    NoSuchPool {
        /// The pool asked for.
        pool: PoolName,
    },
    /// The pool gives nothing at present.
    #[error("{} {pool} gives no {}: {standing}", I::POOL, I::SEVERAL)]
    PoolAtRest {
        /// The pool asked for.
        pool: PoolName,
        /// Why.
        standing: Standing<I>,
    },
    /// The pool keeps what it gave and gives nothing new.
    #[error("{} {pool} is being drained and gives nothing new", I::POOL)]
    Draining {
        /// The pool.
        pool: PoolName,
    },
    /// None of the pools that may serve has items of the family.
    #[error("no {} in question has {}", I::POOL, I::plural(*.family))]
    NoSuchFamily {
        /// The family asked for.
        family: I::Family,
    },
    /// Every pool that may serve is full.
    #[error("no {} is left in {} {}", I::noun(*.family), I::POOL, some_of(.pools, ", "))]
    Exhausted {
        /// The family asked for.
        family: I::Family,
        /// The pools that have items of the family.
        pools: Vec<PoolName>,
    },
    /// The group of the owner holds as many as it may.
    #[error("{group} holds {count} of the {limit} {} that it may hold in {} {pool}", I::plural(*.family), I::POOL)]
    QuotaReached {
        /// The pool.
        pool: PoolName,
        /// The group, for a Service its namespace.
        group: String,
        /// The family asked for.
        family: I::Family,
        /// What it holds, holds included. More than the limit where that was lowered.
        count: u64,
        /// What it may hold.
        limit: u64,
    },
    /// The item belongs to none of the pools.
    #[error("{item} is in no {}", I::POOL)]
    NotInAnyPool {
        /// The item asked for.
        item: I,
    },
    /// The item belongs to another pool than the one asked for, or to none.
    #[error("{item} is not in {} {pool}", I::POOL)]
    NotInPool {
        /// The item asked for.
        item: I,
        /// The pool asked for.
        pool: PoolName,
    },
    /// Someone else has the item.
    #[error("{item} is held by {holder}")]
    AlreadyAllocated {
        /// The item asked for.
        item: I,
        /// Who has it.
        holder: O,
    },
    /// The item is on its way to someone else, who may still not come to have it.
    #[error("{item} is being given to {holder}")]
    BeingGiven {
        /// The item asked for.
        item: I,
        /// Who is to have it.
        holder: O,
    },
    /// The item can't be given at present.
    #[error("{item} of {} {pool} can't be given at present", I::POOL)]
    Withheld {
        /// The item asked for.
        item: I,
        /// The pool.
        pool: PoolName,
    },
    /// The administrator keeps the item for someone else.
    #[error("{item} is reserved for {owner} in {} {pool}", I::POOL)]
    Reserved {
        /// The item asked for.
        item: I,
        /// The pool.
        pool: PoolName,
        /// For whom.
        owner: O,
    },
}

impl<I: Item, O: Owner> Refusal<I, O> {
    /// What to say for all pools that refused: the first that could serve at all has the word, and full ones speak together.
    pub fn of_several(family: I::Family, refusals: Vec<Self>) -> Self {
        if refusals.is_empty() {
            return Self::NoPool;
        }
        let mut full = Vec::new();
        let mut other = None;
        for refusal in refusals {
            match refusal {
                Self::NoSuchFamily { .. } => {}
                Self::Exhausted { pools, .. } => full.extend(pools),
                Self::NoPool
                | Self::NoSuchPool { .. }
                | Self::PoolAtRest { .. }
                | Self::Draining { .. }
                | Self::QuotaReached { .. }
                | Self::NotInAnyPool { .. }
                | Self::NotInPool { .. }
                | Self::AlreadyAllocated { .. }
                | Self::BeingGiven { .. }
                | Self::Withheld { .. }
                | Self::Reserved { .. } => {
                    other.get_or_insert(refusal);
                }
            }
        }
        match other {
            Some(refusal) => refusal,
            None if full.is_empty() => Self::NoSuchFamily { family },
            None => Self::Exhausted { family, pools: full },
        }
    }

    /// Stable text for log fields and metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoPool => "NoPool",
            Self::NoSuchPool { .. } => "NoSuchPool",
            Self::PoolAtRest { .. } => "PoolAtRest",
            Self::Draining { .. } => "Draining",
            Self::NoSuchFamily { .. } => "NoSuchFamily",
            Self::Exhausted { .. } => "Exhausted",
            Self::QuotaReached { .. } => "QuotaReached",
            Self::NotInAnyPool { .. } => "NotInAnyPool",
            Self::NotInPool { .. } => "NotInPool",
            Self::AlreadyAllocated { .. } => "AlreadyAllocated",
            Self::BeingGiven { .. } => "BeingGiven",
            Self::Withheld { .. } => "Withheld",
            Self::Reserved { .. } => "Reserved",
        }
    }

    /// What would help, to be read behind the refusal itself.
    pub fn way_out(&self) -> String {
        match self {
            Self::NoPool => "create one".to_owned(),
            Self::NoSuchPool { .. } => "name a pool that exists, or none".to_owned(),
            Self::PoolAtRest { .. } => "put that pool's spec right, or name another".to_owned(),
            Self::Draining { .. } => "use another pool, or end the draining (spec.draining)".to_owned(),
            Self::NoSuchFamily { .. } => {
                format!("add such {} to a pool, or change spec.ipFamilyPolicy", I::SEVERAL)
            }
            Self::Exhausted { .. } => {
                format!(
                    "add {} to the pool, or delete a Service that holds one",
                    I::SEVERAL
                )
            }
            Self::QuotaReached { .. } => {
                "give one up, or have the quota of the pool raised (spec.quota)".to_owned()
            }
            Self::NotInAnyPool { .. } => format!("ask for {} of a pool, or add it to one", I::ONE),
            Self::NotInPool { .. } => format!("ask for {} of that pool, or for another pool", I::ONE),
            Self::AlreadyAllocated { .. } => "ask for another, or have it given up there".to_owned(),
            Self::BeingGiven { .. } => "ask for another, or try again in a minute".to_owned(),
            Self::Withheld { .. } => "ask for another".to_owned(),
            Self::Reserved { .. } => {
                "ask for another, or have the reservation changed (spec.reservations)".to_owned()
            }
        }
    }
}

/// Why an item was not taken back. The pool is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError<I: Item = IpAddr, O: Owner = ServiceKey> {
    /// Nobody holds it.
    #[error("{item} is not allocated")]
    NotAllocated {
        /// The item.
        item: I,
    },
    /// Another holds it.
    #[error("{item} is held by {holder}")]
    HeldByAnother {
        /// The item.
        item: I,
        /// Who has it.
        holder: O,
    },
    /// It is the owner's for good, so that it cannot be as if it had never been given.
    #[error("{item} is no hold, {holder} has it")]
    NoHold {
        /// The item.
        item: I,
        /// Who has it.
        holder: O,
    },
}

/// How many items a message names: it becomes the text of a condition, which has a limit (32,768 bytes).
const NAMED: usize = 4;

fn some_of<T: fmt::Display>(items: &[T], separator: &str) -> String {
    let mut named: Vec<String> = items.iter().take(NAMED).map(ToString::to_string).collect();
    if items.len() > NAMED {
        named.push(format!("{} more", items.len() - NAMED));
    }
    named.join(separator)
}
