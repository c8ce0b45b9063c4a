// SPDX-License-Identifier: Apache-2.0
//! The book that the one replica hands out of: cluster IPs and node ports, whose they are, and why one is refused.
//!
//! In: ServiceCIDRs, the range of node ports, namespaces, pools, claims, Services and IPAddresses of other managers as
//! watches show them; wishes; the time. Out: [`Grant`]s, [`Refused`], the questions that a watch has settled, figures and [`Finding`]s. Touches: nothing.
//!
//! ```text
//!   watches --> grounds: used by a Service | barred by an IPAddress of others | kept by a claim | held for a question
//!                  \--> allocator: pools, and what is outside every pool
//!   Wish --> pools::select --> allocator --> Grant, and one ground more
//! ```
//!
//! Whose a value is follows from its grounds alone, so that the order in which watches speak does not matter, and a
//! book that was rebuilt from full lists says what the old one said. What the watches show is taken as it is: a value
//! that two Services have, or that is of no range, or of a pool that is for others, is a finding and stops nothing.
//!
//! Once there is any pool of a supply, what no pool is for gets a value outside every pool, as the API server itself
//! would pick one inside them. Where there is none, nothing is chosen.
//!
//! A Service event costs `O(log n)`, and `O(pools)` for the few of these; an edit of pools or ranges looks at every value
//! in use once. No range is ever enumerated.

mod astray;
mod choose;
mod claiming;
mod definitions;
mod earlier;
mod finding;
mod foreign;
mod holds;
mod listed;
mod random;
mod refuse;
mod shown;
mod stock;
mod told;
mod view;
mod wish;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_crds::{AddressClaim, AddressPool, NodePortPool, PoolUse};
use berth_model::{IpFamily, IpRange, Port, PortRange, ServiceKey};
use k8s_openapi::api::networking::v1::ServiceCIDR;

use crate::admission::{ClusterFamilies, Exemptions};
use crate::enforcement::Observed;
use crate::holder::{AskId, Book, HOLD, Hold};
use crate::pools::{self, Item};
use crate::service::Labels;
pub use earlier::NamespaceLabels;
pub use finding::{Finding, Subject};
pub use foreign::{ALLOCATOR, MANAGED_BY};
use holds::Holds;
use random::Random;
pub use shown::ServiceView;
pub use stock::Holder;
use stock::{Lease, Stock};
pub use view::{Figures, Ground, Use};
pub use wish::{Asked, Claiming, Grant, Reason, Refused, Wish};

/// The ServiceCIDR of the API server's own flags (`--service-cluster-ip-range`; kubernetes, `DefaultServiceCIDRName`).
const DEFAULT_SERVICE_CIDR: &str = "kubernetes";

/// Whether the API server gives addresses of a ServiceCIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CidrState {
    /// It does: nothing says that it would not.
    Gives,
    /// Its condition Ready is False.
    Unready,
    /// It is being deleted.
    Terminating,
}

impl CidrState {
    /// Of the object. A condition that is not there yet stands against nothing.
    pub fn of(object: &ServiceCIDR) -> Self {
        let status = object.status.iter();
        let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
        let unready = conditions.find(|condition| condition.type_ == "Ready" && condition.status == "False");
        match (&object.metadata.deletion_timestamp, unready) {
            (Some(_), _) => Self::Terminating,
            (None, Some(condition)) if condition.reason == "Terminating" => Self::Terminating,
            (None, Some(_)) => Self::Unready,
            (None, None) => Self::Gives,
        }
    }
}

/// A ServiceCIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cidrs {
    ranges: Vec<IpRange>,
    state: CidrState,
}

/// A Service, as far as its values go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    uid: String,
    created: i64,
    labels: Labels,
    items: BTreeSet<Item>,
}

/// A Service as a watch shows it, as far as its values go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    key: ServiceKey,
    known: Known,
}

/// An AddressClaim that keeps something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    created: i64,
    service: ServiceKey,
    /// That the addresses were given of.
    pools: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Values {
    exemptions: Exemptions,
    random: Random,
    /// The latest time that was told.
    now: Duration,
    cidrs: BTreeMap<String, Cidrs>,
    node_ports: PortRange,
    namespaces: BTreeMap<String, Labels>,
    address_pools: BTreeMap<String, AddressPool>,
    port_pools: BTreeMap<String, NodePortPool>,
    /// All of them, by namespace and name, as the watch showed them last.
    claim_objects: BTreeMap<ClaimId, AddressClaim>,
    /// The same by what they are for: when created, and the name.
    claims_for: BTreeMap<(ServiceKey, PoolUse), BTreeSet<(i64, String)>>,
    /// Those that keep something.
    claims: BTreeMap<(String, String), Claim>,
    claims_of: BTreeMap<ServiceKey, BTreeSet<(String, String)>>,
    services: BTreeMap<ServiceKey, Known>,
    /// IPAddresses that others manage, and who.
    foreign: BTreeMap<IpAddr, Option<String>>,
    ranked: pools::Pools,
    addresses: Stock<IpAddr>,
    ports: Stock<Port>,
    holds: Holds,
    changes: u64,
}

/// Namespace and name of an AddressClaim.
pub type ClaimId = (String, String);

impl Values {
    /// Nothing known yet. `node_ports`: the API server's `--service-node-port-range`. `seed`: any number, another one for each
    /// process.
    pub fn new(node_ports: PortRange, exemptions: Exemptions, seed: u64) -> Self {
        let mut values = Self {
            exemptions,
            random: Random::new(seed),
            now: Duration::ZERO,
            cidrs: BTreeMap::new(),
            node_ports,
            namespaces: BTreeMap::new(),
            address_pools: BTreeMap::new(),
            port_pools: BTreeMap::new(),
            claim_objects: BTreeMap::new(),
            claims_for: BTreeMap::new(),
            claims: BTreeMap::new(),
            claims_of: BTreeMap::new(),
            services: BTreeMap::new(),
            foreign: BTreeMap::new(),
            ranked: pools::Pools::default(),
            addresses: Stock::new(),
            ports: Stock::new(),
            holds: Holds::default(),
            changes: 0,
        };
        values.redefine();
        values
    }

    /// The families in which the API server has Service addresses: those of the ServiceCIDR that it makes of its own flags.
    /// None before that is told.
    pub fn families(&self) -> Option<ClusterFamilies> {
        ClusterFamilies::of_ranges(&self.cidrs.get(DEFAULT_SERVICE_CIDR)?.ranges)
    }

    /// How many ServiceCIDRs have addresses of a family.
    pub fn service_cidrs_of(&self, family: IpFamily) -> usize {
        let has = |cidrs: &&Cidrs| {
            cidrs
                .ranges
                .iter()
                .any(|range| IpFamily::of(range.first()) == family)
        };
        self.cidrs.values().filter(has).count()
    }

    /// Whether there is any pool: without one, nothing is chosen.
    pub fn has_pools(&self) -> bool {
        !(self.address_pools.is_empty() && self.port_pools.is_empty())
    }

    /// What API servers are to hold follows from these.
    pub fn observed(&self) -> Observed {
        let mut claims: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for ((namespace, _), claim) in &self.claims {
            // Of another pool now, where pools were edited.
            let now = claim
                .addresses
                .iter()
                .filter_map(|address| self.pool_of(*address));
            for pool in claim.pools.iter().map(String::as_str).chain(now) {
                let of_pool = claims.entry(pool.to_owned()).or_default();
                of_pool.insert(namespace.clone());
            }
        }
        let address_pools = self.address_pools.iter().map(|(name, pool)| {
            let pool = AddressPool {
                status: None,
                ..pool.clone()
            };
            (name.clone(), pool)
        });
        let port_pools = self.port_pools.iter().map(|(name, pool)| {
            let pool = NodePortPool {
                status: None,
                ..pool.clone()
            };
            (name.clone(), pool)
        });
        Observed {
            address_pools: address_pools.collect(),
            port_pools: port_pools.collect(),
            claims,
        }
    }

    /// What would be granted, without holding it: for a dry run. What others are given next does not depend on it.
    ///
    /// # Errors
    /// The refusal.
    pub fn peek(&mut self, wish: &Wish, now: Duration) -> Result<Grant, Refused> {
        self.lapse(now);
        let (before, changes) = (self.random.clone(), self.changes);
        // No replica is called so: what is found is withdrawn before anybody else asks.
        let ask = AskId {
            replica: crate::holder::ReplicaId("".into()),
            number: u64::MAX,
        };
        let found = self.find(&ask, wish);
        if let Ok(grant) = &found {
            for item in grant.items() {
                self.withdraw(item, &ask);
            }
        }
        self.random = before;
        self.changes = changes;
        found
    }

    /// Ends the holds whose deadline has come. Grants do so by themselves.
    pub fn lapse(&mut self, now: Duration) {
        self.now = self.now.max(now);
        for ask in self.holds.due(self.now) {
            self.forget(&ask);
        }
    }

    /// A question is over: what was held for it is free, unless somebody has it.
    pub fn forget(&mut self, ask: &AskId) {
        if let Some(hold) = self.holds.remove(ask) {
            self.changes += 1;
            for item in hold.grant.items() {
                match item {
                    Item::Address(address) => self.addresses.let_go(address, ask, self.now),
                    Item::Port(port) => self.ports.let_go(port, ask, self.now),
                }
            }
        }
    }

    fn withdraw(&mut self, item: Item, ask: &AskId) {
        match item {
            Item::Address(address) => self.addresses.withdraw(address, ask, self.now),
            Item::Port(port) => self.ports.withdraw(port, ask, self.now),
        }
    }

    fn keep(&mut self, ask: &AskId, hold: Hold<Grant>) {
        let before = self.holds.get(ask);
        let same = before.is_some_and(|before| before.grant == hold.grant);
        if !same {
            self.changes += 1;
            self.forget(ask);
            let holder = holder_of(ask, &hold.grant.namespace, hold.grant.name.as_deref());
            let lease = Lease {
                ask,
                holder: &holder,
                now: self.now,
            };
            for item in hold.grant.items() {
                match item {
                    Item::Address(address) => self.addresses.hold(address, &lease),
                    Item::Port(port) => self.ports.hold(port, &lease),
                }
            }
        }
        self.holds.insert(ask, hold);
    }
}

fn holder_of(ask: &AskId, namespace: &str, name: Option<&str>) -> Holder {
    match name {
        Some(name) => Holder::Service(ServiceKey::new(namespace, name)),
        None => Holder::Unnamed {
            namespace: namespace.into(),
            ask: ask.clone(),
        },
    }
}

impl Book for Values {
    type Wish = Wish;
    type Grant = Grant;
    type Refusal = Refused;

    fn grant(&mut self, ask: &AskId, wish: &Wish, now: Duration) -> Result<Grant, Refused> {
        self.lapse(now);
        if let Some(hold) = self.holds.get(ask).filter(|hold| hold.stands) {
            return Ok(hold.grant.clone());
        }
        let grant = match self.find(ask, wish) {
            Ok(grant) => grant,
            Err(refused) => {
                // What does not stand is kept from others all the same.
                if let Some(before) = self.holds.remove(ask) {
                    self.keep(ask, before);
                }
                return Err(refused);
            }
        };
        let hold = Hold {
            grant: grant.clone(),
            until: now + HOLD,
            stands: true,
        };
        // What was held under this name before does not stand, and nobody was told of it.
        if let Some(before) = self.holds.remove(ask) {
            for item in before.grant.items().difference(&grant.items()) {
                self.withdraw(*item, ask);
            }
        }
        self.holds.insert(ask, hold);
        self.changes += 1;
        Ok(grant)
    }

    fn note(&mut self, ask: &AskId, hold: &Hold<Grant>) {
        self.keep(ask, hold.clone());
    }

    fn adopt(&mut self, holds: &BTreeMap<AskId, Hold<Grant>>) {
        let gone = self.holds.iter().map(|(ask, _)| ask.clone());
        let gone: Vec<AskId> = gone.filter(|ask| !holds.contains_key(ask)).collect();
        for ask in gone {
            self.forget(&ask);
        }
        for (ask, hold) in holds {
            self.keep(ask, hold.clone());
        }
    }
}
