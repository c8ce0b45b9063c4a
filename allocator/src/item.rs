// SPDX-License-Identifier: Apache-2.0
//! What pools hand out, and to whom: the two things that their arithmetic is indifferent to.

use std::fmt::{Debug, Display};
use std::net::IpAddr;

use berth_model::{IpFamily, IpRange, Port, PortRange, ServiceKey, address_bits};

/// Something that a pool hands out: an address or a port. As far as the arithmetic goes it is a family and a number.
pub trait Item: Copy + Ord + Debug + Display {
    /// Items of one family stand in for each other, those of two do not.
    type Family: Copy + Ord + Debug + Display + 'static;
    /// What an administrator writes: one item, or several that follow each other.
    type Range: Copy + Eq + Debug + Display;
    /// All families, in the order in which they are listed.
    const FAMILIES: &'static [Self::Family];
    /// The kind of the pools, as the API has it.
    const POOL: &'static str;
    /// One item of any family, in a sentence.
    const ONE: &'static str;
    /// Items of any family, in a sentence.
    const SEVERAL: &'static str;

    /// The family of the item.
    fn family(self) -> Self::Family;
    /// The item's number in its family.
    fn number(self) -> u128;
    /// The item of this number, or the one nearest to it that the family has.
    fn at(family: Self::Family, number: u128) -> Self;
    /// First and last item of a range; they are of one family.
    fn ends(range: Self::Range) -> (Self, Self);
    /// The range between two items; `None` if they are of two families or in the wrong order.
    fn range(first: Self, last: Self) -> Option<Self::Range>;
    /// What one item of the family is called.
    fn noun(family: Self::Family) -> &'static str;
    /// What several items of the family are called.
    fn plural(family: Self::Family) -> &'static str;
}

impl Item for IpAddr {
    type Family = IpFamily;
    type Range = IpRange;
    const FAMILIES: &'static [IpFamily] = &IpFamily::ALL;
    const POOL: &'static str = "AddressPool";
    const ONE: &'static str = "an address";
    const SEVERAL: &'static str = "addresses";

    fn family(self) -> IpFamily {
        IpFamily::of(self)
    }

    fn number(self) -> u128 {
        address_bits(self)
    }

    fn at(family: IpFamily, number: u128) -> Self {
        family.address(number)
    }

    fn ends(range: IpRange) -> (Self, Self) {
        (range.first(), range.last())
    }

    fn range(first: Self, last: Self) -> Option<IpRange> {
        IpRange::new(first, last).ok()
    }

    fn noun(family: IpFamily) -> &'static str {
        match family {
            IpFamily::V4 => "IPv4 address",
            IpFamily::V6 => "IPv6 address",
        }
    }

    fn plural(family: IpFamily) -> &'static str {
        match family {
            IpFamily::V4 => "IPv4 addresses",
            IpFamily::V6 => "IPv6 addresses",
        }
    }
}

/// The one family of node ports: a number is one port, whatever the protocol, as the API server counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePorts;

impl Display for NodePorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodePort")
    }
}

impl Item for Port {
    type Family = NodePorts;
    type Range = PortRange;
    const FAMILIES: &'static [NodePorts] = &[NodePorts];
    const POOL: &'static str = "NodePortPool";
    const ONE: &'static str = "a port";
    const SEVERAL: &'static str = "ports";

    fn family(self) -> NodePorts {
        NodePorts
    }

    fn number(self) -> u128 {
        self.get().into()
    }

    fn at(NodePorts: NodePorts, number: u128) -> Self {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        Self::new(number).unwrap_or(Self::MIN)
    }

    fn ends(range: PortRange) -> (Self, Self) {
        (range.first(), range.last())
    }

    fn range(first: Self, last: Self) -> Option<PortRange> {
        PortRange::new(first, last).ok()
    }

    fn noun(NodePorts: NodePorts) -> &'static str {
        "node port"
    }

    fn plural(NodePorts: NodePorts) -> &'static str {
        "node ports"
    }
}

/// Who an item is given to.
pub trait Owner: Clone + Ord + Debug + Display {
    /// What its use is counted with for quotas: for a Service its namespace.
    fn group(&self) -> &str;
}

impl Owner for ServiceKey {
    fn group(&self) -> &str {
        self.namespace()
    }
}
