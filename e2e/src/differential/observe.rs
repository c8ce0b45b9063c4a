// SPDX-License-Identifier: Apache-2.0
//! What an API server holds, without what differs between two servers for no reason of the controllers: names that
//! servers make up, uids, addresses of Services, times, order.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::packing::{Packed, packed};
use super::request::SLICE_MANAGED_BY;
pub(crate) use super::rows::{
    AddressRow, EndpointRow, EndpointsView, Identity, Port, SliceRow, Target, Writer,
};
use super::step::Map;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const SELECTOR_MADE: &str = "endpointslice-controller.k8s.io";
const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Annotation of Services by which the harness makes upstream alone look again.
pub(crate) const NUDGED: &str = "nudged";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Everything that an API server lists.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub(crate) services: Vec<Service>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) endpoints: Vec<Endpoints>,
    pub(crate) slices: Vec<EndpointSlice>,
    pub(crate) nodes: Vec<Node>,
}

/// A namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// What was put in, without what the server chose.
    pub(crate) inputs: BTreeMap<String, Value>,
    /// Pods that have ended.
    pub(crate) finished: Vec<String>,
    pub(crate) endpoints: BTreeMap<String, EndpointsView>,
    pub(crate) rows: BTreeMap<(String, Writer), Vec<SliceRow>>,
    pub(crate) slices: BTreeMap<(String, Writer), Vec<Packed>>,
}

/// The zone of each node there is.
pub(crate) fn zones(listed: &Listed) -> BTreeMap<String, Option<String>> {
    let zone = |node: &Node| node.metadata.labels.as_ref()?.get(ZONE).cloned();
    listed
        .nodes
        .iter()
        .map(|node| (name(&node.metadata), zone(node)))
        .collect()
}

/// Each namespace with something in it.
pub(crate) fn observe(listed: &Listed) -> BTreeMap<String, Observed> {
    let uids = Uids::of(listed);
    let mut all: BTreeMap<String, Observed> = BTreeMap::new();
    for service in &listed.services {
        let here = all.entry(namespace(&service.metadata)).or_default();
        here.inputs.insert(
            format!("service {}", name(&service.metadata)),
            service_input(service),
        );
    }
    for pod in &listed.pods {
        let here = all.entry(namespace(&pod.metadata)).or_default();
        here.inputs
            .insert(format!("pod {}", name(&pod.metadata)), pod_input(pod));
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Failed" | "Succeeded")) {
            here.finished.push(name(&pod.metadata));
        }
    }
    for endpoints in &listed.endpoints {
        let here = all.entry(namespace(&endpoints.metadata)).or_default();
        here.endpoints
            .insert(name(&endpoints.metadata), endpoints_view(endpoints, &uids));
    }
    for slice in &listed.slices {
        let labels = slice.metadata.labels.clone().unwrap_or_default();
        let writer = match labels.get(SLICE_MANAGED_BY).map(String::as_str) {
            Some(SELECTOR_MADE) => Writer::Selector,
            Some(MIRRORED) => Writer::Mirror,
            Some(_) | None => continue,
        };
        let here = all.entry(namespace(&slice.metadata)).or_default();
        let key = (labels.get(SERVICE_NAME).cloned().unwrap_or_default(), writer);
        here.slices
            .entry(key.clone())
            .or_default()
            .push(pack(slice, &uids));
        here.rows
            .entry(key)
            .or_default()
            .extend(slice_rows(slice, writer, &uids));
    }
    for observed in all.values_mut() {
        observed.rows.values_mut().for_each(|rows| rows.sort());
    }
    all
}

/// Which uid is the current one of an object that others refer to.
struct Uids(BTreeMap<(String, String, String), String>);

impl Uids {
    fn of(listed: &Listed) -> Self {
        let services = listed.services.iter().map(|object| ("Service", &object.metadata));
        let pods = listed.pods.iter().map(|object| ("Pod", &object.metadata));
        let endpoints = listed
            .endpoints
            .iter()
            .map(|object| ("Endpoints", &object.metadata));
        let entry = |(kind, meta): (&str, &ObjectMeta)| {
            (
                (kind.to_owned(), namespace(meta), name(meta)),
                meta.uid.clone().unwrap_or_default(),
            )
        };
        Self(services.chain(pods).chain(endpoints).map(entry).collect())
    }

    fn identity(&self, kind: &str, namespace: &str, name: &str, uid: Option<&str>) -> Identity {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        match uid {
            None | Some("") => Identity::None,
            Some(uid) if self.0.get(&key).map(String::as_str) == Some(uid) => Identity::Current,
            Some(_) => Identity::Outdated,
        }
    }

    fn target(&self, reference: &ObjectReference) -> Target {
        Target {
            uid: self.identity(
                reference.kind.as_deref().unwrap_or_default(),
                reference.namespace.as_deref().unwrap_or_default(),
                reference.name.as_deref().unwrap_or_default(),
                reference.uid.as_deref(),
            ),
            kind: reference.kind.clone(),
            namespace: reference.namespace.clone(),
            name: reference.name.clone(),
        }
    }
}

fn name(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

fn namespace(meta: &ObjectMeta) -> String {
    meta.namespace.clone().unwrap_or_default()
}

fn annotations(meta: &ObjectMeta) -> Map {
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.remove(TRIGGER_TIME);
    annotations
}

fn service_input(service: &Service) -> Value {
    let mut spec = json!(service.spec);
    let headless = spec["clusterIP"] == json!("None");
    for chosen in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        spec[chosen] = json!(headless);
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        port["nodePort"] = Value::Null;
    }
    let mut annotations = service.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(NUDGED);
    json!({"labels": service.metadata.labels, "annotations": annotations, "spec": spec})
}

fn pod_input(pod: &Pod) -> Value {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.iter().flatten();
    let ready = conditions
        .filter(|condition| condition.type_ == "Ready")
        .map(|condition| &condition.status);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    json!({
        "labels": pod.metadata.labels,
        "deleted": pod.metadata.deletion_timestamp.is_some(),
        "node": node,
        "phase": status.phase,
        "ips": status.pod_ips,
        "ready": ready.collect::<Vec<_>>(),
    })
}

fn endpoints_view(endpoints: &Endpoints, uids: &Uids) -> EndpointsView {
    let mut rows = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let port = |port: &k8s_openapi::api::core::v1::EndpointPort| Port {
            name: port.name.clone(),
            port: Some(port.port),
            protocol: port.protocol.clone(),
            app: port.app_protocol.clone(),
        };
        let mut ports: Vec<Option<Port>> = subset.ports.iter().flatten().map(|p| Some(port(p))).collect();
        if ports.is_empty() {
            ports.push(None);
        }
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready) {
            rows.extend(
                ports
                    .iter()
                    .map(|port| address_row(address, ready, port.clone(), uids)),
            );
        }
    }
    rows.sort();
    EndpointsView {
        labels: endpoints.metadata.labels.clone().unwrap_or_default(),
        annotations: annotations(&endpoints.metadata),
        rows,
        owned: endpoints.metadata.owner_references.is_some(),
    }
}

fn address_row(address: &EndpointAddress, ready: bool, port: Option<Port>, uids: &Uids) -> AddressRow {
    AddressRow {
        port,
        ip: address.ip.clone(),
        ready,
        hostname: address.hostname.clone(),
        node: address.node_name.clone(),
        target: address
            .target_ref
            .as_ref()
            .map(|reference| uids.target(reference)),
    }
}

/// Slices as a stranger sees them, without the objects that they refer to.
pub(crate) fn packed_alone(slice: &EndpointSlice) -> Packed {
    pack(slice, &Uids(BTreeMap::new()))
}

fn pack(slice: &EndpointSlice, uids: &Uids) -> Packed {
    let endpoints = slice.endpoints.iter().flatten();
    packed(
        slice,
        slice_ports(slice),
        endpoints.map(|endpoint| endpoint_row(endpoint, uids)).collect(),
    )
}

fn slice_ports(slice: &EndpointSlice) -> Vec<Port> {
    let port = |port: &k8s_openapi::api::discovery::v1::EndpointPort| Port {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol.clone(),
        app: port.app_protocol.clone(),
    };
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(port).collect();
    ports.sort();
    ports
}

fn slice_rows(slice: &EndpointSlice, writer: Writer, uids: &Uids) -> Vec<SliceRow> {
    let ports = slice_ports(slice);
    let here = namespace(&slice.metadata);
    let owner = slice
        .metadata
        .owner_references
        .iter()
        .flatten()
        .next()
        .map(|owner| Target {
            uid: uids.identity(&owner.kind, &here, &owner.name, Some(&owner.uid)),
            kind: Some(format!(
                "{} {} controller={:?} block={:?}",
                owner.api_version, owner.kind, owner.controller, owner.block_owner_deletion
            )),
            namespace: None,
            name: Some(owner.name.clone()),
        });
    let row = |endpoint| SliceRow {
        family: slice.address_type.clone(),
        ports: ports.clone(),
        endpoint,
        owner: owner.clone(),
        labels: slice.metadata.labels.clone().unwrap_or_default(),
        // Those of a selector's slices are kept from whoever wrote them, and compared by nobody.
        annotations: match writer {
            Writer::Selector => Map::new(),
            Writer::Mirror => annotations(&slice.metadata),
        },
    };
    let endpoints: Vec<&Endpoint> = slice.endpoints.iter().flatten().collect();
    if endpoints.is_empty() {
        return vec![row(None)];
    }
    endpoints
        .into_iter()
        .map(|endpoint| row(Some(endpoint_row(endpoint, uids))))
        .collect()
}

fn endpoint_row(endpoint: &Endpoint, uids: &Uids) -> EndpointRow {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    EndpointRow {
        addresses: endpoint.addresses.clone(),
        ready: conditions.ready,
        serving: conditions.serving,
        terminating: conditions.terminating,
        hostname: endpoint.hostname.clone(),
        node: endpoint.node_name.clone(),
        zone: endpoint.zone.clone(),
        target: endpoint
            .target_ref
            .as_ref()
            .map(|reference| uids.target(reference)),
        for_zones: hints
            .for_zones
            .into_iter()
            .flatten()
            .map(|zone| zone.name)
            .collect(),
        for_nodes: hints
            .for_nodes
            .into_iter()
            .flatten()
            .map(|node| node.name)
            .collect(),
    }
}
