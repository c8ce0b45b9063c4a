// SPDX-License-Identifier: Apache-2.0
//! Services that the load balancer knows from a list of its own, newer than the cache may be.

use berth_controllers_core::key_of;
use berth_model::ServiceKey;
use k8s_openapi::api::core::v1::Service;

use super::{Cache, uid_of};

impl Cache {
    /// Notes which of these Services are not in the cache: that one is absent says nothing about it yet.
    pub(crate) fn adopt_services(&mut self, listed: &[Service]) {
        for service in listed {
            let (key, uid) = (key_of(&service.metadata), uid_of(&service.metadata));
            let cached = self.services.get(&key);
            if cached.is_none_or(|cached| cached.uid() != uid) {
                self.adopted.insert(key, uid.into());
            }
        }
    }

    /// Whether the Service is absent here and the watch has not shown the one that was taken over.
    pub(crate) fn awaits_adopted(&self, key: &ServiceKey) -> bool {
        self.adopted.contains_key(key) && !self.services.contains_key(key)
    }

    /// Notes that the Service that was taken over is gone.
    pub(crate) fn adopted_is_gone(&mut self, key: &ServiceKey) {
        self.adopted.remove(key);
    }

    pub(super) fn adopted_seen(&mut self, key: &ServiceKey, service: &Service) {
        let awaited = self.adopted.get(key);
        if awaited.is_some_and(|uid| **uid == *uid_of(&service.metadata)) {
            self.adopted.remove(key);
        }
    }
}
