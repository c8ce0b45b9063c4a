// SPDX-License-Identifier: Apache-2.0
//! AddressPools in the cache, and the labels of namespaces, by which pools select.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_crds::AddressPool;
use berth_runtime::watch::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Cache;
use crate::task::{Dirty, Task};

impl Cache {
    /// Takes in an AddressPool.
    pub(crate) fn apply_pool(&mut self, pool: AddressPool) -> Dirty {
        let name: Arc<str> = pool.metadata.name.as_deref().unwrap_or_default().into();
        self.pools.insert(name, Arc::new(pool));
        pools_dirty()
    }

    /// Forgets an AddressPool.
    pub(crate) fn delete_pool(&mut self, name: &str) -> Dirty {
        self.pools.remove(name);
        pools_dirty()
    }

    /// Forgets every AddressPool that is not in a complete list.
    pub(crate) fn retain_pools(&mut self, listed: &BTreeSet<ObjectKey>) -> Dirty {
        let listed = names(listed);
        self.pools.retain(|name, _| listed.contains(&**name));
        pools_dirty()
    }

    /// Takes in the labels of a namespace.
    pub(crate) fn apply_namespace(&mut self, meta: ObjectMeta) -> Dirty {
        let (name, labels) = (meta.name.unwrap_or_default(), meta.labels.unwrap_or_default());
        if self.namespaces.get(&name) == Some(&labels) {
            return Dirty::default();
        }
        Arc::make_mut(&mut self.namespaces).insert(name, labels);
        pools_dirty()
    }

    /// Forgets a namespace. What was in it is gone.
    pub(crate) fn delete_namespace(&mut self, name: &str) -> Dirty {
        Arc::make_mut(&mut self.namespaces).remove(name);
        Dirty::default()
    }

    /// Forgets every namespace that is not in a complete list.
    pub(crate) fn retain_namespaces(&mut self, listed: &BTreeSet<ObjectKey>) -> Dirty {
        let listed = names(listed);
        Arc::make_mut(&mut self.namespaces).retain(|name, _| listed.contains(name.as_str()));
        Dirty::default()
    }
}

fn names(listed: &BTreeSet<ObjectKey>) -> BTreeSet<&str> {
    listed.iter().map(|key| &*key.name).collect()
}

/// Pools are for others than before, perhaps.
fn pools_dirty() -> Dirty {
    let mut dirty = Dirty::default();
    dirty.now.insert(Task::Pools);
    dirty
}
