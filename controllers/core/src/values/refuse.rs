// SPDX-License-Identifier: Apache-2.0
//! Refusals in words: which slot of which Service, which pool, why, and what would help.

use berth_allocator::{Counts, Item, Refusal as NotGiven};

use super::stock::Holder;
use super::wish::{Reason, Refused, Wish, what};
use crate::admission::Slot;
use crate::pools::{PoolRef, Refusal, Supply};

/// What a namespace has of a pool, and what it may have.
#[derive(Clone, Debug)]
pub(super) struct Quota {
    group: String,
    count: u64,
    limit: u64,
}

/// A pool that has nothing for a question.
#[derive(Clone, Debug)]
pub(super) struct Full {
    pub(super) pool: PoolRef,
    pub(super) quota: Option<Quota>,
    pub(super) counts: Counts,
    /// How many of those given IPAddresses have that others manage.
    pub(super) foreign: u64,
}

/// The quota, where that is why.
pub(super) fn quota<I: Item>(why: &NotGiven<I, Holder>) -> Option<Quota> {
    match why {
        NotGiven::QuotaReached {
            group, count, limit, ..
        } => Some(Quota {
            group: group.clone(),
            count: *count,
            limit: *limit,
        }),
        NotGiven::NoPool
        | NotGiven::NoSuchPool { .. }
        | NotGiven::PoolAtRest { .. }
        | NotGiven::Draining { .. }
        | NotGiven::NoSuchFamily { .. }
        | NotGiven::Exhausted { .. }
        | NotGiven::NotInAnyPool { .. }
        | NotGiven::NotInPool { .. }
        | NotGiven::AlreadyAllocated { .. }
        | NotGiven::BeingGiven { .. }
        | NotGiven::Withheld { .. }
        | NotGiven::Reserved { .. } => None,
    }
}

pub(super) fn because(slot: Slot, wish: &Wish, reason: Reason, text: &str) -> Refused {
    refused(slot, wish, (reason, false), text)
}

fn refused(slot: Slot, wish: &Wish, (reason, passing): (Reason, bool), text: &str) -> Refused {
    let service = match &wish.name {
        Some(name) => format!("{}/{name}", wish.namespace),
        None => format!("of namespace {} without a name yet", wish.namespace),
    };
    Refused {
        reason,
        field: slot.field(),
        passing,
        message: format!("no {slot} for Service {service}: {text}"),
    }
}

/// No pool was asked.
pub(super) fn before(slot: Slot, wish: &Wish, refusal: &Refusal) -> Refused {
    let reason = match refusal {
        Refusal::PoolsAtRest(_) => Reason::PoolsAtRest,
        Refusal::WishOutside { .. } => Reason::WishOutside,
        Refusal::WishInPool { .. } => Reason::WishInPool,
        Refusal::WishExcluded { .. } => Reason::WishExcluded,
        Refusal::WishReserved { .. } => Reason::WishReserved,
        Refusal::WishClaimed { .. } => Reason::WishClaimed,
    };
    because(slot, wish, reason, &refusal.to_string())
}

/// Every pool for it has nothing: the reason is that of the first.
pub(super) fn full(slot: Slot, wish: &Wish, pools: &[Full]) -> Refused {
    let texts: Vec<String> = pools.iter().map(Full::text).collect();
    let reason = pools.first().map_or(Reason::PoolExhausted, Full::reason);
    let passing = pools.iter().any(|full| full.counts.held > 0);
    refused(slot, wish, (reason, passing), &texts.join("; "))
}

/// No pool is for it, and nothing else is left.
pub(super) fn range_full(slot: Slot, wish: &Wish, counts: &Counts) -> Refused {
    let (range, more) = match what(slot).supply() {
        Supply::ClusterIp | Supply::LoadBalancer => (
            "of the ServiceCIDRs that are ready",
            "have a pool select the Service, or add a ServiceCIDR",
        ),
        Supply::NodePort => (
            "of the API server's range",
            "have a pool select the Service, or widen --service-node-port-range",
        ),
    };
    let text = format!(
        "no pool is for it, and outside every pool nothing {range} is left, {} of {} given: delete a Service that holds one, \
         {more}",
        u128::from(counts.allocated) + u128::from(counts.held),
        counts.capacity,
    );
    refused(slot, wish, (Reason::RangeExhausted, counts.held > 0), &text)
}

impl Full {
    fn reason(&self) -> Reason {
        match (&self.quota, self.counts.withheld, self.pool.supply) {
            (Some(_), ..) => Reason::QuotaReached,
            (None, 0, _) => Reason::PoolExhausted,
            (None, _, Supply::NodePort) => Reason::OutsideNodePortRange,
            (None, _, Supply::ClusterIp | Supply::LoadBalancer) => Reason::NoServiceCidr,
        }
    }

    fn text(&self) -> String {
        let Self { pool, counts, .. } = self;
        let noun = match pool.supply {
            Supply::ClusterIp | Supply::LoadBalancer => "addresses",
            Supply::NodePort => "ports",
        };
        if let Some(Quota { group, count, limit }) = &self.quota {
            return format!(
                "namespace {group} holds {count} of the {limit} {noun} that it may hold in {pool}; delete a Service that holds \
                 one, or have spec.quota of the pool raised"
            );
        }
        let given = u128::from(counts.allocated) + u128::from(counts.held);
        let mut parts = vec![format!("{given} of {} {noun} given", counts.capacity)];
        if counts.held > 0 {
            parts.push(format!("{} of these on their way", counts.held));
        }
        if self.foreign > 0 {
            let text = format!(
                "{} of these to IPAddresses that others than the API server manage",
                self.foreign
            );
            parts.push(text);
        }
        if counts.reserved > 0 {
            parts.push(format!("{} reserved for others", counts.reserved));
        }
        let (where_to, more) = match pool.supply {
            Supply::ClusterIp | Supply::LoadBalancer => (
                "in no ServiceCIDR that is ready",
                "add a ServiceCIDR around those, or set spec.createServiceCIDR",
            ),
            Supply::NodePort => (
                "outside the API server's range",
                "widen --service-node-port-range",
            ),
        };
        let mut way_out = format!("delete a Service that holds one, or add {noun} to it");
        if counts.withheld > 0 {
            parts.push(format!("{} {where_to}", counts.withheld));
            way_out = format!("{more}, or {way_out}");
        }
        format!("{pool} is exhausted: {}; {way_out}", parts.join(", "))
    }
}
