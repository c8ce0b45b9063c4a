// SPDX-License-Identifier: Apache-2.0
//! Objects as the API server encodes them, against what their JSON says. The server's own bytes are
//! compared end to end (`e2e/tests/wire.rs`); here stand the cases that it does not let a client make.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::encode::{Message, message, meta};
use crate::node::Node;
use crate::pod::{Pod, PodManifest};
use crate::service_cidr::ServiceCidr;
use crate::wire::{Named, Wire};

fn read<K: Wire>(message: &Message) -> K {
    let named = Named {
        namespace: Arc::from("shop"),
        name: Arc::from("web"),
    };
    K::read(&message.0, &named, &mut K::Shared::default()).unwrap()
}

fn assert_reads<K: Wire + DeserializeOwned + PartialEq + Debug>(message: Message, json: Value) {
    let wanted: K = serde_json::from_value(completed(json)).unwrap();
    assert_eq!(read::<K>(&message), wanted);
}

/// With what [`meta`] says.
fn completed(mut json: Value) -> Value {
    let meta = json["metadata"].as_object_mut().unwrap();
    for (key, value) in [
        ("name", json!("web")),
        ("namespace", json!("shop")),
        ("uid", json!("3e25960a-79db-4b9d-8a2d-5d4f2ac6c4d8")),
        ("resourceVersion", json!("77")),
        ("creationTimestamp", json!("2026-01-01T00:00:00Z")),
        ("labels", json!({"app": "web"})),
        ("annotations", json!({"note": "x"})),
    ] {
        meta.entry(key).or_insert(value);
    }
    json
}

#[test]
fn a_pointer_to_an_empty_text_is_there_and_an_empty_text_is_not() {
    let endpoint = message()
        .text(1, "10.0.0.1")
        .message(2, message())
        .text(3, "")
        .message(4, message().text(1, "Pod").text(2, "").text(4, ""))
        .entry(5, "kubernetes.io/hostname", "node-1")
        .text(6, "")
        .message(8, message());
    let port = message().text(1, "").text(2, "TCP").int(3, 0).text(4, "");
    assert_reads::<EndpointSlice>(
        message()
            .message(1, meta("web"))
            .message(2, endpoint)
            .message(3, port)
            .text(4, "IPv4"),
        json!({
            "metadata": {}, "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["10.0.0.1"], "conditions": {}, "hostname": "", "targetRef": {"kind": "Pod"},
                "deprecatedTopology": {"kubernetes.io/hostname": "node-1"}, "nodeName": "", "hints": {},
            }],
            "ports": [{"name": "", "protocol": "TCP", "port": 0, "appProtocol": ""}],
        }),
    );
    let address = message()
        .text(1, "10.0.0.1")
        .message(2, message().text(1, ""))
        .text(3, "")
        .text(4, "");
    let port = message().text(1, "").int(2, 0).text(3, "").text(4, "");
    assert_reads::<Endpoints>(
        message()
            .message(1, meta("web"))
            .message(2, message().message(1, address).message(3, port)),
        json!({
            "metadata": {},
            "subsets": [{
                "addresses": [{"ip": "10.0.0.1", "targetRef": {}, "nodeName": ""}],
                "ports": [{"port": 0, "appProtocol": ""}],
            }],
        }),
    );
}

#[test]
fn go_writes_zeroes_that_json_leaves_out() {
    let port = message()
        .text(1, "")
        .text(2, "TCP")
        .int(3, 80)
        .message(4, message().int(1, 0).int(2, 0).text(3, ""))
        .int(5, 0);
    let spec = message()
        .message(1, port)
        .text(3, "")
        .text(4, "")
        .text(7, "")
        .text(8, "")
        .text(10, "")
        .text(11, "")
        .int(12, 0)
        .int(13, 0)
        .int(20, 0);
    assert_reads::<Service>(
        message()
            .message(1, meta("web").int(10, 0).message(9, message()))
            .message(2, spec)
            .message(3, message().message(1, message())),
        json!({
            "metadata": {"deletionGracePeriodSeconds": 0},
            "spec": {
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 0}],
                "allocateLoadBalancerNodePorts": false,
            },
            "status": {"loadBalancer": {}},
        }),
    );
}

#[test]
fn fields_of_a_newer_server_are_skipped() {
    let meta = meta("web").text(90, "new").int(91, -1).fixed32(92).fixed64(93);
    let message = message()
        .message(1, meta)
        .text(4, "IPv4")
        .message(70, message().text(1, "new"));
    assert_reads::<EndpointSlice>(message, json!({"metadata": {}, "addressType": "IPv4"}));
}

#[test]
fn a_pod_is_what_its_json_is() {
    let port = message()
        .text(1, "http")
        .int(2, 0)
        .int(3, 8080)
        .text(4, "TCP")
        .text(5, "");
    let container = message().text(1, "web").text(2, "image").message(6, port);
    let sidecar = message().message(6, message().int(3, 15_000)).text(24, "Always");
    let spec = message()
        .bytes(1, &[0xff; 40])
        .message(2, container)
        .text(10, "node-1")
        .text(16, "web-0")
        .text(17, "")
        .message(20, sidecar);
    let ready = message()
        .text(1, "Ready")
        .text(2, "True")
        .message(3, message())
        .message(4, message().int(1, 1_767_225_605));
    let status = message()
        .text(1, "Running")
        .message(2, message().text(1, "Initialized").text(2, "True"))
        .message(2, ready)
        .text(6, "10.0.0.1")
        .bytes(8, &[0xff; 40])
        .message(12, message().text(1, "10.0.0.1"))
        .message(12, message().text(1, "fd00::1"));
    let wanted: PodManifest = serde_json::from_value(completed(
        json!({
            "metadata": {},
            "spec": {
                "nodeName": "node-1", "hostname": "web-0",
                "containers": [{"name": "web", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}],
                "initContainers": [{"restartPolicy": "Always", "ports": [{"containerPort": 15000}]}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [
                    {"type": "Initialized", "status": "True"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
                ],
            },
        }),
    ))
    .unwrap();
    let message = message()
        .message(1, meta("web"))
        .message(2, spec)
        .message(3, status);
    assert_eq!(read::<Pod>(&message), Pod::from(wanted));
}

#[test]
fn a_node_is_ready_by_its_ready_condition_alone() {
    let condition = |type_: &str, status: &str| message().text(1, type_).text(2, status);
    let quantity = |key: &str, text: &str| message().text(1, key).message(2, message().text(1, text));
    for (conditions, ready) in [
        (vec![], false),
        (vec![condition("Ready", "True")], true),
        (vec![condition("Ready", "False")], false),
        (
            vec![condition("DiskPressure", "True"), condition("Ready", "Unknown")],
            false,
        ),
        (
            vec![condition("Ready", "True"), condition("DiskPressure", "False")],
            true,
        ),
    ] {
        let mut status = message()
            .message(1, quantity("cpu", "8"))
            .message(2, quantity("memory", "1Gi"))
            .message(2, quantity("cpu", "7910m"));
        for condition in conditions {
            status = status.message(4, condition);
        }
        let node: Node = read(&message().message(1, meta("web")).message(3, status));
        assert_eq!((node.ready, &*node.name), (ready, "web"));
        assert_eq!(node.allocatable_cpu.unwrap().0, "7910m");
        assert_eq!(node.labels.unwrap()["app"], "web");
    }
}

#[test]
fn of_a_service_cidr_its_networks_are_read() {
    let spec = message().text(1, "10.96.0.0/16").text(1, "fd00:96::/112");
    let status = message().message(1, message().text(1, "Ready").text(2, "True"));
    let cidr: ServiceCidr = read(
        &message()
            .message(1, meta("web"))
            .message(2, spec)
            .message(3, status),
    );
    assert_eq!(
        (&*cidr.name, cidr.cidrs.join(",")),
        ("web", "10.96.0.0/16,fd00:96::/112".to_owned())
    );
    let bare: ServiceCidr = read(&message().message(1, meta("web")));
    assert_eq!(bare.cidrs, [""; 0]);
}

#[test]
fn a_number_beyond_its_type_is_refused() {
    let fault = |message: Message| {
        let named = Named {
            namespace: Arc::from("shop"),
            name: Arc::from("web"),
        };
        EndpointSlice::read(&message.0, &named, &mut ())
            .unwrap_err()
            .to_string()
    };
    let port = message().int(3, 1 << 40);
    assert_eq!(fault(message().message(3, port)), "field 3 is out of range");
    let meta = message().message(8, message().int(1, i64::MAX));
    assert_eq!(fault(message().message(1, meta)), "field 8 is out of range");
}
