// SPDX-License-Identifier: Apache-2.0
//! Every chain of the iptables backend, by name. The names are kube-proxy's, so that whoever can read its rules can
//! read ours; [`Fixed::Owner`] tells whose they are.

use std::fmt;
use std::str::FromStr;

use berth_model::{Protocol, ServicePortName};
use sha2::{Digest, Sha256};

use crate::Target;

/// The tables that we write to, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Holds a canary only.
    Mangle,
    /// Rejects, drops and accepts.
    Filter,
    /// Translates.
    Nat,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 3] = [Self::Mangle, Self::Filter, Self::Nat];

    /// As iptables spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no chain or table of ours")]
pub struct UnknownName(pub String);

impl FromStr for Table {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.into_iter().find(|table| table.as_str() == text);
        found.ok_or_else(|| UnknownName(text.to_owned()))
    }
}

/// Chains that are there before us, in which we have a jump or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Builtin {
    /// Packets that arrive, before routing.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets for others.
    Forward,
    /// Packets from this host.
    Output,
    /// Packets that leave.
    Postrouting,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Builtin; 5] = [
        Self::Prerouting,
        Self::Input,
        Self::Forward,
        Self::Output,
        Self::Postrouting,
    ];

    /// As iptables spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

/// Chains that exist once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fixed {
    /// Empty. Where it is, the other chains are ours: kube-proxy's have the same names. Its absence tells that somebody
    /// flushed the table.
    Owner,
    /// Empty, kube-proxy's sign that nobody flushed the table.
    Canary,
    /// nat: which frontend goes where. filter: ClusterIPs that reject or drop.
    Services,
    /// filter: other frontends that reject or drop.
    ExternalServices,
    /// nat: which node port goes where. filter: health-check node ports are let in.
    NodePorts,
    /// nat: masquerades what is marked.
    Postrouting,
    /// nat: marks for masquerade.
    MarkMasq,
    /// nat: marks what is not from a Pod. There only with several Pod networks of the family, which no single rule
    /// can tell; kube-proxy looks at one alone.
    MarkOutside,
    /// filter: lets pass what we translated.
    Forward,
    /// filter: drops what source ranges kept from being translated.
    ProxyFirewall,
}

impl Fixed {
    /// All of them.
    pub const ALL: [Fixed; 10] = [
        Self::Owner,
        Self::Canary,
        Self::Services,
        Self::ExternalServices,
        Self::NodePorts,
        Self::Postrouting,
        Self::MarkMasq,
        Self::MarkOutside,
        Self::Forward,
        Self::ProxyFirewall,
    ];

    /// As iptables shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "BERTH-PROXY",
            Self::Canary => "KUBE-PROXY-CANARY",
            Self::Services => "KUBE-SERVICES",
            Self::ExternalServices => "KUBE-EXTERNAL-SERVICES",
            Self::NodePorts => "KUBE-NODEPORTS",
            Self::Postrouting => "KUBE-POSTROUTING",
            Self::MarkMasq => "KUBE-MARK-MASQ",
            Self::MarkOutside => "KUBE-MARK-OUTSIDE",
            Self::Forward => "KUBE-FORWARD",
            Self::ProxyFirewall => "KUBE-PROXY-FIREWALL",
        }
    }
}

/// What a Service port's chain is for. All are in table nat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Traffic policy Cluster: pick an endpoint.
    Cluster,
    /// Traffic policy Local: pick an endpoint of this node.
    Local,
    /// What comes to other frontends than the ClusterIP.
    External,
    /// Source ranges of the LoadBalancer addresses.
    Firewall,
    /// One endpoint.
    Endpoint,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 5] = [
        Self::Cluster,
        Self::Local,
        Self::External,
        Self::Firewall,
        Self::Endpoint,
    ];

    fn prefix(self) -> &'static str {
        match self {
            Self::Cluster => "KUBE-SVC-",
            Self::Local => "KUBE-SVL-",
            Self::External => "KUBE-EXT-",
            Self::Firewall => "KUBE-FW-",
            Self::Endpoint => "KUBE-SEP-",
        }
    }
}

/// RFC 4648 section 6.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The end of a Service port's chain name: the first 16 digits in base 32, which are 10 bytes, of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Suffix([u8; 10]);

impl Suffix {
    fn of(text: &str) -> Self {
        let mut bytes = [0; 10];
        for (to, from) in bytes.iter_mut().zip(Sha256::digest(text.as_bytes())) {
            *to = from;
        }
        Self(bytes)
    }

    fn number(self) -> u128 {
        self.0
            .iter()
            .fold(0, |number, byte| (number << 8) | u128::from(*byte))
    }
}

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number();
        for digit in (0..16).rev() {
            let index = (number >> (5 * digit)) & 31;
            let symbol = usize::try_from(index).ok().and_then(|index| BASE32.get(index));
            write!(f, "{}", char::from(symbol.copied().unwrap_or(b'A')))?;
        }
        Ok(())
    }
}

impl FromStr for Suffix {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let unknown = || UnknownName(text.to_owned());
        if text.len() != 16 {
            return Err(unknown());
        }
        let mut number: u128 = 0;
        for symbol in text.bytes() {
            let digit = BASE32
                .iter()
                .position(|known| *known == symbol)
                .ok_or_else(unknown)?;
            number = (number << 5) | u128::try_from(digit).map_err(|_| unknown())?;
        }
        let mut bytes = [0; 10];
        for (to, from) in bytes.iter_mut().zip(&number.to_be_bytes()[6..]) {
            *to = *from;
        }
        Ok(Self(bytes))
    }
}

/// A chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// One of everybody's.
    Builtin(Builtin),
    /// One that exists once.
    Fixed(Fixed),
    /// One of a Service port's.
    Port(Purpose, Suffix),
}

impl ChainName {
    /// The endpoint's chain.
    pub fn endpoint(port: &ServicePortName, target: &Target) -> Self {
        let text = format!("{}{}{target}", port_name(port), protocol(port.protocol));
        Self::Port(Purpose::Endpoint, Suffix::of(&text))
    }

    /// The Service port's chain for anything but one endpoint.
    pub fn of_port(purpose: Purpose, port: &ServicePortName) -> Self {
        let text = format!("{}{}", port_name(port), protocol(port.protocol));
        Self::Port(purpose, Suffix::of(&text))
    }

    /// Whether it is ours to make, flush and remove.
    pub fn is_ours(self) -> bool {
        match self {
            Self::Builtin(_) => false,
            Self::Fixed(_) | Self::Port(..) => true,
        }
    }
}

impl From<Fixed> for ChainName {
    fn from(fixed: Fixed) -> Self {
        Self::Fixed(fixed)
    }
}

impl From<Builtin> for ChainName {
    fn from(builtin: Builtin) -> Self {
        Self::Builtin(builtin)
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(builtin) => f.write_str(builtin.as_str()),
            Self::Fixed(fixed) => f.write_str(fixed.as_str()),
            Self::Port(purpose, suffix) => write!(f, "{}{suffix}", purpose.prefix()),
        }
    }
}

impl FromStr for ChainName {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        if let Some(builtin) = Builtin::ALL.into_iter().find(|known| known.as_str() == text) {
            return Ok(Self::Builtin(builtin));
        }
        if let Some(fixed) = Fixed::ALL.into_iter().find(|known| known.as_str() == text) {
            return Ok(Self::Fixed(fixed));
        }
        let ours = |purpose: Purpose| {
            Some(Self::Port(
                purpose,
                text.strip_prefix(purpose.prefix())?.parse().ok()?,
            ))
        };
        let found = Purpose::ALL.into_iter().find_map(ours);
        found.ok_or_else(|| UnknownName(text.to_owned()))
    }
}

/// `namespace/name:port`, as kube-proxy's comments and hashes have it; without a colon where the port has no name.
pub fn port_name(port: &ServicePortName) -> String {
    match port.port.as_str() {
        "" => port.service.to_string(),
        name => format!("{}:{name}", port.service),
    }
}

/// As iptables spells it.
pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use berth_model::{PortName, ServiceKey};

    use super::*;

    fn mk_port(port: &str) -> ServicePortName {
        ServicePortName {
            service: ServiceKey::new("ns1", "svc1"),
            port: PortName::new(port),
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn names_are_kube_proxys() {
        // Vectors of shared/behaviour/proxy-dns.md section 2, recomputed from kube-proxy's tests.
        let port = mk_port("p80");
        let target = Target {
            ip: [10, 180, 0, 1].into(),
            port: 80.try_into().unwrap(),
        };
        let cluster = ChainName::of_port(Purpose::Cluster, &port);
        assert_eq!(cluster.to_string(), "KUBE-SVC-XPGD46QRK7WJZT7O");
        assert_eq!(
            ChainName::endpoint(&port, &target).to_string(),
            "KUBE-SEP-SXIVWICOYRO3J4NJ"
        );
    }

    #[test]
    fn a_port_without_a_name_has_no_colon() {
        assert_eq!(port_name(&mk_port("")), "ns1/svc1");
        assert_eq!(port_name(&mk_port("p80")), "ns1/svc1:p80");
    }

    #[test]
    fn every_name_reads_back_and_fits() {
        let builtin = Builtin::ALL.map(ChainName::Builtin);
        let fixed = Fixed::ALL.map(ChainName::Fixed);
        let ports = ["a", "b", ""].map(mk_port);
        let of_ports = ports
            .iter()
            .flat_map(|port| Purpose::ALL.map(|purpose| ChainName::of_port(purpose, port)));
        for name in builtin.into_iter().chain(fixed).chain(of_ports) {
            assert_eq!(name.to_string().parse(), Ok(name));
            // XT_EXTENSION_MAXNAMELEN in Linux's x_tables.h, less the closing zero.
            assert!(name.to_string().len() <= 28, "{name}");
        }
        for foreign in [
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-SVC-short",
            "KUBE-SVC-XPGD46QRK7WJZT71",
            "DOCKER",
        ] {
            assert!(foreign.parse::<ChainName>().is_err(), "{foreign}");
        }
    }
}
