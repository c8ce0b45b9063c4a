// SPDX-License-Identifier: Apache-2.0
//! Service objects to model Services.

use std::fmt;
use std::net::IpAddr;

use berth_model::{
    IpMode, LoadBalancerIngress, Port, PortName, Protocol, Service, ServiceKey, ServiceKind, ServicePort,
    SessionAffinity, TrafficPolicy,
};
use k8s_openapi::api::core::v1 as api;

/// Why a part of a Service does not reach the data path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// `spec` or `metadata` lacks what every stored object has.
    Incomplete(&'static str),
    /// A value in the spec or status that is no IP address.
    MalformedIp {
        /// The field.
        field: &'static str,
        /// What stands there.
        value: String,
    },
    /// A source range that is no CIDR: it admits nobody.
    MalformedSourceRange(String),
    /// A port number out of 1 to 65535, or an unknown protocol.
    MalformedPort(String),
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete(field) => write!(f, "{field} is missing"),
            Self::MalformedIp { field, value } => write!(f, "{field}: {value:?} is no IP address"),
            Self::MalformedSourceRange(value) => {
                write!(f, "spec.loadBalancerSourceRanges: {value:?} is no CIDR")
            }
            Self::MalformedPort(value) => write!(f, "spec.ports: {value}"),
        }
    }
}

/// The outcome of a conversion. Bad values are skipped, never fatal to the rest of the Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The Service, or none where it has no data path (headless, ExternalName, no address yet).
    pub service: Option<Service>,
    /// What was left out, and why.
    pub skipped: Vec<Skip>,
}

/// Reads an address as the API stores them: canonical today, but objects older than
/// StrictIPCIDRValidation may hold leading zeros (`010.0.0.1`), which mean decimal.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *octet = if digits.is_empty() {
            0
        } else {
            digits.parse().ok()?
        };
    }
    parts.next().is_none().then(|| IpAddr::from(octets))
}

/// Converts a Service. Headless and ExternalName Services have no data path, even if a ClusterIP is still set.
pub fn convert_service(object: &api::Service) -> Converted {
    let mut skipped = Vec::new();
    let none = |skip: Skip| Converted {
        service: None,
        skipped: vec![skip],
    };
    let (Some(namespace), Some(name)) = (&object.metadata.namespace, &object.metadata.name) else {
        return none(Skip::Incomplete("metadata.name"));
    };
    let Some(spec) = &object.spec else {
        return none(Skip::Incomplete("spec"));
    };
    let kind = match spec.type_.as_deref() {
        Some("ExternalName") => {
            return Converted {
                service: None,
                skipped,
            };
        }
        Some("NodePort") => ServiceKind::NodePort,
        Some("LoadBalancer") => ServiceKind::LoadBalancer,
        Some(_) | None => ServiceKind::ClusterIp,
    };
    let cluster_ips = cluster_ips(spec, &mut skipped);
    if cluster_ips.is_empty() {
        return Converted {
            service: None,
            skipped,
        };
    }
    let service = Service {
        key: ServiceKey::new(namespace.as_str(), name.as_str()),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        created: object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
        kind,
        cluster_ips,
        external_ips: ips(
            "spec.externalIPs",
            spec.external_ips.iter().flatten(),
            &mut skipped,
        ),
        load_balancer: ingress(object, kind, &mut skipped),
        load_balancer_class: spec.load_balancer_class.clone(),
        ports: ports(spec, kind, &mut skipped),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        affinity: affinity(spec),
        source_ranges: source_ranges(spec, &mut skipped),
        health_check_node_port: spec.health_check_node_port.and_then(port_number),
    };
    Converted {
        service: Some(service),
        skipped,
    }
}

fn cluster_ips(spec: &api::ServiceSpec, skipped: &mut Vec<Skip>) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten();
    let single = spec
        .cluster_ip
        .iter()
        .filter(|_| spec.cluster_ips.as_ref().is_none_or(Vec::is_empty));
    let texts = listed
        .chain(single)
        .filter(|text| !text.is_empty() && *text != "None");
    ips("spec.clusterIPs", texts, skipped)
}

fn ips<'a>(
    field: &'static str,
    texts: impl Iterator<Item = &'a String>,
    skipped: &mut Vec<Skip>,
) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for text in texts {
        match parse_ip(text) {
            Some(ip) => found.push(ip),
            None => skipped.push(Skip::MalformedIp {
                field,
                value: text.clone(),
            }),
        }
    }
    found
}

fn ingress(object: &api::Service, kind: ServiceKind, skipped: &mut Vec<Skip>) -> Vec<LoadBalancerIngress> {
    if kind != ServiceKind::LoadBalancer {
        return Vec::new();
    }
    let entries = object
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten();
    let mut found = Vec::new();
    for entry in entries {
        let Some(text) = entry.ip.as_ref().filter(|text| !text.is_empty()) else {
            continue;
        };
        let mode = match entry.ip_mode.as_deref() {
            Some("Proxy") => IpMode::Proxy,
            Some(_) | None => IpMode::Vip,
        };
        match parse_ip(text) {
            Some(ip) => found.push(LoadBalancerIngress { ip, mode }),
            None => skipped.push(Skip::MalformedIp {
                field: "status.loadBalancer.ingress[].ip",
                value: text.clone(),
            }),
        }
    }
    found
}

fn port_number(number: i32) -> Option<Port> {
    u16::try_from(number).ok().and_then(Port::new)
}

fn ports(spec: &api::ServiceSpec, kind: ServiceKind, skipped: &mut Vec<Skip>) -> Vec<ServicePort> {
    let mut found = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>();
        match (port_number(port.port), protocol) {
            (Some(number), Ok(protocol)) => found.push(ServicePort {
                name: PortName::new(port.name.as_deref().unwrap_or_default()),
                protocol,
                port: number,
                node_port: port
                    .node_port
                    .filter(|_| kind != ServiceKind::ClusterIp)
                    .and_then(port_number),
            }),
            (None, _) => skipped.push(Skip::MalformedPort(format!("{} is no port number", port.port))),
            (_, Err(error)) => skipped.push(Skip::MalformedPort(error.to_string())),
        }
    }
    found
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    match text {
        Some("Local") => TrafficPolicy::Local,
        Some(_) | None => TrafficPolicy::Cluster,
    }
}

fn affinity(spec: &api::ServiceSpec) -> SessionAffinity {
    /// The API's own default, three hours (core/v1 `DefaultClientIPServiceAffinitySeconds`).
    const DEFAULT_SECONDS: u32 = 10_800;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return SessionAffinity::None;
    }
    let configured = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
        .and_then(|seconds| u32::try_from(seconds).ok());
    SessionAffinity::ClientIp {
        timeout_seconds: configured.unwrap_or(DEFAULT_SECONDS),
    }
}

/// An unreadable range admits nobody, rather than being left out of the question whether there are any.
fn source_ranges(spec: &api::ServiceSpec, skipped: &mut Vec<Skip>) -> Option<Vec<ipnet::IpNet>> {
    let texts = spec
        .load_balancer_source_ranges
        .as_ref()
        .filter(|texts| !texts.is_empty())?;
    let mut found = Vec::new();
    for text in texts {
        match text.trim().parse::<ipnet::IpNet>() {
            Ok(net) => found.push(net.trunc()),
            Err(_) => skipped.push(Skip::MalformedSourceRange(text.clone())),
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests;
