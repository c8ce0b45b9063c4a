// SPDX-License-Identifier: Apache-2.0
//! Services that lack an address, by what would help them, in the order in which they came.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_allocator::{PoolName, Refusal};
use berth_model::{IpFamily, ServiceKey};

use super::ledger::Ledger;

/// What a Service lacks. Equal needs are met by the same supply, as far as quotas and reservations let them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    /// The families of which it has nothing.
    pub(super) lacking: Vec<Wanted>,
    /// The families of which it keeps an address that is not what it asks for.
    pub(super) improvable: Vec<Wanted>,
    /// Whether a part of what it lacks is of no use.
    pub(super) all: bool,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) family: IpFamily,
    /// If it must be a certain one.
    pub(super) address: Option<IpAddr>,
    /// The pools that may give it, those that are asked first first.
    pub(super) from: Vec<PoolName>,
    /// What it has, and should leave to those that it shares it with.
    pub(super) leaves: Option<IpAddr>,
}

impl Wanted {
    fn can_be_met(&self, ledger: &Ledger, by: &ServiceKey) -> bool {
        let pools = ledger.pools();
        let may_join = |address| !ledger.has(by, address) && ledger.may_share(by, address).is_ok();
        match self.address {
            Some(address) => self
                .from
                .iter()
                .any(|pool| match pools.check_this(address, by, Some(pool)) {
                    Ok(_) => true,
                    Err(Refusal::AlreadyAllocated { .. }) => may_join(address),
                    Err(_) => false,
                }),
            None => {
                let gives = |pool| pools.check_any(self.family, by, Some(pool)).is_ok();
                self.from.iter().any(gives) || ledger.joinable(by, self.family, &self.from).is_some()
            }
        }
    }

    /// Whether it was to leave what it has, and may stay by now.
    fn may_stay(&self, ledger: &Ledger, by: &ServiceKey) -> bool {
        let left = self.leaves;
        left.is_some_and(|address| ledger.crowds_out(by, address).is_none())
    }

    /// Whether there is another for what it is to leave, or one for what it lacks.
    fn is_better_off(&self, ledger: &Ledger, by: &ServiceKey) -> bool {
        let stays_put = self.leaves.is_some() && self.leaves == self.address;
        !stays_put && self.can_be_met(ledger, by)
    }
}

impl Need {
    pub(super) fn is_empty(&self) -> bool {
        self.lacking.is_empty() && self.improvable.is_empty()
    }

    /// Whether a turn would be of use now.
    fn can_be_met(&self, ledger: &Ledger, by: &ServiceKey) -> bool {
        let mut all = self.lacking.iter().chain(&self.improvable);
        if all.clone().any(|wanted| wanted.may_stay(ledger, by)) {
            return true;
        }
        let possible = |wanted: &Wanted| wanted.is_better_off(ledger, by);
        if self.all && !self.lacking.is_empty() {
            self.lacking.iter().all(possible)
        } else {
            all.any(possible)
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
    pub(super) fn first_helped(&self, ledger: &Ledger) -> Option<ServiceKey> {
        self.by_need
            .iter()
            .filter_map(|(need, queue)| {
                // Quotas and reservations tell those apart who lack the same.
                queue.iter().find(|(_, key)| need.can_be_met(ledger, key))
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
    use std::collections::BTreeSet;
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
        let mut ledger = Ledger::new(Duration::ZERO);
        ledger.set_definitions(vec![definition], BTreeSet::new());
        let need = Need {
            lacking: vec![Wanted {
                family: IpFamily::V4,
                address: None,
                from: vec![PoolName::new("p")],
                leaves: None,
            }],
            improvable: Vec::new(),
            all: false,
        };
        let mut waiting = Waiting::default();
        for key in [&greedy, &modest, &named] {
            waiting.set(key, Some(need.clone()));
        }
        assert_eq!(waiting.first_helped(&ledger), Some(modest.clone()));
        let request = Request::for_good(&modest, Duration::ZERO);
        ledger
            .allocate_any(IpFamily::V4, &request, &PoolName::new("p"))
            .unwrap();
        assert_eq!(waiting.first_helped(&ledger), Some(named));
    }
}
