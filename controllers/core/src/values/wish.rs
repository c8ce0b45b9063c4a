// SPDX-License-Identifier: Apache-2.0
//! What replicas ask each other for, and what they answer: plain data, as JSON on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use berth_model::{IpFamily, Port, ServiceKey};
use serde::{Deserialize, Serialize};

use crate::admission::{Chosen, Need, Needs, PortNeed, Slot};
use crate::pools::{Item, What};
use crate::service::Labels;

/// What a write of a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// The namespace of the request.
    pub namespace: String,
    /// The Service's name; none where the API server is yet to make it up (generateName).
    pub name: Option<String>,
    /// The Service's labels.
    pub labels: Labels,
    /// Whether the Service is stored already.
    pub is_update: bool,
    /// One for each slot, in the order of the Service.
    pub asks: Vec<Asked>,
    /// What the Service keeps or asks for: not to be chosen for another of its slots.
    pub taken: BTreeSet<Item>,
    /// Where it is an AddressClaim that asks.
    #[serde(default)]
    pub claim: Option<Claiming>,
    /// The labels of the namespace, as far as whoever asks knows them: for a holder whose watch has not shown the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_labels: Option<Labels>,
    /// What an earlier question about the same write was given, where another webhook has changed the Service since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub had: BTreeSet<Item>,
}

/// What an AddressClaim asks for besides: it is served by pools, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claiming {
    /// The pool that has to give it; none where any that serves the Service may.
    pub pool: Option<String>,
}

/// One slot of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Where the value goes.
    pub slot: Slot,
    /// The one that the user wants.
    pub wish: Option<Item>,
    /// Of the port, where it is the node port of one that has a name.
    pub port_name: Option<String>,
}

impl Wish {
    /// What a write with these needs asks for. `port_names`: of `spec.ports`, in their order. `updated`: the stored Service,
    /// on an update.
    pub fn new(
        namespace: &str,
        name: Option<&str>,
        labels: &Labels,
        needs: &Needs,
        port_names: &[Option<String>],
        updated: Option<&ServiceKey>,
    ) -> Self {
        let asked = |slot: Slot| Asked {
            slot,
            wish: value_of(needs, slot),
            port_name: match slot {
                Slot::NodePort(index) => port_names.get(index).cloned().flatten(),
                Slot::ClusterIp(_) | Slot::HealthCheckNodePort => None,
            },
        };
        let name = updated.map_or(name, |updated| Some(updated.name()));
        Self {
            namespace: namespace.to_owned(),
            name: name.filter(|name| !name.is_empty()).map(ToOwned::to_owned),
            labels: labels.clone(),
            is_update: updated.is_some(),
            asks: needs.slots().into_iter().map(asked).collect(),
            taken: values(needs),
            claim: None,
            namespace_labels: None,
            had: BTreeSet::new(),
        }
    }

    /// What an AddressClaim for this Service asks for: an address of each of these families, the one that is wished for
    /// or any.
    pub fn of_claim(
        service: &ServiceKey,
        labels: &Labels,
        asks: &BTreeMap<IpFamily, Option<IpAddr>>,
        pool: Option<&str>,
    ) -> Self {
        let asked = |(family, wish): (&IpFamily, &Option<IpAddr>)| Asked {
            slot: Slot::ClusterIp(*family),
            wish: wish.map(Item::Address),
            port_name: None,
        };
        Self {
            namespace: service.namespace().to_owned(),
            name: Some(service.name().to_owned()),
            labels: labels.clone(),
            // That the Service appears with other addresses does not end the question.
            is_update: true,
            asks: asks.iter().map(asked).collect(),
            taken: asks.values().flatten().copied().map(Item::Address).collect(),
            claim: Some(Claiming {
                pool: pool.map(ToOwned::to_owned),
            }),
            namespace_labels: None,
            had: BTreeSet::new(),
        }
    }

    /// The Service; none without a name.
    pub fn key(&self) -> Option<ServiceKey> {
        let name = self.name.as_deref()?;
        Some(ServiceKey::new(self.namespace.as_str(), name))
    }

    pub(super) fn empty_grant(&self) -> Grant {
        Grant {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            is_update: self.is_update,
            ..Grant::default()
        }
    }
}

/// The values that a Service keeps or asks for.
fn values(needs: &Needs) -> BTreeSet<Item> {
    let addresses = needs.cluster_ips.addresses().iter();
    let addresses = addresses.filter_map(|address| Some(Item::Address(address.need.value()?.address)));
    let ports = needs.node_ports.iter().filter_map(|need| match need {
        PortNeed::Of(need) => need.value().copied().map(Item::Port),
        PortNeed::Unneeded | PortNeed::SharedWith(_) => None,
    });
    let health_check = needs.health_check.as_ref().and_then(Need::value);
    addresses
        .chain(ports)
        .chain(health_check.copied().map(Item::Port))
        .collect()
}

fn value_of(needs: &Needs, slot: Slot) -> Option<Item> {
    match slot {
        Slot::ClusterIp(family) => {
            let mut addresses = needs.cluster_ips.addresses().iter();
            let of_family = addresses.find(|address| address.family == family)?;
            Some(Item::Address(of_family.need.value()?.address))
        }
        Slot::NodePort(index) => match needs.node_ports.get(index)? {
            PortNeed::Of(need) => need.value().copied().map(Item::Port),
            PortNeed::Unneeded | PortNeed::SharedWith(_) => None,
        },
        Slot::HealthCheckNodePort => {
            let need = needs.health_check.as_ref()?;
            need.value().copied().map(Item::Port)
        }
    }
}

/// What pools are asked for.
pub(super) fn what(slot: Slot) -> What {
    match slot {
        Slot::ClusterIp(family) => What::ClusterIp(family),
        Slot::NodePort(_) | Slot::HealthCheckNodePort => What::NodePort,
    }
}

/// The values that are held for whoever asked, wishes among them. What is missing is left to the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The namespace of the Service.
    pub namespace: String,
    /// Its name; none where the API server is yet to make it up.
    pub name: Option<String>,
    /// Whether the Service is stored already.
    pub is_update: bool,
    /// At most one of each family.
    pub cluster_ips: BTreeSet<IpAddr>,
    /// By index of the port.
    pub node_ports: BTreeMap<usize, Port>,
    /// The health-check node port.
    pub health_check: Option<Port>,
    /// Those among these values that whoever wrote the Service asked for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub wished: BTreeSet<Item>,
}

impl Grant {
    /// The values for the patch.
    pub fn chosen(&self) -> Chosen {
        let cluster_ips = self.cluster_ips.iter();
        Chosen {
            cluster_ips: cluster_ips
                .map(|address| (IpFamily::of(*address), *address))
                .collect(),
            node_ports: self.node_ports.clone(),
            health_check: self.health_check,
        }
    }

    /// The Service that it is for; none without a name.
    pub fn key(&self) -> Option<ServiceKey> {
        let name = self.name.as_deref()?;
        Some(ServiceKey::new(self.namespace.as_str(), name))
    }

    /// All values.
    pub fn items(&self) -> BTreeSet<Item> {
        let addresses = self.cluster_ips.iter().copied().map(Item::Address);
        let ports = self.node_ports.values().chain(&self.health_check);
        addresses.chain(ports.copied().map(Item::Port)).collect()
    }

    /// The value of a slot.
    pub fn at(&self, slot: Slot) -> Option<Item> {
        match slot {
            Slot::ClusterIp(family) => {
                let mut addresses = self.cluster_ips.iter().copied();
                let of_family = addresses.find(|address| IpFamily::of(*address) == family);
                of_family.map(Item::Address)
            }
            Slot::NodePort(index) => self.node_ports.get(&index).copied().map(Item::Port),
            Slot::HealthCheckNodePort => self.health_check.map(Item::Port),
        }
    }

    pub(super) fn put(&mut self, slot: Slot, item: Item) {
        match (slot, item) {
            (Slot::ClusterIp(_), Item::Address(address)) => {
                self.cluster_ips.insert(address);
            }
            (Slot::NodePort(index), Item::Port(port)) => {
                self.node_ports.insert(index, port);
            }
            (Slot::HealthCheckNodePort, Item::Port(port)) => self.health_check = Some(port),
            (Slot::ClusterIp(_), Item::Port(_))
            | (Slot::NodePort(_) | Slot::HealthCheckNodePort, Item::Address(_)) => {}
        }
    }
}

/// Why nothing is given. The text form is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// Every pool for it gives nothing new.
    PoolsAtRest,
    /// Pools are for it, and the value that it asks for is in none.
    WishOutside,
    /// The value belongs to a pool that is not for it.
    WishInPool,
    /// The value is never given.
    WishExcluded,
    /// The administrator keeps the value for another.
    WishReserved,
    /// A claim keeps the value for another.
    WishClaimed,
    /// The value is on its way to another.
    WishBeingGiven,
    /// Another has the value that a claim asks for.
    WishTaken,
    /// No pool serves the Service that a claim is for, or the one that it names does not.
    NoPool,
    /// There is no pool of the name that a claim gives.
    NoSuchPool,
    /// The pools have nothing left.
    PoolExhausted,
    /// What the pools have left lies in no ServiceCIDR that is ready.
    NoServiceCidr,
    /// What the pools have left lies outside the API server's range of node ports.
    OutsideNodePortRange,
    /// The namespace has as much as it may.
    QuotaReached,
    /// Nothing is left outside every pool.
    RangeExhausted,
}

impl Reason {
    /// The stable text form.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PoolsAtRest => "PoolsAtRest",
            Self::WishOutside => "WishOutside",
            Self::WishInPool => "WishInPool",
            Self::WishExcluded => "WishExcluded",
            Self::WishReserved => "WishReserved",
            Self::WishClaimed => "WishClaimed",
            Self::WishBeingGiven => "WishBeingGiven",
            Self::WishTaken => "WishTaken",
            Self::NoPool => "NoPool",
            Self::NoSuchPool => "NoSuchPool",
            Self::PoolExhausted => "PoolExhausted",
            Self::NoServiceCidr => "NoServiceCidr",
            Self::OutsideNodePortRange => "OutsideNodePortRange",
            Self::QuotaReached => "QuotaReached",
            Self::RangeExhausted => "RangeExhausted",
        }
    }
}

/// That nothing is given, in a form for the user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why, for metrics.
    pub reason: Reason,
    /// The field that it is about.
    pub field: String,
    /// Whether asking again in a moment may end otherwise: something is on its way to others, and may yet come to nothing.
    pub passing: bool,
    /// Which slot and pool, why, and what would help.
    pub message: String,
}

impl Refused {
    /// Stable text for log fields and metric labels.
    pub fn as_str(&self) -> &'static str {
        self.reason.as_str()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
