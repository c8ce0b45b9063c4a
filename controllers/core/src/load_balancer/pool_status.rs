// SPDX-License-Identifier: Apache-2.0
//! What an AddressPool's status says.

use berth_allocator::{Pool, PoolName, Standing};
use berth_crds::{AddressPool, AddressPoolStatus, ConditionStatus, FamilyUse, set_condition};
use berth_model::IpFamily;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::book::LoadBalancers;

const READY: &str = "Ready";
const EXHAUSTED: &str = "Exhausted";
/// How many faults the message names: a condition's text has a limit (32,768 bytes).
const NAMED: usize = 8;

impl LoadBalancers {
    /// The status that the pool should have; `None` where it has it, or where the pool is not in the book yet.
    pub fn plan_pool_status(&self, pool: &AddressPool, now: &Time) -> Option<AddressPoolStatus> {
        let name = PoolName::new(pool.metadata.name.as_deref()?);
        let (standing, counted) = self.pools.get(&name)?;
        let before = pool.status.clone().unwrap_or_default();
        let [ipv4, ipv6] = IpFamily::ALL.map(|family| family_use(family, standing, counted));
        let generation = pool.metadata.generation;
        let mut conditions = before.conditions.clone();

        let (ready, reason) = match standing {
            Standing::InUse => (ConditionStatus::True, "InUse"),
            Standing::Malformed => (ConditionStatus::False, "Malformed"),
            Standing::Overlapping(_) => (ConditionStatus::False, "Overlapping"),
        };
        let message = ready_message(pool, standing);
        set_condition(&mut conditions, READY, ready, reason, &message, generation, now);

        let full: Vec<&str> = IpFamily::ALL
            .into_iter()
            .filter(|family| counted.counts(*family).capacity > 0 && !counted.has_free(*family))
            .map(IpFamily::as_str)
            .collect();
        let (exhausted, reason, message) = if full.is_empty() {
            (ConditionStatus::False, "AddressesLeft", String::new())
        } else {
            let message = format!("every {} address has a holder", full.join(" and "));
            (ConditionStatus::True, "NoneLeft", message)
        };
        set_condition(
            &mut conditions,
            EXHAUSTED,
            exhausted,
            reason,
            &message,
            generation,
            now,
        );

        let after = AddressPoolStatus {
            conditions,
            ipv4,
            ipv6,
            ..before.clone()
        };
        (after != before).then_some(after)
    }
}

fn ready_message(pool: &AddressPool, standing: &Standing) -> String {
    match standing {
        Standing::InUse => String::new(),
        Standing::Malformed => {
            let faults = pool.spec.validate();
            let mut said: Vec<String> = faults.iter().take(NAMED).map(ToString::to_string).collect();
            if faults.len() > NAMED {
                said.push(format!("{} more faults", faults.len() - NAMED));
            }
            format!(
                "gives no new addresses until spec is put right; those given stay. {}",
                said.join(". ")
            )
        }
        Standing::Overlapping(_) => format!(
            "gives no new addresses until the overlap is removed; those given stay. spec.addresses: {standing}"
        ),
    }
}

fn family_use(family: IpFamily, standing: &Standing, pool: &Pool) -> Option<FamilyUse> {
    let counts = pool.counts(family);
    let free = match standing {
        Standing::InUse => counts.free,
        Standing::Malformed | Standing::Overlapping(_) => 0,
    };
    (counts.capacity > 0).then(|| FamilyUse {
        capacity: counts.capacity.to_string(),
        allocated: i64::try_from(counts.allocated).unwrap_or(i64::MAX),
        free: free.to_string(),
        ..FamilyUse::default()
    })
}
