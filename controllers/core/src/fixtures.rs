// SPDX-License-Identifier: Apache-2.0
//! Objects for tests, and an API server of a few lines that takes plans.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_snapshot::pod::{Container, ContainerPort, Pod, PodCondition, PodManifest, PodSpec, PodStatus};
use k8s_openapi::api::core::v1::{PodIP, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;

use crate::plan::Plan;
use crate::service::Labels;
use crate::slices::{NodeFacts, Nodes};

pub(crate) fn mk_labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn mk_meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("shop".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{name}")),
        creation_timestamp: Some(Time(at(100))),
        ..ObjectMeta::default()
    }
}

pub(crate) fn mk_port(name: &str, port: i32, target: IntOrString) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        port,
        protocol: Some("TCP".to_owned()),
        target_port: Some(target),
        ..ServicePort::default()
    }
}

/// `shop/web`, IPv4, selects `app=web`, port http 80 to 8080.
pub(crate) fn mk_service() -> Service {
    Service {
        metadata: mk_meta("web"),
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.0.10".to_owned()),
            ip_families: Some(vec!["IPv4".to_owned()]),
            selector: Some(mk_labels(&[("app", "web")])),
            ports: Some(vec![mk_port("http", 80, IntOrString::Int(8080))]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// [`mk_service`] with another spec.
pub(crate) fn mk_service_with(edit: impl FnOnce(&mut ServiceSpec)) -> Service {
    let mut service = mk_service();
    edit(service.spec.as_mut().unwrap());
    service
}

pub(crate) fn mk_condition(ready: bool) -> PodCondition {
    PodCondition {
        type_: "Ready".to_owned(),
        status: if ready { "True" } else { "False" }.to_owned(),
        last_transition_time: Some(Time(at(200))),
    }
}

/// A running, ready Pod `shop/web-N` on node-1 with one address per family.
pub(crate) fn mk_pod(number: u16) -> Pod {
    mk_manifest(number).into()
}

pub(crate) fn mk_manifest(number: u16) -> PodManifest {
    let [high, low] = number.to_be_bytes();
    let ips = [format!("10.244.{high}.{low}"), format!("fd00::1:{number:x}")];
    PodManifest {
        metadata: ObjectMeta {
            labels: Some(mk_labels(&[("app", "web")])),
            ..mk_meta(&format!("web-{number}"))
        },
        spec: PodSpec {
            node_name: Some("node-1".to_owned()),
            ..PodSpec::default()
        },
        status: PodStatus {
            phase: Some("Running".to_owned()),
            pod_ip: Some(ips[0].clone()),
            pod_ips: ips.map(|ip| PodIP { ip }).to_vec(),
            conditions: vec![mk_condition(true)],
        },
    }
}

/// [`mk_pod`] with changes.
pub(crate) fn mk_pod_with(number: u16, edit: impl FnOnce(&mut PodManifest)) -> Arc<Pod> {
    let mut pod = mk_manifest(number);
    edit(&mut pod);
    Arc::new(pod.into())
}

pub(crate) fn mk_pods(numbers: std::ops::Range<u16>) -> Vec<Arc<Pod>> {
    numbers.map(|number| Arc::new(mk_pod(number))).collect()
}

/// A container with one named TCP port.
pub(crate) fn mk_container(name: &str, port: i32) -> Container {
    mk_container_of(name, port, Some("TCP"))
}

pub(crate) fn mk_container_of(name: &str, port: i32, protocol: Option<&str>) -> Container {
    Container {
        ports: vec![ContainerPort {
            name: Some(name.to_owned()),
            container_port: port,
            protocol: protocol.map(str::to_owned),
        }],
        ..Container::default()
    }
}

/// Nodes with their zones; an empty zone stands for none.
pub(crate) fn mk_nodes(nodes: &[(&str, &str)]) -> Nodes {
    let facts = |zone: &str| NodeFacts {
        zone: Some(zone).filter(|zone| !zone.is_empty()).map(Into::into),
        ..NodeFacts::default()
    };
    nodes
        .iter()
        .map(|(name, zone)| ((*name).into(), facts(zone)))
        .collect()
}

/// Holds the slices of one namespace as an API server would.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    clock: i64,
    pub(crate) writes: usize,
}

impl Server {
    pub(crate) fn slices(&self) -> Vec<Arc<EndpointSlice>> {
        self.slices.values().map(Arc::clone).collect()
    }

    /// Stores a slice as it is, giving it what a server gives.
    pub(crate) fn put(&mut self, mut slice: EndpointSlice) {
        self.clock += 1;
        let clock = self.clock;
        let meta = &mut slice.metadata;
        let prefix = meta.generate_name.clone().unwrap_or_default();
        let name = meta
            .name
            .get_or_insert_with(|| format!("{prefix}{clock:04}"))
            .clone();
        let before = self.slices.get(&name).map(|slice| slice.metadata.clone());
        meta.uid = before
            .as_ref()
            .map_or_else(|| Some(format!("uid-{name}")), |before| before.uid.clone());
        meta.generation = Some(before.and_then(|before| before.generation).unwrap_or(0) + 1);
        meta.resource_version = Some(clock.to_string());
        self.slices.insert(name, Arc::new(slice));
    }

    /// Makes the writes of a plan, and panics where a real server would refuse one.
    pub(crate) fn apply(&mut self, plan: &Plan<EndpointSlice>) {
        self.writes += plan.len();
        for slice in &plan.create {
            assert_eq!(slice.metadata.name, None, "the server picks the name");
            assert_eq!(slice.metadata.resource_version, None);
            self.put(slice.clone());
        }
        for slice in &plan.update {
            let name = slice.metadata.name.as_ref().unwrap();
            let before = &self.slices[name];
            assert_eq!(before.address_type, slice.address_type, "immutable");
            if slice.metadata.resource_version.is_some() {
                assert_eq!(
                    before.metadata.resource_version, slice.metadata.resource_version,
                    "conflict"
                );
            }
            self.put(slice.clone());
        }
        for gone in &plan.delete {
            let before = self.slices.remove(&gone.name).unwrap();
            assert_eq!(before.metadata.uid, gone.uid, "precondition");
        }
    }
}
