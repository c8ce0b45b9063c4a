// SPDX-License-Identifier: Apache-2.0
//! `berth proxy` in each of its modes on a node of its own, with the rights that its manifests give it, on one API server:
//! a Service's life from the first to the last packet, and what the node's kernel has of it.
//!
//! In: a mode. Out: a node that can be asked. Touches: the sandbox it runs in, a folder for logs.
//!
//! Mode ipvs needs a kernel that has it, which is a guest without any network: what the API server holds after each step
//! is written down outside, and the guest's proxy reads that by `--state FILE`.

pub mod expect;
pub mod flow;
pub mod ground;
pub mod guest;
pub mod kernel;
pub mod life;
pub mod shipped;

use std::fmt;

use crate::proxy_peer::launch::{Proxy, Variant};

/// How Services are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Rules in nftables.
    Nftables,
    /// kube-proxy's chains in iptables, of the variant that nf_tables keeps.
    Iptables,
    /// Virtual servers in IPVS.
    Ipvs,
    /// Relays in the proxy itself.
    Userspace,
}

impl Mode {
    /// Those that the machine's own kernel has, whatever machine it is.
    pub const EVERYWHERE: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Userspace];

    /// As `--proxy-mode` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Userspace => "userspace",
        }
    }

    /// Whether a Service's endpoints see the addresses of clients that are not masqueraded: a relay connects anew.
    fn keeps_sources(self) -> bool {
        match self {
            Self::Nftables | Self::Iptables | Self::Ipvs => true,
            Self::Userspace => false,
        }
    }

    /// Whether an address of a ServiceCIDR that no Service has is told from others: iptables and IPVS know Services only.
    fn knows_service_cidrs(self) -> bool {
        match self {
            Self::Nftables | Self::Userspace => true,
            Self::Iptables | Self::Ipvs => false,
        }
    }

    /// Which programs it finds.
    fn launched_as(self) -> Proxy {
        match self {
            Self::Nftables | Self::Userspace | Self::Ipvs => Proxy::Berth,
            Self::Iptables => Proxy::BerthIptables(Variant::Nft),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
