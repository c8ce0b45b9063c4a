// SPDX-License-Identifier: Apache-2.0
//! What its administrator says about a pool.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::ServiceKey;

use crate::{Item, Owner, RangeSet, StaticBand};

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

/// Which free item is given to one who takes any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The lowest.
    #[default]
    LowestFirst,
    /// The first at or behind a random place, as upstream does.
    Random,
    /// The lowest that was never given, and when there is none, the one that was given back longest ago.
    ///
    /// The last [`MOST_RESTING`](crate::MOST_RESTING) that were given back are known; earlier ones count as never given.
    LeastRecentlyReleased,
}

/// How many items of each family a group of owners may hold in a pool, holds included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// For every group that is not named; `None`: as many as there are.
    pub each: Option<u64>,
    /// For these groups.
    pub groups: BTreeMap<String, u64>,
}

impl Quota {
    /// What this group may hold.
    pub fn limit(&self, group: &str) -> Option<u64> {
        self.groups.get(group).copied().or(self.each)
    }
}

/// Why a reservation comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoidReservation {
    /// The item is not one that the pool has to give.
    OutsidePool,
    /// An earlier reservation is for the same item.
    SecondForItem,
}

impl VoidReservation {
    /// Stable text for log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutsidePool => "OutsidePool",
            Self::SecondForItem => "SecondForItem",
        }
    }
}

impl fmt::Display for VoidReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutsidePool => {
                "the pool does not have it to give; add it to the pool, or remove the reservation"
            }
            Self::SecondForItem => "it is reserved above already; keep one of the two",
        })
    }
}

/// What its administrator wrote about a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDefinition<I: Item = IpAddr, O: Owner = ServiceKey> {
    /// Its name.
    pub name: PoolName,
    /// When it was created, in seconds since the epoch: of two pools that contest a range the older one
    /// has it, of two equally old ones the one whose name sorts first.
    pub created: i64,
    /// The items that could be read.
    pub ranges: RangeSet<I>,
    /// Those of them that are not the pool's to give: what the administrator excludes, and network and broadcast addresses
    /// ([`network_and_broadcast`](crate::network_and_broadcast)).
    pub excluded: RangeSet<I>,
    /// Whether all of it could be read.
    pub well_formed: bool,
    /// Which items are handed out last.
    pub static_band: StaticBand,
    /// Items that are handed out last beside those: for bands that lie elsewhere than at the beginning.
    pub kept: RangeSet<I>,
    /// Items that can't be given at present, for a reason that is not the pool's. They are its own all the same: who has
    /// one keeps it.
    pub withheld: RangeSet<I>,
    /// Which item is next.
    pub strategy: Strategy,
    /// Whether it keeps what it gave and gives nothing new.
    pub draining: bool,
    /// How many a group may hold.
    pub quota: Quota,
    /// Items that only this owner is given, whether or not it exists yet. Of two for one item the first counts; quotas count
    /// one from when it is given. Those that come to nothing are [`void_reservations`](Self::void_reservations).
    pub reservations: Vec<(I, O)>,
}

impl<I: Item, O: Owner> PoolDefinition<I, O> {
    /// A pool of these items and nothing special about it.
    pub fn of(name: PoolName, ranges: RangeSet<I>) -> Self {
        Self {
            name,
            created: 0,
            ranges,
            excluded: RangeSet::default(),
            well_formed: true,
            static_band: StaticBand::default(),
            kept: RangeSet::default(),
            withheld: RangeSet::default(),
            strategy: Strategy::default(),
            draining: false,
            quota: Quota::default(),
            reservations: Vec::new(),
        }
    }

    /// The reservations that come to nothing, and why.
    pub fn void_reservations(&self) -> Vec<(I, O, VoidReservation)> {
        let usable = self.usable();
        let mut seen = BTreeSet::new();
        let void = self.reservations.iter().filter_map(|(item, owner)| {
            let why = if !usable.contains(*item) {
                VoidReservation::OutsidePool
            } else if !seen.insert(*item) {
                VoidReservation::SecondForItem
            } else {
                return None;
            };
            Some((*item, owner.clone(), why))
        });
        void.collect()
    }

    /// The items that it has to give.
    pub fn usable(&self) -> RangeSet<I> {
        self.ranges.without(&self.excluded)
    }
}
