// SPDX-License-Identifier: Apache-2.0
//! What the operator chose, and what the agent knows of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_model::{IpFamily, NodeName};
use ipnet::IpNet;

use crate::{LinkName, Links};

/// What the operator chose and where we are, for one node. The agent hands in a new value when the Node changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node: tells local endpoints and node hints. `None` outside a node (`berth plan`).
    pub node: Option<NodeName>,
    /// This node's zone (label `topology.kubernetes.io/zone`): tells zone hints.
    pub zone: Option<String>,
    /// This node's own addresses, as its Node has them. A LoadBalancer's source ranges that admit one of them admit
    /// the LoadBalancer address as a source too: where it is bound on the node, the node's own packets carry it.
    pub node_ips: BTreeSet<IpAddr>,
    /// On which of the node's addresses node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Where Pods live, both families. Who comes from here or by [`pod_links`](Self::pod_links) counts as a Pod. With
    /// neither in a family, nobody does: nothing is masqueraded for coming from elsewhere, and external traffic policy
    /// Local has no short cut for Pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// By which interfaces the packets of this node's Pods come in, both families.
    pub pod_links: Option<Links>,
    /// From which networks ClusterIPs are given, both families: who addresses one there that no Service has, is dropped.
    /// `None`: not known, and what the kernel has stays.
    pub service_cidrs: Option<Vec<IpNet>>,
    /// Masquerade every connection to a ClusterIP.
    pub masquerade_all: bool,
    /// The bit of the packet mark that carries the decision to masquerade, as a mark value.
    pub mark: u32,
}

/// What tells a Pod's packets from others'. One of them is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodSource {
    /// The source address is in here.
    Net(IpNet),
    /// They come in by one of these interfaces.
    Links(Links),
}

impl PodSource {
    /// Whether it says so of a packet from this address that came in by this interface; `None` for one of this host.
    pub fn has(&self, source: IpAddr, link: Option<&LinkName>) -> bool {
        match self {
            Self::Net(net) => net.contains(&source),
            Self::Links(links) => link.is_some_and(|link| links.has(link)),
        }
    }
}

/// The addresses of this node on which node ports are served, by family. A family that is not named here is served on
/// every address of the node but loopback ones. What `primary` or a CIDR means on this node is for the agent to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses(BTreeMap<IpFamily, BTreeSet<IpAddr>>);

impl NodePortAddresses {
    /// Every address of the node, both families.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only these addresses in this family; none at all if there are none. Those of the other family are left out.
    #[must_use]
    pub fn only(mut self, family: IpFamily, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let ours = addresses.into_iter().filter(|ip| IpFamily::of(*ip) == family);
        self.0.insert(family, ours.collect());
        self
    }

    /// The addresses of a family; `None` for all.
    pub fn of(&self, family: IpFamily) -> Option<&BTreeSet<IpAddr>> {
        self.0.get(&family)
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A packet mark has 32 bits.
    #[error("--masquerade-bit is {0}; a packet mark has bits 0 to 31")]
    MasqueradeBit(u8),
}

impl Settings {
    /// Settings with the given bit (0 to 31) of the packet mark for masquerade decisions.
    ///
    /// # Errors
    /// The bit is above 31.
    pub fn new(masquerade_bit: u8) -> Result<Self, SettingsError> {
        let mark = 1u32
            .checked_shl(masquerade_bit.into())
            .ok_or(SettingsError::MasqueradeBit(masquerade_bit))?;
        Ok(Self {
            mark,
            ..Self::default()
        })
    }

    /// Whether anybody of this family can be told to be a Pod.
    pub fn knows_pods(&self, family: IpFamily) -> bool {
        self.pod_sources(family).next().is_some()
    }

    /// What tells Pods' packets of a family, the networks first.
    pub fn pod_sources(&self, family: IpFamily) -> impl Iterator<Item = PodSource> {
        let nets = self.pod_cidrs(family).map(|net| PodSource::Net(net.trunc()));
        nets.chain(self.pod_links.map(PodSource::Links))
    }

    /// Where Pods of a family live.
    pub fn pod_cidrs(&self, family: IpFamily) -> impl Iterator<Item = &IpNet> {
        self.cluster_cidrs
            .iter()
            .filter(move |net| IpFamily::of(net.addr()) == family)
    }
}

impl Default for Settings {
    /// Mark 0x4000, kube-proxy's `--iptables-masquerade-bit=14`.
    fn default() -> Self {
        Self {
            node: None,
            zone: None,
            node_ips: BTreeSet::new(),
            node_port_addresses: NodePortAddresses::all(),
            cluster_cidrs: Vec::new(),
            pod_links: None,
            service_cidrs: None,
            masquerade_all: false,
            mark: 1 << 14,
        }
    }
}
