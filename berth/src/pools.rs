// SPDX-License-Identifier: Apache-2.0
//! What pools there are, who has what of them, and what is not as it should be: from lists of objects, with the books that the
//! controllers keep themselves.
//!
//! In: objects as an API server lists them. Out: a [`Report`], as text or JSON. Touches: nothing.
//!
//! What is on its way to a Service that is being created is known to the replicas alone: of it there is the number that they
//! write in the pool's status, and not who it is for.

mod addresses;
mod report;
mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use berth_controllers_core::admission::Exemptions;
use berth_crds::{AddressClaim, AddressPool, NodePortPool};
use berth_model::PortRange;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde::Serialize;

pub(crate) use report::report;

/// The objects. A kind that the cluster does not have is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listed {
    pub(crate) services: Vec<Service>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) service_cidrs: Option<Vec<ServiceCIDR>>,
    /// Those that the API server's allocator manages say nothing that Services don't.
    pub(crate) ip_addresses: Option<Vec<IPAddress>>,
    pub(crate) address_pools: Option<Vec<AddressPool>>,
    pub(crate) port_pools: Option<Vec<NodePortPool>>,
    pub(crate) claims: Option<Vec<AddressClaim>>,
}

/// What can't be read from a cluster: the flags of its daemons.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    /// The API server's.
    pub(crate) node_ports: PortRange,
    /// What pools do not apply to.
    pub(crate) exemptions: Exemptions,
    /// Whether Services without a class are Berth's.
    pub(crate) default_provider: bool,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Load balancers', cluster IPs', node ports'; of each those that are asked first first.
    pub(crate) pools: Vec<PoolReport>,
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) remarks: Vec<String>,
}

/// A pool.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolReport {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    #[serde(rename = "use")]
    pub(crate) used_for: &'static str,
    pub(crate) standing: &'static str,
    /// What is wrong, where something is.
    pub(crate) because: Option<String>,
    pub(crate) priority: i64,
    pub(crate) ranges: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) selects: String,
    pub(crate) counts: Vec<CountReport>,
    pub(crate) namespaces: Vec<NamespaceReport>,
    pub(crate) values: Vec<ValueReport>,
}

/// A pool in numbers. Those that an integer may not hold are decimal texts, as in the pool's status.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CountReport {
    /// A family, or `ports`.
    pub(crate) of: &'static str,
    pub(crate) capacity: String,
    pub(crate) allocated: u64,
    pub(crate) reserved: u64,
    /// What the pool's status says is promised.
    pub(crate) held: i64,
    /// That the API server does not take at present.
    pub(crate) withheld: String,
    pub(crate) free: String,
}

/// What a namespace has of a pool.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NamespaceReport {
    pub(crate) namespace: String,
    pub(crate) used: BTreeMap<&'static str, u64>,
    /// By the pool's quota, of each.
    pub(crate) limit: Option<u64>,
}

/// One value that is somebody's.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ValueReport {
    pub(crate) value: String,
    /// Namespace and name of a Service, which need not exist; `-` where it is none's.
    pub(crate) service: String,
    /// `InUse`, `Claimed`, `Reserved`, `Requested` or `ManagedByOthers`.
    pub(crate) ground: &'static str,
    pub(crate) claim: Option<String>,
}

/// What is not as it should be, and stops nothing.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conflict {
    pub(crate) reason: &'static str,
    pub(crate) value: String,
    pub(crate) service: String,
    pub(crate) pool: Option<String>,
    pub(crate) message: String,
}

impl Report {
    /// Only the pools called so, and what is wrong with them.
    pub(crate) fn of(self, name: &str) -> Option<Self> {
        let pools: Vec<PoolReport> = self.pools.into_iter().filter(|pool| pool.name == name).collect();
        let conflicts = self.conflicts.into_iter();
        let conflicts = conflicts
            .filter(|conflict| conflict.pool.as_deref() == Some(name))
            .collect();
        (!pools.is_empty()).then_some(Self {
            pools,
            conflicts,
            remarks: self.remarks,
        })
    }
}
