// SPDX-License-Identifier: Apache-2.0
//! The values that flags and configuration fields take.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use berth_proxy_core::Links;
use ipnet::IpNet;

use super::{HEALTHZ_PORT, METRICS_PORT};

/// A value that is not understood: what it is, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

/// How rules are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// By nftables.
    #[default]
    Nftables,
    /// By iptables, in kube-proxy's chains.
    Iptables,
    /// By IPVS, with ipset and iptables for the rest.
    Ipvs,
    /// Connections end at relays of this process; nftables steers them there.
    Userspace,
}

impl ProxyMode {
    /// All of them.
    pub const ALL: [ProxyMode; 4] = [Self::Nftables, Self::Iptables, Self::Ipvs, Self::Userspace];
}

impl fmt::Display for ProxyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Userspace => "userspace",
        })
    }
}

impl FromStr for ProxyMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "" | "nftables" => Ok(Self::Nftables),
            "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            "userspace" => Ok(Self::Userspace),
            _ => Err(ValueError(format!(
                "{text:?} is no mode; write nftables, iptables, ipvs or userspace, or leave it out for nftables"
            ))),
        }
    }
}

/// One of `--cluster-cidr`.
pub(crate) fn pod_cidr(text: &str) -> Result<IpNet, ValueError> {
    text.parse().map_err(|_| {
        ValueError(format!(
            "{text:?} is no CIDR; write one as 10.244.0.0/16 or fd00:10:244::/56"
        ))
    })
}

/// Reads `--pod-bridge-interface`.
///
/// # Errors
/// No interface can have that name.
pub(crate) fn pod_bridge(text: &str) -> Result<Links, ValueError> {
    Links::named(text).map_err(|error| ValueError(format!("{text:?} is no interface's name: {error}")))
}

/// Reads `--pod-interface-name-prefix`.
///
/// # Errors
/// No interface's name can begin so.
pub(crate) fn pod_interface_prefix(text: &str) -> Result<Links, ValueError> {
    Links::beginning(text)
        .map_err(|error| ValueError(format!("{text:?} is no beginning of interfaces' names: {error}")))
}

/// How a Pod's traffic is told from others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DetectLocalMode {
    /// By `--cluster-cidr`.
    #[default]
    ClusterCidr,
    /// By `spec.podCIDRs` of the own Node.
    NodeCidr,
    /// By the bridge that Pods hang on, `--pod-bridge-interface`.
    BridgeInterface,
    /// By how the names of Pods' interfaces begin, `--pod-interface-name-prefix`.
    InterfaceNamePrefix,
}

impl fmt::Display for DetectLocalMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterCidr => "ClusterCIDR",
            Self::NodeCidr => "NodeCIDR",
            Self::BridgeInterface => "BridgeInterface",
            Self::InterfaceNamePrefix => "InterfaceNamePrefix",
        })
    }
}

impl FromStr for DetectLocalMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "" | "ClusterCIDR" => Ok(Self::ClusterCidr),
            "NodeCIDR" => Ok(Self::NodeCidr),
            "BridgeInterface" => Ok(Self::BridgeInterface),
            "InterfaceNamePrefix" => Ok(Self::InterfaceNamePrefix),
            _ => Err(ValueError(format!(
                "{text:?} is no mode; write ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"
            ))),
        }
    }
}

/// One entry of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// The Node's own address of each family.
    Primary,
    /// Loopback addresses.
    Localhost,
    /// Every address.
    All,
    /// Addresses in here.
    Net(IpNet),
}

impl NodePortAddress {
    /// The networks that it stands for.
    pub(super) fn nets(self, primary: &[IpAddr]) -> Vec<IpNet> {
        let fixed = |texts: [&str; 2]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        match self {
            Self::Primary => primary.iter().map(|ip| IpNet::from(*ip)).collect(),
            Self::Localhost => fixed(["127.0.0.0/8", "::1/128"]),
            Self::All => fixed(["0.0.0.0/0", "::/0"]),
            Self::Net(net) => vec![net],
        }
    }
}

impl FromStr for NodePortAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "primary" => Ok(Self::Primary),
            "localhost" => Ok(Self::Localhost),
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::Net).map_err(|_| {
                ValueError(format!(
                    "{text:?} is neither a CIDR nor a keyword; write for example 192.0.2.0/24, primary, localhost or all"
                ))
            }),
        }
    }
}

/// Where to listen, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindTo {
    /// Not at all.
    Nowhere,
    /// Here.
    Address(SocketAddr),
}

impl fmt::Display for BindTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("nowhere"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Reads `--healthz-bind-address`.
///
/// # Errors
/// It is no address.
pub(crate) fn healthz_address(text: &str) -> Result<BindTo, ValueError> {
    if text.is_empty() {
        return Ok(BindTo::Nowhere);
    }
    address(text, HEALTHZ_PORT).map(BindTo::Address)
}

/// Reads `--metrics-bind-address`.
///
/// # Errors
/// It is no address.
pub(crate) fn metrics_address(text: &str) -> Result<SocketAddr, ValueError> {
    address(text, METRICS_PORT)
}

/// An address with a port, or without one, which then is kube-proxy's (its `AppendPortIfNeeded`).
fn address(text: &str, port: u16) -> Result<SocketAddr, ValueError> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    text.parse().map_err(|_| {
        ValueError(format!(
            "{text:?} is no address to listen on; write IP:PORT, for example 127.0.0.1:{port} or [::]:{port}"
        ))
    })
}

/// Reads `--service-proxy-name`, which is the value of a label.
///
/// # Errors
/// No label can have that value.
pub(crate) fn proxy_name(text: &str) -> Result<String, ValueError> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = text.len() <= 63
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(ValueError(format!(
            "{text:?} cannot be the value of a label; write 1 to 63 letters, digits, '-', '_' or '.', a letter or digit first and last"
        )))
    }
}
