// SPDX-License-Identifier: Apache-2.0
//! Steps as requests to an API server.

use serde_json::{Value, json};

use super::step::{
    AddressShape, ContainerPort, EndpointsEdit, EndpointsMeddling, EndpointsShape, Kind, Map, NodeShape,
    PodEdit, PodShape, PodStatus, Policy, PortShape, ServiceEdit, ServiceShape, SliceMeddling, Stack, Step,
    SubsetShape, Target,
};

/// The mark that strangers leave: a label, and part of the addresses they write.
pub(crate) const STRANGER: &str = "stranger";
/// The address that a stranger writes into Endpoints (TEST-NET-2, RFC 5737).
pub(crate) const STRANGERS_ADDRESS: &str = "198.51.100.7";
/// Whose slice it is once a stranger has given it away.
pub(crate) const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Service,
    Pod,
    Endpoints,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verb {
    Create(Value),
    /// JSON patch (RFC 6902).
    Patch(Value),
    PatchStatus(Value),
    Bind(String),
    Delete {
        /// In seconds.
        grace: u32,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) resource: Resource,
    pub(crate) name: String,
    pub(crate) verb: Verb,
}

/// The requests of a step, in order. `now` is RFC 3339. None for a slice: its name differs between servers.
pub(crate) fn requests(step: &Step, now: &str) -> Vec<Request> {
    let one = |resource, name: &String, verb| {
        vec![Request {
            resource,
            name: name.clone(),
            verb,
        }]
    };
    let gone = Verb::Delete { grace: 0 };
    match step {
        Step::CreateService(name, shape) => one(Resource::Service, name, Verb::Create(service(name, shape))),
        Step::EditService(name, edit) => one(Resource::Service, name, Verb::Patch(service_edit(edit))),
        Step::DeleteService(name) => one(Resource::Service, name, gone),
        Step::CreatePod(name, shape) => {
            let mut requests = one(Resource::Pod, name, Verb::Create(pod(name, shape)));
            if let Some(status) = &shape.status {
                let patch = pod_status(status, shape.host_network, now);
                requests.extend(one(Resource::Pod, name, Verb::PatchStatus(patch)));
            }
            requests
        }
        Step::EditPod(name, edit) => one(Resource::Pod, name, pod_edit(edit, now)),
        Step::CreateEndpoints(name, shape) => {
            one(Resource::Endpoints, name, Verb::Create(endpoints(name, shape)))
        }
        Step::EditEndpoints(name, edit) => one(Resource::Endpoints, name, Verb::Patch(endpoints_edit(edit))),
        Step::DeleteEndpoints(name) => one(Resource::Endpoints, name, gone),
        Step::MeddleEndpoints(name, how) => one(Resource::Endpoints, name, endpoints_meddling(*how)),
        Step::MeddleSlice(..) => Vec::new(),
    }
}

/// "add" sets a member whether it is there or not, and null is as good as absent.
fn set(fields: &[(&str, Value)]) -> Value {
    fields
        .iter()
        .map(|(path, value)| json!({"op": "add", "path": path, "value": value}))
        .collect()
}

fn map(map: &Map) -> Value {
    if map.is_empty() { Value::Null } else { json!(map) }
}

fn service(name: &str, shape: &ServiceShape) -> Value {
    let mut spec = json!({
        "type": shape.kind.api_type(),
        "selector": shape.selector,
        "ports": shape.ports.iter().map(service_port).collect::<Vec<_>>(),
        "publishNotReadyAddresses": shape.publish_not_ready,
        "trafficDistribution": shape.distribution,
    });
    match shape.kind {
        Kind::Headless => spec["clusterIP"] = json!("None"),
        Kind::ExternalName => spec["externalName"] = json!("example.com"),
        Kind::ClusterIp | Kind::NodePort | Kind::LoadBalancer => {}
    }
    if shape.kind != Kind::ExternalName {
        spec["ipFamilyPolicy"] = policy(shape.stack.policy);
        spec["ipFamilies"] = families(shape.stack);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": map(&shape.labels), "annotations": map(&shape.annotations)},
        "spec": spec,
    })
}

fn policy(policy: Option<Policy>) -> Value {
    json!(policy)
}

fn families(stack: Stack) -> Value {
    let Some(first) = stack.first else {
        return Value::Null;
    };
    match stack.policy {
        None | Some(Policy::SingleStack) => json!([first]),
        Some(Policy::PreferDualStack | Policy::RequireDualStack) => json!([first, first.other()]),
    }
}

fn service_port(port: &PortShape) -> Value {
    let target = match &port.target {
        Target::Absent => Value::Null,
        Target::Number(number) => json!(number),
        Target::Name(name) => json!(name),
    };
    json!({
        "name": port.name,
        "port": port.port,
        "targetPort": target,
        "protocol": port.protocol,
        "appProtocol": port.app_protocol,
    })
}

fn service_edit(edit: &ServiceEdit) -> Value {
    match edit {
        ServiceEdit::Selector(selector) => set(&[("/spec/selector", json!(selector))]),
        ServiceEdit::Ports(ports) => {
            let ports: Vec<Value> = ports.iter().map(service_port).collect();
            set(&[("/spec/ports", json!(ports))])
        }
        ServiceEdit::Policy(to) => set(&[("/spec/ipFamilyPolicy", policy(Some(*to)))]),
        ServiceEdit::Type(kind) => set(&[("/spec/type", json!(kind.api_type()))]),
        ServiceEdit::ToExternalName => set(&[
            ("/spec/type", json!("ExternalName")),
            ("/spec/externalName", json!("example.com")),
        ]),
        ServiceEdit::FromExternalName { kind, stack } => {
            let cluster_ip = if *kind == Kind::Headless {
                json!("None")
            } else {
                Value::Null
            };
            set(&[
                ("/spec/type", json!(kind.api_type())),
                ("/spec/externalName", Value::Null),
                ("/spec/clusterIP", cluster_ip),
                ("/spec/ipFamilyPolicy", policy(stack.policy)),
                ("/spec/ipFamilies", families(*stack)),
            ])
        }
        ServiceEdit::PublishNotReady(publish) => set(&[("/spec/publishNotReadyAddresses", json!(publish))]),
        ServiceEdit::Distribution(distribution) => set(&[("/spec/trafficDistribution", json!(distribution))]),
        ServiceEdit::Labels(labels) => set(&[("/metadata/labels", map(labels))]),
        ServiceEdit::Annotations(annotations) => set(&[("/metadata/annotations", map(annotations))]),
    }
}

fn pod(name: &str, shape: &PodShape) -> Value {
    let port = |port: &ContainerPort| {
        let host_port = shape.host_network.then_some(port.number);
        json!({"name": port.name, "containerPort": port.number, "protocol": port.protocol, "hostPort": host_port})
    };
    let container = |name: &str, ports: &[ContainerPort]| {
        let ports: Vec<Value> = ports.iter().map(port).collect();
        json!({"name": name, "image": "none", "ports": ports})
    };
    let mut init = Vec::new();
    if !shape.sidecar_ports.is_empty() {
        let mut sidecar = container("sidecar", &shape.sidecar_ports);
        sidecar["restartPolicy"] = json!("Always");
        init.push(sidecar);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": map(&shape.labels)},
        "spec": {
            "nodeName": shape.node,
            "hostNetwork": shape.host_network,
            "hostname": shape.hostname,
            "subdomain": shape.subdomain,
            "automountServiceAccountToken": false,
            "initContainers": init,
            "containers": [container("main", &shape.ports)],
        },
    })
}

/// The patch that a kubelet's status amounts to.
fn pod_status(status: &PodStatus, host_network: bool, now: &str) -> Value {
    let ips: Vec<Value> = status.ips.iter().map(|ip| json!({"ip": ip})).collect();
    let first = status.ips.first();
    let ready = if status.ready { "True" } else { "False" };
    let conditions = json!([{"type": "Ready", "status": ready, "lastTransitionTime": now}]);
    let mut fields = vec![
        ("/status/phase", json!(status.phase)),
        ("/status/podIP", json!(first)),
        ("/status/podIPs", json!(ips)),
        ("/status/conditions", conditions),
    ];
    if host_network {
        fields.push(("/status/hostIP", json!(first)));
        fields.push(("/status/hostIPs", json!(ips)));
    }
    set(&fields)
}

fn pod_edit(edit: &PodEdit, now: &str) -> Verb {
    match edit {
        PodEdit::Bind(node) => Verb::Bind(node.clone()),
        PodEdit::Status(status) => Verb::PatchStatus(pod_status(status, false, now)),
        PodEdit::Labels(labels) => Verb::Patch(set(&[("/metadata/labels", map(labels))])),
        PodEdit::Terminate => Verb::Delete { grace: 30 },
        PodEdit::Remove => Verb::Delete { grace: 0 },
    }
}

fn subsets(subsets: &[SubsetShape]) -> Value {
    let address = |address: &AddressShape| {
        let target = address.target.as_ref();
        let target = target.map(|name| json!({"kind": "Pod", "name": name}));
        json!({"ip": address.ip, "hostname": address.hostname, "nodeName": address.node, "targetRef": target})
    };
    let subset = |subset: &SubsetShape| {
        let ports = subset
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "port": port.number, "protocol": port.protocol}));
        json!({
            "addresses": subset.ready.iter().map(address).collect::<Vec<_>>(),
            "notReadyAddresses": subset.not_ready.iter().map(address).collect::<Vec<_>>(),
            "ports": ports.collect::<Vec<_>>(),
        })
    };
    subsets.iter().map(subset).collect()
}

fn endpoints(name: &str, shape: &EndpointsShape) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": name, "labels": map(&shape.labels), "annotations": map(&shape.annotations)},
        "subsets": subsets(&shape.subsets),
    })
}

fn endpoints_edit(edit: &EndpointsEdit) -> Value {
    match edit {
        EndpointsEdit::Subsets(to) => set(&[("/subsets", subsets(to))]),
        EndpointsEdit::Labels(labels) => set(&[("/metadata/labels", map(labels))]),
        EndpointsEdit::Annotations(annotations) => set(&[("/metadata/annotations", map(annotations))]),
    }
}

fn endpoints_meddling(how: EndpointsMeddling) -> Verb {
    let foreign = json!([{"addresses": [{"ip": STRANGERS_ADDRESS}], "ports": [{"port": 1}]}]);
    match how {
        EndpointsMeddling::Replace => Verb::Patch(set(&[("/subsets", foreign)])),
        EndpointsMeddling::Empty => Verb::Patch(set(&[("/subsets", json!([]))])),
        EndpointsMeddling::Label => {
            Verb::Patch(set(&[(&format!("/metadata/labels/{STRANGER}"), json!("yes"))]))
        }
        EndpointsMeddling::Delete => Verb::Delete { grace: 0 },
    }
}

/// What a stranger does to a slice, once it is known which.
pub(crate) fn slice_meddling(how: SliceMeddling) -> Verb {
    let managed_by = format!("/metadata/labels/{}", SLICE_MANAGED_BY.replace('/', "~1"));
    match how {
        SliceMeddling::Empty => Verb::Patch(set(&[("/endpoints", json!([]))])),
        SliceMeddling::Label => Verb::Patch(set(&[(&format!("/metadata/labels/{STRANGER}"), json!("yes"))])),
        SliceMeddling::Disown => Verb::Patch(set(&[(&managed_by, json!(STRANGER))])),
        SliceMeddling::Delete => Verb::Delete { grace: 0 },
    }
}

/// A node with all that the controllers look at.
pub(crate) fn node(name: &str, shape: &NodeShape, now: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": node_labels(shape)},
        "status": node_status(shape, now),
    })
}

/// The two patches that turn a node into another: its labels, its status.
pub(crate) fn node_patches(shape: &NodeShape, now: &str) -> (Value, Value) {
    let status = node_status(shape, now);
    (
        set(&[("/metadata/labels", node_labels(shape))]),
        set(&[
            ("/status/conditions", status["conditions"].clone()),
            ("/status/allocatable", status["allocatable"].clone()),
            ("/status/capacity", status["capacity"].clone()),
        ]),
    )
}

fn node_labels(shape: &NodeShape) -> Value {
    shape
        .zone
        .as_ref()
        .map_or_else(|| json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}))
}

fn node_status(shape: &NodeShape, now: &str) -> Value {
    let ready = if shape.ready { "True" } else { "False" };
    let amount = shape
        .cpu
        .map_or_else(|| json!({}), |cpu| json!({"cpu": cpu.to_string()}));
    json!({
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}],
        "allocatable": amount,
        "capacity": amount,
    })
}

#[cfg(test)]
mod tests {
    use super::super::step::Family;
    use super::*;

    #[test]
    fn a_pod_with_a_status_is_two_requests_and_dual_stack_names_both_families() {
        let shape = PodShape {
            labels: Map::new(),
            node: Some("n1".to_owned()),
            ports: Vec::new(),
            sidecar_ports: Vec::new(),
            host_network: false,
            hostname: None,
            subdomain: None,
            status: Some(PodStatus {
                phase: super::super::step::Phase::Running,
                ips: vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()],
                ready: true,
            }),
        };
        let requests = requests(&Step::CreatePod("p".to_owned(), shape), "now");
        assert_eq!(requests.len(), 2);
        let Verb::PatchStatus(patch) = &requests[1].verb else {
            panic!("{requests:?}");
        };
        assert!(
            patch
                .as_array()
                .unwrap()
                .contains(&json!({"op": "add", "path": "/status/podIP", "value": "10.0.0.1"}))
        );
        let stack = Stack {
            policy: Some(Policy::RequireDualStack),
            first: Some(Family::IPv6),
        };
        assert_eq!(families(stack), json!(["IPv6", "IPv4"]));
    }

    #[test]
    fn a_label_key_with_a_slash_is_escaped_in_a_patch() {
        let Verb::Patch(patch) = slice_meddling(SliceMeddling::Disown) else {
            panic!("a patch");
        };
        assert_eq!(
            patch[0]["path"],
            "/metadata/labels/endpointslice.kubernetes.io~1managed-by"
        );
    }
}
