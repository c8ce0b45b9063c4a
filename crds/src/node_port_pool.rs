// SPDX-License-Identifier: Apache-2.0
//! `NodePortPool`: a supply of node ports that the cluster's administrator gives to Berth.
#![expect(
    unreachable_pub,
    reason = "KubeSchema expands to a private copy of each struct, `pub` included"
)]
#![expect(clippy::duplicated_attributes, reason = "printcolumn is meant to be repeated")]

mod validate;

use berth_model::PortRange;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::address_pool::{is_false, is_zero};
use crate::{PoolQuota, PoolSelector, Strategy};

/// A supply of node ports for Services.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "NodePortPool",
    plural = "nodeportpools",
    shortname = "npool",
    category = "berth",
    status = "NodePortPoolStatus",
    doc = "NodePortPool is a supply of node ports from which Berth serves Services.",
    printcolumn(name = "Ports", type_ = "string", json_path = ".spec.ports"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.ports.allocated"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.ports.free"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Priority",
        type_ = "integer",
        json_path = ".spec.priority",
        priority = 1
    ),
    printcolumn(
        name = "Draining",
        type_ = "boolean",
        json_path = ".spec.draining",
        priority = 1
    ),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct NodePortPoolSpec {
    /// The ports: numbers (30080) or ranges (30000-30099). Each may appear once;
    /// pools must not overlap. The API server takes those of its own range only
    /// (--service-node-port-range, 30000-32767 if it does not say otherwise).
    #[schemars(schema_with = "needed_ranges_schema")]
    pub ports: Vec<String>,
    /// Ports among them that are never given: numbers or ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ranges_schema")]
    pub exclude: Vec<String>,
    /// Ports that are kept for a Service, whether it exists yet or not. Nobody else
    /// gets them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub reservations: Vec<PortReservation>,
    /// Which Services the pool serves. Absent, it serves all of them, but for those
    /// of system namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PoolSelector>,
    /// Which pool serves a Service that several could serve: the higher number,
    /// then the older pool, then the name.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: i64,
    /// How many node ports one namespace may hold. Absent, as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<PoolQuota>,
    /// Gives nothing new, and takes nothing back: for a pool that is to be emptied.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draining: bool,
    /// Which of the free ports is given. Absent, any. A port that was just given
    /// back comes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
}

/// A port that is kept for one Service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PortReservation {
    /// The port, one of the pool's.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// The namespace of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The name of the Service's port, where it has several. Absent, the first that
    /// needs a node port gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub port_name: Option<String>,
}

/// What Berth says about a pool of node ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct NodePortPoolStatus {
    /// Ready, and when not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Use of the ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortUse>,
    /// Who holds ports: the fifty namespaces with the most of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["namespace".into()]))]
    pub namespaces: Vec<NamespacePorts>,
    /// How many further namespaces hold some.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub other_namespaces: i64,
}

/// Counts of node ports.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PortUse {
    /// How many ports the pool holds.
    pub capacity: i64,
    /// How many are given to Services.
    pub allocated: i64,
    /// How many are reserved for a Service that does not hold them yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reserved: i64,
    /// How many are promised to Services that are being created right now.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub held: i64,
    /// How many Services have that the pool did not give them: exempt ones, and
    /// those that came past Berth.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub encroached: i64,
    /// How many could still be given.
    pub free: i64,
}

/// What one namespace holds of a pool of node ports.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NamespacePorts {
    /// The namespace.
    pub namespace: String,
    /// How many ports.
    pub ports: i64,
}

impl NodePortPoolSpec {
    /// The ranges that can be read, with the index of the entry each comes from.
    pub fn ranges(&self) -> Vec<(usize, PortRange)> {
        readable(&self.ports)
    }

    /// The same of those that are never given.
    pub fn excluded(&self) -> Vec<(usize, PortRange)> {
        readable(&self.exclude)
    }
}

fn readable(texts: &[String]) -> Vec<(usize, PortRange)> {
    let texts = texts.iter().enumerate();
    texts
        .filter_map(|(i, text)| Some((i, text.parse().ok()?)))
        .collect()
}

fn ranges_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "items": {
            "type": "string",
            "maxLength": 11,
            "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$",
            "x-kubernetes-validations": [
                {
                    "rule": "self.split('-').all(p, int(p) >= 1 && int(p) <= 65535)",
                    "message": "has to be of numbers from 1 to 65535",
                },
                {
                    "rule": "!self.contains('-') || int(self.split('-')[0]) <= int(self.split('-')[1])",
                    "message": "ends before it starts",
                },
            ],
        },
    })
}

fn needed_ranges_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = ranges_schema(generator);
    schema.insert("minItems".to_owned(), 1.into());
    schema
}

#[cfg(test)]
mod tests;
