// SPDX-License-Identifier: Apache-2.0
//! Every kernel object of the IPVS backend, by name. What is not named here, and sits on no address of the link or in no
//! set here, is not ours.
//!
//! ipset takes names of up to 31 bytes, iptables chains of up to 28.

use std::fmt;
use std::str::FromStr;

use berth_model::IpFamily;

/// The dummy link that holds the Services' addresses: kube-proxy's name, because network plug-ins and announcers know to
/// leave a link of this name alone. Whoever is the node's proxy owns what is on it.
pub const LINK: &str = "kube-ipvs0";

/// What the names of our sets begin with, by family.
fn prefix(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "BERTH-",
        IpFamily::V6 => "BERTH-6-",
    }
}

/// The sets. Each exists once per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// Every socket that is served: the record of which virtual servers are ours.
    Sockets,
    /// Everybody's connections are masqueraded.
    Masquerade,
    /// Connections that do not come from Pods are masqueraded.
    MasqueradeForeign,
    /// Everybody's connections are dropped.
    Drop,
    /// Connections from outside are dropped.
    DropOutside,
    /// Only some sources are let in.
    Ranged,
    /// Those sources, by socket.
    Sources,
    /// Sockets with a second server for Pods and this host, and the mark that leads there.
    Inside,
    /// The addresses on the link.
    Addresses,
    /// Where Pods live (`--cluster-cidr`).
    Pods,
    /// Local endpoints' addresses, each paired with itself.
    Hairpin,
}

impl SetName {
    /// All of them.
    pub const ALL: [SetName; 11] = [
        Self::Sockets,
        Self::Masquerade,
        Self::MasqueradeForeign,
        Self::Drop,
        Self::DropOutside,
        Self::Ranged,
        Self::Sources,
        Self::Inside,
        Self::Addresses,
        Self::Pods,
        Self::Hairpin,
    ];

    fn base(self) -> &'static str {
        match self {
            Self::Sockets => "SOCKETS",
            Self::Masquerade => "MASQUERADE",
            Self::MasqueradeForeign => "MASQUERADE-FOREIGN",
            Self::Drop => "DROP",
            Self::DropOutside => "DROP-OUTSIDE",
            Self::Ranged => "RANGED",
            Self::Sources => "SOURCES",
            Self::Inside => "INSIDE",
            Self::Addresses => "ADDRESSES",
            Self::Pods => "PODS",
            Self::Hairpin => "HAIRPIN",
        }
    }

    /// What `ipset create` is told of it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Sockets
            | Self::Masquerade
            | Self::MasqueradeForeign
            | Self::Drop
            | Self::DropOutside
            | Self::Ranged => "hash:ip,port",
            Self::Inside => "hash:ip,port",
            Self::Sources => "hash:ip,port,net",
            Self::Addresses => "hash:ip",
            Self::Pods => "hash:net",
            Self::Hairpin => "hash:net,net",
        }
    }
}

/// A set of one family, as ipset knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FamilySet(pub IpFamily, pub SetName);

impl fmt::Display for FamilySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(prefix(self.0))?;
        f.write_str(self.1.base())
    }
}

/// Not the name of a set of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no set of Berth's")]
pub struct UnknownSet(pub String);

impl FromStr for FamilySet {
    type Err = UnknownSet;

    fn from_str(text: &str) -> Result<Self, UnknownSet> {
        IpFamily::ALL
            .into_iter()
            .flat_map(|family| SetName::ALL.map(|set| Self(family, set)))
            .find(|set| set.to_string() == text)
            .ok_or_else(|| UnknownSet(text.to_owned()))
    }
}

/// The chains. A name is used in one table only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// mangle: packets to sockets.
    Services,
    /// mangle: the first packets of connections to sockets.
    NewConnections,
    /// mangle: sockets with a second server.
    Inside,
    /// mangle: takes our marks off packets that leave.
    Unmark,
    /// filter: refuses what is addressed to a Service address and no socket.
    Unknown,
    /// nat: who is masqueraded.
    Postrouting,
    /// nat: clears the mark and masquerades.
    Masquerade,
}

impl ChainName {
    /// All of them.
    pub const ALL: [ChainName; 7] = [
        Self::Services,
        Self::NewConnections,
        Self::Inside,
        Self::Unmark,
        Self::Unknown,
        Self::Postrouting,
        Self::Masquerade,
    ];
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "BERTH-SERVICES",
            Self::NewConnections => "BERTH-NEW-CONNECTIONS",
            Self::Inside => "BERTH-INSIDE",
            Self::Unmark => "BERTH-UNMARK",
            Self::Unknown => "BERTH-UNKNOWN-SOCKETS",
            Self::Postrouting => "BERTH-POSTROUTING",
            Self::Masquerade => "BERTH-MASQUERADE",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_name_reads_back_and_fits() {
        for set in IpFamily::ALL
            .into_iter()
            .flat_map(|family| SetName::ALL.map(|set| FamilySet(family, set)))
        {
            assert_eq!(set.to_string().parse(), Ok(set));
            assert!(set.to_string().len() <= 31);
        }
        assert!("KUBE-CLUSTER-IP".parse::<FamilySet>().is_err());
        assert!(ChainName::ALL.iter().all(|chain| chain.to_string().len() <= 28));
    }
}
