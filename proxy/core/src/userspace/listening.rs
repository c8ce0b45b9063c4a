// SPDX-License-Identifier: Apache-2.0
//! Where relays listen, and what has to change about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{IpFamily, Port, Protocol};

use super::{Demand, Relay, RelayIntent};
use crate::{Frontend, Target};

/// A socket on which a relay listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// Its protocol: TCP or UDP.
    pub protocol: Protocol,
    /// Its address and port.
    pub at: Target,
}

impl Socket {
    /// The socket as something that clients could address.
    pub fn frontend(&self) -> Frontend {
        Frontend::Vip {
            ip: self.at.ip,
            protocol: self.protocol,
            port: self.at.port,
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.at, self.protocol)
    }
}

/// One step towards what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayChange {
    /// Listen on this address, on a port that is free there.
    Open {
        /// Which relay. One that listens elsewhere moves, with its balancer.
        relay: Relay,
        /// Where.
        ip: IpAddr,
        /// What it should do.
        wish: RelayIntent,
    },
    /// A relay that was about to go, and still listens, is wanted again.
    Resume {
        /// Which relay.
        relay: Relay,
        /// Where it listens.
        socket: Socket,
        /// What it should do.
        wish: RelayIntent,
    },
    /// Go by other endpoints, or another affinity.
    Update {
        /// Which relay.
        relay: Relay,
        /// Where it listens.
        socket: Socket,
        /// What it should do.
        wish: RelayIntent,
    },
    /// No more connections are led there. It listens until the last one that was has arrived.
    Retire {
        /// Which relay.
        relay: Relay,
        /// Where it listens.
        socket: Socket,
    },
    /// Stop to listen. Connections stay.
    Close {
        /// Where.
        socket: Socket,
    },
}

impl fmt::Display for RelayChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { relay, ip, wish } => write!(f, "open {relay} on {ip}: {wish}"),
            Self::Resume { relay, socket, wish } => write!(f, "resume {relay} on {socket}: {wish}"),
            Self::Update { relay, socket, wish } => write!(f, "update {relay} on {socket}: {wish}"),
            Self::Retire { relay, socket } => write!(f, "retire {relay} on {socket}"),
            Self::Close { socket } => write!(f, "close {socket}"),
        }
    }
}

/// What has to change, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayPlan {
    /// The changes.
    pub changes: Vec<RelayChange>,
}

impl RelayPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Display for RelayPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

/// A relay that listens and is led to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Open {
    socket: Socket,
    wish: RelayIntent,
}

/// A socket to which nothing is led any more.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaving {
    relay: Relay,
    since: Duration,
}

/// What moved since somebody last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Relays that are led to elsewhere than before, or not any more.
    pub relays: BTreeSet<Relay>,
    /// Sockets that came or went.
    pub sockets: BTreeSet<Socket>,
}

/// The relays that listen, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    open: BTreeMap<Relay, Open>,
    leaving: BTreeMap<Socket, Leaving>,
    /// All sockets by port, each with its relay.
    ports: BTreeMap<(Protocol, Port), BTreeMap<IpAddr, Relay>>,
    moved: Moved,
}

impl Listening {
    /// What leads these relays (`None`: all) from here to the demand.
    ///
    /// * A wanted relay opens on its family's address, or resumes if it still listens there. Without an address of the
    ///   family it stays as it is.
    /// * One that listens on another address than its family's opens anew; the old socket goes as a retired one does.
    /// * What nobody needs retires. It is closed later, by [`Listening::closable`].
    pub fn plan(
        &self,
        demand: &Demand,
        relays: Option<&BTreeSet<Relay>>,
        addresses: &BTreeMap<IpFamily, IpAddr>,
    ) -> RelayPlan {
        let everyone = || demand.relays().map(|(relay, _)| relay).chain(self.open.keys());
        let relays: BTreeSet<&Relay> = match relays {
            Some(relays) => relays.iter().collect(),
            None => everyone().collect(),
        };
        let changes = relays.into_iter().filter_map(|relay| {
            let address = addresses.get(&relay.family).copied();
            self.change(relay, demand.get(relay), address)
        });
        RelayPlan {
            changes: changes.collect(),
        }
    }

    fn change(
        &self,
        relay: &Relay,
        wish: Option<&RelayIntent>,
        address: Option<IpAddr>,
    ) -> Option<RelayChange> {
        let (relay, open) = (relay.clone(), self.open.get(relay));
        let Some(wish) = wish.cloned() else {
            let socket = open?.socket;
            return Some(RelayChange::Retire { relay, socket });
        };
        let stays = open.filter(|open| address.is_none_or(|ip| ip == open.socket.at.ip));
        if let Some(open) = stays {
            let socket = open.socket;
            return (open.wish != wish).then_some(RelayChange::Update { relay, socket, wish });
        }
        let ip = address?;
        let there = |(socket, leaving): (&Socket, &Leaving)| {
            (leaving.relay == relay && socket.at.ip == ip).then_some(*socket)
        };
        Some(match self.leaving.iter().find_map(there) {
            Some(socket) => RelayChange::Resume { relay, socket, wish },
            None => RelayChange::Open { relay, ip, wish },
        })
    }

    /// Notes that a relay listens there now, and does that. Where it listened before is left.
    pub fn opened(&mut self, relay: Relay, socket: Socket, wish: RelayIntent, now: Duration) {
        self.leaving.remove(&socket);
        let port = self.ports.entry((socket.protocol, socket.at.port)).or_default();
        if port.insert(socket.at.ip, relay.clone()).is_none() {
            self.moved.sockets.insert(socket);
        }
        match self.open.insert(relay.clone(), Open { socket, wish }) {
            Some(before) if before.socket == socket => {}
            Some(before) => self.leave(relay, before.socket, now),
            None => {
                self.moved.relays.insert(relay);
            }
        }
    }

    /// Notes that a change was carried out. For [`RelayChange::Open`] that is [`Listening::opened`].
    pub fn apply(&mut self, change: &RelayChange, now: Duration) {
        match change {
            RelayChange::Open { .. } => {}
            RelayChange::Resume { relay, socket, wish } | RelayChange::Update { relay, socket, wish } => {
                self.opened(relay.clone(), *socket, wish.clone(), now);
            }
            RelayChange::Retire { relay, socket } => {
                self.open.remove(relay);
                self.leave(relay.clone(), *socket, now);
            }
            RelayChange::Close { socket } => {
                self.leaving.remove(socket);
                let key = (socket.protocol, socket.at.port);
                if let Some(port) = self.ports.get_mut(&key) {
                    port.remove(&socket.at.ip);
                    if port.is_empty() {
                        self.ports.remove(&key);
                    }
                }
                self.moved.sockets.insert(*socket);
            }
        }
    }

    fn leave(&mut self, relay: Relay, socket: Socket, since: Duration) {
        self.moved.relays.insert(relay.clone());
        self.leaving.insert(socket, Leaving { relay, since });
    }

    /// What moved since the last call.
    pub fn take_moved(&mut self) -> Moved {
        std::mem::take(&mut self.moved)
    }

    /// The sockets that may be closed: left for at least `delay`, and none of `held`, which are those that the kernel
    /// still leads to.
    pub fn closable(&self, held: &BTreeSet<Socket>, now: Duration, delay: Duration) -> RelayPlan {
        let due = |(_, leaving): &(&Socket, &Leaving)| leaving.since + delay <= now;
        let sockets = self.leaving.iter().filter(due).map(|(socket, _)| *socket);
        let unheld = sockets.filter(|socket| !held.contains(socket));
        RelayPlan {
            changes: unheld.map(|socket| RelayChange::Close { socket }).collect(),
        }
    }

    /// When a socket may be closed next, if one is left.
    pub fn next_close(&self, delay: Duration) -> Option<Duration> {
        self.leaving.values().map(|leaving| leaving.since + delay).min()
    }

    /// Where the relay listens, if connections may be led to it.
    pub fn socket(&self, relay: &Relay) -> Option<Socket> {
        Some(self.open.get(relay)?.socket)
    }

    /// The relay behind a socket, one that is left included.
    pub fn relay(&self, socket: &Socket) -> Option<&Relay> {
        let port = self.ports.get(&(socket.protocol, socket.at.port))?;
        port.get(&socket.at.ip)
    }

    /// The addresses on which some relay has this port, one that is left included.
    pub fn addresses(&self, protocol: Protocol, port: Port) -> impl Iterator<Item = IpAddr> {
        let port = self.ports.get(&(protocol, port));
        port.into_iter().flat_map(|ips| ips.keys().copied())
    }

    /// How many relays are led to.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.leaving.is_empty()
    }
}
