// SPDX-License-Identifier: Apache-2.0
//! The announcer as a whole, without its sockets.
//!
//! The caller hands in what it has observed and when, calls [`Engine::poll`], and does what
//! [`Engine::take_outputs`] says, in that order. The engine is to be polled again at
//! [`Engine::next_deadline`] or after the next observation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use berth_model::{IpFamily, NodeName};

use crate::Moment;
use crate::election;
use crate::link::{Carriers, Link, Selection};
use crate::membership::{Change, Destination, Identity, Membership, Timing};
use crate::responder::{self, AnswerKind, DropReason};
use crate::schedule::Schedule;
use crate::wire::arp::Arp;
use crate::wire::ethernet::MacAddr;
use crate::wire::heartbeat::{Heartbeat, HeartbeatKey, Phase, Reach};
use crate::wire::ndp::{ALL_NODES, Advertisement};

mod output;

pub use output::{FrameKind, HeartbeatDrop, Output, WithdrawReason};

/// What does not change while an announcer runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who it is.
    pub identity: Identity,
    /// How fast it notices a death.
    pub timing: Timing,
    /// Which interfaces it may use.
    pub selection: Selection,
    /// What heartbeats are authenticated with.
    pub key: Option<HeartbeatKey>,
    /// The port to which heartbeats go.
    pub port: u16,
}

/// An address on an interface.
pub type Place = (IpAddr, u32);

/// The announcer of one node.
#[derive(Debug)]
pub struct Engine {
    options: Options,
    membership: Membership,
    carriers: Carriers,
    wanted: BTreeSet<IpAddr>,
    announced: BTreeMap<Place, Moment>,
    schedule: Schedule<Place>,
    /// Who owns what may have changed.
    stale: bool,
    /// Neighbours may have learned our addresses from somebody else.
    contested: bool,
    finished: bool,
    outputs: Vec<Output>,
}

impl Engine {
    /// An announcer that starts to join. Nodes and links must be set before it is polled first, or it joins an
    /// empty cluster.
    pub fn new(options: Options, now: Moment) -> Self {
        Self {
            membership: Membership::new(options.identity.clone(), options.timing, now),
            options,
            carriers: Carriers::default(),
            wanted: BTreeSet::new(),
            announced: BTreeMap::new(),
            schedule: Schedule::default(),
            stale: true,
            contested: false,
            finished: false,
            outputs: Vec::new(),
        }
    }

    /// The addresses that the cluster's announcers are to announce, all of them.
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.stale |= self.wanted != addresses;
        self.wanted = addresses;
    }

    /// The cluster's nodes and their addresses.
    pub fn set_nodes(&mut self, nodes: BTreeMap<NodeName, Vec<IpAddr>>) {
        let listed = self.is_listed();
        self.membership.set_nodes(nodes);
        self.stale |= listed != self.is_listed();
        self.note_changes();
    }

    /// This node's interfaces, all of them.
    pub fn set_links(&mut self, links: impl IntoIterator<Item = Link>, now: Moment) {
        let before = std::mem::replace(&mut self.carriers, Carriers::new(links, &self.options.selection));
        if before == self.carriers {
            return;
        }
        self.membership.set_reach(self.carriers.reach(), now);
        // Neighbours that have the old hardware address of an interface learn the new one.
        let moved: Vec<Place> = self
            .announced
            .keys()
            .filter(|(_, index)| before.mac(*index) != self.carriers.mac(*index))
            .copied()
            .collect();
        for place in moved {
            self.schedule.start(place, now);
        }
        self.stale = true;
    }

    /// A frame that came in on an interface.
    ///
    /// # Errors
    /// Why it is not answered.
    pub fn receive_frame(&mut self, interface: u32, frame: &[u8]) -> Result<(), DropReason> {
        let mac = self.carriers.mac(interface).ok_or(DropReason::WrongInterface)?;
        let announced = |address| self.announced.contains_key(&(address, interface));
        let answer = responder::respond(frame, mac, announced)?;
        let kind = match answer.kind {
            AnswerKind::ArpReply => FrameKind::ArpReply,
            AnswerKind::NeighborAdvertisement => FrameKind::NeighborAdvertisement,
        };
        self.outputs.push(Output::SendFrame {
            interface,
            kind,
            frame: answer.frame,
        });
        Ok(())
    }

    /// A datagram that came in on the heartbeat port.
    ///
    /// # Errors
    /// Why it changes nothing.
    pub fn receive_datagram(
        &mut self,
        now: Moment,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<(), HeartbeatDrop> {
        let heartbeat =
            Heartbeat::parse(datagram, self.options.key.as_ref()).map_err(HeartbeatDrop::Unreadable)?;
        let result = self.membership.receive(now, from, heartbeat);
        self.note_changes();
        self.send_heartbeats();
        result.map_err(HeartbeatDrop::Ignored)
    }

    /// Stops cleanly: the farewell first, then silence. [`Output::Gone`] tells the end.
    pub fn leave(&mut self, now: Moment) {
        self.membership.leave(now);
    }

    /// Does whatever is due.
    pub fn poll(&mut self, now: Moment) {
        if self.finished {
            return;
        }
        self.membership.poll(now);
        self.note_changes();
        self.send_heartbeats();
        self.finish();
        if self.stale {
            self.elect(now);
        }
        if std::mem::take(&mut self.contested) {
            for place in self.announced.keys() {
                self.schedule.start(*place, now);
            }
        }
        for (address, interface) in self.schedule.due(now) {
            self.speak_up(address, interface);
        }
    }

    /// When [`Self::poll`] is to be called next if nothing else happens.
    pub fn next_deadline(&self) -> Option<Moment> {
        let schedule = self.schedule.next_deadline();
        if self.finished {
            return None;
        }
        self.membership.next_deadline().into_iter().chain(schedule).min()
    }

    /// What is to be done, in order, since the last call.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// The addresses that this node owns, on which interfaces, and since when.
    pub fn announced(&self) -> &BTreeMap<Place, Moment> {
        &self.announced
    }

    /// The addresses announced on one interface.
    pub fn announced_on(&self, interface: u32) -> BTreeSet<IpAddr> {
        let here = self.announced.keys().filter(|(_, index)| *index == interface);
        here.map(|(address, _)| *address).collect()
    }

    /// The interfaces that can carry announcements.
    pub fn carriers(&self) -> &Carriers {
        &self.carriers
    }

    /// Where this announcer is in its life.
    pub fn phase(&self) -> Phase {
        self.membership.phase()
    }

    /// Whether the cluster has this announcer's node: without it nothing is announced.
    pub fn is_listed(&self) -> bool {
        self.membership.is_listed()
    }

    /// Who this announcer is.
    pub fn identity(&self) -> &Identity {
        self.membership.identity()
    }

    /// The peers that can own addresses.
    pub fn peers(&self) -> impl Iterator<Item = &NodeName> {
        self.membership.candidates().map(|(name, _)| name)
    }

    /// The node that owns an address as this one sees it.
    pub fn owner(&self, address: IpAddr) -> Option<&NodeName> {
        let able = self.membership.phase() == Phase::Established && self.membership.is_listed();
        let own = able.then(|| (&self.membership.identity().node, self.membership.reach()));
        let all: Vec<(&NodeName, &Reach)> = self.membership.candidates().chain(own).collect();
        let family = IpFamily::of(address);
        let able = |(_, reach): &&(&NodeName, &Reach)| reach.families.contains(&family);
        let on_link = |candidate: &&(&NodeName, &Reach)| able(candidate) && candidate.1.is_on_link(address);
        let near: Vec<&NodeName> = all.iter().filter(on_link).map(|(name, _)| *name).collect();
        if near.is_empty() {
            return election::owner(address, all.iter().filter(able).map(|(name, _)| *name));
        }
        election::owner(address, near)
    }

    fn note_changes(&mut self) {
        let changes = self.membership.take_changes();
        self.stale |= !changes.is_empty();
        self.contested |= changes
            .iter()
            .any(|change| matches!(change, Change::Returned(_) | Change::Discovered(_)));
        self.outputs.extend(changes.into_iter().map(Output::Membership));
    }

    fn send_heartbeats(&mut self) {
        for outgoing in self.membership.take_outgoing() {
            let datagram = outgoing.heartbeat.to_bytes(self.options.key.as_ref());
            for to in outgoing.to {
                let to = match to {
                    Destination::Node(ip) => SocketAddr::new(ip, self.options.port),
                    Destination::Sender(socket) => socket,
                };
                self.outputs.push(Output::SendHeartbeat {
                    to,
                    datagram: datagram.clone(),
                });
            }
        }
    }

    /// Ends the announcer when its name is taken or its farewell is said.
    fn finish(&mut self) {
        let end = match self.membership.taken() {
            Some(taken) => Output::NameTaken(taken.clone()),
            None if self.membership.is_gone() => Output::Gone,
            None => return,
        };
        self.finished = true;
        for place in self.announced.keys().copied().collect::<Vec<_>>() {
            self.withdraw(place, WithdrawReason::NotEstablished);
        }
        self.outputs.push(end);
    }

    /// Brings what is announced in line with who owns what.
    fn elect(&mut self, now: Moment) {
        // A leaver answers until it is gone, so that there is no gap before its successors speak up.
        if self.finished || self.membership.phase() == Phase::Leaving {
            return;
        }
        self.stale = false;
        let ours = &self.membership.identity().node;
        let owned = self
            .wanted
            .iter()
            .filter(|address| self.owner(**address) == Some(ours));
        let desired: BTreeSet<Place> = owned
            .flat_map(|address| {
                let places = self.carriers.for_address(*address).into_iter();
                places.map(|interface| (*address, interface))
            })
            .collect();
        let lost: Vec<Place> = self
            .announced
            .keys()
            .filter(|place| !desired.contains(place))
            .copied()
            .collect();
        for place in lost {
            self.withdraw(place, self.reason_against(place));
        }
        for place in desired {
            if self.announced.contains_key(&place) {
                continue;
            }
            self.announced.insert(place, now);
            self.schedule.start(place, now);
            let (address, interface) = place;
            self.outputs.push(Output::Announce { address, interface });
        }
    }

    fn reason_against(&self, (address, interface): Place) -> WithdrawReason {
        if !self.wanted.contains(&address) {
            WithdrawReason::Released
        } else if self.membership.phase() != Phase::Established {
            WithdrawReason::NotEstablished
        } else if !self.carriers.for_address(address).contains(&interface) {
            WithdrawReason::LinkLost
        } else {
            WithdrawReason::OwnedElsewhere
        }
    }

    fn withdraw(&mut self, place: Place, reason: WithdrawReason) {
        self.announced.remove(&place);
        self.schedule.stop(&place);
        let (address, interface) = place;
        self.outputs.push(Output::Withdraw {
            address,
            interface,
            reason,
        });
    }

    /// One round of unasked announcements: for IPv4 a request and a reply, because some neighbours take
    /// updates from one of the two only (MetalLB issue 172).
    fn speak_up(&mut self, address: IpAddr, interface: u32) {
        let Some(mac) = self.carriers.mac(interface) else {
            return;
        };
        let mut send = |kind, frame| {
            self.outputs.push(Output::SendFrame {
                interface,
                kind,
                frame,
            });
        };
        match address {
            IpAddr::V4(ip) => {
                let request = Arp::gratuitous_request(mac, ip).to_frame(MacAddr::BROADCAST);
                let reply = Arp::gratuitous_reply(mac, ip).to_frame(MacAddr::BROADCAST);
                send(FrameKind::GratuitousRequest, request);
                send(FrameKind::GratuitousReply, reply);
            }
            IpAddr::V6(ip) => {
                let frame =
                    Advertisement::unsolicited(mac, ip).to_frame(mac, MacAddr::of_ipv6_group(ALL_NODES));
                send(FrameKind::UnsolicitedAdvertisement, frame);
            }
        }
    }
}
