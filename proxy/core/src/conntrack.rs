// SPDX-License-Identifier: Apache-2.0
//! Which tracked flows must be forgotten, as values. UDP only: a UDP flow has no end of its own, so a
//! client that keeps its source port would go on reaching an endpoint that left, or the black hole that
//! was there before the first endpoint came.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{IpFamily, Protocol};

use crate::nft::{Installed, Wishes};
use crate::{Frontend, Target, Touched};

/// Which endpoints served each UDP frontend when flows were last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    serving: BTreeMap<Frontend, Arc<[Target]>>,
}

impl Flows {
    /// What an update of the intent means for tracked flows. A frontend's flows are looked at when an
    /// endpoint left the serving ones, when the first one came, when the frontend went, and when the
    /// frontend is not known yet (which is every one after a restart).
    pub fn changed(&mut self, touched: &Touched, intent: &impl Wishes) -> StaleFlows {
        let mut stale = StaleFlows::default();
        let udp = |frontend: &&Frontend| frontend.protocol() == Protocol::Udp;
        for frontend in touched.frontends.iter().filter(udp) {
            let new = intent.get(frontend).map(|intent| Arc::clone(&intent.serving));
            let old = match &new {
                Some(new) => self.serving.insert(*frontend, Arc::clone(new)),
                None => self.serving.remove(frontend),
            };
            let looked_at = match (&old, &new) {
                (None, None) => false,
                (None, Some(_)) | (Some(_), None) => true,
                (Some(old), Some(new)) => {
                    (old.is_empty() && !new.is_empty()) || old.iter().any(|target| !new.contains(target))
                }
            };
            if looked_at {
                stale
                    .allowed
                    .insert(*frontend, new.unwrap_or_else(|| Arc::new([])));
            }
        }
        stale
    }
}

/// A tracked UDP flow, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What the client addressed.
    pub destination: Target,
    /// Where answers come from.
    pub replies_from: Target,
    /// Whether the destination was translated.
    pub translated: bool,
}

/// The UDP frontends whose flows must be looked at, each with the endpoints flows may stay with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaleFlows {
    /// A flow to the key is stale unless its replies come from one of these. Empty for a frontend
    /// without serving endpoints, whose flows are all stale.
    pub allowed: BTreeMap<Frontend, Arc<[Target]>>,
}

impl StaleFlows {
    /// UDP frontends that the kernel holds and nobody claims: their Services went while nobody watched,
    /// and no update will ever touch them.
    pub fn unclaimed(installed: &Installed, intent: &impl Wishes) -> Self {
        let unclaimed = installed
            .frontends()
            .into_iter()
            .filter(|frontend| frontend.protocol() == Protocol::Udp && intent.get(frontend).is_none());
        Self {
            allowed: unclaimed.map(|frontend| (frontend, Arc::from([]))).collect(),
        }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }

    /// Adds what another update asks for; the later one knows better.
    pub fn merge(&mut self, later: StaleFlows) {
        self.allowed.extend(later.allowed);
    }

    /// Whether a tracked flow is stale. `own` are the addresses of this machine, which tell a flow to a node
    /// port from one that only passes through to the same port of another host; where they are not known,
    /// only a translated flow is surely a node port's, and one that is not stays.
    pub fn is_stale_flow(&self, flow: &Flow, own: Option<&BTreeSet<IpAddr>>) -> bool {
        let protocol = Protocol::Udp;
        let Flow {
            destination: Target { ip, port },
            replies_from,
            translated,
        } = *flow;
        let to_node = own.map_or(translated, |own| own.contains(&ip));
        let family = IpFamily::of(ip);
        let vip = Frontend::Vip { ip, protocol, port };
        let node_port = Frontend::NodePort {
            family,
            protocol,
            port,
        };
        self.is_stale(&vip, replies_from) || (to_node && self.is_stale(&node_port, replies_from))
    }

    /// Whether a tracked flow to this frontend, whose replies come from `replies_from`, is stale.
    pub fn is_stale(&self, frontend: &Frontend, replies_from: Target) -> bool {
        self.allowed
            .get(frontend)
            .is_some_and(|allowed| !allowed.contains(&replies_from))
    }
}

#[cfg(test)]
mod tests;
