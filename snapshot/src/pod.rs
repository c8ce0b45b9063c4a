// SPDX-License-Identifier: Apache-2.0
//! The trimmed Pod: what the controllers read of a Pod, and nothing else.
//!
//! A cluster has more Pods than anything else. Deserialising only these fields costs a fraction of a
//! `k8s_openapi::api::core::v1::Pod`, in time and in memory, and no managed fields or volumes are
//! ever stored.

use k8s_openapi::api::core::v1::PodIP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// A Pod, as far as Service endpoints depend on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Name, namespace, uid, resource version, labels, and the two timestamps. Nothing else is kept.
    #[serde(default, deserialize_with = "trimmed_meta")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    #[serde(default)]
    pub spec: PodSpec,
    /// What is.
    #[serde(default)]
    pub status: PodStatus,
}

/// The used part of a Pod's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The Node it is bound to.
    pub node_name: Option<String>,
    /// `spec.hostname`.
    pub hostname: Option<String>,
    /// `spec.subdomain`.
    pub subdomain: Option<String>,
    /// Regular containers.
    pub containers: Vec<Container>,
    /// Init containers; those with restart policy `Always` are sidecars (KEP-753).
    pub init_containers: Vec<Container>,
}

/// The used part of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// `Always` on an init container makes it a sidecar.
    pub restart_policy: Option<String>,
    /// Its ports.
    pub ports: Vec<ContainerPort>,
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// The name that a Service's `targetPort` may use.
    pub name: Option<String>,
    /// The port number, 1 to 65535.
    pub container_port: i32,
    /// TCP where absent.
    pub protocol: Option<String>,
}

/// The used part of a Pod's status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    pub phase: Option<String>,
    /// The primary address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// One address per family.
    #[serde(rename = "podIPs", deserialize_with = "null_is_empty")]
    pub pod_ips: Vec<PodIP>,
    /// The Ready condition is the one that counts.
    #[serde(deserialize_with = "null_is_empty")]
    pub conditions: Vec<PodCondition>,
}

/// One condition of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    /// Its type, such as `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When it last changed.
    pub last_transition_time: Option<Time>,
}

impl Pod {
    /// Whether the Ready condition is True.
    pub fn is_ready(&self) -> bool {
        self.ready_condition()
            .is_some_and(|condition| condition.status == "True")
    }

    /// The Ready condition, if it has been set.
    pub fn ready_condition(&self) -> Option<&PodCondition> {
        self.status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
    }

    /// Whether it has run to its end: such a Pod is never an endpoint.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }

    /// Whether its deletion has been asked for.
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Its labels.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.metadata.labels.as_ref()
    }
}

impl k8s_openapi::Resource for Pod {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Pod";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Pod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The used part of an object's metadata.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TrimmedMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

fn trimmed_meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let meta = TrimmedMeta::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        labels: meta.labels,
        creation_timestamp: meta.creation_timestamp,
        deletion_timestamp: meta.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: &str = r#"{
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
            "labels": {"app": "web"}, "annotations": {"big": "thing"}, "managedFields": [{"manager": "x"}],
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node-1", "volumes": [{"name": "v"}],
            "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}],
            "initContainers": [{"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 15000}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}]}
    }"#;

    #[test]
    fn a_pod_keeps_what_is_used_and_drops_the_rest() {
        let pod: Pod = serde_json::from_str(WIRE).unwrap();
        assert!(pod.is_ready() && !pod.is_finished() && !pod.is_terminating());
        assert_eq!(pod.spec.containers[0].ports[0].container_port, 8080);
        assert_eq!(
            pod.spec.init_containers[0].restart_policy.as_deref(),
            Some("Always")
        );
        assert_eq!(pod.status.pod_ips.len(), 2);
        assert!(pod.metadata.managed_fields.is_none() && pod.metadata.annotations.is_none());
    }

    #[test]
    fn a_pod_with_nothing_but_a_name_is_read() {
        let pod: Pod =
            serde_json::from_str(r#"{"metadata": {"name": "p"}, "status": {"podIPs": null}}"#).unwrap();
        assert!(!pod.is_ready());
    }
}
