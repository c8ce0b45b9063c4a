// SPDX-License-Identifier: Apache-2.0
//! Random clusters for property tests: a small world, so that things collide. Both families alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{
    Conditions, Endpoint, EndpointHints, EndpointPort, IpFamily, IpMode, LoadBalancerIngress, NodeName,
    PortName, Protocol, Service, ServiceKey, ServiceKind, ServicePort, SessionAffinity, TrafficPolicy, View,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::walk::Packet;
use crate::{LinkName, Links, NodePortAddresses, Settings};

fn both(v4: [u8; 4], v6: &str) -> [IpAddr; 2] {
    [v4.into(), v6.parse().unwrap()]
}

pub(crate) fn in_family(ips: [IpAddr; 2], family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => ips[0],
        IpFamily::V6 => ips[1],
    }
}

pub(crate) fn cluster_ips(n: u8) -> [IpAddr; 2] {
    both([10, 96, 0, n], &format!("fd00:96::{n:x}"))
}

pub(crate) fn vips(n: u8) -> [IpAddr; 2] {
    both([192, 0, 2, n], &format!("fd00:192::{n:x}"))
}

pub(crate) fn pod_ips(n: u8) -> [IpAddr; 2] {
    both([10, 244, 0, n], &format!("fd00:244::{n:x}"))
}

/// The node's two addresses: its own, and one among the Pods.
pub(crate) fn node_ips(n: u8) -> [IpAddr; 2] {
    match n {
        0 => both([10, 77, 0, 11], "fd00:77::b"),
        _ => both([10, 244, 255, 254], "fd00:244::ffff"),
    }
}

pub(crate) fn outside_ips(n: u8) -> [IpAddr; 2] {
    both([203, 0, 113, n], &format!("fd00:203::{n:x}"))
}

/// The node that every Pod runs on.
fn node_of(pod: u8) -> Option<NodeName> {
    match pod % 3 {
        0 => Some(NodeName::new("here")),
        1 => Some(NodeName::new("there")),
        _ => None,
    }
}

pub(crate) fn key(n: u8) -> ServiceKey {
    ServiceKey::new("shop", format!("s{n}"))
}

/// A Service with its endpoints by port.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) service: Service,
    pub(crate) endpoints: BTreeMap<EndpointPort, Vec<Endpoint>>,
}

impl Sample {
    pub(crate) fn put(&self, view: &mut View) {
        let key = self.service.key.clone();
        view.endpoints
            .insert(key.clone(), Arc::new(self.endpoints.clone()));
        view.services.insert(key, Arc::new(self.service.clone()));
    }
}

pub(crate) fn mk_view(samples: &[Sample]) -> View {
    let mut view = View::default();
    samples.iter().for_each(|sample| sample.put(&mut view));
    view
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn endpoint() -> impl Strategy<Value = [Endpoint; 2]> {
    let conditions = select(vec![
        Conditions::READY,
        Conditions {
            ready: false,
            serving: false,
            terminating: false,
        },
        Conditions {
            ready: false,
            serving: true,
            terminating: true,
        },
        Conditions {
            ready: false,
            serving: false,
            terminating: true,
        },
        Conditions {
            ready: true,
            serving: true,
            terminating: true,
        },
    ]);
    let nodes = subsequence(vec!["here", "there"], 0..=2);
    let zones = subsequence(vec!["a", "b"], 0..=2);
    (1u8..7, conditions, nodes, zones).prop_map(|(pod, conditions, nodes, zones)| {
        pod_ips(pod).map(|ip| Endpoint {
            ip,
            port: 8080.try_into().unwrap(),
            conditions,
            node: node_of(pod),
            zone: None,
            hints: EndpointHints {
                nodes: nodes.iter().map(|node| NodeName::new(*node)).collect(),
                zones: zones.iter().map(|zone| (*zone).into()).collect(),
            },
        })
    })
}

/// Sorted, each address once, as the index gives them.
fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    proptest::collection::vec(endpoint(), 0..4).prop_map(|pairs| {
        let by_address: BTreeMap<IpAddr, Endpoint> = pairs
            .into_iter()
            .flatten()
            .map(|endpoint| (endpoint.ip, endpoint))
            .collect();
        by_address.into_values().collect()
    })
}

fn ranges() -> impl Strategy<Value = Option<Vec<ipnet::IpNet>>> {
    let nets = [
        "203.0.113.0/24",
        "203.0.113.128/25",
        "10.244.0.0/16",
        "10.77.0.11/32",
        "0.0.0.0/0",
        "fd00:203::/64",
        "fd00:203::80/121",
        "fd00:77::/64",
        "::/0",
    ];
    let nets: Vec<ipnet::IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
    proptest::option::of(subsequence(nets, 0..=3))
}

fn service(n: u8) -> impl Strategy<Value = Service> {
    let addresses = (
        subsequence(vec![0u8, 1, 2], 0..=2),
        proptest::collection::vec(
            (0u8..3, select(vec![IpMode::Vip, IpMode::Vip, IpMode::Proxy])),
            0..2,
        ),
    );
    let rest = (
        0i64..3,
        policy(),
        policy(),
        ranges(),
        proptest::bool::weighted(0.8),
        0u16..3,
        1u16..3,
        select(vec![
            SessionAffinity::None,
            SessionAffinity::None,
            SessionAffinity::ClientIp { timeout_seconds: 7 },
            SessionAffinity::ClientIp {
                timeout_seconds: 10_800,
            },
        ]),
    );
    (addresses, rest).prop_map(
        move |(
            (external, balanced),
            (created, internal_policy, external_policy, source_ranges, dual, node_port, count, affinity),
        )| {
            let both = |n: &u8| vips(*n);
            let port = |index: u16| ServicePort {
                name: PortName::new(format!("p{index}")),
                protocol: if index == 0 { Protocol::Tcp } else { Protocol::Udp },
                port: 80.try_into().unwrap(),
                node_port: Some((30_000 + node_port).try_into().unwrap()),
            };
            Service {
                key: key(n),
                uid: format!("uid-{n}"),
                created,
                kind: ServiceKind::LoadBalancer,
                cluster_ips: cluster_ips(n)
                    .into_iter()
                    .take(if dual { 2 } else { 1 })
                    .collect(),
                external_ips: external.iter().flat_map(both).collect(),
                load_balancer: balanced
                    .iter()
                    .flat_map(|(n, mode)| vips(*n).map(|ip| LoadBalancerIngress { ip, mode: *mode }))
                    .collect(),
                load_balancer_class: None,
                ports: (0..count).map(port).collect(),
                internal_policy,
                external_policy,
                affinity,
                source_ranges,
                health_check_node_port: None,
            }
        },
    )
}

pub(crate) fn sample(n: u8) -> impl Strategy<Value = Sample> {
    (service(n), proptest::collection::vec(endpoints(), 2)).prop_map(|(service, lists)| {
        let joins = service.ports.iter().map(|port| EndpointPort {
            name: port.name.clone(),
            protocol: port.protocol,
        });
        let endpoints = joins.zip(lists).collect();
        Sample { service, endpoints }
    })
}

/// Up to three Services.
pub(crate) fn samples() -> impl Strategy<Value = Vec<Sample>> {
    subsequence(vec![0u8, 1, 2], 0..=3)
        .prop_flat_map(|numbers| numbers.into_iter().map(sample).collect::<Vec<_>>())
}

/// Interfaces by which packets come.
const LINKS: [&str; 3] = ["veth1", "cni0", "eth0"];

/// ServiceCIDRs.
fn given() -> impl Strategy<Value = Option<Vec<&'static str>>> {
    select(vec![
        None,
        Some(vec![]),
        Some(vec!["10.96.0.0/16", "fd00:96::/112"]),
        // Overlaps, and holds addresses of other kinds.
        Some(vec![
            "10.96.0.0/24",
            "10.96.0.2/31",
            "10.77.0.0/16",
            "192.0.2.0/24",
            "fd00::/16",
        ]),
    ])
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    let cidrs = proptest::bool::weighted(0.8);
    let links = select(vec![
        None,
        None,
        None,
        None,
        Some(Links::named("cni0").unwrap()),
        Some(Links::beginning("veth").unwrap()),
    ]);
    let addresses = proptest::option::of(subsequence(vec![0u8, 1], 0..=2));
    let zone = proptest::option::weighted(0.8, select(vec!["a", "b"]));
    (
        cidrs,
        proptest::bool::weighted(0.1),
        addresses,
        zone,
        any::<bool>(),
        links,
        given(),
    )
        .prop_map(
            |(cidrs, masquerade_all, addresses, zone, known, pod_links, given)| Settings {
                node: Some(NodeName::new("here")),
                zone: zone.map(str::to_owned),
                node_ips: if known {
                    node_ips(0).into()
                } else {
                    BTreeSet::new()
                },
                node_port_addresses: match addresses {
                    None => NodePortAddresses::all(),
                    Some(numbers) => {
                        let ips: Vec<IpAddr> = numbers.into_iter().flat_map(node_ips).collect();
                        NodePortAddresses::all()
                            .only(IpFamily::V4, ips.clone())
                            .only(IpFamily::V6, ips)
                    }
                },
                cluster_cidrs: if cidrs {
                    vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/64".parse().unwrap()]
                } else {
                    vec![]
                },
                pod_links,
                service_cidrs: given.map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect()),
                masquerade_all,
                ..Settings::default()
            },
        )
}

/// A packet to something of the small world.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let destinations = (0u8..4)
        .map(|n| (cluster_ips(n), false))
        .chain((0..3).map(|n| (vips(n), false)))
        .chain((0..2).map(|n| (node_ips(n), true)))
        .chain([(both([127, 0, 0, 1], "::1"), true), (outside_ips(9), false)]);
    let sources = (1u8..7)
        .map(|n| (Some(pod_ips(n)), false))
        .chain((0..2).map(|n| (Some(node_ips(n)), true)))
        .chain([
            (Some(outside_ips(5)), false),
            (Some(outside_ips(200)), false),
            (None, true),
        ]);
    let ports = vec![(80u16, Protocol::Tcp), (80, Protocol::Udp), (81, Protocol::Tcp)]
        .into_iter()
        .chain((30_000..30_003).flat_map(|port| [(port, Protocol::Tcp), (port, Protocol::Udp)]));
    (
        select(destinations.collect::<Vec<_>>()),
        select(sources.collect::<Vec<_>>()),
        select(ports.collect::<Vec<_>>()),
        select(IpFamily::ALL.to_vec()),
        select(LINKS.to_vec()),
    )
        .prop_map(
            |((destination, to_this_node), (source, from_this_node), (port, protocol), family, link)| {
                let destination = in_family(destination, family);
                Packet {
                    // Without an address of its own the packet comes from the address that it goes to.
                    source: source.map_or(destination, |source| in_family(source, family)),
                    destination,
                    protocol,
                    port: port.try_into().unwrap(),
                    to_this_node,
                    from_this_node,
                    link: (!from_this_node).then(|| LinkName::new(link).unwrap()),
                }
            },
        )
}
