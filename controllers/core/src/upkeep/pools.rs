// SPDX-License-Identifier: Apache-2.0
//! The statuses of the pools of cluster IPs and node ports.
//!
//! Of the counts each value is in one: given to a Service by the pool (allocated), had by a Service that the pool did not
//! give it to, or by an IPAddress that others manage (encroached), kept for a Service that does not have it (reserved), promised to one that is being created
//! (held), free, or none of these where the API server does not take it (the rest up to the capacity).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use berth_allocator::Counts;
use berth_crds::{
    AddressPool, AddressPoolStatus, FamilyUse, NamespacePorts, NamespaceUse, NodePortPool,
    NodePortPoolStatus, PoolReason, PortUse,
};
use berth_model::{IpFamily, IpRange};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pool_status::{
    ADDRESSES, Noun, PORTS, Said, Stands, count, draining, exhausted, out_of_range, overlapping, ready, say,
};
use crate::pools::{Item, Standing, Supply, What};
use crate::values::{Figures, Finding, Values};

/// How many namespaces a status names: it is one object, and has to stay far below what the API server stores of one
/// (1.5 MiB).
const NAMESPACES: usize = 50;

/// The values of pools that Services, or IPAddresses that others manage, have and that the pools did not give them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encroached {
    by_pool: BTreeMap<(Supply, String), BTreeSet<Item>>,
}

impl Encroached {
    /// Takes in what was found of some Services.
    pub fn count(&mut self, findings: &[Finding]) {
        for finding in findings {
            let (Finding::Encroachment { pool, .. } | Finding::Foreign { pool, .. }) = finding else {
                continue;
            };
            let item = finding.item();
            let supply = match item {
                Item::Address(_) => Supply::ClusterIp,
                Item::Port(_) => Supply::NodePort,
            };
            let of_pool = self.by_pool.entry((supply, pool.clone())).or_default();
            of_pool.insert(item);
        }
    }

    fn of(&self, pool: &str, what: What) -> u64 {
        let items = self.by_pool.get(&(what.supply(), pool.to_owned()));
        let items = items.into_iter().flatten().filter(|item| match (what, item) {
            (What::ClusterIp(family) | What::LoadBalancer(family), Item::Address(address)) => {
                IpFamily::of(*address) == family
            }
            (What::NodePort, Item::Port(_)) => true,
            (What::NodePort, Item::Address(_))
            | (What::ClusterIp(_) | What::LoadBalancer(_), Item::Port(_)) => false,
        });
        count_of(items)
    }
}

fn count_of<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

/// A status that differs from the one that stands there.
#[derive(Clone, Debug)]
pub enum StatusWrite {
    /// Of an AddressPool.
    Addresses {
        /// As the watch showed it last.
        pool: Box<AddressPool>,
        /// What it is to say.
        status: AddressPoolStatus,
    },
    /// Of a NodePortPool.
    Ports {
        /// As the watch showed it last.
        pool: Box<NodePortPool>,
        /// What it is to say.
        status: NodePortPoolStatus,
    },
}

/// The statuses to write. `encroached`: of all Services.
pub fn plan(values: &Values, encroached: &Encroached, now: &Time) -> Vec<StatusWrite> {
    let kept = values.kept_unused();
    let figures = values.figures();
    let writes = figures.iter().filter_map(|figures| {
        let name = figures.pool.name.as_str();
        let uses = Uses {
            figures,
            encroached,
            kept: |family| kept.get(&(name, family)).copied().unwrap_or(0),
        };
        match figures.pool.supply {
            Supply::ClusterIp => {
                let pool = values.address_pool(name)?;
                let status = of_addresses(values, pool, &uses, now)?;
                let pool = Box::new(pool.clone());
                Some(StatusWrite::Addresses { pool, status })
            }
            Supply::NodePort => {
                let pool = values.port_pool(name)?;
                let status = of_ports(pool, &uses, now)?;
                let pool = Box::new(pool.clone());
                Some(StatusWrite::Ports { pool, status })
            }
            Supply::LoadBalancer => None,
        }
    });
    writes.collect()
}

/// What a pool has, and who has it.
struct Uses<'a, K: Fn(IpFamily) -> u64> {
    figures: &'a Figures,
    encroached: &'a Encroached,
    /// What claims keep of a family that no Service has.
    kept: K,
}

/// The counts of a pool, each value in one.
struct Sorted {
    counts: Counts,
    allocated: u64,
    reserved: u64,
    encroached: u64,
    free: u128,
}

impl<K: Fn(IpFamily) -> u64> Uses<'_, K> {
    fn sorted(&self, what: What) -> Option<Sorted> {
        let (_, counts) = self.figures.counts.iter().find(|(of, _)| *of == what)?;
        let kept = match what {
            What::ClusterIp(family) => (self.kept)(family),
            What::NodePort | What::LoadBalancer(_) => 0,
        };
        let encroached = self.encroached.of(&self.figures.pool.name, what);
        let gives = self.figures.standing == Standing::Gives;
        (counts.capacity > 0).then(|| Sorted {
            counts: *counts,
            // Watches and findings may be of different moments.
            allocated: counts.allocated.saturating_sub(kept).saturating_sub(encroached),
            reserved: counts.reserved + kept,
            encroached,
            free: if gives { counts.free } else { 0 },
        })
    }

    /// The conditions that pools of any kind have.
    fn said(&self, stands: &Stands, full: Option<String>, noun: Noun) -> [Said; 4] {
        let is_draining = self.figures.standing == Standing::Draining;
        let left = self.figures.counts.iter();
        let left = left.map(|(_, counts)| counts.allocated + counts.held).sum();
        [
            ready(stands, noun),
            overlapping(stands, noun),
            exhausted(full, noun),
            draining(is_draining, left, noun),
        ]
    }

    /// The fifty with the most first, and how many others there are.
    fn namespaces(&self) -> (Vec<(&str, &[u64])>, i64) {
        let mut all: Vec<(&str, &[u64])> = self
            .figures
            .namespaces
            .iter()
            .map(|(namespace, counts)| (namespace.as_str(), counts.as_slice()))
            .filter(|(_, counts)| counts.iter().any(|count| *count > 0))
            .collect();
        all.sort_by_key(|(namespace, counts)| (Reverse(counts.iter().sum::<u64>()), *namespace));
        let others = count(count_of(all.iter().skip(NAMESPACES)));
        all.truncate(NAMESPACES);
        (all, others)
    }
}

fn stands(standing: &Standing, faults: impl FnOnce() -> Vec<berth_crds::Fault>) -> Stands {
    match standing {
        Standing::Gives => Stands::Gives,
        Standing::Draining => Stands::Draining,
        Standing::Malformed => Stands::Malformed(faults()),
        Standing::Overlapping(_) => Stands::Overlapping(standing.to_string()),
    }
}

/// Says that nothing is left, and whether that is for the API server's ranges.
fn none_left(subject: &str, withheld: u128) -> String {
    match withheld {
        0 => format!("{subject} has a holder"),
        _ => format!("{subject} has a holder or is out of range"),
    }
}

fn of_addresses<K: Fn(IpFamily) -> u64>(
    values: &Values,
    pool: &AddressPool,
    uses: &Uses<'_, K>,
    now: &Time,
) -> Option<AddressPoolStatus> {
    let before = pool.status.clone().unwrap_or_default();
    let mut after = before.clone();
    let sorted = IpFamily::ALL.map(|family| uses.sorted(What::ClusterIp(family)));
    let families = IpFamily::ALL.into_iter().zip(&sorted);
    let present: Vec<(IpFamily, &Sorted)> = families
        .filter_map(|(family, sorted)| Some((family, sorted.as_ref()?)))
        .collect();
    let full: Vec<&(IpFamily, &Sorted)> = present
        .iter()
        .filter(|(_, sorted)| sorted.counts.free == 0)
        .collect();
    let withheld = full.iter().map(|(_, sorted)| sorted.counts.withheld).max();
    let names: Vec<&str> = full.iter().map(|(family, _)| family.as_str()).collect();
    let full =
        withheld.map(|withheld| none_left(&format!("every {} address", names.join(" and ")), withheld));
    let stands = stands(&uses.figures.standing, || pool.spec.validate());
    let said = uses.said(&stands, full, ADDRESSES);
    let outside = out_of_range(no_service_cidr(values, pool, &present));
    let said = said.into_iter().chain([outside]);
    say(&mut after.conditions, said, pool.metadata.generation, now);
    [after.ipv4, after.ipv6] = sorted.map(|sorted| sorted.as_ref().map(family_use));
    let (namespaces, others) = uses.namespaces();
    let namespaces = namespaces.into_iter().map(|(namespace, counts)| NamespaceUse {
        namespace: namespace.to_owned(),
        ipv4: counts.first().copied().map_or(0, count),
        ipv6: counts.get(1).copied().map_or(0, count),
    });
    after.namespaces = namespaces.collect();
    after.other_namespaces = others;
    (after != before).then_some(after)
}

fn no_service_cidr(
    values: &Values,
    pool: &AddressPool,
    present: &[(IpFamily, &Sorted)],
) -> Option<(PoolReason, String)> {
    let parts = present.iter().filter(|(_, sorted)| sorted.counts.withheld > 0);
    let parts: Vec<String> = parts
        .map(|(family, sorted)| {
            let counts = &sorted.counts;
            format!("{} of {} {family} addresses", counts.withheld, counts.capacity)
        })
        .collect();
    if parts.is_empty() {
        return None;
    }
    let parts = parts.join(" and ");
    let ranges: Vec<IpRange> = pool.spec.ranges().into_iter().map(|(_, range)| range).collect();
    if values.is_coming_or_going(&ranges) {
        let message = format!(
            "{parts} are in no ServiceCIDR that is ready, so that the API server takes none of them; kubectl get servicecidrs \
             says which is not, and its conditions why"
        );
        return Some((PoolReason::ServiceCidrNotReady, message));
    }
    let way_out = if pool.spec.create_service_cidr {
        "one is made for each of spec.addresses that lies outside all others"
    } else {
        "add a ServiceCIDR around them, or set spec.createServiceCIDR"
    };
    let message =
        format!("{parts} are in no ServiceCIDR, so that the API server takes none of them; {way_out}");
    Some((PoolReason::NoServiceCidr, message))
}

fn family_use(sorted: &Sorted) -> FamilyUse {
    FamilyUse {
        capacity: sorted.counts.capacity.to_string(),
        allocated: count(sorted.allocated),
        reserved: count(sorted.reserved),
        held: count(sorted.counts.held),
        encroached: count(sorted.encroached),
        free: sorted.free.to_string(),
    }
}

fn of_ports<K: Fn(IpFamily) -> u64>(
    pool: &NodePortPool,
    uses: &Uses<'_, K>,
    now: &Time,
) -> Option<NodePortPoolStatus> {
    let before = pool.status.clone().unwrap_or_default();
    let mut after = before.clone();
    let sorted = uses.sorted(What::NodePort);
    let full = sorted.as_ref().filter(|sorted| sorted.counts.free == 0);
    let full = full.map(|sorted| none_left("every port", sorted.counts.withheld));
    let stands = stands(&uses.figures.standing, || pool.spec.validate());
    let said = uses.said(&stands, full, PORTS);
    let outside = sorted
        .as_ref()
        .filter(|sorted| sorted.counts.withheld > 0)
        .map(|sorted| {
            let message = format!(
                "{} of {} ports are outside the API server's range, so that it takes none of them; widen \
             --service-node-port-range, or remove them",
                sorted.counts.withheld, sorted.counts.capacity
            );
            (PoolReason::OutsideNodePortRange, message)
        });
    let said = said.into_iter().chain([out_of_range(outside)]);
    say(&mut after.conditions, said, pool.metadata.generation, now);
    after.ports = sorted.as_ref().map(|sorted| PortUse {
        capacity: ports(sorted.counts.capacity),
        allocated: count(sorted.allocated),
        reserved: count(sorted.reserved),
        held: count(sorted.counts.held),
        encroached: count(sorted.encroached),
        free: ports(sorted.free),
    });
    let (namespaces, others) = uses.namespaces();
    let namespaces = namespaces.into_iter().map(|(namespace, counts)| NamespacePorts {
        namespace: namespace.to_owned(),
        ports: counts.first().copied().map_or(0, count),
    });
    after.namespaces = namespaces.collect();
    after.other_namespaces = others;
    (after != before).then_some(after)
}

/// A count of ports, of which there are 65,535 at most.
fn ports(count: u128) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
