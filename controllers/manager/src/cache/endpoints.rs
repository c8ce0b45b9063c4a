// SPDX-License-Identifier: Apache-2.0
//! Endpoints in the cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_controllers_core::endpoints::{Absence, is_leader_election, is_ours};
use berth_model::ServiceKey;
use berth_runtime::watch::ObjectKey;
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::packed::{Kept, shared_key};
use super::{Cache, object_key, uid_of};
use crate::task::{Dirty, Task};

impl Cache {
    /// Takes in Endpoints. Unlike upstream a foreign edit of ours is put right at once.
    pub(crate) fn apply_endpoints(&mut self, endpoints: Endpoints) -> Dirty {
        let key = shared_key(&endpoints.metadata, &mut self.texts);
        let seen = self.endpoints.get(&key);
        if seen.is_some_and(|seen| seen.is_of(&endpoints.metadata)) {
            return Dirty::default();
        }
        let record = is_leader_election(&endpoints);
        // What was mirrored before it became a record is cleaned up.
        let became_record = record && seen.is_some_and(|seen| !is_leader_election(&seen.object()));
        let concerned = self.services.contains_key(&key) || is_ours(&endpoints);
        if self.endpoints_absence(&key, &endpoints) == Absence::NotSeen {
            self.bereft.remove(&key);
        }
        let version = endpoints.metadata.resource_version.as_deref();
        let echo = version.is_some() && self.endpoints_answered.get(&key).map(|own| &**own) == version;
        let kept = Kept::of(endpoints, &mut self.texts);
        if self
            .endpoints_gone
            .get(&key)
            .is_some_and(|gone| **gone != *kept.uid())
        {
            self.endpoints_gone.remove(&key);
        }
        self.endpoints.insert(key.clone(), kept);
        self.endpoints_conflicts.over(&key);
        let mut dirty = Dirty::default();
        // A legacy leader-election record is renewed every two seconds and never ours. What others wrote
        // without a Service waits for it.
        if !echo && !record && concerned {
            dirty.now.insert(Task::Endpoints(key.clone()));
        }
        self.bring_back(Task::Endpoints(key.clone()), &mut dirty);
        if (!record || became_record) && self.may_be_mirrored(&key) {
            dirty.now.insert(Task::Mirror(key));
        }
        dirty
    }

    /// The Endpoints of this name.
    pub(crate) fn endpoints_of(&self, key: &ServiceKey) -> Option<Arc<Endpoints>> {
        self.endpoints.get(key).map(Kept::object)
    }

    /// Forgets Endpoints.
    pub(crate) fn delete_endpoints(&mut self, key: &ServiceKey) -> Dirty {
        let mut dirty = Dirty::default();
        let written = self.endpoints_answered.remove(key).is_some();
        if self.endpoints.remove(key).is_none() && !written {
            return dirty;
        }
        self.own_endpoints.forget(key);
        self.endpoints_conflicts.over(key);
        self.endpoints_gone.remove(key);
        self.bereft.remove(key);
        dirty.now.insert(Task::Endpoints(key.clone()));
        dirty.now.insert(Task::Mirror(key.clone()));
        dirty
    }

    /// Forgets all Endpoints that are not in a complete list.
    pub(crate) fn retain_endpoints(&mut self, listed: &BTreeSet<ObjectKey>) -> Dirty {
        let gone: Vec<ServiceKey> = self
            .endpoints
            .keys()
            .filter(|key| !listed.contains(&object_key(key)))
            .cloned()
            .collect();
        self.each(gone, |cache, key| cache.delete_endpoints(&key))
    }

    /// What is known of the Service of these Endpoints if it is not in the cache.
    pub(crate) fn endpoints_absence(&self, key: &ServiceKey, endpoints: &Endpoints) -> Absence {
        match self.bereft.get(key) {
            Some(uid) if **uid == *uid_of(&endpoints.metadata) => Absence::Deleted,
            Some(_) | None => Absence::NotSeen,
        }
    }

    /// Whether a write of ours was answered that no deletion was seen of.
    pub(crate) fn endpoints_are_written(&self, key: &ServiceKey) -> bool {
        self.endpoints_answered.contains_key(key)
    }

    /// Whether the Endpoints of this name in the cache are ones that we deleted.
    pub(crate) fn endpoints_are_deleted(&self, key: &ServiceKey) -> bool {
        self.endpoints_gone.contains_key(key)
    }

    /// Notes that a deletion of ours was accepted: what is written from now on is new.
    pub(crate) fn endpoints_deleted(&mut self, key: &ServiceKey, uid: &str) {
        self.endpoints_answered.remove(key);
        // The watch may have been faster.
        if self.endpoints.get(key).is_some_and(|cached| cached.uid() == uid) {
            self.endpoints_gone.insert(key.clone(), uid.into());
        }
    }

    /// Notes the metadata that a write of ours was answered with; that sent is absent for a creation.
    pub(crate) fn endpoints_written(
        &mut self,
        key: &ServiceKey,
        sent: Option<&ObjectMeta>,
        answered: &ObjectMeta,
    ) {
        self.endpoints_conflicts.over(key);
        if let Some(sent) = sent {
            self.own_endpoints.updated(key, sent, answered);
        }
        if let Some(version) = answered.resource_version.as_deref() {
            self.endpoints_answered.insert(key.clone(), version.into());
        }
    }
}
