// SPDX-License-Identifier: Apache-2.0
//! What is there before anything is measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use berth_allocator::{ItemSet, Pool, PoolDefinition, PoolName, Quota, Request, StaticBand, Strategy};
use berth_model::{IpRange, ServiceKey};
use clap::ValueEnum;

/// How much of the allocator takes part.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The set of items alone: what upstream's bitmap is
    Set,
    /// A pool: an owner, a quota, a hold that becomes an allocation
    Pool,
}

/// A range and what is taken of it.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Ground {
    /// How many items there are
    pub(crate) size: u32,
    /// How many of the lowest are the static band
    pub(crate) kept: u32,
    /// How those that are taken lie
    pub(crate) pattern: Pattern,
    /// How many are taken; one must be left
    pub(crate) taken: u32,
}

/// How taken items lie.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Spread over the range
    Even,
    /// The lowest
    End,
}

impl Ground {
    /// Whether the item is taken.
    pub(crate) fn takes(self, item: u32) -> bool {
        let (item, taken, size) = (u64::from(item), u64::from(self.taken), u64::from(self.size));
        match self.pattern {
            Pattern::Even => (item + 1) * taken / size != item * taken / size,
            Pattern::End => item < taken,
        }
    }

    /// The set with what is taken of it.
    pub(crate) fn set(self) -> ItemSet {
        let mut set = ItemSet::new(self.size.into());
        for item in (0..self.size).filter(|item| self.takes(*item)) {
            set.insert(item.into());
        }
        set
    }

    /// The pool with what is taken of it, by a thousand owners of ten namespaces that all have a quota.
    pub(crate) fn pool(self) -> Result<Pool> {
        let first = Ipv4Addr::new(10, 0, 0, 0);
        let last = Ipv4Addr::from_bits(first.to_bits() + (self.size.max(1) - 1));
        let range = IpRange::new(first.into(), last.into())?;
        let mut pool = Pool::new(&definition(range, self.kept), Duration::ZERO);
        let owners = owners();
        for (item, owner) in (0..self.size)
            .filter(|item| self.takes(*item))
            .zip(owners.iter().cycle())
        {
            let address = range.nth(item.into()).context("beyond the range")?;
            pool.allocate_this(address, &Request::for_good(owner, Duration::ZERO))?;
        }
        Ok(pool)
    }
}

/// A pool of all of a /64.
pub(crate) fn wide_pool() -> Result<Pool> {
    let first = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0);
    let last = Ipv6Addr::from_bits(first.to_bits() | u128::from(u64::MAX));
    let range = IpRange::new(IpAddr::V6(first), IpAddr::V6(last))?;
    Ok(Pool::new(&definition(range, 0), Duration::ZERO))
}

/// Owners as a cluster has them: names of their own, namespaces shared.
pub(crate) fn owners() -> Vec<ServiceKey> {
    (0..1_000)
        .map(|index| ServiceKey::new(format!("namespace-{}", index % 10), format!("service-{index}")))
        .collect()
}

fn definition(range: IpRange, kept: u32) -> PoolDefinition {
    PoolDefinition {
        strategy: Strategy::Random,
        static_band: StaticBand::Lowest(kept.into()),
        quota: Quota {
            each: Some(u64::MAX),
            ..Quota::default()
        },
        ..PoolDefinition::of(PoolName::new("pool"), [range].into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_so_many_are_taken_however_they_lie() {
        for pattern in [Pattern::Even, Pattern::End] {
            for (size, taken) in [(1, 0), (16, 0), (16, 15), (1_000, 500), (65_536, 65_529)] {
                let ground = Ground {
                    size,
                    kept: 0,
                    pattern,
                    taken,
                };
                let items = (0..size).filter(|item| ground.takes(*item)).count();
                assert_eq!(items, usize::try_from(taken).unwrap(), "{ground:?}");
                assert_eq!(ground.set().taken(), taken.into());
            }
        }
    }
}
