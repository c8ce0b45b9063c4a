// SPDX-License-Identifier: Apache-2.0
//! Which endpoint a connection gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::SessionAffinity;

use super::{Recent, RelayIntent};
use crate::Target;

#[cfg(test)]
mod tests;

/// How much a balancer remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients whose endpoint is remembered. Of more, the one that came last longest ago is forgotten.
    pub clients: usize,
    /// How long an endpoint that refused gets no connections but for want of others.
    pub rest: Duration,
}

impl Default for Limits {
    /// 65,536 clients, some 10 MB at most; 10 s, in which a readiness probe at its default period notices a dead Pod.
    fn default() -> Self {
        Self {
            clients: 65_536,
            rest: Duration::from_secs(10),
        }
    }
}

/// The balancer of one relay: a state machine. Time only ever grows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balancer {
    limits: Limits,
    endpoints: BTreeSet<Target>,
    /// The endpoint that round robin gave last. It need not be there any more.
    last: Option<Target>,
    /// How long a client is remembered after its last connection.
    stickiness: Option<Duration>,
    clients: Recent<IpAddr, Target>,
    /// Endpoints that refused, each with the end of its rest. Never all.
    resting: BTreeMap<Target, Duration>,
}

impl Balancer {
    /// A balancer without endpoints.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            endpoints: BTreeSet::new(),
            last: None,
            stickiness: None,
            clients: Recent::new(limits.clients),
            resting: BTreeMap::new(),
        }
    }

    /// Takes over the endpoints and the affinity that are wished for.
    ///
    /// * Round robin goes on behind the endpoint that it gave last, whether or not that one is still there: no endpoint
    ///   that stays is passed over or served twice because others came or went.
    /// * Clients of an endpoint that is gone are forgotten, and so is its rest. Without affinity all clients are. A
    ///   new timeout counts at once for those that the old one had not forgotten.
    /// * If everyone who is left rests, nobody does.
    pub fn update(&mut self, wish: &RelayIntent, now: Duration) {
        self.wake(now);
        self.endpoints = wish.targets.iter().copied().collect();
        self.stickiness = match wish.affinity {
            SessionAffinity::None => None,
            SessionAffinity::ClientIp { timeout_seconds } => {
                Some(Duration::from_secs(timeout_seconds.into()))
            }
        };
        let (endpoints, sticky) = (&self.endpoints, self.stickiness.is_some());
        self.clients
            .extract(|_, target| !sticky || !endpoints.contains(target));
        self.resting.retain(|target, _| endpoints.contains(target));
        if self.resting.len() == self.endpoints.len() {
            self.resting.clear();
        }
    }

    /// The endpoint for a new connection of this client; `None` if there is no endpoint.
    ///
    /// * A client whose last connection came less than the timeout ago gets the same endpoint, unless that rests.
    /// * Anybody else gets the next endpoint in order that does not rest. Only this moves the round robin.
    pub fn pick(&mut self, client: IpAddr, now: Duration) -> Option<Target> {
        self.wake(now);
        match self.bound(client, now) {
            Some(target) => {
                self.clients.touch(&client, now);
                Some(target)
            }
            None => self.next(client, now, &BTreeSet::new()),
        }
    }

    /// The endpoint to try after the ones that were `tried` for this connection did not answer: the next in order among
    /// the others, whatever the affinity; the client stays with it from now on. `None` if all were tried.
    pub fn retry(&mut self, client: IpAddr, tried: &BTreeSet<Target>, now: Duration) -> Option<Target> {
        self.wake(now);
        self.next(client, now, tried)
    }

    /// Notes that an endpoint refused a connection. It rests for a while, if another one that does not is left.
    pub fn refused(&mut self, target: Target, now: Duration) {
        self.wake(now);
        let others = self.endpoints.iter().filter(|other| **other != target);
        let left = others.filter(|other| !self.resting.contains_key(*other)).count();
        if left > 0 && self.endpoints.contains(&target) {
            self.resting.insert(target, now + self.limits.rest);
        }
    }

    /// Everything that [`Balancer::pick`] may give this client, now or after picks of others.
    pub fn choices(&self, client: IpAddr, now: Duration) -> BTreeSet<Target> {
        let rests = |target: &Target| self.resting.get(target).is_some_and(|until| *until > now);
        match self.known(client, now).filter(|target| !rests(target)) {
            Some(target) => [target].into(),
            None => self
                .endpoints
                .iter()
                .copied()
                .filter(|target| !rests(target))
                .collect(),
        }
    }

    /// How many clients are remembered.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many endpoints rest.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Ends the rests that are over, and forgets the clients that stayed away.
    fn wake(&mut self, now: Duration) {
        self.resting.retain(|_, until| *until > now);
        if let Some(known_since) = self.stickiness.and_then(|timeout| now.checked_sub(timeout)) {
            while self.clients.pop_unused_since(known_since).is_some() {}
        }
    }

    /// The endpoint that the client had, within the timeout.
    fn known(&self, client: IpAddr, now: Duration) -> Option<Target> {
        let timeout = self.stickiness?;
        let used = self.clients.last_use(&client)?;
        (now < used + timeout).then(|| self.clients.get(&client).copied())?
    }

    fn bound(&self, client: IpAddr, now: Duration) -> Option<Target> {
        self.known(client, now)
            .filter(|target| !self.resting.contains_key(target))
    }

    fn next(&mut self, client: IpAddr, now: Duration, tried: &BTreeSet<Target>) -> Option<Target> {
        let behind = self.last.and_then(|last| {
            let above = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            self.endpoints.range(above).next().copied()
        });
        let first = behind.or_else(|| self.endpoints.first().copied())?;
        let round = self.endpoints.range(first..).chain(self.endpoints.range(..first));
        let mut untried = round.copied().filter(|target| !tried.contains(target));
        let fresh = untried.clone().find(|target| !self.resting.contains_key(target));
        let target = fresh.or_else(|| untried.next())?;
        self.last = Some(target);
        if self.stickiness.is_some() {
            self.clients.insert(client, target, now);
        }
        Some(target)
    }
}
