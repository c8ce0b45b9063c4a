// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices of Services with a selector.
//!
//! ```text
//! Service, Pods, Nodes -> desired -> groups of endpoints, one per family and resolved port list
//! existing slices ------> pack ----> the fewest writes that hold every endpoint exactly once
//!                         hints ---> zone and node hints as trafficDistribution asks
//!                         plan ----> placeholders, strangers, recycling: the whole Service
//! ```
//!
//! Packing never rebalances: one create is preferred over several updates, because each written
//! slice is sent to every node.

mod desired;
mod hints;
mod identity;
mod meta;
mod pack;
mod plan;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::IpFamily;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;

use crate::names;
use crate::plan::Plan;
use crate::skips::Skips;

pub(crate) use identity::{EndpointId, PortsKey, same_beyond_identity, same_target};
pub(crate) use meta::{controller_ref, generate_name, set_trigger_time};
pub(crate) use plan::recycle;

pub use plan::plan_slices;

/// What the planners use of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its zone label, if set and not empty.
    pub zone: Option<Arc<str>>,
}

impl NodeFacts {
    /// Reads them off a Node.
    pub fn of(node: &Node) -> Self {
        let labels = node.metadata.labels.as_ref();
        let zone = labels.and_then(|labels| labels.get(names::ZONE));
        Self {
            zone: zone
                .filter(|zone| !zone.is_empty())
                .map(|zone| zone.as_str().into()),
        }
    }
}

/// Nodes by name.
pub type Nodes = BTreeMap<Arc<str>, NodeFacts>;

/// What to do with slices of a Service that no longer selects Pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leftovers {
    /// Leave them, as upstream does.
    #[default]
    Keep,
    /// Delete them.
    Delete,
}

/// Settings of the slice planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceOptions {
    /// Endpoints per slice, 1 to 1000 (upstream's default and limits of `--max-endpoints-per-slice`).
    pub max_endpoints: usize,
    /// What to do when a Service stops selecting Pods.
    pub leftovers: Leftovers,
}

impl Default for SliceOptions {
    fn default() -> Self {
        Self {
            max_endpoints: 100,
            leftovers: Leftovers::Keep,
        }
    }
}

/// Everything that the slices of one Service depend on.
#[derive(Clone, Copy, Debug)]
pub struct SliceInput<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The Pods that its selector matches, in any order.
    pub pods: &'a [Arc<Pod>],
    /// All Nodes.
    pub nodes: &'a Nodes,
    /// Slices that carry its service-name label. Others' and those being deleted are left alone.
    pub existing: &'a [Arc<EndpointSlice>],
    /// When the change that led here happened ([`crate::trigger`]).
    pub trigger_time: Option<Timestamp>,
    /// Settings.
    pub options: SliceOptions,
}

/// Figures of one family of one Service, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyCounts {
    /// Endpoints wanted.
    pub endpoints: usize,
    /// Slices there will be.
    pub slices: usize,
    /// Slices there would be if all were packed densely.
    pub optimal_slices: usize,
    /// Endpoints that are in no slice yet.
    pub added: usize,
    /// Endpoints that leave their slice for good.
    pub removed: usize,
}

/// The writes for one Service, what was left out, and the figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlicePlan {
    /// The writes.
    pub writes: Plan<EndpointSlice>,
    /// What was left out. [`crate::skips::SkipReason::NodeUnknown`] among it means: write, then retry.
    pub skips: Skips,
    /// Figures per family.
    pub counts: BTreeMap<IpFamily, FamilyCounts>,
}

/// Whether a slice is written by the controller of this name, for the Service or Endpoints of this name.
pub(crate) fn is_managed(slice: &EndpointSlice, controller: &str, name: Option<&String>) -> bool {
    let Some(labels) = slice.metadata.labels.as_ref() else {
        return false;
    };
    labels.get(names::SLICE_MANAGED_BY).map(String::as_str) == Some(controller)
        && labels.get(names::SERVICE_NAME) == name
        && slice.metadata.deletion_timestamp.is_none()
}
