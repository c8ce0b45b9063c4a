// SPDX-License-Identifier: Apache-2.0
//! The cluster that is measured: Nodes, Services and ready Pods as a real cluster has them. Pure.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::store::Data;

/// Part of the name of stored data: to be raised when the objects below change.
const GENERATION: u32 = 1;

/// Namespaces of the data have names that begin so.
pub(crate) const PREFIX: &str = "bench-";

/// Ready Pods behind Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataSet {
    /// How many Services, of two ports each.
    pub(crate) services: u32,
    /// How many Pods each selects. Each Pod belongs to one Service.
    pub(crate) pods_each: u32,
    /// Over how many namespaces the Services are spread.
    pub(crate) namespaces: u32,
    /// Over how many Nodes, in three zones, the Pods are spread.
    pub(crate) nodes: u32,
}

/// One object and where it is posted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Posted {
    /// Path of its collection.
    pub(crate) collection: String,
    /// Its name.
    pub(crate) name: String,
    /// Without a status.
    pub(crate) object: Value,
    /// The status that is written afterwards, as a kubelet does.
    pub(crate) status: Option<Value>,
}

impl DataSet {
    /// The usual spread: 10 namespaces, 100 Nodes.
    pub(crate) fn of(services: u32, pods_each: u32) -> Self {
        Self {
            services,
            pods_each,
            namespaces: 10,
            nodes: 100,
        }
    }

    /// Namespace and name of a Service.
    pub(crate) fn service_key(&self, service: u32) -> (String, String) {
        (
            format!("{PREFIX}{}", service % self.namespaces),
            format!("svc-{service}"),
        )
    }

    /// Namespace and name of a Service's Pod.
    pub(crate) fn pod_key(&self, service: u32, pod: u32) -> (String, String) {
        (
            self.service_key(service).0,
            format!("app-{service}-7d4b9c5f6-{pod:05}"),
        )
    }

    fn service(&self, index: u32) -> Posted {
        let (namespace, name) = self.service_key(index);
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": {"app.kubernetes.io/name": format!("app-{index}"), "app.kubernetes.io/managed-by": "Helm"},
                "annotations": {"meta.helm.sh/release-name": format!("release-{index}")},
            },
            "spec": {
                "selector": selector(index),
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
                    {"name": "metrics", "port": 9090, "targetPort": 9090, "protocol": "TCP"},
                ],
            },
        });
        posted(
            &format!("/api/v1/namespaces/{namespace}/services"),
            &name,
            object,
            None,
        )
    }

    fn pod(&self, service: u32, pod: u32) -> Posted {
        let (namespace, name) = self.pod_key(service, pod);
        let index = service * self.pods_each + pod;
        let mut labels = selector(service);
        labels["pod-template-hash"] = json!("7d4b9c5f6");
        labels["topology.kubernetes.io/region"] = json!("here");
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": namespace, "labels": labels,
                "generateName": format!("app-{service}-7d4b9c5f6-"),
                "annotations": {"checksum/config": format!("{index:064x}"), "prometheus.io/scrape": "true"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("app-{service}-7d4b9c5f6"),
                    "uid": format!("00000000-0000-4000-8000-{service:012x}"),
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "spec": pod_spec(&node_name(index % self.nodes)),
        });
        let status = pod_status(index, index % self.nodes);
        posted(
            &format!("/api/v1/namespaces/{namespace}/pods"),
            &name,
            object,
            Some(status),
        )
    }
}

impl Data for DataSet {
    fn describe(&self) -> String {
        if self.services == 0 {
            return "an empty cluster".to_owned();
        }
        format!(
            "{} Services of 2 ports x {} ready Pods, {} namespaces, {} Nodes in 3 zones",
            self.services, self.pods_each, self.namespaces, self.nodes
        )
    }

    fn key(&self, control_plane: &str) -> String {
        let text = format!("{GENERATION} {} {control_plane}", self.describe());
        let digest = Sha256::digest(text.as_bytes());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    fn foundations(&self) -> Vec<Posted> {
        let namespaces = (0..self.namespaces).map(|index| {
            let name = format!("{PREFIX}{index}");
            let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            posted("/api/v1/namespaces", &name, object, None)
        });
        namespaces.chain((0..self.nodes).map(node)).collect()
    }

    fn workload(&self) -> impl Iterator<Item = Posted> {
        let services = (0..self.services).map(|index| self.service(index));
        let pods =
            (0..self.services).flat_map(move |service| (0..self.pods_each).map(move |pod| (service, pod)));
        services.chain(pods.map(|(service, pod)| self.pod(service, pod)))
    }
}

pub(super) fn posted(collection: &str, name: &str, object: Value, status: Option<Value>) -> Posted {
    Posted {
        collection: collection.to_owned(),
        name: name.to_owned(),
        object,
        status,
    }
}

fn selector(service: u32) -> Value {
    json!({"app.kubernetes.io/name": format!("app-{service}"), "app.kubernetes.io/component": "server"})
}

pub(super) fn node_name(index: u32) -> String {
    format!("node-{index:03}")
}

pub(super) fn node(index: u32) -> Posted {
    let name = node_name(index);
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/region": "here",
            "topology.kubernetes.io/zone": format!("zone-{}", index % 3),
        }},
        "spec": {"podCIDR": format!("10.{}.{}.0/23", 128 + index / 128, index % 128 * 2)},
    });
    let status = json!({
        "capacity": {"cpu": "16", "memory": "64Gi", "pods": "1000"},
        "allocatable": {"cpu": "15", "memory": "60Gi", "pods": "1000"},
        "addresses": [{"type": "InternalIP", "address": node_address(index)}, {"type": "Hostname", "address": name}],
        "conditions": [condition("Ready", "KubeletReady")],
    });
    posted("/api/v1/nodes", &name, object, Some(status))
}

fn node_address(index: u32) -> String {
    format!("10.0.{}.{}", index / 250, index % 250 + 1)
}

/// A web server with its probes and a token, as a Deployment's Pod has them.
fn pod_spec(node: &str) -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": 10});
    let token = json!({"name": "kube-api-access", "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}});
    json!({
        "nodeName": node,
        "serviceAccountName": "default",
        "containers": [{
            "name": "server",
            "image": "images.example.org/team/server:v1.2.3",
            "args": ["--listen=:8080", "--metrics=:9090"],
            "env": [
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "database", "key": "url"}}},
                {"name": "LOG_LEVEL", "value": "info"},
            ],
            "ports": [
                {"name": "http", "containerPort": 8080, "protocol": "TCP"},
                {"name": "metrics", "containerPort": 9090, "protocol": "TCP"},
            ],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "livenessProbe": probe("/healthz"),
            "readinessProbe": probe("/readyz"),
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/server"},
                {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                    "readOnly": true},
            ],
        }],
        "volumes": [{"name": "config", "configMap": {"name": "server-config"}}, token],
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300},
        ],
    })
}

fn condition(kind: &str, reason: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "lastProbeTime": null,
        "lastTransitionTime": "2026-01-01T00:00:05Z"})
}

/// What the kubelet of a Node says of a Pod that runs and is ready.
fn pod_status(index: u32, node: u32) -> Value {
    // 10.128.0.0/9 has room for eight million.
    let address = format!("10.{}.{}.{}", 128 + (index >> 16), index >> 8 & 255, index & 255);
    let kinds = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    json!({
        "phase": "Running",
        "hostIP": node_address(node), "hostIPs": [{"ip": node_address(node)}],
        "podIP": address, "podIPs": [{"ip": address}],
        "startTime": "2026-01-01T00:00:00Z",
        "qosClass": "Burstable",
        "conditions": kinds.map(|kind| condition(kind, "")),
        "containerStatuses": [{
            "name": "server", "ready": true, "started": true, "restartCount": 0,
            "image": "images.example.org/team/server:v1.2.3",
            "imageID": "images.example.org/team/server@sha256:5d1d5c6a1f2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5",
            "containerID": format!("containerd://{index:064x}"),
            "state": {"running": {"startedAt": "2026-01-01T00:00:03Z"}},
            "lastState": {},
        }],
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::{Node, Pod, PodStatus, Service};
    use serde::de::DeserializeOwned;

    use super::*;

    fn typed<K: DeserializeOwned>(value: &Value) -> K {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn every_service_selects_its_pods_and_no_others() {
        let data = DataSet::of(30, 4);
        let objects: Vec<Posted> = data.workload().collect();
        let services = objects[..30]
            .iter()
            .map(|posted| typed::<Service>(&posted.object));
        let pods: Vec<Pod> = objects[30..].iter().map(|posted| typed(&posted.object)).collect();
        assert_eq!(pods.len(), 120);
        for service in services {
            let selector = service.spec.unwrap().selector.unwrap();
            let selected = pods.iter().filter(|pod| {
                let labels = pod.metadata.labels.as_ref().unwrap();
                pod.metadata.namespace == service.metadata.namespace
                    && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            });
            assert_eq!(selected.count(), 4);
        }
    }

    #[test]
    fn addresses_and_names_are_unique_and_nodes_exist() {
        let data = DataSet::of(700, 10);
        let foundations = data.foundations();
        let nodes: BTreeSet<String> = foundations
            .iter()
            .filter(|posted| posted.collection == "/api/v1/nodes")
            .map(|posted| typed::<Node>(&posted.object).metadata.name.unwrap())
            .collect();
        assert_eq!((foundations.len(), nodes.len()), (110, 100));
        let pods: Vec<Posted> = data.workload().filter(|posted| posted.status.is_some()).collect();
        let address = |posted: &Posted| {
            typed::<PodStatus>(posted.status.as_ref().unwrap())
                .pod_ip
                .unwrap()
        };
        let on = |posted: &Posted| typed::<Pod>(&posted.object).spec.unwrap().node_name.unwrap();
        assert_eq!(pods.iter().map(address).collect::<BTreeSet<_>>().len(), 7_000);
        assert_eq!(pods.iter().map(on).collect::<BTreeSet<_>>(), nodes);
        let names: BTreeSet<_> = pods
            .iter()
            .map(|posted| (&posted.collection, &posted.name))
            .collect();
        assert_eq!(names.len(), 7_000);
    }

    #[test]
    fn other_data_and_another_control_plane_are_stored_under_other_names() {
        let keys = [
            DataSet::of(50, 4).key("a"),
            DataSet::of(50, 5).key("a"),
            DataSet::of(50, 4).key("b"),
        ];
        assert_eq!(BTreeSet::from(keys).len(), 3);
    }
}
