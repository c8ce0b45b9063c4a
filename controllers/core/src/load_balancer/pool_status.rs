// SPDX-License-Identifier: Apache-2.0
//! What an AddressPool's status says.

use berth_allocator::{Pool, PoolName, Standing};
use berth_crds::{AddressPool, AddressPoolStatus, FamilyUse};
use berth_model::IpFamily;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::book::LoadBalancers;
use crate::pool_status::{ADDRESSES, Said, Stands, count, draining, exhausted, ready, say};

impl LoadBalancers {
    /// The status that the pool should have; `None` where it has it, where the pool is not in the book yet,
    /// and for one that is not for load balancers.
    pub fn plan_pool_status(&self, pool: &AddressPool, now: &Time) -> Option<AddressPoolStatus> {
        let name = PoolName::new(pool.metadata.name.as_deref()?);
        let before = pool.status.clone().unwrap_or_default();
        let mut after = before.clone();
        let generation = pool.metadata.generation;
        let (standing, counted) = self.ledger.pools().get(&name)?;
        let left = IpFamily::ALL.map(|family| counted.counts(family).allocated);
        let said = [
            ready(&stands(pool, standing), ADDRESSES),
            none_left(counted),
            draining(pool.spec.draining, left.iter().sum(), ADDRESSES),
        ];
        say(&mut after.conditions, said, generation, now);
        [after.ipv4, after.ipv6] = IpFamily::ALL.map(|family| family_use(family, standing, counted));
        (after != before).then_some(after)
    }
}

fn stands(pool: &AddressPool, standing: &Standing) -> Stands {
    match standing {
        Standing::InUse if pool.spec.draining => Stands::Draining,
        Standing::InUse => Stands::Gives,
        Standing::Malformed => Stands::Malformed(pool.spec.validate()),
        Standing::Overlapping(_) => Stands::Overlapping(standing.to_string()),
    }
}

fn none_left(counted: &Pool) -> Said {
    let full: Vec<&str> = IpFamily::ALL
        .into_iter()
        .filter(|family| counted.counts(*family).capacity > 0 && !counted.has_free(*family))
        .map(IpFamily::as_str)
        .collect();
    let message = format!("every {} address has a holder", full.join(" and "));
    exhausted((!full.is_empty()).then_some(message), ADDRESSES)
}

fn family_use(family: IpFamily, standing: &Standing, pool: &Pool) -> Option<FamilyUse> {
    let counts = pool.counts(family);
    let free = match standing {
        Standing::InUse if pool.is_draining() => 0,
        Standing::InUse => counts.free,
        Standing::Malformed | Standing::Overlapping(_) => 0,
    };
    (counts.capacity > 0).then(|| FamilyUse {
        capacity: counts.capacity.to_string(),
        allocated: count(counts.allocated),
        reserved: count(counts.reserved),
        free: free.to_string(),
        ..FamilyUse::default()
    })
}
