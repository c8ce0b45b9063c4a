// SPDX-License-Identifier: Apache-2.0
//! What is decided about a frontend, and what could not be done as wished: every refusal has a name.

use std::fmt;
use std::sync::Arc;

use berth_model::{ServiceKey, ServicePortName};

use crate::{Frontend, Target};

/// Why a Service answers on a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.ports[].nodePort`.
    NodePort,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "external IP",
            Self::LoadBalancer => "LoadBalancer address",
            Self::NodePort => "node port",
        })
    }
}

/// Why a frontend rejects (ICMP port unreachable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RejectReason {
    /// No endpoint of the Service port can take a connection.
    NoEndpoints,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndpoints => f.write_str("NoEndpoints"),
        }
    }
}

/// What happens to a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of these, each with the same probability. Never empty.
    Endpoints(Arc<[Target]>),
    /// Refused at once.
    Reject(RejectReason),
}

/// Everything decided about one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendIntent {
    /// The Service port that answers.
    pub owner: ServicePortName,
    /// Why it answers here.
    pub role: Role,
    /// Where new connections go.
    pub outcome: Outcome,
    /// Whether every connection is masqueraded. A ClusterIP's connections from outside
    /// [`Settings::cluster_cidrs`] are masqueraded besides.
    pub masquerade: bool,
    /// Endpoints to which existing flows stay, UDP only (see [`crate::conntrack`]).
    pub serving: Arc<[Target]>,
}

/// Two Services claim one frontend; the oldest wins, then the smaller uid, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// What both claim.
    pub frontend: Frontend,
    /// Who answers.
    pub winner: ServicePortName,
    /// Who does not.
    pub loser: ServicePortName,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is claimed by {} and by {}: the older, {}, answers",
            self.frontend, self.winner, self.loser, self.winner
        )
    }
}

/// A wish of a Service that this version does not fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShortfallKind {
    /// `internalTrafficPolicy: Local` is treated as Cluster.
    InternalPolicyLocal,
    /// `externalTrafficPolicy: Local` is treated as Cluster: the client's address is not kept.
    ExternalPolicyLocal,
    /// `sessionAffinity: ClientIP` is treated as None.
    SessionAffinity,
    /// `loadBalancerSourceRanges` cannot be enforced, so the LoadBalancer address is not served at all.
    SourceRanges,
}

impl ShortfallKind {
    /// Stable name for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InternalPolicyLocal => "InternalPolicyLocal",
            Self::ExternalPolicyLocal => "ExternalPolicyLocal",
            Self::SessionAffinity => "SessionAffinity",
            Self::SourceRanges => "SourceRanges",
        }
    }
}

/// One unfulfilled wish.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shortfall {
    /// Whose wish.
    pub service: ServiceKey,
    /// Which wish.
    pub kind: ShortfallKind,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ShortfallKind::InternalPolicyLocal => {
                "spec.internalTrafficPolicy: Local is not supported yet and is treated as Cluster"
            }
            ShortfallKind::ExternalPolicyLocal => {
                "spec.externalTrafficPolicy: Local is not supported yet and is treated as Cluster; \
                 endpoints see the node's address"
            }
            ShortfallKind::SessionAffinity => {
                "spec.sessionAffinity: ClientIP is not supported yet; each connection is spread anew"
            }
            ShortfallKind::SourceRanges => {
                "spec.loadBalancerSourceRanges is not supported yet; the LoadBalancer address is not \
                 served, so that nobody is let in who should not be"
            }
        };
        write!(f, "Service {}: {what}", self.service)
    }
}
