// SPDX-License-Identifier: Apache-2.0
//! Services with EndpointSlices as the controllers write them, without the Pods, which no proxy reads. Pure.

use std::net::Ipv4Addr;

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

/// Services of one family with ready endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProxyData {
    /// How many Services, at most 50,000.
    pub(crate) services: u32,
    /// How many ports each has, 1 or 2.
    pub(crate) ports: usize,
    /// How many endpoints each has, in one slice.
    pub(crate) endpoints: u32,
}

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

    /// Path and name of a Service's slice.
    pub(super) fn slice_path(index: u32) -> String {
        format!("{}/{}", slices(index), slice_name(index))
    }

    fn service(&self, index: u32) -> Posted {
        let namespace = namespace(index);
        let name = name(index);
        let port = |(name, port, target): &(&str, u16, u16)| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
        let ports: Vec<Value> = self.ports().iter().map(port).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": {"app.kubernetes.io/name": format!("app-{index}"), "app.kubernetes.io/managed-by": "Helm"},
                "annotations": {"meta.helm.sh/release-name": format!("release-{index}")},
            },
            "spec": {"clusterIP": Self::cluster_ip(index), "ports": ports,
                "selector": {"app.kubernetes.io/name": format!("app-{index}")}},
        });
        let collection = format!("/api/v1/namespaces/{namespace}/services");
        posted(&collection, &name, object, None)
    }

    fn slice(&self, index: u32) -> Posted {
        let endpoint = |number: u32| {
            let number = index * self.endpoints + number;
            json!({"addresses": [endpoint_ip(number)], "nodeName": node_name(number % NODES),
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
                "name": slice_name(index), "namespace": namespace(index),
                "labels": {"kubernetes.io/service-name": name(index),
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:05Z"},
            },
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        });
        posted(&slices(index), &slice_name(index), object, None)
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

fn slice_name(index: u32) -> String {
    format!("{}-x7k2p", name(index))
}

/// In 10.128.0.0/9, which has room for eight million.
fn endpoint_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + number)
}

impl Data for ProxyData {
    fn describe(&self) -> String {
        let ports = if self.ports == 1 { "port" } else { "ports" };
        format!(
            "{} ClusterIP Services of {} {ports} x {} ready endpoints, IPv4, {NAMESPACES} namespaces, {NODES} Nodes",
            self.services, self.ports, self.endpoints
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
        (0..self.services).flat_map(|index| [self.service(index), self.slice(index)])
    }
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

    #[test]
    fn other_data_has_another_key_and_the_largest_fits_the_range() {
        let key = |services, ports| {
            ProxyData {
                services,
                ports,
                endpoints: 5,
            }
            .key("x")
        };
        assert_eq!(BTreeSet::from([key(10, 1), key(10, 2), key(11, 1)]).len(), 3);
    }
}
