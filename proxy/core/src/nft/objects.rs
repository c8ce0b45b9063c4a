// SPDX-License-Identifier: Apache-2.0
//! Typed rules and elements: exactly what the layout needs, so that each reader (text, netlink, packet
//! walker) can be complete.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::{ChainName, Group, Kind, List, MapName, NumberMap, SetName};
use crate::{AffinityNumber, Frontend, Links, Target};

/// A part of a packet, as a set key holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `ip saddr`
    SourceIp,
    /// `ip daddr`
    DestinationIp,
    /// `meta l4proto`
    Protocol,
    /// `th dport`. Never `tcp dport`: nft would add `meta l4proto tcp` and UDP would silently fail.
    DestinationPort,
    /// `meta priority`: between the choice of an endpoint and its being remembered, the number of the list.
    Number,
}

/// The key of everything about a frontend on a Service address.
pub const VIP_KEY: [Field; 3] = [Field::DestinationIp, Field::Protocol, Field::DestinationPort];
/// The key of everything about a node port.
pub const NODE_PORT_KEY: [Field; 2] = [Field::Protocol, Field::DestinationPort];

/// The key of a binding.
pub const BINDING_KEY: [Field; 3] = [Field::SourceIp, Field::Protocol, Field::Number];

/// How many bindings a family's table holds at most; some 150 bytes of kernel memory each. Clients beyond that are
/// spread at each connection.
pub const BINDINGS_SIZE: u32 = 1 << 18;

/// The key of a source that a frontend lets in.
pub const SOURCE_KEY: [Field; 4] = [
    Field::DestinationIp,
    Field::Protocol,
    Field::DestinationPort,
    Field::SourceIp,
];

impl Kind {
    /// What the key of such frontends is made of.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::Vip => &VIP_KEY,
            Self::NodePort => &NODE_PORT_KEY,
        }
    }
}

impl SetName {
    /// What the set's key is made of.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::Frontends(kind) | Self::Local(kind) | Self::NoEndpoint(kind) | Self::Masquerade(kind) => {
                kind.fields()
            }
            Self::Drop(group) | Self::Count(group, _) => group.kind.fields(),
            Self::RangedVips => &VIP_KEY,
            Self::AllowedSources => &SOURCE_KEY,
            Self::ClusterIps | Self::ServiceCidrs | Self::NodePortIps => &[Field::DestinationIp],
            Self::PodCidrs => &[Field::SourceIp],
            Self::Hairpin => &[Field::SourceIp, Field::DestinationIp],
            Self::AffinityTimeout(_) => &[Field::Number],
        }
    }

    /// Whether its elements are networks, or have one in their key.
    pub fn is_interval(self) -> bool {
        matches!(
            self,
            Self::ServiceCidrs | Self::PodCidrs | Self::NodePortIps | Self::AllowedSources
        )
    }

    /// Which list of a frontend its elements are about.
    pub fn list(self) -> List {
        match self {
            Self::Local(_) => List::Local,
            Self::Drop(group) | Self::Count(group, _) => group.list,
            Self::Frontends(_)
            | Self::NoEndpoint(_)
            | Self::Masquerade(_)
            | Self::RangedVips
            | Self::AllowedSources
            | Self::ClusterIps
            | Self::ServiceCidrs
            | Self::PodCidrs
            | Self::NodePortIps
            | Self::Hairpin
            | Self::AffinityTimeout(_) => List::Main,
        }
    }
}

impl MapName {
    /// What the map's key is made of; the slot number follows.
    pub fn fields(self) -> &'static [Field] {
        self.0.kind.fields()
    }

    /// The map that holds a list's slots.
    pub fn of(entry: &Entry) -> Self {
        Self(entry.group())
    }
}

/// One list of a frontend, with what leads packets to it. Planned each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The frontend.
    pub frontend: Frontend,
    /// Which of its lists.
    pub list: List,
}

impl Entry {
    /// The frontend's main list.
    pub fn main(frontend: Frontend) -> Self {
        Self {
            frontend,
            list: List::Main,
        }
    }

    /// The frontend's local list.
    pub fn local(frontend: Frontend) -> Self {
        Self {
            frontend,
            list: List::Local,
        }
    }

    /// Whose sets, maps and chains it is in.
    pub fn group(&self) -> Group {
        Group::new(self.frontend.kind(), self.list)
    }
}

/// A condition on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet starts a connection.
    NewConnection,
    /// The connection's destination was translated.
    Translated,
    /// The connection's destination was not translated, yet.
    Untranslated,
    /// The mark has this bit.
    Marked(u32),
    /// The mark does not have this bit.
    Unmarked(u32),
    /// The destination is an address of this host.
    LocalDestination,
    /// The destination is not a loopback address: node ports are not served there.
    NotLoopback,
    /// The source is not an address of this host.
    ForeignSource,
    /// The destination is not an address of this host.
    ForeignDestination,
    /// The packet carries the number of a list that remembers its clients.
    Numbered,
    /// The packet did not come in by one of these interfaces.
    NotBy(Links),
    /// The packet's fields are in the set.
    In(SetName),
    /// The packet's fields are not in the set.
    NotIn(SetName),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on in another chain and come back.
    Jump(ChainName),
    /// Go on in another chain for good.
    Goto(ChainName),
    /// Answer with ICMP port unreachable.
    Reject,
    /// Set the bit of the mark.
    Mark(u32),
    /// Clear the bit of the mark, which is known to be set.
    Unmark(u32),
    /// Masquerade with fully random source ports.
    Masquerade,
    /// Translate to the endpoint in a random slot below the number.
    Translate(MapName, u32),
    /// Leave unanswered.
    Drop,
    /// Let through: the base chain is through with it.
    Accept,
    /// Count as untranslated and drop.
    CountAndDrop,
    /// Where the frontend's list remembers its clients, have the packet carry the list's number, and jump to
    /// [`ChainName::Recall`].
    Recall(NumberMap),
    /// Translate to the endpoint that the client is bound to, if it is.
    TranslateBound,
    /// Bind the client to the endpoint that it was translated to, or prolong that, for so many seconds. The packet
    /// carries no number any more, and the base chain is through with it.
    Remember(u32),
    /// Count as unremembered.
    CountUnremembered,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All must hold, tried in order.
    pub matches: Vec<Match>,
    /// Then this.
    pub action: Action,
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrive, before routing.
    Prerouting,
    /// Packets of this host.
    Output,
    /// Packets that leave, after routing.
    Postrouting,
}

/// Type, hook and priority of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `type nat`, else `type filter`.
    pub nat: bool,
    /// Its hook.
    pub hook: Hook,
    /// Its priority: lower runs first.
    pub priority: i32,
}

/// One chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: ChainName,
    /// Its hook, for a base chain.
    pub base: Option<BaseChain>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// The key of a set element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A frontend.
    Frontend(Frontend),
    /// An address; in the hairpin set, both source and destination.
    Address(IpAddr),
    /// A network.
    Net(IpNet),
    /// A network that a frontend lets in.
    Source(Frontend, IpNet),
    /// A list that remembers its clients.
    Number(AffinityNumber),
}

/// One element of a set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A member of a set.
    Member(SetName, Key),
    /// A slot of a list with its endpoint, in the map that belongs to the list's group.
    Slot(Entry, u32, Target),
    /// The number of a list that remembers its clients, in the map that belongs to the list's group.
    Numbered(Entry, AffinityNumber),
}

impl Element {
    /// The list it is about, if it is about one.
    pub fn entry(&self) -> Option<Entry> {
        match self {
            Self::Member(set, Key::Frontend(frontend) | Key::Source(frontend, _)) => Some(Entry {
                frontend: *frontend,
                list: set.list(),
            }),
            Self::Slot(entry, _, _) | Self::Numbered(entry, _) => Some(*entry),
            Self::Member(_, Key::Address(_) | Key::Net(_) | Key::Number(_)) => None,
        }
    }
}
