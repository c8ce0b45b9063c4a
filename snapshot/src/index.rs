// SPDX-License-Identifier: Apache-2.0
//! Services and slices, joined by key, as they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use berth_model::{Endpoint, EndpointPort, ServiceKey, View};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::intern::Interner;
use crate::slice::service_of;
use crate::{Skip, SliceSkip, convert_service, convert_slice};

/// Namespace and name of a slice.
type SliceKey = (Arc<str>, Arc<str>);

/// Endpoints by port, sorted by address and port, each pair once.
type ByPort = BTreeMap<EndpointPort, Vec<Endpoint>>;

/// The data path's state. Each method leaves the view complete and the touched keys dirty; an event that
/// changes nothing the data path uses makes nothing dirty.
#[derive(Debug, Default)]
pub struct Index {
    view: View,
    /// The parts that each Service's endpoints are merged from, sorted. Where there is one only, as with most Services,
    /// the view has that one itself.
    slices: BTreeMap<ServiceKey, Vec<(SliceKey, Arc<ByPort>)>>,
    /// Which Service a slice belonged to when last seen: its label may change.
    owners: BTreeMap<SliceKey, ServiceKey>,
    dirty: BTreeSet<ServiceKey>,
    /// What many slices have in common.
    texts: Interner<str>,
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
        let key: SliceKey = (self.texts.get(namespace.as_str()), name.as_str().into());
        if self
            .owners
            .get(&key)
            .is_some_and(|owner| service_of(object).as_ref() != Some(owner))
        {
            self.forget_slice(&key);
        }
        match convert_slice(object, &mut self.texts) {
            Err(skip) => {
                self.forget_slice(&key);
                vec![skip]
            }
            Ok(converted) => {
                let service = converted.service;
                let ports = Arc::new(merge_slices([&converted.ports]));
                self.owners.insert(key.clone(), service.clone());
                if self.put_slice(&service, key, ports) {
                    self.merge(&service);
                }
                converted.skipped
            }
        }
    }

    /// Says whether that changed anything.
    fn put_slice(&mut self, service: &ServiceKey, key: SliceKey, ports: Arc<ByPort>) -> bool {
        let of_service = self.slices.entry(service.clone()).or_default();
        match of_service.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(place) => match of_service.get_mut(place) {
                Some((_, old)) if *old != ports => {
                    *old = ports;
                    true
                }
                Some(_) | None => false,
            },
            Err(place) => {
                of_service.insert(place, (key, ports));
                true
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
            of_service.retain(|(known, _)| known != key);
            if of_service.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.merge(&service);
    }

    /// Rebuilds one Service's endpoints from its slices, and marks it dirty if they differ.
    fn merge(&mut self, service: &ServiceKey) {
        let parts = self.slices.get(service).map(Vec::as_slice).unwrap_or_default();
        let merged = match parts {
            [(_, only)] => Arc::clone(only),
            several => Arc::new(merge_slices(several.iter().map(|(_, part)| &**part))),
        };
        let old = self.view.endpoints.get(service);
        let is_same = old.map_or(merged.is_empty(), |old| *old == merged);
        if merged.is_empty() {
            self.view.endpoints.remove(service);
        } else {
            // Also what is the same, so that it is there once.
            self.view.endpoints.insert(service.clone(), merged);
        }
        if !is_same {
            self.dirty.insert(service.clone());
        }
    }
}

/// Merges slices in the order of their names, sorted by address and port, each pair once. Where two entries
/// share a pair, one that is not terminating wins over one that is; else the later slice's (kube-proxy's rule:
/// an endpoint that moves between slices is seen twice for a moment). Parts that were merged before can be merged with others.
fn merge_slices<'a>(parts: impl IntoIterator<Item = &'a ByPort>) -> ByPort {
    let mut merged: BTreeMap<EndpointPort, BTreeMap<_, Endpoint>> = BTreeMap::new();
    let parts = parts.into_iter().flatten();
    for (port, endpoint) in parts.flat_map(|(port, list)| list.iter().map(move |e| (port, e))) {
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
