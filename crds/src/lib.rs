// SPDX-License-Identifier: Apache-2.0
//! The API types that Berth owns, group `berth.dev`.
//!
//! In: what a user wrote in YAML. Out: typed specs, all their faults at once, and CRD manifests.
//! Touches: nothing. `kube-core` and `kube-derive` give the traits and the schema, never a client.
#![forbid(unsafe_code)]

mod address_claim;
mod address_pool;
mod conditions;
mod fault;
mod node_announcement;
mod node_port_pool;
mod pool;
mod reasons;
mod retention;

pub use address_claim::{AddressClaim, AddressClaimSpec, AddressClaimStatus, ClaimFamily};
pub use address_pool::{
    AddressPool, AddressPoolSpec, AddressPoolStatus, AddressReservation, FamilyUse, NamespaceUse, PoolUse,
};
pub use conditions::{ConditionStatus, set_condition};
pub use fault::Fault;
pub use node_announcement::{
    AnnouncedAddress, NodeAnnouncement, NodeAnnouncementSpec, NodeAnnouncementStatus,
};
pub use node_port_pool::{
    NamespacePorts, NodePortPool, NodePortPoolSpec, NodePortPoolStatus, PortReservation, PortUse,
};
pub use pool::{PoolQuota, PoolSelector, QuotaOverride, Strategy};
pub use reasons::{ClaimCondition, ClaimReason, PoolCondition, PoolReason};
pub use retention::parse_retention;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt;

/// The API group of every type here.
pub const GROUP: &str = "berth.dev";

/// The load balancer class that Berth's bare-metal provider answers to (`spec.loadBalancerClass`).
pub const BARE_METAL_CLASS: &str = "berth.dev/bare-metal";

/// Every CustomResourceDefinition that Berth serves, in the order in which they are installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        AddressPool::crd(),
        NodePortPool::crd(),
        AddressClaim::crd(),
        NodeAnnouncement::crd(),
    ]
}
