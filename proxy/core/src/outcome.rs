// SPDX-License-Identifier: Apache-2.0
//! What is decided about a frontend, and what could not be done as wished: every refusal has a name.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{ServicePortName, SessionAffinity};
use ipnet::IpNet;

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
    /// User-space backend: the relay that would take the connection could not be opened.
    NoRelay,
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEndpoints => f.write_str("NoEndpoints"),
            Self::NoRelay => f.write_str("NoRelay"),
        }
    }
}

/// Why a frontend drops, rather than rejects: another node would have taken the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Traffic policy Local, and endpoints on other nodes only.
    NoLocalEndpoints,
    /// User-space backend: the relay for connections from outside could not be opened.
    NoRelay,
    /// User-space backend: a relay's own port, which only steered connections may reach.
    RelayPort,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLocalEndpoints => f.write_str("NoLocalEndpoints"),
            Self::NoRelay => f.write_str("NoRelay"),
            Self::RelayPort => f.write_str("RelayPort"),
        }
    }
}

/// What happens to a new connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of these, each with the same probability. Never empty.
    Endpoints(Arc<[Target]>),
    /// Refused at once: there is no endpoint anywhere.
    Reject(RejectReason),
    /// Left unanswered: there are endpoints, and none that this node may use.
    Drop(DropReason),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(targets) => {
                let targets: Vec<String> = targets.iter().map(Target::to_string).collect();
                f.write_str(&targets.join(", "))
            }
            Self::Reject(reason) => write!(f, "reject ({reason})"),
            Self::Drop(reason) => write!(f, "drop ({reason})"),
        }
    }
}

/// Where a connection comes from, as this node can tell. The classes are disjoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceClass {
    /// What [`Settings::pod_sources`](crate::Settings::pod_sources) tells: a Pod of this cluster. With none of a
    /// family, nobody is.
    Pod,
    /// From an address of this node that is not a Pod's.
    Host,
    /// From anywhere else.
    Outside,
}

impl SourceClass {
    /// All of them.
    pub const ALL: [SourceClass; 3] = [Self::Pod, Self::Host, Self::Outside];
}

/// Whose connections leave with the node's address. Connections that come back to the endpoint they started from
/// always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// Nobody's.
    Never,
    /// Everybody's.
    Always,
    /// Those that do not come from a Pod.
    NotPods,
    /// Those of this host.
    Host,
}

impl Masquerade {
    /// Whether it means connections from there.
    pub fn means(self, source: SourceClass) -> bool {
        match (self, source) {
            (Self::Never, _) | (Self::NotPods, SourceClass::Pod) => false,
            (Self::Host, SourceClass::Pod | SourceClass::Outside) => false,
            (Self::Always, _) | (Self::Host, SourceClass::Host) => true,
            (Self::NotPods, SourceClass::Host | SourceClass::Outside) => true,
        }
    }
}

impl fmt::Display for Masquerade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never masqueraded",
            Self::Always => "masqueraded",
            Self::NotPods => "masqueraded unless from a Pod",
            Self::Host => "masqueraded from this host",
        })
    }
}

/// Everything decided about one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendIntent {
    /// The Service port that answers.
    pub owner: ServicePortName,
    /// Why it answers here.
    pub role: Role,
    /// Where new connections go: everybody's, or if `outside` is set those of Pods and of this host.
    pub outcome: Outcome,
    /// Whether `outcome` is picked from this node's endpoints only (internal traffic policy Local); `outside` always is.
    pub here_only: bool,
    /// External traffic policy Local: where connections from outside go.
    pub outside: Option<Outcome>,
    /// Whose connections are masqueraded.
    pub masquerade: Masquerade,
    /// Whether connections of one client stay with one endpoint.
    pub affinity: SessionAffinity,
    /// Only sources in these networks are let in, disjoint and sorted; everybody else is dropped before anything
    /// else is looked at. `None`: everybody.
    pub source_ranges: Option<Arc<[IpNet]>>,
    /// Endpoints to which existing flows stay, UDP only (see [`crate::conntrack`]).
    pub serving: Arc<[Target]>,
}

impl FrontendIntent {
    /// Where connections from there go, and whether they are masqueraded on the way. Source ranges come first and
    /// are not looked at here.
    pub fn handling(&self, source: SourceClass) -> (&Outcome, bool) {
        let outcome = match (source, &self.outside) {
            (SourceClass::Outside, Some(outside)) => outside,
            (SourceClass::Outside, None) | (SourceClass::Pod | SourceClass::Host, _) => &self.outcome,
        };
        (outcome, self.masquerade.means(source))
    }

    /// Whether this source may come in.
    pub fn admits(&self, source: IpAddr) -> bool {
        let admitted = |ranges: &Arc<[IpNet]>| ranges.iter().any(|net| net.contains(&source));
        self.source_ranges.as_ref().is_none_or(admitted)
    }
}

impl fmt::Display for FrontendIntent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcome.fmt(f)?;
        if let Some(outside) = &self.outside {
            write!(f, "; from outside: {outside}")?;
        }
        if self.masquerade != Masquerade::Never {
            write!(f, "; {}", self.masquerade)?;
        }
        if let SessionAffinity::ClientIp { timeout_seconds } = self.affinity {
            write!(f, "; clients stay for {timeout_seconds} s")?;
        }
        if let Some(ranges) = &self.source_ranges {
            let ranges: Vec<String> = ranges.iter().map(IpNet::to_string).collect();
            write!(f, "; only from [{}]", ranges.join(", "))?;
        }
        Ok(())
    }
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
