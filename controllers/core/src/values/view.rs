// SPDX-License-Identifier: Apache-2.0
//! What `berth pools`, the status of pools, metrics and the audit ask.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use berth_allocator::{Counts, NodePorts, PoolName};
use berth_model::{IpFamily, ServiceKey};

use super::stock::{Grounds, Holder, Stock, Value, outside};
use super::{Known, Values};
use crate::admission::Exempt;
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

/// What is not as it should be, and stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Two Services have a value; it counts as the older one's.
    Duplicate {
        /// The value.
        item: Item,
        /// Whose it is.
        holder: ServiceKey,
        /// Who has it too.
        service: ServiceKey,
    },
    /// No ServiceCIDR has it, or the API server's range of node ports has not.
    OutOfRange {
        /// The value.
        item: Item,
        /// Who has it.
        service: ServiceKey,
    },
    /// It is of a pool that is not for the Service.
    Encroachment {
        /// The value.
        item: Item,
        /// Who has it.
        service: ServiceKey,
        /// The pool.
        pool: String,
        /// Whether pools do not apply to the Service.
        exempt: Option<Exempt>,
    },
    /// Pools that were there when the Service was made are for it, and it is of none of them: it was made past Berth, or
    /// other pools were for it then.
    Astray {
        /// The value.
        item: Item,
        /// Who has it.
        service: ServiceKey,
        /// The pools.
        pools: Vec<PoolRef>,
    },
}

impl Finding {
    /// The value.
    pub fn item(&self) -> Item {
        match self {
            Self::Duplicate { item, .. }
            | Self::OutOfRange { item, .. }
            | Self::Encroachment { item, .. }
            | Self::Astray { item, .. } => *item,
        }
    }

    /// Who has it.
    pub fn service(&self) -> &ServiceKey {
        match self {
            Self::Duplicate { service, .. }
            | Self::OutOfRange { service, .. }
            | Self::Encroachment { service, .. }
            | Self::Astray { service, .. } => service,
        }
    }

    /// The stable text form.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Duplicate { .. } => "Duplicate",
            Self::OutOfRange { .. } => "OutOfRange",
            Self::Encroachment { .. } => "Encroachment",
            Self::Astray { .. } => "Astray",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate {
                item,
                holder,
                service,
            } => write!(
                f,
                "{item} of Service {service} is Service {holder}'s, the older one: delete one of the two and create it anew"
            ),
            Self::OutOfRange { item, service } => write!(
                f,
                "{item} of Service {service} is in no range of the API server's: widen the range, or create the Service anew"
            ),
            Self::Encroachment {
                item, service, pool, ..
            } => write!(
                f,
                "{item} of Service {service} is of pool {pool}, which is not for it: create the Service anew, or have the pool \
                 select it"
            ),
            Self::Astray { item, service, pools } => {
                let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "{item} of Service {service} is not of {}, which is for it: create the Service anew to have one of its pool",
                    pools.join(" nor of ")
                )
            }
        }
    }
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
            if !self.is_in_range(*item) {
                findings.push(Finding::OutOfRange {
                    item: *item,
                    service: key.clone(),
                });
            }
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
                pool.flat_map(|pool| pool.use_by_group(family).map(owned))
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

    fn a_use(&self, item: Item, pool: Option<&PoolName>, supply: Supply, grounds: &Grounds) -> Option<Use> {
        let (holder, _) = grounds.due()?;
        let pool = pool.filter(|pool| **pool != outside()).map(|pool| PoolRef {
            supply,
            name: pool.as_str().to_owned(),
        });
        let ground = match (grounds.used.is_empty(), grounds.kept.first()) {
            (false, _) => Ground::InUse,
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

    fn is_in_range(&self, item: Item) -> bool {
        match item {
            Item::Address(address) => {
                let mut ranges = self.cidrs.values().flat_map(|cidrs| &cidrs.ranges);
                ranges.any(|range| range.contains(address))
            }
            Item::Port(port) => self.node_ports.contains(port),
        }
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
