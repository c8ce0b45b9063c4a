// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices of Services with a selector.
//!
//! ```text
//! Service, Pods, Nodes -> desired -> groups of endpoints, one per family and resolved port list
//! existing slices ------> pack ----> the fewest writes that hold every endpoint exactly once
//!                         hints ---> zone and node hints as trafficDistribution or topology mode asks
//!                         plan ----> placeholders, strangers, recycling: the whole Service
//!                         compaction -> when all that is done, and only if asked for
//! ```
//!
//! Packing never rebalances: one create is preferred over several updates, because each written
//! slice is sent to every node.

pub mod compaction;
mod desired;
mod hints;
mod identity;
mod meta;
mod pack;
mod plan;
mod routing;
pub mod topology;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_model::IpFamily;
use berth_snapshot::pod::Pod;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;

use crate::names;
use crate::plan::Plan;
use crate::service::Labels;
use crate::skips::Skips;
use topology::{HintState, TopologyEvent, ZoneShares};

pub(crate) use identity::{EndpointId, PortsKey, same_beyond_identity, same_target};
pub(crate) use meta::{controller_ref, generate_name, set_trigger_time};
pub(crate) use plan::recycle;

pub use plan::plan_slices;
pub use routing::{Routing, TrafficDistribution};

pub use crate::figures::FamilyCounts;

/// What the planners use of a Node.
///
/// Only the zone ends up in slices: another zone concerns the Services with Pods on the Node.
/// Everything here together decides the [`topology::ZoneShares`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its zone label, if set and not empty.
    pub zone: Option<Arc<str>>,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Its allocatable CPU, if stated, readable and not zero.
    pub cpu: Option<topology::Cpu>,
    /// Whether topology mode leaves it out: it is labelled as control plane.
    pub excluded: bool,
}

impl NodeFacts {
    /// Reads them off a Node.
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let mut conditions = status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.find(|condition| condition.type_ == "Ready");
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        Self::from_parts(
            node.metadata.labels.as_ref(),
            ready.is_some_and(|ready| ready.status == "True"),
            allocatable.and_then(|allocatable| allocatable.get("cpu")),
        )
    }

    /// From a Node's labels, whether its Ready condition is True, and `status.allocatable.cpu`: for
    /// those who watch Nodes trimmed.
    pub fn from_parts(labels: Option<&Labels>, ready: bool, cpu: Option<&Quantity>) -> Self {
        let label = |key: &str| labels.and_then(|labels| labels.get(key));
        let zone = label(names::ZONE).filter(|zone| !zone.is_empty());
        Self {
            zone: zone.map(|zone| zone.as_str().into()),
            ready,
            cpu: cpu.and_then(topology::Cpu::of),
            excluded: label(names::CONTROL_PLANE).or(label(names::MASTER)).is_some(),
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
    /// How the CPU of the cluster divides among zones, for Services in topology mode.
    pub shares: &'a ZoneShares,
    /// What [`SlicePlan::hints`] was at the last turn of this Service; empty at the first.
    pub hints: &'a HintState,
}

/// The writes for one Service, what was left out, and the figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlicePlan {
    /// The writes.
    pub writes: Plan<EndpointSlice>,
    /// What was left out. [`crate::skips::SkipReason::NodeUnknown`] among it means: write, then retry.
    pub skips: Skips,
    /// Figures per family: [`crate::figures::SliceFigures`] sums them over all Services.
    pub counts: BTreeMap<IpFamily, FamilyCounts>,
    /// What the Service says about where its traffic should go.
    pub routing: Routing,
    /// What to pass as [`SliceInput::hints`] next time. It counts from when the writes begin, whether
    /// they go well or not.
    pub hints: HintState,
    /// Events to record on the Service after the writes: topology mode began or ceased to give hints.
    pub events: Vec<TopologyEvent>,
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
