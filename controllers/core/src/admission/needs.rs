// SPDX-License-Identifier: Apache-2.0
//! What a write needs, keeps and gives back.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use berth_model::{IpFamily, Port};
use serde::{Deserialize, Serialize};

use super::draft::{Draft, FamilyPolicy};
use super::{addresses, draft};

/// How a value comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need<T> {
    /// It has to be chosen.
    Any,
    /// The user asks for this one, which the Service does not have yet.
    Wanted(T),
    /// The Service has it and keeps it, whether the write repeats or omits it.
    Kept(T),
}

impl<T> Need<T> {
    /// The value, unless it has to be chosen.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Any => None,
            Self::Wanted(value) | Self::Kept(value) => Some(value),
        }
    }

    fn is_kept(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

impl<T: fmt::Display> fmt::Display for Need<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Wanted(value) => write!(f, "{value} wanted"),
            Self::Kept(value) => write!(f, "{value} kept"),
        }
    }
}

/// A cluster IP as it is written, which need not be the canonical spelling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterIp {
    /// As written.
    pub text: String,
    /// As meant.
    pub address: IpAddr,
}

impl fmt::Display for ClusterIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The cluster IP of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressNeed {
    /// Its family.
    pub family: IpFamily,
    /// Where it comes from.
    pub need: Need<ClusterIp>,
}

/// The cluster IPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterIps {
    /// None: type ExternalName.
    None,
    /// None, by wish.
    Headless,
    /// In the order of `spec.ipFamilies`.
    Addresses(Vec<AddressNeed>),
}

impl ClusterIps {
    /// In the order of `spec.ipFamilies`.
    pub fn addresses(&self) -> &[AddressNeed] {
        match self {
            Self::None | Self::Headless => &[],
            Self::Addresses(needs) => needs,
        }
    }
}

/// The node port of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortNeed {
    /// It has none.
    Unneeded,
    /// It has one of its own.
    Of(Need<Port>),
    /// It has that of an earlier port, by index.
    SharedWith(usize),
}

impl PortNeed {
    pub(super) fn number(&self) -> Option<Port> {
        match self {
            Self::Of(need) => need.value().copied(),
            Self::Unneeded | Self::SharedWith(_) => None,
        }
    }
}

impl fmt::Display for PortNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unneeded => f.write_str("none"),
            Self::Of(need) => write!(f, "{need}"),
            Self::SharedWith(index) => write!(f, "that of ports[{index}]"),
        }
    }
}

/// What the Service has and does not keep. It is free once the write is stored, not before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Cluster IPs.
    pub cluster_ips: Vec<ClusterIp>,
    /// Node ports, the health-check node port among them.
    pub node_ports: BTreeSet<Port>,
}

/// One thing that has to be chosen or looked up in the pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Slot {
    /// The cluster IP of a family.
    ClusterIp(#[serde(with = "family")] IpFamily),
    /// The node port of a port, by index, and of those that share it.
    NodePort(usize),
    /// The health-check node port.
    HealthCheckNodePort,
}

impl Slot {
    /// The field of a Service that it is.
    pub fn field(self) -> String {
        match self {
            Self::ClusterIp(_) => "spec.clusterIPs".to_owned(),
            Self::NodePort(index) => format!("spec.ports[{index}].nodePort"),
            Self::HealthCheckNodePort => "spec.healthCheckNodePort".to_owned(),
        }
    }
}

/// Families as the API spells them.
mod family {
    use berth_model::IpFamily;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
    pub(super) fn serialize<S: Serializer>(family: &IpFamily, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(family.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpFamily, D::Error> {
        let text = String::deserialize(deserializer)?;
        let family = IpFamily::ALL.into_iter().find(|family| family.as_str() == text);
        family.ok_or_else(|| D::Error::custom(format!("{text:?} is no IP family; IPv4 and IPv6 are")))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp(family) => write!(f, "{family} cluster IP"),
            Self::NodePort(index) => write!(f, "node port of ports[{index}]"),
            Self::HealthCheckNodePort => f.write_str("health-check node port"),
        }
    }
}

/// What a Service has once the write is stored, and where each value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// `spec.ipFamilyPolicy`; none for type ExternalName.
    pub policy: Option<FamilyPolicy>,
    /// `spec.ipFamilies`; none for type ExternalName.
    pub families: Vec<IpFamily>,
    /// `spec.clusterIPs`.
    pub cluster_ips: ClusterIps,
    /// One for each of `spec.ports`.
    pub node_ports: Vec<PortNeed>,
    /// `spec.healthCheckNodePort`.
    pub health_check: Option<Need<Port>>,
    /// What goes back.
    pub released: Released,
}

impl Needs {
    /// What has to be chosen, or is asked for by the user and not had yet: in the order in which it stands in the
    /// Service.
    pub fn slots(&self) -> Vec<Slot> {
        let addresses = self.cluster_ips.addresses().iter();
        let addresses = addresses
            .filter(|address| !address.need.is_kept())
            .map(|address| Slot::ClusterIp(address.family));
        let ports = self.node_ports.iter().enumerate();
        let ports = ports
            .filter(|(_, need)| matches!(need, PortNeed::Of(need) if !need.is_kept()))
            .map(|(index, _)| Slot::NodePort(index));
        let health_check = self.health_check.iter().filter(|need| !need.is_kept());
        addresses
            .chain(ports)
            .chain(health_check.map(|_| Slot::HealthCheckNodePort))
            .collect()
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cluster_ips {
            ClusterIps::None => f.write_str("no cluster IP")?,
            ClusterIps::Headless => f.write_str("headless")?,
            ClusterIps::Addresses(needs) => {
                for (index, need) in needs.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {}", need.family, need.need)?;
                }
            }
        }
        if let Some(policy) = self.policy {
            write!(f, " ({policy})")?;
        }
        for (index, need) in self.node_ports.iter().enumerate() {
            if *need != PortNeed::Unneeded {
                write!(f, "; node port of ports[{index}] {need}")?;
            }
        }
        if let Some(need) = &self.health_check {
            write!(f, "; health-check node port {need}")?;
        }
        let addresses = self.released.cluster_ips.iter().map(ToString::to_string);
        let numbers = self.released.node_ports.iter().map(ToString::to_string);
        let released: Vec<String> = addresses.chain(numbers).collect();
        if !released.is_empty() {
            write!(f, "; gives back {}", released.join(", "))?;
        }
        Ok(())
    }
}

/// What the stored Service holds and the new one does not name.
pub(super) fn released(
    old: Option<&Draft>,
    cluster_ips: &ClusterIps,
    node_ports: &[PortNeed],
    health_check: Option<Need<Port>>,
) -> Released {
    let Some(old) = old else {
        return Released::default();
    };
    let kept: BTreeSet<&ClusterIp> = cluster_ips
        .addresses()
        .iter()
        .filter_map(|address| address.need.value())
        .collect();
    let numbers: BTreeSet<Port> = node_ports.iter().filter_map(PortNeed::number).collect();
    let gone = |value: i32| {
        draft::number(value)
            .ok()
            .filter(|number| !numbers.contains(number))
    };
    let stops = old.has_health_check() && health_check.is_none();
    let health_check = stops.then_some(old.health_check);
    Released {
        cluster_ips: addresses::held(old)
            .into_iter()
            .filter(|held| !kept.contains(held))
            .collect(),
        node_ports: old
            .held_node_ports()
            .chain(health_check)
            .filter_map(gone)
            .collect(),
    }
}
