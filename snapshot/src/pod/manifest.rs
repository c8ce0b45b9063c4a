// SPDX-License-Identifier: Apache-2.0
//! A Pod as people and tests write it down: the fields that are used, in their JSON form.

use k8s_openapi::api::core::v1::PodIP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

use super::{Facts, Pod, Shared, When};
use crate::wire::Named;

/// A Pod in words, as far as Service endpoints depend on it. [`super::Pod`] is what is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodManifest {
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

impl PodManifest {
    /// The Pod to keep, sharing texts with others.
    pub fn keep(&self, shared: &mut Shared) -> Pod {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().to_owned();
        let (meta, spec, status) = (&self.metadata, &self.spec, &self.status);
        let named = Named {
            namespace: shared.texts.get(meta.namespace.as_deref().unwrap_or_default()),
            name: text(&meta.name).into(),
        };
        let mut facts = Facts {
            uid: meta.uid.as_deref().unwrap_or_default(),
            version: meta.resource_version.as_deref().unwrap_or_default(),
            deleted: When::of(meta.deletion_timestamp.as_ref().map(|time| time.0)),
            node: spec.node_name.as_deref().unwrap_or_default(),
            hostname: spec.hostname.as_deref().unwrap_or_default(),
            subdomain: spec.subdomain.as_deref().unwrap_or_default(),
            phase: status.phase.as_deref().unwrap_or_default(),
            ip: status.pod_ip.as_deref().unwrap_or_default(),
            ips: status.pod_ips.iter().map(|entry| entry.ip.as_str()).collect(),
            ..Facts::default()
        };
        for (key, value) in meta.labels.iter().flatten() {
            facts.labels.push((key, value));
        }
        for port in spec.containers.iter().flat_map(|container| &container.ports) {
            facts.ports.push(port.named());
        }
        let sidecars = spec.init_containers.iter().filter(|init| init.is_sidecar());
        for port in sidecars.flat_map(|container| &container.ports) {
            facts.sidecar_ports.push(port.named());
        }
        if let Some(ready) = status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
        {
            facts.ready = ready.status == "True";
            facts.ready_since = When::of(ready.last_transition_time.as_ref().map(|time| time.0));
        }
        facts.build(&named, shared)
    }
}

impl Container {
    /// KEP-753: an init container that goes on running.
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

impl ContainerPort {
    fn named(&self) -> (&str, &str, i32) {
        let name = self.name.as_deref().unwrap_or_default();
        let protocol = self.protocol.as_deref().unwrap_or_default();
        (name, protocol, self.container_port)
    }
}

impl From<&PodManifest> for Pod {
    fn from(manifest: &PodManifest) -> Self {
        manifest.keep(&mut Shared::default())
    }
}

impl From<PodManifest> for Pod {
    fn from(manifest: PodManifest) -> Self {
        Self::from(&manifest)
    }
}

/// What was kept, in words: a Pod that has ended has failed, and ports stand in one container.
impl From<&Pod> for PodManifest {
    fn from(pod: &Pod) -> Self {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let labels = pod.labels().iter();
        let labels: BTreeMap<String, String> = labels
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        let ports = pod.named_ports().iter().map(|port| ContainerPort {
            name: some(&port.name),
            container_port: port.number,
            protocol: some(&port.protocol),
        });
        let container = Container {
            ports: ports.collect(),
            ..Container::default()
        };
        let ready = PodCondition {
            type_: "Ready".to_owned(),
            status: if pod.is_ready() { "True" } else { "False" }.to_owned(),
            last_transition_time: pod.ready_since().map(Time),
        };
        let ips = pod.addresses();
        Self {
            metadata: ObjectMeta {
                name: some(pod.name()),
                namespace: some(pod.namespace()),
                uid: pod.uid().map(|uid| uid.to_string()),
                resource_version: pod.version().map(|version| version.to_string()),
                labels: (!labels.is_empty()).then_some(labels),
                deletion_timestamp: pod.deleted().map(Time),
                ..ObjectMeta::default()
            },
            spec: PodSpec {
                node_name: pod.node_name().map(str::to_owned),
                hostname: pod.hostname().map(str::to_owned),
                subdomain: pod.subdomain().map(str::to_owned),
                containers: vec![container],
                init_containers: Vec::new(),
            },
            status: PodStatus {
                phase: some(if pod.is_finished() { "Failed" } else { "Running" }),
                pod_ip: pod.primary_address().map(|ip| ip.to_string()),
                pod_ips: ips.map(|ip| PodIP { ip: ip.to_string() }).collect(),
                conditions: vec![ready],
            },
        }
    }
}
