// SPDX-License-Identifier: Apache-2.0
//! The ServiceCIDRs that pools want (`spec.createServiceCIDR`): one for each entry that lies in none of the others.
//!
//! One of ours is known by its label and its name, and goes when no pool lists its range any more. Not while anybody has an
//! address of it that no other ServiceCIDR holds: the API server would keep it terminating until then, and meanwhile give
//! nothing of what a pool that comes back wants.

use std::collections::{BTreeMap, BTreeSet};

use berth_crds::AddressPool;
use berth_model::IpRange;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::pools::Standing;
use crate::values::Values;

/// Label of what we make.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const BERTH: &str = "berth";
/// Annotation: the AddressPool that wants it.
pub const POOL: &str = "berth.dev/address-pool";

/// What the name begins with.
const PREFIX: &str = "berth-";
/// How much of a pool's name fits before the longest range, in a name of 253 characters.
const POOL_NAME: usize = 200;

/// What is to be done about ServiceCIDRs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// To be created.
    pub create: Vec<ServiceCIDR>,
    /// To be deleted, these very ones.
    pub delete: Vec<ServiceCIDR>,
}

/// One that there is.
struct Existing<'a> {
    object: &'a ServiceCIDR,
    name: &'a str,
    ranges: Vec<IpNet>,
}

impl<'a> Existing<'a> {
    fn of(object: &'a ServiceCIDR) -> Self {
        let ranges = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
        Self {
            object,
            name: object.metadata.name.as_deref().unwrap_or_default(),
            ranges: ranges.filter_map(|text| text.parse().ok()).collect(),
        }
    }

    fn is_ours(&self) -> bool {
        let labels = self.object.metadata.labels.as_ref();
        let label = labels.and_then(|labels| labels.get(MANAGED_BY));
        label.is_some_and(|value| value == BERTH) && self.name.starts_with(PREFIX)
    }

    fn is_terminating(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// A condition that is not there yet counts as true, as it does for the API server.
    fn is_ready(&self) -> bool {
        let status = self.object.status.as_ref();
        let mut conditions = status
            .into_iter()
            .flat_map(|status| status.conditions.iter().flatten());
        !conditions.any(|condition| condition.type_ == "Ready" && condition.status == "False")
    }

    fn covers(&self, range: &IpNet) -> bool {
        self.ranges.iter().any(|own| own.contains(range))
    }
}

/// Whether it is one that we made.
pub fn is_ours(cidr: &ServiceCIDR) -> bool {
    Existing::of(cidr).is_ours()
}

/// Says what is to be created and deleted.
pub fn plan(values: &Values, existing: &[ServiceCIDR]) -> Plan {
    let existing: Vec<Existing<'_>> = existing.iter().map(Existing::of).collect();
    let pools = values.address_pools();
    let wanting: Vec<(&AddressPool, BTreeMap<String, IpNet>)> = pools
        .filter(|pool| pool.spec.create_service_cidr)
        .map(|pool| (pool, named(pool)))
        .collect();
    let wanted: BTreeSet<&str> = wanting
        .iter()
        .flat_map(|(_, ranges)| ranges.keys().map(String::as_str))
        .collect();
    let goes = |cidr: &Existing<'_>| cidr.is_ours() && !wanted.contains(cidr.name);
    let staying: Vec<&Existing<'_>> = existing
        .iter()
        .filter(|cidr| !cidr.is_terminating() && !goes(cidr))
        .collect();
    let mut plan = Plan::default();
    for (pool, ranges) in &wanting {
        let name = pool.metadata.name.as_deref().unwrap_or_default();
        // One that has faults, or overlaps an older one, keeps what it has and gets nothing new.
        if !matches!(values.standing(name), Some(Standing::Gives | Standing::Draining)) {
            continue;
        }
        for (cidr, range) in ranges {
            let is_there = existing.iter().any(|existing| existing.name == cidr);
            if !is_there && !staying.iter().any(|other| other.covers(range)) {
                plan.create.push(service_cidr(cidr, name, range));
            }
        }
    }
    for cidr in existing
        .iter()
        .filter(|cidr| goes(cidr) && !cidr.is_terminating())
    {
        let is_needed = cidr.ranges.iter().any(|range| {
            let mut others = staying.iter().filter(|other| other.is_ready());
            is_in_use(values, range) && !others.any(|other| other.covers(range))
        });
        if !is_needed {
            plan.delete.push(cidr.object.clone());
        }
    }
    plan
}

fn is_in_use(values: &Values, range: &IpNet) -> bool {
    let range = IpRange::new(range.network(), range.broadcast());
    // The last address of an IPv6 network is one of it, and what ipnet calls its broadcast address.
    range.is_ok_and(|range| values.is_range_in_use(&range))
}

/// The CIDRs that a pool lists, by the names of their ServiceCIDRs.
fn named(pool: &AddressPool) -> BTreeMap<String, IpNet> {
    let name = pool.metadata.name.as_deref().unwrap_or_default();
    let ranges = pool
        .spec
        .addresses
        .iter()
        .filter_map(|text| text.parse::<IpNet>().ok());
    ranges
        .map(|range| (name_of(name, &range), range.trunc()))
        .collect()
}

/// `berth-team-a-10-96-8-0-24`.
fn name_of(pool: &str, range: &IpNet) -> String {
    let end = pool
        .char_indices()
        .nth(POOL_NAME)
        .map_or(pool.len(), |(end, _)| end);
    let pool = pool.get(..end).unwrap_or(pool).replace('.', "-");
    let range = range.trunc().to_string().replace(['.', ':', '/'], "-");
    format!("{PREFIX}{pool}-{range}")
}

fn service_cidr(name: &str, pool: &str, range: &IpNet) -> ServiceCIDR {
    ServiceCIDR {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(MANAGED_BY.to_owned(), BERTH.to_owned())].into()),
            annotations: Some([(POOL.to_owned(), pool.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceCIDRSpec {
            cidrs: Some(vec![range.to_string()]),
        }),
        status: None,
    }
}
