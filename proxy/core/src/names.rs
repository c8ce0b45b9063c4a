// SPDX-License-Identifier: Apache-2.0
//! Every kernel object of the nftables backend, by name. What is not named here is not ours.
//!
//! The kernel takes names of up to 255 bytes, nft sets up to 256; the longest here has 22.

use std::fmt;
use std::str::FromStr;

/// The table, one in family `ip` and one in `ip6`.
pub const TABLE: &str = "berth-proxy";

/// The named counter of packets that had a frontend and found no endpoint: 0 unless Berth is wrong.
pub const UNTRANSLATED: &str = "untranslated";

/// Prefix of the empty chain whose name carries the layout's fingerprint.
pub const LAYOUT_PREFIX: &str = "layout-";

/// The sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Frontends on Service addresses that have endpoints.
    VipFrontends,
    /// Node ports that have endpoints.
    NodePortFrontends,
    /// Frontends on Service addresses that reject.
    NoEndpointVips,
    /// Node ports that reject.
    NoEndpointNodePorts,
    /// Frontends on Service addresses whose connections are always masqueraded.
    MasqueradeVips,
    /// Node ports whose connections are always masqueraded.
    MasqueradeNodePorts,
    /// ClusterIPs: every port without a frontend rejects.
    ClusterIps,
    /// Where Pods live (`--cluster-cidr`).
    PodCidrs,
    /// Local endpoints' addresses, each paired with itself.
    Hairpin,
    /// Frontends on Service addresses that have this many slots.
    VipCount(u32),
    /// Node ports that have this many slots.
    NodePortCount(u32),
}

/// The maps from frontend and slot number to endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapName {
    /// Slots of frontends on Service addresses.
    VipSlots,
    /// Slots of node ports.
    NodePortSlots,
}

/// The chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// Base chain: new packets that arrive, before translation.
    FilterPrerouting,
    /// Base chain: new packets from this host, before translation.
    FilterOutput,
    /// Base chain: translation of packets that arrive.
    NatPrerouting,
    /// Base chain: translation of packets from this host.
    NatOutput,
    /// Base chain: source translation.
    NatPostrouting,
    /// Rejects what no endpoint can take.
    Refuse,
    /// Tells Service addresses from node ports.
    Services,
    /// A frontend on a Service address: masquerade or not, then a pick.
    Vips,
    /// A node port: masquerade or not, then a pick.
    NodePorts,
    /// One rule per slot count up to the installed limit, ascending.
    VipPick,
    /// One rule per rung of the ladder for large Services.
    VipPickMany,
    /// As `VipPick`, for node ports.
    NodePortPick,
    /// As `VipPickMany`, for node ports.
    NodePortPickMany,
    /// Clears the mark and masquerades.
    Masquerade,
}

impl ChainName {
    /// All of them, base chains last: they refer to the others.
    pub const ALL: [ChainName; 14] = [
        Self::Refuse,
        Self::VipPick,
        Self::VipPickMany,
        Self::NodePortPick,
        Self::NodePortPickMany,
        Self::Vips,
        Self::NodePorts,
        Self::Services,
        Self::Masquerade,
        Self::FilterPrerouting,
        Self::FilterOutput,
        Self::NatPrerouting,
        Self::NatOutput,
        Self::NatPostrouting,
    ];

    /// The name in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FilterPrerouting => "filter-prerouting",
            Self::FilterOutput => "filter-output",
            Self::NatPrerouting => "nat-prerouting",
            Self::NatOutput => "nat-output",
            Self::NatPostrouting => "nat-postrouting",
            Self::Refuse => "refuse",
            Self::Services => "services",
            Self::Vips => "vips",
            Self::NodePorts => "nodeports",
            Self::VipPick => "vip-pick",
            Self::VipPickMany => "vip-pick-many",
            Self::NodePortPick => "nodeport-pick",
            Self::NodePortPickMany => "nodeport-pick-many",
            Self::Masquerade => "masquerade-marked",
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl MapName {
    /// Both maps.
    pub const ALL: [MapName; 2] = [Self::VipSlots, Self::NodePortSlots];

    /// The name in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VipSlots => "vip-slots",
            Self::NodePortSlots => "nodeport-slots",
        }
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SetName {
    /// Those that do not depend on endpoint counts.
    pub const FIXED: [SetName; 9] = [
        Self::VipFrontends,
        Self::NodePortFrontends,
        Self::NoEndpointVips,
        Self::NoEndpointNodePorts,
        Self::MasqueradeVips,
        Self::MasqueradeNodePorts,
        Self::ClusterIps,
        Self::PodCidrs,
        Self::Hairpin,
    ];
}

const VIP_COUNT: &str = "vip-count-";
const NODE_PORT_COUNT: &str = "nodeport-count-";

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VipFrontends => f.write_str("vip-frontends"),
            Self::NodePortFrontends => f.write_str("nodeport-frontends"),
            Self::NoEndpointVips => f.write_str("no-endpoint-vips"),
            Self::NoEndpointNodePorts => f.write_str("no-endpoint-nodeports"),
            Self::MasqueradeVips => f.write_str("masquerade-vips"),
            Self::MasqueradeNodePorts => f.write_str("masquerade-nodeports"),
            Self::ClusterIps => f.write_str("cluster-ips"),
            Self::PodCidrs => f.write_str("pod-cidrs"),
            Self::Hairpin => f.write_str("hairpin"),
            Self::VipCount(count) => write!(f, "{VIP_COUNT}{count}"),
            Self::NodePortCount(count) => write!(f, "{NODE_PORT_COUNT}{count}"),
        }
    }
}

/// A set of our table that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no set of the {TABLE} table")]
pub struct UnknownSet(pub String);

impl FromStr for SetName {
    type Err = UnknownSet;

    fn from_str(text: &str) -> Result<Self, UnknownSet> {
        if let Some(fixed) = Self::FIXED.into_iter().find(|name| name.to_string() == text) {
            return Ok(fixed);
        }
        let count = |prefix| {
            text.strip_prefix(prefix)
                .and_then(|count: &str| count.parse().ok())
        };
        if let Some(count) = count(VIP_COUNT) {
            return Ok(Self::VipCount(count));
        }
        count(NODE_PORT_COUNT)
            .map(Self::NodePortCount)
            .ok_or_else(|| UnknownSet(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_name_reads_back() {
        for name in SetName::FIXED
            .into_iter()
            .chain([SetName::VipCount(7), SetName::NodePortCount(65_536)])
        {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert!("vip-count-x".parse::<SetName>().is_err());
    }
}
