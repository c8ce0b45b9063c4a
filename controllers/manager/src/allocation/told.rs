// SPDX-License-Identifier: Apache-2.0
//! From what watches show to changes of the book.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use berth_controllers_core::values::{CidrState, MANAGED_BY, Shown, Values};
use berth_crds::{AddressClaim, AddressPool, NodePortPool};
use berth_runtime::watch::{ObjectKey, WatchEvent};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};

use crate::cache::service_key;
use crate::handout::Change;

/// How an event of a kind changes the book.
pub(crate) type Tell<K> = fn(&WatchEvent<K>) -> Change<Values>;

fn change(change: impl FnOnce(&mut Values, Duration) + Send + 'static) -> Change<Values> {
    Box::new(move |replica, now| change(replica.book_mut(), now))
}

pub(crate) fn services(event: &WatchEvent<Service>) -> Change<Values> {
    match event {
        WatchEvent::Applied(service) => {
            let shown = Shown::of(service);
            Box::new(move |replica, now| {
                for ask in replica.book_mut().apply_service(shown, now) {
                    replica.settle(&ask);
                }
            })
        }
        WatchEvent::Deleted(key) => {
            let key = service_key(key);
            change(move |book, now| book.remove_service(&key, now))
        }
        WatchEvent::Listed(keys) => {
            let keys = keys.iter().map(service_key).collect();
            change(move |book, now| book.retain_services(&keys, now))
        }
    }
}

pub(crate) fn service_cidrs(event: &WatchEvent<ServiceCIDR>) -> Change<Values> {
    match event {
        WatchEvent::Applied(object) => {
            let name = object.metadata.name.clone().unwrap_or_default();
            let spec = object.spec.as_ref();
            let cidrs = spec.and_then(|spec| spec.cidrs.clone()).unwrap_or_default();
            let state = CidrState::of(object);
            change(move |book, _| book.apply_service_cidr(&name, &cidrs, state))
        }
        WatchEvent::Deleted(key) => {
            let name = key.name.to_string();
            change(move |book, _| book.remove_service_cidr(&name))
        }
        WatchEvent::Listed(keys) => {
            let names = names(keys);
            change(move |book, _| book.retain_service_cidrs(&names))
        }
    }
}

/// Those that the API server's allocator does not manage: the watch selects them.
pub(crate) fn ip_addresses(event: &WatchEvent<IPAddress>) -> Change<Values> {
    match event {
        WatchEvent::Applied(object) => {
            let meta = &object.metadata;
            let address = meta.name.as_deref().and_then(address_of);
            let labels = meta.labels.as_ref();
            let manager = labels.and_then(|labels| labels.get(MANAGED_BY)).cloned();
            change(move |book, now| {
                if let Some(address) = address {
                    book.apply_foreign_address(address, manager.as_deref(), now);
                }
            })
        }
        WatchEvent::Deleted(key) => {
            let address = address_of(&key.name);
            change(move |book, now| {
                if let Some(address) = address {
                    book.remove_foreign_address(address, now);
                }
            })
        }
        WatchEvent::Listed(keys) => {
            let addresses = keys.iter().filter_map(|key| address_of(&key.name)).collect();
            change(move |book, now| book.retain_foreign_addresses(&addresses, now))
        }
    }
}

/// An IPAddress is named by its address.
fn address_of(name: &str) -> Option<IpAddr> {
    name.parse().ok()
}

pub(crate) fn namespaces(event: &WatchEvent<Namespace>) -> Change<Values> {
    match event {
        WatchEvent::Applied(namespace) => {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            let labels = namespace.metadata.labels.clone().unwrap_or_default();
            change(move |book, _| book.apply_namespace(&name, &labels))
        }
        WatchEvent::Deleted(key) => {
            let name = key.name.to_string();
            change(move |book, _| book.remove_namespace(&name))
        }
        WatchEvent::Listed(keys) => {
            let names = names(keys);
            change(move |book, _| book.retain_namespaces(&names))
        }
    }
}

pub(crate) fn address_pools(event: &WatchEvent<AddressPool>) -> Change<Values> {
    match event {
        WatchEvent::Applied(pool) => {
            let pool = pool.clone();
            change(move |book, _| book.apply_address_pool(&pool))
        }
        WatchEvent::Deleted(key) => {
            let name = key.name.to_string();
            change(move |book, _| book.remove_address_pool(&name))
        }
        WatchEvent::Listed(keys) => {
            let names = names(keys);
            change(move |book, _| book.retain_address_pools(&names))
        }
    }
}

pub(crate) fn port_pools(event: &WatchEvent<NodePortPool>) -> Change<Values> {
    match event {
        WatchEvent::Applied(pool) => {
            let pool = pool.clone();
            change(move |book, _| book.apply_port_pool(&pool))
        }
        WatchEvent::Deleted(key) => {
            let name = key.name.to_string();
            change(move |book, _| book.remove_port_pool(&name))
        }
        WatchEvent::Listed(keys) => {
            let names = names(keys);
            change(move |book, _| book.retain_port_pools(&names))
        }
    }
}

pub(crate) fn claims(event: &WatchEvent<AddressClaim>) -> Change<Values> {
    match event {
        WatchEvent::Applied(claim) => {
            let claim = claim.clone();
            Box::new(move |replica, now| {
                for ask in replica.book_mut().apply_claim(&claim, now) {
                    replica.settle(&ask);
                }
            })
        }
        WatchEvent::Deleted(key) => {
            let (namespace, name) = namespaced(key);
            change(move |book, now| book.remove_claim(&namespace, &name, now))
        }
        WatchEvent::Listed(keys) => {
            let keys = keys.iter().map(namespaced).collect();
            change(move |book, now| book.retain_claims(&keys, now))
        }
    }
}

fn names(keys: &BTreeSet<ObjectKey>) -> BTreeSet<String> {
    keys.iter().map(|key| key.name.to_string()).collect()
}

fn namespaced(key: &ObjectKey) -> (String, String) {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    (namespace.to_owned(), key.name.to_string())
}
