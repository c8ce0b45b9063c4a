// SPDX-License-Identifier: Apache-2.0
//! What should become of a packet, read off the Services: a plain statement of behaviour/proxy-dns.md section 1.3, slow
//! and without any planning. It shares nothing with the planner but the model, so that tests can hold one against
//! the other.
//!
//! Beyond the table it says what Berth decides where the table is silent: the oldest Service has a contested
//! address (created, then uid, then name), and a list of source ranges without one of the address's family lets
//! nobody in, unless it lets in the whole other family. An address of the node itself is not dropped for lying where
//! ClusterIPs are given.

use std::collections::BTreeSet;
use std::net::IpAddr;

use berth_model::{
    Endpoint, EndpointPort, IpFamily, IpMode, Service, ServicePort, SessionAffinity, TrafficPolicy, View,
};

use crate::walk::{Packet, Verdict};
use crate::{Links, Settings, Target};

#[cfg(test)]
mod tests;

/// Everything that a verdict depends on.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// Services and endpoints.
    pub view: &'a View,
    /// The node.
    pub settings: &'a Settings,
}

/// How a packet addresses a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
    NodePort,
}

/// Every verdict on the first packet of a connection that the random choice of an endpoint allows. A client that
/// session affinity knows gets one of them.
pub fn verdict(packet: &Packet, state: State<'_>) -> BTreeSet<Verdict> {
    let Some((service, port, via)) = addressed(packet, state) else {
        let cluster_ip =
            state.view.services.values().any(|service| {
                service.cluster_ip(IpFamily::of(packet.destination)) == Some(packet.destination)
            });
        let given = state.settings.service_cidrs.iter().flatten();
        let unallocated = || given.into_iter().any(|net| net.contains(&packet.destination));
        let verdict = if cluster_ip {
            Verdict::Rejected
        } else if !packet.to_this_node && unallocated() {
            Verdict::Dropped
        } else {
            Verdict::Untouched
        };
        return [verdict].into();
    };
    if via == Via::LoadBalancer && !may_come(packet, service, state.settings) {
        return [Verdict::Dropped].into();
    }
    let join = EndpointPort {
        name: port.name.clone(),
        protocol: port.protocol,
    };
    let endpoints: Vec<&Endpoint> = state
        .view
        .endpoints_of(&service.key, &join)
        .iter()
        .filter(|endpoint| endpoint.ip.is_ipv4() == packet.destination.is_ipv4())
        .collect();
    if !endpoints.iter().any(|endpoint| is_usable(endpoint)) {
        return [Verdict::Rejected].into();
    }
    let (list, masquerade) = row(packet, service, via, &endpoints, state.settings);
    if list.is_empty() {
        return [Verdict::Dropped].into();
    }
    let settings = state.settings;
    list.into_iter()
        .map(|endpoint| Verdict::Translated {
            target: Target {
                ip: endpoint.ip,
                port: endpoint.port,
            },
            masqueraded: masquerade || (endpoint.ip == packet.source && is_here(endpoint, settings)),
        })
        .collect()
}

/// How long a client of the addressed Service port stays with its endpoint, in seconds, if it does.
pub fn affinity(packet: &Packet, state: State<'_>) -> Option<u32> {
    match addressed(packet, state)?.0.affinity {
        SessionAffinity::None => None,
        SessionAffinity::ClientIp { timeout_seconds } => Some(timeout_seconds),
    }
}

/// The oldest Service port that answers. Service addresses come before node ports.
fn addressed<'a>(packet: &Packet, state: State<'a>) -> Option<(&'a Service, &'a ServicePort, Via)> {
    let mut by_age: Vec<&Service> = state.view.services.values().map(AsRef::as_ref).collect();
    by_age.sort_by_key(|service| (service.created, &service.uid, &service.key));
    let ports = || {
        by_age.iter().flat_map(|service| {
            let mut ports: Vec<&ServicePort> = service.ports.iter().collect();
            ports.sort_by_key(|port| (&port.name, port.protocol));
            ports.into_iter().map(move |port| (*service, port))
        })
    };
    let by_address = ports().find_map(|(service, port)| {
        let via = via_address(packet, service)?;
        let fits = port.protocol == packet.protocol && port.port == packet.port;
        fits.then_some((service, port, via))
    });
    by_address.or_else(|| {
        if !serves_node_ports(packet, state.settings) {
            return None;
        }
        let family = IpFamily::of(packet.destination);
        ports()
            .find(|(service, port)| {
                port.protocol == packet.protocol
                    && port.node_port == Some(packet.port)
                    && service.cluster_ip(family).is_some()
            })
            .map(|(service, port)| (service, port, Via::NodePort))
    })
}

fn via_address(packet: &Packet, service: &Service) -> Option<Via> {
    let ip = packet.destination;
    let cluster_ip = service.cluster_ip(IpFamily::of(ip))?;
    let balanced =
        |ingress: &berth_model::LoadBalancerIngress| ingress.ip == ip && ingress.mode == IpMode::Vip;
    if cluster_ip == ip {
        Some(Via::ClusterIp)
    } else if service.load_balancer.iter().any(balanced) {
        Some(Via::LoadBalancer)
    } else if service.external_ips.contains(&ip) {
        Some(Via::ExternalIp)
    } else {
        None
    }
}

fn serves_node_ports(packet: &Packet, settings: &Settings) -> bool {
    let ip = packet.destination;
    let chosen = settings.node_port_addresses.of(IpFamily::of(ip));
    packet.to_this_node && !ip.is_loopback() && chosen.is_none_or(|chosen| chosen.contains(&ip))
}

fn may_come(packet: &Packet, service: &Service, settings: &Settings) -> bool {
    let Some(ranges) = &service.source_ranges else {
        return true;
    };
    let v4 = packet.destination.is_ipv4();
    let of_family: Vec<_> = ranges.iter().filter(|net| net.addr().is_ipv4() == v4).collect();
    if of_family.is_empty() {
        return ranges.iter().any(|net| net.prefix_len() == 0);
    }
    let lets_in = |ip: &IpAddr| of_family.iter().any(|net| net.contains(ip));
    let bound_here = packet.source == packet.destination && settings.node_ips.iter().any(lets_in);
    lets_in(&packet.source) || bound_here
}

/// The row of the table: which endpoints, and whether the source is translated.
fn row<'a>(
    packet: &Packet,
    service: &Service,
    via: Via,
    endpoints: &[&'a Endpoint],
    settings: &Settings,
) -> (Vec<&'a Endpoint>, bool) {
    let (has_detector, is_pod) = detected(packet, settings);
    match via {
        Via::ClusterIp => {
            let masquerade = settings.masquerade_all || (has_detector && !is_pod);
            match service.internal_policy {
                TrafficPolicy::Cluster => (cluster_list(endpoints, settings), masquerade),
                TrafficPolicy::Local => (local_list(endpoints, settings), masquerade),
            }
        }
        Via::LoadBalancer | Via::ExternalIp | Via::NodePort => match service.external_policy {
            TrafficPolicy::Cluster => (cluster_list(endpoints, settings), true),
            TrafficPolicy::Local if is_pod => (cluster_list(endpoints, settings), false),
            TrafficPolicy::Local if packet.from_this_node => (cluster_list(endpoints, settings), true),
            TrafficPolicy::Local => (local_list(endpoints, settings), false),
        },
    }
}

/// Whether Pods can be told from others in this family, and whether this packet is a Pod's.
fn detected(packet: &Packet, settings: &Settings) -> (bool, bool) {
    let v4 = packet.source.is_ipv4();
    let by_address = settings
        .cluster_cidrs
        .iter()
        .any(|net| net.addr().is_ipv4() == v4);
    let in_a_net = settings
        .cluster_cidrs
        .iter()
        .any(|net| net.contains(&packet.source));
    let came_by = match (&settings.pod_links, &packet.link) {
        (Some(Links::Named(bridge)), Some(link)) => link.as_str() == bridge.as_str(),
        (Some(Links::Beginning(prefix)), Some(link)) => link.as_str().starts_with(prefix.as_str()),
        (Some(_), None) | (None, _) => false,
    };
    (by_address || settings.pod_links.is_some(), in_a_net || came_by)
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.ready
}

fn is_last_resort(endpoint: &Endpoint) -> bool {
    endpoint.conditions.serving && endpoint.conditions.terminating
}

fn is_usable(endpoint: &Endpoint) -> bool {
    is_ready(endpoint) || is_last_resort(endpoint)
}

fn is_here(endpoint: &Endpoint, settings: &Settings) -> bool {
    endpoint.node.is_some() && endpoint.node == settings.node
}

fn local_list<'a>(endpoints: &[&'a Endpoint], settings: &Settings) -> Vec<&'a Endpoint> {
    let here: Vec<&Endpoint> = endpoints
        .iter()
        .copied()
        .filter(|endpoint| is_here(endpoint, settings))
        .collect();
    let ready: Vec<&Endpoint> = here
        .iter()
        .copied()
        .filter(|endpoint| is_ready(endpoint))
        .collect();
    if ready.is_empty() {
        here.into_iter()
            .filter(|endpoint| is_last_resort(endpoint))
            .collect()
    } else {
        ready
    }
}

fn cluster_list<'a>(endpoints: &[&'a Endpoint], settings: &Settings) -> Vec<&'a Endpoint> {
    let mut ready: Vec<&Endpoint> = endpoints
        .iter()
        .copied()
        .filter(|endpoint| is_ready(endpoint))
        .collect();
    if ready.is_empty() {
        return endpoints
            .iter()
            .copied()
            .filter(|endpoint| is_last_resort(endpoint))
            .collect();
    }
    let for_node = |endpoint: &&Endpoint| {
        settings
            .node
            .as_ref()
            .is_some_and(|n| endpoint.hints.nodes.contains(n))
    };
    let for_zone = |endpoint: &&Endpoint| {
        settings
            .zone
            .as_ref()
            .is_some_and(|z| endpoint.hints.zones.iter().any(|hint| **hint == **z))
    };
    if ready.iter().all(|endpoint| !endpoint.hints.nodes.is_empty()) && ready.iter().any(for_node) {
        ready.retain(for_node);
    } else if ready.iter().all(|endpoint| !endpoint.hints.zones.is_empty()) && ready.iter().any(for_zone) {
        ready.retain(for_zone);
    }
    ready
}
