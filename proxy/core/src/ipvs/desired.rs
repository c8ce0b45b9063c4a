// SPDX-License-Identifier: Apache-2.0
//! What each socket should have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{IpFamily, SessionAffinity};
use ipnet::IpNet;

use super::Choice;
use super::names::SetName;
use super::objects::{Scheduler, ServerConfig, Socket};
use crate::{Frontend, FrontendIntent, Intent, Masquerade, Outcome, Target};

/// A server as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) config: ServerConfig,
    pub(super) targets: Arc<[Target]>,
}

/// A socket as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) sets: BTreeSet<SetName>,
    pub(super) sources: BTreeSet<IpNet>,
    pub(super) server: Spec,
    /// The server of Pods and this host, where it is another one.
    pub(super) inside: Option<Spec>,
}

/// Answers what is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desired<'a> {
    pub(super) intent: &'a Intent,
    pub(super) choice: &'a Choice<'a>,
}

impl Desired<'_> {
    /// The sockets of a frontend.
    pub(super) fn sockets_of(&self, frontend: &Frontend) -> Vec<Socket> {
        match *frontend {
            Frontend::Vip { ip, protocol, port } => vec![Socket { ip, protocol, port }],
            Frontend::NodePort {
                family,
                protocol,
                port,
            } => self
                .node_port_addresses(family)
                .map(|ip| Socket { ip, protocol, port })
                .collect(),
        }
    }

    /// Every socket that is wanted.
    pub(super) fn sockets(&self) -> BTreeSet<Socket> {
        let frontends = self.intent.frontends().map(|(frontend, _)| frontend);
        frontends.flat_map(|frontend| self.sockets_of(frontend)).collect()
    }

    /// What the socket should have. A Service address comes before a node port, as everywhere.
    pub(super) fn socket(&self, socket: &Socket) -> Option<Wanted> {
        let Socket { ip, protocol, port } = *socket;
        let vip = Frontend::Vip { ip, protocol, port };
        let node_port = || {
            let family = IpFamily::of(ip);
            let serves = self.node_port_addresses(family).any(|own| own == ip);
            let frontend = Frontend::NodePort {
                family,
                protocol,
                port,
            };
            serves.then(|| self.intent.get(&frontend)).flatten()
        };
        let intent = self.intent.get(&vip).or_else(node_port)?;
        Some(wanted(intent, self.choice.scheduler))
    }

    /// On which of the node's addresses node ports are served: never on loopback, which the kernel does not masquerade,
    /// nor on link-local ones, which exist once per link.
    fn node_port_addresses(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        let chosen = self.intent.settings().node_port_addresses.of(family);
        let own = self.choice.own.iter().copied();
        own.filter(move |ip| IpFamily::of(*ip) == family && is_reachable(ip))
            .filter(move |ip| chosen.is_none_or(|chosen| chosen.contains(ip)))
    }
}

fn is_reachable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !ip.is_unspecified() && !link_local
}

fn targets(outcome: &Outcome) -> Arc<[Target]> {
    match outcome {
        Outcome::Endpoints(targets) => Arc::clone(targets),
        // A server without destinations refuses; who is dropped does not get that far.
        Outcome::Reject(_) | Outcome::Drop(_) => Arc::new([]),
    }
}

fn is_drop(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Drop(_))
}

fn wanted(intent: &FrontendIntent, scheduler: Scheduler) -> Wanted {
    let (by_socket, by_mark) = match intent.affinity {
        SessionAffinity::None => (ServerConfig::spread(scheduler), ServerConfig::spread(scheduler)),
        SessionAffinity::ClientIp { timeout_seconds } => (
            ServerConfig::persistent(scheduler, timeout_seconds),
            ServerConfig::by_source(),
        ),
    };
    let outside = intent.outside.as_ref();
    let mut sets = BTreeSet::from([SetName::Sockets]);
    match (is_drop(&intent.outcome), outside.map(is_drop)) {
        (true, None | Some(true)) => sets.insert(SetName::Drop),
        (false, Some(true)) => sets.insert(SetName::DropOutside),
        (true | false, Some(false)) | (false, None) => false,
    };
    match intent.masquerade {
        Masquerade::Always => sets.insert(SetName::Masquerade),
        Masquerade::NotPods => sets.insert(SetName::MasqueradeForeign),
        // This host's connections always are (see `rules`).
        Masquerade::Host | Masquerade::Never => false,
    };
    if intent.source_ranges.is_some() {
        sets.insert(SetName::Ranged);
    }
    Wanted {
        sets,
        sources: intent
            .source_ranges
            .iter()
            .flat_map(|nets| nets.iter().copied())
            .collect(),
        server: Spec {
            config: by_socket,
            targets: targets(outside.unwrap_or(&intent.outcome)),
        },
        inside: outside.map(|_| Spec {
            config: by_mark,
            targets: targets(&intent.outcome),
        }),
    }
}
