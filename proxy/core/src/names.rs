// SPDX-License-Identifier: Apache-2.0
//! Every kernel object of the nftables backend, by name. What is not named here is not ours.
//!
//! The kernel takes names of up to 255 bytes, nft sets up to 256; the longest here has 23.

use std::fmt;
use std::str::FromStr;

/// The table, one in family `ip` and one in `ip6`.
pub const TABLE: &str = "berth-proxy";

/// The table of the user-space backend, one in family `ip` and one in `ip6`.
pub const RELAY_TABLE: &str = "berth-relay";

/// How the table begins that counts new connections for somebody who asked; the number of his process follows.
pub const COUNT_PREFIX: &str = "berth-count-";

/// The named counter of packets that had a frontend and found no endpoint: 0 unless Berth is wrong.
pub const UNTRANSLATED: &str = "untranslated";

/// The named counter of connections of clients that session affinity could not remember: the map was full.
pub const UNREMEMBERED: &str = "unremembered";

/// The map of which client is bound to which endpoint, filled by packets.
pub const BINDINGS: &str = "affinity-bindings";

/// Prefix of the empty chain whose name carries the layout's fingerprint.
pub const LAYOUT_PREFIX: &str = "layout-";

/// The two kinds of frontends: they differ in their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// On a Service address.
    Vip,
    /// A port of the node.
    NodePort,
}

/// The two lists of endpoints that a frontend can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// For everybody; under external traffic policy Local for Pods and this host.
    Main,
    /// Under external traffic policy Local, for connections from outside.
    Local,
}

/// Lists that share sets, maps and chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// Of such frontends.
    pub kind: Kind,
    /// These lists.
    pub list: List,
}

impl Group {
    /// All four.
    pub const ALL: [Group; 4] = [
        Self::new(Kind::Vip, List::Main),
        Self::new(Kind::Vip, List::Local),
        Self::new(Kind::NodePort, List::Main),
        Self::new(Kind::NodePort, List::Local),
    ];

    /// The lists of this sort, of frontends of this kind.
    pub const fn new(kind: Kind, list: List) -> Self {
        Self { kind, list }
    }

    fn prefix(self) -> &'static str {
        match (self.kind, self.list) {
            (Kind::Vip, List::Main) => "vip",
            (Kind::Vip, List::Local) => "vip-local",
            (Kind::NodePort, List::Main) => "nodeport",
            (Kind::NodePort, List::Local) => "nodeport-local",
        }
    }
}

/// The sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Frontends that have endpoints.
    Frontends(Kind),
    /// Frontends under external traffic policy Local: connections from outside get the local list.
    Local(Kind),
    /// Frontends that reject.
    NoEndpoint(Kind),
    /// Frontends that drop: everybody's packets, or of a local list those from outside.
    Drop(Group),
    /// Frontends whose connections are always masqueraded.
    Masquerade(Kind),
    /// Frontends on Service addresses that let only some sources in.
    RangedVips,
    /// Those sources, by frontend.
    AllowedSources,
    /// ClusterIPs: every port without a frontend rejects.
    ClusterIps,
    /// From which networks ClusterIPs are given: what no Service has there drops.
    ServiceCidrs,
    /// Where Pods live (`--cluster-cidr`).
    PodCidrs,
    /// On which addresses node ports are served.
    NodePortIps,
    /// Local endpoints' addresses, each paired with itself.
    Hairpin,
    /// Frontends whose list has this many slots.
    Count(Group, u32),
    /// Lists that remember their clients for so many seconds.
    AffinityTimeout(u32),
}

/// The maps from frontend and slot number to endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapName(pub Group);

/// The maps from frontend to the number of its list, for lists that remember their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumberMap(pub Group);

/// The chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// Base chain: first packets of connections that arrive, before translation.
    RefusePrerouting,
    /// Base chain: first packets of this host's connections, before translation.
    RefuseOutput,
    /// Base chain: translation of packets that arrive.
    NatPrerouting,
    /// Base chain: translation of packets from this host.
    NatOutput,
    /// Base chain: source translation.
    NatPostrouting,
    /// Rejects and drops what no endpoint can take.
    Refuse,
    /// Tells Service addresses from node ports.
    Services,
    /// A frontend: masquerade or not, which list, then a pick.
    Serve(Kind),
    /// A frontend under external traffic policy Local: who gets the local list, who is masqueraded.
    UnderLocal(Kind),
    /// The same, for connections from outside.
    ServeLocal(Kind),
    /// One rule per slot count up to the installed limit, ascending.
    Pick(Group),
    /// One rule per rung of the ladder for large Services.
    PickMany(Group),
    /// Clears the mark and masquerades.
    Masquerade,
    /// A list that remembers its clients: the endpoint that this one is bound to, if it is.
    Recall,
    /// Base chain: packets that arrive, just translated.
    LearnPrerouting,
    /// Base chain: packets from this host, just translated.
    LearnOutput,
    /// Binds clients, and counts those that could not be.
    Learn,
    /// One rule for each timeout that some Service has.
    Remember,
    /// Base chain: what leaves, before anybody's source translation. Drops what is addressed to a ClusterIP that no
    /// Service has.
    Unallocated,
}

impl ChainName {
    /// All of them, referred ones before those that refer to them, base chains last.
    pub fn all() -> impl Iterator<Item = ChainName> {
        let picks = Group::ALL
            .into_iter()
            .flat_map(|group| [Self::Pick(group), Self::PickMany(group)]);
        let serve = [Kind::Vip, Kind::NodePort]
            .into_iter()
            .flat_map(|kind| [Self::ServeLocal(kind), Self::UnderLocal(kind), Self::Serve(kind)]);
        let rest = [
            Self::Refuse,
            Self::Services,
            Self::Masquerade,
            Self::Remember,
            Self::Learn,
            Self::Unallocated,
            Self::LearnPrerouting,
            Self::LearnOutput,
            Self::RefusePrerouting,
            Self::RefuseOutput,
            Self::NatPrerouting,
            Self::NatOutput,
            Self::NatPostrouting,
        ];
        std::iter::once(Self::Recall)
            .chain(picks)
            .chain(serve)
            .chain(rest)
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RefusePrerouting => "refuse-prerouting",
            Self::RefuseOutput => "refuse-output",
            Self::NatPrerouting => "nat-prerouting",
            Self::NatOutput => "nat-output",
            Self::NatPostrouting => "nat-postrouting",
            Self::Refuse => "refuse",
            Self::Services => "services",
            Self::Serve(Kind::Vip) => "vips",
            Self::Serve(Kind::NodePort) => "nodeports",
            Self::UnderLocal(Kind::Vip) => "vips-under-local",
            Self::UnderLocal(Kind::NodePort) => "nodeports-under-local",
            Self::ServeLocal(Kind::Vip) => "vips-local",
            Self::ServeLocal(Kind::NodePort) => "nodeports-local",
            Self::Pick(group) => return write!(f, "{}-pick", group.prefix()),
            Self::PickMany(group) => return write!(f, "{}-pick-many", group.prefix()),
            Self::Masquerade => "masquerade-marked",
            Self::Recall => "affinity-recall",
            Self::LearnPrerouting => "affinity-prerouting",
            Self::LearnOutput => "affinity-output",
            Self::Learn => "affinity-learn",
            Self::Remember => "affinity-remember",
            Self::Unallocated => "unallocated-postrouting",
        })
    }
}

impl MapName {
    /// All maps.
    pub fn all() -> impl Iterator<Item = MapName> {
        Group::ALL.into_iter().map(MapName)
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-slots", self.0.prefix())
    }
}

impl NumberMap {
    /// All of them.
    pub fn all() -> impl Iterator<Item = NumberMap> {
        Group::ALL.into_iter().map(NumberMap)
    }
}

impl fmt::Display for NumberMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-affinity", self.0.prefix())
    }
}

impl SetName {
    /// Those that do not depend on endpoint counts.
    pub const FIXED: [SetName; 19] = [
        Self::Frontends(Kind::Vip),
        Self::Frontends(Kind::NodePort),
        Self::Local(Kind::Vip),
        Self::Local(Kind::NodePort),
        Self::NoEndpoint(Kind::Vip),
        Self::NoEndpoint(Kind::NodePort),
        Self::Drop(Group::new(Kind::Vip, List::Main)),
        Self::Drop(Group::new(Kind::Vip, List::Local)),
        Self::Drop(Group::new(Kind::NodePort, List::Main)),
        Self::Drop(Group::new(Kind::NodePort, List::Local)),
        Self::Masquerade(Kind::Vip),
        Self::Masquerade(Kind::NodePort),
        Self::RangedVips,
        Self::AllowedSources,
        Self::ClusterIps,
        Self::ServiceCidrs,
        Self::PodCidrs,
        Self::NodePortIps,
        Self::Hairpin,
    ];
}

const AFFINITY_TIMEOUT: &str = "affinity-timeout-";

fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Vip => "vips",
        Kind::NodePort => "nodeports",
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontends(kind) => write!(f, "{}-frontends", Group::new(*kind, List::Main).prefix()),
            Self::Local(kind) => write!(f, "local-{}", plural(*kind)),
            Self::NoEndpoint(kind) => write!(f, "no-endpoint-{}", plural(*kind)),
            Self::Drop(group) => match group.list {
                List::Main => write!(f, "drop-{}", plural(group.kind)),
                List::Local => write!(f, "drop-local-{}", plural(group.kind)),
            },
            Self::Masquerade(kind) => write!(f, "masquerade-{}", plural(*kind)),
            Self::RangedVips => f.write_str("ranged-vips"),
            Self::AllowedSources => f.write_str("allowed-sources"),
            Self::ClusterIps => f.write_str("cluster-ips"),
            Self::ServiceCidrs => f.write_str("service-cidrs"),
            Self::PodCidrs => f.write_str("pod-cidrs"),
            Self::NodePortIps => f.write_str("nodeport-ips"),
            Self::Hairpin => f.write_str("hairpin"),
            Self::Count(group, count) => write!(f, "{}-count-{count}", group.prefix()),
            Self::AffinityTimeout(seconds) => write!(f, "{AFFINITY_TIMEOUT}{seconds}"),
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
        if let Some(seconds) = text.strip_prefix(AFFINITY_TIMEOUT) {
            let seconds = seconds.parse().map(Self::AffinityTimeout);
            return seconds.map_err(|_| UnknownSet(text.to_owned()));
        }
        let counted = |group: Group| {
            let rest = text.strip_prefix(group.prefix())?;
            let count = rest.strip_prefix("-count-")?.parse().ok()?;
            Some(Self::Count(group, count))
        };
        Group::ALL
            .into_iter()
            .find_map(counted)
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
            .chain(Group::ALL.map(|group| SetName::Count(group, 7)))
            .chain([
                SetName::Count(Group::ALL[3], 65_536),
                SetName::AffinityTimeout(10_800),
            ])
        {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        assert!("vip-count-x".parse::<SetName>().is_err());
        assert!("affinity-timeout-".parse::<SetName>().is_err());
    }
}
