// SPDX-License-Identifier: Apache-2.0
//! Legacy Endpoints of Services with a selector.

mod repack;
mod truncate;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::ServiceKey;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use crate::names;
use crate::plan::{ObjectRef, Plan};
use crate::pods;
use crate::service::{self, Labels, is_headless, selector_of};
use crate::skips::{SkipReason, Skips};
use crate::slices::{Leftovers, set_trigger_time};

pub(crate) use repack::Canonical;
pub use truncate::CAPACITY;

/// Everything that the Endpoints of one Service depend on.
#[derive(Clone, Copy, Debug)]
pub struct EndpointsInput<'a> {
    /// Namespace and name, of the Service and of the Endpoints.
    pub key: &'a ServiceKey,
    /// The Service, if there is one.
    pub service: Option<&'a Service>,
    /// The Pods that its selector matches, in any order.
    pub pods: &'a [Arc<Pod>],
    /// The Endpoints as last seen.
    pub current: Option<&'a Endpoints>,
    /// When the change that led here happened ([`crate::trigger`]).
    pub trigger_time: Option<Timestamp>,
    /// What to do with our own Endpoints when the Service stops selecting Pods.
    pub leftovers: Leftovers,
}

/// What is known of a Service that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It was seen to go while these very Endpoints stood.
    Deleted,
    /// It was not seen: it may be about to appear, or there never was one.
    NotSeen,
}

/// The write for one Service, if any, and what was left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointsPlan {
    /// At most one write.
    pub writes: Plan<Endpoints>,
    /// What was left out, and why.
    pub skips: Skips,
}

/// Plans the Endpoints of one Service.
///
/// Without a Service only Endpoints of ours go: [`plan_orphan`] with [`Absence::NotSeen`]. A Service
/// without selector or of type ExternalName is left alone, or cleaned up where `leftovers` says so
/// and the Endpoints are ours. An update replaces the labels, keeps foreign annotations, and carries
/// the resource version it was planned from.
pub fn plan_endpoints(input: &EndpointsInput<'_>) -> EndpointsPlan {
    let mut plan = EndpointsPlan::default();
    let Some(service) = input.service else {
        return plan_orphan(input.key, input.current, Absence::NotSeen);
    };
    if let Err(reason) = selector_of(service) {
        plan.skips.add(reason, || input.key.to_string());
        let leftover = input.current.filter(|current| is_ours(current));
        if let (Leftovers::Delete, Some(leftover)) = (input.leftovers, leftover) {
            plan.writes.delete.push(ObjectRef::of(&leftover.metadata));
        }
        return plan;
    }

    let raw = subsets_of(service, input.pods, &mut plan.skips);
    let mut wanted = Canonical::of(&raw);
    let truncated;
    let over_capacity = wanted.len() > CAPACITY;
    if over_capacity {
        truncated = truncate::truncate(wanted.to_subsets(), &mut plan.skips);
        wanted = Canonical::of(&truncated);
    }
    let labels = endpoints_labels(service);
    let up_to_date = input.current.is_some_and(|current| {
        labels_are_right(current, &labels)
            && is_truncated(current) == over_capacity
            && Canonical::of(current.subsets.as_deref().unwrap_or_default()) == wanted
    });
    if up_to_date {
        return plan;
    }
    let (metadata, list) = match input.current {
        Some(current) => (current.metadata.clone(), &mut plan.writes.update),
        None => (fresh_meta(input.key), &mut plan.writes.create),
    };
    let mut endpoints = Endpoints {
        metadata,
        subsets: Some(wanted.to_subsets()),
    };
    endpoints.metadata.labels = Some(labels);
    endpoints.metadata.managed_fields = None;
    set_trigger_time(&mut endpoints.metadata, input.trigger_time);
    set_truncated(&mut endpoints.metadata, over_capacity);
    list.push(endpoints);
    plan
}

/// Plans Endpoints that no Service stands behind.
///
/// With a Service that was deleted they go, whoever wrote them. Otherwise only ours do: people may
/// write Endpoints before their Service, or without one. A leader-election record stays.
pub fn plan_orphan(key: &ServiceKey, current: Option<&Endpoints>, absence: Absence) -> EndpointsPlan {
    let mut plan = EndpointsPlan::default();
    let Some(current) = current else {
        return plan;
    };
    if is_leader_election(current) {
        plan.skips.add(SkipReason::LeaderElection, || key.to_string());
    } else if absence == Absence::Deleted || is_ours(current) {
        plan.writes.delete.push(ObjectRef::of(&current.metadata));
    } else {
        plan.skips.add(SkipReason::ServiceMissing, || key.to_string());
    }
    plan
}

fn fresh_meta(key: &ServiceKey) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(key.namespace().to_owned()),
        name: Some(key.name().to_owned()),
        ..ObjectMeta::default()
    }
}

/// The Pods as subsets, one per list of resolved ports, in no canonical form yet.
fn subsets_of(service: &Service, all: &[Arc<Pod>], skips: &mut Skips) -> Vec<EndpointSubset> {
    let publish = service::publishes_not_ready(service);
    let portless = service::ports(service).is_empty() && service::is_declared_headless(service);
    let mut by_numbers: BTreeMap<Vec<Option<i32>>, EndpointSubset> = BTreeMap::new();
    for pod in all {
        if let Some(reason) = pods::exclusion(pod, publish) {
            skips.add(reason, || pods::describe(pod));
            continue;
        }
        let family = service::endpoints_family(service, pod.primary_address());
        let Some(addr) = pods::addresses(pod, family).next() else {
            skips.add(SkipReason::PodWithoutFamily, || {
                format!("{} has no {family} address", pods::describe(pod))
            });
            continue;
        };
        let numbers = pods::port_numbers(service, pod, skips);
        if numbers.iter().all(Option::is_none) && !portless {
            continue;
        }
        let subset = by_numbers
            .entry(numbers)
            .or_insert_with_key(|numbers| EndpointSubset {
                ports: Some(ports_of(service, numbers)),
                ..EndpointSubset::default()
            });
        let list = if publish || pod.is_ready() {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address_of(service, pod, addr));
    }
    by_numbers.into_values().collect()
}

fn ports_of(service: &Service, numbers: &[Option<i32>]) -> Vec<EndpointPort> {
    let ports = service::ports(service).iter().zip(numbers);
    ports
        .filter_map(|(port, number)| {
            Some(EndpointPort {
                name: port.name.clone().filter(|name| !name.is_empty()),
                port: (*number)?,
                protocol: Some(pods::protocol(port).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn address_of(service: &Service, pod: &Pod, addr: IpAddr) -> EndpointAddress {
    EndpointAddress {
        ip: addr.to_string(),
        hostname: pods::hostname(pod, service),
        // Upstream always sets it, empty for a Pod without a Node.
        node_name: Some(pod.node_name().unwrap_or_default().to_owned()),
        target_ref: Some(pods::target_ref(pod)),
    }
}

/// The Service's labels, and ours.
fn endpoints_labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    if is_headless(service) {
        labels.insert(names::HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(names::HEADLESS);
    }
    labels.insert(
        names::ENDPOINTS_MANAGED_BY.to_owned(),
        names::ENDPOINTS_CONTROLLER.to_owned(),
    );
    labels
}

/// Whether the labels need no write. The headless label alone is no reason for one: upstream's
/// objects may lack or have it wrongly, and nobody reads it off an object that is there.
fn labels_are_right(current: &Endpoints, wanted: &Labels) -> bool {
    let none = Labels::new();
    let present = current.metadata.labels.as_ref().unwrap_or(&none);
    let counted = |labels: &Labels| labels.len() - usize::from(labels.contains_key(names::HEADLESS));
    counted(present) == counted(wanted)
        && present
            .iter()
            .all(|(key, value)| key == names::HEADLESS || wanted.get(key) == Some(value))
}

/// Whether the label says that an Endpoints controller writes the object: ours, or upstream's.
pub fn is_ours(current: &Endpoints) -> bool {
    let labels = current.metadata.labels.as_ref();
    let managed_by = labels.and_then(|labels| labels.get(names::ENDPOINTS_MANAGED_BY));
    managed_by.map(String::as_str) == Some(names::ENDPOINTS_CONTROLLER)
}

/// Whether the object is a legacy leader-election record, which no Service stands behind.
pub fn is_leader_election(current: &Endpoints) -> bool {
    let annotations = current.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(names::LEADER))
}

fn is_truncated(current: &Endpoints) -> bool {
    let annotations = current.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(names::OVER_CAPACITY))
}

fn set_truncated(meta: &mut ObjectMeta, truncated: bool) {
    if truncated {
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(names::OVER_CAPACITY.to_owned(), names::TRUNCATED.to_owned());
    } else if let Some(annotations) = meta.annotations.as_mut() {
        annotations.remove(names::OVER_CAPACITY);
    }
}
