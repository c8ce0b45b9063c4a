// SPDX-License-Identifier: Apache-2.0
//! Typed rules and elements: exactly what the layout needs, so that each reader (text, netlink, packet
//! walker) can be complete.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::names::{ChainName, MapName, SetName};
use crate::{Frontend, Target};

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
}

/// The key of everything about a frontend on a Service address.
pub const VIP_KEY: [Field; 3] = [Field::DestinationIp, Field::Protocol, Field::DestinationPort];
/// The key of everything about a node port.
pub const NODE_PORT_KEY: [Field; 2] = [Field::Protocol, Field::DestinationPort];

impl SetName {
    /// What the set's key is made of.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::VipFrontends | Self::NoEndpointVips | Self::MasqueradeVips | Self::VipCount(_) => &VIP_KEY,
            Self::NodePortFrontends
            | Self::NoEndpointNodePorts
            | Self::MasqueradeNodePorts
            | Self::NodePortCount(_) => &NODE_PORT_KEY,
            Self::ClusterIps => &[Field::DestinationIp],
            Self::PodCidrs => &[Field::SourceIp],
            Self::Hairpin => &[Field::SourceIp, Field::DestinationIp],
        }
    }

    /// Whether its elements are networks.
    pub fn is_interval(self) -> bool {
        self == Self::PodCidrs
    }
}

impl MapName {
    /// What the map's key is made of; the slot number follows.
    pub fn fields(self) -> &'static [Field] {
        match self {
            Self::VipSlots => &VIP_KEY,
            Self::NodePortSlots => &NODE_PORT_KEY,
        }
    }

    /// The map that holds a frontend's slots.
    pub fn of(frontend: &Frontend) -> Self {
        match frontend {
            Frontend::Vip { .. } => Self::VipSlots,
            Frontend::NodePort { .. } => Self::NodePortSlots,
        }
    }
}

/// A condition on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet starts a connection.
    NewConnection,
    /// The connection's destination was translated.
    Translated,
    /// The mark has this bit.
    Marked(u32),
    /// The destination is an address of this host.
    LocalDestination,
    /// The destination is not a loopback address: node ports are not served there.
    NotLoopback,
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
    /// Count as untranslated and drop.
    CountAndDrop,
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
}

/// One element of a set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A member of a set.
    Member(SetName, Key),
    /// A slot of a frontend with its endpoint, in the map that belongs to the frontend's kind.
    Slot(Frontend, u32, Target),
}

impl Element {
    /// The frontend it is about, if it is about one.
    pub fn frontend(&self) -> Option<Frontend> {
        match self {
            Self::Member(_, Key::Frontend(frontend)) | Self::Slot(frontend, _, _) => Some(*frontend),
            Self::Member(_, Key::Address(_) | Key::Net(_)) => None,
        }
    }
}
