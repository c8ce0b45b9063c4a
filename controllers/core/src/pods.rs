// SPDX-License-Identifier: Apache-2.0
//! What the planners ask of a Pod: is it an endpoint, of which address, port and host name.

use std::fmt;
use std::net::IpAddr;

use berth_model::IpFamily;
use berth_snapshot::pod::{Container, Pod};
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::address;
use crate::service;
use crate::skips::{SkipReason, Skips};

/// The protocol where none is written (core/v1 default).
pub(crate) const TCP: &str = "TCP";

/// Why a Pod is no endpoint, if it is none. Terminating Pods stay where `with_terminating` is set.
pub(crate) fn exclusion(pod: &Pod, with_terminating: bool) -> Option<SkipReason> {
    if pod.is_finished() {
        return Some(SkipReason::PodFinished);
    }
    let no_primary = pod.status.pod_ip.as_deref().unwrap_or_default().is_empty();
    if no_primary && pod.status.pod_ips.is_empty() {
        return Some(SkipReason::PodWithoutAddress);
    }
    (pod.is_terminating() && !with_terminating).then_some(SkipReason::PodTerminating)
}

/// The Pod's addresses of a family, canonical, in the order of its status.
pub(crate) fn addresses(pod: &Pod, family: IpFamily) -> impl Iterator<Item = IpAddr> {
    let ips = pod.status.pod_ips.iter();
    ips.filter_map(|entry| address::parse(&entry.ip))
        .filter(move |addr| IpFamily::of(*addr) == family)
}

/// The primary address, if readable.
pub(crate) fn primary_address(pod: &Pod) -> Option<IpAddr> {
    pod.status.pod_ip.as_deref().and_then(address::parse)
}

/// The host name under which the Pod's address is published: only where its subdomain names the Service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let hostname = pod.spec.hostname.as_deref().filter(|name| !name.is_empty())?;
    let of_service = pod.spec.subdomain.as_deref() == service.metadata.name.as_deref()
        && pod.metadata.namespace == service.metadata.namespace;
    of_service.then(|| hostname.to_owned())
}

/// The reference that endpoints carry to their Pod: no API version, no resource version.
pub(crate) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// `namespace/name`, for messages.
pub(crate) fn describe(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

/// What a Service port's `targetPort` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// A number, the same on every Pod.
    Number(i32),
    /// A container port's name, which each Pod resolves for itself.
    Name(&'a str),
}

impl<'a> Target<'a> {
    /// The target, with the API server's default (the Service port's own number) applied.
    pub(crate) fn of(port: &'a ServicePort) -> Self {
        match port.target_port.as_ref() {
            Some(IntOrString::Int(number)) if *number != 0 => Self::Number(*number),
            Some(IntOrString::String(name)) if !name.is_empty() => Self::Name(name),
            Some(IntOrString::Int(_) | IntOrString::String(_)) | None => Self::Number(port.port),
        }
    }

    /// The number on this Pod: by name and protocol, regular containers before sidecars.
    pub(crate) fn resolve(self, pod: &Pod, protocol: &str) -> Option<i32> {
        let name = match self {
            Self::Number(number) => return Some(number),
            Self::Name(name) => name,
        };
        let sidecars = pod.spec.init_containers.iter().filter(|init| is_sidecar(init));
        let ports = pod.spec.containers.iter().chain(sidecars);
        ports
            .flat_map(|container| &container.ports)
            .find(|port| {
                port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or(TCP) == protocol
            })
            .map(|port| port.container_port)
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "targetPort {number}"),
            Self::Name(name) => write!(f, "targetPort {name:?}"),
        }
    }
}

/// KEP-753: an init container that goes on running.
fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The protocol of a Service port.
pub(crate) fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or(TCP)
}

/// The number of each of the Service's ports on this Pod, in their order; none where it does not resolve.
pub(crate) fn port_numbers(service: &Service, pod: &Pod, skips: &mut Skips) -> Vec<Option<i32>> {
    let ports = service::ports(service).iter();
    ports
        .map(|port| {
            let target = Target::of(port);
            let number = target.resolve(pod, protocol(port));
            if number.is_none() {
                skips.add(SkipReason::PortUnresolved, || {
                    format!("{} has no {} port for {target}", describe(pod), protocol(port))
                });
            }
            number
        })
        .collect()
}

/// What an update of a Pod changed, as far as endpoints go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodChange {
    /// What Services publish of it may have changed: readiness, addresses, host name, phase, Node or
    /// termination.
    pub endpoint: bool,
    /// Which Services select it may have changed: its labels did.
    pub membership: bool,
}

impl PodChange {
    /// Compares two states of one Pod. A changed phase counts, which upstream overlooks: a Pod that
    /// fails without ever having been ready would linger.
    pub fn between(old: &Pod, new: &Pod) -> Self {
        if old.metadata.resource_version.is_some()
            && old.metadata.resource_version == new.metadata.resource_version
        {
            return Self::default();
        }
        Self {
            endpoint: old.is_ready() != new.is_ready()
                || old.is_finished() != new.is_finished()
                || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
                || old.status.pod_ips != new.status.pod_ips
                || old.status.pod_ip != new.status.pod_ip
                || old.spec.node_name != new.spec.node_name
                || old.metadata.uid != new.metadata.uid
                || old.spec.hostname != new.spec.hostname
                || old.spec.subdomain != new.spec.subdomain,
            membership: old.metadata.labels != new.metadata.labels,
        }
    }

    /// Whether no Service needs a look.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}
