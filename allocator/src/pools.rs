// SPDX-License-Identifier: Apache-2.0
//! Several pools by name: which one gives, which ranges are contested, and edits under use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{IpFamily, ServiceKey};

use crate::{AddressSet, AllocateError, Granted, Overlap, Pool, PoolName, Refusal, Standing};

/// What its administrator wrote about a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDefinition {
    /// Its name.
    pub name: PoolName,
    /// When it was created, in seconds since the epoch: of two pools that contest a range the older one
    /// has it, of two equally old ones the one whose name sorts first.
    pub created: i64,
    /// The addresses that could be read.
    pub ranges: AddressSet,
    /// Whether all of it could be read.
    pub well_formed: bool,
}

/// One address and the pool it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Its pool; `None` where none covers it any more.
    pub pool: Option<PoolName>,
}

/// What an edit of the pools did to addresses that are held. None of them was taken from its holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolsEdit {
    /// No pool covers these any more.
    pub uncovered: Vec<(IpAddr, ServiceKey)>,
    /// A pool covers these again.
    pub recovered: Vec<(IpAddr, ServiceKey)>,
}

/// All pools of one use, and every address that is held.
///
/// An address has at most one holder over all pools. What no pool covers any more is still held.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    definitions: Vec<PoolDefinition>,
    /// Oldest first, as the definitions.
    pools: Vec<(PoolName, Standing, Pool)>,
    uncovered: BTreeMap<IpAddr, ServiceKey>,
    by_owner: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    cool_down: Duration,
}

impl Pools {
    /// No pools yet. A released address is not handed out again for `cool_down` unless nothing else is left.
    pub fn new(cool_down: Duration) -> Self {
        Self {
            cool_down,
            ..Self::default()
        }
    }

    /// Replaces the definitions. Every held address stays with its holder: in the pool that gives it now, else
    /// in one at rest that covers it, else uncovered. `None`: the definitions are those that were in force.
    pub fn set_definitions(&mut self, mut definitions: Vec<PoolDefinition>) -> Option<PoolsEdit> {
        definitions.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        let mut names = BTreeSet::new();
        definitions.retain(|definition| names.insert(definition.name.clone()));
        if definitions == self.definitions {
            return None;
        }
        let before = std::mem::take(&mut self.pools);
        let uncovered_before = std::mem::take(&mut self.uncovered);
        self.pools = with_standing(&definitions);
        self.definitions = definitions;

        let cooling: Vec<(IpAddr, Duration)> =
            before.iter().flat_map(|(_, _, pool)| pool.cooling()).collect();
        let held: BTreeMap<IpAddr, ServiceKey> = before
            .iter()
            .flat_map(|(_, _, pool)| pool.allocated())
            .map(|(address, owner)| (address, owner.clone()))
            .collect();
        let mut edit = PoolsEdit::default();
        for (address, owner) in held {
            if !self.place(address, &owner) {
                edit.uncovered.push((address, owner));
            }
        }
        for (address, owner) in uncovered_before {
            if self.place(address, &owner) {
                edit.recovered.push((address, owner));
            }
        }
        for (address, until) in cooling {
            if let Some(index) = self.covering(address) {
                self.pools[index].2.cool(address, until);
            }
        }
        Some(edit)
    }

    /// Records that the owner holds this address, whatever pool covers it, or none: for addresses that are in
    /// use already.
    ///
    /// # Errors
    /// `AlreadyAllocated` alone.
    pub fn adopt(&mut self, address: IpAddr, owner: &ServiceKey) -> Result<Granted, Refusal> {
        match self.holder(address) {
            Some(holder) if holder == owner => Ok(Granted::Already),
            Some(holder) => Err(Refusal::AlreadyAllocated {
                address,
                holder: holder.clone(),
            }),
            None => {
                self.place(address, owner);
                self.remember(address, owner);
                Ok(Granted::New)
            }
        }
    }

    /// Gives the owner a free address of the family, from the oldest pool that has one, or from the named pool.
    ///
    /// # Errors
    /// All but `NotInAnyPool`, `NotInPool` and `AlreadyAllocated`.
    pub fn allocate_any(
        &mut self,
        family: IpFamily,
        owner: &ServiceKey,
        from: Option<&PoolName>,
        now: Duration,
    ) -> Result<Allocation, Refusal> {
        let index = self.giving(family, from)?;
        let (name, _, pool) = &mut self.pools[index];
        match pool.allocate_any(family, owner, now) {
            Ok(address) => {
                let pool = Some(name.clone());
                self.remember(address, owner);
                Ok(Allocation { address, pool })
            }
            Err(_) => Err(Refusal::Exhausted {
                family,
                pools: vec![name.clone()],
            }),
        }
    }

    /// Gives the owner this very address.
    ///
    /// # Errors
    /// All but `NoSuchFamily` and `Exhausted`.
    pub fn allocate_this(
        &mut self,
        address: IpAddr,
        owner: &ServiceKey,
        from: Option<&PoolName>,
    ) -> Result<Allocation, Refusal> {
        let name = self.check_this(address, owner, from)?;
        self.place(address, owner);
        self.remember(address, owner);
        Ok(Allocation {
            address,
            pool: Some(name),
        })
    }

    /// The pool that [`allocate_this`](Self::allocate_this) would take the address from, without taking it.
    ///
    /// # Errors
    /// The same.
    pub fn check_this(
        &self,
        address: IpAddr,
        owner: &ServiceKey,
        from: Option<&PoolName>,
    ) -> Result<PoolName, Refusal> {
        if let Some(pool) = from {
            self.named(pool)?;
        }
        let Some(index) = self.covering(address) else {
            return Err(match from {
                Some(pool) => Refusal::NotInPool {
                    address,
                    pool: pool.clone(),
                },
                None => Refusal::NotInAnyPool { address },
            });
        };
        let (name, standing, pool) = &self.pools[index];
        if let Some(wanted) = from.filter(|wanted| *wanted != name) {
            return Err(Refusal::NotInPool {
                address,
                pool: wanted.clone(),
            });
        }
        match pool.check(address, owner) {
            Err(AllocateError::AlreadyAllocated { address, holder }) => {
                Err(Refusal::AlreadyAllocated { address, holder })
            }
            Ok(Granted::New) if *standing != Standing::InUse => Err(Refusal::PoolAtRest {
                pool: name.clone(),
                standing: standing.clone(),
            }),
            Ok(Granted::New | Granted::Already) => Ok(name.clone()),
            Err(
                AllocateError::NotInRange { .. }
                | AllocateError::Full { .. }
                | AllocateError::NoSuchFamily { .. },
            ) => Err(Refusal::NotInAnyPool { address }),
        }
    }

    /// Whether [`allocate_any`](Self::allocate_any) would succeed.
    ///
    /// # Errors
    /// The refusal that it would give.
    pub fn check_any(&self, family: IpFamily, from: Option<&PoolName>) -> Result<(), Refusal> {
        self.giving(family, from).map(|_| ())
    }

    /// Takes an address back; `false` and no change if the owner does not hold it.
    pub fn release(&mut self, address: IpAddr, owner: &ServiceKey, now: Duration) -> bool {
        let Some(addresses) = self.by_owner.get_mut(owner) else {
            return false;
        };
        if !addresses.remove(&address) {
            return false;
        }
        if addresses.is_empty() {
            self.by_owner.remove(owner);
        }
        if self.uncovered.remove(&address).is_none() {
            let until = now.saturating_add(self.cool_down);
            for (_, _, pool) in &mut self.pools {
                if pool.release(address, owner, until).is_ok() {
                    break;
                }
            }
        }
        true
    }

    /// Who holds the address.
    pub fn holder(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.pools
            .iter()
            .find_map(|(_, _, pool)| pool.holder(address))
            .or_else(|| self.uncovered.get(&address))
    }

    /// The addresses of an owner, ascending.
    pub fn held_by(&self, owner: &ServiceKey) -> impl Iterator<Item = IpAddr> {
        self.by_owner.get(owner).into_iter().flatten().copied()
    }

    /// Everyone who holds an address.
    pub fn owners(&self) -> impl Iterator<Item = &ServiceKey> {
        self.by_owner.keys()
    }

    /// Addresses that are held though no pool covers them.
    pub fn uncovered(&self) -> impl Iterator<Item = (IpAddr, &ServiceKey)> {
        self.uncovered.iter().map(|(address, owner)| (*address, owner))
    }

    /// The pool that the address belongs to, if any: the one that gives it, else one at rest.
    pub fn pool_of(&self, address: IpAddr) -> Option<&PoolName> {
        self.covering(address).map(|index| &self.pools[index].0)
    }

    /// A pool by name, with its standing.
    pub fn get(&self, name: &PoolName) -> Option<(&Standing, &Pool)> {
        self.pools
            .iter()
            .find(|(of, _, _)| of == name)
            .map(|(_, standing, pool)| (standing, pool))
    }

    /// All pools, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (&PoolName, &Standing, &Pool)> {
        self.pools
            .iter()
            .map(|(name, standing, pool)| (name, standing, pool))
    }

    fn remember(&mut self, address: IpAddr, owner: &ServiceKey) {
        self.by_owner.entry(owner.clone()).or_default().insert(address);
    }

    /// Puts a held address where it belongs now. `false`: no pool covers it.
    fn place(&mut self, address: IpAddr, owner: &ServiceKey) -> bool {
        let placed = self
            .covering(address)
            .is_some_and(|index| self.pools[index].2.allocate_this(address, owner).is_ok());
        if !placed {
            self.uncovered.insert(address, owner.clone());
        }
        placed
    }

    fn covering(&self, address: IpAddr) -> Option<usize> {
        let covers =
            |(_, (_, _, pool)): &(usize, &(PoolName, Standing, Pool))| pool.ranges().contains(address);
        let mut candidates = self.pools.iter().enumerate().filter(covers);
        let first = candidates.next()?;
        let in_use =
            |(_, (_, standing, _)): &(usize, &(PoolName, Standing, Pool))| *standing == Standing::InUse;
        if in_use(&first) {
            return Some(first.0);
        }
        Some(candidates.find(in_use).unwrap_or(first).0)
    }

    fn named(&self, name: &PoolName) -> Result<usize, Refusal> {
        let index = self
            .pools
            .iter()
            .position(|(of, _, _)| of == name)
            .ok_or_else(|| Refusal::NoSuchPool { pool: name.clone() })?;
        match &self.pools[index].1 {
            Standing::InUse => Ok(index),
            standing @ (Standing::Malformed | Standing::Overlapping(_)) => Err(Refusal::PoolAtRest {
                pool: name.clone(),
                standing: standing.clone(),
            }),
        }
    }

    /// The pool that gives the next address of the family.
    fn giving(&self, family: IpFamily, from: Option<&PoolName>) -> Result<usize, Refusal> {
        let candidates: Vec<usize> = match from {
            Some(name) => vec![self.named(name)?],
            None => (0..self.pools.len())
                .filter(|index| self.pools[*index].1 == Standing::InUse)
                .collect(),
        };
        if candidates.is_empty() {
            return Err(Refusal::NoPool);
        }
        if let Some(index) = candidates
            .iter()
            .find(|index| self.pools[**index].2.has_free(family))
        {
            return Ok(*index);
        }
        let full: Vec<PoolName> = candidates
            .into_iter()
            .map(|index| &self.pools[index])
            .filter(|(_, _, pool)| pool.ranges().count(family) > 0)
            .map(|(name, _, _)| name.clone())
            .collect();
        Err(if full.is_empty() {
            Refusal::NoSuchFamily { family }
        } else {
            Refusal::Exhausted { family, pools: full }
        })
    }
}

/// Empty pools with their standing. A pool contests only those that are not at rest over a contest
/// themselves; a malformed one contests what could be read of it, so that putting it right or wrong
/// changes nothing for others.
fn with_standing(definitions: &[PoolDefinition]) -> Vec<(PoolName, Standing, Pool)> {
    let mut pools: Vec<(PoolName, Standing, Pool)> = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let overlaps: Vec<Overlap> = pools
            .iter()
            .filter(|(_, standing, _)| !matches!(standing, Standing::Overlapping(_)))
            .map(|(name, _, pool)| Overlap {
                with: name.clone(),
                ranges: definition.ranges.intersection(pool.ranges()).ranges(),
            })
            .filter(|overlap| !overlap.ranges.is_empty())
            .collect();
        let standing = if !overlaps.is_empty() {
            Standing::Overlapping(overlaps)
        } else if definition.well_formed {
            Standing::InUse
        } else {
            Standing::Malformed
        };
        pools.push((
            definition.name.clone(),
            standing,
            Pool::new(definition.ranges.clone()),
        ));
    }
    pools
}

#[cfg(test)]
mod tests;
