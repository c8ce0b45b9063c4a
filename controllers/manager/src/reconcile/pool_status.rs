// SPDX-License-Identifier: Apache-2.0
//! The status of an AddressPool.

use berth_allocator::PoolName;
use berth_crds::AddressPool;
use serde_json::json;

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
    // A merge patch removes a field only by an explicit null.
    let patch = json!({
        "metadata": { "resourceVersion": pool.metadata.resource_version },
        "status": { "conditions": status.conditions, "ipv4": status.ipv4, "ipv6": status.ipv6 },
    });
    match context
        .writer
        .patch_status::<AddressPool>("AddressPool", None, name.as_str(), &patch)
        .await
    {
        Ok(_) | Err(WriteError::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
