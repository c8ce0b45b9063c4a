// SPDX-License-Identifier: Apache-2.0
//! A pool, as far as choosing among pools goes.

use std::fmt;
use std::net::IpAddr;

use berth_crds::{AddressPool, NodePortPool, PoolSelector, PoolUse};
use berth_model::{IpFamily, IpRange, Port, PortRange, ServiceKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::Request;

/// What a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Supply {
    /// Addresses of load balancers.
    LoadBalancer,
    /// Cluster IPs.
    ClusterIp,
    /// Node ports.
    NodePort,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The address of a load balancer.
    LoadBalancer(IpFamily),
    /// A cluster IP.
    ClusterIp(IpFamily),
    /// A node port, be it of a port or for health checks.
    NodePort,
}

impl What {
    /// What a pool has to have.
    pub fn supply(self) -> Supply {
        match self {
            Self::LoadBalancer(_) => Supply::LoadBalancer,
            Self::ClusterIp(_) => Supply::ClusterIp,
            Self::NodePort => Supply::NodePort,
        }
    }

    pub(crate) fn is_family_of(self, item: Item) -> bool {
        match (self, item) {
            (Self::LoadBalancer(family) | Self::ClusterIp(family), Item::Address(address)) => {
                IpFamily::of(address) == family
            }
            (Self::NodePort, Item::Port(_)) => true,
            (Self::NodePort, Item::Address(_))
            | (Self::LoadBalancer(_) | Self::ClusterIp(_), Item::Port(_)) => false,
        }
    }
}

/// One of what pools have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Item {
    /// An address.
    Address(IpAddr),
    /// A port.
    Port(Port),
}

impl Item {
    /// What it is to a Service: a cluster IP or a node port.
    pub fn what(self) -> What {
        match self {
            Self::Address(address) => What::ClusterIp(IpFamily::of(address)),
            Self::Port(_) => What::NodePort,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Port(port) => port.fmt(f),
        }
    }
}

/// A pool by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolRef {
    /// What it has: the kind of the object follows from it.
    pub supply: Supply,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.supply {
            Supply::LoadBalancer | Supply::ClusterIp => "AddressPool",
            Supply::NodePort => "NodePortPool",
        };
        write!(f, "{kind} {}", self.name)
    }
}

/// What the administrator keeps for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The address or port.
    pub item: Item,
    /// For whom.
    pub service: ServiceKey,
    /// For which of its ports; any of them where this is not said.
    pub port_name: Option<String>,
}

impl Reservation {
    pub(super) fn is_for(&self, request: &Request<'_>) -> bool {
        self.service.namespace() == request.namespace && request.name == Some(self.service.name())
    }
}

/// Whether a pool gives anything new, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Gives,
    /// It is to be emptied.
    Draining,
    /// Its spec has faults.
    Malformed,
    /// It shares part of what it has with an older pool.
    Overlapping(PoolRef),
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gives => f.write_str("gives"),
            Self::Draining => f.write_str("is draining"),
            Self::Malformed => f.write_str("has faults in its spec"),
            Self::Overlapping(older) => write!(f, "overlaps {older}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Addresses(IpRange),
    Ports(PortRange),
}

impl Range {
    fn contains(self, item: Item) -> bool {
        match (self, item) {
            (Self::Addresses(range), Item::Address(address)) => range.contains(address),
            (Self::Ports(range), Item::Port(port)) => range.contains(port),
            (Self::Addresses(_), Item::Port(_)) | (Self::Ports(_), Item::Address(_)) => false,
        }
    }

    fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Addresses(one), Self::Addresses(other)) => one.overlaps(&other),
            (Self::Ports(one), Self::Ports(other)) => one.overlaps(&other),
            (Self::Addresses(_), Self::Ports(_)) | (Self::Ports(_), Self::Addresses(_)) => false,
        }
    }
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    name: PoolRef,
    ranges: Vec<Range>,
    excluded: Vec<Range>,
    /// Seconds since the epoch, of its creation; the end of time for one that is not created yet.
    pub(super) created: i64,
    pub(super) priority: i64,
    pub(super) selector: Option<PoolSelector>,
    pub(super) reservations: Vec<Reservation>,
    pub(super) is_draining: bool,
    pub(super) is_well_formed: bool,
}

impl Pool {
    /// From its object. What can't be read of the spec is left out; the pool gives nothing then.
    pub fn of_addresses(pool: &AddressPool) -> Self {
        let spec = &pool.spec;
        let supply = match spec.r#use {
            PoolUse::LoadBalancer => Supply::LoadBalancer,
            PoolUse::ClusterIp => Supply::ClusterIp,
        };
        let addresses =
            |ranges: Vec<(usize, IpRange)>| ranges.into_iter().map(|(_, range)| Range::Addresses(range));
        let reservations = spec.reservations.iter().filter_map(|kept| {
            Some(Reservation {
                item: Item::Address(kept.address.parse().ok()?),
                service: ServiceKey::new(kept.namespace.as_str(), kept.name.as_str()),
                port_name: None,
            })
        });
        Self {
            name: PoolRef {
                supply,
                name: pool.metadata.name.clone().unwrap_or_default(),
            },
            ranges: addresses(spec.ranges()).collect(),
            excluded: addresses(spec.excluded()).collect(),
            created: created(&pool.metadata),
            priority: spec.priority,
            selector: spec.selector.clone(),
            reservations: reservations.collect(),
            is_draining: spec.draining,
            is_well_formed: spec.validate().is_empty(),
        }
    }

    /// From its object, likewise.
    pub fn of_ports(pool: &NodePortPool) -> Self {
        let spec = &pool.spec;
        let ports =
            |ranges: Vec<(usize, PortRange)>| ranges.into_iter().map(|(_, range)| Range::Ports(range));
        let reservations = spec.reservations.iter().filter_map(|kept| {
            Some(Reservation {
                item: Item::Port(u16::try_from(kept.port).ok().and_then(Port::new)?),
                service: ServiceKey::new(kept.namespace.as_str(), kept.name.as_str()),
                port_name: kept.port_name.clone(),
            })
        });
        Self {
            name: PoolRef {
                supply: Supply::NodePort,
                name: pool.metadata.name.clone().unwrap_or_default(),
            },
            ranges: ports(spec.ranges()).collect(),
            excluded: ports(spec.excluded()).collect(),
            created: created(&pool.metadata),
            priority: spec.priority,
            selector: spec.selector.clone(),
            reservations: reservations.collect(),
            is_draining: spec.draining,
            is_well_formed: spec.validate().is_empty(),
        }
    }

    /// Its kind and name.
    pub fn name(&self) -> &PoolRef {
        &self.name
    }

    /// What it has.
    pub fn supply(&self) -> Supply {
        self.name.supply
    }

    /// What is kept for Services, existing or not.
    pub fn reservations(&self) -> &[Reservation] {
        &self.reservations
    }

    /// Whether this is one of its own, excluded or not.
    pub fn contains(&self, item: Item) -> bool {
        self.ranges.iter().any(|range| range.contains(item))
    }

    /// Whether this is one that it never gives.
    pub fn excludes(&self, item: Item) -> bool {
        self.excluded.iter().any(|range| range.contains(item))
    }

    /// Nobody knows what one without a single range that can be read was meant to have: it stands for any, at rest.
    pub(super) fn has_family(&self, what: What) -> bool {
        let mut ranges = self.ranges.iter();
        let has = ranges.any(|range| match (range, what) {
            (Range::Addresses(range), What::LoadBalancer(family) | What::ClusterIp(family)) => {
                range.family() == family
            }
            (Range::Ports(_), What::NodePort) => true,
            (Range::Addresses(_), What::NodePort)
            | (Range::Ports(_), What::LoadBalancer(_) | What::ClusterIp(_)) => false,
        });
        has || (self.ranges.is_empty() && !self.is_well_formed)
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let shares = |range: &Range| other.ranges.iter().any(|theirs| range.overlaps(*theirs));
        self.supply() == other.supply() && self.ranges.iter().any(shares)
    }
}

fn created(meta: &ObjectMeta) -> i64 {
    let created = meta.creation_timestamp.as_ref();
    created.map_or(i64::MAX, |time| time.0.as_second())
}
