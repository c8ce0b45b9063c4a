// SPDX-License-Identifier: Apache-2.0
//! Slices as kube-controller-manager 1.37 writes them and the API server hands them out.

use super::*;
use crate::fixtures::*;

fn stored(spec: &str) -> EndpointSlice {
    let text = format!(
        r#"{{
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {{
            "name": "web-x7k2p", "generateName": "web-", "namespace": "shop", "uid": "s1", "generation": 1,
            "annotations": {{"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"}},
            "labels": {{
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "web"
            }},
            "ownerReferences": [{{"apiVersion": "v1", "blockOwnerDeletion": true, "controller": true,
                "kind": "Service", "name": "web", "uid": "uid-web"}}]
        }}, {spec} }}"#
    );
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_slice_of_kube_controller_manager_needs_no_write() {
    let slice = stored(
        r#""endpoints": [{
            "addresses": ["10.244.0.1"],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "node-1", "zone": "zone-a",
            "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop", "uid": "uid-web-1"}
        }],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]"#,
    );
    let mut world = World::new(mk_service(), mk_pods(1..2));
    world.server.put(slice);
    assert!(world.plan().writes.is_empty(), "{}", world.plan().writes);
}

#[test]
fn a_placeholder_of_kube_controller_manager_needs_no_write() {
    for spec in [
        r#""endpoints": null, "ports": null"#,
        r#""endpoints": [], "ports": []"#,
        r#""ports": null"#,
    ] {
        let mut world = World::new(mk_service(), Vec::new());
        world.server.put(stored(spec));
        assert!(world.plan().writes.is_empty(), "{spec}");
    }
}
