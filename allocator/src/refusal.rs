// SPDX-License-Identifier: Apache-2.0
//! Names of pools, why one rests, and why an address was not given.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{IpFamily, IpRange, ServiceKey};

/// The name of a pool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName(Arc<str>);

impl PoolName {
    /// A pool's name as the API server has it.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A range that an earlier pool has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The pool that keeps it.
    pub with: PoolName,
    /// What the two share.
    pub ranges: Vec<IpRange>,
}

/// Whether a pool gives addresses. One that does not still keeps every address it has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It gives addresses.
    InUse,
    /// Part of its definition could not be read. All of it rests until that is put right: what was meant
    /// is not known.
    Malformed,
    /// An earlier pool has some of its ranges. All of it rests until that is put right.
    Overlapping(Vec<Overlap>),
}

impl fmt::Display for Standing {
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

/// Why the pools gave no address. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no pool that gives addresses.
    #[error("there is no AddressPool in use")]
    NoPool,
    /// No pool has that name.
    #[error("there is no AddressPool {pool}")]
    NoSuchPool {
        /// The pool asked for.
        pool: PoolName,
    },
    /// The pool gives nothing at present.
    #[error("AddressPool {pool} gives no addresses: {standing}")]
    PoolAtRest {
        /// The pool asked for.
        pool: PoolName,
        /// Why.
        standing: Standing,
    },
    /// None of the pools that may serve has addresses of the family.
    #[error("no AddressPool in question has {family} addresses")]
    NoSuchFamily {
        /// The family asked for.
        family: IpFamily,
    },
    /// Every pool that may serve is full.
    #[error("no {family} address is left in AddressPool {}", some_of(.pools, ", "))]
    Exhausted {
        /// The family asked for.
        family: IpFamily,
        /// The pools that have addresses of the family.
        pools: Vec<PoolName>,
    },
    /// The address belongs to none of the pools.
    #[error("{address} is in no AddressPool")]
    NotInAnyPool {
        /// The address asked for.
        address: IpAddr,
    },
    /// The address belongs to another pool than the one asked for, or to none.
    #[error("{address} is not in AddressPool {pool}")]
    NotInPool {
        /// The address asked for.
        address: IpAddr,
        /// The pool asked for.
        pool: PoolName,
    },
    /// Someone else has the address.
    #[error("{address} is held by {holder}")]
    AlreadyAllocated {
        /// The address asked for.
        address: IpAddr,
        /// Who has it.
        holder: ServiceKey,
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
