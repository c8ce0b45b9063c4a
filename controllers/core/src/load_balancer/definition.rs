// SPDX-License-Identifier: Apache-2.0
//! An AddressPool, as the allocator takes it.

use std::net::IpAddr;

use berth_allocator::{AddressSet, PoolDefinition, PoolName, Quota, Strategy, network_and_broadcast};
use berth_crds::{AddressPool, AddressPoolSpec, Fault, PoolUse};
use berth_model::ServiceKey;

/// What is wrong with a pool; one with faults gives nothing new.
pub(super) fn faults(spec: &AddressPoolSpec) -> Vec<Fault> {
    let mut faults = spec.validate();
    faults.extend(unserved(spec));
    faults
}

/// What the schema has and nothing serves yet. Without it the pool would be for others than somebody meant.
fn unserved(spec: &AddressPoolSpec) -> Vec<Fault> {
    let fault = |field: &str, value: String, way_out: &str| Fault {
        field: field.to_owned(),
        value,
        problem: format!("is not served yet: {way_out}"),
    };
    let mut faults = Vec::new();
    if spec.selector.is_some() {
        let way_out = "remove it, and name the pool in the annotation berth.dev/address-pool of the Services";
        faults.push(fault("spec.selector", "{...}".to_owned(), way_out));
    }
    if spec.priority != 0 {
        let way_out = "remove it; the oldest pool serves first";
        faults.push(fault("spec.priority", spec.priority.to_string(), way_out));
    }
    faults
}

/// `None` for a pool without a name, and for one that is not for load balancers.
pub(super) fn definition(pool: &AddressPool) -> Option<PoolDefinition> {
    let spec = &pool.spec;
    if spec.r#use != PoolUse::LoadBalancer {
        return None;
    }
    let name = PoolName::new(pool.metadata.name.clone()?);
    let ranges = spec.ranges().into_iter().map(|(_, range)| range).collect();
    let created = pool.metadata.creation_timestamp.as_ref();
    Some(PoolDefinition {
        created: created.map_or(i64::MAX, |time| time.0.as_second()),
        well_formed: faults(spec).is_empty(),
        excluded: excluded(spec),
        strategy: strategy(spec),
        draining: spec.draining,
        quota: quota(spec),
        reservations: reservations(spec),
        ..PoolDefinition::of(name, ranges)
    })
}

fn excluded(spec: &AddressPoolSpec) -> AddressSet {
    let mut excluded: AddressSet = spec.excluded().into_iter().map(|(_, range)| range).collect();
    if spec.avoid_network_and_broadcast == Some(true) {
        let cidrs = spec.ranges().into_iter();
        for (_, cidr) in cidrs.filter(|(index, _)| spec.addresses[*index].contains('/')) {
            for range in network_and_broadcast(cidr).ranges() {
                excluded.insert(range);
            }
        }
    }
    excluded
}

fn strategy(spec: &AddressPoolSpec) -> Strategy {
    match spec.strategy {
        None | Some(berth_crds::Strategy::LowestFirst) => Strategy::LowestFirst,
        Some(berth_crds::Strategy::Random) => Strategy::Random,
        Some(berth_crds::Strategy::LeastRecentlyReleased) => Strategy::LeastRecentlyReleased,
    }
}

fn quota(spec: &AddressPoolSpec) -> Quota {
    let count = |limit: i64| u64::try_from(limit).unwrap_or(0);
    let quota = spec.quota.clone().unwrap_or_default();
    Quota {
        each: quota.per_namespace.map(count),
        groups: quota
            .overrides
            .into_iter()
            .map(|limit| (limit.namespace, count(limit.limit)))
            .collect(),
    }
}

fn reservations(spec: &AddressPoolSpec) -> Vec<(IpAddr, ServiceKey)> {
    let readable = spec.reservations.iter().filter_map(|reservation| {
        let address: IpAddr = reservation.address.parse().ok()?;
        Some((
            address,
            ServiceKey::new(reservation.namespace.as_str(), reservation.name.as_str()),
        ))
    });
    readable.collect()
}
