// SPDX-License-Identifier: Apache-2.0
//! The intent with every list replaced by its one relay: what the kernel has to do where relays do the rest. The
//! nftables backend's diff, stages and refusals carry it out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{IpFamily, PortName, ServiceKey, ServicePortName, SessionAffinity};

use super::demand::{list_of, relay_of};
use super::{Demand, Listening, Moved, Socket};
use crate::names::List;
use crate::nft::Wishes;
use crate::{
    Affinity, AffinityNumber, DropReason, Frontend, FrontendIntent, Intent, Masquerade, Outcome,
    RejectReason, Role, Target, Touched,
};

/// Where packets are steered, kept up to date frontend by frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    frontends: BTreeMap<Frontend, FrontendIntent>,
    cluster_ips: BTreeSet<IpAddr>,
}

impl Steering {
    /// Looks at what an update of the intent touched, and at what moved of the relays. Returns all that may differ from
    /// before.
    ///
    /// * A list with endpoints becomes the one relay that serves it. Where that does not listen, the frontend rejects
    ///   ([`RejectReason::NoRelay`]); a local list drops instead ([`DropReason::NoRelay`]), since the others may be served.
    /// * Refusals, drops and source ranges are the intent's. Nobody is masqueraded: relays come with an address of this
    ///   node anyway. Affinity is the balancers' business.
    /// * Every socket of a relay is guarded: it drops ([`DropReason::RelayPort`]) who addresses it himself. A frontend
    ///   of a Service on the same address and port comes first, and so does a node port of that number.
    pub fn update(
        &mut self,
        intent: &Intent,
        demand: &Demand,
        listening: &Listening,
        touched: &Touched,
        moved: &Moved,
    ) -> Touched {
        let mut frontends = touched.frontends.clone();
        frontends.extend(moved.relays.iter().flat_map(|relay| demand.frontends(relay)));
        let hidden = |frontend: &Frontend| hidden_by(frontend, listening);
        let hidden: Vec<Frontend> = frontends.iter().flat_map(hidden).collect();
        frontends.extend(hidden);
        frontends.extend(moved.sockets.iter().map(Socket::frontend));
        for frontend in &frontends {
            match decide(frontend, intent, listening) {
                Some(wish) => self.frontends.insert(*frontend, wish),
                None => self.frontends.remove(frontend),
            };
        }
        for ip in &touched.cluster_ips {
            if intent.is_cluster_ip(*ip) {
                self.cluster_ips.insert(*ip);
            } else {
                self.cluster_ips.remove(ip);
            }
        }
        Touched {
            frontends,
            cluster_ips: touched.cluster_ips.clone(),
            ..Touched::default()
        }
    }
}

fn decide(frontend: &Frontend, intent: &Intent, listening: &Listening) -> Option<FrontendIntent> {
    if let Some(wish) = intent.get(frontend) {
        return Some(steer(frontend, wish, listening));
    }
    let socket = socket_of(frontend)?;
    let claimed = intent.get(&node_port_of(frontend)).is_some();
    (listening.relay(&socket).is_some() && !claimed).then(|| guard(frontend))
}

impl Wishes for Steering {
    fn get(&self, frontend: &Frontend) -> Option<&FrontendIntent> {
        self.frontends.get(frontend)
    }

    fn frontends(&self) -> impl Iterator<Item = (&Frontend, &FrontendIntent)> {
        self.frontends.iter()
    }

    /// A Service without frontends needs no steering, and is asked about only where the kernel refused it.
    fn has_service(&self, service: &ServiceKey) -> bool {
        let mut owners = self.frontends.values().map(|wish| &wish.owner.service);
        owners.any(|owner| owner == service)
    }

    fn cluster_ips(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        let ips = self.cluster_ips.iter().copied();
        ips.filter(move |ip| IpFamily::of(*ip) == family)
    }

    fn local_endpoints(&self, _family: IpFamily) -> impl Iterator<Item = IpAddr> {
        std::iter::empty()
    }

    fn is_cluster_ip(&self, ip: IpAddr) -> bool {
        self.cluster_ips.contains(&ip)
    }

    fn is_local_endpoint(&self, _ip: IpAddr) -> bool {
        false
    }

    fn affinity_of(&self, _frontend: &Frontend, _outside: bool) -> Option<AffinityNumber> {
        None
    }

    fn affinity(&self, _number: AffinityNumber) -> Option<&Affinity> {
        None
    }

    fn affinities(&self) -> impl Iterator<Item = (AffinityNumber, &Affinity)> {
        std::iter::empty()
    }
}

fn steer(frontend: &Frontend, wish: &FrontendIntent, listening: &Listening) -> FrontendIntent {
    let relay = |list: List| listening.socket(&relay_of(frontend, wish, list));
    let to = |socket: Socket| -> Arc<[Target]> { Arc::new([socket.at]) };
    let outcome = match &wish.outcome {
        Outcome::Endpoints(_) => match relay(list_of(wish)) {
            Some(socket) => Outcome::Endpoints(to(socket)),
            None => Outcome::Reject(RejectReason::NoRelay),
        },
        refused @ (Outcome::Reject(_) | Outcome::Drop(_)) => refused.clone(),
    };
    let outside = wish.outside.as_ref().map(|outside| match outside {
        Outcome::Endpoints(_) => match relay(List::Local) {
            Some(socket) => Outcome::Endpoints(to(socket)),
            None => Outcome::Drop(DropReason::NoRelay),
        },
        refused @ (Outcome::Reject(_) | Outcome::Drop(_)) => refused.clone(),
    });
    let answering = [Some(&outcome), outside.as_ref()].into_iter().flatten();
    let serving = answering.flat_map(|outcome| match outcome {
        Outcome::Endpoints(targets) => targets.to_vec(),
        Outcome::Reject(_) | Outcome::Drop(_) => Vec::new(),
    });
    FrontendIntent {
        serving: serving.collect(),
        // What refuses everybody needs no second list.
        outside: outside.filter(|_| !matches!(outcome, Outcome::Reject(_))),
        outcome,
        masquerade: Masquerade::Never,
        affinity: SessionAffinity::None,
        ..wish.clone()
    }
}

/// What protects a relay's socket.
fn guard(frontend: &Frontend) -> FrontendIntent {
    FrontendIntent {
        owner: ServicePortName {
            service: ServiceKey::new("", ""),
            port: PortName::default(),
            protocol: frontend.protocol(),
        },
        role: Role::ExternalIp,
        outcome: Outcome::Drop(DropReason::RelayPort),
        here_only: false,
        outside: None,
        masquerade: Masquerade::Never,
        affinity: SessionAffinity::None,
        source_ranges: None,
        serving: Arc::new([]),
    }
}

fn socket_of(frontend: &Frontend) -> Option<Socket> {
    match frontend {
        Frontend::Vip { ip, protocol, port } => Some(Socket {
            protocol: *protocol,
            at: Target { ip: *ip, port: *port },
        }),
        Frontend::NodePort { .. } => None,
    }
}

fn node_port_of(frontend: &Frontend) -> Frontend {
    Frontend::NodePort {
        family: frontend.family(),
        protocol: frontend.protocol(),
        port: frontend.port(),
    }
}

/// The sockets whose guard depends on this node port.
fn hidden_by(frontend: &Frontend, listening: &Listening) -> Vec<Frontend> {
    match frontend {
        Frontend::Vip { .. } => Vec::new(),
        Frontend::NodePort {
            family,
            protocol,
            port,
        } => {
            let vip = |ip| Frontend::Vip {
                ip,
                protocol: *protocol,
                port: *port,
            };
            let ips = listening.addresses(*protocol, *port);
            ips.filter(|ip| IpFamily::of(*ip) == *family).map(vip).collect()
        }
    }
}
