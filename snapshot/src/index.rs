// SPDX-License-Identifier: Apache-2.0
//! Services and slices, joined by key, as they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{Endpoint, EndpointPort, ServiceKey, View};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::slice::service_of;
use crate::{Skip, SliceEndpoints, SliceSkip, convert_service, convert_slice};

/// Namespace and name of a slice.
type SliceKey = (Arc<str>, Arc<str>);

/// The data path's state. Each method leaves the view complete and the touched keys dirty; an event that
/// changes nothing the data path uses makes nothing dirty.
#[derive(Debug, Default)]
pub struct Index {
    view: View,
    /// The parts that each Service's endpoints are merged from.
    slices: BTreeMap<ServiceKey, BTreeMap<SliceKey, SliceEndpoints>>,
    /// Which Service a slice belonged to when last seen: its label may change.
    owners: BTreeMap<SliceKey, ServiceKey>,
    dirty: BTreeSet<ServiceKey>,
}

impl Index {
    /// The view as of the last event.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The keys whose Service or endpoints changed since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<ServiceKey> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether any key has changed since [`Index::take_dirty`].
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Takes in a Service that was added or changed. Returns what could not be used of it.
    pub fn apply_service(&mut self, object: &Service) -> Vec<Skip> {
        let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
            return vec![Skip::Incomplete("metadata.name")];
        };
        let key = ServiceKey::new(namespace.as_str(), name.as_str());
        let converted = convert_service(object);
        match converted.service {
            None => self.delete_service(&key),
            Some(service) => {
                if self.view.services.get(&key).is_none_or(|old| **old != service) {
                    self.view.services.insert(key.clone(), Arc::new(service));
                    self.dirty.insert(key);
                }
            }
        }
        converted.skipped
    }

    /// Forgets a Service.
    pub fn delete_service(&mut self, key: &ServiceKey) {
        if self.view.services.remove(key).is_some() {
            self.dirty.insert(key.clone());
        }
    }

    /// Forgets every Service that a complete list did not contain.
    pub fn retain_services(&mut self, listed: &BTreeSet<ServiceKey>) {
        let gone: Vec<_> = self
            .view
            .services
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.delete_service(&key);
        }
    }

    /// Takes in a slice that was added or changed. Returns what could not be used of it.
    pub fn apply_slice(&mut self, object: &EndpointSlice) -> Vec<SliceSkip> {
        let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
            return vec![SliceSkip::NoService];
        };
        let key: SliceKey = (namespace.as_str().into(), name.as_str().into());
        if self
            .owners
            .get(&key)
            .is_some_and(|owner| service_of(object).as_ref() != Some(owner))
        {
            self.forget_slice(&key);
        }
        match convert_slice(object) {
            Err(skip) => {
                self.forget_slice(&key);
                vec![skip]
            }
            Ok(endpoints) => {
                let skipped = endpoints.skipped.clone();
                let service = endpoints.service.clone();
                self.owners.insert(key.clone(), service.clone());
                let of_service = self.slices.entry(service.clone()).or_default();
                if of_service
                    .insert(key, endpoints.clone())
                    .is_none_or(|old| old.ports != endpoints.ports)
                {
                    self.merge(&service);
                }
                skipped
            }
        }
    }

    /// Forgets a slice.
    pub fn delete_slice(&mut self, namespace: &str, name: &str) {
        self.forget_slice(&(namespace.into(), name.into()));
    }

    /// Forgets every slice that a complete list, of (namespace, name), did not contain.
    pub fn retain_slices(&mut self, listed: &BTreeSet<(Arc<str>, Arc<str>)>) {
        let gone: Vec<_> = self
            .owners
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        for key in gone {
            self.forget_slice(&key);
        }
    }

    fn forget_slice(&mut self, key: &SliceKey) {
        let Some(service) = self.owners.remove(key) else {
            return;
        };
        if let Some(of_service) = self.slices.get_mut(&service) {
            of_service.remove(key);
            if of_service.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.merge(&service);
    }

    /// Rebuilds one Service's endpoints from its slices, and marks it dirty if they differ.
    fn merge(&mut self, service: &ServiceKey) {
        let merged = merge_slices(self.slices.get(service).into_iter().flat_map(BTreeMap::values));
        let old = self.view.endpoints.get(service);
        if old.map_or(merged.is_empty(), |old| **old == merged) {
            return;
        }
        if merged.is_empty() {
            self.view.endpoints.remove(service);
        } else {
            self.view.endpoints.insert(service.clone(), Arc::new(merged));
        }
        self.dirty.insert(service.clone());
    }
}

/// Merges slices in the order of their names, sorted by address and port, each pair once. Where two entries
/// share a pair, one that is not terminating wins over one that is; else the later slice's (kube-proxy's rule:
/// an endpoint that moves between slices is seen twice for a moment).
fn merge_slices<'a>(
    slices: impl Iterator<Item = &'a SliceEndpoints>,
) -> BTreeMap<EndpointPort, Vec<Endpoint>> {
    let mut merged: BTreeMap<EndpointPort, BTreeMap<_, Endpoint>> = BTreeMap::new();
    for (port, endpoint) in slices.flat_map(|slice| {
        slice
            .ports
            .iter()
            .flat_map(|(port, list)| list.iter().map(move |e| (port, e)))
    }) {
        let of_port = merged.entry(port.clone()).or_default();
        let pair = (endpoint.ip, endpoint.port);
        if endpoint.conditions.terminating && of_port.contains_key(&pair) {
            continue;
        }
        of_port.insert(pair, endpoint.clone());
    }
    merged
        .into_iter()
        .map(|(port, pairs)| (port, pairs.into_values().collect()))
        .collect()
}

#[cfg(test)]
mod tests;
