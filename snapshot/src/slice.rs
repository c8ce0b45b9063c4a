// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices to model endpoints.

use std::collections::BTreeMap;
use std::fmt;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, NodeName, Port, PortName, Protocol, ServiceKey,
};
use k8s_openapi::api::discovery::v1 as api;

use crate::intern::Interner;
use crate::parse_ip;

/// The label that ties a slice to its Service (discovery/v1 `LabelServiceName`).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Why a slice, or a part of it, does not reach the data path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SliceSkip {
    /// No name, or no label that names its Service.
    NoService,
    /// Address type FQDN has no data path (deprecated in the API).
    Fqdn,
    /// A port without name or number: "all ports" is not supported, as in kube-proxy.
    OpenPort,
    /// A port with an unknown protocol or a number out of 1 to 65535.
    MalformedPort(String),
    /// An endpoint whose address is no IP address of the slice's family.
    MalformedAddress(String),
}

impl fmt::Display for SliceSkip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoService => write!(f, "label {SERVICE_NAME_LABEL} is missing"),
            Self::Fqdn => f.write_str("addressType FQDN has no data path"),
            Self::OpenPort => f.write_str("a port without a name or number is ignored"),
            Self::MalformedPort(text) => write!(f, "ports: {text}"),
            Self::MalformedAddress(text) => {
                write!(f, "endpoints[].addresses: {text:?} is no IP address of this type")
            }
        }
    }
}

/// The endpoints of one slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoints {
    /// The Service it belongs to.
    pub service: ServiceKey,
    /// Its endpoints by port.
    pub ports: BTreeMap<EndpointPort, Vec<Endpoint>>,
    /// What was left out, and why.
    pub skipped: Vec<SliceSkip>,
}

/// Converts a slice. What many have in common, such as names of Nodes, comes from `texts`.
///
/// Absent conditions mean ready, serving, not terminating; only the first address of an endpoint counts
/// (the API: consumers need not use more); a port without a protocol is TCP.
///
/// # Errors
/// Where nothing of the slice can be used at all.
pub fn convert_slice(
    object: &api::EndpointSlice,
    texts: &mut Interner<str>,
) -> Result<SliceEndpoints, SliceSkip> {
    let service = service_of(object).ok_or(SliceSkip::NoService)?;
    if object.address_type == "FQDN" {
        return Err(SliceSkip::Fqdn);
    }
    let mut skipped = Vec::new();
    let ports = slice_ports(object, texts, &mut skipped);
    let endpoints: Vec<_> = object
        .endpoints
        .iter()
        .flatten()
        .filter_map(|endpoint| convert_endpoint(endpoint, &object.address_type, texts, &mut skipped))
        .collect();
    let mut by_port: BTreeMap<EndpointPort, Vec<Endpoint>> = BTreeMap::new();
    for (key, number) in ports {
        let of_port = by_port.entry(key).or_default();
        of_port.extend(endpoints.iter().map(|endpoint| Endpoint {
            port: number,
            ..endpoint.clone()
        }));
    }
    Ok(SliceEndpoints {
        service,
        ports: by_port,
        skipped,
    })
}

/// The Service a slice belongs to, by its label.
pub(crate) fn service_of(object: &api::EndpointSlice) -> Option<ServiceKey> {
    let namespace = object.metadata.namespace.as_deref()?;
    let name = object
        .metadata
        .labels
        .as_ref()?
        .get(SERVICE_NAME_LABEL)
        .filter(|name| !name.is_empty())?;
    Some(ServiceKey::new(namespace, name.as_str()))
}

fn slice_ports(
    object: &api::EndpointSlice,
    texts: &mut Interner<str>,
    skipped: &mut Vec<SliceSkip>,
) -> Vec<(EndpointPort, Port)> {
    let mut found = Vec::new();
    for port in object.ports.iter().flatten() {
        let (Some(name), Some(number)) = (&port.name, port.port) else {
            skipped.push(SliceSkip::OpenPort);
            continue;
        };
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>();
        match (u16::try_from(number).ok().and_then(Port::new), protocol) {
            (Some(number), Ok(protocol)) => {
                found.push((
                    EndpointPort {
                        name: PortName::new(texts.get(name.as_str())),
                        protocol,
                    },
                    number,
                ));
            }
            (None, _) => skipped.push(SliceSkip::MalformedPort(format!("{number} is no port number"))),
            (_, Err(error)) => skipped.push(SliceSkip::MalformedPort(error.to_string())),
        }
    }
    found
}

/// The endpoint with a port to be replaced by each of the slice's.
fn convert_endpoint(
    object: &api::Endpoint,
    address_type: &str,
    texts: &mut Interner<str>,
    skipped: &mut Vec<SliceSkip>,
) -> Option<Endpoint> {
    let text = object.addresses.first()?;
    let ip = parse_ip(text).filter(|ip| ip.is_ipv4() == (address_type == "IPv4"));
    let Some(ip) = ip else {
        skipped.push(SliceSkip::MalformedAddress(text.clone()));
        return None;
    };
    let conditions = object.conditions.as_ref();
    let hints = object.hints.as_ref();
    Some(Endpoint {
        ip,
        port: Port::MIN,
        conditions: Conditions {
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            serving: conditions.and_then(|c| c.serving.or(c.ready)).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        },
        node: object
            .node_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .map(|name| NodeName::new(texts.get(name))),
        zone: object
            .zone
            .as_deref()
            .filter(|zone| !zone.is_empty())
            .map(|zone| texts.get(zone)),
        hints: EndpointHints {
            zones: hints
                .into_iter()
                .flat_map(|h| h.for_zones.iter().flatten())
                .map(|z| texts.get(z.name.as_str()))
                .collect(),
            nodes: hints
                .into_iter()
                .flat_map(|h| h.for_nodes.iter().flatten())
                .map(|n| NodeName::new(texts.get(n.name.as_str())))
                .collect(),
        },
    })
}

#[cfg(test)]
mod tests;
