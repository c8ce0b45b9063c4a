// SPDX-License-Identifier: Apache-2.0
//! A Service as the data path sees it: parsed once at the door (`berth-snapshot`), no optionals left
//! that the API server would have defaulted.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{IpFamily, Port, PortName, Protocol, ServiceKey};

/// `spec.type`, without ExternalName, which has no data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKind {
    /// Reachable inside the cluster.
    ClusterIp,
    /// Also on a port of each node.
    NodePort,
    /// Also on addresses of its own.
    LoadBalancer,
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// Endpoints of the whole cluster.
    #[default]
    Cluster,
    /// Endpoints of the node that the packet reached.
    Local,
}

/// Whether the nodes translate traffic to a LoadBalancer address themselves (`ipMode`, KEP-1860).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpMode {
    /// Packets arrive at a node with the address as destination.
    #[default]
    Vip,
    /// A proxy in front delivers to node ports: no rules for the address on the nodes.
    Proxy,
}

/// One entry of `status.loadBalancer.ingress` that has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadBalancerIngress {
    /// The address.
    pub ip: IpAddr,
    /// Who translates.
    pub mode: IpMode,
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionAffinity {
    /// Every new connection is spread anew.
    #[default]
    None,
    /// Connections of one client address stay with one endpoint.
    ClientIp {
        /// Seconds without a connection after which the client is forgotten, 1 to 86400.
        timeout_seconds: u32,
    },
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Its name, empty where the Service has a single unnamed port.
    pub name: PortName,
    /// Its transport protocol.
    pub protocol: Protocol,
    /// The port on the ClusterIP, external and LoadBalancer addresses.
    pub port: Port,
    /// The port on the nodes, for types NodePort and LoadBalancer.
    pub node_port: Option<Port>,
}

/// A Service with a data path: not headless, not ExternalName.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ServiceKey,
    /// `metadata.uid`: tells a re-created Service from its predecessor of the same name.
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since the epoch: the oldest Service wins a contested frontend.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// ClusterIPs, at most one per family, primary family first.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`, parsable ones, as written.
    pub external_ips: Vec<IpAddr>,
    /// LoadBalancer addresses from the status. Empty unless `kind` is `LoadBalancer`.
    pub load_balancer: Vec<LoadBalancerIngress>,
    /// `spec.loadBalancerClass`.
    pub load_balancer_class: Option<String>,
    /// Ports, in the order of the spec.
    pub ports: Vec<ServicePort>,
    /// Policy for traffic to ClusterIPs.
    pub internal_policy: TrafficPolicy,
    /// Policy for traffic to node ports, external and LoadBalancer addresses.
    pub external_policy: TrafficPolicy,
    /// Session affinity.
    pub affinity: SessionAffinity,
    /// `spec.loadBalancerSourceRanges`, parsable ones; `None` means unrestricted. An empty list admits
    /// nobody: there are ranges, and none can be read.
    pub source_ranges: Option<Vec<IpNet>>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<Port>,
}

impl Service {
    /// The ClusterIP of a family, if the Service has one.
    pub fn cluster_ip(&self, family: IpFamily) -> Option<IpAddr> {
        self.cluster_ips
            .iter()
            .copied()
            .find(|ip| IpFamily::of(*ip) == family)
    }
}
