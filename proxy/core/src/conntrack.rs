// SPDX-License-Identifier: Apache-2.0
//! Which tracked flows must be forgotten, as values. UDP only: a UDP flow has no end of its own, so a
//! client that keeps its source port would go on reaching an endpoint that left, or the black hole that
//! was there before the first endpoint came, or a load balancer that does not let it in any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use berth_model::{IpFamily, Protocol};
use ipnet::IpNet;

use crate::nft::{Installed, Wishes};
use crate::{Frontend, FrontendIntent, Target, Touched};

/// How each UDP frontend was served when flows were last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    known: BTreeMap<Frontend, Known>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    serving: Arc<[Target]>,
    sources: Option<Arc<[IpNet]>>,
}

impl Known {
    fn of(intent: &FrontendIntent) -> Self {
        Self {
            serving: Arc::clone(&intent.serving),
            sources: intent.source_ranges.clone(),
        }
    }

    /// Whether flows of before may be none of this.
    fn differs(&self, old: &Self) -> bool {
        let (old_serving, serving) = (&old.serving, &self.serving);
        let came = old_serving.is_empty() && !serving.is_empty();
        let left = || old_serving.iter().any(|target| !serving.contains(target));
        came || left() || (self.sources.is_some() && self.sources != old.sources)
    }
}

impl Flows {
    /// What an update of the intent means for tracked flows. A frontend's flows are looked at when an
    /// endpoint left the serving ones, when the first one came, when others are let in, when the frontend
    /// went, and when the frontend is not known yet (which is every one after a restart).
    pub fn changed(&mut self, touched: &Touched, intent: &impl Wishes) -> StaleFlows {
        let mut stale = StaleFlows::default();
        let udp = |frontend: &&Frontend| frontend.protocol() == Protocol::Udp;
        for frontend in touched.frontends.iter().filter(udp) {
            let new = intent.get(frontend).map(Known::of);
            let old = match &new {
                Some(new) => self.known.insert(*frontend, new.clone()),
                None => self.known.remove(frontend),
            };
            let looked_at = match (&old, &new) {
                (None, None) => false,
                (None, Some(_)) | (Some(_), None) => true,
                (Some(old), Some(new)) => new.differs(old),
            };
            if !looked_at {
                continue;
            }
            let (serving, sources) = new.map(|new| (new.serving, new.sources)).unwrap_or_default();
            stale.allowed.insert(*frontend, serving);
            stale.let_in.extend(sources.map(|sources| (*frontend, sources)));
        }
        stale
    }
}

/// A tracked UDP flow, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the client is.
    pub source: IpAddr,
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
    /// Those of them that let in only some sources, each with these: a flow from elsewhere is stale.
    pub let_in: BTreeMap<Frontend, Arc<[IpNet]>>,
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
            let_in: BTreeMap::new(),
        }
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty()
    }

    /// Adds what another update asks for; the later one knows better.
    pub fn merge(&mut self, later: StaleFlows) {
        self.let_in
            .retain(|frontend, _| !later.allowed.contains_key(frontend));
        self.let_in.extend(later.let_in);
        self.allowed.extend(later.allowed);
    }

    /// Whether a tracked flow is stale. `own` are the addresses of this machine, which tell a flow to a node
    /// port from one that only passes through to the same port of another host; where they are not known,
    /// only a translated flow is surely a node port's, and one that is not stays.
    pub fn is_stale_flow(&self, flow: &Flow, own: Option<&BTreeSet<IpAddr>>) -> bool {
        let protocol = Protocol::Udp;
        let Flow {
            source,
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
        self.shuts_out(&vip, source)
            || self.is_stale(&vip, replies_from)
            || (to_node && self.is_stale(&node_port, replies_from))
    }

    fn shuts_out(&self, frontend: &Frontend, source: IpAddr) -> bool {
        let sources = self.let_in.get(frontend);
        sources.is_some_and(|sources| !sources.iter().any(|net| net.contains(&source)))
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
