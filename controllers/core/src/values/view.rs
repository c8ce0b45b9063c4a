// SPDX-License-Identifier: Apache-2.0
//! What `berth pools`, the status of pools, metrics and the audit ask.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_allocator::{Counts, NodePorts, PoolName};
use berth_model::{IpFamily, ServiceKey};

use super::stock::{Grounds, Holder, NO_NAMESPACE, Stock, Value, outside};
use super::{CidrState, Finding, Known, Values};
use crate::pools::{Ask, Choice, Item, PoolRef, Request, Selection, Standing, Supply, What};
use crate::service::Labels;

/// A pool in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The pool.
    pub pool: PoolRef,
    /// Whether it gives.
    pub standing: Standing,
    /// Of each family; of a pool of node ports one entry.
    pub counts: Vec<(What, Counts)>,
    /// What each namespace has, holds and claims included, in the order of `counts`.
    pub namespaces: BTreeMap<String, Vec<u64>>,
}

/// Why a value is somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A Service has it.
    InUse,
    /// This claim keeps it.
    Claimed(String),
    /// It is on its way, until then.
    Held(Duration),
    /// An IPAddress that others manage has it.
    Foreign,
}

/// A value that is somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The value.
    pub item: Item,
    /// The pool that it is of, if any.
    pub pool: Option<PoolRef>,
    /// Whose it is.
    pub holder: Holder,
    /// Why.
    pub ground: Ground,
}

impl Values {
    /// Every pool, those that are asked first first.
    pub fn figures(&self) -> Vec<Figures> {
        let figures = self.ranked.iter().map(|(pool, standing)| {
            let name = PoolName::new(pool.name().name.as_str());
            let whats: &[What] = match pool.supply() {
                Supply::ClusterIp | Supply::LoadBalancer => {
                    &[What::ClusterIp(IpFamily::V4), What::ClusterIp(IpFamily::V6)]
                }
                Supply::NodePort => &[What::NodePort],
            };
            let mut namespaces: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for (index, what) in whats.iter().enumerate() {
                for (namespace, count) in self.use_by_namespace(&name, *what) {
                    let counts = namespaces
                        .entry(namespace)
                        .or_insert_with(|| vec![0; whats.len()]);
                    if let Some(of_what) = counts.get_mut(index) {
                        *of_what = count;
                    }
                }
            }
            Figures {
                pool: pool.name().clone(),
                standing: standing.clone(),
                counts: whats
                    .iter()
                    .map(|what| (*what, self.counts(&name, *what)))
                    .collect(),
                namespaces,
            }
        });
        figures.collect()
    }

    /// What is outside every pool.
    pub fn outside_every_pool(&self, what: What) -> Counts {
        self.counts(&outside(), what)
    }

    /// Every value that is somebody's, addresses first, ascending.
    pub fn uses(&self) -> impl Iterator<Item = Use> {
        let addresses = self.addresses.all().filter_map(|(address, grounds)| {
            self.a_use(
                address.item(),
                name_of(&self.addresses, address),
                Supply::ClusterIp,
                grounds,
            )
        });
        let ports = self.ports.all().filter_map(|(port, grounds)| {
            self.a_use(port.item(), name_of(&self.ports, port), Supply::NodePort, grounds)
        });
        addresses.chain(ports)
    }

    /// All that is not as it should be. Looks at every Service.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .services
            .keys()
            .flat_map(|key| self.findings_of(key))
            .chain(self.foreign_findings())
            .collect();
        findings.sort();
        findings
    }

    /// What is not as it should be with one Service.
    pub fn findings_of(&self, key: &ServiceKey) -> Vec<Finding> {
        let Some(known) = self.services.get(key) else {
            return Vec::new();
        };
        let mut findings = Vec::new();
        for item in &known.items {
            if let Some(holder) = self.user(*item).filter(|holder| *holder != key) {
                findings.push(Finding::Duplicate {
                    item: *item,
                    holder: holder.clone(),
                    service: key.clone(),
                });
            }
            findings.extend(self.unranged(key, *item));
            if let Some(pool) = self.encroached(key, known, *item) {
                findings.push(Finding::Encroachment {
                    item: *item,
                    service: key.clone(),
                    pool: pool.name.clone(),
                    exempt: self.exemptions.of(key.namespace(), key.name()),
                });
            }
            if let Some(pools) = self.astray(key, known, *item) {
                findings.push(Finding::Astray {
                    item: *item,
                    service: key.clone(),
                    pools,
                });
            }
        }
        findings
    }

    pub(super) fn counts(&self, pool: &PoolName, what: What) -> Counts {
        let counts = match what {
            What::ClusterIp(family) => self.addresses.pool(pool).map(|pool| pool.counts(family)),
            What::NodePort => self.ports.pool(pool).map(|pool| pool.counts(NodePorts)),
            What::LoadBalancer(_) => None,
        };
        counts.unwrap_or_default()
    }

    fn use_by_namespace(&self, pool: &PoolName, what: What) -> Vec<(String, u64)> {
        let owned = |(namespace, count): (&str, u64)| (namespace.to_owned(), count);
        match what {
            What::ClusterIp(family) => {
                let pool = self.addresses.pool(pool).into_iter();
                let by_group = pool.flat_map(|pool| pool.use_by_group(family));
                by_group
                    .filter(|(group, _)| *group != NO_NAMESPACE)
                    .map(owned)
                    .collect()
            }
            What::NodePort => {
                let pool = self.ports.pool(pool).into_iter();
                pool.flat_map(|pool| pool.use_by_group(NodePorts).map(owned))
                    .collect()
            }
            What::LoadBalancer(_) => Vec::new(),
        }
    }

    /// How many addresses of a pool IPAddresses have that others manage.
    pub(super) fn foreign_in(&self, pool: &PoolName, what: What) -> u64 {
        let What::ClusterIp(family) = what else {
            return 0;
        };
        let pool = self.addresses.pool(pool).into_iter();
        let mut by_group = pool.flat_map(|pool| pool.use_by_group(family));
        by_group
            .find(|(group, _)| *group == NO_NAMESPACE)
            .map_or(0, |(_, count)| count)
    }

    fn a_use(&self, item: Item, pool: Option<&PoolName>, supply: Supply, grounds: &Grounds) -> Option<Use> {
        let (holder, _) = grounds.due()?;
        let pool = pool.filter(|pool| **pool != outside()).map(|pool| PoolRef {
            supply,
            name: pool.as_str().to_owned(),
        });
        let ground = match (grounds.used.is_empty(), grounds.kept.first()) {
            (false, _) => Ground::InUse,
            (true, _) if grounds.foreign => Ground::Foreign,
            (true, Some(kept)) => Ground::Claimed(kept.claim.clone()),
            (true, None) => {
                let asks = grounds.held.iter();
                let untils = asks.filter_map(|(ask, _)| self.holds.get(ask).map(|hold| hold.until));
                Ground::Held(untils.max()?)
            }
        };
        Some(Use {
            item,
            pool,
            holder,
            ground,
        })
    }

    /// The Service that a value in use counts as.
    pub(super) fn user(&self, item: Item) -> Option<&ServiceKey> {
        let grounds = match item {
            Item::Address(address) => self.addresses.grounds(address),
            Item::Port(port) => self.ports.grounds(port),
        };
        grounds?.used.first().map(|(_, key)| key)
    }

    /// What there is to say of a value that is in no range, or only in ranges that are going.
    fn unranged(&self, key: &ServiceKey, item: Item) -> Option<Finding> {
        let out_of_range = || Finding::OutOfRange {
            item,
            service: key.clone(),
        };
        let address = match item {
            Item::Address(address) => address,
            Item::Port(port) => return (!self.node_ports.contains(port)).then(out_of_range),
        };
        let mut going = Vec::new();
        for (name, cidrs) in &self.cidrs {
            if cidrs.ranges.iter().any(|range| range.contains(address)) {
                if cidrs.state != CidrState::Terminating {
                    return None;
                }
                going.push(name.clone());
            }
        }
        if going.is_empty() {
            return Some(out_of_range());
        }
        Some(Finding::Terminating {
            item,
            service: key.clone(),
            cidrs: going,
        })
    }

    /// What would be said to the Service if it asked for the value now.
    pub(super) fn selection(&self, key: &ServiceKey, known: &Known, item: Item) -> Selection {
        let unlabelled = Labels::new();
        let request = Request {
            namespace: key.namespace(),
            namespace_labels: self.namespaces.get(key.namespace()).unwrap_or(&unlabelled),
            name: Some(key.name()),
            labels: &known.labels,
        };
        let ask = Ask {
            what: item.what(),
            wish: Some(item),
            port_name: None,
            taken: &known.items,
        };
        let claims = self.claims_for(Some(key), Some(item));
        self.ranked.select(&request, &ask, &claims)
    }

    /// The pool of a value that would not be given to the Service if it asked for it.
    fn encroached(&self, key: &ServiceKey, known: &Known, item: Item) -> Option<&PoolRef> {
        let supply = item.what().supply();
        let (pool, _) = self
            .ranked
            .iter()
            .find(|(pool, _)| pool.supply() == supply && pool.contains(item))?;
        let selection = self.selection(key, known, item);
        let is_exempt = self.exemptions.of(key.namespace(), key.name()).is_some();
        let selects = selection
            .considered
            .iter()
            .any(|considered| considered.pool == *pool.name() && considered.outcome.selects());
        let is_given = matches!(selection.choice, Choice::Wished { .. });
        // A pool at rest keeps what it gave.
        (is_exempt || !(selects || is_given)).then(|| pool.name())
    }
}

fn name_of<I: Value>(stock: &Stock<I>, item: I) -> Option<&PoolName> {
    stock.pool_of(item)
}
