// SPDX-License-Identifier: Apache-2.0
//! Services in the cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_controllers_core::load_balancer::{
    ADDRESS_POOL_ANNOTATIONS, LOAD_BALANCER_IPS_ANNOTATIONS, SHARING_KEY_ANNOTATIONS,
};
use berth_controllers_core::{names, selector_of};
use berth_model::ServiceKey;
use berth_runtime::watch::ObjectKey;
use k8s_openapi::api::core::v1::Service;

use super::packed::{Kept, shared_key};
use super::{Cache, Writes, object_key};
use crate::task::{Dirty, Task};

/// Whether any plan depends on an annotation of a Service. The others, often the larger half of it, are
/// not kept: Services are patched, never put.
fn is_read(annotation: &str) -> bool {
    [names::TOPOLOGY_MODE, names::TOPOLOGY_HINTS].contains(&annotation)
        || LOAD_BALANCER_IPS_ANNOTATIONS.contains(&annotation)
        || ADDRESS_POOL_ANNOTATIONS.contains(&annotation)
        || SHARING_KEY_ANNOTATIONS.contains(&annotation)
}

impl Cache {
    /// Takes in a Service.
    pub(crate) fn apply_service(&mut self, mut service: Service) -> Dirty {
        service.metadata.annotations = service.metadata.annotations.take().and_then(|mut annotations| {
            annotations.retain(|name, _| is_read(name));
            (!annotations.is_empty()).then_some(annotations)
        });
        let key = shared_key(&service.metadata, &mut self.texts);
        let seen = self.services.get(&key);
        if seen.is_some_and(|seen| seen.is_of(&service.metadata)) {
            return Dirty::default();
        }
        self.selectors.insert(&key, selector_of(&service).ok());
        self.bereft.remove(&key);
        self.adopted_seen(&key, &service);
        let kept = Kept::of(service, &mut self.texts);
        self.services.insert(key.clone(), kept);
        self.service_dirty(&key)
    }

    /// The Service of this name.
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<Arc<Service>> {
        self.services.get(key).map(Kept::object)
    }

    /// The names of all.
    pub(crate) fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.keys()
    }

    /// Forgets a Service.
    pub(crate) fn delete_service(&mut self, key: &ServiceKey) -> Dirty {
        if self.services.remove(key).is_none() {
            return Dirty::default();
        }
        self.selectors.remove(key);
        if let Some(endpoints) = self.endpoints.get(key) {
            self.bereft.insert(key.clone(), endpoints.uid().into());
        }
        self.status_replaced.remove(key);
        self.service_dirty(key)
    }

    /// Forgets every Service that is not in a complete list.
    pub(crate) fn retain_services(&mut self, listed: &BTreeSet<ObjectKey>) -> Dirty {
        let gone: Vec<ServiceKey> = self
            .services
            .keys()
            .filter(|key| !listed.contains(&object_key(key)))
            .cloned()
            .collect();
        self.each(gone, |cache, key| cache.delete_service(&key))
    }

    fn service_dirty(&self, key: &ServiceKey) -> Dirty {
        let mut dirty = Dirty::default();
        dirty.now.insert(Task::Endpoints(key.clone()));
        dirty.now.insert(Task::Slices(key.clone()));
        dirty.now.insert(Task::LoadBalancer(key.clone()));
        if self.may_be_mirrored(key) {
            dirty.now.insert(Task::Mirror(key.clone()));
        }
        dirty
    }

    /// Notes a status write of ours.
    pub(crate) fn status_written(&mut self, key: &ServiceKey, sent: Option<&str>, answered: Option<&str>) {
        if let Some(sent) = sent.filter(|sent| Some(*sent) != answered) {
            self.status_replaced.insert(key.clone(), sent.into());
        }
    }

    /// Whether the Service is cached as it was before our last status write. The news will come.
    pub(crate) fn status_is_behind(&self, key: &ServiceKey) -> bool {
        let cached = self.services.get(key).and_then(Kept::version);
        let replaced = self.status_replaced.get(key).map(|version| &**version);
        replaced.is_some() && cached == replaced
    }

    /// Whether mirroring has something to say about this name: a Service with a selector only while
    /// mirrored slices are left.
    pub(super) fn may_be_mirrored(&self, key: &ServiceKey) -> bool {
        let mut slices = self.slices_of(key).iter();
        !self.selectors.selects(key) || slices.any(|slice| slice.writes == Writes::Mirror)
    }
}
