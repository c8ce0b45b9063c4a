// SPDX-License-Identifier: Apache-2.0
//! The pools as the allocator takes them, and what is in none of them as one pool more.
//!
//! Every value is of one of them at most: what several pools list is the one's that stands, else the oldest's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_allocator::{
    AddressSet, Item, PoolDefinition, PoolName, PortSet, Quota, RangeSet, StaticBand, Strategy,
    network_and_broadcast,
};
use berth_crds::{AddressPool, AddressPoolSpec, NodePortPool, PoolQuota};
use berth_model::{IpRange, Port, PortRange};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::stock::{Holder, Value, outside};
use crate::pools::{self, PoolRef, Standing, Supply};

/// What a pool is made of, whatever it has.
struct Parts<'a, I: Item> {
    reference: PoolRef,
    meta: &'a ObjectMeta,
    ranges: RangeSet<I>,
    excluded: RangeSet<I>,
    kept: RangeSet<I>,
    strategy: Option<berth_crds::Strategy>,
    draining: bool,
    quota: Option<&'a PoolQuota>,
}

/// What the API server takes as cluster IPs, and which of it comes last.
pub(super) fn usable_addresses<'a>(cidrs: impl Iterator<Item = &'a IpRange>) -> (AddressSet, AddressSet) {
    let (mut usable, mut kept) = (AddressSet::default(), AddressSet::default());
    for cidr in cidrs {
        let given: AddressSet = [*cidr].into_iter().collect();
        add(&mut usable, &given.without(&network_and_broadcast(*cidr)));
        if let Some(range) = band(*cidr, StaticBand::ClusterIps, true) {
            kept.insert(range);
        }
    }
    (usable, kept)
}

pub(super) fn of_addresses(
    ranked: &pools::Pools,
    objects: &BTreeMap<String, AddressPool>,
    usable: &AddressSet,
    kept: AddressSet,
) -> Vec<PoolDefinition<IpAddr, Holder>> {
    let parts = objects.iter().map(|(name, pool)| Parts {
        reference: PoolRef {
            supply: Supply::ClusterIp,
            name: name.clone(),
        },
        meta: &pool.metadata,
        ranges: pool.spec.ranges().into_iter().map(|(_, range)| range).collect(),
        excluded: excluded(&pool.spec),
        kept: bands(&pool.spec),
        strategy: pool.spec.strategy,
        draining: pool.spec.draining,
        quota: pool.spec.quota.as_ref(),
    });
    definitions(ranked, parts.collect(), usable, kept)
}

pub(super) fn of_ports(
    ranked: &pools::Pools,
    objects: &BTreeMap<String, NodePortPool>,
    range: PortRange,
) -> (Vec<PoolDefinition<Port, Holder>>, PortSet) {
    let parts = objects.iter().map(|(name, pool)| Parts {
        reference: PoolRef {
            supply: Supply::NodePort,
            name: name.clone(),
        },
        meta: &pool.metadata,
        ranges: pool.spec.ranges().into_iter().map(|(_, range)| range).collect(),
        excluded: pool.spec.excluded().into_iter().map(|(_, range)| range).collect(),
        kept: PortSet::default(),
        strategy: pool.spec.strategy,
        draining: pool.spec.draining,
        quota: pool.spec.quota.as_ref(),
    });
    let usable: PortSet = [range].into_iter().collect();
    let lowest = StaticBand::NodePorts.items(range.size().into());
    let last = lowest
        .checked_sub(1)
        .map(|last| u128::from(range.first().get()) + last);
    let kept =
        last.and_then(|last| PortRange::new(range.first(), Port::at(berth_allocator::NodePorts, last)).ok());
    let definitions = definitions(ranked, parts.collect(), &usable, kept.into_iter().collect());
    (definitions, usable)
}

fn definitions<I: Value>(
    ranked: &pools::Pools,
    parts: Vec<Parts<'_, I>>,
    usable: &RangeSet<I>,
    kept: RangeSet<I>,
) -> Vec<PoolDefinition<I, Holder>> {
    let standings: BTreeMap<&PoolRef, (&pools::Pool, &Standing)> = ranked
        .iter()
        .map(|(pool, standing)| (pool.name(), (pool, standing)))
        .collect();
    let mut parts: Vec<_> = parts
        .into_iter()
        .filter_map(|part| Some((*standings.get(&part.reference)?, part)))
        .collect();
    parts.sort_by_key(|((_, standing), part)| {
        let overlaps = matches!(standing, Standing::Overlapping(_));
        (overlaps, created(part.meta), part.reference.name.clone())
    });
    let mut seen = RangeSet::default();
    let mut definitions = Vec::with_capacity(parts.len() + 1);
    for ((pool, standing), part) in parts {
        let mut excluded = part.excluded;
        add(&mut excluded, &part.ranges.intersection(&seen));
        add(&mut seen, &part.ranges);
        let reservations = pool
            .reservations()
            .iter()
            .filter_map(|kept| Some((I::of(kept.item)?, Holder::Reserved(kept.service.clone()))));
        definitions.push(PoolDefinition {
            created: created(part.meta),
            excluded,
            well_formed: matches!(standing, Standing::Gives | Standing::Draining),
            kept: part.kept,
            withheld: part.ranges.without(usable),
            strategy: strategy(part.strategy),
            draining: part.draining,
            quota: quota(part.quota),
            reservations: reservations.collect(),
            ..PoolDefinition::of(PoolName::new(part.reference.name), part.ranges.clone())
        });
    }
    definitions.push(PoolDefinition {
        created: i64::MAX,
        kept,
        strategy: Strategy::Random,
        ..PoolDefinition::of(outside(), usable.without(&seen))
    });
    definitions
}

fn add<I: Item>(to: &mut RangeSet<I>, other: &RangeSet<I>) {
    for range in other.ranges() {
        to.insert(range);
    }
}

/// Those that the spec excludes, and of every CIDR those that are no host's.
fn excluded(spec: &AddressPoolSpec) -> AddressSet {
    let mut excluded: AddressSet = spec.excluded().into_iter().map(|(_, range)| range).collect();
    for (_, range) in spec
        .ranges()
        .into_iter()
        .filter(|(index, range)| is_net(spec, *index, range))
    {
        add(&mut excluded, &network_and_broadcast(range));
    }
    excluded
}

/// The beginning of each entry.
fn bands(spec: &AddressPoolSpec) -> AddressSet {
    let kept = spec.static_band.map(|kept| u64::try_from(kept).unwrap_or(0));
    let kept = kept.map_or(StaticBand::ClusterIps, StaticBand::Lowest);
    let bands = spec.ranges().into_iter();
    bands
        .flat_map(|(index, range)| band(range, kept, is_net(spec, index, &range)))
        .collect()
}

/// Whether an entry is a CIDR with a network address of its own.
fn is_net(spec: &AddressPoolSpec, index: usize, range: &IpRange) -> bool {
    let text = spec.addresses.get(index);
    text.is_some_and(|text| text.contains('/')) && range.size() > 2
}

/// The first addresses of a range, or those behind its network address.
fn band(range: IpRange, kept: StaticBand, is_net: bool) -> Option<IpRange> {
    let skipped = u128::from(is_net);
    let last = skipped + kept.items(range.size()).checked_sub(1)?;
    let last = last.min(range.size().saturating_sub(1));
    IpRange::new(range.nth(skipped)?, range.nth(last)?).ok()
}

fn strategy(strategy: Option<berth_crds::Strategy>) -> Strategy {
    match strategy {
        Some(berth_crds::Strategy::LowestFirst) => Strategy::LowestFirst,
        None | Some(berth_crds::Strategy::Random) => Strategy::Random,
        Some(berth_crds::Strategy::LeastRecentlyReleased) => Strategy::LeastRecentlyReleased,
    }
}

fn quota(quota: Option<&PoolQuota>) -> Quota {
    let count = |limit: i64| u64::try_from(limit).unwrap_or(0);
    let Some(quota) = quota else {
        return Quota::default();
    };
    let overrides = quota.overrides.iter();
    Quota {
        each: quota.per_namespace.map(count),
        groups: overrides
            .map(|limit| (limit.namespace.clone(), count(limit.limit)))
            .collect(),
    }
}

pub(super) fn created(meta: &ObjectMeta) -> i64 {
    let created = meta.creation_timestamp.as_ref();
    created.map_or(i64::MAX, |time| time.0.as_second())
}
