// SPDX-License-Identifier: Apache-2.0
//! Labels, names, owners and the trigger-time annotation of slices.

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use crate::names;
use crate::service::{Labels, is_headless};

/// Longest DNS subdomain (RFC 1123 section 2.1, as apimachinery validates names).
const NAME_MAX: usize = 253;

/// Labels whose values are ours, whatever the Service says.
const RESERVED: [&str; 3] = [names::SERVICE_NAME, names::SLICE_MANAGED_BY, names::HEADLESS];

fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
}

/// The labels that every slice of the Service carries.
pub(crate) fn slice_labels(service: &Service) -> Labels {
    let mut labels: Labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !is_reserved(key));
    if is_headless(service) {
        labels.insert(names::HEADLESS.to_owned(), String::new());
    }
    let name = service.metadata.name.clone().unwrap_or_default();
    labels.insert(names::SERVICE_NAME.to_owned(), name);
    labels.insert(
        names::SLICE_MANAGED_BY.to_owned(),
        names::SLICE_CONTROLLER.to_owned(),
    );
    labels
}

/// Whether the labels of a slice differ from the wanted ones, the reserved ones aside.
pub(crate) fn labels_differ(slice: &EndpointSlice, wanted: &Labels) -> bool {
    let free = |labels: &'_ Labels| -> Vec<(String, String)> {
        let pairs = labels.iter().filter(|(key, _)| !is_reserved(key));
        pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    match slice.metadata.labels.as_ref() {
        Some(labels) if labels == wanted => false,
        Some(labels) => free(labels) != free(wanted),
        None => true,
    }
}

/// The prefix of a slice's generated name: the owner's name and a dash, if that still is a name.
pub(crate) fn generate_name(owner: &str) -> String {
    if owner.len() < NAME_MAX {
        format!("{owner}-")
    } else {
        owner.to_owned()
    }
}

/// The reference that makes the garbage collector delete a slice with its owner.
pub(crate) fn controller_ref<K: Resource>(owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether the slice belongs to this Service, not to an earlier one of the same name.
pub(crate) fn is_owned_by(slice: &EndpointSlice, service: &Service) -> bool {
    let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| {
        Some(&owner.uid) == service.metadata.uid.as_ref()
            && owner.kind == Service::KIND
            && owner.api_version == Service::API_VERSION
    })
}

/// Sets or removes the trigger-time annotation; upstream's spelling is RFC 3339 with as many
/// fractional digits as needed, which is how a timestamp prints.
pub(crate) fn set_trigger_time(meta: &mut ObjectMeta, trigger_time: Option<Timestamp>) {
    match trigger_time {
        Some(time) => {
            let annotations = meta.annotations.get_or_insert_default();
            annotations.insert(names::TRIGGER_TIME.to_owned(), time.to_string());
        }
        None => {
            if let Some(annotations) = meta.annotations.as_mut() {
                annotations.remove(names::TRIGGER_TIME);
            }
        }
    }
}
