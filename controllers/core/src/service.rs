// SPDX-License-Identifier: Apache-2.0
//! What the planners ask of a Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_model::{IpFamily, ServiceKey};
use berth_snapshot::pod::LabelSet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::address;
use crate::skips::SkipReason;

/// Labels or a selector.
pub type Labels = BTreeMap<String, String>;

/// The value of `clusterIP` that makes a Service headless (core/v1).
const CLUSTER_IP_NONE: &str = "None";

/// Namespace and name of a namespaced object.
pub fn key_of(meta: &ObjectMeta) -> ServiceKey {
    ServiceKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// The selector, if the Service's endpoints come from Pods.
///
/// # Errors
/// Why they do not.
pub fn selector_of(service: &Service) -> Result<&Labels, SkipReason> {
    let spec = service.spec.as_ref().ok_or(SkipReason::ServiceWithoutSelector)?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(SkipReason::ServiceExternalName);
    }
    // An empty selector does not survive storage: the API server hands it out as none.
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
        .ok_or(SkipReason::ServiceWithoutSelector)
}

/// Whether a selector, not empty, matches the labels.
pub fn matches(selector: &Labels, labels: &LabelSet) -> bool {
    let carries = |(key, value): (&String, &String)| labels.get(key).is_some_and(|found| **found == **value);
    !selector.is_empty() && selector.iter().all(carries)
}

/// `clusterIP`, unless absent, empty or `None`.
fn cluster_ip(spec: &ServiceSpec) -> Option<&str> {
    spec.cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != CLUSTER_IP_NONE)
}

/// Whether objects of the Service carry the headless label: it has no ClusterIP, or none yet.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(cluster_ip).is_none()
}

/// Whether the Service was declared headless, which allows addresses without any port.
pub(crate) fn is_declared_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some(CLUSTER_IP_NONE)
}

/// Whether Pods that are not ready, and terminating ones, are published as ready.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or_default()
}

/// The ports, possibly none.
pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// The families in `spec.ipFamilies`, in its order.
fn declared_families(spec: &ServiceSpec) -> impl Iterator<Item = IpFamily> {
    let names = spec.ip_families.as_deref().unwrap_or_default();
    names
        .iter()
        .filter_map(|name| IpFamily::ALL.into_iter().find(|family| family.as_str() == name))
}

/// Without `ipFamilies` the ClusterIP tells; an unreadable one counts as IPv4, as upstream has it.
fn cluster_ip_family(spec: &ServiceSpec) -> Option<IpFamily> {
    cluster_ip(spec).map(|ip| address::parse(ip).map_or(IpFamily::V4, IpFamily::of))
}

/// The families that get slices: `ipFamilies`, else that of the ClusterIP, else both.
pub(crate) fn slice_families(service: &Service) -> Vec<IpFamily> {
    let Some(spec) = service.spec.as_ref() else {
        return IpFamily::ALL.to_vec();
    };
    let mut families: Vec<IpFamily> = declared_families(spec).collect();
    if families.is_empty() {
        families = cluster_ip_family(spec).map_or_else(|| IpFamily::ALL.to_vec(), |family| vec![family]);
    }
    families.sort_unstable();
    families.dedup();
    families
}

/// The one family of legacy Endpoints: the first of `ipFamilies`, else that of the ClusterIP, else
/// that of each Pod's primary address, else IPv4.
pub(crate) fn endpoints_family(service: &Service, pod_ip: Option<IpAddr>) -> IpFamily {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| declared_families(spec).next().or_else(|| cluster_ip_family(spec)))
        .or_else(|| pod_ip.map(IpFamily::of))
        .unwrap_or(IpFamily::V4)
}
