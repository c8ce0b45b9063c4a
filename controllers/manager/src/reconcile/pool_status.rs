// SPDX-License-Identifier: Apache-2.0
//! The status of an AddressPool.

use berth_allocator::PoolName;
use berth_controllers_core::upkeep::merge::merge_patch;
use berth_crds::{AddressPool, AddressPoolStatus};
use serde_json::{Value, json};

use super::now;
use crate::context::Context;
use crate::write::WriteError;

/// Writes the pool's status if it is not what it should be.
pub(crate) async fn turn(context: &Context, name: &PoolName) -> Result<(), WriteError> {
    let Some(pool) = context.cache().pools.get(name.as_str()).cloned() else {
        return Ok(());
    };
    let Some(status) = context.book().plan_pool_status(&pool, &now()) else {
        return Ok(());
    };
    tracing::debug!(pool = %name, ?status, "pool status");
    let Some(patch) = patch(&pool, &status) else {
        return Ok(());
    };
    match context
        .writer
        .patch_status::<AddressPool>("AddressPool", None, name.as_str(), &patch)
        .await
    {
        Ok(_) | Err(WriteError::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What makes the pool's status this one, if the pool is still of the version that was read.
fn patch(pool: &AddressPool, status: &AddressPoolStatus) -> Option<Value> {
    let before = pool.status.clone().unwrap_or_default();
    let difference = merge_patch(&before, status)?;
    Some(json!({
        "metadata": { "resourceVersion": pool.metadata.resource_version },
        "status": difference,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_become_zero_or_has_no_family_any_more_is_removed() {
        let pool = |status: Value| {
            let pool = json!({"apiVersion": "berth.dev/v1alpha1", "kind": "AddressPool",
                "metadata": {"name": "lan", "resourceVersion": "7"}, "spec": {"addresses": ["192.0.2.0/24"]}, "status": status});
            serde_json::from_value::<AddressPool>(pool).unwrap()
        };
        let of = |counts: Value| json!({"ipv4": counts, "ipv6": null});
        let before = json!({"ipv4": {"capacity": "256", "allocated": 3, "reserved": 2, "held": 1, "free": "250"},
            "ipv6": {"capacity": "1", "allocated": 0, "free": "1"}});
        let after = pool(of(json!({"capacity": "256", "allocated": 3, "free": "253"})));
        assert_eq!(
            patch(&pool(before), &after.status.unwrap()),
            Some(json!({"metadata": {"resourceVersion": "7"},
                "status": {"ipv4": {"reserved": null, "held": null, "free": "253"}, "ipv6": null}}))
        );
    }
}
