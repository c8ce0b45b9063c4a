// SPDX-License-Identifier: Apache-2.0
//! Endpoints as kube-controller-manager 1.37 writes them and the API server hands them out.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::fixtures::*;

const STORED: &str = r#"{
    "apiVersion": "v1", "kind": "Endpoints",
    "metadata": {
        "name": "web", "namespace": "shop", "resourceVersion": "5",
        "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"},
        "labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}
    },
    "subsets": [{
        "addresses": [
            {"ip": "10.244.0.1", "nodeName": "node-1",
             "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop", "uid": "uid-web-1"}}
        ],
        "notReadyAddresses": [
            {"ip": "10.244.0.2", "nodeName": "",
             "targetRef": {"kind": "Pod", "name": "web-2", "namespace": "shop", "uid": "uid-web-2"}}
        ],
        "ports": [
            {"name": "metrics", "port": 9090, "protocol": "TCP"},
            {"name": "http", "port": 8080, "protocol": "TCP"}
        ]
    }]
}"#;

#[test]
fn endpoints_of_kube_controller_manager_need_no_write() {
    let ports = vec![
        mk_port("http", 80, IntOrString::Int(8080)),
        mk_port("metrics", 9090, IntOrString::Int(9090)),
    ];
    let waiting = mk_pod_with(2, |pod| {
        pod.spec.node_name = None;
        pod.status.conditions.clear();
    });
    let service = mk_service_with(|spec| spec.ports = Some(ports));
    let mut world = World::new(service, vec![waiting, Arc::new(mk_pod(1))]);
    world.put(serde_json::from_str(STORED).unwrap());
    assert!(world.plan().writes.is_empty(), "{}", world.plan().writes);
}

#[test]
fn empty_endpoints_of_kube_controller_manager_need_no_write() {
    let mut stored: Endpoints = serde_json::from_str(STORED).unwrap();
    stored.subsets = None;
    let mut world = World::with(Vec::new());
    world.put(stored);
    assert!(world.plan().writes.is_empty());
}
