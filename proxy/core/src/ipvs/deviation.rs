// SPDX-License-Identifier: Apache-2.0
//! Where this backend does something else than the table says, all of it, by name. Tests hold the backend to the table but
//! for these.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::walk::{Packet, Verdict};
use crate::{Frontend, Intent};

/// A difference from what [`oracle`](crate::oracle) says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deviation {
    /// An external or LoadBalancer address refuses on every port that no Service has there. The address is bound on this
    /// host, whose own sockets would answer otherwise (kube-proxy refuses, too: kubernetes#72236).
    UnknownPortRefused,
    /// Where no Pod network is known, this host's own connections to a ClusterIP are masqueraded all the same. Their source
    /// is the ClusterIP, which is bound on this host and on every other (kube-proxy does so, too).
    HostMasqueraded,
    /// Under external traffic policy Local with session affinity, a Pod or this host stays with its endpoint as long as
    /// that is there, whatever the timeout. Verdicts do not show it: each client has one of those that are possible.
    /// (`ServerConfig::by_source` has the reason.)
    InsideAffinityWithoutTimeout,
    /// With session affinity a client stays with its endpoint per address and port that it talks to, as the kernel keeps
    /// it, and not per Service port (so does kube-proxy's IPVS mode). Verdicts do not show it, either.
    AffinityPerSocket,
    /// An address among the ServiceCIDRs that no Service has drops nothing: the packet goes where routing sends it, as in
    /// kube-proxy's IPVS mode.
    Unallocated,
}

impl Deviation {
    /// All of them.
    pub const ALL: [Deviation; 5] = [
        Self::UnknownPortRefused,
        Self::HostMasqueraded,
        Self::InsideAffinityWithoutTimeout,
        Self::AffinityPerSocket,
        Self::Unallocated,
    ];

    /// Whether the set of verdicts on a packet shows it.
    pub fn shows(self) -> bool {
        match self {
            Self::UnknownPortRefused | Self::HostMasqueraded | Self::Unallocated => true,
            Self::InsideAffinityWithoutTimeout | Self::AffinityPerSocket => false,
        }
    }

    /// Stable name for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPortRefused => "UnknownPortRefused",
            Self::HostMasqueraded => "HostMasqueraded",
            Self::InsideAffinityWithoutTimeout => "InsideAffinityWithoutTimeout",
            Self::AffinityPerSocket => "AffinityPerSocket",
            Self::Unallocated => "Unallocated",
        }
    }
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What this backend does with a packet of which the table says `verdicts`, and the deviation if there is one. `own` are the
/// node's addresses on other links.
pub fn expected(
    packet: &Packet,
    intent: &Intent,
    own: &BTreeSet<IpAddr>,
    verdicts: BTreeSet<Verdict>,
) -> (BTreeSet<Verdict>, Option<Deviation>) {
    let is_bound = || {
        !own.contains(&packet.destination)
            && intent.frontends().any(|(frontend, _)| match frontend {
                Frontend::Vip { ip, .. } => *ip == packet.destination,
                Frontend::NodePort { .. } => false,
            })
    };
    let unallocated = is_unallocated(packet, intent);
    if unallocated || verdicts.contains(&Verdict::Untouched) {
        return if is_bound() {
            ([Verdict::Rejected].into(), Some(Deviation::UnknownPortRefused))
        } else if unallocated {
            ([Verdict::Untouched].into(), Some(Deviation::Unallocated))
        } else {
            (verdicts, None)
        };
    }
    let family = berth_model::IpFamily::of(packet.destination);
    if !packet.from_this_node || intent.settings().knows_pods(family) {
        return (verdicts, None);
    }
    let masqueraded: BTreeSet<Verdict> = verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::Translated { target, .. } => Verdict::Translated {
                target: *target,
                masqueraded: true,
            },
            Verdict::Untouched | Verdict::Rejected | Verdict::Dropped | Verdict::Untranslated => *verdict,
        })
        .collect();
    let deviation = (masqueraded != verdicts).then_some(Deviation::HostMasqueraded);
    (masqueraded, deviation)
}

/// Whether the packet is for an address that ClusterIPs are given from, and for no frontend there.
fn is_unallocated(packet: &Packet, intent: &Intent) -> bool {
    let mut given = intent.settings().service_cidrs.iter().flatten();
    let vip = intent.get(&packet.vip()).is_some();
    !vip && !packet.to_this_node
        && !intent.is_cluster_ip(packet.destination)
        && given.any(|net| net.contains(&packet.destination))
}
