// SPDX-License-Identifier: Apache-2.0
//! What can happen to a namespace, and to the nodes: the words that histories are made of.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) type Map = BTreeMap<String, String>;

/// One thing that a user, a kubelet or a stranger does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Step {
    CreateService(String, ServiceShape),
    EditService(String, ServiceEdit),
    DeleteService(String),
    CreatePod(String, PodShape),
    EditPod(String, PodEdit),
    CreateEndpoints(String, EndpointsShape),
    EditEndpoints(String, EndpointsEdit),
    DeleteEndpoints(String),
    /// A stranger changes what a controller wrote for a Service.
    MeddleEndpoints(String, EndpointsMeddling),
    /// The same with the n-th slice of a Service, in a fixed order.
    MeddleSlice(String, usize, SliceMeddling),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateService(name, shape) => write!(f, "create service {name} {}", json(shape)),
            Self::EditService(name, edit) => write!(f, "edit service {name} {}", json(edit)),
            Self::DeleteService(name) => write!(f, "delete service {name}"),
            Self::CreatePod(name, shape) => write!(f, "create pod {name} {}", json(shape)),
            Self::EditPod(name, edit) => write!(f, "edit pod {name} {}", json(edit)),
            Self::CreateEndpoints(name, shape) => write!(f, "create endpoints {name} {}", json(shape)),
            Self::EditEndpoints(name, edit) => write!(f, "edit endpoints {name} {}", json(edit)),
            Self::DeleteEndpoints(name) => write!(f, "delete endpoints {name}"),
            Self::MeddleEndpoints(name, how) => write!(f, "meddle with endpoints {name} {}", json(how)),
            Self::MeddleSlice(name, nth, how) => {
                write!(f, "meddle with slice {nth} of service {name} {}", json(how))
            }
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}

/// Service types; headless is one of them here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    ClusterIp,
    Headless,
    NodePort,
    LoadBalancer,
    ExternalName,
}

impl Kind {
    /// As `spec.type` has it.
    pub(crate) fn api_type(self) -> &'static str {
        match self {
            Self::ClusterIp | Self::Headless => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }

    /// Types among which a Service changes freely.
    pub(crate) fn has_cluster_ip(self) -> bool {
        matches!(self, Self::ClusterIp | Self::NodePort | Self::LoadBalancer)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::IPv4 => Self::IPv6,
            Self::IPv6 => Self::IPv4,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::enum_variant_names, reason = "the values of spec.ipFamilyPolicy")]
pub(crate) enum Policy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// What a user writes about address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stack {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Policy>,
    /// The first of `ipFamilies`; dual stack gets the other one too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) first: Option<Family>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    Absent,
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortShape {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    pub(crate) target: Target,
    pub(crate) protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) app_protocol: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceShape {
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selector: Option<Map>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortShape>,
    #[serde(default)]
    pub(crate) stack: Stack,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) publish_not_ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) distribution: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) labels: Map,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) annotations: Map,
}

impl ServiceShape {
    /// The selector that the controllers act on.
    pub(crate) fn active_selector(&self) -> Option<&Map> {
        let selector = self.selector.as_ref().filter(|selector| !selector.is_empty());
        selector.filter(|_| self.kind != Kind::ExternalName)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ServiceEdit {
    Selector(Option<Map>),
    Ports(Vec<PortShape>),
    Policy(Policy),
    /// Among those with a ClusterIP.
    Type(Kind),
    ToExternalName,
    FromExternalName {
        kind: Kind,
        stack: Stack,
    },
    PublishNotReady(bool),
    Distribution(Option<String>),
    Labels(Map),
    Annotations(Map),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) protocol: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What a kubelet says of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodStatus {
    pub(crate) phase: Phase,
    pub(crate) ips: Vec<String>,
    pub(crate) ready: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodShape {
    pub(crate) labels: Map,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<ContainerPort>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sidecar_ports: Vec<ContainerPort>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) host_network: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subdomain: Option<String>,
    /// Written right after the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<PodStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum PodEdit {
    Bind(String),
    Status(PodStatus),
    Labels(Map),
    /// Deleted with a grace period: on a node it stays, terminating.
    Terminate,
    /// Deleted for good.
    Remove,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AddressShape {
    pub(crate) ip: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hostname: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// Name of a Pod that need not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubsetShape {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ready: Vec<AddressShape>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) not_ready: Vec<AddressShape>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointsShape {
    pub(crate) subsets: Vec<SubsetShape>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) labels: Map,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) annotations: Map,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum EndpointsEdit {
    Subsets(Vec<SubsetShape>),
    Labels(Map),
    Annotations(Map),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum EndpointsMeddling {
    /// A foreign address in place of all.
    Replace,
    Empty,
    Label,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum SliceMeddling {
    Empty,
    Label,
    /// Another value of the managed-by label: the slice is given away.
    Disown,
    Delete,
}

/// What happens to a node, at a barrier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum NodeEvent {
    /// Created, or changed into this.
    Put(String, NodeShape),
    Delete(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeShape {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<String>,
    pub(crate) ready: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu: Option<u16>,
}

impl fmt::Display for NodeEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(name, shape) => write!(f, "node {name} {}", json(shape)),
            Self::Delete(name) => write!(f, "delete node {name}"),
        }
    }
}
