// SPDX-License-Identifier: Apache-2.0
//! What an AddressPool's status says.

use berth_allocator::{Pool, PoolName, Standing};
use berth_crds::{
    AddressPool, AddressPoolStatus, ConditionStatus, FamilyUse, PoolCondition, PoolReason, set_condition,
};
use berth_model::IpFamily;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::book::LoadBalancers;
use super::definition::faults;

/// How many faults the message names: a condition's text has a limit (32,768 bytes).
const NAMED: usize = 8;

impl LoadBalancers {
    /// The status that the pool should have; `None` where it has it, or where the pool is not in the book yet.
    pub fn plan_pool_status(&self, pool: &AddressPool, now: &Time) -> Option<AddressPoolStatus> {
        let name = PoolName::new(pool.metadata.name.as_deref()?);
        let before = pool.status.clone().unwrap_or_default();
        let mut conditions = before.conditions.clone();
        let mut say = |said: Said| {
            set_condition(
                &mut conditions,
                said.condition.as_str(),
                said.status,
                said.reason.as_str(),
                &said.message,
                pool.metadata.generation,
                now,
            );
        };
        if self.other_pools.contains(&name) {
            say(no(PoolReason::Malformed, malformed(pool)));
            let after = AddressPoolStatus {
                conditions,
                ..before.clone()
            };
            return (after != before).then_some(after);
        }
        let (standing, counted) = self.pools.get(&name)?;
        say(ready(pool, standing));
        say(exhausted(counted));
        say(draining(pool, counted));
        let [ipv4, ipv6] = IpFamily::ALL.map(|family| family_use(family, standing, counted));
        let after = AddressPoolStatus {
            conditions,
            ipv4,
            ipv6,
            ..before.clone()
        };
        (after != before).then_some(after)
    }
}

/// What a condition is to say.
struct Said {
    condition: PoolCondition,
    status: ConditionStatus,
    reason: PoolReason,
    message: String,
}

fn no(reason: PoolReason, message: String) -> Said {
    Said {
        condition: PoolCondition::Ready,
        status: ConditionStatus::False,
        reason,
        message,
    }
}

fn ready(pool: &AddressPool, standing: &Standing) -> Said {
    match standing {
        Standing::InUse if pool.spec.draining => no(
            PoolReason::Draining,
            "gives no new addresses while spec.draining is true; those given stay".to_owned(),
        ),
        Standing::InUse => Said {
            condition: PoolCondition::Ready,
            status: ConditionStatus::True,
            reason: PoolReason::InUse,
            message: String::new(),
        },
        Standing::Malformed => no(PoolReason::Malformed, malformed(pool)),
        Standing::Overlapping(_) => no(
            PoolReason::Overlapping,
            format!(
                "gives no new addresses until the overlap is removed; those given stay. spec.addresses: {standing}"
            ),
        ),
    }
}

fn malformed(pool: &AddressPool) -> String {
    let faults = faults(&pool.spec);
    let mut said: Vec<String> = faults.iter().take(NAMED).map(ToString::to_string).collect();
    if faults.len() > NAMED {
        said.push(format!("{} more faults", faults.len() - NAMED));
    }
    format!(
        "gives no new addresses until spec is put right; those given stay. {}",
        said.join(". ")
    )
}

fn draining(pool: &AddressPool, counted: &Pool) -> Said {
    let left: u64 = IpFamily::ALL
        .into_iter()
        .map(|family| counted.counts(family).allocated)
        .sum();
    let (status, reason, message) = match (pool.spec.draining, left) {
        (false, _) => (ConditionStatus::False, PoolReason::NotDraining, String::new()),
        (true, 0) => (
            ConditionStatus::True,
            PoolReason::Drained,
            "nobody holds an address of it".to_owned(),
        ),
        (true, left) => (
            ConditionStatus::True,
            PoolReason::Draining,
            format!("{left} addresses have a holder"),
        ),
    };
    Said {
        condition: PoolCondition::Draining,
        status,
        reason,
        message,
    }
}

fn exhausted(counted: &Pool) -> Said {
    let full: Vec<&str> = IpFamily::ALL
        .into_iter()
        .filter(|family| counted.counts(*family).capacity > 0 && !counted.has_free(*family))
        .map(IpFamily::as_str)
        .collect();
    let (status, reason, message) = if full.is_empty() {
        (ConditionStatus::False, PoolReason::AddressesLeft, String::new())
    } else {
        let message = format!("every {} address has a holder", full.join(" and "));
        (ConditionStatus::True, PoolReason::NoneLeft, message)
    };
    Said {
        condition: PoolCondition::Exhausted,
        status,
        reason,
        message,
    }
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
        allocated: i64::try_from(counts.allocated).unwrap_or(i64::MAX),
        reserved: i64::try_from(counts.reserved).unwrap_or(i64::MAX),
        free: free.to_string(),
        ..FamilyUse::default()
    })
}
