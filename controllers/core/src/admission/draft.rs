// SPDX-License-Identifier: Apache-2.0
//! The fields of a Service that bear on its addresses and ports, in the form in which they are reasoned about.

use std::fmt;

use berth_model::{IpFamily, Port};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::Invalid;
use crate::address;

/// The value of `clusterIP` that makes a Service headless (core/v1).
const NONE: &str = "None";

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FamilyPolicy {
    /// One family.
    SingleStack,
    /// Both where the cluster has both.
    PreferDualStack,
    /// Both, or nothing.
    RequireDualStack,
}

impl FamilyPolicy {
    /// The spelling of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SingleStack => "SingleStack",
            Self::PreferDualStack => "PreferDualStack",
            Self::RequireDualStack => "RequireDualStack",
        }
    }
}

impl fmt::Display for FamilyPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One of `spec.ports`.
#[derive(Clone, Debug)]
pub(super) struct DraftPort {
    pub(super) name: String,
    pub(super) port: i32,
    pub(super) protocol: String,
    /// As it was sent: 0 is none, and what is no port number is told where it would be used.
    pub(super) node_port: i32,
}

/// A Service on its way through the API server.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) kind: Kind,
    /// Empty, `None` or an address, as it was written.
    pub(super) cluster_ip: String,
    pub(super) cluster_ips: Vec<String>,
    pub(super) families: Vec<IpFamily>,
    pub(super) policy: Option<FamilyPolicy>,
    pub(super) has_selector: bool,
    allocates_for_load_balancer: bool,
    keeps_external_traffic_local: bool,
    pub(super) ports: Vec<DraftPort>,
    pub(super) health_check: i32,
}

impl Draft {
    /// A Service as it was sent.
    pub(super) fn read(service: &Service) -> Result<Self, Invalid> {
        let empty = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&empty);
        let families = spec.ip_families.as_deref().unwrap_or_default();
        Ok(Self {
            kind: kind(spec)?,
            cluster_ip: spec.cluster_ip.clone().unwrap_or_default(),
            cluster_ips: spec.cluster_ips.clone().unwrap_or_default(),
            families: families
                .iter()
                .map(|name| family(name))
                .collect::<Result<_, _>>()?,
            policy: spec.ip_family_policy.as_deref().map(policy).transpose()?,
            has_selector: spec
                .selector
                .as_ref()
                .is_some_and(|selector| !selector.is_empty()),
            allocates_for_load_balancer: spec.allocate_load_balancer_node_ports.unwrap_or(true),
            keeps_external_traffic_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            ports: spec.ports.iter().flatten().map(port).collect(),
            health_check: spec.health_check_node_port.unwrap_or_default(),
        })
    }

    /// A Service as it is stored. One from before dual stack (1.20) has neither families nor the plural: the API
    /// server fills them in whenever it reads one.
    pub(super) fn stored(service: &Service, primary: IpFamily) -> Result<Self, Invalid> {
        let mut draft = Self::read(service)?;
        if draft.cluster_ips.is_empty() && !draft.cluster_ip.is_empty() {
            draft.cluster_ips = vec![draft.cluster_ip.clone()];
        }
        if draft.is_external_name() || !draft.families.is_empty() {
            return Ok(draft);
        }
        draft.families = match (draft.cluster_ip == NONE, draft.has_selector) {
            (true, true) => vec![primary],
            (true, false) => vec![primary, other(primary)],
            (false, _) => draft.cluster_ips.iter().map(|text| family_of(text)).collect(),
        };
        draft.policy = Some(if draft.families.len() > 1 {
            FamilyPolicy::RequireDualStack
        } else {
            FamilyPolicy::SingleStack
        });
        Ok(draft)
    }

    pub(super) fn is_external_name(&self) -> bool {
        self.kind == Kind::ExternalName
    }

    /// Told by the plural, which the API server has aligned with the singular by then.
    pub(super) fn is_headless(&self) -> bool {
        self.cluster_ips.len() == 1 && self.cluster_ips[0] == NONE
    }

    /// Headless, with endpoints that somebody else writes, possibly of both families.
    pub(super) fn is_headless_without_selector(&self) -> bool {
        self.cluster_ip == NONE && !self.has_selector
    }

    /// Whether its type has node ports at all.
    pub(super) fn has_node_ports(&self) -> bool {
        match self.kind {
            Kind::NodePort | Kind::LoadBalancer => true,
            Kind::ClusterIp | Kind::ExternalName => false,
        }
    }

    /// Whether it gets a node port for each port that names none.
    pub(super) fn allocates_node_ports(&self) -> bool {
        match self.kind {
            Kind::NodePort => true,
            Kind::LoadBalancer => self.allocates_for_load_balancer,
            Kind::ClusterIp | Kind::ExternalName => false,
        }
    }

    /// Whether it has a node port on which nodes tell whether they have an endpoint.
    pub(super) fn has_health_check(&self) -> bool {
        self.kind == Kind::LoadBalancer && self.keeps_external_traffic_local
    }

    /// The node ports that its ports name.
    pub(super) fn node_ports(&self) -> impl Iterator<Item = i32> {
        self.ports
            .iter()
            .map(|port| port.node_port)
            .filter(|number| *number != 0)
    }

    /// The node ports that the API server holds for it: a type without node ports may name some all the same.
    pub(super) fn held_node_ports(&self) -> impl Iterator<Item = i32> {
        self.node_ports().filter(|_| self.has_node_ports())
    }
}

/// The other family.
pub(super) fn other(family: IpFamily) -> IpFamily {
    match family {
        IpFamily::V4 => IpFamily::V6,
        IpFamily::V6 => IpFamily::V4,
    }
}

/// The family of an address; what cannot be read counts as IPv4, as upstream has it.
pub(super) fn family_of(text: &str) -> IpFamily {
    address::parse(text).map_or(IpFamily::V4, IpFamily::of)
}

/// Whether this is `None`, and no address.
pub(super) fn is_none(text: &str) -> bool {
    text == NONE
}

/// A port number as the API has it.
pub(super) fn number(value: i32) -> Result<Port, Invalid> {
    let number = u16::try_from(value).ok().and_then(Port::new);
    number.ok_or(Invalid::PortOutOfBounds)
}

fn kind(spec: &ServiceSpec) -> Result<Kind, Invalid> {
    match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => Ok(Kind::ClusterIp),
        Some("NodePort") => Ok(Kind::NodePort),
        Some("LoadBalancer") => Ok(Kind::LoadBalancer),
        Some("ExternalName") => Ok(Kind::ExternalName),
        Some(_) => Err(Invalid::UnknownType),
    }
}

fn family(name: &str) -> Result<IpFamily, Invalid> {
    let found = IpFamily::ALL.into_iter().find(|family| family.as_str() == name);
    found.ok_or(Invalid::UnknownFamily)
}

fn policy(name: &str) -> Result<FamilyPolicy, Invalid> {
    let all = [
        FamilyPolicy::SingleStack,
        FamilyPolicy::PreferDualStack,
        FamilyPolicy::RequireDualStack,
    ];
    let found = all.into_iter().find(|policy| policy.as_str() == name);
    found.ok_or(Invalid::UnknownPolicy)
}

fn port(port: &ServicePort) -> DraftPort {
    DraftPort {
        name: port.name.clone().unwrap_or_default(),
        port: port.port,
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        node_port: port.node_port.unwrap_or_default(),
    }
}
