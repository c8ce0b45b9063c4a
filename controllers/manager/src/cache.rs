// SPDX-License-Identifier: Apache-2.0
//! What was last seen of the API, indexed for the planners; says what each change makes due.

mod adopted;
mod endpoints;
mod packed;
mod pools;
mod services;
mod slices;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_controllers_core::Labels;
use berth_controllers_core::selector::{PodIndex, SelectorIndex};
use berth_controllers_core::slices::topology::{TopologyBook, ZoneShares};
use berth_controllers_core::slices::{NodeFacts, Nodes};
use berth_controllers_core::tracker::{Conflicts, EndpointsTracker, SliceTracker};
use berth_controllers_core::trigger::TriggerTimes;
use berth_crds::AddressPool;
use berth_model::ServiceKey;
use berth_runtime::watch::ObjectKey;
use berth_snapshot::pod::Pod;

use crate::task::{Dirty, Task};

use packed::{Kept, PackedEndpoints, PackedService, Texts};
use slices::CachedSlice;

pub(crate) use slices::Writes;

/// All of it. One lock guards it; nothing here waits.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    services: BTreeMap<ServiceKey, Kept<PackedService>>,
    pub(crate) pods: PodIndex,
    /// Shared with plans under way; copied when a Node changes meanwhile.
    pub(crate) nodes: Arc<Nodes>,
    /// Of these Nodes, once they are listed.
    pub(crate) shares: Arc<ZoneShares>,
    pub(crate) topology: TopologyBook,
    endpoints: BTreeMap<ServiceKey, Kept<PackedEndpoints>>,
    pub(crate) pools: BTreeMap<Arc<str>, Arc<AddressPool>>,
    /// Their labels. Shared with whoever chooses among pools; copied when one changes meanwhile.
    pub(crate) namespaces: Arc<BTreeMap<String, Labels>>,
    /// By the Service that their label names.
    slices: BTreeMap<ServiceKey, Vec<CachedSlice>>,
    slice_owner: BTreeMap<ObjectKey, ServiceKey>,
    selectors: SelectorIndex,
    nodes_listed: bool,
    texts: Texts,

    pub(crate) own_slices: SliceTracker,
    pub(crate) own_mirrors: SliceTracker,
    pub(crate) own_endpoints: EndpointsTracker,
    /// Endpoints whose cached version is known to be outdated.
    pub(crate) endpoints_conflicts: Conflicts,
    /// The version that our last write of Endpoints was answered with: its echo is no news.
    endpoints_answered: BTreeMap<ServiceKey, Box<str>>,
    /// The uids of Endpoints that we deleted and the watch still shows.
    endpoints_gone: BTreeMap<ServiceKey, Box<str>>,
    /// The uids of Endpoints whose Service was seen to go.
    bereft: BTreeMap<ServiceKey, Box<str>>,
    /// The uids of Services that the load balancer took over from a list and the watch has not shown.
    adopted: BTreeMap<ServiceKey, Box<str>>,
    /// The version of a Service that our last status write replaced.
    status_replaced: BTreeMap<ServiceKey, Box<str>>,
    pub(crate) slice_triggers: TriggerTimes,
    pub(crate) endpoints_triggers: TriggerTimes,
    /// Tasks put off because the cache was behind our own writes: due at the next news of their object.
    behind: BTreeSet<Task>,
}

impl Cache {
    /// Takes in a Pod.
    pub(crate) fn apply_pod(&mut self, pod: Pod) -> Dirty {
        let pod = Arc::new(pod);
        let old = self.pods.insert(Arc::clone(&pod));
        self.pod_dirty(old.as_deref(), Some(&pod))
    }

    /// Forgets a Pod.
    pub(crate) fn delete_pod(&mut self, key: &ObjectKey) -> Dirty {
        let old = self
            .pods
            .remove(key.namespace.as_deref().unwrap_or_default(), &key.name);
        match old {
            Some(old) => self.pod_dirty(Some(&old), None),
            None => Dirty::default(),
        }
    }

    /// Forgets every Pod that is not in a complete list.
    pub(crate) fn retain_pods(&mut self, listed: &BTreeSet<ObjectKey>) -> Dirty {
        let gone: Vec<ObjectKey> = self
            .pods
            .iter()
            .map(|pod| pod_key(pod))
            .filter(|key| !listed.contains(key))
            .collect();
        self.each(gone, |cache, key| cache.delete_pod(&key))
    }

    fn pod_dirty(&self, old: Option<&Pod>, new: Option<&Pod>) -> Dirty {
        let mut dirty = Dirty::default();
        for key in self.selectors.affected(old, new) {
            dirty.batched.insert(Task::Endpoints(key.clone()));
            dirty.batched.insert(Task::Slices(key));
        }
        dirty
    }

    /// Takes in a Node.
    pub(crate) fn apply_node(&mut self, name: Arc<str>, facts: NodeFacts) -> Dirty {
        let before = self.nodes.get(&name);
        if before == Some(&facts) {
            return Dirty::default();
        }
        let moved = before.is_none_or(|before| before.zone != facts.zone);
        Arc::make_mut(&mut self.nodes).insert(Arc::clone(&name), facts);
        let mut dirty = self.shares_dirty();
        if moved {
            dirty.merge(self.node_dirty(&name));
        }
        dirty
    }

    /// Forgets a Node.
    pub(crate) fn delete_node(&mut self, name: &str) -> Dirty {
        if Arc::make_mut(&mut self.nodes).remove(name).is_none() {
            return Dirty::default();
        }
        let mut dirty = self.shares_dirty();
        dirty.merge(self.node_dirty(name));
        dirty
    }

    /// Forgets every Node that is not in a complete list.
    pub(crate) fn retain_nodes(&mut self, listed: &BTreeSet<ObjectKey>) -> Dirty {
        let listed: BTreeSet<&str> = listed.iter().map(|key| &*key.name).collect();
        let gone: Vec<Arc<str>> = self
            .nodes
            .keys()
            .filter(|name| !listed.contains(&***name))
            .cloned()
            .collect();
        let mut dirty = self.each(gone, |cache, name| cache.delete_node(&name));
        self.nodes_listed = true;
        dirty.merge(self.shares_dirty());
        dirty
    }

    /// The Services in topology mode whose hints do not do for the Nodes as they are now.
    fn shares_dirty(&mut self) -> Dirty {
        let mut dirty = Dirty::default();
        if !self.nodes_listed {
            return dirty;
        }
        let shares = ZoneShares::of(&self.nodes);
        if shares != *self.shares {
            let due = self.topology.due(&shares);
            dirty.now.extend(due.into_iter().map(Task::Slices));
            self.shares = Arc::new(shares);
        }
        dirty
    }

    /// The Services with a Pod on this Node: their slices carry its zone. Upstream leaves stale zones
    /// until the next change of such a Service (<https://github.com/kubernetes/kubernetes/issues/123401>).
    fn node_dirty(&self, name: &str) -> Dirty {
        let mut dirty = Dirty::default();
        // Before the first list is complete no slice has been planned that could lack the Node.
        if !self.nodes_listed {
            return dirty;
        }
        for pod in self.pods.iter() {
            if pod.node_name() == Some(name) {
                let services = self.selectors.services_of(pod.namespace(), pod.labels());
                dirty.batched.extend(services.into_iter().map(Task::Slices));
            }
        }
        dirty
    }

    /// Puts a task off until there is news of its object.
    pub(crate) fn put_off(&mut self, task: Task) {
        self.behind.insert(task);
    }

    /// Brings a task back that was put off.
    fn bring_back(&mut self, task: Task, dirty: &mut Dirty) {
        if self.behind.remove(&task) {
            dirty.now.insert(task);
        }
    }

    fn each<T>(&mut self, items: Vec<T>, mut each: impl FnMut(&mut Self, T) -> Dirty) -> Dirty {
        let mut dirty = Dirty::default();
        for item in items {
            dirty.merge(each(self, item));
        }
        dirty
    }
}

fn pod_key(pod: &Pod) -> ObjectKey {
    ObjectKey {
        namespace: Some(Arc::clone(pod.namespace())),
        name: Arc::clone(pod.name()),
    }
}

/// The key of the object that has a Service's namespace and name.
pub(crate) fn object_key(key: &ServiceKey) -> ObjectKey {
    ObjectKey {
        namespace: Some(key.namespace().into()),
        name: key.name().into(),
    }
}

/// The inverse of [`object_key`].
pub(crate) fn service_key(key: &ObjectKey) -> ServiceKey {
    ServiceKey::new(
        key.namespace.clone().unwrap_or_else(|| Arc::from("")),
        Arc::clone(&key.name),
    )
}

fn uid_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
