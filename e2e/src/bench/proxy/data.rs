// SPDX-License-Identifier: Apache-2.0
//! Services with EndpointSlices as the controllers write them, without the Pods, which no proxy reads. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::dataset::{PREFIX, Posted, node, node_name, posted};
use super::super::store::Data;

/// Part of the name of stored data: to be raised when the objects below change.
const GENERATION: u32 = 1;
const NAMESPACES: u32 = 10;
const NODES: u32 = 100;
/// Name, port of the Service, port of the endpoints.
pub(super) const PORTS: [(&str, u16, u16); 2] = [("http", 80, 8_080), ("metrics", 9_090, 9_090)];

/// Services with ready endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyData {
    /// How many Services, at most 50,000.
    pub(crate) services: u32,
    /// How many ports each has, 1 or 2.
    pub(crate) ports: usize,
    /// How many endpoints each has, in one slice a family.
    pub(crate) endpoints: u32,
    /// Of what kinds they are.
    pub(crate) kinds: Kinds,
}

/// What the Services ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    /// One ClusterIP.
    Plain,
    /// A ClusterIP of each family, and in turn: nothing more, a load balancer under external policy Local, a load
    /// balancer with source ranges, session affinity. At most 2,000 Services: there are so many node ports.
    Mixed,
}

/// What a slice has addresses of.
#[derive(Clone, Copy)]
enum AddressType {
    V4,
    V6,
}

impl AddressType {
    /// As the API has it.
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// How many kinds [`Kinds::Mixed`] has.
const MIXED: u32 = 4;
/// The range of node ports begins here; upstream's default.
const NODE_PORTS: u32 = 30_000;
/// Above all node ports.
const HEALTH_PORTS: u32 = 32_100;

impl ProxyData {
    /// The Node whose proxy is measured.
    pub(super) fn node() -> String {
        node_name(0)
    }

    /// Ports of the Services and of their endpoints.
    pub(super) fn ports(&self) -> &'static [(&'static str, u16, u16)] {
        &PORTS[..self.ports.min(PORTS.len())]
    }

    /// Where a Service is found.
    pub(super) fn cluster_ip(index: u32) -> Ipv4Addr {
        // The first addresses of the range are the API server's.
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + index)
    }

    /// Path and name of a Service's slice of IPv4.
    pub(super) fn slice_path(index: u32) -> String {
        format!("{}/{}", slices(index), slice_name(index, AddressType::V4))
    }

    fn service(&self, index: u32) -> Posted {
        let namespace = namespace(index);
        let name = name(index);
        let port = |(name, port, target): &(&str, u16, u16)| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
        let ports: Vec<Value> = self.ports().iter().map(port).collect();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": {"app.kubernetes.io/name": format!("app-{index}"), "app.kubernetes.io/managed-by": "Helm"},
                "annotations": {"meta.helm.sh/release-name": format!("release-{index}")},
            },
            "spec": {"clusterIP": Self::cluster_ip(index), "ports": ports,
                "selector": {"app.kubernetes.io/name": format!("app-{index}")}},
        });
        let status = match self.kinds {
            Kinds::Plain => None,
            Kinds::Mixed => self.mix(index, &mut object["spec"]),
        };
        let collection = format!("/api/v1/namespaces/{namespace}/services");
        posted(&collection, &name, object, status)
    }

    /// Makes a Service what its turn says; also its status.
    fn mix(&self, index: u32, spec: &mut Value) -> Option<Value> {
        let v6 = Ipv6Addr::from(
            u128::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x100)) + u128::from(index),
        );
        spec["clusterIPs"] = json!([Self::cluster_ip(index), v6]);
        spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
        spec["ipFamilyPolicy"] = json!("RequireDualStack");
        let kind = index % MIXED;
        let balanced = match kind {
            1 => {
                spec["externalTrafficPolicy"] = json!("Local");
                spec["healthCheckNodePort"] = json!(HEALTH_PORTS + index / MIXED);
                true
            }
            2 => {
                spec["loadBalancerSourceRanges"] = json!(["10.0.0.0/8", "192.168.0.0/16", "fd00::/8"]);
                true
            }
            3 => {
                spec["sessionAffinity"] = json!("ClientIP");
                false
            }
            _ => false,
        };
        if !balanced {
            return None;
        }
        spec["type"] = json!("LoadBalancer");
        let ports = u32::try_from(self.ports().len()).unwrap_or(u32::MAX);
        let first = NODE_PORTS + (index / MIXED * 2 + kind - 1) * ports;
        let each = spec["ports"].as_array_mut().into_iter().flatten();
        for (port, number) in each.zip(first..) {
            port["nodePort"] = json!(number);
        }
        let v4 = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + index);
        Some(json!({"loadBalancer": {"ingress": [{"ip": v4}, {"ip": format!("fd00:198:18::{index:x}")}]}}))
    }

    fn slice(&self, index: u32, family: AddressType) -> Posted {
        let endpoint = |number: u32| {
            let number = index * self.endpoints + number;
            let address = match family {
                AddressType::V4 => endpoint_ip(number).to_string(),
                AddressType::V6 => endpoint_ipv6(number).to_string(),
            };
            json!({"addresses": [address], "nodeName": node_name(number % NODES),
                "zone": format!("zone-{}", number % NODES % 3),
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace(index),
                    "name": format!("app-{index}-7d4b9c5f6-{number:06}"),
                    "uid": format!("00000000-0000-4000-9000-{number:012x}")}})
        };
        let endpoints: Vec<Value> = (0..self.endpoints).map(endpoint).collect();
        let port =
            |(name, _, target): &(&str, u16, u16)| json!({"name": name, "port": target, "protocol": "TCP"});
        let ports: Vec<Value> = self.ports().iter().map(port).collect();
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": slice_name(index, family), "namespace": namespace(index),
                "labels": {"kubernetes.io/service-name": name(index),
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:05Z"},
            },
            "addressType": family.name(), "endpoints": endpoints, "ports": ports,
        });
        posted(&slices(index), &slice_name(index, family), object, None)
    }
}

fn namespace(index: u32) -> String {
    format!("{PREFIX}{}", index % NAMESPACES)
}

fn name(index: u32) -> String {
    format!("svc-{index}")
}

fn slices(index: u32) -> String {
    let namespace = namespace(index);
    format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")
}

fn slice_name(index: u32, family: AddressType) -> String {
    let suffix = match family {
        AddressType::V4 => "x7k2p",
        AddressType::V6 => "x7k6p",
    };
    format!("{}-{suffix}", name(index))
}

/// In 10.128.0.0/9, which has room for eight million.
fn endpoint_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number)
}

impl Data for ProxyData {
    fn describe(&self) -> String {
        let ports = if self.ports == 1 { "port" } else { "ports" };
        let kinds = match self.kinds {
            Kinds::Plain => ("ClusterIP Services", "IPv4"),
            Kinds::Mixed => (
                "Services (a quarter each: ClusterIP; load balancer under Local; load balancer with source ranges; affinity)",
                "dual stack",
            ),
        };
        format!(
            "{} {} of {} {ports} x {} ready endpoints, {}, {NAMESPACES} namespaces, {NODES} Nodes",
            self.services, kinds.0, self.ports, self.endpoints, kinds.1
        )
    }

    fn key(&self, control_plane: &str) -> String {
        let text = format!("proxy {GENERATION} {} {control_plane}", self.describe());
        let digest = Sha256::digest(text.as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn foundations(&self) -> Vec<Posted> {
        let namespaces = (0..NAMESPACES).map(|index| {
            let name = format!("{PREFIX}{index}");
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            posted("/api/v1/namespaces", &name, object, None)
        });
        namespaces.chain((0..NODES).map(node)).collect()
    }

    fn workload(&self) -> impl Iterator<Item = Posted> {
        let families: &[AddressType] = match self.kinds {
            Kinds::Plain => &[AddressType::V4],
            Kinds::Mixed => &[AddressType::V4, AddressType::V6],
        };
        (0..self.services).flat_map(move |index| {
            let slices = families.iter().map(move |family| self.slice(index, *family));
            std::iter::once(self.service(index)).chain(slices)
        })
    }
}

fn endpoint_ipv6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 0, 0)) + u128::from(number))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;

    #[test]
    fn addresses_are_unique_and_within_their_ranges() {
        let data = ProxyData {
            services: 300,
            ports: 2,
            endpoints: 5,
            kinds: Kinds::Plain,
        };
        let objects: Vec<Posted> = data.workload().collect();
        let (mut services, mut endpoints) = (BTreeSet::new(), BTreeSet::new());
        for pair in objects.chunks(2) {
            let service: Service = serde_json::from_value(pair[0].object.clone()).unwrap();
            let slice: EndpointSlice = serde_json::from_value(pair[1].object.clone()).unwrap();
            services.insert(service.spec.unwrap().cluster_ip.unwrap());
            endpoints.extend(
                slice
                    .endpoints
                    .unwrap()
                    .into_iter()
                    .flat_map(|endpoint| endpoint.addresses),
            );
        }
        assert_eq!((services.len(), endpoints.len()), (300, 1_500));
        let last = ProxyData::cluster_ip(49_999).octets();
        assert_eq!(last[..2], [10, 96]);
        assert_eq!(endpoint_ip(8_388_607), Ipv4Addr::new(10, 255, 255, 255));
    }

    /// The API server takes no other form.
    #[test]
    fn every_address_of_mixed_services_is_in_canonical_form() {
        let data = ProxyData {
            services: 300,
            ports: 2,
            endpoints: 10,
            kinds: Kinds::Mixed,
        };
        let mut ipv6 = 0;
        for posted in data.workload() {
            let endpoints = posted.object["endpoints"].as_array().cloned().unwrap_or_default();
            for endpoint in endpoints {
                let text = endpoint["addresses"][0].as_str().unwrap().to_owned();
                let address: std::net::IpAddr = text.parse().unwrap();
                assert_eq!(address.to_string(), text);
                ipv6 += u32::from(address.is_ipv6());
            }
        }
        assert!(ipv6 > 0);
    }

    #[test]
    fn other_data_has_another_key_and_the_largest_fits_the_range() {
        let key = |services, ports, kinds| {
            ProxyData {
                services,
                ports,
                endpoints: 5,
                kinds,
            }
            .key("x")
        };
        let keys = [
            key(10, 1, Kinds::Plain),
            key(10, 2, Kinds::Plain),
            key(11, 1, Kinds::Plain),
            key(10, 1, Kinds::Mixed),
        ];
        assert_eq!(BTreeSet::from(keys).len(), 4);
    }

    #[test]
    fn mixed_services_share_no_port_and_stay_within_the_range_of_node_ports() {
        let data = ProxyData {
            services: 2_000,
            ports: 2,
            endpoints: 1,
            kinds: Kinds::Mixed,
        };
        let mut taken = BTreeSet::new();
        let (mut balancers, mut slices) = (0, 0);
        for posted in data.workload() {
            if posted.object["kind"] == "EndpointSlice" {
                slices += 1;
                continue;
            }
            let service: Service = serde_json::from_value(posted.object.clone()).unwrap();
            let spec = service.spec.unwrap();
            assert_eq!(spec.cluster_ips.unwrap().len(), 2);
            balancers += usize::from(spec.type_.as_deref() == Some("LoadBalancer"));
            assert_eq!(posted.status.is_some(), spec.type_.is_some());
            let ports = spec.ports.unwrap().into_iter().filter_map(|port| port.node_port);
            for port in ports.chain(spec.health_check_node_port) {
                assert!((30_000..=32_767).contains(&port), "{port}");
                assert!(taken.insert(port), "{port} is taken twice");
            }
        }
        assert_eq!((balancers, slices, taken.len()), (1_000, 4_000, 2_500));
    }
}
