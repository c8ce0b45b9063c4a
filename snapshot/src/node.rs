// SPDX-License-Identifier: Apache-2.0
//! The trimmed Node: what decides zones and topology hints, and nothing else. Image lists and addresses
//! make a Node tens of kilobytes, and it is sent anew with every heartbeat of its status.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A Node, as far as endpoints depend on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// `status.allocatable.cpu`.
    pub allocatable_cpu: Option<Quantity>,
}

impl k8s_openapi::Resource for Node {
    const API_VERSION: &'static str = "v1";
    const GROUP: &'static str = "";
    const KIND: &'static str = "Node";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "nodes";
    type Scope = k8s_openapi::ClusterResourceScope;
}
