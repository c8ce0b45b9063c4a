// SPDX-License-Identifier: Apache-2.0
//! Objects with every field that their kinds have and that the API server lets a client set.

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "default";
const TIME: &str = "2026-11-22T10:11:12Z";

/// Creates all of them.
pub(crate) async fn create(client: &Client) -> anyhow::Result<()> {
    let namespaced = Api::namespaced(client.clone(), NAMESPACE);
    for service in services() {
        make::<Service>(&namespaced, service).await?;
    }
    let namespaced = Api::namespaced(client.clone(), NAMESPACE);
    for endpoints in endpoints() {
        make::<Endpoints>(&namespaced, endpoints).await?;
    }
    let namespaced = Api::namespaced(client.clone(), NAMESPACE);
    for slice in slices() {
        make::<EndpointSlice>(&namespaced, slice).await?;
    }
    let namespaced = Api::namespaced(client.clone(), NAMESPACE);
    for pod in pods() {
        make::<Pod>(&namespaced, pod).await?;
    }
    for node in nodes() {
        make::<Node>(&Api::all(client.clone()), node).await?;
    }
    Ok(())
}

/// Creates Endpoints of many names.
pub(crate) async fn create_many(client: &Client, count: usize) -> anyhow::Result<()> {
    let api: Api<Endpoints> = Api::namespaced(client.clone(), NAMESPACE);
    futures::stream::iter(0..count)
        .map(|number| {
            let api = api.clone();
            async move {
                let endpoints = json!({"metadata": {"name": format!("many-{number}")}});
                make(&api, endpoints).await
            }
        })
        .buffer_unordered(32)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Creates an object, then its status.
async fn make<K>(api: &Api<K>, object: Value) -> anyhow::Result<()>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let name = object["metadata"]["name"].as_str().context("a name")?.to_owned();
    let status = object.get("status").cloned();
    let object: K = serde_json::from_value(object).with_context(|| name.clone())?;
    api.create(&PostParams::default(), &object)
        .await
        .with_context(|| name.clone())?;
    if let Some(status) = status {
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(&name, &PatchParams::default(), &patch)
            .await
            .with_context(|| name.clone())?;
    }
    Ok(())
}

fn services() -> Vec<Value> {
    vec![
        json!({
            "metadata": {
                "name": "full",
                "labels": {"app": "web", "empty": "", "long.example.com/key": "v"},
                "annotations": {"note": "grüße", "empty": ""},
                "finalizers": ["example.com/a", "example.com/b"],
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u-1"},
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "p", "uid": "u-2", "controller": true,
                     "blockOwnerDeletion": false},
                ],
            },
            "spec": {
                "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"],
                "selector": {"app": "web", "tier": "front"},
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080, "appProtocol": "kubernetes.io/h2c"},
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
                    {"name": "sctp", "port": 99, "protocol": "SCTP"},
                ],
                "externalIPs": ["192.0.2.7", "2001:db8::7"],
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}},
                "loadBalancerIP": "192.0.2.9", "loadBalancerSourceRanges": ["10.0.0.0/8", "192.168.0.0/16"],
                "loadBalancerClass": "example.com/lb", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999,
                "publishNotReadyAddresses": true, "allocateLoadBalancerNodePorts": true,
                "internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameZone",
            },
            "status": {
                "loadBalancer": {"ingress": [
                    {"ip": "192.0.2.9", "ipMode": "VIP", "ports": [
                        {"port": 80, "protocol": "TCP"},
                        {"port": 53, "protocol": "UDP", "error": "example.com/Broken"},
                    ]},
                    {"hostname": "lb.example.com"},
                ]},
                "conditions": [
                    {"type": "example.com/A", "status": "True", "reason": "Because", "message": "all is well",
                     "lastTransitionTime": TIME, "observedGeneration": 3},
                    {"type": "example.com/B", "status": "Unknown", "reason": "Nobody", "message": "",
                     "lastTransitionTime": TIME},
                ],
            },
        }),
        json!({"metadata": {"name": "headless"}, "spec": {
            "clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80}],
            "ipFamilyPolicy": "PreferDualStack",
        }}),
        json!({"metadata": {"name": "external"}, "spec": {
            "type": "ExternalName", "externalName": "example.com",
        }}),
        json!({"metadata": {"name": "bare"}, "spec": {
            "ports": [{"port": 80, "targetPort": 65535}], "allocateLoadBalancerNodePorts": null,
        }}),
    ]
}

fn target(name: &str) -> Value {
    json!({"kind": "Pod", "namespace": NAMESPACE, "name": name, "uid": "4b5ef0cf-79b2-4bd3-b8d4-e0b4cd9b1a30",
        "apiVersion": "v1", "resourceVersion": "12", "fieldPath": "spec.containers{web}"})
}

fn endpoints() -> Vec<Value> {
    vec![
        json!({
            "metadata": {"name": "full", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "subsets": [
                {
                    "addresses": [
                        {"ip": "10.0.0.1", "hostname": "web-0", "nodeName": "node-1", "targetRef": target("web-0")},
                        {"ip": "fd00::1"},
                    ],
                    "notReadyAddresses": [{"ip": "10.0.0.2", "targetRef": {"kind": "Pod", "name": "web-1"}}],
                    "ports": [
                        {"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"},
                        {"name": "dns", "port": 53, "protocol": "UDP"},
                    ],
                },
                {"notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 1}]},
                {"addresses": [{"ip": "10.0.0.4"}]},
            ],
        }),
        json!({"metadata": {"name": "empty"}}),
    ]
}

fn slices() -> Vec<Value> {
    vec![
        json!({
            "metadata": {"name": "full-1", "generateName": "full-", "labels": {"kubernetes.io/service-name": "full"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": TIME}},
            "addressType": "IPv4",
            "endpoints": [
                {
                    "addresses": ["10.0.0.1"],
                    "conditions": {"ready": true, "serving": false, "terminating": true},
                    "hostname": "web-0", "nodeName": "node-1", "zone": "zone-a", "targetRef": target("web-0"),
                    "hints": {"forZones": [{"name": "zone-a"}], "forNodes": [{"name": "node-1"}]},
                    "deprecatedTopology": {"example.com/rack": "7"},
                },
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "hints": {"forZones": [{"name": "zone-b"}]}},
                {"addresses": ["10.0.0.4"], "hints": {}, "conditions": {}},
            ],
            "ports": [
                {"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "", "port": 9},
            ],
        }),
        json!({"metadata": {"name": "names"}, "addressType": "FQDN",
            "endpoints": [{"addresses": ["a.example.com"]}], "ports": [{"name": "any"}]}),
        json!({"metadata": {"name": "six"}, "addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}]}),
        json!({"metadata": {"name": "empty"}, "addressType": "IPv4", "endpoints": [], "ports": []}),
    ]
}

fn pods() -> Vec<Value> {
    vec![
        json!({
            "metadata": {"name": "full", "labels": {"app": "web", "tier": ""}, "annotations": {"big": "x".repeat(5000)},
                "finalizers": ["example.com/stay"]},
            "spec": {
                "nodeName": "node-1", "hostname": "web-0", "subdomain": "headless",
                "volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [
                    {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "b"}],
                     "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                     "resources": {"requests": {"cpu": "100m"}},
                     "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]},
                    {"name": "log", "image": "log:1"},
                ],
                "initContainers": [
                    {"name": "side", "image": "side:1", "restartPolicy": "Always",
                     "ports": [{"name": "admin", "containerPort": 15000, "hostPort": 0, "protocol": "TCP"}]},
                    {"name": "once", "image": "once:1"},
                ],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "hostIP": "192.0.2.1", "startTime": TIME,
                "conditions": [
                    {"type": "Initialized", "status": "True"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": TIME, "lastProbeTime": null},
                ],
                "containerStatuses": [{"name": "web", "image": "web:1", "imageID": "i", "ready": true,
                    "restartCount": 0, "state": {"running": {"startedAt": TIME}}}],
            },
        }),
        json!({
            "metadata": {"name": "not-ready", "labels": {"app": "web"}},
            "spec": {"nodeName": "node-2", "containers": [{"name": "web", "image": "web:1"}]},
            "status": {
                "phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}],
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": TIME, "reason": "No"}],
            },
        }),
        json!({
            "metadata": {"name": "done"},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            "status": {"phase": "Succeeded"},
        }),
        json!({"metadata": {"name": "pending"}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}),
    ]
}

fn nodes() -> Vec<Value> {
    vec![
        json!({
            "metadata": {"name": "node-1", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
            "spec": {"podCIDR": "10.244.0.0/24", "unschedulable": true},
            "status": {
                "capacity": {"cpu": "8", "memory": "16Gi"},
                "allocatable": {"cpu": "7910m", "memory": "15Gi", "example.com/gpu": "1"},
                "conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": "True", "lastTransitionTime": TIME},
                ],
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "images": [{"names": ["web:1"], "sizeBytes": 5}],
            },
        }),
        json!({
            "metadata": {"name": "node-2"},
            "status": {"allocatable": {"memory": "1Gi"}, "conditions": [{"type": "Ready", "status": "Unknown"}]},
        }),
        json!({"metadata": {"name": "node-3"}}),
    ]
}
