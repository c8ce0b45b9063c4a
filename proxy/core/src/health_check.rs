// SPDX-License-Identifier: Apache-2.0
//! Health-check node ports, as values: which ports a node answers on for which Service, and what it
//! answers. A load balancer in front asks every node there and sends traffic only to those that say 200.
//!
//! The contract is kube-proxy's (`pkg/proxy/healthcheck/service_health.go` of Kubernetes v1.37).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use berth_model::{IpFamily, NodeName, Port, Service, ServiceKey, ServiceKind, TrafficPolicy, View};

use crate::NodePortAddresses;

/// The header that tells a load balancer how much of the traffic this node can take.
pub const WEIGHT_HEADER: &str = "X-Load-Balancing-Endpoint-Weight";

/// One Service that has a health-check node port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: Port,
    /// Which Service of this name: an event about it needs to say so.
    pub uid: String,
    /// For each family of the Service, how many distinct addresses of ready endpoints are on this node.
    /// Endpoints that terminate do not count although they may receive traffic still: the load balancer
    /// is to stop sending it.
    pub local: BTreeMap<IpFamily, usize>,
}

/// Every Service with a health-check node port, kept up by changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthChecks {
    services: BTreeMap<ServiceKey, HealthCheck>,
}

impl HealthChecks {
    /// Takes in what changed of the view. `node` is this node; without it no endpoint is local.
    pub fn update(&mut self, view: &View, dirty: &BTreeSet<ServiceKey>, node: Option<&NodeName>) {
        for key in dirty {
            let check = view
                .services
                .get(key)
                .and_then(|service| health_check(service, view, node));
            match check {
                Some(check) => self.services.insert(key.clone(), check),
                None => self.services.remove(key),
            };
        }
    }

    /// One Service's, if it has one.
    pub fn get(&self, service: &ServiceKey) -> Option<&HealthCheck> {
        self.services.get(service)
    }

    /// Where this node has to listen. A Service without endpoints is listened for too: 503 is an answer.
    pub fn listeners(&self, on: &NodePortAddresses) -> BTreeSet<Listener> {
        let families = self
            .services
            .iter()
            .flat_map(|(key, check)| check.local.keys().map(move |family| (key, check.port, *family)));
        families
            .flat_map(|(key, port, family)| {
                addresses(on, family).into_iter().map(move |ip| Listener {
                    address: SocketAddr::new(ip, port.get()),
                    service: key.clone(),
                })
            })
            .collect()
    }

    /// What to answer on a listener of this family, whatever the path. `healthy` is whether the rules of
    /// this node are up to date. A Service that is gone counts as one without endpoints.
    pub fn answer(&self, service: &ServiceKey, family: IpFamily, healthy: bool) -> Answer {
        let local = self
            .services
            .get(service)
            .and_then(|check| check.local.get(&family));
        let weight = local.copied().unwrap_or_default();
        Answer {
            status: if healthy && weight > 0 { 200 } else { 503 },
            weight,
            body: format!(
                "{{\n\t\"service\": {{\n\t\t\"namespace\": {:?},\n\t\t\"name\": {:?}\n\t}},\n\t\
                 \"localEndpoints\": {weight},\n\t\"serviceProxyHealthy\": {healthy}\n}}",
                service.namespace(),
                service.name(),
            ),
        }
    }
}

/// A Service's health check; `None` unless a load balancer in front has to know where its endpoints are.
/// The port on which every node answers for this Service.
pub(crate) fn health_check_port(service: &Service) -> Option<Port> {
    let balanced = service.kind == ServiceKind::LoadBalancer;
    let local = service.external_policy == TrafficPolicy::Local;
    service.health_check_node_port.filter(|_| balanced && local)
}

fn health_check(service: &Service, view: &View, node: Option<&NodeName>) -> Option<HealthCheck> {
    let port = health_check_port(service)?;
    let mut local: BTreeMap<IpFamily, BTreeSet<IpAddr>> = service
        .cluster_ips
        .iter()
        .map(|ip| (IpFamily::of(*ip), BTreeSet::new()))
        .collect();
    let endpoints = view.endpoints.get(&service.key).into_iter();
    for endpoint in endpoints.flat_map(|ports| ports.values().flatten()) {
        let here = node.is_some_and(|node| endpoint.is_on(node));
        if let (true, Some(ips)) = (
            here && endpoint.conditions.ready,
            local.get_mut(&IpFamily::of(endpoint.ip)),
        ) {
            ips.insert(endpoint.ip);
        }
    }
    Some(HealthCheck {
        port,
        uid: service.uid.clone(),
        local: local
            .into_iter()
            .map(|(family, ips)| (family, ips.len()))
            .collect(),
    })
}

/// What to bind for a family: the selected addresses, or the one that stands for all.
fn addresses(on: &NodePortAddresses, family: IpFamily) -> Vec<IpAddr> {
    match (on.of(family), family) {
        (Some(ips), _) => ips.iter().copied().collect(),
        (None, IpFamily::V4) => vec![Ipv4Addr::UNSPECIFIED.into()],
        (None, IpFamily::V6) => vec![Ipv6Addr::UNSPECIFIED.into()],
    }
}

/// One address to listen on, for one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Where.
    pub address: SocketAddr,
    /// For whom.
    pub service: ServiceKey,
}

impl Listener {
    /// The family whose endpoints count on it.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.address.ip())
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.address, self.service)
    }
}

/// What to do to the listeners: first close, then open, since a port may pass from one Service to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerPlan {
    /// No longer wanted.
    pub close: Vec<Listener>,
    /// Not there yet.
    pub open: Vec<Listener>,
}

impl ListenerPlan {
    /// From what is open to what is wanted. What is in both stays as it is.
    pub fn new<'a>(open: impl IntoIterator<Item = &'a Listener>, wanted: &BTreeSet<Listener>) -> Self {
        let open: BTreeSet<&Listener> = open.into_iter().collect();
        Self {
            close: open
                .iter()
                .filter(|listener| !wanted.contains(**listener))
                .map(|listener| (*listener).clone())
                .collect(),
            open: wanted
                .iter()
                .filter(|listener| !open.contains(listener))
                .cloned()
                .collect(),
        }
    }

    /// Whether all is as wanted.
    pub fn is_empty(&self) -> bool {
        self.close.is_empty() && self.open.is_empty()
    }
}

impl fmt::Display for ListenerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for listener in &self.close {
            writeln!(f, "close {listener}")?;
        }
        for listener in &self.open {
            writeln!(f, "open {listener}")?;
        }
        Ok(())
    }
}

/// The answer to a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 503.
    pub status: u16,
    /// The value of [`WEIGHT_HEADER`]: how many local endpoints there are, whatever the status.
    pub weight: usize,
    /// JSON.
    pub body: String,
}

#[cfg(test)]
mod tests;
