// SPDX-License-Identifier: Apache-2.0
//! What the kernel holds, as far as it is ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_model::{IpFamily, Port, Protocol};
use ipnet::IpNet;

use super::names::{FamilySet, SetName};
use super::objects::{Member, ServerConfig, ServerKey, Socket};
use super::plan::Change;
use crate::Target;

/// One endpoint behind a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// 0: no new connections.
    pub weight: u32,
    /// Connections when last counted; `None`: not since the weight became 0.
    pub connections: Option<u32>,
    /// Since when the weight is 0.
    pub draining: Option<Duration>,
}

impl Destination {
    /// One that takes connections.
    pub const OPEN: Destination = Destination {
        weight: 1,
        connections: None,
        draining: None,
    };
}

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How it picks.
    pub config: ServerConfig,
    /// From what.
    pub destinations: BTreeMap<Target, Destination>,
}

impl Server {
    /// Those that take new connections.
    pub fn open(&self) -> impl Iterator<Item = Target> {
        let open = self
            .destinations
            .iter()
            .filter(|(_, destination)| destination.weight > 0);
        open.map(|(target, _)| *target)
    }

    fn is_draining(&self) -> bool {
        self.destinations
            .values()
            .any(|destination| destination.weight == 0)
    }
}

/// All that one socket has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// The sets that it is in, but [`SetName::Inside`] and [`SetName::Sources`].
    pub sets: BTreeSet<SetName>,
    /// The networks that may come.
    pub sources: BTreeSet<IpNet>,
    /// The mark of its second server, while Pods and this host are led there.
    pub mark: Option<u32>,
    /// Its server.
    pub server: Option<Server>,
}

impl SocketState {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What of ours is in the kernel, both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    pub(super) sockets: BTreeMap<Socket, SocketState>,
    pub(super) marked: BTreeMap<(IpFamily, u32), Server>,
    /// Which socket's second server a mark leads to: the marks of `sockets`, turned round.
    pub(super) steering: BTreeMap<(IpFamily, u32), Socket>,
    pub(super) bound: BTreeSet<IpAddr>,
    /// [`SetName::Addresses`], [`SetName::Pods`] and [`SetName::Hairpin`].
    pub(super) members: BTreeSet<(SetName, Member)>,
    /// Servers that have a destination of weight 0 or that nothing leads to: the next plan looks at them.
    pub(super) waiting: BTreeSet<ServerKey>,
}

impl Installed {
    /// Whether nothing of ours is there.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.marked.is_empty() && self.bound.is_empty() && self.members.is_empty()
    }

    /// The virtual servers and their destinations of a family, counted.
    pub fn count(&self, family: IpFamily) -> usize {
        let ours = self.servers().filter(|(key, _)| key.family() == family);
        ours.map(|(_, server)| 1 + server.destinations.len()).sum()
    }

    /// How many elements each set has; those that have none are left out.
    pub fn set_sizes(&self) -> BTreeMap<FamilySet, usize> {
        let mut sizes = BTreeMap::new();
        let mut add = |family, set, count: usize| {
            if count > 0 {
                *sizes.entry(FamilySet(family, set)).or_default() += count;
            }
        };
        for (socket, state) in &self.sockets {
            let family = socket.family();
            state.sets.iter().for_each(|set| add(family, *set, 1));
            add(family, SetName::Sources, state.sources.len());
            add(family, SetName::Inside, state.mark.iter().count());
        }
        for (set, member) in &self.members {
            add(member.family(), *set, 1);
        }
        sizes
    }

    /// Every server.
    pub fn servers(&self) -> impl Iterator<Item = (ServerKey, &Server)> {
        let by_socket = self
            .sockets
            .iter()
            .filter_map(|(socket, state)| Some((ServerKey::Socket(*socket), state.server.as_ref()?)));
        let by_mark = self
            .marked
            .iter()
            .map(|((family, mark), server)| (mark_key(*family, *mark), server));
        by_socket.chain(by_mark)
    }

    /// What a socket has.
    pub fn socket(&self, socket: &Socket) -> Option<&SocketState> {
        self.sockets.get(socket)
    }

    /// Which socket's second server each mark leads to.
    pub fn steered(&self) -> impl Iterator<Item = ((IpFamily, u32), Socket)> {
        self.steering.iter().map(|(mark, socket)| (*mark, *socket))
    }

    /// All sockets.
    pub fn sockets(&self) -> impl Iterator<Item = (&Socket, &SocketState)> {
        self.sockets.iter()
    }

    /// A server.
    pub fn server(&self, key: &ServerKey) -> Option<&Server> {
        match key {
            ServerKey::Socket(socket) => self.sockets.get(socket)?.server.as_ref(),
            ServerKey::Mark { family, mark } => self.marked.get(&(*family, *mark)),
        }
    }

    /// Whether the address is on the link.
    pub fn is_bound(&self, ip: IpAddr) -> bool {
        self.bound.contains(&ip)
    }

    /// The addresses on the link.
    pub fn bound(&self) -> impl Iterator<Item = IpAddr> {
        self.bound.iter().copied()
    }

    /// Whether a set of addresses or networks has the element.
    pub fn has(&self, set: SetName, member: Member) -> bool {
        self.members.contains(&(set, member))
    }

    /// The networks where Pods live, as the kernel knows them.
    pub fn pods(&self) -> impl Iterator<Item = IpNet> {
        self.members.iter().filter_map(|(_, member)| match member {
            Member::Net(net) => Some(*net),
            Member::Socket(_)
            | Member::Steered(..)
            | Member::Source(..)
            | Member::Address(_)
            | Member::Pair(_) => None,
        })
    }

    /// Servers whose connections have to be counted before the next plan.
    pub fn waiting(&self) -> impl Iterator<Item = ServerKey> {
        self.waiting.iter().copied()
    }

    /// The sockets of an address.
    pub(super) fn sockets_at(&self, ip: IpAddr) -> impl Iterator<Item = &Socket> {
        let first = Socket {
            ip,
            protocol: Protocol::Tcp,
            port: Port::MIN,
        };
        let last = Socket {
            ip,
            protocol: Protocol::Sctp,
            port: Port::MAX,
        };
        self.sockets.range(first..=last).map(|(socket, _)| socket)
    }

    /// How many connections a destination has now.
    pub fn counted(&mut self, key: &ServerKey, target: &Target, connections: u32) {
        let found = self
            .server_mut(key)
            .and_then(|server| server.destinations.get_mut(target));
        if let Some(destination) = found {
            destination.connections = Some(connections);
        }
    }

    fn server_mut(&mut self, key: &ServerKey) -> Option<&mut Server> {
        match key {
            ServerKey::Socket(socket) => self.sockets.get_mut(socket)?.server.as_mut(),
            ServerKey::Mark { family, mark } => self.marked.get_mut(&(*family, *mark)),
        }
    }

    /// A destination as it was found in the kernel.
    pub fn observed(&mut self, key: &ServerKey, target: Target, weight: u32, now: Duration) {
        if let Some(server) = self.server_mut(key) {
            let destination = Destination {
                weight,
                connections: None,
                draining: (weight == 0).then_some(now),
            };
            server.destinations.insert(target, destination);
        }
        self.look_at(key);
    }

    /// What drains has done so since it did in `earlier`.
    pub fn drains_since(&mut self, earlier: &Installed) {
        for key in self.waiting.clone() {
            let Some(known) = earlier.server(&key) else {
                continue;
            };
            let Some(server) = self.server_mut(&key) else {
                continue;
            };
            for (target, destination) in &mut server.destinations {
                let since = known.destinations.get(target).and_then(|known| known.draining);
                if destination.draining.is_some() && since.is_some() {
                    destination.draining = since;
                }
            }
        }
    }

    /// Takes in a change that was carried out.
    pub fn apply(&mut self, change: &Change, now: Duration) {
        match change {
            Change::Join(set, member) => self.join(*set, *member),
            Change::Leave(set, member) => self.leave(*set, *member),
            Change::AddServer(key, config) => self.add_server(key, *config),
            Change::EditServer(key, config) => {
                if let Some(server) = self.server_mut(key) {
                    server.config = *config;
                }
            }
            Change::RemoveServer(key) => self.remove_server(key),
            Change::AddDestination(key, target) => {
                if let Some(server) = self.server_mut(key) {
                    server.destinations.insert(*target, Destination::OPEN);
                }
            }
            Change::Weigh(key, target, weight) => {
                let found = self
                    .server_mut(key)
                    .and_then(|server| server.destinations.get_mut(target));
                if let Some(destination) = found {
                    *destination = Destination {
                        weight: *weight,
                        connections: None,
                        draining: (*weight == 0).then_some(now),
                    };
                }
                self.look_at(key);
            }
            Change::RemoveDestination(key, target) => {
                if let Some(server) = self.server_mut(key) {
                    server.destinations.remove(target);
                }
                self.look_at(key);
            }
            Change::Bind(ip) => {
                self.bound.insert(*ip);
            }
            Change::Unbind(ip) => {
                self.bound.remove(ip);
            }
        }
    }

    fn join(&mut self, set: SetName, member: Member) {
        match member {
            Member::Socket(socket) => {
                self.sockets.entry(socket).or_default().sets.insert(set);
            }
            Member::Steered(socket, mark) => {
                let family = socket.family();
                if let Some(before) = self.sockets.entry(socket).or_default().mark.replace(mark) {
                    self.steering.remove(&(family, before));
                    self.look_at(&mark_key(family, before));
                }
                self.steering.insert((family, mark), socket);
                self.look_at(&mark_key(family, mark));
            }
            Member::Source(socket, net) => {
                self.sockets.entry(socket).or_default().sources.insert(net);
            }
            Member::Address(_) | Member::Net(_) | Member::Pair(_) => {
                self.members.insert((set, member));
            }
        }
    }

    fn leave(&mut self, set: SetName, member: Member) {
        match member {
            Member::Socket(socket) => self.edit(&socket, |state| {
                state.sets.remove(&set);
            }),
            Member::Steered(socket, _) => {
                let mut before = None;
                self.edit(&socket, |state| before = state.mark.take());
                if let Some(mark) = before {
                    self.steering.remove(&(socket.family(), mark));
                    self.look_at(&mark_key(socket.family(), mark));
                }
            }
            Member::Source(socket, net) => self.edit(&socket, |state| {
                state.sources.remove(&net);
            }),
            Member::Address(_) | Member::Net(_) | Member::Pair(_) => {
                self.members.remove(&(set, member));
            }
        }
    }

    /// Changes a socket, and forgets it once nothing is left of it.
    fn edit(&mut self, socket: &Socket, change: impl FnOnce(&mut SocketState)) {
        if let Some(state) = self.sockets.get_mut(socket) {
            change(state);
            if state.is_empty() {
                self.sockets.remove(socket);
            }
        }
    }

    fn add_server(&mut self, key: &ServerKey, config: ServerConfig) {
        let server = Server {
            config,
            destinations: BTreeMap::new(),
        };
        match key {
            ServerKey::Socket(socket) => {
                self.sockets.entry(*socket).or_default().server = Some(server);
            }
            ServerKey::Mark { family, mark } => {
                self.marked.insert((*family, *mark), server);
            }
        }
        self.look_at(key);
    }

    fn remove_server(&mut self, key: &ServerKey) {
        match key {
            ServerKey::Socket(socket) => self.edit(socket, |state| state.server = None),
            ServerKey::Mark { family, mark } => {
                self.marked.remove(&(*family, *mark));
            }
        }
        self.waiting.remove(key);
    }

    /// Notes whether the server needs another look.
    fn look_at(&mut self, key: &ServerKey) {
        let waits = match (key, self.server(key)) {
            (_, None) => false,
            (ServerKey::Socket(_), Some(server)) => server.is_draining(),
            (ServerKey::Mark { family, mark }, Some(server)) => {
                server.is_draining() || !self.steering.contains_key(&(*family, *mark))
            }
        };
        if waits {
            self.waiting.insert(*key);
        } else {
            self.waiting.remove(key);
        }
    }
}

pub(super) fn mark_key(family: IpFamily, mark: u32) -> ServerKey {
    ServerKey::Mark { family, mark }
}
