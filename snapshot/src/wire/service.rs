// SPDX-License-Identifier: Apache-2.0
//! Services, complete (field numbers of `core/v1`, Kubernetes 1.37).

use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerIngress, LoadBalancerStatus, PortStatus, Service, ServicePort, ServiceSpec,
    ServiceStatus, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::field::{Fields, Malformed};
use super::meta::{condition, object_meta, pair, push};
use super::{Named, Wire};

impl Wire for Service {
    type Shared = ();

    fn read(raw: &[u8], _named: &Named, (): &mut ()) -> Result<Self, Malformed> {
        let mut service = Self::default();
        for field in Fields::of(raw) {
            let field = field?;
            match field.number {
                1 => service.metadata = object_meta(field.bytes()?)?,
                2 => service.spec = Some(spec(field.bytes()?)?),
                3 => service.status = Some(status(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(service)
    }
}

fn spec(bytes: &[u8]) -> Result<ServiceSpec, Malformed> {
    let mut spec = ServiceSpec::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => push(&mut spec.ports, port(field.bytes()?)?),
            2 => pair(&mut spec.selector, field)?,
            3 => spec.cluster_ip = field.filled()?,
            4 => spec.type_ = field.filled()?,
            5 => push(&mut spec.external_ips, field.string()?),
            7 => spec.session_affinity = field.filled()?,
            8 => spec.load_balancer_ip = field.filled()?,
            9 => push(&mut spec.load_balancer_source_ranges, field.string()?),
            10 => spec.external_name = field.filled()?,
            11 => spec.external_traffic_policy = field.filled()?,
            12 => spec.health_check_node_port = Some(field.int32()?).filter(|port| *port != 0),
            13 => spec.publish_not_ready_addresses = Some(field.bool()?).filter(|publish| *publish),
            14 => spec.session_affinity_config = Some(affinity(field.bytes()?)?),
            17 => spec.ip_family_policy = field.given()?,
            18 => push(&mut spec.cluster_ips, field.string()?),
            19 => push(&mut spec.ip_families, field.string()?),
            20 => spec.allocate_load_balancer_node_ports = Some(field.bool()?),
            21 => spec.load_balancer_class = field.given()?,
            22 => spec.internal_traffic_policy = field.given()?,
            23 => spec.traffic_distribution = field.given()?,
            _ => {}
        }
    }
    Ok(spec)
}

fn port(bytes: &[u8]) -> Result<ServicePort, Malformed> {
    let mut port = ServicePort::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => port.name = field.filled()?,
            2 => port.protocol = field.filled()?,
            3 => port.port = field.int32()?,
            4 => port.target_port = Some(int_or_string(field.bytes()?)?),
            5 => port.node_port = Some(field.int32()?).filter(|port| *port != 0),
            6 => port.app_protocol = field.given()?,
            _ => {}
        }
    }
    Ok(port)
}

/// `type` 1 means that the text counts (`util/intstr`).
fn int_or_string(bytes: &[u8]) -> Result<IntOrString, Malformed> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => is_text = field.int64()? == 1,
            2 => number = field.int32()?,
            3 => text = field.text()?,
            _ => {}
        }
    }
    Ok(if is_text {
        IntOrString::String(text.to_owned())
    } else {
        IntOrString::Int(number)
    })
}

fn affinity(bytes: &[u8]) -> Result<SessionAffinityConfig, Malformed> {
    let mut config = SessionAffinityConfig::default();
    for field in Fields::of(bytes) {
        let field = field?;
        if field.number == 1 {
            let mut client = ClientIPConfig::default();
            for field in Fields::of(field.bytes()?) {
                let field = field?;
                if field.number == 1 {
                    client.timeout_seconds = Some(field.int32()?);
                }
            }
            config.client_ip = Some(client);
        }
    }
    Ok(config)
}

fn status(bytes: &[u8]) -> Result<ServiceStatus, Malformed> {
    let mut status = ServiceStatus::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => {
                let mut balancer = LoadBalancerStatus::default();
                for field in Fields::of(field.bytes()?) {
                    let field = field?;
                    if field.number == 1 {
                        push(&mut balancer.ingress, ingress(field.bytes()?)?);
                    }
                }
                status.load_balancer = Some(balancer);
            }
            2 => push(&mut status.conditions, condition(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(status)
}

fn ingress(bytes: &[u8]) -> Result<LoadBalancerIngress, Malformed> {
    let mut ingress = LoadBalancerIngress::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => ingress.ip = field.filled()?,
            2 => ingress.hostname = field.filled()?,
            3 => ingress.ip_mode = field.given()?,
            4 => push(&mut ingress.ports, port_status(field.bytes()?)?),
            _ => {}
        }
    }
    Ok(ingress)
}

fn port_status(bytes: &[u8]) -> Result<PortStatus, Malformed> {
    let mut status = PortStatus::default();
    for field in Fields::of(bytes) {
        let field = field?;
        match field.number {
            1 => status.port = field.int32()?,
            2 => status.protocol = field.string()?,
            3 => status.error = field.given()?,
            _ => {}
        }
    }
    Ok(status)
}
