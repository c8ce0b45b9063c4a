// SPDX-License-Identifier: Apache-2.0
//! API objects for tests: plain functions, adapted by struct update.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, Namespace, Node as ApiNode, NodeSpec, Pod, PodSpec, Service, ServicePort,
    ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use crate::lan::Node;

/// Labels, annotations or a selector.
pub fn mk_map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Metadata of a namespaced object.
pub fn mk_meta(namespace: &str, name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        labels: (!labels.is_empty()).then(|| mk_map(labels)),
        ..ObjectMeta::default()
    }
}

/// A namespace.
pub fn mk_namespace(name: &str) -> Namespace {
    Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// A named port of a Service; `target` is a number or the name of a container's port.
pub fn mk_service_port(name: &str, port: u16, target: &str, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: port.into(),
        protocol: Some(protocol.to_owned()),
        target_port: Some(
            target
                .parse()
                .map_or_else(|_| IntOrString::String(target.to_owned()), IntOrString::Int),
        ),
        ..ServicePort::default()
    }
}

/// A dual-stack ClusterIP Service; change `spec.type_` for the other types.
pub fn mk_service(namespace: &str, name: &str, selector: &[(&str, &str)], ports: &[ServicePort]) -> Service {
    Service {
        metadata: mk_meta(namespace, name, &[]),
        spec: Some(ServiceSpec {
            ports: Some(ports.to_vec()),
            selector: (!selector.is_empty()).then(|| mk_map(selector)),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The same Service as type LoadBalancer.
pub fn mk_load_balancer(
    namespace: &str,
    name: &str,
    selector: &[(&str, &str)],
    ports: &[ServicePort],
) -> Service {
    let service = mk_service(namespace, name, selector, ports);
    Service {
        spec: service.spec.map(|spec| ServiceSpec {
            type_: Some("LoadBalancer".to_owned()),
            ..spec
        }),
        ..service
    }
}

/// A named port of a container.
pub fn mk_container_port(name: &str, port: u16, protocol: &str) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port.into(),
        protocol: Some(protocol.to_owned()),
        ..ContainerPort::default()
    }
}

/// A Pod of one container, not bound to a node, with a grace period of 1 s.
pub fn mk_pod(namespace: &str, name: &str, labels: &[(&str, &str)], ports: &[ContainerPort]) -> Pod {
    Pod {
        metadata: mk_meta(namespace, name, labels),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".to_owned(),
                image: Some("berth-testpod".to_owned()),
                ports: (!ports.is_empty()).then(|| ports.to_vec()),
                ..Container::default()
            }],
            termination_grace_period_seconds: Some(1),
            automount_service_account_token: Some(false),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// A Pod bound to a node.
pub fn mk_pod_on(
    node: &str,
    namespace: &str,
    name: &str,
    labels: &[(&str, &str)],
    ports: &[ContainerPort],
) -> Pod {
    let pod = mk_pod(namespace, name, labels, ports);
    Pod {
        spec: pod.spec.map(|spec| PodSpec {
            node_name: Some(node.to_owned()),
            ..spec
        }),
        ..pod
    }
}

/// The Node object of a node of the LAN, without its status.
pub fn mk_node(node: &Node) -> ApiNode {
    let labels = mk_map(&[
        ("kubernetes.io/hostname", node.name()),
        ("kubernetes.io/os", "linux"),
        ("topology.kubernetes.io/zone", &node.zone()),
    ]);
    let ranges = node.pod_ranges();
    ApiNode {
        metadata: ObjectMeta {
            name: Some(node.name().to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: ranges.first().cloned(),
            pod_cidrs: Some(ranges.to_vec()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// A hand-written slice of ready endpoints for a Service; the family is that of the first address.
pub fn mk_slice(
    namespace: &str,
    name: &str,
    service: &str,
    addresses: &[&str],
    ports: &[(&str, u16, &str)],
) -> EndpointSlice {
    let ipv6 = addresses.first().is_some_and(|address| address.contains(':'));
    let endpoint = |address: &&str| Endpoint {
        addresses: vec![(*address).to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            ..EndpointConditions::default()
        }),
        ..Endpoint::default()
    };
    let port = |(name, port, protocol): &(&str, u16, &str)| EndpointPort {
        name: Some((*name).to_owned()),
        port: Some((*port).into()),
        protocol: Some((*protocol).to_owned()),
        ..EndpointPort::default()
    };
    EndpointSlice {
        metadata: mk_meta(namespace, name, &[("kubernetes.io/service-name", service)]),
        address_type: if ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: Some(addresses.iter().map(endpoint).collect()),
        ports: Some(ports.iter().map(port).collect()),
    }
}
