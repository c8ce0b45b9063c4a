// SPDX-License-Identifier: Apache-2.0
//! Services that lack an address, by what would help them, in the order in which they came.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_allocator::{PoolName, Pools};
use berth_model::{IpFamily, ServiceKey};

/// What a Service lacks. Equal needs are met by the same supply, as far as quotas and reservations let them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    /// The families of which it has nothing.
    pub(super) lacking: Vec<Wanted>,
    /// The families of which it keeps an address that is not what it asks for.
    pub(super) improvable: Vec<Wanted>,
    /// The pool, if it must be a certain one.
    pub(super) pool: Option<PoolName>,
    /// Whether a part of what it lacks is of no use.
    pub(super) all: bool,
}

/// A family, with the address if it must be a certain one.
pub(super) type Wanted = (IpFamily, Option<IpAddr>);

impl Need {
    /// Whether the pools could give something of it now.
    fn can_be_met(&self, pools: &Pools, by: &ServiceKey) -> bool {
        let possible = |(family, address): &Wanted| match address {
            Some(address) => pools.check_this(*address, by, self.pool.as_ref()).is_ok(),
            None => pools.check_any(*family, by, self.pool.as_ref()).is_ok(),
        };
        if self.all && !self.lacking.is_empty() {
            self.lacking.iter().all(possible)
        } else {
            self.lacking.iter().chain(&self.improvable).any(possible)
        }
    }
}

/// The queue of those who wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    by_need: BTreeMap<Need, BTreeMap<u64, ServiceKey>>,
    of: BTreeMap<ServiceKey, (Need, u64)>,
    next: u64,
}

impl Waiting {
    /// Records what a Service lacks now. One that waits already keeps its place.
    pub(super) fn set(&mut self, key: &ServiceKey, need: Option<Need>) {
        let place = self.remove(key);
        let Some(need) = need else { return };
        let place = place.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.by_need
            .entry(need.clone())
            .or_default()
            .insert(place, key.clone());
        self.of.insert(key.clone(), (need, place));
    }

    /// Forgets a Service; its place, if it waited.
    pub(super) fn remove(&mut self, key: &ServiceKey) -> Option<u64> {
        let (need, place) = self.of.remove(key)?;
        if let Some(queue) = self.by_need.get_mut(&need) {
            queue.remove(&place);
            if queue.is_empty() {
                self.by_need.remove(&need);
            }
        }
        Some(place)
    }

    /// The one that came first among those that could be helped now.
    pub(super) fn first_helped(&self, pools: &Pools) -> Option<ServiceKey> {
        self.by_need
            .iter()
            .filter_map(|(need, queue)| {
                // Quotas and reservations tell those apart who lack the same.
                queue.iter().find(|(_, key)| need.can_be_met(pools, key))
            })
            .min()
            .map(|(_, key)| key.clone())
    }

    /// Everyone who waits, by name.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.of.keys()
    }

    pub(super) fn contains(&self, key: &ServiceKey) -> bool {
        self.of.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use berth_allocator::{PoolDefinition, Request};

    use super::*;

    #[test]
    fn one_who_is_held_up_by_a_quota_or_a_reservation_holds_up_nobody_else() {
        let reserved: IpAddr = "192.0.2.1".parse().unwrap();
        let [greedy, modest, named] = [("lab", "greedy"), ("shop", "modest"), ("shop", "named")]
            .map(|(of, name)| ServiceKey::new(of, name));
        let range = "192.0.2.0/31".parse().unwrap();
        let mut definition = PoolDefinition::of(PoolName::new("p"), [range].into_iter().collect());
        definition.quota.groups.insert("lab".to_owned(), 0);
        definition.reservations.push((reserved, named.clone()));
        let mut pools = Pools::new(Duration::ZERO);
        pools.set_definitions(vec![definition]);
        let need = Need {
            lacking: vec![(IpFamily::V4, None)],
            improvable: Vec::new(),
            pool: None,
            all: false,
        };
        let mut waiting = Waiting::default();
        for key in [&greedy, &modest, &named] {
            waiting.set(key, Some(need.clone()));
        }
        assert_eq!(waiting.first_helped(&pools), Some(modest.clone()));
        pools
            .allocate_any(IpFamily::V4, &Request::for_good(&modest, Duration::ZERO), None)
            .unwrap();
        assert_eq!(waiting.first_helped(&pools), Some(named));
    }
}
