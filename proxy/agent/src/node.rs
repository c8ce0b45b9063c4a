// SPDX-License-Identifier: Apache-2.0
//! What the proxy needs to know of its own Node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use berth_model::IpFamily;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use nix::net::if_::InterfaceFlags;

/// The cluster autoscaler's mark on a Node that it is about to remove (`ToBeDeletedTaint` in its
/// utils/taints package): load balancers are to drain it.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The label that names a Node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether load balancers may send traffic to this node, as far as its Node object says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Eligibility {
    /// The Node has not been asked for yet.
    #[default]
    NotListed,
    /// There is no Node of this name.
    Missing,
    /// It is being deleted.
    Deleting,
    /// The cluster autoscaler is about to remove it.
    ToBeDeleted,
    /// Nothing is wrong with it.
    Eligible,
}

impl Eligibility {
    pub(crate) fn is_eligible(self) -> bool {
        self == Self::Eligible
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotListed => "NotListed",
            Self::Missing => "Missing",
            Self::Deleting => "Deleting",
            Self::ToBeDeleted => TO_BE_DELETED,
            Self::Eligible => "Eligible",
        }
    }
}

/// The own Node, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) eligibility: Eligibility,
    /// Label `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<String>,
    /// The primary address of each family, the Node's own first.
    pub(crate) primary: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub(crate) pod_cidrs: Vec<IpNet>,
}

impl NodeFacts {
    pub(crate) fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let taints = spec.and_then(|spec| spec.taints.as_ref());
        let eligibility = if node.metadata.deletion_timestamp.is_some() {
            Eligibility::Deleting
        } else if taints
            .into_iter()
            .flatten()
            .any(|taint| taint.key == TO_BE_DELETED)
        {
            Eligibility::ToBeDeleted
        } else {
            Eligibility::Eligible
        };
        let pod_cidrs = spec.and_then(|spec| spec.pod_cidrs.as_ref());
        Self {
            eligibility,
            zone: node
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(ZONE).cloned()),
            primary: primary_addresses(node),
            pod_cidrs: pod_cidrs
                .into_iter()
                .flatten()
                .filter_map(|text| text.parse().ok())
                .collect(),
        }
    }
}

/// The first address, internal ones before external ones, and the first of the other family
/// (`GetNodeHostIPs` in Kubernetes' pkg/util/node).
fn primary_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let of = |kind: &'static str| {
        let addresses = addresses.into_iter().flatten();
        addresses
            .filter(move |address| address.type_ == kind)
            .filter_map(|address| address.address.parse().ok())
    };
    let mut seen = BTreeSet::new();
    of("InternalIP")
        .chain(of("ExternalIP"))
        .filter(|ip: &IpAddr| seen.insert(IpFamily::of(*ip)))
        .collect()
}

/// Every address of this machine's interfaces that are up.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn own_addresses() -> nix::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let up = interfaces.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    let addresses = up.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|address| IpAddr::from(address.ip()))
        })
    });
    Ok(addresses.collect())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus, Taint};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn mk_node(addresses: &[(&str, &str)], taint: Option<&str>) -> Node {
        Node {
            spec: Some(NodeSpec {
                pod_cidrs: Some(vec!["10.244.1.0/24".to_owned(), "fd00:244:1::/64".to_owned()]),
                taints: taint.map(|key| {
                    vec![Taint {
                        key: key.to_owned(),
                        ..Taint::default()
                    }]
                }),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus {
                addresses: Some(
                    addresses
                        .iter()
                        .map(|(kind, address)| NodeAddress {
                            type_: (*kind).to_owned(),
                            address: (*address).to_owned(),
                        })
                        .collect(),
                ),
                ..NodeStatus::default()
            }),
            ..Node::default()
        }
    }

    #[test]
    fn deletion_and_the_autoscalers_taint_make_a_node_ineligible() {
        let eligibility = |node: &Node| NodeFacts::of(node).eligibility;
        assert_eq!(eligibility(&mk_node(&[], None)), Eligibility::Eligible);
        assert_eq!(
            eligibility(&mk_node(&[], Some("node.kubernetes.io/unreachable"))),
            Eligibility::Eligible
        );
        let mut node = mk_node(&[], Some(TO_BE_DELETED));
        assert_eq!(eligibility(&node), Eligibility::ToBeDeleted);
        node.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(eligibility(&node), Eligibility::Deleting);
    }

    #[test]
    fn primary_addresses_are_the_first_of_each_family_internal_ones_first() {
        let primary = |addresses: &[(&str, &str)]| -> Vec<String> {
            let facts = NodeFacts::of(&mk_node(addresses, None));
            facts.primary.iter().map(IpAddr::to_string).collect()
        };
        for (addresses, expected) in [
            (vec![], vec![]),
            (vec![("Hostname", "10.0.0.9")], vec![]),
            (
                vec![("ExternalIP", "198.51.100.1"), ("InternalIP", "10.0.0.1")],
                vec!["10.0.0.1"],
            ),
            (
                vec![
                    ("InternalIP", "10.0.0.1"),
                    ("InternalIP", "10.0.0.2"),
                    ("InternalIP", "fd00::1"),
                ],
                vec!["10.0.0.1", "fd00::1"],
            ),
            (
                vec![("InternalIP", "fd00::1"), ("ExternalIP", "198.51.100.1")],
                vec!["fd00::1", "198.51.100.1"],
            ),
        ] {
            assert_eq!(primary(&addresses), expected, "{addresses:?}");
        }
    }

    #[test]
    fn pod_cidrs_and_zone_are_read() {
        let cidrs = NodeFacts::of(&mk_node(&[], None)).pod_cidrs;
        let texts: Vec<String> = cidrs.iter().map(IpNet::to_string).collect();
        assert_eq!(texts, ["10.244.1.0/24", "fd00:244:1::/64"]);
        let mut node = mk_node(&[], None);
        assert_eq!(NodeFacts::of(&node).zone, None);
        node.metadata.labels = Some([(ZONE.to_owned(), "zone-a".to_owned())].into());
        assert_eq!(NodeFacts::of(&node).zone.as_deref(), Some("zone-a"));
    }
}
