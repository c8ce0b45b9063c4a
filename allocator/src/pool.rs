// SPDX-License-Identifier: Apache-2.0
//! One pool: a set of addresses, who holds which, and what is free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{IpFamily, ServiceKey};

use crate::AddressSet;

/// Addresses of one set and their holders. Every operation is `O(log n)` in what is allocated, never
/// in the size of the ranges.
///
/// Times are durations since any one epoch of the caller's; they only ever get compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    ranges: AddressSet,
    /// Neither allocated nor cooling.
    free: AddressSet,
    allocated: BTreeMap<IpAddr, ServiceKey>,
    /// Released, not yet to be handed out again: the time it is over.
    cooling: BTreeMap<IpAddr, Duration>,
    /// The same by family and time.
    cooling_order: BTreeSet<(IpFamily, Duration, IpAddr)>,
    allocated_v4: u64,
}

/// What a pool holds of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Addresses in its ranges; all of IPv6 counts as `u128::MAX`.
    pub capacity: u128,
    /// Those that have a holder.
    pub allocated: u64,
    /// Those that have none, cooling ones included.
    pub free: u128,
}

/// Whether an allocation changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    /// It is the owner's from now on.
    New,
    /// It was the owner's already.
    Already,
}

/// Why an address was not given. The pool is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// No address of the family is left.
    #[error("no {family} address is left")]
    Full {
        /// The family asked for.
        family: IpFamily,
    },
    /// The pool has no address of the family at all.
    #[error("it has no {family} addresses")]
    NoSuchFamily {
        /// The family asked for.
        family: IpFamily,
    },
    /// The address lies outside the pool.
    #[error("{address} is not one of its addresses")]
    NotInRange {
        /// The address asked for.
        address: IpAddr,
    },
    /// Someone else has it.
    #[error("{address} is held by {holder}")]
    AlreadyAllocated {
        /// The address asked for.
        address: IpAddr,
        /// Who has it.
        holder: ServiceKey,
    },
}

/// Why an address was not taken back. The pool is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Nobody holds it.
    #[error("{address} is not allocated")]
    NotAllocated {
        /// The address.
        address: IpAddr,
    },
    /// Another holds it.
    #[error("{address} is held by {holder}")]
    HeldByAnother {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ServiceKey,
    },
}

/// An entry of a list that could not be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// Who claimed it.
    pub claimant: ServiceKey,
    /// Why it was not given.
    pub error: AllocateError,
}

impl Pool {
    /// A pool of these addresses, all free.
    pub fn new(ranges: AddressSet) -> Self {
        Self {
            free: ranges.clone(),
            ranges,
            ..Self::default()
        }
    }

    /// A pool with the allocations of a list. The first claimant of an address has it; every entry that
    /// could not be restored is reported and none stops the rest.
    pub fn rebuild(
        ranges: AddressSet,
        list: impl IntoIterator<Item = (IpAddr, ServiceKey)>,
    ) -> (Self, Vec<Conflict>) {
        let mut pool = Self::new(ranges);
        let mut conflicts = Vec::new();
        for (address, claimant) in list {
            if let Err(error) = pool.allocate_this(address, &claimant) {
                conflicts.push(Conflict {
                    address,
                    claimant,
                    error,
                });
            }
        }
        (pool, conflicts)
    }

    /// Gives the owner the lowest free address of the family. One that cools down is given only when
    /// no other is left, the one released longest ago first.
    ///
    /// # Errors
    /// `NoSuchFamily` or `Full`.
    pub fn allocate_any(
        &mut self,
        family: IpFamily,
        owner: &ServiceKey,
        now: Duration,
    ) -> Result<IpAddr, AllocateError> {
        self.end_cooling(now);
        let address = self
            .free
            .first(family)
            .or_else(|| self.cooling_of(family).next().map(|(_, address)| address))
            .ok_or(if self.ranges.count(family) == 0 {
                AllocateError::NoSuchFamily { family }
            } else {
                AllocateError::Full { family }
            })?;
        self.take(address, owner);
        Ok(address)
    }

    /// Gives the owner this very address, whether or not it cools down.
    ///
    /// # Errors
    /// `NotInRange` or `AlreadyAllocated`.
    pub fn allocate_this(&mut self, address: IpAddr, owner: &ServiceKey) -> Result<Granted, AllocateError> {
        match self.check(address, owner)? {
            Granted::Already => Ok(Granted::Already),
            Granted::New => {
                self.take(address, owner);
                Ok(Granted::New)
            }
        }
    }

    /// What [`allocate_this`](Self::allocate_this) would do, without doing it.
    ///
    /// # Errors
    /// The same.
    pub fn check(&self, address: IpAddr, owner: &ServiceKey) -> Result<Granted, AllocateError> {
        match self.allocated.get(&address) {
            Some(holder) if holder == owner => Ok(Granted::Already),
            Some(holder) => Err(AllocateError::AlreadyAllocated {
                address,
                holder: holder.clone(),
            }),
            None if self.ranges.contains(address) => Ok(Granted::New),
            None => Err(AllocateError::NotInRange { address }),
        }
    }

    /// Takes an address back from its owner. It is not handed out again before `cool_until` unless nothing
    /// else is left.
    ///
    /// # Errors
    /// `NotAllocated` or `HeldByAnother`.
    pub fn release(
        &mut self,
        address: IpAddr,
        owner: &ServiceKey,
        cool_until: Duration,
    ) -> Result<(), ReleaseError> {
        match self.allocated.get(&address) {
            None => return Err(ReleaseError::NotAllocated { address }),
            Some(holder) if holder != owner => {
                return Err(ReleaseError::HeldByAnother {
                    address,
                    holder: holder.clone(),
                });
            }
            Some(_) => {}
        }
        self.allocated.remove(&address);
        self.allocated_v4 -= u64::from(address.is_ipv4());
        self.cool(address, cool_until);
        Ok(())
    }

    /// Keeps a free address of the pool from being handed out before `until` unless nothing else is left.
    pub(crate) fn cool(&mut self, address: IpAddr, until: Duration) {
        if !self.ranges.contains(address) || self.allocated.contains_key(&address) {
            return;
        }
        self.stop_cooling(address);
        self.free.remove_address(address);
        self.cooling.insert(address, until);
        self.cooling_order.insert((IpFamily::of(address), until, address));
    }

    /// The addresses it gives out.
    pub fn ranges(&self) -> &AddressSet {
        &self.ranges
    }

    /// Who holds the address.
    pub fn holder(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.allocated.get(&address)
    }

    /// Every address that has a holder, ascending.
    pub fn allocated(&self) -> impl Iterator<Item = (IpAddr, &ServiceKey)> {
        self.allocated.iter().map(|(address, owner)| (*address, owner))
    }

    /// Whether an address of the family could be given now.
    pub fn has_free(&self, family: IpFamily) -> bool {
        self.free.first(family).is_some() || self.cooling_of(family).next().is_some()
    }

    /// How many addresses of the family there are, and how many have a holder.
    pub fn counts(&self, family: IpFamily) -> Counts {
        let capacity = self.ranges.count(family);
        let all = self.allocated.len() as u64;
        let allocated = match family {
            IpFamily::V4 => self.allocated_v4,
            IpFamily::V6 => all - self.allocated_v4,
        };
        Counts {
            capacity,
            allocated,
            free: capacity - u128::from(allocated),
        }
    }

    /// The addresses that cool down and until when.
    pub(crate) fn cooling(&self) -> impl Iterator<Item = (IpAddr, Duration)> {
        self.cooling.iter().map(|(address, until)| (*address, *until))
    }

    fn take(&mut self, address: IpAddr, owner: &ServiceKey) {
        self.stop_cooling(address);
        self.free.remove_address(address);
        self.allocated_v4 += u64::from(address.is_ipv4());
        self.allocated.insert(address, owner.clone());
    }

    fn stop_cooling(&mut self, address: IpAddr) {
        if let Some(until) = self.cooling.remove(&address) {
            self.cooling_order
                .remove(&(IpFamily::of(address), until, address));
        }
    }

    /// Cooling addresses of a family with the end of it, the nearest first.
    fn cooling_of(&self, family: IpFamily) -> impl Iterator<Item = (Duration, IpAddr)> {
        self.cooling_order
            .range((family, Duration::ZERO, lowest(family))..)
            .take_while(move |(of, _, _)| *of == family)
            .map(|(_, until, address)| (*until, *address))
    }

    fn end_cooling(&mut self, now: Duration) {
        for family in IpFamily::ALL {
            let over: Vec<IpAddr> = self
                .cooling_of(family)
                .take_while(|(until, _)| *until <= now)
                .map(|(_, address)| address)
                .collect();
            for address in over {
                self.stop_cooling(address);
                self.free.insert_address(address);
            }
        }
    }
}

fn lowest(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpFamily::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests;
