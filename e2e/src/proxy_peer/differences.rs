// SPDX-License-Identifier: Apache-2.0
//! In what Berth and kube-proxy are known to differ, by name, with the reason; everything else that differs is a fault.
//! Pure.

use std::fmt;

use super::answer::{Outcome, Outcomes};
use super::compare::Pair;
use super::launch::Proxy;
use super::scenario::{Aim, Packet};
use super::world::{Origin, Site};

/// A known difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// A ClusterIP by a port that its Service does not have.
    OtherPortOfClusterIp,
    /// An address of the Service range that no Service has.
    UnallocatedClusterIp,
    /// A node port of 127.0.0.1.
    LoopbackNodePort,
    /// An external or load-balancer address of a Service without endpoints, asked by the node itself.
    NoEndpointsFromHost,
    /// A load-balancer address of a Service without endpoints, asked by somebody whom its source ranges leave out.
    RangesBeforeRefusal,
    /// A Pod of another node that comes to itself by way of this node.
    FarHairpin,
    /// A node port of ::1, under external policy Local without an endpoint here.
    SilenceOnLoopback,
}

impl Difference {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OtherPortOfClusterIp,
        Self::UnallocatedClusterIp,
        Self::LoopbackNodePort,
        Self::NoEndpointsFromHost,
        Self::RangesBeforeRefusal,
        Self::FarHairpin,
        Self::SilenceOnLoopback,
    ];

    /// Why it is so, and why it stays.
    pub fn reason(self) -> &'static str {
        match self {
            Self::OtherPortOfClusterIp => {
                "iptables mode, kube-proxy's and Berth's, has no rule for it and sends the packet on; \
                 Berth in nftables mode refuses, as kube-proxy's nftables mode does"
            }
            Self::UnallocatedClusterIp => {
                "iptables mode, kube-proxy's and Berth's, knows addresses of Services and no ranges, and sends the \
                 packet on; Berth in nftables mode drops it, as kube-proxy's nftables mode does"
            }
            Self::LoopbackNodePort => {
                "kube-proxy's iptables mode sets route_localnet and serves node ports of 127.0.0.1; \
                 Berth does not, as kube-proxy's nftables mode does not"
            }
            Self::NoEndpointsFromHost => {
                "kube-proxy's iptables mode refuses these on input and forward only, so that a packet of the node's \
                 own is sent on; Berth refuses it, as kube-proxy's nftables mode does"
            }
            Self::RangesBeforeRefusal => {
                "kube-proxy's iptables mode refuses for want of endpoints before it looks at source ranges; Berth \
                 tells those left out nothing, as kube-proxy's nftables mode does"
            }
            Self::FarHairpin => {
                "kube-proxy's iptables mode masquerades a packet that an endpoint sends to itself, wherever it runs; \
                 Berth only for endpoints of its own node, as kube-proxy's nftables mode does, and the reply to a Pod \
                 of another node that asks this one is lost"
            }
            Self::SilenceOnLoopback => {
                "kube-proxy's iptables mode drops by the node port's number on every address of the node, though it \
                 serves none on ::1; Berth leaves loopback addresses alone, as kube-proxy's nftables mode does"
            }
        }
    }

    /// Whether it is to be seen between these two.
    pub fn concerns(self, Pair { ours, peer }: Pair) -> bool {
        match (ours, peer) {
            (Proxy::Berth, Proxy::KubeProxyIptables(_)) => true,
            (Proxy::Berth, Proxy::BerthIptables(_)) => {
                matches!(self, Self::UnallocatedClusterIp | Self::OtherPortOfClusterIp)
            }
            // Both send on what has no rule.
            (Proxy::BerthIptables(_), Proxy::KubeProxyIptables(_)) => {
                !matches!(self, Self::UnallocatedClusterIp | Self::OtherPortOfClusterIp)
            }
            (
                Proxy::Berth
                | Proxy::BerthIptables(_)
                | Proxy::BerthIpvs
                | Proxy::KubeProxyNftables
                | Proxy::KubeProxyIptables(_)
                | Proxy::KubeProxyIpvs,
                _,
            ) => false,
        }
    }

    /// Whether this and nothing else is what a packet shows. Both sides have to be as expected.
    pub fn explains(self, packet: &Packet, pair: Pair, ours: &Outcomes, theirs: &Outcomes) -> bool {
        let only = |outcomes: &Outcomes, outcome: Outcome| *outcomes == Outcomes::from([outcome]);
        self.concerns(pair)
            && match self {
                Self::OtherPortOfClusterIp => {
                    packet.aim == Aim::ClusterIpOtherPort
                        && only(ours, Outcome::Refused)
                        && only(theirs, Outcome::Untouched)
                }
                Self::UnallocatedClusterIp => {
                    packet.aim == Aim::UnallocatedClusterIp
                        && only(ours, Outcome::Dropped)
                        && only(theirs, Outcome::Untouched)
                }
                Self::LoopbackNodePort => {
                    packet.aim == Aim::NodePortOnLoopback
                        && packet.origin == Origin::Host
                        && packet.to.is_ipv4()
                        && only(ours, Outcome::Refused)
                        && theirs.iter().all(Outcome::is_answer)
                }
                Self::NoEndpointsFromHost => {
                    matches!(packet.aim, Aim::ExternalIp | Aim::LoadBalancer)
                        && packet.origin == Origin::Host
                        && only(ours, Outcome::Refused)
                        && only(theirs, Outcome::Untouched)
                }
                Self::RangesBeforeRefusal => {
                    // Of the node's own packets it refuses none for want of endpoints, as above.
                    let from_host = packet.origin == Origin::Host && only(theirs, Outcome::Untouched);
                    packet.aim == Aim::LoadBalancer
                        && only(ours, Outcome::Dropped)
                        && (from_host || only(theirs, Outcome::Refused))
                }
                Self::FarHairpin => {
                    let (itself, others) = parted(theirs);
                    packet.origin == Origin::FarPod
                        && ours.contains(&Outcome::Dropped)
                        && itself
                        && without_drops(ours) == without_drops(&others)
                }
                Self::SilenceOnLoopback => {
                    packet.aim == Aim::NodePortOnLoopback
                        && packet.to.is_ipv6()
                        && only(ours, Outcome::Refused)
                        && only(theirs, Outcome::Dropped)
                }
            }
    }
}

/// Whether the Pod that far Pods' packets come from answers itself, and what else came of them.
fn parted(outcomes: &Outcomes) -> (bool, Outcomes) {
    let by_itself = |outcome: &Outcome| match outcome {
        Outcome::Answered(endpoint, _) => endpoint.starts_with(&format!("{}:", Site::FarA.name())),
        Outcome::Refused | Outcome::Dropped | Outcome::Untouched | Outcome::Other(_) => false,
    };
    let others = outcomes.iter().filter(|outcome| !by_itself(outcome));
    (outcomes.iter().any(by_itself), others.cloned().collect())
}

/// A Pod whose packets reach another one of its own host with its own address as the source hears nothing either.
fn without_drops(outcomes: &Outcomes) -> Outcomes {
    let answers = outcomes.iter().filter(|outcome| **outcome != Outcome::Dropped);
    answers.cloned().collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.reason())
    }
}
