// SPDX-License-Identifier: Apache-2.0
//! Random Services with slices written by hand, and random packets to them. Pure: everything follows from a seed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use serde_json::{Value, json};

use super::answer::{Protocol, TARGETS};
use super::world::{Both, NODE, Origin, SECOND, Site};

/// Where Services and slices are.
pub const NAMESPACE: &str = "peers";

/// What an endpoint's conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    NotReady,
    Serving,
    Terminating,
}

impl State {
    fn conditions(self) -> Value {
        let (ready, serving, terminating) = match self {
            Self::Ready => (true, true, false),
            Self::NotReady => (false, false, false),
            Self::Serving => (false, true, true),
            Self::Terminating => (false, false, true),
        };
        json!({"ready": ready, "serving": serving, "terminating": terminating})
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// One Service with its slices.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    number: u8,
    kind: Kind,
    /// Port `p0` and perhaps `p1`.
    ports: Vec<Protocol>,
    external_ips: bool,
    endpoints: Vec<(Site, State)>,
    internal_local: bool,
    external_local: bool,
    affinity: bool,
    source_ranges: bool,
}

const PORT: u16 = 80;
const FIRST_NODE_PORT: u16 = 30_000;

fn both(v4: [u8; 3], v6: u16, number: u8) -> Both {
    Both {
        v4: Ipv4Addr::new(v4[0], v4[1], v4[2], number),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, v6 + u16::from(number)),
    }
}

impl ServiceSpec {
    fn random(number: u8, rng: &mut Rng) -> Self {
        let kind = [Kind::ClusterIp, Kind::NodePort, Kind::LoadBalancer][rng.usize(..3)];
        let external = kind != Kind::ClusterIp;
        let ports = match rng.u8(..4) {
            0 => vec![Protocol::Tcp],
            1 => vec![Protocol::Udp],
            2 => vec![Protocol::Tcp, Protocol::Tcp],
            _ => vec![Protocol::Tcp, Protocol::Udp],
        };
        Self {
            number,
            kind,
            ports,
            external_ips: rng.u8(..3) == 0,
            endpoints: endpoints(rng),
            internal_local: rng.u8(..3) == 0,
            external_local: rng.bool() && external,
            affinity: rng.u8(..4) == 0,
            source_ranges: rng.bool() && kind == Kind::LoadBalancer,
        }
    }

    /// What the packets' waiting client looks for: last to be created, so that what was before it has been carried out.
    pub fn sentinel() -> Self {
        Self {
            number: 255,
            kind: Kind::ClusterIp,
            ports: vec![Protocol::Tcp],
            external_ips: false,
            endpoints: vec![(Site::B, State::Ready)],
            internal_local: false,
            external_local: false,
            affinity: false,
            source_ranges: false,
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("s{}", self.number)
    }

    /// Its ClusterIPs.
    pub fn cluster_ip(&self) -> Both {
        both([10, 96, 10], 0x1000, self.number)
    }

    fn external_ip(&self) -> Both {
        Both {
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, self.number.into()),
            ..both([203, 0, 113], 0, self.number)
        }
    }

    fn load_balancer_ip(&self) -> Both {
        Both {
            v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, self.number.into()),
            ..both([198, 51, 100], 0, self.number)
        }
    }

    /// The port that clients of its addresses use.
    pub fn port(index: usize) -> u16 {
        PORT + u16::try_from(index).unwrap_or_default()
    }

    fn node_port(&self, index: usize) -> u16 {
        FIRST_NODE_PORT + 2 * u16::from(self.number) + u16::try_from(index).unwrap_or_default()
    }

    /// Whether one client is to keep one endpoint.
    pub fn sticks(&self) -> bool {
        self.affinity
    }

    /// The object.
    pub fn service(&self) -> Value {
        let external = self.kind != Kind::ClusterIp;
        let port = |(index, protocol): (usize, &Protocol)| {
            let mut port = json!({"name": format!("p{index}"), "port": Self::port(index),
                "targetPort": TARGETS[index], "protocol": protocol.name()});
            if external {
                port["nodePort"] = json!(self.node_port(index));
            }
            port
        };
        let ports: Vec<Value> = self.ports.iter().enumerate().map(port).collect();
        let Both { v4, v6 } = self.cluster_ip();
        let mut spec = json!({
            "type": match self.kind {
                Kind::ClusterIp => "ClusterIP",
                Kind::NodePort => "NodePort",
                Kind::LoadBalancer => "LoadBalancer",
            },
            "ipFamilyPolicy": "RequireDualStack", "clusterIP": v4, "clusterIPs": [v4, v6], "ports": ports,
            "internalTrafficPolicy": policy(self.internal_local),
        });
        if external {
            spec["externalTrafficPolicy"] = policy(self.external_local);
        }
        if self.external_ips {
            let Both { v4, v6 } = self.external_ip();
            spec["externalIPs"] = json!([v4, v6]);
        }
        if self.affinity {
            spec["sessionAffinity"] = json!("ClientIP");
        }
        if self.source_ranges {
            // The outside host is in; Pods and the node are not.
            spec["loadBalancerSourceRanges"] = json!(["10.77.0.96/28", "fd00:77::100/120"]);
        }
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.name(), "namespace": NAMESPACE}, "spec": spec})
    }

    /// What a cloud's controller writes of a LoadBalancer.
    pub fn status(&self) -> Option<Value> {
        let Both { v4, v6 } = self.load_balancer_ip();
        let ingress = json!([{"ip": v4, "ipMode": "VIP"}, {"ip": v6, "ipMode": "VIP"}]);
        (self.kind == Kind::LoadBalancer).then(|| json!({"loadBalancer": {"ingress": ingress}}))
    }

    /// One slice a family.
    pub fn slices(&self) -> Vec<Value> {
        let port = |(index, protocol): (usize, &Protocol)| json!({"name": format!("p{index}"), "port": TARGETS[index], "protocol": protocol.name()});
        let ports: Vec<Value> = self.ports.iter().enumerate().map(port).collect();
        [("IPv4", false), ("IPv6", true)]
            .map(|(family, ipv6)| {
                let endpoint = |(site, state): &(Site, State)| {
                    json!({"addresses": [site.address().of(ipv6)],
                    "nodeName": site.node(), "conditions": state.conditions()})
                };
                let endpoints: Vec<Value> = self.endpoints.iter().map(endpoint).collect();
                json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"name": format!("{}-{}", self.name(), family.to_lowercase()),
                        "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": self.name()}},
                    "addressType": family, "endpoints": endpoints, "ports": ports})
            })
            .into()
    }
}

fn policy(local: bool) -> Value {
    json!(if local { "Local" } else { "Cluster" })
}

/// From none to four, each place at most once.
fn endpoints(rng: &mut Rng) -> Vec<(Site, State)> {
    let mut sites = Site::ALL.to_vec();
    rng.shuffle(&mut sites);
    sites.truncate(rng.usize(..5));
    let state = |rng: &mut Rng| match rng.u8(..8) {
        0 => State::NotReady,
        1 => State::Serving,
        2 => State::Terminating,
        _ => State::Ready,
    };
    sites.into_iter().map(|site| (site, state(rng))).collect()
}

/// What kind of address a packet is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aim {
    /// A port of a ClusterIP.
    ClusterIp,
    /// A ClusterIP, by a port or protocol that its Service does not have.
    ClusterIpOtherPort,
    /// An address of the Service range that nobody has.
    UnallocatedClusterIp,
    /// A node port of the address that the Node object has.
    NodePort,
    /// A node port of another address of the node.
    NodePortOnSecond,
    /// A node port of the loopback address, from the node itself.
    NodePortOnLoopback,
    /// A port of the node that is nobody's node port.
    NoNodePort,
    /// An external address.
    ExternalIp,
    /// An address that a load balancer's controller gave.
    LoadBalancer,
    /// An external or load-balancer address, by a port that its Service does not have.
    VipOtherPort,
}

impl Aim {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ClusterIp,
        Self::ClusterIpOtherPort,
        Self::UnallocatedClusterIp,
        Self::NodePort,
        Self::NodePortOnSecond,
        Self::NodePortOnLoopback,
        Self::NoNodePort,
        Self::ExternalIp,
        Self::LoadBalancer,
        Self::VipOtherPort,
    ];
}

impl Origin {
    /// Whether such packets meet this node's proxy: loopback is the node's own, and a Pod elsewhere asks its own node's
    /// proxy for ClusterIPs.
    pub fn reaches(self, aim: Aim) -> bool {
        match aim {
            Aim::NodePortOnLoopback => self == Self::Host,
            Aim::ClusterIp | Aim::ClusterIpOtherPort | Aim::UnallocatedClusterIp => self != Self::FarPod,
            Aim::NodePort
            | Aim::NodePortOnSecond
            | Aim::NoNodePort
            | Aim::ExternalIp
            | Aim::LoadBalancer
            | Aim::VipOtherPort => true,
        }
    }
}

/// The first packet of a flow, but for the client's port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// What it is aimed at.
    pub aim: Aim,
    /// Where it comes from.
    pub origin: Origin,
    /// Layer 4.
    pub protocol: Protocol,
    /// Where it goes.
    pub to: SocketAddr,
    /// The Service that it is meant for.
    pub service: Option<String>,
    /// Whether one client is to keep one endpoint.
    pub sticks: bool,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            aim,
            origin,
            protocol,
            to,
            service,
            ..
        } = self;
        let service = service.as_deref().unwrap_or("no Service");
        write!(f, "{origin:?} to {} {to} ({aim:?} of {service})", protocol.name())
    }
}

/// Services, and packets to them.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// In the order in which they are to be created.
    pub services: Vec<ServiceSpec>,
    /// No two equal.
    pub packets: Vec<Packet>,
}

impl Scenario {
    /// `services` Services, at most 200, and `packets` packets, fewer only where there are not so many different ones.
    pub fn random(seed: u64, services: u8, packets: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let services: Vec<ServiceSpec> = (1..=services.min(200))
            .map(|number| ServiceSpec::random(number, &mut rng))
            .collect();
        let mut found = std::collections::BTreeSet::new();
        for _ in 0..packets * 20 {
            if found.len() == packets {
                break;
            }
            found.extend(packet(&services, &mut rng));
        }
        Self {
            services,
            packets: found.into_iter().collect(),
        }
    }
}

/// `None` where the Service drawn has no such address.
fn packet(services: &[ServiceSpec], rng: &mut Rng) -> Option<Packet> {
    let service = &services[rng.usize(..services.len())];
    // The common ones more often: what a Service answers on.
    let aim = match rng.u8(..20) {
        0..=5 => Aim::ClusterIp,
        6..=8 => Aim::NodePort,
        9..=11 => Aim::ExternalIp,
        12..=14 => Aim::LoadBalancer,
        _ => Aim::ALL[rng.usize(..Aim::ALL.len())],
    };
    let index = rng.usize(..service.ports.len());
    let protocol = service.ports[index];
    let origin = Origin::ALL[rng.usize(..Origin::ALL.len())];
    let ipv6 = rng.bool();
    let (address, port, protocol) = target(service, aim, index, ipv6, protocol, rng)?;
    if !origin.reaches(aim) {
        return None;
    }
    let owned = !matches!(aim, Aim::UnallocatedClusterIp | Aim::NoNodePort);
    Some(Packet {
        aim,
        origin,
        protocol,
        to: SocketAddr::new(address, port),
        service: owned.then(|| service.name()),
        sticks: service.affinity && owned,
    })
}

fn target(
    service: &ServiceSpec,
    aim: Aim,
    index: usize,
    ipv6: bool,
    protocol: Protocol,
    rng: &mut Rng,
) -> Option<(IpAddr, u16, Protocol)> {
    const NOBODYS: u16 = 4_321;
    let port = ServiceSpec::port(index);
    let (external, balanced) = (
        service.kind != Kind::ClusterIp,
        service.kind == Kind::LoadBalancer,
    );
    let cluster_ip = service.cluster_ip().of(ipv6);
    let loopback = if ipv6 {
        IpAddr::from(Ipv6Addr::LOCALHOST)
    } else {
        Ipv4Addr::LOCALHOST.into()
    };
    let wanted = |there: bool, address: IpAddr, port: u16| there.then_some((address, port, protocol));
    match aim {
        Aim::ClusterIp => wanted(true, cluster_ip, port),
        Aim::ClusterIpOtherPort => Some((cluster_ip, NOBODYS, Protocol::ALL[rng.usize(..2)])),
        Aim::UnallocatedClusterIp => wanted(true, both([10, 96, 99], 0x9000, service.number).of(ipv6), port),
        Aim::NodePort => wanted(external, NODE.of(ipv6), service.node_port(index)),
        Aim::NodePortOnSecond => wanted(external, SECOND.of(ipv6), service.node_port(index)),
        Aim::NodePortOnLoopback => wanted(external, loopback, service.node_port(index)),
        Aim::NoNodePort => wanted(true, NODE.of(ipv6), NOBODYS),
        Aim::ExternalIp => wanted(service.external_ips, service.external_ip().of(ipv6), port),
        Aim::LoadBalancer => wanted(balanced, service.load_balancer_ip().of(ipv6), port),
        Aim::VipOtherPort if balanced => wanted(true, service.load_balancer_ip().of(ipv6), NOBODYS),
        Aim::VipOtherPort => wanted(service.external_ips, service.external_ip().of(ipv6), NOBODYS),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;

    #[test]
    fn a_seed_means_the_same_and_every_aim_and_origin_comes_up() {
        let make = |seed| Scenario::random(seed, 24, 400);
        let (one, same) = (make(7), make(7));
        assert_eq!(one.packets, same.packets);
        assert_ne!(one.packets, make(8).packets);
        assert_eq!(one.packets.len(), 400);
        let aims: BTreeSet<Aim> = one.packets.iter().map(|packet| packet.aim).collect();
        assert_eq!(aims, BTreeSet::from(Aim::ALL));
        let origins: BTreeSet<Origin> = one.packets.iter().map(|packet| packet.origin).collect();
        assert_eq!(origins, BTreeSet::from(Origin::ALL));
    }

    #[test]
    fn every_kind_of_service_comes_up() {
        let services = Scenario::random(3, 60, 1).services;
        let specs: Vec<Value> = services
            .iter()
            .map(|spec| spec.service()["spec"].clone())
            .collect();
        for (field, value) in [
            ("internalTrafficPolicy", json!("Local")),
            ("externalTrafficPolicy", json!("Local")),
            ("sessionAffinity", json!("ClientIP")),
        ] {
            assert!(specs.iter().any(|spec| spec[field] == value), "{field}");
        }
        assert!(
            specs
                .iter()
                .any(|spec| !spec["loadBalancerSourceRanges"].is_null())
        );
    }

    #[test]
    fn objects_are_what_the_api_takes() {
        for spec in Scenario::random(5, 40, 1).services {
            let service: Service = serde_json::from_value(spec.service()).unwrap();
            assert_eq!(service.spec.unwrap().cluster_ips.unwrap().len(), 2);
            for slice in spec.slices() {
                let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
                assert_eq!(slice.endpoints.unwrap().len(), spec.endpoints.len());
            }
        }
    }
}
