// SPDX-License-Identifier: Apache-2.0
//! A Service, short: one with a cluster IP or without, and endpoints. One that asks for more, of a load
//! balancer for instance, is kept as it is.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::{Address, Port, owned};
use super::meta::{Meta, Pairs, pack_pairs, unpack_pairs};
use super::{Packed, Texts};

/// A Service.
#[derive(Clone, Debug)]
pub(in crate::cache) struct PackedService {
    meta: Meta,
    spec: Option<Spec>,
    status: Status,
}

#[derive(Clone, Debug)]
struct Spec {
    cluster_ip: Option<Address>,
    cluster_ips: Option<Box<[Address]>>,
    external_traffic_policy: Option<Arc<str>>,
    internal_traffic_policy: Option<Arc<str>>,
    ip_families: Option<Box<[Arc<str>]>>,
    ip_family_policy: Option<Arc<str>>,
    ports: Option<Box<[PackedPort]>>,
    publish_not_ready_addresses: Option<bool>,
    selector: Pairs,
    session_affinity: Option<Arc<str>>,
    traffic_distribution: Option<Arc<str>>,
    type_: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
struct PackedPort {
    port: Port,
    node_port: Option<i32>,
    target: TargetPort,
}

#[derive(Clone, Debug)]
enum TargetPort {
    Absent,
    Number(i32),
    Name(Arc<str>),
}

/// That of a Service which no load balancer says anything of.
#[derive(Clone, Copy, Debug)]
enum Status {
    Absent,
    Empty,
    NoIngress,
}

impl Packed for PackedService {
    type Object = Service;

    fn pack(service: &Service, texts: &mut Texts) -> Option<Self> {
        let Service {
            metadata,
            spec,
            status,
        } = service;
        let spec = match spec {
            Some(spec) => Some(Spec::pack(spec, texts)?),
            None => None,
        };
        Some(Self {
            meta: Meta::pack(metadata, texts)?,
            spec,
            status: Status::pack(status.as_ref())?,
        })
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn unpack(&self) -> Service {
        Service {
            metadata: self.meta.unpack(),
            spec: self.spec.as_ref().map(Spec::unpack),
            status: self.status.unpack(),
        }
    }
}

impl Spec {
    fn pack(spec: &ServiceSpec, texts: &mut Texts) -> Option<Self> {
        let ServiceSpec {
            allocate_load_balancer_node_ports: None,
            cluster_ip,
            cluster_ips,
            external_ips: None,
            external_name: None,
            external_traffic_policy,
            health_check_node_port: None,
            internal_traffic_policy,
            ip_families,
            ip_family_policy,
            load_balancer_class: None,
            load_balancer_ip: None,
            load_balancer_source_ranges: None,
            ports,
            publish_not_ready_addresses,
            selector,
            session_affinity,
            session_affinity_config: None,
            traffic_distribution,
            type_,
        } = spec
        else {
            return None;
        };
        let mut text = |text: &Option<String>| text.as_deref().map(|text| texts.get(text));
        let external_traffic_policy = text(external_traffic_policy);
        let internal_traffic_policy = text(internal_traffic_policy);
        let ip_family_policy = text(ip_family_policy);
        let session_affinity = text(session_affinity);
        let traffic_distribution = text(traffic_distribution);
        let type_ = text(type_);
        let families = ip_families.as_ref();
        let ips = cluster_ips.as_ref();
        Some(Self {
            cluster_ip: cluster_ip.as_deref().map(Address::of),
            cluster_ips: ips.map(|ips| ips.iter().map(|ip| Address::of(ip)).collect()),
            external_traffic_policy,
            internal_traffic_policy,
            ip_families: families.map(|all| all.iter().map(|family| texts.get(&**family)).collect()),
            ip_family_policy,
            ports: ports.as_ref().map(|ports| {
                let ports = ports.iter();
                ports.map(|port| PackedPort::pack(port, texts)).collect()
            }),
            publish_not_ready_addresses: *publish_not_ready_addresses,
            selector: pack_pairs(selector.as_ref(), texts),
            session_affinity,
            traffic_distribution,
            type_,
        })
    }

    fn unpack(&self) -> ServiceSpec {
        let families = self.ip_families.as_ref();
        let ips = self.cluster_ips.as_ref();
        let ports = self.ports.as_ref();
        ServiceSpec {
            cluster_ip: self.cluster_ip.as_ref().map(Address::text),
            cluster_ips: ips.map(|ips| ips.iter().map(Address::text).collect()),
            external_traffic_policy: owned(&self.external_traffic_policy),
            internal_traffic_policy: owned(&self.internal_traffic_policy),
            ip_families: families.map(|all| all.iter().map(ToString::to_string).collect()),
            ip_family_policy: owned(&self.ip_family_policy),
            ports: ports.map(|ports| ports.iter().map(PackedPort::unpack).collect()),
            publish_not_ready_addresses: self.publish_not_ready_addresses,
            selector: unpack_pairs(&self.selector),
            session_affinity: owned(&self.session_affinity),
            traffic_distribution: owned(&self.traffic_distribution),
            type_: owned(&self.type_),
            ..ServiceSpec::default()
        }
    }
}

impl PackedPort {
    fn pack(port: &ServicePort, texts: &mut Texts) -> Self {
        let ServicePort {
            app_protocol,
            name,
            node_port,
            port,
            protocol,
            target_port,
        } = port;
        Self {
            target: match target_port {
                None => TargetPort::Absent,
                Some(IntOrString::Int(number)) => TargetPort::Number(*number),
                Some(IntOrString::String(name)) => TargetPort::Name(texts.get(&**name)),
            },
            port: Port::pack(
                name.as_ref(),
                protocol.as_ref(),
                app_protocol.as_ref(),
                Some(*port),
                texts,
            ),
            node_port: *node_port,
        }
    }

    fn unpack(&self) -> ServicePort {
        let [name, protocol, app_protocol] = self.port.texts();
        ServicePort {
            app_protocol,
            name,
            node_port: self.node_port,
            // Always there: it was packed from a number.
            port: self.port.number.unwrap_or_default(),
            protocol,
            target_port: match &self.target {
                TargetPort::Absent => None,
                TargetPort::Number(number) => Some(IntOrString::Int(*number)),
                TargetPort::Name(name) => Some(IntOrString::String(name.to_string())),
            },
        }
    }
}

impl Status {
    fn pack(status: Option<&ServiceStatus>) -> Option<Self> {
        match status {
            None => Some(Self::Absent),
            Some(ServiceStatus {
                conditions: None,
                load_balancer: None,
            }) => Some(Self::Empty),
            Some(ServiceStatus {
                conditions: None,
                load_balancer: Some(LoadBalancerStatus { ingress: None }),
            }) => Some(Self::NoIngress),
            Some(_) => None,
        }
    }

    fn unpack(self) -> Option<ServiceStatus> {
        let of = |load_balancer| ServiceStatus {
            conditions: None,
            load_balancer,
        };
        match self {
            Self::Absent => None,
            Self::Empty => Some(of(None)),
            Self::NoIngress => Some(of(Some(LoadBalancerStatus::default()))),
        }
    }
}
