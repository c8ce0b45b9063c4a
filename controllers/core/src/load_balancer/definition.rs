// SPDX-License-Identifier: Apache-2.0
//! An AddressPool, as the allocator takes it.

use std::net::IpAddr;

use berth_allocator::{AddressSet, PoolDefinition, PoolName, Quota, Strategy, network_and_broadcast};
use berth_crds::{AddressPool, AddressPoolSpec, PoolUse};
use berth_model::ServiceKey;

/// Whether Services of several namespaces may share an address of the pool.
pub(super) fn shares_across_namespaces(pool: &AddressPool) -> bool {
    pool.spec.share_across_namespaces
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
        well_formed: spec.validate().is_empty(),
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
