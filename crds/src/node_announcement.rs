// SPDX-License-Identifier: Apache-2.0
//! `NodeAnnouncement`: what one node's announcer says that it announces. Written by that announcer only.
#![expect(
    unreachable_pub,
    reason = "KubeSchema expands to a private copy of each struct, `pub` included"
)]
#![expect(clippy::duplicated_attributes, reason = "printcolumn is meant to be repeated")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nothing to wish for: the object is a status. Named like its Node.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "berth.dev",
    version = "v1alpha1",
    kind = "NodeAnnouncement",
    plural = "nodeannouncements",
    shortname = "nann",
    category = "berth",
    status = "NodeAnnouncementStatus",
    derive = "PartialEq",
    doc = "NodeAnnouncement says which addresses a node answers for on the LAN. It is named like its Node and written by the announcer there.",
    printcolumn(
        name = "Addresses",
        type_ = "string",
        json_path = ".status.announced[*].address"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    crates(
        kube_core = "::kube_core",
        k8s_openapi = "::k8s_openapi",
        schemars = "::schemars",
        serde = "::serde",
        serde_json = "::serde_json"
    )
)]
pub struct NodeAnnouncementSpec {}

/// What the node's announcer reports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct NodeAnnouncementStatus {
    /// The announcer process that wrote this: a new value after each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Interfaces on which this node can announce, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Addresses that this node answers for, sorted by address, then interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announced: Vec<AnnouncedAddress>,
    /// Ready, and when not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One address on one interface.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AnnouncedAddress {
    /// The address.
    pub address: String,
    /// The interface on which the node answers for it.
    pub interface: String,
    /// Since when.
    pub since: Time,
}
