// SPDX-License-Identifier: Apache-2.0
//! What a cluster would have filled in, so that YAML that was never applied can be planned with.
//!
//! Stands in for the API server (defaults, ClusterIPs, node ports), the scheduler and the kubelet. Every
//! assumption is listed; values that the files give are never changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context;
use berth_allocator::{AddressSet, Item, NodePorts, Pool, PoolDefinition, PoolName, RangeSet, Request};
use berth_model::{IpFamily, IpRange, Port, ServiceKey};
use berth_snapshot::pod::{PodCondition, PodManifest};
use k8s_openapi::api::core::v1::{Node, PodIP, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::time::Duration;

use super::input::Objects;

/// Where assumed addresses and ports come from.
pub(crate) struct Assumer {
    service_addresses: Pool,
    pod_addresses: Pool,
    node_ports: Pool<Port>,
    notes: Vec<String>,
}

/// The API server's default `--service-node-port-range`.
const NODE_PORTS: &str = "30000-32767";

impl Assumer {
    /// An assumer that hands out from these networks.
    ///
    /// # Errors
    /// Names the network that cannot be read.
    pub(crate) fn new(service_cidrs: &[String], pod_cidrs: &[String]) -> anyhow::Result<Self> {
        Ok(Self {
            service_addresses: pool("--service-cidr", service_cidrs)?,
            pod_addresses: pool("--pod-cidr", pod_cidrs)?,
            node_ports: pool_of(
                "--service-node-port-range",
                [NODE_PORTS.parse()?].into_iter().collect(),
            ),
            notes: Vec::new(),
        })
    }

    /// Fills in what is missing and returns the assumptions made, in the order of the objects.
    pub(crate) fn complete(mut self, objects: &mut Objects) -> Vec<String> {
        for service in &mut objects.services {
            default_namespace(&mut service.metadata);
            self.note_taken(service);
        }
        objects
            .endpoints
            .iter_mut()
            .for_each(|endpoints| default_namespace(&mut endpoints.metadata));
        for service in &mut objects.services {
            self.complete_service(service);
        }
        let nodes: Vec<String> = objects
            .nodes
            .iter()
            .filter_map(|node| node.metadata.name.clone())
            .collect();
        for (index, pod) in objects.pods.iter_mut().enumerate() {
            default_namespace(&mut pod.metadata);
            self.complete_pod(pod, &nodes, index);
        }
        self.complete_nodes(objects);
        self.notes
    }

    /// Marks what the files give as taken, before anything is assumed.
    fn note_taken(&mut self, service: &Service) {
        let Some(spec) = &service.spec else { return };
        let owner = owner(&service.metadata);
        for text in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip) {
            if let Ok(ip) = text.parse() {
                // Outside the assumed network or given twice: nothing to keep free.
                let _ = self.service_addresses.allocate_this(ip, &at_once(&owner));
            }
        }
        let given = spec.ports.iter().flatten().filter_map(|port| port.node_port);
        for port in given.filter_map(|number| Port::new(u16::try_from(number).ok()?)) {
            // As with addresses.
            let _ = self.node_ports.allocate_this(port, &at_once(&owner));
        }
    }

    fn complete_service(&mut self, service: &mut Service) {
        let owner = owner(&service.metadata);
        let spec = service.spec.get_or_insert_default();
        let kind = spec.type_.get_or_insert_with(|| "ClusterIP".to_owned()).clone();
        if kind == "ExternalName" {
            return;
        }
        for port in spec.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            let number = port.port;
            port.target_port.get_or_insert(IntOrString::Int(number));
        }
        self.complete_cluster_ips(spec, &owner);
        if kind == "NodePort"
            || (kind == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false))
        {
            for port in spec.ports.iter_mut().flatten() {
                self.complete_node_port(port, &owner);
            }
        }
    }

    fn complete_cluster_ips(&mut self, spec: &mut ServiceSpec, owner: &ServiceKey) {
        let families = families(spec);
        spec.ip_families = Some(families.iter().map(|family| family.to_string()).collect());
        if spec.cluster_ip.as_deref().is_some_and(|text| !text.is_empty()) {
            spec.cluster_ips
                .get_or_insert_with(|| spec.cluster_ip.iter().cloned().collect());
            return;
        }
        let mut assumed = Vec::new();
        for family in families {
            if let Ok(ip) = self.service_addresses.allocate_any(family, &at_once(owner)) {
                assumed.push(ip.to_string());
            }
        }
        if !assumed.is_empty() {
            self.notes
                .push(format!("Service {owner}: ClusterIP {}", assumed.join(", ")));
        }
        spec.cluster_ip = assumed.first().cloned();
        spec.cluster_ips = Some(assumed);
    }

    fn complete_node_port(&mut self, port: &mut ServicePort, owner: &ServiceKey) {
        if port.node_port.is_some() {
            return;
        }
        let Ok(free) = self.node_ports.allocate_any(NodePorts, &at_once(owner)) else {
            return;
        };
        port.node_port = Some(free.get().into());
        self.notes.push(format!(
            "Service {owner}: node port {free} for port {}",
            port.port
        ));
    }

    fn complete_pod(&mut self, pod: &mut PodManifest, nodes: &[String], index: usize) {
        let owner = owner(&pod.metadata);
        pod.metadata.uid.get_or_insert_with(|| format!("assumed-{owner}"));
        let mut assumed = Vec::new();
        if pod.spec.node_name.is_none() {
            let node = nodes
                .get(index.checked_rem(nodes.len()).unwrap_or(0))
                .map_or("node-1", String::as_str);
            pod.spec.node_name = Some(node.to_owned());
            assumed.push(format!("on {node}"));
        }
        if pod.status.phase.is_none() && pod.status.pod_ips.is_empty() {
            let ips: Vec<IpAddr> = IpFamily::ALL
                .into_iter()
                .filter_map(|family| self.pod_addresses.allocate_any(family, &at_once(&owner)).ok())
                .collect();
            pod.status.phase = Some("Running".to_owned());
            pod.status.pod_ip = ips.first().map(ToString::to_string);
            pod.status.pod_ips = ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
            pod.status.conditions = vec![PodCondition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                last_transition_time: None,
            }];
            let texts: Vec<_> = ips.iter().map(ToString::to_string).collect();
            assumed.push(format!("running, ready, {}", texts.join(", ")));
        }
        if !assumed.is_empty() {
            self.notes.push(format!("Pod {owner}: {}", assumed.join(", ")));
        }
    }

    /// A Pod on a Node that nobody knows is left out of slices: the Nodes that Pods name exist.
    fn complete_nodes(&mut self, objects: &mut Objects) {
        let known: BTreeSet<String> = objects
            .nodes
            .iter()
            .filter_map(|node| node.metadata.name.clone())
            .collect();
        let named: BTreeSet<String> = objects
            .pods
            .iter()
            .filter_map(|pod| pod.spec.node_name.clone())
            .collect();
        for name in named.difference(&known) {
            self.notes.push(format!("Node {name}: exists, in no zone"));
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                ..ObjectMeta::default()
            };
            objects.nodes.push(Node {
                metadata,
                ..Node::default()
            });
        }
    }
}

/// Families as the API server infers them on a dual-stack cluster whose primary family is IPv4.
fn families(spec: &ServiceSpec) -> Vec<IpFamily> {
    let of = |text: &String| IpFamily::ALL.into_iter().find(|family| family.as_str() == text);
    let given: Vec<_> = spec.ip_families.iter().flatten().filter_map(of).collect();
    let from_ips = || -> Vec<_> {
        let texts = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
        let mut found: Vec<_> = texts
            .filter_map(|text| Some(IpFamily::of(text.parse().ok()?)))
            .collect();
        found.dedup();
        found
    };
    let mut families = if given.is_empty() { from_ips() } else { given };
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let selectorless = spec
        .selector
        .as_ref()
        .is_none_or(std::collections::BTreeMap::is_empty);
    let dual = match spec.ip_family_policy.as_deref() {
        Some("PreferDualStack" | "RequireDualStack") => true,
        Some(_) => false,
        None => headless && selectorless,
    };
    for family in IpFamily::ALL {
        if families.is_empty() || (dual && !families.contains(&family)) {
            families.push(family);
        }
    }
    families
}

fn pool(flag: &str, cidrs: &[String]) -> anyhow::Result<Pool> {
    let mut set = AddressSet::default();
    for text in cidrs {
        let range: IpRange = text.trim().parse().with_context(|| flag.to_owned())?;
        // The network address is nobody's, and by custom the next one is the gateway's or `default/kubernetes`'s.
        let first = range.nth(2).unwrap_or(range.first());
        set.insert(IpRange::new(first, range.last()).with_context(|| flag.to_owned())?);
    }
    Ok(pool_of(flag, set))
}

fn pool_of<I: Item>(flag: &str, ranges: RangeSet<I>) -> Pool<I> {
    Pool::new(&PoolDefinition::of(PoolName::new(flag), ranges), Duration::ZERO)
}

/// Nothing is ever given back here, so that all happens at one time.
fn at_once(owner: &ServiceKey) -> Request<'_> {
    Request::for_good(owner, Duration::ZERO)
}

fn default_namespace(metadata: &mut ObjectMeta) {
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
}

fn owner(metadata: &ObjectMeta) -> ServiceKey {
    ServiceKey::new(
        metadata.namespace.as_deref().unwrap_or("default"),
        metadata.name.as_deref().unwrap_or_default(),
    )
}
