// SPDX-License-Identifier: Apache-2.0
//! Pods to endpoints, grouped by the ports they resolve to.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::IpFamily;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

use super::{NodeFacts, Nodes, PortsKey};
use crate::pods::{self, Target};
use crate::service;
use crate::skips::{SkipReason, Skips};

/// Endpoints that share one resolved port list, in no particular order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Group {
    /// The ports, in the order of the Service.
    pub(crate) ports: Vec<EndpointPort>,
    /// The endpoints; possibly none, which still keeps an empty slice of these ports.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// The groups of one family.
pub(crate) type Groups = BTreeMap<PortsKey, Group>;

/// The wanted endpoints of each family.
pub(crate) fn desired(
    service: &Service,
    all: &[Arc<Pod>],
    nodes: &Nodes,
    families: &[IpFamily],
    skips: &mut Skips,
) -> BTreeMap<IpFamily, Groups> {
    let mut groups: BTreeMap<IpFamily, Groups> =
        families.iter().map(|family| (*family, Groups::new())).collect();
    let mut common = CommonPorts::of(service);
    let publish = service::publishes_not_ready(service);
    for pod in all {
        if let Some(reason) = pods::exclusion(pod, true) {
            skips.add(reason, || pods::describe(pod));
            continue;
        }
        let node_name = pod.spec.node_name.as_deref().unwrap_or_default();
        let node = nodes.get(node_name);
        let placed = node.is_some() || publish;
        if !placed {
            skips.add(SkipReason::NodeUnknown, || {
                format!("{} on node {node_name:?}", pods::describe(pod))
            });
        }
        let (key, ports) = common.ports_of(service, pod, skips);
        for (family, groups) in &mut groups {
            // Registered even without an endpoint: a group that Pods resolve to keeps its empty slice.
            if !groups.contains_key(key) {
                let ports = ports.to_vec();
                groups.insert(
                    key.clone(),
                    Group {
                        ports,
                        endpoints: Vec::new(),
                    },
                );
            }
            let Some(group) = groups.get_mut(key).filter(|_| placed) else {
                continue;
            };
            match endpoint(pod, node, service, *family, publish) {
                Some(endpoint) => group.endpoints.push(endpoint),
                None => skips.add(SkipReason::PodWithoutFamily, || {
                    format!("{} has no {family} address", pods::describe(pod))
                }),
            }
        }
    }
    groups
}

fn endpoint(
    pod: &Pod,
    node: Option<&NodeFacts>,
    service: &Service,
    family: IpFamily,
    publish: bool,
) -> Option<Endpoint> {
    let addresses: Vec<String> = pods::addresses(pod, family)
        .map(|addr| addr.to_string())
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pod.is_ready(), pod.is_terminating());
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: pods::hostname(pod, service),
        node_name: pod.spec.node_name.clone().filter(|name| !name.is_empty()),
        target_ref: Some(pods::target_ref(pod)),
        zone: node.and_then(|node| node.zone.as_deref()).map(str::to_owned),
        ..Endpoint::default()
    })
}

/// The ports a Service resolves to: on the Pod last asked about, or on every Pod alike.
struct CommonPorts {
    key: PortsKey,
    ports: Vec<EndpointPort>,
    same_everywhere: bool,
}

impl CommonPorts {
    fn of(service: &Service) -> Self {
        let same_everywhere = service::ports(service)
            .iter()
            .all(|port| matches!(Target::of(port), Target::Number(_)));
        let ports = if same_everywhere {
            resolve(service, &Pod::default(), &mut Skips::default())
        } else {
            Vec::new()
        };
        Self {
            key: PortsKey::of(&ports),
            ports,
            same_everywhere,
        }
    }

    fn ports_of(&mut self, service: &Service, pod: &Pod, skips: &mut Skips) -> (&PortsKey, &[EndpointPort]) {
        if !self.same_everywhere {
            let ports = resolve(service, pod, skips);
            if ports != self.ports {
                self.key = PortsKey::of(&ports);
                self.ports = ports;
            }
        }
        (&self.key, &self.ports)
    }
}

fn resolve(service: &Service, pod: &Pod, skips: &mut Skips) -> Vec<EndpointPort> {
    let mut resolved = Vec::new();
    for port in service::ports(service) {
        let protocol = pods::protocol(port);
        let Some(number) = Target::of(port).resolve(pod, protocol) else {
            skips.add(SkipReason::PortUnresolved, || {
                let name = port.target_port.as_ref();
                format!("{} has no {protocol} port {name:?}", pods::describe(pod))
            });
            continue;
        };
        resolved.push(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol.to_owned()),
            app_protocol: port.app_protocol.clone(),
        });
    }
    resolved
}
