// SPDX-License-Identifier: Apache-2.0
//! Who is measured, in which kernel, and who is compared with whom. Pure.

use super::super::row::Goal;
use crate::proxy_peer::launch::{Proxy, Variant};

/// Who stands between a client and the Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// Nobody: the client knows the Pod's address.
    Nobody,
    /// A proxy's rules.
    Rules(Proxy),
    /// Berth's own relays.
    Userspace,
    /// [`super::relay`], which the client connects to by itself.
    PlainRelay,
}

/// Two that are compared.
pub(super) struct Pair {
    /// What that is called.
    pub(super) what: &'static str,
    /// Ours.
    pub(super) berth: Contender,
    /// The other.
    pub(super) peer: Contender,
    /// What ours has to reach in new connections.
    pub(super) goal: Goal,
}

/// In the machine's own kernel, in the order in which they take turns.
pub(super) const NATIVE: [Contender; 7] = [
    Contender::Nobody,
    Contender::Rules(Proxy::Berth),
    Contender::Rules(Proxy::KubeProxyNftables),
    Contender::Rules(Proxy::BerthIptables(Variant::Nft)),
    Contender::Rules(Proxy::KubeProxyIptables(Variant::Nft)),
    Contender::Userspace,
    Contender::PlainRelay,
];

/// In the guest's.
pub(super) const GUEST: [Contender; 3] = [
    Contender::Nobody,
    Contender::Rules(Proxy::BerthIpvs),
    Contender::Rules(Proxy::KubeProxyIpvs),
];

/// Of [`NATIVE`].
pub(super) const NATIVE_PAIRS: [Pair; 4] = [
    Pair {
        what: "nftables beside kube-proxy's",
        berth: Contender::Rules(Proxy::Berth),
        peer: Contender::Rules(Proxy::KubeProxyNftables),
        goal: Goal::None,
    },
    Pair {
        what: "nftables beside no proxy",
        berth: Contender::Rules(Proxy::Berth),
        peer: Contender::Nobody,
        goal: Goal::None,
    },
    Pair {
        what: "iptables-nft beside kube-proxy's",
        berth: Contender::Rules(Proxy::BerthIptables(Variant::Nft)),
        peer: Contender::Rules(Proxy::KubeProxyIptables(Variant::Nft)),
        goal: Goal::None,
    },
    Pair {
        what: "user-space beside a plain relay",
        berth: Contender::Userspace,
        peer: Contender::PlainRelay,
        goal: Goal::None,
    },
];

/// Of [`GUEST`].
pub(super) const GUEST_PAIRS: [Pair; 2] = [
    Pair {
        what: "ipvs beside kube-proxy's",
        berth: Contender::Rules(Proxy::BerthIpvs),
        peer: Contender::Rules(Proxy::KubeProxyIpvs),
        // Issue 5: no worse.
        goal: Goal::RatioAtLeast(1.0),
    },
    Pair {
        what: "ipvs beside no proxy",
        berth: Contender::Rules(Proxy::BerthIpvs),
        peer: Contender::Nobody,
        goal: Goal::None,
    },
];

impl Contender {
    /// In logs and in the names of log files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Rules(proxy) => proxy.name(),
            Self::Userspace => "berth-userspace",
            Self::PlainRelay => "plain-relay",
        }
    }

    /// As a row names the peer.
    pub(super) fn as_peer(self, kube_proxy: &str) -> String {
        match self {
            Self::Nobody => "none: straight to the Pod".to_owned(),
            Self::PlainRelay => "a plain relay (tokio's copy_bidirectional), straight to it".to_owned(),
            Self::Rules(Proxy::KubeProxyNftables) => format!("kube-proxy {kube_proxy} (nftables)"),
            Self::Rules(Proxy::KubeProxyIptables(Variant::Nft)) => {
                format!("kube-proxy {kube_proxy} (iptables-nft)")
            }
            Self::Rules(Proxy::KubeProxyIptables(Variant::Legacy)) => {
                format!("kube-proxy {kube_proxy} (iptables-legacy)")
            }
            Self::Rules(Proxy::KubeProxyIpvs) => format!("kube-proxy {kube_proxy} (ipvs)"),
            Self::Rules(Proxy::Berth | Proxy::BerthIptables(_) | Proxy::BerthIpvs) | Self::Userspace => {
                self.name().to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_compared_is_measured_in_the_same_kernel() {
        for (contenders, pairs) in [(&NATIVE[..], &NATIVE_PAIRS[..]), (&GUEST, &GUEST_PAIRS)] {
            for pair in pairs {
                for side in [pair.berth, pair.peer] {
                    assert!(contenders.contains(&side), "{}: {}", pair.what, side.name());
                }
            }
        }
    }
}
