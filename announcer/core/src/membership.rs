// SPDX-License-Identifier: Apache-2.0
//! Which announcers live, by heartbeats; and whether this one may be an announcer at all.
//!
//! Every announcer sends a heartbeat to every address of every node each interval. A peer that is silent
//! for `dead_after` is dead; one that says that it leaves is gone at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use berth_model::NodeName;

use crate::Moment;
use crate::wire::heartbeat::{Heartbeat, Phase, Reach};

#[cfg(test)]
mod tests;
mod timing;

pub use timing::{Timing, TimingError};

/// Who this process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its node.
    pub node: NodeName,
    /// Random, new at each start.
    pub instance: u64,
    /// Microseconds since the epoch at the start.
    pub incarnation: u64,
}

/// Heartbeats sent while listening for another announcer of the same name: at 20 % loss on both ways, question
/// and answer fail together with 0.36 each time, so all five with 0.006.
const JOINING_INTERVALS: u32 = 5;
/// Copies of the farewell: the loss of all is as unlikely as for joining.
const FAREWELLS: u32 = 3;

/// Another announcer lives for the node that this one was to be the announcer of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("another announcer (instance {instance:016x}, at {from}) is running for node {node}")]
pub struct NameTaken {
    /// The node.
    pub node: NodeName,
    /// The other instance.
    pub instance: u64,
    /// Where it sends from.
    pub from: SocketAddr,
}

/// Why a heartbeat changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// It is our own, come back.
    Own,
    /// The cluster has no such node.
    UnknownNode,
    /// A later one of the same sender has come before it, or the same one by another way.
    Repeated,
    /// An older or a joining instance of a node whose announcer lives.
    OtherInstance,
}

impl Ignored {
    /// The stable short form for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::UnknownNode => "unknown_node",
            Self::Repeated => "repeated",
            Self::OtherInstance => "other_instance",
        }
    }
}

/// A heartbeat to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// To whom.
    pub to: Vec<Destination>,
    /// What.
    pub heartbeat: Heartbeat,
}

/// Where a heartbeat goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// To the heartbeat port of a node's address.
    Node(IpAddr),
    /// Back to where a heartbeat came from.
    Sender(SocketAddr),
}

/// Another node's announcer.
#[derive(Clone, Debug)]
struct Peer {
    instance: u64,
    incarnation: u64,
    sequence: u64,
    heard: Moment,
    phase: Phase,
    reach: Reach,
    alive: bool,
    /// The instance last heard joining: this one, or a successor that does not count yet.
    joining: Option<u64>,
}

impl Peer {
    fn is_candidate(&self) -> bool {
        self.alive && self.phase == Phase::Established
    }

    /// Whether the instance that a heartbeat comes from is known, as established or joining.
    fn foretells(&self, heartbeat: &Heartbeat) -> bool {
        self.instance == heartbeat.instance || self.joining == Some(heartbeat.instance)
    }
}

/// The state of this announcer among its peers.
#[derive(Debug)]
pub struct Membership {
    identity: Identity,
    timing: Timing,
    phase: Phase,
    phase_since: Moment,
    farewells: u32,
    sequence: u64,
    reach: Reach,
    nodes: BTreeMap<NodeName, Vec<IpAddr>>,
    peers: BTreeMap<NodeName, Peer>,
    next_heartbeat: Moment,
    polled: Moment,
    outgoing: Vec<Outgoing>,
    changes: Vec<Change>,
    taken: Option<NameTaken>,
}

/// A change among the candidates, for logs and for a new election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This announcer can own addresses from now on.
    Established,
    /// This announcer did not run for so long that others have taken it for dead: it joins anew.
    Stalled(Duration),
    /// This announcer can reach the LAN again after it could not: it joins anew.
    Reconnected,
    /// A peer that was heard joining can own addresses from now on.
    Appeared(NodeName),
    /// A peer is heard first when it can own addresses already: it may have announced the same ones as we while
    /// neither heard the other.
    Discovered(NodeName),
    /// A peer that had fallen silent is heard again, and has run all the while: it may have announced the
    /// same addresses as we.
    Returned(NodeName),
    /// A peer has fallen silent.
    Died(NodeName),
    /// A peer has said farewell, starts anew, or is no node any more.
    Left(NodeName),
    /// A peer can reach other subnets than before.
    ReachChanged(NodeName),
}

impl Membership {
    /// Starts joining.
    pub fn new(identity: Identity, timing: Timing, now: Moment) -> Self {
        Self {
            identity,
            timing,
            phase: Phase::Joining,
            phase_since: now,
            farewells: 0,
            sequence: 0,
            reach: Reach::default(),
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            next_heartbeat: now,
            polled: now,
            outgoing: Vec::new(),
            changes: Vec::new(),
            taken: None,
        }
    }

    /// Whether the cluster has a node of this announcer's name. Peers do not count on one that is none.
    pub fn is_listed(&self) -> bool {
        self.nodes.contains_key(&self.identity.node)
    }

    /// Who this announcer is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The cluster's nodes and where to send heartbeats for them; peers of other names are forgotten.
    pub fn set_nodes(&mut self, nodes: BTreeMap<NodeName, Vec<IpAddr>>) {
        self.nodes = nodes;
        let gone: Vec<NodeName> = self
            .peers
            .keys()
            .filter(|name| !self.nodes.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            if self.peers.remove(&name).is_some_and(|peer| peer.is_candidate()) {
                self.changes.push(Change::Left(name));
            }
        }
    }

    /// What this node can announce; peers hear of a change at once.
    ///
    /// A node that gets its first carrying interface back and hears no peer was cut off with its peers alive,
    /// as likely as not: it listens again before it takes all their addresses.
    pub fn set_reach(&mut self, reach: Reach, now: Moment) {
        if self.reach == reach {
            return;
        }
        let back = self.reach.families.is_empty() && !reach.families.is_empty();
        let deaf = !self.is_alone() && !self.peers.values().any(|peer| peer.alive);
        self.reach = reach;
        self.next_heartbeat = self.next_heartbeat.min(now);
        if back && deaf && self.phase == Phase::Established {
            self.rejoin(now, Change::Reconnected);
        }
    }

    /// What this node can announce.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// The peers that can own addresses, with what they can reach.
    pub fn candidates(&self) -> impl Iterator<Item = (&NodeName, &Reach)> {
        let able = self.peers.iter().filter(|(_, peer)| peer.is_candidate());
        able.map(|(name, peer)| (name, &peer.reach))
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// What is to be sent since the last call.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Whether this announcer must give up.
    pub fn taken(&self) -> Option<&NameTaken> {
        self.taken.as_ref()
    }

    /// Whether the farewell has been said and nothing is left to do.
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Leaving && self.farewells == 0
    }

    /// Says farewell: peers take over when they hear it.
    pub fn leave(&mut self, now: Moment) {
        if self.phase != Phase::Leaving {
            // Nobody counts on an announcer that has not joined.
            self.farewells = if self.phase == Phase::Established {
                FAREWELLS
            } else {
                0
            };
            self.phase = Phase::Leaving;
            self.phase_since = now;
            self.next_heartbeat = now;
        }
    }

    /// When [`Self::poll`] has something to do next.
    pub fn next_deadline(&self) -> Option<Moment> {
        if self.is_gone() || self.taken.is_some() {
            return None;
        }
        let alive = self.peers.values().filter(|peer| peer.alive);
        let deaths = alive.map(|peer| peer.heard + self.timing.dead_after);
        let established = (self.phase == Phase::Joining).then(|| self.established_at());
        deaths.chain(established).chain([self.next_heartbeat]).min()
    }

    fn established_at(&self) -> Moment {
        self.phase_since + self.timing.interval * JOINING_INTERVALS
    }

    /// Does what has become due. The caller hands in what it has received before it calls.
    pub fn poll(&mut self, now: Moment) {
        self.notice_stall(now);
        self.polled = now;
        let dead_after = self.timing.dead_after;
        for (name, peer) in &mut self.peers {
            if peer.alive && now.since(peer.heard) >= dead_after {
                if peer.is_candidate() {
                    self.changes.push(Change::Died(name.clone()));
                }
                peer.alive = false;
            }
        }
        if self.phase == Phase::Joining && now >= self.established_at() {
            self.phase = Phase::Established;
            self.phase_since = now;
            self.next_heartbeat = now;
            self.changes.push(Change::Established);
        }
        if now >= self.next_heartbeat && !self.is_gone() && self.taken.is_none() {
            self.beat(now);
        }
    }

    /// A process that was not scheduled has not listened either: silence in that time proves nothing.
    fn notice_stall(&mut self, now: Moment) {
        let stalled = now.since(self.polled);
        if stalled < self.timing.dead_after / 2 {
            return;
        }
        let floor = now + self.timing.interval * 3 - self.timing.dead_after;
        for peer in self.peers.values_mut().filter(|peer| peer.alive) {
            peer.heard = peer.heard.max(floor);
        }
        if self.phase == Phase::Established && stalled >= self.timing.dead_after && !self.is_alone() {
            self.rejoin(now, Change::Stalled(stalled));
        }
    }

    fn rejoin(&mut self, now: Moment, why: Change) {
        self.phase = Phase::Joining;
        self.phase_since = now;
        self.next_heartbeat = now;
        self.changes.push(why);
    }

    /// Whether the cluster has no other node.
    fn is_alone(&self) -> bool {
        self.nodes.keys().all(|name| *name == self.identity.node)
    }

    fn beat(&mut self, now: Moment) {
        self.farewells = self.farewells.saturating_sub(1);
        self.next_heartbeat = now + self.timing.interval;
        // The own node's addresses too while joining: that is where an announcer of the same name listens.
        let joining = self.phase == Phase::Joining;
        let told = self
            .nodes
            .iter()
            .filter(|(name, _)| joining || **name != self.identity.node);
        let to: Vec<Destination> = told
            .flat_map(|(_, addresses)| addresses)
            .map(|address| Destination::Node(*address))
            .collect();
        self.send(to);
    }

    fn send(&mut self, to: Vec<Destination>) {
        self.sequence += 1;
        let heartbeat = Heartbeat {
            node: self.identity.node.clone(),
            instance: self.identity.instance,
            incarnation: self.identity.incarnation,
            sequence: self.sequence,
            phase: self.phase,
            reach: self.reach.clone(),
        };
        if !to.is_empty() {
            self.outgoing.push(Outgoing { to, heartbeat });
        }
    }

    /// Takes in a heartbeat.
    ///
    /// # Errors
    /// Why it changes nothing.
    pub fn receive(&mut self, now: Moment, from: SocketAddr, heartbeat: Heartbeat) -> Result<(), Ignored> {
        if heartbeat.node == self.identity.node {
            return self.receive_namesake(from, &heartbeat);
        }
        if !self.nodes.contains_key(&heartbeat.node) {
            return Err(Ignored::UnknownNode);
        }
        if let Some(peer) = self.peers.get_mut(&heartbeat.node)
            && let Err(ignored) = judge(peer, &heartbeat)
        {
            if heartbeat.phase == Phase::Joining {
                peer.joining = Some(heartbeat.instance);
            }
            return Err(ignored);
        }
        let known = self.peers.get(&heartbeat.node);
        let before = known.filter(|peer| peer.is_candidate());
        let change = match (before, heartbeat.phase) {
            (None, Phase::Established) => Some(appearance(known, &heartbeat)),
            (Some(_), Phase::Joining | Phase::Leaving) => Some(Change::Left(heartbeat.node.clone())),
            (Some(peer), Phase::Established) if !peer.foretells(&heartbeat) => {
                Some(Change::Discovered(heartbeat.node.clone()))
            }
            (Some(peer), Phase::Established) if peer.reach != heartbeat.reach => {
                Some(Change::ReachChanged(heartbeat.node.clone()))
            }
            (None, Phase::Joining | Phase::Leaving) | (Some(_), Phase::Established) => None,
        };
        self.changes.extend(change);
        let peer = Peer {
            instance: heartbeat.instance,
            incarnation: heartbeat.incarnation,
            sequence: heartbeat.sequence,
            heard: now,
            phase: heartbeat.phase,
            reach: heartbeat.reach,
            alive: heartbeat.phase != Phase::Leaving,
            joining: (heartbeat.phase == Phase::Joining).then_some(heartbeat.instance),
        };
        self.peers.insert(heartbeat.node, peer);
        Ok(())
    }

    /// A heartbeat under our own name: one of the two instances has to give up. An established one stays
    /// before a joining one, the older before the younger; the one that stays says so to the other.
    fn receive_namesake(&mut self, from: SocketAddr, other: &Heartbeat) -> Result<(), Ignored> {
        let ours = &self.identity;
        if other.instance == ours.instance {
            return Err(Ignored::Own);
        }
        // A predecessor that leaves does not stand in the way, nor does a leaver hold up its successor.
        if other.phase == Phase::Leaving || self.phase == Phase::Leaving {
            return Err(Ignored::OtherInstance);
        }
        let rank =
            |phase: Phase, incarnation: u64, instance: u64| (phase == Phase::Joining, incarnation, instance);
        let stays = rank(self.phase, ours.incarnation, ours.instance)
            < rank(other.phase, other.incarnation, other.instance);
        if stays {
            self.send(vec![Destination::Sender(from)]);
            return Err(Ignored::OtherInstance);
        }
        self.taken = Some(NameTaken {
            node: other.node.clone(),
            instance: other.instance,
            from,
        });
        Ok(())
    }
}

/// How an established peer that was no candidate comes into sight.
fn appearance(known: Option<&Peer>, heartbeat: &Heartbeat) -> Change {
    let node = heartbeat.node.clone();
    match known {
        Some(peer) if peer.alive && peer.foretells(heartbeat) => Change::Appeared(node),
        Some(peer) if peer.instance == heartbeat.instance => Change::Returned(node),
        Some(_) | None => Change::Discovered(node),
    }
}

/// Whether a heartbeat says something new about a known peer.
fn judge(peer: &Peer, heartbeat: &Heartbeat) -> Result<(), Ignored> {
    if heartbeat.instance == peer.instance {
        return if heartbeat.sequence > peer.sequence {
            Ok(())
        } else {
            Err(Ignored::Repeated)
        };
    }
    // A successor is believed once it is established. Until then it may be a second announcer that is
    // about to learn that its name is taken, and the living one keeps its addresses.
    let younger = (heartbeat.incarnation, heartbeat.instance) > (peer.incarnation, peer.instance);
    let succeeds = younger && heartbeat.phase == Phase::Established;
    if peer.alive && !succeeds {
        Err(Ignored::OtherInstance)
    } else {
        Ok(())
    }
}
