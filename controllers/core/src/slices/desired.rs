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
    let mut ports = ResolvedPorts::of(service);
    let publish = service::publishes_not_ready(service);
    for pod in all {
        if let Some(reason) = pods::exclusion(pod, true) {
            skips.add(reason, || pods::describe(pod));
            continue;
        }
        let node_name = pod.node_name().unwrap_or_default();
        let node = nodes.get(node_name);
        let placed = node.is_some() || publish;
        if !placed {
            skips.add(SkipReason::NodeUnknown, || {
                format!("{} on node {node_name:?}", pods::describe(pod))
            });
        }
        let (key, ports) = ports.on(pod, skips);
        for (family, groups) in &mut groups {
            // Registered even without an endpoint: a group that Pods resolve to keeps its empty slice.
            if !groups.contains_key(key) {
                let (ports, endpoints) = (ports.clone(), Vec::new());
                groups.insert(key.clone(), Group { ports, endpoints });
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
        node_name: pod.node_name().map(str::to_owned),
        target_ref: Some(pods::target_ref(pod)),
        zone: node.and_then(|node| node.zone.as_deref()).map(str::to_owned),
        ..Endpoint::default()
    })
}

/// The port lists that a Service's ports resolve to, each built once.
struct ResolvedPorts<'a> {
    service: &'a Service,
    /// The numbers, where they are the same on every Pod.
    fixed: Option<Vec<Option<i32>>>,
    by_numbers: BTreeMap<Vec<Option<i32>>, (PortsKey, Vec<EndpointPort>)>,
}

impl<'a> ResolvedPorts<'a> {
    fn of(service: &'a Service) -> Self {
        let targets = service::ports(service).iter().map(Target::of);
        let numbers = targets.map(|target| match target {
            Target::Number(number) => Some(Some(number)),
            Target::Name(_) => None,
        });
        Self {
            service,
            fixed: numbers.collect(),
            by_numbers: BTreeMap::new(),
        }
    }

    fn on(&mut self, pod: &Pod, skips: &mut Skips) -> &(PortsKey, Vec<EndpointPort>) {
        let service = self.service;
        let numbers = match &self.fixed {
            Some(numbers) => numbers.clone(),
            None => pods::port_numbers(service, pod, skips),
        };
        self.by_numbers.entry(numbers).or_insert_with_key(|numbers| {
            let ports = endpoint_ports(service, numbers);
            (PortsKey::of(&ports), ports)
        })
    }
}

fn endpoint_ports(service: &Service, numbers: &[Option<i32>]) -> Vec<EndpointPort> {
    let ports = service::ports(service).iter().zip(numbers);
    ports
        .filter_map(|(port, number)| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some((*number)?),
                protocol: Some(pods::protocol(port).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}
