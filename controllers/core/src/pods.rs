// SPDX-License-Identifier: Apache-2.0
//! What the planners ask of a Pod: is it an endpoint, of which address, port and host name.

use std::fmt;
use std::net::IpAddr;

use berth_model::IpFamily;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::service;
use crate::skips::{SkipReason, Skips};

/// The protocol where none is written (core/v1 default).
pub(crate) const TCP: &str = "TCP";

/// Why a Pod is no endpoint, if it is none. Terminating Pods stay where `with_terminating` is set.
pub(crate) fn exclusion(pod: &Pod, with_terminating: bool) -> Option<SkipReason> {
    if pod.is_finished() {
        return Some(SkipReason::PodFinished);
    }
    if !pod.has_address() {
        return Some(SkipReason::PodWithoutAddress);
    }
    (pod.is_terminating() && !with_terminating).then_some(SkipReason::PodTerminating)
}

/// The Pod's addresses of a family, canonical, in the order of its status.
pub(crate) fn addresses(pod: &Pod, family: IpFamily) -> impl Iterator<Item = IpAddr> {
    pod.addresses().filter(move |addr| IpFamily::of(*addr) == family)
}

/// The host name under which the Pod's address is published: only where its subdomain names the Service.
pub(crate) fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let hostname = pod.hostname()?;
    let of_service = pod.subdomain() == service.metadata.name.as_deref()
        && **pod.namespace() == *service.metadata.namespace.as_deref().unwrap_or_default();
    of_service.then(|| hostname.to_owned())
}

/// The reference that endpoints carry to their Pod: no API version, no resource version.
pub(crate) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace().to_string()),
        name: Some(pod.name().to_string()),
        uid: pod.uid().map(|uid| uid.to_string()),
        ..ObjectReference::default()
    }
}

/// `namespace/name`, for messages.
pub(crate) fn describe(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
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
        let mut ports = pod.named_ports().iter();
        let found = ports.find(|port| *port.name == *name && *port.protocol == *protocol);
        found.map(|port| port.number)
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
        if old.version().is_some() && old.version() == new.version() {
            return Self::default();
        }
        Self {
            endpoint: old.is_ready() != new.is_ready()
                || old.is_finished() != new.is_finished()
                || old.deleted() != new.deleted()
                || !old.has_addresses_of(new)
                || old.node_name() != new.node_name()
                || old.uid() != new.uid()
                || old.hostname() != new.hostname()
                || old.subdomain() != new.subdomain(),
            membership: old.labels() != new.labels(),
        }
    }

    /// Whether no Service needs a look.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}
