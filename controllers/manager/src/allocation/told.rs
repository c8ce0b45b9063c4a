// SPDX-License-Identifier: Apache-2.0
//! From what watches show to changes of the book.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_controllers_core::values::{Shown, Values};
use berth_crds::{AddressClaim, AddressPool, NodePortPool};
use berth_runtime::watch::{ObjectKey, WatchEvent};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;

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
            let ready = gives(object);
            change(move |book, _| book.apply_service_cidr(&name, &cidrs, ready))
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

/// Whether the API server gives addresses of it: as long as it is not being deleted, and not said to be unready.
fn gives(object: &ServiceCIDR) -> bool {
    let conditions = object
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let unready = conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "False");
    object.metadata.deletion_timestamp.is_none() && !unready
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_cidr_gives_unless_it_says_no_or_is_being_deleted() {
        let condition = |status: &str| json!({"conditions": [{"type": "Ready", "status": status, "reason": "", "message": "", "lastTransitionTime": "2026-01-02T03:04:05Z"}]});
        for (metadata, status, expected) in [
            (json!({"name": "a"}), json!(null), true),
            (json!({"name": "a"}), condition("True"), true),
            (json!({"name": "a"}), condition("False"), false),
            (
                json!({"name": "a", "deletionTimestamp": "2026-01-02T03:04:05Z"}),
                condition("True"),
                false,
            ),
        ] {
            let object = json!({"metadata": metadata, "spec": {"cidrs": ["10.0.0.0/24"]}, "status": status});
            let object: ServiceCIDR = serde_json::from_value(object.clone()).unwrap();
            assert_eq!(gives(&object), expected, "{object:?}");
        }
    }
}
