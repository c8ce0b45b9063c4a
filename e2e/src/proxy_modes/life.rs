// SPDX-License-Identifier: Apache-2.0
//! A Service's life, step by step: what is asked of the API server, and what packets then meet. Pure.
//!
//! The Service has one port number for TCP and UDP, and one node port number for both.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::expect::Seen::{Any, Kept, Rewritten};
use super::expect::To::{ClusterIp, ExternalIp, NodePort, NodePortOnSecond};
use super::expect::What::{Answered, AnsweredByOne, Dropped, Refused, Unallocated, Untouched};
use super::expect::{Expected, To, What};
use crate::proxy_peer::answer::{Protocol, TARGETS};
use crate::proxy_peer::objects::Request;
use crate::proxy_peer::world::Origin::{self, Host, IdlePod, Outside, PodA};
use crate::proxy_peer::world::{Both, NODES, Site};

const NAMESPACE: &str = "life";
const SERVICE: &str = "/api/v1/namespaces/life/services/web";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/life/endpointslices";
pub(super) const PORT: u16 = 80;
pub(super) const NODE_PORT: u16 = 30_080;
pub(super) const CLUSTER_IP: Both = Both {
    v4: Ipv4Addr::new(10, 96, 10, 1),
    v6: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x1001),
};
pub(super) const EXTERNAL_IP: Both = Both {
    v4: Ipv4Addr::new(203, 0, 113, 1),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
};

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// For messages.
    pub name: &'static str,
    /// What is asked of the API server.
    pub requests: Vec<Request>,
    /// What packets then meet.
    pub expected: Vec<Expected>,
}

/// What a world's proxy answers once it has carried out that the Service is there with endpoints B and far A.
pub const SERVED: [Expected; 4] = [
    expected(IdlePod, ClusterIp, Answered(&[Site::B, Site::FarA], Kept)),
    expected(Outside, NodePort, Answered(&[Site::B, Site::FarA], Rewritten)),
    expected(
        Outside,
        NodePortOnSecond,
        Answered(&[Site::B, Site::FarA], Rewritten),
    ),
    expected(Outside, ExternalIp, Answered(&[Site::B, Site::FarA], Rewritten)),
];

/// What it answers when nobody carries out anything. (A node port is a port of the node that nobody listens on.)
pub const GONE: [Expected; 3] = [
    expected(IdlePod, ClusterIp, Unallocated),
    expected(Outside, NodePort, Refused),
    expected(Outside, ExternalIp, Untouched),
];

const fn expected(from: Origin, to: To, what: What) -> Expected {
    Expected { from, to, what }
}

/// The Service comes, its endpoints come, change and go, its policies, hints, affinity and type change, it goes.
pub fn life() -> Vec<Step> {
    let mut steps = vec![
        Step {
            name: "a Service that nobody stands behind",
            requests: create(),
            expected: vec![
                expected(IdlePod, ClusterIp, Refused),
                expected(Outside, NodePort, Refused),
                expected(Outside, ExternalIp, Refused),
            ],
        },
        Step {
            name: "an endpoint comes",
            requests: slices(&[(Site::A, READY)], TARGETS[0]),
            expected: vec![
                expected(IdlePod, ClusterIp, Answered(&[Site::A], Kept)),
                expected(PodA, ClusterIp, Answered(&[Site::A], Rewritten)),
                expected(Host, ClusterIp, Answered(&[Site::A], Any)),
                expected(Outside, NodePort, Answered(&[Site::A], Rewritten)),
            ],
        },
        Step {
            name: "other endpoints take its place",
            requests: endpoints(&BOTH, TARGETS[0]),
            expected: SERVED.to_vec(),
        },
    ];
    steps.extend(policies());
    steps.extend(hints());
    steps.extend(clients_that_stay());
    steps.extend(conditions());
    steps.extend(types());
    steps
}

fn policies() -> Vec<Step> {
    vec![
        Step {
            name: "both policies become Local",
            requests: vec![policies_become("Local")],
            expected: vec![
                expected(Outside, NodePort, Answered(&[Site::B], Kept)),
                expected(Outside, ExternalIp, Answered(&[Site::B], Kept)),
                expected(IdlePod, NodePort, Answered(&[Site::B, Site::FarA], Kept)),
                expected(IdlePod, ClusterIp, Answered(&[Site::B], Kept)),
            ],
        },
        Step {
            name: "the endpoint of this node drains",
            requests: endpoints(&[(Site::B, DRAINING), (Site::FarA, READY)], TARGETS[0]),
            expected: vec![
                expected(Outside, NodePort, Answered(&[Site::B], Kept)),
                expected(IdlePod, NodePort, Answered(&[Site::FarA], Kept)),
                expected(IdlePod, ClusterIp, Answered(&[Site::B], Kept)),
            ],
        },
        Step {
            name: "the endpoint of this node goes",
            requests: endpoints(&[(Site::FarA, READY)], TARGETS[0]),
            expected: vec![
                expected(Outside, NodePort, Dropped),
                expected(IdlePod, NodePort, Answered(&[Site::FarA], Kept)),
                expected(IdlePod, ClusterIp, Dropped),
            ],
        },
    ]
}

fn hints() -> Vec<Step> {
    let mut cluster = vec![policies_become("Cluster")];
    cluster.extend(endpoints(&BOTH, TARGETS[0]));
    let zone = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "zone-2"}}});
    let node = format!("/api/v1/nodes/{}", NODES[0].0);
    let chosen = |sites| {
        vec![
            expected(IdlePod, ClusterIp, Answered(sites, Kept)),
            expected(Outside, NodePort, Answered(sites, Rewritten)),
        ]
    };
    vec![
        Step {
            name: "both policies become Cluster",
            requests: cluster,
            expected: SERVED.to_vec(),
        },
        Step {
            name: "each endpoint has a hint, one for the node's zone",
            requests: hinted("forZones", ["zone-2", "zone-1"]),
            expected: chosen(&[Site::FarA]),
        },
        Step {
            name: "the node is in the other zone",
            requests: vec![Request::change(&node, zone)],
            expected: chosen(&[Site::B]),
        },
        Step {
            name: "each endpoint has a hint, one for the node",
            requests: hinted("forNodes", [NODES[1].0, NODES[0].0]),
            expected: chosen(&[Site::FarA]),
        },
        Step {
            name: "hints for nobody here",
            requests: hinted("forZones", ["zone-7", "zone-8"]),
            expected: SERVED.to_vec(),
        },
    ]
}

fn clients_that_stay() -> Vec<Step> {
    let stay = json!({"spec": {"sessionAffinity": "ClientIP"}});
    let roam = json!({"spec": {"sessionAffinity": "None", "sessionAffinityConfig": null}});
    vec![
        Step {
            name: "clients stay with an endpoint",
            requests: vec![Request::change(SERVICE, stay)],
            expected: vec![
                expected(IdlePod, ClusterIp, AnsweredByOne(&[Site::B, Site::FarA], Kept)),
                expected(
                    Outside,
                    NodePort,
                    AnsweredByOne(&[Site::B, Site::FarA], Rewritten),
                ),
            ],
        },
        Step {
            name: "they do not any more",
            requests: vec![Request::change(SERVICE, roam)],
            expected: SERVED.to_vec(),
        },
    ]
}

fn conditions() -> Vec<Step> {
    let internal =
        |policy: &str| Request::change(SERVICE, json!({"spec": {"internalTrafficPolicy": policy}}));
    let mut own_network = endpoints(&[(Site::Host, READY)], TARGETS[0]);
    own_network.push(internal("Local"));
    let mut all_drain = endpoints(&[(Site::B, DRAINING), (Site::FarA, DRAINING)], TARGETS[0]);
    all_drain.push(internal("Cluster"));
    vec![
        Step {
            name: "an endpoint on the node's own network, internal policy Local",
            requests: own_network,
            expected: vec![
                expected(IdlePod, ClusterIp, Answered(&[Site::Host], Kept)),
                expected(Host, ClusterIp, Answered(&[Site::Host], Any)),
                expected(Outside, NodePort, Answered(&[Site::Host], Any)),
            ],
        },
        Step {
            name: "all endpoints drain",
            requests: all_drain,
            expected: SERVED.to_vec(),
        },
    ]
}

fn types() -> Vec<Step> {
    let external = json!({"spec": {"type": "ExternalName", "externalName": "elsewhere.example", "externalIPs": null,
        "externalTrafficPolicy": null, "internalTrafficPolicy": null}});
    let mut back = service();
    back["spec"]["externalName"] = Value::Null;
    let mut returned = endpoints(&BOTH, TARGETS[0]);
    returned.push(Request::change(SERVICE, json!({"spec": back["spec"]})));
    let mut gone = vec![Request::delete(SERVICE)];
    gone.extend([false, true].map(|ipv6| Request::delete(&slice_path(ipv6))));
    vec![
        Step {
            name: "it becomes a name of something else",
            requests: vec![Request::change(SERVICE, external)],
            expected: GONE.to_vec(),
        },
        Step {
            name: "it becomes what it was",
            requests: returned,
            expected: SERVED.to_vec(),
        },
        Step {
            name: "it goes",
            requests: gone,
            expected: GONE.to_vec(),
        },
    ]
}

/// Of an endpoint: ready, serving, terminating.
pub type Conditions = [bool; 3];
/// Takes connections.
pub const READY: Conditions = [true, true, false];
/// Takes them where nobody else does.
pub const DRAINING: Conditions = [false, true, true];

/// Those that [`SERVED`] speaks of.
pub const BOTH: [(Site, Conditions); 2] = [(Site::B, READY), (Site::FarA, READY)];

/// [`BOTH`], each with a hint.
fn hinted(kind: &str, names: [&str; 2]) -> Vec<Request> {
    let mut requests = endpoints(&BOTH, TARGETS[0]);
    for request in &mut requests {
        for (number, name) in names.into_iter().enumerate() {
            request.body["endpoints"][number]["hints"] = json!({kind: [{"name": name}]});
        }
    }
    requests
}

/// The namespace and the Service without endpoints.
pub fn create() -> Vec<Request> {
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    vec![
        Request::create("/api/v1/namespaces", namespace),
        Request::create("/api/v1/namespaces/life/services", service()),
    ]
}

/// Both policies of the Service.
pub fn policies_become(policy: &str) -> Request {
    Request::change(
        SERVICE,
        json!({"spec": {"externalTrafficPolicy": policy, "internalTrafficPolicy": policy}}),
    )
}

/// The slices of a Service that has none yet.
pub fn slices(endpoints: &[(Site, Conditions)], port: u16) -> Vec<Request> {
    [false, true]
        .map(|ipv6| Request::create(SLICES, slice(endpoints, port, ipv6)))
        .into()
}

/// Other endpoints in the slices that are there.
pub fn endpoints(endpoints: &[(Site, Conditions)], port: u16) -> Vec<Request> {
    let change = |ipv6| {
        let slice = slice(endpoints, port, ipv6);
        let patch = json!({"endpoints": slice["endpoints"], "ports": slice["ports"]});
        Request::change(&slice_path(ipv6), patch)
    };
    [false, true].map(change).into()
}

fn ports(more: impl Fn(&mut Value)) -> Value {
    let port = |protocol: Protocol| {
        let mut port = json!({"name": protocol.name().to_lowercase(), "protocol": protocol.name()});
        more(&mut port);
        port
    };
    json!(Protocol::ALL.map(port))
}

fn service() -> Value {
    let ports = ports(|port| {
        port["port"] = json!(PORT);
        port["targetPort"] = json!(TARGETS[0]);
        port["nodePort"] = json!(NODE_PORT);
    });
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE}, "spec": {
        "type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "clusterIP": CLUSTER_IP.v4,
        "clusterIPs": [CLUSTER_IP.v4, CLUSTER_IP.v6], "externalIPs": [EXTERNAL_IP.v4, EXTERNAL_IP.v6],
        "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "ports": ports}})
}

fn slice_name(ipv6: bool) -> &'static str {
    if ipv6 { "web-ipv6" } else { "web-ipv4" }
}

fn slice_path(ipv6: bool) -> String {
    format!("{SLICES}/{}", slice_name(ipv6))
}

fn slice(endpoints: &[(Site, Conditions)], port: u16, ipv6: bool) -> Value {
    let endpoint = |(site, [ready, serving, terminating]): &(Site, Conditions)| {
        json!({"addresses": [site.address().of(ipv6)], "nodeName": site.node(),
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    };
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": slice_name(ipv6), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": if ipv6 { "IPv6" } else { "IPv4" }, "endpoints": endpoints,
        "ports": ports(|entry| entry["port"] = json!(port))})
}
